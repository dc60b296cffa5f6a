"""Measures cells: all contenders of a cell take turns, so that whatever else the machine does meets them alike."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np

from lamina.samplers import progress

from . import checks
from .cells import BIAS_EVERY, BIAS_STEPS, STREAMED_DRAWS, Cell
from .checks import Traits
from .contenders import BFLOAT16, CONTENDERS, LAMINA, PRODUCTS, Contender
from .environments import PeerEnvironmentError, python_of
from .process import NotOfferedError, Worker, WorkerError, command
from .protocol import Case

TIMEOUT = 600.0
"""Seconds that any request may take."""

Entry = dict[str, Any]
"""What is known of a contender in a cell: its "status" and, where that is "ok", its figures.

The status is "ok", "wrong" (its draws are), "failed" (to run), "missing" (its environment could not be built) or
"unsupported" (it has no such sampler); "note" says why.
"""

Row = dict[str, Any]
"""A cell's "case" and its "contenders", an entry each."""

Start = Callable[[Contender, bool, Mapping[str, str]], Worker]
"""Starts a worker; pinned to its CPUs or not, with some environment variables."""


class EnvironmentStart:
    """Starts workers in their environments, which are built at first use.

    Args:
        folder: Holds the environments.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._missing: dict[str, PeerEnvironmentError] = {}

    def __call__(self, contender: Contender, is_pinned: bool, extra: Mapping[str, str]) -> Worker:
        """See `Start`.

        Raises:
            PeerEnvironmentError: If the environment cannot be built; it is tried once.
            WorkerError: If the worker does not come up.
        """
        arguments = command(contender, self._python(contender.peer), is_pinned=is_pinned)
        return Worker(arguments, contender.num_threads if is_pinned else None, extra)

    def _python(self, peer: str | None) -> Path:
        if peer is None:
            return Path(sys.executable)
        if peer in self._missing:
            raise self._missing[peer]
        try:
            return python_of(peer, self._folder)
        except PeerEnvironmentError as error:
            self._missing[peer] = error
            raise


class Bench:
    """Workers, and what has been found out about their draws; a context manager that ends the workers.

    Attributes:
        versions: What each contender has run so far says it runs.

    Args:
        start: Starts workers.
        num_repeats: Timed calls of each contender in each cell.
    """

    def __init__(self, start: Start, num_repeats: int) -> None:
        self.versions: dict[str, Mapping[str, str]] = {}
        self._start, self._num_repeats = start, num_repeats
        self._workers: dict[str, Worker] = {}
        self._checked: dict[tuple[str, str, str], Traits] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_workers()
        self._stack.close()

    def measure(self, cell: Cell, names: Sequence[str]) -> Row:
        """Measure one cell, with new processes.

        Args:
            cell: The cell.
            names: Its contenders, Lamina first.
        """
        entries: dict[str, Entry] = {name: {"status": "ok"} for name in names}
        {"speed": self._speed, "threads": self._speed, "first": self._first, "memory": self._memory}[cell.kind](
            cell, entries
        )
        self._end_workers()
        return {"kind": cell.kind, "case": asdict(cell.case), "contenders": entries}

    def _speed(self, cell: Cell, entries: dict[str, Entry]) -> None:
        for name, entry in entries.items():
            self._attempt(entry, self._prepare, name, cell.case, entry)
        for _ in range(self._num_repeats):
            for name, entry in _right(entries):
                self._attempt(entry, self._time, name, entry)
        for name, entry in _right(entries):
            self._attempt(entry, self._finish, name, cell.case, entry)

    def _prepare(self, name: str, case: Case, entry: Entry) -> None:
        """Call once, check the draws, and call again: the second call may compile once more."""
        first = self._ask(name, {"do": "make", "case": asdict(case)})
        entry |= {key: first[key] for key in ("num_steps", "engine")}
        entry |= {"first_seconds": first["seconds"], "cpu": [], "wall": []}
        if name != PRODUCTS:
            found = self._traits(name, case)
            entry |= {"accept": float(found.moved.mean()), "ess_per_draw": found.ess_per_draw}
            if fault := checks.fault_of_draws(case, found, self._traits(LAMINA, case)):
                entry |= {"status": "wrong", "note": fault}
                return
        self._ask(name, {"do": "run"})

    def _time(self, name: str, entry: Entry) -> None:
        reply = self._ask(name, {"do": "run"})
        for clock, seconds in (("cpu", reply["cpu"]), ("wall", reply["seconds"])):
            entry[clock].append(1e6 * seconds / entry["num_steps"])

    def _finish(self, name: str, case: Case, entry: Entry) -> None:
        entry |= {f"{clock}_us_per_step": median(entry[clock]) for clock in ("cpu", "wall")}
        if name != PRODUCTS and (fault := checks.fault_of_ends(case, self._array(name, {"do": "ends"}))):
            entry |= {"status": "wrong", "note": fault}
        if name == BFLOAT16:
            long = replace(case, num_steps=BIAS_STEPS)
            entry |= self._ask(name, {"do": "bias", "case": asdict(long), "every": BIAS_EVERY})

    def _first(self, cell: Cell, entries: dict[str, Entry]) -> None:
        """Seconds to the first result of a new process that has loaded its library, with empty caches."""
        for _ in range(self._num_repeats):
            for name, entry in _right(entries):
                self._attempt(entry, self._first_of_new, name, cell.case, entry)

    def _first_of_new(self, name: str, case: Case, entry: Entry) -> None:
        with tempfile.TemporaryDirectory() as empty:
            worker = self._started(name, False, _caches(empty))
            try:
                seconds = worker.ask({"do": "make", "case": asdict(case)}, TIMEOUT)["seconds"]
            finally:
                worker.close()
        entry["all_seconds"] = [*entry.get("all_seconds", []), seconds]
        entry["seconds"] = median(entry["all_seconds"])

    def _memory(self, cell: Cell, entries: dict[str, Entry]) -> None:
        request = {"do": "memory", "case": asdict(cell.case), "num_draws": STREAMED_DRAWS}
        for name, entry in entries.items():
            self._attempt(entry, lambda name, entry: entry.update(self._ask(name, request)), name, entry)

    def _traits(self, name: str, case: Case) -> Traits:
        """Of a contender's draws, which all numbers of chains share."""
        key = (name, case.algorithm, case.problem)
        if key not in self._checked:
            few = replace(case, num_chains=checks.NUM_CHAINS, num_steps=1, num_looped_steps=1)
            draws = self._array(name, {"do": "draws", "case": asdict(few), "num_draws": checks.NUM_DRAWS})
            self._checked[key] = checks.traits(case.problem, draws)
        return self._checked[key]

    def _array(self, name: str, request: Mapping[str, Any]) -> Any:
        path = self._scratch / f"{name}.npy"
        self._ask(name, {**request, "path": str(path)})
        return np.load(path)

    def _ask(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if name in self._workers and not self._workers[name].is_alive:
            self._workers.pop(name).close()
        if name not in self._workers:
            self._workers[name] = self._started(name, True, _caches(tempfile.mkdtemp(dir=self._scratch)))
        return self._workers[name].ask(request, TIMEOUT)

    def _end_workers(self) -> None:
        while self._workers:
            self._workers.popitem()[1].close()

    def _started(self, name: str, is_pinned: bool, extra: Mapping[str, str]) -> Worker:
        worker = self._start(CONTENDERS[name], is_pinned, extra)
        self.versions[name] = worker.versions
        return worker

    @staticmethod
    def _attempt(entry: Entry, work: Callable[..., None], *arguments: Any) -> None:
        """Do some work for an entry, whose status tells where it cannot be done."""
        kinds = {PeerEnvironmentError: "missing", NotOfferedError: "unsupported", WorkerError: "failed"}
        try:
            work(*arguments)
        except tuple(kinds) as error:
            entry |= {"status": kinds[type(error)], "note": str(error)}


def run(
    wanted: Sequence[Cell],
    names: Sequence[str],
    bench: Bench,
    done: Mapping[str, Row],
    made_by: Mapping[str, Any],
    *,
    on_row: Callable[[Mapping[str, Row]], None],
    show_progress: bool | None = None,
) -> dict[str, Row]:
    """Measure all cells that are not done yet.

    Args:
        wanted: The cells.
        names: Contenders that may take part.
        bench: Measures.
        done: Rows measured before, by name; they are kept.
        made_by: What new rows say about their origin.
        on_row: Called with all rows after each cell, to store them.
        show_progress: None shows a bar where standard error is a terminal.
    """
    rows = dict(done)
    todo = [cell for cell in wanted if str(cell) not in rows]
    with progress(len(todo), "peers", enabled=show_progress) as bar:
        for cell in todo:
            measured = bench.measure(cell, [name for name in cell.contenders if name in names])
            rows[str(cell)] = {**measured, **made_by}
            bar.advance({"cell": str(cell)})
            on_row(rows)
    return rows


def _right(entries: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    return [(name, entry) for name, entry in entries.items() if entry["status"] == "ok"]


def _caches(folder: str) -> dict[str, str]:
    """Environment variables that keep compiled programs of earlier processes out."""
    return {"LAMINA_CACHE": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder)}
