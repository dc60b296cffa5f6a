"""Progress of long work: a tqdm bar on a terminal; plain lines in a file, or where tqdm is not installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO


class Progress(Protocol):
    """Something that shows how far a loop is; use as a context manager.

    Attributes:
        is_shown: Whether anybody sees it: figures that cost something are computed only then.
    """

    is_shown: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, figures: Mapping[str, str] | None = None, steps: int = 1) -> None:
        """Some steps further; `figures` are shown beside the bar."""
        ...


def progress(total: int, label: str, *, enabled: bool | None = None) -> Progress:
    """Make a progress display on standard error.

    Args:
        total: Steps to come.
        label: What is being done.
        enabled: None shows it where standard error is a terminal.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    if not enabled:
        return _Silent()
    try:
        import tqdm
    except ImportError:
        return _Lines(total, label, sys.stderr)
    if not sys.stderr.isatty():
        return _Lines(total, label, sys.stderr)
    return _Bar(tqdm.tqdm(total=total, desc=label, mininterval=0.3, dynamic_ncols=True))


class _Silent:
    is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, figures: Mapping[str, str] | None = None, steps: int = 1) -> None:
        pass


class _TqdmLike(Protocol):
    def update(self, n: int) -> object: ...

    def set_postfix(self, ordered_dict: Mapping[str, object], refresh: bool) -> None: ...

    def close(self) -> None: ...


class _Bar(_Silent):
    is_shown = True

    def __init__(self, bar: _TqdmLike) -> None:
        self._bar = bar

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, figures: Mapping[str, str] | None = None, steps: int = 1) -> None:
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        self._bar.update(steps)


class _Lines(_Silent):
    """A line every tenth of the way, and every half minute."""

    is_shown = True

    def __init__(self, total: int, label: str, stream: TextIO) -> None:
        self._total, self._label, self._stream = total, label, stream
        self._done = 0
        self._next_count, self._next_time = 1, time.monotonic() + 30

    def advance(self, figures: Mapping[str, str] | None = None, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if self._done * 10 < self._next_count * self._total and now < self._next_time:
            return
        self._next_count, self._next_time = self._done * 10 // self._total + 1, now + 30
        shown = "  ".join(f"{name} {value}" for name, value in (figures or {}).items())
        print(f"{self._label}: {self._done}/{self._total}  {shown}".rstrip(), file=self._stream, flush=True)
