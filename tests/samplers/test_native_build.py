"""Compiling and caching: with the machine's own compiler, often behind a script that notes or spoils its calls."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.samplers.errors import BuildError, LaminaError, NoCompilerError
from lamina.samplers.native import build

REAL = build.find_compiler()
needs_compiler = pytest.mark.skipif(REAL is None, reason="there is no C++ compiler on this machine")

LONG_AGO = time.time() - 7200

LOAD_IN_A_PROCESS = """
import sys
from lamina.samplers.native import build

print(build.load(sys.argv[1]).answer(), build.cache_folder())
"""


def program(answer: int = 42) -> str:
    return f'extern "C" int answer() {{ return {answer}; }}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, which starts with the memory of a new process."""
    for variable in (build.COMPILER_VARIABLE, build.KEEP_SOURCE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_loaded", {})
    return tmp_path / "cache"


def forget() -> None:
    """Forget what this process has loaded, as a new process would."""
    build._loaded.clear()


class Wrapper:
    """The real compiler behind a script that notes the flags of each compile; `before` can spoil the compile."""

    def __init__(self, path: Path, before: str = "", version: str = "wrapped 1.0") -> None:
        self.path, self.log, self.version = path, path.with_suffix(".log"), version
        self.log.touch()
        self.become(before)

    def become(self, before: str) -> None:
        assert REAL is not None
        self.path.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{self.version}"; exit; fi\n'
            f'echo "$@" >> "{self.log}"\n{before}\nexec {shlex.join(REAL.command)} "$@"\n'
        )
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    wrapper = Wrapper(tmp_path / "wrapper")
    monkeypatch.setenv(build.COMPILER_VARIABLE, str(wrapper.path))
    return wrapper


def start_process(source: str, script: str = LOAD_IN_A_PROCESS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer_of(process: subprocess.Popen[str]) -> tuple[int, Path]:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    answer, folder = output.strip().split(" ", 1)
    return int(answer), Path(folder)


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"did not happen within {timeout_s} s"
        time.sleep(0.01)


def only_entry(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


def replace(path: Path, content: bytes) -> None:
    """Replace a file, not its bytes in place, which a process may have mapped."""
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.replace(path)


# --- Loading and memory ------------------------------------------------------------------------------------


@needs_compiler
def test_a_program_is_compiled_loaded_and_kept_privately(folder: Path) -> None:
    assert not build.is_cached(program())
    assert build.load(program()).answer() == 42
    assert build.is_cached(program())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert only_entry(folder).suffix == ".so"
    assert stat.S_IMODE(only_entry(folder).stat().st_mode) & 0o077 == 0


@needs_compiler
def test_a_process_loads_a_program_once(wrapper: Wrapper) -> None:
    first = build.load(program())
    num_calls = len(wrapper.calls)
    assert build.load(program()) is first
    assert build.load(program(7)) is not first
    assert len(wrapper.calls) == num_calls + 1


@needs_compiler
def test_threads_that_ask_at_once_compile_once(wrapper: Wrapper) -> None:
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(build.load, [program()] * 4))
    assert all(library is libraries[0] for library in libraries)
    probe_and_program = 2
    assert len(wrapper.calls) == probe_and_program


@needs_compiler
def test_what_was_compiled_before_needs_no_compiler_now(wrapper: Wrapper) -> None:
    build.load(program())
    wrapper.become("exit 1")
    forget()
    assert build.load(program()).answer() == 42
    with pytest.raises(BuildError):
        build.load(program(7))


# --- The key -----------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_FLAGS", (*build._FLAGS, "-DOTHER")),
        ("_CPU_FLAGS", ((),)),
        ("_cpu", lambda: ("x86_64", "flags: sse2")),
        ("_version", lambda: "99.0"),
    ],
)
def test_the_key_covers_flags_cpu_and_release(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    build.load(program())
    forget()
    assert build.is_cached(program())
    monkeypatch.setattr(build, name, value)
    assert not build.is_cached(program())


@needs_compiler
def test_the_key_covers_the_compiler_its_version_and_the_source(
    tmp_path: Path, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.load(program())
    forget()
    assert build.is_cached(program())
    assert not build.is_cached(program() + " ")
    compiler = build.Compiler((str(wrapper.path),), wrapper.version)
    assert build._key(program(), compiler) == build._key(program(), build.find_compiler() or compiler)
    assert build._key(program(), compiler) != build._key(program(), build.Compiler((str(wrapper.path),), "wrapped 1.1"))
    monkeypatch.setenv(build.COMPILER_VARIABLE, str(Wrapper(tmp_path / "elsewhere").path))
    assert not build.is_cached(program())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what its CPU can do")
def test_the_cpu_is_described_by_what_it_can_do() -> None:
    machine, *described = build._cpu()
    assert machine
    assert len(" ".join(described)) > len(machine)
    assert not any("MHz" in line for line in described)  # what changes from one moment to the next


# --- What is on disk ---------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: content + b"\0",
    ],
    ids=["empty", "truncated", "one-bit", "longer"],
)
def test_a_damaged_entry_is_compiled_anew(
    folder: Path,
    tmp_path: Path,
    wrapper: Wrapper,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes],
) -> None:
    build.load(program())
    entry, intact = only_entry(folder).name, only_entry(folder).read_bytes()
    forget()

    other = tmp_path / "other"  # a place from which this process has not loaded yet
    other.mkdir(mode=0o700)
    (other / entry).write_bytes(damage(intact))
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(other))
    assert not build.is_cached(program())
    num_calls = len(wrapper.calls)
    assert build.load(program()).answer() == 42
    assert len(wrapper.calls) > num_calls
    assert only_entry(other).read_bytes() == intact
    assert only_entry(other).name == entry


def owned_by_somebody_else(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_mine, mine = Path.lstat, os.getuid()

    def lstat(path: Path) -> os.stat_result:
        status = list(of_mine(path))
        status[stat.ST_UID] = mine + 1
        return os.stat_result(status)

    monkeypatch.setattr(Path, "lstat", lstat)


def writable_by_others(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry.chmod(0o722)


def a_link(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = entry.parent.parent / entry.name
    entry.replace(elsewhere)
    entry.symlink_to(elsewhere)


@needs_compiler
@pytest.mark.parametrize("spoil", [owned_by_somebody_else, writable_by_others, a_link])
def test_an_entry_that_is_not_the_users_alone_is_compiled_anew(
    folder: Path, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    build.load(program())
    num_calls = len(wrapper.calls)
    forget()
    spoil(only_entry(folder), monkeypatch)
    assert not build.is_cached(program())
    assert build.load(program()).answer() == 42
    assert len(wrapper.calls) > num_calls


@needs_compiler
def test_an_entry_that_this_system_cannot_load_is_compiled_anew(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    compiler = build.find_compiler()
    assert compiler is not None
    foreign = tmp_path / "foreign"
    foreign.write_text("a library of another system")
    shutil.copy(foreign, folder / build._entry_name(build._key(program(), compiler), foreign))
    assert build.load(program()).answer() == 42


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_an_error(wrapper: Wrapper) -> None:
    wrapper.become("echo no library > program.so; exit 0")
    with pytest.raises(BuildError, match=r"cannot be loaded \(.*\.so") as caught:
        build.load(program())
    assert "engine='eager'" in str(caught.value)


@needs_compiler
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    build.load(program())
    forget()
    folder.chmod(mode)
    for use in (lambda: build.load(program()), build.cache_folder, build.clear_cache):
        with pytest.raises(BuildError, match=f"writable by others \\(mode {mode:o}\\).*chmod go-w.*LAMINA_CACHE"):
            use()
    folder.chmod(0o755)
    assert build.load(program()).answer() == 42


@needs_compiler
def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.load(program())
    forget()
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(BuildError, match=rf"belongs to user {owner}, and you are user {owner + 1}.*LAMINA_CACHE"):
        build.load(program())


@needs_compiler
def test_the_source_is_kept_only_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.load(program())
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    forget()
    monkeypatch.setenv(build.KEEP_SOURCE_VARIABLE, "1")
    build.load(program())
    (library,), (source,) = folder.glob("*.so"), folder.glob("*.cpp")
    assert source.read_text() == program()
    assert library.name.startswith(source.stem)
    with pytest.raises(BuildError):
        build.load("what does not compile")
    assert "what does not compile" in {path.read_text() for path in folder.glob("*.cpp")}


@needs_compiler
def test_clearing_leaves_what_is_in_use_and_what_is_not_ours(
    folder: Path, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(build.KEEP_SOURCE_VARIABLE, "1")
    library = build.load(program())
    others = {folder / "mine.so", folder / "mine.cpp"}
    for path in others:
        path.touch()
    build.clear_cache()
    assert set(folder.iterdir()) == others
    assert library.answer() == 42
    assert not build.is_cached(program())
    num_calls = len(wrapper.calls)
    assert build.load(program()).answer() == 42
    assert len(wrapper.calls) == num_calls + 1


# --- The limit ---------------------------------------------------------------------------------------------


@needs_compiler
def test_the_least_recently_used_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = folder / "mine.so"
    for answer in range(3):
        build.load(program(answer))
    mine.write_bytes(bytes(10**6))
    size = max(path.stat().st_size for path in folder.iterdir() if path != mine)
    for age, path in enumerate(folder.iterdir()):
        os.utime(path, (LONG_AGO - age, LONG_AGO - age))
    forget()
    build.load(program(1))  # a use counts, also one that does not compile

    monkeypatch.setattr(build, "_LIMIT_BYTES", 2 * size)
    build.load(program(3))
    forget()
    assert [build.is_cached(program(answer)) for answer in range(4)] == [False, True, False, True]
    assert mine.exists()


@needs_compiler
def test_what_is_young_stays_even_above_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may be about to load it."""
    monkeypatch.setattr(build, "_LIMIT_BYTES", 1)
    for answer in range(2):
        assert build.load(program(answer)).answer() == answer
    assert len(list(folder.iterdir())) == 2


# --- Several processes, and their end ----------------------------------------------------------------------


@needs_compiler
def test_two_processes_may_compile_the_same_program_at_once(folder: Path, tmp_path: Path, wrapper: Wrapper) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    wrapper.become(  # both compile at the same time: each waits until the other has come as far
        f'if grep -q answer program.cpp; then touch "{meeting}/$$"\n'
        f'  until [ "$(ls "{meeting}" | wc -l)" -ge 2 ]; do sleep 0.02; done; fi'
    )
    processes = [start_process(program()) for _ in range(2)]
    assert [answer_of(process) for process in processes] == [(42, folder)] * 2
    assert len(list(meeting.iterdir())) == 2
    assert {path.suffix for path in folder.iterdir()} == {".so"}
    wrapper.become("exit 1")
    assert build.load(program()).answer() == 42  # what other processes compiled


@needs_compiler
def test_a_killed_compile_breaks_nothing_and_is_swept_up(folder: Path, tmp_path: Path, wrapper: Wrapper) -> None:
    compiling = tmp_path / "compiling"
    wrapper.become(
        f'if grep -q answer program.cpp; then echo half > program.so; echo $$ > "{compiling}.new"\n'
        f'  mv "{compiling}.new" "{compiling}"; exec sleep 60; fi'
    )
    process = start_process(program())
    wait_for(compiling.exists)
    process.kill()
    process.communicate(timeout=60)
    os.kill(int(compiling.read_text()), signal.SIGKILL)
    leftover = only_entry(folder)
    assert leftover.is_dir()

    wrapper.become("")
    assert not build.is_cached(program())
    assert build.load(program()).answer() == 42
    assert leftover.exists()  # for all that is known, its process may still be at work
    os.utime(leftover, (LONG_AGO, LONG_AGO))
    build.load(program(7))
    assert not leftover.exists()


@needs_compiler
def test_a_compile_that_takes_too_long_is_stopped_with_all_that_it_started(
    folder: Path, tmp_path: Path, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late"
    build.load(program())
    wrapper.become(f'(sleep 1; touch "{late}") & wait')
    monkeypatch.setattr(build, "_TIMEOUT_S", 0.3)
    with pytest.raises(BuildError, match=r"was not done after 0\.3 s and was stopped.*engine='eager'"):
        build.load(program(7))
    assert only_entry(folder).suffix == ".so"
    time.sleep(1.2)
    assert not late.exists()


# --- Homes and disks ---------------------------------------------------------------------------------------


def test_the_folder_is_named_or_in_the_cache_of_the_home(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.cache_folder() == folder
    monkeypatch.delenv(build.FOLDER_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build.cache_folder() == tmp_path / "home" / ".cache" / "lamina" / "native"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build.cache_folder() == tmp_path / "xdg" / "lamina" / "native"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert build.cache_folder() == tmp_path / "home" / ".cache" / "lamina" / "native"
    monkeypatch.setenv(build.FOLDER_VARIABLE, "~/named")
    assert build.cache_folder() == tmp_path / "home" / "named"


@needs_compiler
def test_without_a_writable_home_the_folder_lasts_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.touch()  # nothing can be made below a file, not even by root
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(build.FOLDER_VARIABLE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = LOAD_IN_A_PROCESS + (
        "import os\n"
        "folder = build.cache_folder()\n"
        "assert os.stat(folder).st_mode & 0o777 == 0o700\n"
        "sys.stdout.flush()\n"
        "if os.fork() == 0: sys.exit()\n"  # the end of a child is not the end of its parent
        "os.wait()\n"
        "assert folder == build.cache_folder() and build.is_cached(sys.argv[1]) and any(folder.iterdir())\n"
    )
    answer, temporary = answer_of(start_process(program(), script))
    assert answer == 42
    assert temporary.parent == tmp_path
    assert not temporary.exists()


@pytest.mark.parametrize("home_writable", [True, False])
def test_a_folder_that_is_read_only_counts_as_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home_writable: bool
) -> None:
    monkeypatch.delenv(build.FOLDER_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: home_writable)  # chmod does not bind root
    monkeypatch.setattr(build, "_process_folder", lambda process: folder)
    assert (build.cache_folder() == folder) is not home_writable


def test_a_named_folder_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for named in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv(build.FOLDER_VARIABLE, str(named))
        with pytest.raises(BuildError, match=r"LAMINA_CACHE names a folder that cannot be used"):
            build.cache_folder()
    (tmp_path / "read-only").mkdir()
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "read-only"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BuildError, match="read-only is not writable"):
        build.cache_folder()


@contextmanager
def files_no_longer_than(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_compiler
def test_a_compiler_that_cannot_write_leaves_nothing_behind(folder: Path) -> None:
    build.load(program())
    first = only_entry(folder)
    with files_no_longer_than(1000), pytest.raises(BuildError, match="could not compile the program"):
        build.load(program(7))
    assert only_entry(folder) == first
    assert build.load(program(7)).answer() == 7


@needs_compiler
def test_a_full_disk_is_named(folder: Path, tmp_path: Path, wrapper: Wrapper) -> None:
    compiler = build.find_compiler()
    assert compiler is not None
    flags = " ".join(build._supported_flags(compiler, tmp_path))
    wrapper.become('echo half > program.so; echo "ld: final link failed: No space left on device" >&2; exit 1')
    with pytest.raises(BuildError, match="No space left on device"):
        build.load(program())
    assert list(folder.iterdir()) == []
    wrapper.become("")
    assert build.load(program()).answer() == 42  # with all flags: the full disk was not taken for the lack of one
    assert wrapper.calls[-1].startswith(flags)


@needs_compiler
@pytest.mark.parametrize("method", ["replace", "write_text"])
def test_a_disk_that_is_full_for_us_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setenv(build.KEEP_SOURCE_VARIABLE, "1")
    with monkeypatch.context() as disk:
        disk.setattr(Path, method, full)
        with pytest.raises(BuildError, match=r"cannot be kept in .*No space left.*Free space there.*LAMINA_CACHE"):
            build.load(program())
    assert list(folder.iterdir()) == []
    assert build.load(program()).answer() == 42


# --- The compiler ------------------------------------------------------------------------------------------


@needs_compiler
def test_the_message_on_a_broken_source_quotes_the_compiler(folder: Path) -> None:
    build.load(program())
    broken = "#warning not the reason\nint ok;\nint answer() { return undeclared_name; }\n"
    with pytest.raises(BuildError, match=r"program\.cpp:3:\d+: error: .*undeclared_name") as caught:
        build.load(broken)
    assert "engine='eager'" in str(caught.value)
    assert "not the reason" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= build._MESSAGE_LINES + 2
    assert isinstance(caught.value, LaminaError)
    assert only_entry(folder).suffix == ".so"


def test_without_a_compiler_the_error_says_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "_PACKAGE", "a-package-that-nobody-has")
    assert build.find_compiler() is None
    assert not build.is_cached(program())
    with pytest.raises(
        NoCompilerError,
        match=r"g\+\+, clang\+\+ and c\+\+.*lamina\[compiler\].*LAMINA_CXX.*engine='eager' works without",
    ):
        build.load(program())


def packaged_compiler(site: Path) -> Path:
    """The package whose program is a compiler, the real one at heart, which keeps files where it is told to."""
    assert REAL is not None
    program, description = site / "ziglang" / "zig", site / "ziglang-1.2.dist-info" / "METADATA"
    program.parent.mkdir()
    description.parent.mkdir()
    description.write_text("Metadata-Version: 2.1\nName: ziglang\nVersion: 1.2\n")
    program.write_text(
        '#!/bin/sh\n[ "$1 $2" = "c++ -nostdlib++" ] || exit 2\nshift 2\n'
        'mkdir -p "$ZIG_GLOBAL_CACHE_DIR" "$ZIG_LOCAL_CACHE_DIR"\n'
        'touch "$ZIG_GLOBAL_CACHE_DIR/for all" "$ZIG_LOCAL_CACHE_DIR/for one"\n'
        f'exec {shlex.join(REAL.command)} "$@"\n'
    )
    program.chmod(0o755)
    return program


@needs_compiler
@pytest.mark.parametrize("is_named", [True, False], ids=["named", "found"])
def test_a_package_serves_where_there_is_no_other_compiler(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    program_of_package = packaged_compiler(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if is_named:
        monkeypatch.setenv(build.COMPILER_VARIABLE, "ziglang")
    else:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.find_compiler() == build.Compiler((str(program_of_package), "c++", "-nostdlib++"), "1.2")
    assert build.load(program()).answer() == 42
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".so"]
    assert [path.name for path in (folder / "ziglang").iterdir()] == ["for all"]
    build.clear_cache()
    assert list(folder.iterdir()) == []


def test_a_package_that_is_named_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_PACKAGE", "a-package-that-nobody-has")
    monkeypatch.setenv(build.COMPILER_VARIABLE, build._PACKAGE)
    with pytest.raises(BuildError, match=r"not installed: pip install 'lamina\[compiler\]'.*LAMINA_CXX"):
        build.find_compiler()


def test_windows_has_no_compiler_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.COMPILER_VARIABLE, "any")
    monkeypatch.setattr(sys, "platform", "win32")
    assert build.find_compiler() is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "there is no program"),
        ("#!/bin/sh\necho sorry, no license >&2; exit 3\n", "does not tell its version.*sorry, no license"),
        ("#!/bin/sh\nexit 0\n", "does not tell its version"),
        ("#!/nowhere/interpreter\n", "cannot run"),
    ],
    ids=["missing", "failing", "silent", "broken"],
)
def test_a_bad_choice_of_compiler_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    chosen = tmp_path / "chosen"
    if script is not None:
        chosen.write_text(script)
        chosen.chmod(0o755)
    monkeypatch.setenv(build.COMPILER_VARIABLE, str(chosen))
    for use in (build.find_compiler, lambda: build.load(program()), lambda: build.is_cached(program())):
        with pytest.raises(BuildError, match=rf"(?s){message}.*LAMINA_CXX"):
            use()


@needs_compiler
def test_a_compiler_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    Wrapper(tmp_path / "c++", version="the one that runs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.find_compiler() == build.Compiler((str(tmp_path / "c++"),), "the one that runs")


@needs_compiler
def test_a_relative_choice_of_compiler_works(tmp_path: Path, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(build.COMPILER_VARIABLE, "./wrapper")
    assert build.load(program()).answer() == 42


@needs_compiler
@pytest.mark.parametrize("refused", [("-march=native",), ("-march=native", "-mcpu=native")])
def test_flags_that_a_compiler_lacks_are_left_out(wrapper: Wrapper, refused: tuple[str, ...]) -> None:
    refusals = "|".join(f'*" {flag} "*' for flag in refused)
    wrapper.become(f'case " $* " in {refusals}) echo "error: unknown option" >&2; exit 1;; esac')
    assert build.load(program()).answer() == 42
    first, last = wrapper.calls[0].split(), wrapper.calls[-1].split()
    assert "-march=native" in first  # what is wanted is tried first
    assert not set(refused) & set(last)


@needs_compiler
def test_values_are_those_of_plain_arithmetic(wrapper: Wrapper) -> None:
    """NaN is not assumed away, a product is rounded before a sum, and sums keep their order."""
    library = build.load(
        'extern "C" int is_nan(double x) { return x != x; }\n'
        'extern "C" double multiply_add(double x, double y, double z) { return x * y + z; }\n'
        'extern "C" double sum(const double *x) { double s = 0; for (int i = 0; i < 16; ++i) s += x[i]; return s; }\n'
    )
    library.multiply_add.restype = library.sum.restype = ctypes.c_double
    assert library.is_nan(ctypes.c_double(float("nan"))) == 1
    x = 1 + 2.0**-30
    terms = [2.0**53, 1.0, -(2.0**53), 1.0] * 4
    assert library.multiply_add(*map(ctypes.c_double, (x, x, -x * x))) == 0.0  # fused, it would be 2**-60
    total = 0.0
    for term in terms:
        total += term
    assert library.sum((ctypes.c_double * 16)(*terms)) == total
    assert not any("fast-math" in call for call in wrapper.calls)
