"""Running a study: cell by cell, kept on disk, resumed, and shared out among processes.

Every cell has a folder below `--runs`, named after the cell and a digest of all that its figures depend on: settings,
code, versions, machine. What is in it is therefore always of the same cell: a checkpoint to go on from, or `row.json`
when it is done. Cells with the same trainings have them in the folder of one of them. Several processes may run one
study: a cell that another process is at is passed over. After each cell the results are written anew from all rows that
are there.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from lamina.samplers import ParameterError, progress
from lamina.samplers.checks import check_count

from .. import results
from ..samplers import check_device
from .report import write_report
from .study import Cell, Place, Preset, Study
from .training import completed

RUNS = "runs"
_ROW = "row.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run, and where.

    Attributes:
        study: The study.
        preset: Its preset.
        out: Folder for the results, a page and pictures.
        runs: Scratch folder for trainings; None takes `runs` below `out`. It can be removed at any time.
        seeds: None takes the study's own.
        only: Pattern of names of cells, as in `mnist/*`; other cells are left as they are.
        data_root: Folder with the files of data sets.
        device: Where to train.
        num_threads: Threads of PyTorch.
    """

    study: Study
    preset: Preset = "cpu"
    out: Path
    runs: Path | None = None
    seeds: Sequence[int] | None = None
    only: str = "*"
    data_root: Path | None = None
    device: str = "cpu"
    num_threads: int = 1

    def __post_init__(self) -> None:
        check_count("the number of threads", self.num_threads, 1)
        check_device(self.device)
        for seed in self.seeds or ():
            check_count("a seed", seed, 0)
        if not self.wanted():
            names = ", ".join(cell.name for cell in self.cells())
            raise ParameterError(f"no cell of {self.study.name} is called {self.only!r}; there are {names}.")

    @property
    def path(self) -> Path:
        """Of the results."""
        return self.out / f"{self.study.file}.json"

    def cells(self) -> list[Cell]:
        """All cells of the preset."""
        return self.study.cells(self.preset, self.study.seeds(self.preset) if self.seeds is None else self.seeds)

    def wanted(self) -> list[Cell]:
        """Those that are to be run."""
        return [cell for cell in self.cells() if fnmatchcase(cell.name, self.only)]

    def settings(self) -> dict[str, Any]:
        """What all rows of the results share, whichever seeds and cells are asked for."""
        cells = {cell.group: dict(cell.settings) for cell in self.study.cells(self.preset, (0,))}
        plain: dict[str, Any] = json.loads(json.dumps(cells))  # as it will be read again
        if self.study.is_open and self.path.exists():
            plain = {**completed(results.read(self.path)["settings"]["cells"]), **plain}
        return {"preset": self.preset, "num_threads": self.num_threads, "cells": plain}

    def origin(self) -> dict[str, Any]:
        """What makes the results; see `results.provenance`."""
        seeds = sorted({cell.seed for cell in self.cells()})
        return results.provenance(seeds, self.device, also=("models", "trainers"))

    def folder(self, cell: Cell, origin: Mapping[str, Any]) -> Path:
        """Of one cell."""
        same = [dict(cell.settings), self.num_threads, *(origin[name] for name in results.SAME)]
        digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:10]
        runs = self.out / RUNS if self.runs is None else self.runs
        return runs / self.study.name / f"{cell.name.replace('/', '-')}-{digest}"


def run(plan: Plan, *, fresh: bool = False, show_progress: bool | None = None) -> dict[str, Any]:
    """Run the cells that are wanted and not done, and write the results after each.

    Args:
        plan: What and where.
        fresh: Forget what is there of them, and run them anew.
        show_progress: None shows bars where standard error is a terminal.

    Returns:
        The results, as they were written.

    Raises:
        LaminaError: If a training or a file fails.
    """
    torch.set_num_threads(plan.num_threads)
    origin = plan.origin()
    results.make_folder(plan.out)
    if fresh:
        _forget(plan, origin)
    content = merge(plan, origin)
    todo = [cell for cell in plan.wanted() if cell.name not in content["rows"]]
    with progress(len(todo), f"paper {plan.study.name}", enabled=show_progress) as bar:
        for cell in todo:
            folder, trainings = plan.folder(cell, origin), plan.folder(cell.trained_by or cell, origin)
            for one in {folder, trainings}:
                results.make_folder(one)
            with _lock(trainings / ".lock", waits=False) as is_ours:
                if is_ours and not (folder / _ROW).exists():
                    place = Place(
                        folder=trainings,
                        device=torch.device(plan.device),
                        data_root=plan.data_root,
                        show_progress=show_progress,
                    )
                    results.write(_row(plan, cell, place, origin), folder / _ROW)
            content = merge(plan, origin)
            bar.advance({"cell": cell.name})
    return content


def merge(plan: Plan, origin: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Write results, table and pictures from the rows of the runs, and from those of earlier results alike.

    Args:
        plan: What and where.
        origin: Of `Plan.origin`.
        without: Names of rows to leave out.
    """
    with _lock(plan.out / f".{plan.study.file}.lock"):
        rows = _kept(plan, origin)
        for cell in plan.cells():
            path = plan.folder(cell, origin) / _ROW
            if path.exists():
                rows[cell.name] = results.read(path)
        content = content_of(plan, {name: row for name, row in rows.items() if name not in without}, origin)
        if rows:
            results.write(content, plan.path)
            write_report(plan.study, content, plan.out)
    return content


def report(plan: Plan) -> dict[str, Any]:
    """Write table and pictures of the results again, and train nothing.

    What the study sums up and says of its rows is brought up to date where it would run them with the settings that
    they have; otherwise it stays as it was when they were made.

    Args:
        plan: Which study, and where its results are.

    Returns:
        The results.

    Raises:
        LaminaError: If there are none, or a file fails.
    """
    results.read(plan.path)  # so that no lock is left where there are no results
    with _lock(plan.out / f".{plan.study.file}.lock"):
        content = results.read(plan.path)
        if completed(content["settings"]) == plan.settings():
            content = content_of(plan, content["rows"], content["provenance"])
            results.write(content, plan.path)
        write_report(plan.study, content, plan.out)
    return content


def _kept(plan: Plan, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of earlier results that stay: their groups have the settings that they had, and see `rows_beside`."""
    settings = plan.settings()
    groups = settings.pop("cells")
    rows = results.rows_beside(plan.path, settings, origin, asked={cell.name for cell in plan.wanted()})
    before = completed(results.read(plan.path)["settings"]["cells"]) if rows else {}
    return {name: row for name, row in rows.items() if before[row["group"]] == groups.get(row["group"])}


def content_of(plan: Plan, rows: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a study, for JSON."""
    study, settings = plan.study, plan.settings()
    there = {cell.group for cell in plan.cells()} | {row["group"] for row in rows.values()}
    settings["cells"] = {group: of_group for group, of_group in settings["cells"].items() if group in there}
    groups, seeds = list(settings["cells"]), sorted({row["seed"] for row in rows.values()})
    ordered = dict(sorted(rows.items(), key=lambda item: (groups.index(item[1]["group"]), item[1]["seed"])))
    return {
        "benchmark": f"paper {study.name}",
        "question": study.question,
        "settings": settings,
        "seeds": seeds,
        "data": {name: checksum for row in ordered.values() for name, checksum in row["data"].items()},
        "rows": ordered,
        "summary": study.summary({name: row["figures"] for name, row in ordered.items()}),
        "seconds": sum(row["seconds"] for row in rows.values()),
        "published": {} if study.is_open else dict(study.published),
        "differences": list(study.differences),
        "provenance": {**origin, "seeds": seeds},
    }


def _row(plan: Plan, cell: Cell, place: Place, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Run a cell, or what is left of it."""
    started = time.perf_counter()
    figures = plan.study.run(cell, place)
    return {
        "group": cell.group,
        "seed": cell.seed,
        "seconds": round(time.perf_counter() - started, 1),  # of the last stretch, where it was interrupted
        "data": place.checksums,
        **({"features": place.features} if place.features else {}),
        "figures": {name: value for name, value in figures.items() if math.isfinite(value)},
        **results.made_by(origin),
    }


def _forget(plan: Plan, origin: Mapping[str, Any]) -> None:
    """Remove the trainings and rows of the cells that are wanted."""
    for cell in plan.wanted():
        shutil.rmtree(plan.folder(cell, origin), ignore_errors=True)
    merge(plan, origin, without=[cell.name for cell in plan.wanted()])


@contextmanager
def _lock(path: Path, *, waits: bool = True) -> Iterator[bool]:
    """Hold a lock that ends with the process, however that ends; False if it does not wait and another has it."""
    import fcntl  # POSIX alone

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
