"""What the documentation claims: its code runs, its commands exist with their options, its links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("samplers", "models", "trainers", "benchmarks")
GUIDES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))  # whose code must run as it stands
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
COMMANDS = {script.name: script for script in distribution("lamina").entry_points}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: Where its content begins, from 1.
        language: Its label, empty where there is none.
        code: Its content.
    """

    line: int
    language: str
    code: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order; one that is never closed is an error."""
    lines = text.splitlines()
    begin, language = 0, None
    for number, line in enumerate(lines, start=1):
        fence = re.fullmatch(r"```(\w*)\s*", line)
        if fence and language is None:
            begin, language = number + 1, fence[1]
        elif fence and language is not None:
            yield Block(begin, language, "\n".join(lines[begin - 1 : number - 1]) + "\n")
            language = None
        else:
            assert "```" not in line, f"line {number}: a fence that is indented or carries more than a language"
    assert language is None, f"the block of line {begin} is never closed"


def prose(text: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- code ---


def run_page(text: str, page: Path) -> None:
    """Run the Python blocks of a page in order, as one module, so that later blocks may use earlier ones."""
    module = sys.modules["page"]
    for block in blocks(text):
        if block.language == "python":
            padding = "\n" * (block.line - 1)  # so that tracebacks show the page's own lines
            exec(compile(padding + block.code, str(page), "exec", dont_inherit=True), module.__dict__)
        else:
            unlabelled = re.search(r"^(>>> )?(from|import) lamina\b", block.code, flags=re.MULTILINE)
            assert not unlabelled, f"{page}:{block.line}: label this block `python`, so that it is run"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder and module to run a page in; readers' own networks may draw from the global generator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", ModuleType("page"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", GUIDES, ids=_name)
def test_code_of_page_runs(page: Path) -> None:
    run_page(page.read_text(encoding="utf-8"), page)


@pytest.mark.usefixtures("reader")
def test_later_blocks_see_earlier_ones_and_failures_show_their_line() -> None:
    text = "# Page\n```python\nx = 1\n```\ntext\n```python\nassert x == 1\n\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_page(text, Path("page.md"))
    assert caught.traceback[-1].lineno + 1 == text.splitlines().index("assert x == 2") + 1


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nfrom lamina.samplers import HMC\n```\n", "label this block"),
        ("```text\n>>> import lamina.samplers\n```\n", "label this block"),
        ("```python\nx = 1\n", "never closed"),
        ("- item\n  ```python\n  x = 1\n  ```\n", "indented"),
        ("```python title=x\nx = 1\n```\n", "more than a language"),
    ],
)
def test_no_block_is_skipped_in_silence(text: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_page(text, Path("page.md"))


def _modules_with_examples() -> list[str]:
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    names = [path.relative_to(ROOT).with_suffix("").parts for path in paths if ">>> " in path.read_text("utf-8")]
    return [".".join(("lamina", *name)).removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


# --- commands ---


def commands(text: str) -> Iterator[list[str]]:
    """Every call of one of our commands: on lines of blocks, and in code spans that name more than the command."""
    spans = (span for span in re.findall(r"`([^`\n]+)`", prose(text)) if " " in span)
    lines = (line for block in blocks(text) for line in block.code.replace("\\\n", " ").splitlines())
    for line in (*lines, *spans):
        for part in line.strip().removeprefix("$ ").split(" && "):
            words = _words(part)
            if words and Path(words[0]).name in COMMANDS:
                yield [Path(words[0]).name, *words[1:]]


def _words(line: str) -> list[str]:
    """The words of a shell line; those of Python and prose that no shell would read are of no interest."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])", text))


def _help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints when `--help` is the last of its arguments; those before it are parsed, and checked."""
    with pytest.raises(SystemExit) as ended:
        COMMANDS[arguments[0]].load()([*arguments[1:], "--help"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, f"{shlex.join(arguments)}: {printed.err}"
    return printed.out


def _check_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _help_of(words, capsys)
    first_option = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    unknown = _options(" ".join(words)) - _options(_help_of(words[:first_option], capsys))
    assert not unknown, f"{shlex.join(words)}: its --help does not know {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("page", GUIDES, ids=_name)
def test_commands_of_page_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        _check_command(words, capsys)


def lone_options(text: str) -> set[str]:
    """Options that a page's prose and tables name without their command."""
    return {option for span in re.findall(r"`(--[^`\n]+)`", prose(text)) for option in _options(span)}


def test_options_named_alone_belong_to_a_command_that_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [page.read_text(encoding="utf-8") for page in GUIDES]
    subcommands = {tuple(words[:2]) for text in texts for words in commands(text)}
    known = {option for words in subcommands for option in _options(_help_of(list(words), capsys))}
    assert {option for text in texts for option in lone_options(text)} - known == set()


def test_an_unknown_option_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    call = "$ cd x && .venv/bin/lamina train digits --out runs/x \\\n    --prior-stepps 3   # text"
    text = f"```\n{call}\n```\nor `lamina --version`\n"
    misspelt, right = commands(text)
    assert misspelt == ["lamina", "train", "digits", "--out", "runs/x", "--prior-stepps", "3"]
    _check_command(right, capsys)
    with pytest.raises(AssertionError, match="does not know --prior-stepps"):
        _check_command(misspelt, capsys)
    with pytest.raises(AssertionError, match="invalid int value"):
        _check_command(["lamina", "train", "digits", "--prior-steps", "many"], capsys)
    assert lone_options("`--steps`, `--space z`, `--posterior-` and `lamina --version`") == {"--steps", "--space"}
    with pytest.raises(AssertionError, match="invalid choice"):
        _check_command(["lamina", "fly"], capsys)


# --- links ---


def broken_links(text: str, page: Path) -> list[str]:
    """Links of a page that lead to no file of the repository, or to no heading of it."""
    words = re.sub(r"`[^`\n]*`", "", prose(text))
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", words, re.MULTILINE)
    internal = (link for link in map("".join, links) if not re.match(r"[a-z]+:", link))
    return [link for link in internal if not _leads_somewhere(link, text, page)]


def _leads_somewhere(link: str, text: str, page: Path) -> bool:
    file, _, heading = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    if file and not (target.exists() and target.is_relative_to(ROOT)):
        return False
    return not heading or heading in _anchors(target.read_text(encoding="utf-8") if file else text)


def _anchors(text: str) -> set[str]:
    """The anchors that headings get: lower case, punctuation gone, a hyphen for each space."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def test_a_broken_link_is_found() -> None:
    text = """# A Page's title
    [file](LICENSE) [heading](#a-pages-title) [away](https://example.org/none) `[code](none)`
    [lost](docs/none.md) [outside](../elsewhere.md) [no such heading](#none) <img src="none.png">
    """
    found = broken_links(text, ROOT / "README.md")
    assert found == ["docs/none.md", "../elsewhere.md", "#none", "none.png"]
