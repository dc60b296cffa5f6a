"""Where results of benchmarks lie, how they are written and read, and what they say about their origin."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from lamina.samplers import LaminaError

_SOURCES = (".py", ".hpp", ".cpp")
_CHECKOUT = Path(__file__).resolve().parents[1]
SAME = ("code", "torch", "device", "cpu")
_MADE_BY = ("code", "commit", "date")
"""What of `provenance` two rows must share to stand in one file."""


class ResultsError(LaminaError, ValueError):
    """A results file cannot be written, or what lies on disk is damaged or does not belong to this benchmark."""


def default_folder() -> Path:
    """`benchmarks/results` where the current folder has one, as a checkout of Lamina does; else `results`."""
    in_checkout = Path("benchmarks", "results")
    return in_checkout if in_checkout.is_dir() else Path("results")


def provenance(seeds: Sequence[int], device: str = "cpu", *, also: Sequence[str] = ()) -> dict[str, Any]:
    """What made a result: code, versions, machine, seeds, date.

    Args:
        seeds: Seeds of the benchmark.
        device: Where it ran.
        also: Subpackages of Lamina, beside samplers and benchmarks, whose code the figures depend on.

    Returns:
        For JSON. `code` is a digest of all of `lamina.samplers`, `lamina.benchmarks`, and what is named beside them.
        `commit` is None where Lamina does not run from a git checkout of its own; `is_modified` says whether files
        there, results apart, differed from the commit.
    """
    commit = _git("rev-parse", "HEAD") if _git("rev-parse", "--show-toplevel") == str(_CHECKOUT) else None
    return {
        "commit": commit,
        "is_modified": None
        if commit is None
        else bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
        "code": _code_digest(*also),
        "lamina": version("lamina"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "cpu": _cpu_model(),
        "num_threads": torch.get_num_threads(),
        "seeds": list(seeds),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def make_folder(folder: Path) -> None:
    """Make a folder for results, before any work is done for it.

    Raises:
        ResultsError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{folder} cannot be made: {error}. Choose another --out.") from error
    if not os.access(folder, os.W_OK):
        raise ResultsError(f"{folder} cannot be written to. Choose another --out, or fix its permissions.")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is whole, or not at all.

    Raises:
        ResultsError: If it cannot be written; an earlier file survives.
    """
    aside = path.with_name(f".{path.name}.part")  # one name, so that what a kill left behind is written over
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error}. Free some space, or choose another folder.") from error
    finally:
        aside.unlink(missing_ok=True)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all; it knows finite numbers only: NaN becomes null, infinity "inf" or "-inf".

    A list of plain values takes one line, and so does a dict of them that is not itself a member of the content.

    Args:
        content: Plain containers, numbers and strings.
        path: Where to; an earlier file is replaced.

    Raises:
        ResultsError: If the file cannot be written; an earlier one survives.
    """
    with replacing(path) as file:
        file.write(_text(_plain(content)).encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write` made: infinities are numbers again; NaN stays None, as what is missing does.

    Raises:
        ResultsError: If the file is missing, truncated, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read: wanted a JSON object; got {error}.") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path} cannot be read: wanted a JSON object; got {type(content).__name__}.")
    return {key: _with_infinities(value) for key, value in content.items()}


def kept_rows(
    path: Path, settings: Mapping[str, Any], origin: Mapping[str, Any], same: Sequence[str] = SAME
) -> dict[str, Any]:
    """Rows that an interrupted run left, by name; none unless its settings and origin were the same.

    Args:
        path: Of the results, which may not exist.
        settings: Those that rows must share to stand in one file.
        origin: `provenance` of the run that would go on.
        same: What of it they must share as well.

    Raises:
        ResultsError: If there is a file that cannot be read.
    """
    if not path.exists():
        return {}
    stored = read(path)
    before, made_by = stored.get("settings", {}), stored.get("provenance", {})
    is_same = all(made_by.get(name) == origin[name] for name in same)
    is_same = is_same and all(name in before and before[name] == value for name, value in settings.items())
    return dict(stored["rows"]) if is_same else {}


def made_by(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says for itself where rows of several commits may stand in one file: code, commit and date."""
    return {name: origin[name] for name in _MADE_BY}


def rows_beside(
    path: Path, settings: Mapping[str, Any], origin: Mapping[str, Any], asked: Container[str]
) -> dict[str, Any]:
    """Rows that stay while others are measured: of the same settings, versions and machine, each by its own code.

    Args:
        path: Of the results, which may not exist.
        settings: See `kept_rows`.
        origin: See `kept_rows`.
        asked: Names of the rows that are wanted now: they stay only if today's code made them.

    Raises:
        ResultsError: If there is a file that cannot be read.
    """
    same = [name for name in SAME if name not in _MADE_BY]
    return {
        name: row
        for name, row in kept_rows(path, settings, origin, same).items()
        if row.keys() >= set(_MADE_BY) and (name not in asked or row["code"] == origin["code"])
    }


def commits(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """By which code rows were made, in words: that of most, and which are of other code."""
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        names.setdefault((row["commit"] or "unknown")[:7], []).append(name)
    most, *others = sorted(names, key=lambda commit: len(names[commit]), reverse=True)
    return most + "".join(f"; at {commit}: {', '.join(names[commit])}" for commit in others)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _with_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_infinities(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value


def _text(value: Any, depth: int = 0) -> str:
    """JSON as it is written, for a value so deep in the content."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    is_nested = any(isinstance(member, dict | list) for member in members)
    is_major = isinstance(value, dict) and depth < 2
    if not members or not (is_nested or is_major):
        return json.dumps(value, allow_nan=False)
    texts = [_text(member, depth + 1) for member in members]
    if isinstance(value, dict):
        texts = [f"{json.dumps(str(key))}: {text}" for key, text in zip(value, texts, strict=True)]
    indent = "\n" + depth * "  "
    inside = f"{indent}  " + f",{indent}  ".join(texts) + indent
    return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name}, which is not finite")


def _git(*arguments: str) -> str | None:
    """What git says about the folder of this file; None where it says nothing."""
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache  # what has been imported stays as it is, whatever happens to the files
def _code_digest(*also: str) -> str:
    """Changes whenever a line of the samplers, the benchmarks or these subpackages does, committed or not."""
    digest = hashlib.sha256()
    for name in ("samplers", "benchmarks", *also):
        root = Path(str(import_module(f"lamina.{name}").__file__)).parent
        for source in sorted(path for path in root.rglob("*") if path.suffix in _SOURCES):
            digest.update(str(source.relative_to(root)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
