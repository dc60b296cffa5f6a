"""From the text of a C++ program to a loaded library, compiled once and kept in a folder of the user's own.

Three environment variables are read:

- `LAMINA_CXX` names the compiler; without it, the first of g++, clang++ and c++ that runs is taken, else the Clang of
  the package `ziglang`, where that is installed. `LAMINA_CXX=ziglang` names it too.
- `LAMINA_CACHE` names the folder; without it, `$XDG_CACHE_HOME/lamina/native` or `~/.cache/lamina/native`.
- `LAMINA_KEEP_SOURCE=1` keeps the text of each program beside its library, for the curious and for debuggers.

A loaded library runs with the user's rights, so the folder must belong to the user, and nobody else may write to it.
An entry is one file, `KEY-DIGEST.so`. The key covers all that the machine code depends on, so that a folder on a shared
home never runs on another CPU. The digest is that of the file itself and is checked before loading, since a damaged
library can crash the process; so are its owner and its mode. A rename makes an entry appear whole, whoever else writes,
reads or is killed.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from ..errors import BuildError, NoCompilerError

COMPILER_VARIABLE = "LAMINA_CXX"
"""The environment variable that names the C++ compiler."""

FOLDER_VARIABLE = "LAMINA_CACHE"
"""The environment variable that names the folder of compiled libraries."""

KEEP_SOURCE_VARIABLE = "LAMINA_KEEP_SOURCE"
"""The environment variable that, set to 1, keeps the source of each program as `KEY.cpp` in that folder."""

# Never -ffast-math: it lets the compiler assume that there is no NaN and no infinity, which removes the rule that
# rejects them; it reorders sums; and gcc before 13 then flushes denormals to zero in whatever the loading thread runs.
# Nothing here changes a value: no errno and no traps are needed, and without contraction to fused multiply-adds the
# rounding is that of the eager engine, step by step. -O3 makes nothing faster here, since all is vectors already, and
# trees slower by a third.
_FLAGS = (
    *("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    *("-shared", "-fPIC", "-Wno-psabi"),
)
_CPU_FLAGS = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows; clang on ARM has -mcpu
_PROBE = 'extern "C" int probe() { return 0; }\n'

_PACKAGE = "ziglang"
_PACKAGED = ("c++", "-nostdlib++")  # or it would build C++'s library for a minute, which no program uses

_TIMEOUT_S = 60.0  # the largest programs that are worth unrolling take about 5 s; ten times that on a busy machine
_BUSY_S = 3600.0  # what was touched this recently may still be in use: many times the longest compile
_LIMIT_BYTES = 256 * 2**20  # some thousand libraries
_MESSAGE_LINES = 4

_CPU_FIELDS = ("model name", "flags", "CPU part", "Features", "cpu", "features")  # x86, ARM, POWER, s390
_ENTRY = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{64}\.so|\.cpp)")  # the folder may hold files of the user, which stay
_WORK_PREFIX = "lamina-build-"
_COMPLAINT = re.compile(r"error|failed|cannot|not found|undefined|No space")

_OTHERS_WRITE = 0o022

_lock = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that runs.

    Attributes:
        command: Its absolute path, and what it is always told.
        version: The first line of what it says to `--version`; that of a package.
    """

    command: tuple[str, ...]
    version: str

    def __str__(self) -> str:
        return self.command[0]


def load(source: str) -> ctypes.CDLL:
    """Compile a program, or find it compiled, and load it.

    Args:
        source: A self-contained C++17 program; its entry points are `extern "C"`.

    Returns:
        The library; within a process always the same one for the same source and compiler.

    Raises:
        NoCompilerError: If there is no compiler, which is needed to know what a cached library was compiled by.
        BuildError: If the compiler refuses the source or takes too long, if the folder is not the user's alone or has
            no space left, or if the library cannot be loaded.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NoCompilerError(
            "the native engine needs a C++ compiler: none of g++, clang++ and c++ runs here. Install one, for instance "
            "by pip install 'lamina[compiler]', or name one in the environment variable "
            f"{COMPILER_VARIABLE}; engine='eager' works without."
        )
    key = _key(source, compiler)
    with _lock:
        if key not in _loaded:
            folder = cache_folder()
            try:
                _keep_source(source, folder, key)
                _loaded[key] = _load_cached(folder, key) or _open(_build(source, compiler, folder, key))
            except OSError as error:
                raise BuildError(
                    f"the compiled program cannot be kept in {folder}: {error}. Free space there, or name another "
                    f"folder in {FOLDER_VARIABLE}."
                ) from error
        return _loaded[key]


def is_cached(source: str) -> bool:
    """Say whether `load` would return without compiling; false where there is no compiler.

    Raises:
        BuildError: If `LAMINA_CXX` names no compiler, or the folder is not the user's alone.
    """
    compiler = find_compiler()
    if compiler is None:
        return False
    key = _key(source, compiler)
    return key in _loaded or next(_intact(cache_folder(), key), None) is not None


def clear_cache() -> None:
    """Remove every compiled program and kept source; libraries in use go on working, and later loads compile anew.

    Raises:
        BuildError: If the folder is not the user's alone.
    """
    folder = cache_folder()
    with _lock:
        _loaded.clear()
        for _, _, path in _entries(folder):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / _PACKAGE, ignore_errors=True)
        _sweep(folder)


# --- The compiler ------------------------------------------------------------------------------------------


def find_compiler() -> Compiler | None:
    """Find the compiler that `LAMINA_CXX` names or, if it is not set, the first of several that runs.

    Returns:
        The compiler, or None if there is none, as on Windows, whose compilers take other options.

    Raises:
        BuildError: If `LAMINA_CXX` is set and names no program that runs.
    """
    if sys.platform == "win32":
        return None
    if named := os.environ.get(COMPILER_VARIABLE):
        return _compiler(named)
    for name in ("g++", "clang++", "c++", _PACKAGE):
        with suppress(BuildError):
            return _compiler(name)
    return None


def _compiler(name: str) -> Compiler:
    if name == _PACKAGE:
        return _packaged()
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise BuildError(
            f"there is no program {name!r} to compile with. Let {COMPILER_VARIABLE} name one C++ compiler, without "
            "options, by its path or as found on PATH; or unset it."
        )
    path = os.path.abspath(found)
    return Compiler((path,), _version_line(path))


def _packaged() -> Compiler:
    """The compiler of the package, which brings all that it needs; nothing of it runs before it is needed."""
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError as error:
        raise BuildError(
            f"the package {_PACKAGE} is not installed: pip install 'lamina[compiler]', or unset {COMPILER_VARIABLE}."
        ) from error
    return Compiler((str(package.locate_file(f"{_PACKAGE}/zig")), *_PACKAGED), package.version)


@cache
def _version_line(path: str) -> str:
    result = _run([path, "--version"], Path("/"))
    line = result.stdout.strip().partition("\n")[0]
    if result.returncode != 0 or not line:
        raise BuildError(
            f"{path} does not tell its version ({_complaint(result)}), so it is no C++ compiler that works. "
            f"Let {COMPILER_VARIABLE} name another one, or unset it."
        )
    return line


@cache
def _supported_flags(compiler: Compiler, folder: Path) -> tuple[str, ...]:
    """Choose the flags for this CPU by trying them on a program of one line."""
    with _work_folder(folder) as work:
        for cpu_flags in _CPU_FLAGS:
            flags = (*_FLAGS, *cpu_flags)
            result = _compile(_PROBE, compiler, flags, Path(work))
            if result.returncode == 0:
                return flags
    raise _refusal(compiler, result)


def _compile(source: str, compiler: Compiler, flags: tuple[str, ...], work: Path) -> subprocess.CompletedProcess[str]:
    (work / "program.cpp").write_text(source, encoding="utf-8")
    return _run([*compiler.command, *flags, "program.cpp", "-o", "program.so"], work)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a compiler in a folder that also takes its temporary files, in plain English and for its owner alone."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_folders_of_package(folder) | os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            umask=0o077,
            process_group=0,
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot run: {error}. Name another compiler in {COMPILER_VARIABLE}.") from error
    with process:
        try:
            output, complaints = process.communicate(timeout=_TIMEOUT_S)
        except BaseException as error:
            with suppress(OSError):  # it may just have ended
                os.killpg(process.pid, signal.SIGKILL)  # a compiler is a driver and the programs that it starts
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(
                    f"{command[0]} was not done after {_TIMEOUT_S:g} s and was stopped. The program may be too large "
                    "to be worth compiling, or the machine very busy: try again later, or use engine='eager'."
                ) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, complaints)


def _folders_of_package(work: Path) -> dict[str, str]:
    """Where the packaged compiler keeps what it makes once, and what it makes of one program; otherwise at home."""
    return {"ZIG_GLOBAL_CACHE_DIR": str(work.parent / _PACKAGE), "ZIG_LOCAL_CACHE_DIR": str(work / _PACKAGE)}


def _refusal(compiler: Compiler, result: subprocess.CompletedProcess[str]) -> BuildError:
    return BuildError(
        f"{compiler} could not compile the program:\n{_complaint(result)}\nName another compiler in "
        f"{COMPILER_VARIABLE}, or use engine='eager', which needs none."
    )


def _complaint(result: subprocess.CompletedProcess[str]) -> str:
    """Quote the first errors of a compiler, without the warnings and notes around them."""
    lines = result.stderr.splitlines()
    complaints = [line for line in lines if _COMPLAINT.search(line)] or lines or [f"exit status {result.returncode}"]
    return "\n".join(line.strip()[:300] for line in complaints[:_MESSAGE_LINES])


# --- The folder --------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of compiled programs, made if need be, for the user alone.

    Where neither `LAMINA_CACHE` is set nor the home is writable, it is a temporary folder of this process, removed when
    the process ends. It is never a temporary folder that processes share.

    Raises:
        BuildError: If the folder belongs to somebody else, if others may write to it, or if `LAMINA_CACHE` names one
            that cannot be made or written.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    try:
        folder = _made(Path(named) if named else _home_folder())
        _check_private(folder)
        _check_writable(folder)
    except BuildError:
        raise
    except (OSError, RuntimeError) as error:  # pathlib's RuntimeError: nobody knows where this user's home is
        if not named:
            return _process_folder(os.getpid())
        raise BuildError(
            f"{FOLDER_VARIABLE} names a folder that cannot be used: {error}. Name one that you may write to."
        ) from error
    return folder


def _home_folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else "~/.cache") / "lamina" / "native"  # XDG: ignore relative paths


def _made(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _is_private(status: os.stat_result) -> bool:
    """Whether a file is the user's, and nobody else may write to it."""
    return status.st_uid == os.getuid() and stat.S_ISREG(status.st_mode) and not status.st_mode & _OTHERS_WRITE


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise BuildError(
            f"{folder} belongs to user {status.st_uid}, and you are user {os.getuid()}: what is in it would run with "
            f"your rights. Name a folder of your own in {FOLDER_VARIABLE}."
        )
    if status.st_mode & _OTHERS_WRITE:
        raise BuildError(
            f"{folder} is writable by others (mode {status.st_mode & 0o777:o}): what they put there would run with "
            "your rights. Remove it, or, if you trust what is in it, take their right away with chmod go-w; or name "
            f"another folder in {FOLDER_VARIABLE}."
        )


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")


@cache
def _process_folder(process: int) -> Path:
    """Make a folder for one process; a forked child, which has another number, makes its own."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="lamina-native-"))
    except OSError as error:
        raise BuildError(
            f"neither the home nor a temporary folder can be written ({error}), so there is no place for compiled "
            f"programs. Name a folder that you may write to in {FOLDER_VARIABLE}."
        ) from error

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _work_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder for one compile, on the file system of the entries, so that they can be renamed into place."""
    return tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=folder, ignore_cleanup_errors=True)


# --- The entries -------------------------------------------------------------------------------------------


def _key(source: str, compiler: Compiler) -> str:
    flags = (_FLAGS, _CPU_FLAGS)  # which of them are taken follows from the compiler and the CPU
    return hashlib.sha256(repr((source, compiler, flags, _cpu(), _version())).encode()).hexdigest()


@cache
def _version() -> str:
    return version("lamina")


@cache
def _cpu() -> tuple[str, ...]:
    """Describe what -march=native depends on: the model too, as a kernel may not list what a newer CPU can do."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").strip().partition("\n\n")[0]
    except OSError:
        first = ""
    described = [line for line in first.splitlines() if line.partition(":")[0].strip() in _CPU_FIELDS]
    return (platform.machine(), *(described or [platform.processor()]))


def _load_cached(folder: Path, key: str) -> ctypes.CDLL | None:
    for entry in _intact(folder, key):
        with suppress(BuildError):  # just removed by another process, or of another system that shares this home
            return _open(entry)
    return None


def _intact(folder: Path, key: str) -> Iterator[Path]:
    """Yield the entries that are intact and the user's alone, marked as used; remove others."""
    for entry in folder.glob(f"{key}-*.so"):
        with suppress(FileNotFoundError):  # another process has just removed it
            os.utime(entry)
            if _is_private(entry.lstat()) and entry.name == _entry_name(key, entry):
                yield entry
            else:
                entry.unlink()


def _build(source: str, compiler: Compiler, folder: Path, key: str) -> Path:
    with _work_folder(folder) as work:
        result = _compile(source, compiler, _supported_flags(compiler, folder), Path(work))
        if result.returncode != 0:
            raise _refusal(compiler, result)
        library = Path(work, "program.so")
        entry = library.replace(folder / _entry_name(key, library))  # no fsync: the digest tells what a crash cut off
    _sweep(folder)
    _shrink(folder)
    return entry


def _entry_name(key: str, library: Path) -> str:
    return f"{key}-{hashlib.sha256(library.read_bytes()).hexdigest()}.so"


def _open(entry: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(entry))
    except OSError as error:
        raise BuildError(
            f"the compiled program cannot be loaded ({error}). If its file system forbids programs (noexec), name "
            f"another folder in {FOLDER_VARIABLE}; if a library is missing, name another compiler in "
            f"{COMPILER_VARIABLE}; engine='eager' needs neither."
        ) from error


def _keep_source(source: str, folder: Path, key: str) -> None:
    if os.environ.get(KEEP_SOURCE_VARIABLE) == "1":
        with _work_folder(folder) as work:
            aside = Path(work, "program.cpp")
            aside.write_text(source, encoding="utf-8")
            aside.replace(folder / f"{key}.cpp")


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """List time of last use, size in bytes and path of all that `load` keeps, least recently used first."""
    found = []
    for path in folder.iterdir():
        if _ENTRY.fullmatch(path.name):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
    return sorted(found)


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left."""
    for work in folder.glob(f"{_WORK_PREFIX}*"):
        with suppress(FileNotFoundError):
            if work.stat().st_mtime < time.time() - _BUSY_S:
                shutil.rmtree(work, ignore_errors=True)


def _shrink(folder: Path) -> None:
    """Remove least recently used entries above the limit, but none that another process may be about to load."""
    entries = _entries(folder)
    excess = sum(size for _, size, _ in entries) - _LIMIT_BYTES
    for used, size, path in entries:
        if excess <= 0 or used > time.time() - _BUSY_S:
            return
        path.unlink(missing_ok=True)
        excess -= size
