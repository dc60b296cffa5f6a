"""What a study is: a question about latent EBM priors, and the trainings that answer it.

A study is made of *cells*, one training with one seed each. Which ones there are depends on the *preset*: "cpu" fits
one core, "gpu" has the networks of the paper, "trial" shows within a minute that everything works. How cells are run,
kept and resumed is `running`'s concern.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from lamina.trainers import ImageData, load
from lamina.trainers.data import plain_name

from ..tables import markdown

Preset: TypeAlias = Literal["cpu", "gpu", "trial"]

Figures: TypeAlias = Mapping[str, float]
"""What a cell found, by name; figures that are not finite are left out of results."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training with one seed.

    Attributes:
        group: What cells that differ in their seed alone share, such as "mnist/joint-mle".
        seed: Of everything random.
        settings: All else that figures depend on, in plain containers of JSON.
        trained_by: A cell with the same trainings, which are done once for both; None: it has its own.
    """

    group: str
    seed: int
    settings: Mapping[str, Any]
    trained_by: Cell | None = None

    @property
    def name(self) -> str:
        """Such as "mnist/joint-mle/seed-0"."""
        return f"{self.group}/seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a cell is run.

    Attributes:
        folder: Of this cell's trainings. What an interrupted run left there is of the same ones, code and machine.
        device: Where to compute.
        data_root: Folder with the files of data sets, see `lamina.trainers.load`.
        show_progress: None shows bars where standard error is a terminal.
        checksums: Of the data sets that were loaded, by name.
        features: What images were compared on, by the name of their data set: the network, its accuracy on held-out
            images, and its checksum.
    """

    folder: Path
    device: torch.device
    data_root: Path | None = None
    show_progress: bool | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    features: dict[str, dict[str, Any]] = field(default_factory=dict)

    def load(self, name: str) -> ImageData:
        """A data set, whose checksum goes into the results."""
        data = _load(name, data_root=self.data_root)
        self.checksums[name] = data.checksum
        return data


_load = lru_cache(maxsize=1)(load)  # cells of one data set follow each other


class Study(ABC):
    """A question, the cells that answer it, and how their figures are read. Concrete studies are final.

    Attributes:
        name: Of the command.
        title: A line for the command's help.
        question: What it asks, in a sentence or two.
        papers: What the papers had, a sentence or two each: data, networks, samplers, figures.
        published: Figures of the papers, by the key of `summary` that they stand beside.
        differences: What differs from the papers' experiments, a sentence each.
        is_open: Whether its cells are of other data than the study's own. They have files of results to themselves,
            where rows that were asked for earlier stay, and no published figures beside them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    papers: ClassVar[Sequence[str]] = ()
    published: ClassVar[Mapping[str, float]] = {}
    differences: ClassVar[Sequence[str]] = ()
    is_open: bool = False

    @property
    def file(self) -> str:
        """Name of the files of results, without ending."""
        return f"{self.name}-others" if self.is_open else self.name

    def seeds(self, preset: Preset) -> Sequence[int]:
        """Those that are run unless others are asked for."""
        return (0,) if preset == "trial" else (0, 1, 2)

    @abstractmethod
    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """The cells of a preset, in the order to go."""

    @abstractmethod
    def run(self, cell: Cell, place: Place) -> Figures:
        """Train and measure; what an interrupted run left in the folder is continued.

        Raises:
            LaminaError: If that fails.
        """

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """Flat figures of all rows, which are there for some cells or for all.

        Args:
            rows: Figures of cells, by the name of the cell.

        Returns:
            `FIGURE/GROUP`, the mean over seeds, and `FIGURE/GROUP/sd`, their standard deviation.
        """
        return over_seeds(rows)

    def table(self, summary: Mapping[str, float]) -> str:
        """The summary in Markdown: a line for each group, a column for each figure."""
        return table_of(summary)

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """What draws each picture into a path, by file name."""
        return {}


def called(name: str) -> str:
    """A data set as part of the names of groups and figures: without folders above its own, and unlike any other."""
    plain = plain_name(name)
    if "/" not in name:
        return plain
    return f"{plain_name(name.rstrip('/').rpartition('/')[2])}-{plain.rpartition('-')[2]}"


def over_seeds(rows: Mapping[str, Figures]) -> dict[str, float]:
    """Mean and standard deviation of each figure over the seeds of each group; see `Study.summary`."""
    values: dict[str, list[float]] = {}
    for name, figures in rows.items():
        for figure, value in figures.items():
            values.setdefault(f"{figure}/{name.rpartition('/')[0]}", []).append(value)
    return with_spreads(values)


def by_step(summary: Mapping[str, float], figure: str) -> dict[str, dict[float, float]]:
    """What a figure is after each number of steps, for each group: the keys `FIGURE_after_N/GROUP` of a summary."""
    start = f"{figure}_after_"
    series: dict[str, dict[float, float]] = {}
    for key, value in summary.items():
        name, _, group = key.partition("/")
        if name.startswith(start) and not group.endswith("/sd"):
            series.setdefault(group, {})[int(name.removeprefix(start))] = value
    return series


def with_spreads(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each list under its key, and its standard deviation under `KEY/sd`."""
    summary: dict[str, float] = {}
    for key, found in values.items():
        summary[key] = fmean(found)
        if len(found) > 1:
            summary[f"{key}/sd"] = stdev(found)
    return summary


def table_of(summary: Mapping[str, float], figures: Sequence[str] | None = None) -> str:
    """A Markdown table of mean and standard deviation: a line for each group, a column for each figure.

    Args:
        summary: Keys `FIGURE/GROUP` and `FIGURE/GROUP/sd`.
        figures: Names of figures, without "/"; None: all, in their order.
    """
    figures = list(dict.fromkeys(key.partition("/")[0] for key in summary)) if figures is None else figures
    keys = [key.partition("/") for key in summary if not key.endswith("/sd")]
    groups = dict.fromkeys(group for figure, _, group in keys if figure in figures)
    rows = [(group, *(with_spread(summary, f"{figure}/{group}") for figure in figures)) for group in groups]
    return markdown(("", *figures), rows, "l" + "r" * len(figures))


def with_spread(summary: Mapping[str, float], key: str) -> str:
    """A figure as text, with its standard deviation where there is one; "-" where there is no such figure."""
    if key not in summary:
        return "-"
    spread = f" ± {summary[f'{key}/sd']:.2g}" if f"{key}/sd" in summary else ""
    return f"{summary[key]:.4g}{spread}"
