"""Whether a learnt EBM prior comes closer to held-out digits than Gaussian priors do, over several seeds.

For each seed the main job of `lamina.trainers` trains a model and its Gaussian-prior rival and measures samples of
three priors: the EBM prior ("ebm"), the same model's Gaussian base prior ("base"), and that of the rival
("gaussian"). Here these figures are paired by seed. Lower is better in every measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from lamina.samplers import ParameterError
from lamina.trainers.config import TrainConfig, from_dict, to_dict
from lamina.trainers.job import EVALUATION, resume, start
from lamina.trainers.loop import read_checkpoint
from lamina.trainers.presets import preset

from . import results
from .results import ResultsError
from .tables import aligned

OURS = "ebm"
RIVALS = ("base", "gaussian")
RUNS = "runs"

_SAME_FOR_ALL_SEEDS = ("num_samples", "num_held_out", "features", "steps", "data")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is used of a run's `evaluation.json`.

    Attributes:
        path: Where it was read.
        figures: The flat summary: value by `measure/prior`.
        seconds: Training time by "model" and "gaussian".
        shared: What all seeds must agree on: numbers of samples, features, steps, data with its checksum.
    """

    path: Path
    figures: Mapping[str, float]
    seconds: Mapping[str, float]
    shared: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure: the EBM prior against one rival, paired by seed.

    Attributes:
        measure: Name of the measure; lower is better.
        rival: "base" or "gaussian".
        ours: Values of the EBM prior, by seed.
        theirs: Values of the rival, by seed.
        wins: Seeds for which ours is lower.
        mean_difference: Mean over seeds of theirs minus ours; positive where the EBM prior is better.
        standard_error: Of that mean, from its spread over seeds; NaN with a single seed.
        ratio: Mean of ours over mean of theirs; below 1 where the EBM prior is better.
    """

    measure: str
    rival: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    wins: int
    mean_difference: float
    standard_error: float
    ratio: float

    @property
    def standard_errors(self) -> float:
        """The mean difference in units of its standard error; NaN where there is none."""
        return self.mean_difference / self.standard_error if self.standard_error > 0 else math.nan


def configuration(seed: int, max_steps: int | None) -> TrainConfig:
    """The digits preset with a seed, and cut short if so wished."""
    config = replace(preset("digits"), seed=seed)
    return config if max_steps is None else config.capped(max_steps)


def run_seed(seed: int, max_steps: int | None, folder: Path, *, show_progress: bool | None = None) -> Evaluation:
    """Do the main job for one seed, or what is left of it.

    Args:
        seed: Of the run.
        max_steps: Cut the run short, for a trial.
        folder: Holds the run folders.
        show_progress: None shows bars where standard error is a terminal.

    Raises:
        ResultsError: If the run folder belongs to another configuration, or its evaluation is damaged.
        CheckpointError: If the run cannot be continued.
    """
    config = configuration(seed, max_steps)
    run = folder / f"digits-{config.num_steps}-steps-seed-{seed}"
    is_new = not run.is_dir() or not any(run.iterdir())
    if is_new:
        start(config, run, data_root=None, device=torch.device("cpu"), show_progress=show_progress)
    elif from_dict(read_checkpoint(run)["config"]) != config:
        raise ResultsError(
            f"{run} holds a run of another configuration than today's digits preset. Remove it, or choose another "
            "--out, to train again."
        )
    elif not (run / EVALUATION).exists():
        resume(run, data_root=None, device=torch.device("cpu"), show_progress=show_progress)
    return read_evaluation(run / EVALUATION)


def read_evaluation(path: Path) -> Evaluation:
    """Read what `lamina.trainers` wrote about a run.

    Raises:
        ResultsError: If the file is missing, damaged, or lacks something.
    """
    try:
        content = results.read(path)
        if missing := [key for key in ("summary", "seconds", *_SAME_FOR_ALL_SEEDS) if key not in content]:
            raise ResultsError(f"{path} is no evaluation: it lacks {', '.join(missing)}.")
        if not isinstance(content["data"], dict) or not isinstance(content["data"].get("checksum"), str):
            raise ResultsError(f"{path} is damaged: its data have no checksum.")
        return Evaluation(
            path=path,
            figures=_numbers(content, "summary", path),
            seconds=_numbers(content, "seconds", path),
            shared={key: content[key] for key in _SAME_FOR_ALL_SEEDS},
        )
    except ResultsError as error:
        raise ResultsError(f"{error} Write it anew with: lamina evaluate {path.parent}") from error


def compare(evaluations: Sequence[Evaluation]) -> list[Row]:
    """Pair the figures of several seeds: a row for each measure and rival.

    Raises:
        ResultsError: If the evaluations are not of the same experiment.
        ParameterError: If there are none.
    """
    if not evaluations:
        raise ParameterError("a comparison needs one seed or more; got none.")
    first = evaluations[0]
    for other in evaluations[1:]:
        different = [key for key in _SAME_FOR_ALL_SEEDS if other.shared[key] != first.shared[key]]
        different += ["measures"] * (other.figures.keys() != first.figures.keys())
        if different:
            raise ResultsError(
                f"{other.path} and {first.path} are no seeds of one experiment: they differ in "
                f"{', '.join(different)}. Remove one of the runs, or choose another --out."
            )
    measures = dict.fromkeys(name.partition("/")[0] for name in first.figures)
    rows = [
        _row(measure, rival, evaluations)
        for measure in measures
        for rival in RIVALS
        if {f"{measure}/{OURS}", f"{measure}/{rival}"} <= first.figures.keys()
    ]
    if not rows:
        raise ResultsError(f"{first.path} compares nothing: it has no measure of {OURS} and of {' or '.join(RIVALS)}.")
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    header = ("measure", "rival", "EBM prior", "rival's", "wins", "difference", "std. error", "ratio")
    cells = [
        (
            row.measure,
            row.rival,
            f"{fmean(row.ours):.5f}",
            f"{fmean(row.theirs):.5f}",
            f"{row.wins}/{len(row.ours)}",
            f"{row.mean_difference:+.5f}",
            "-" if math.isnan(row.standard_error) else f"{row.standard_error:.5f}",
            f"{row.ratio:.3f}",
        )
        for row in rows
    ]
    return aligned(header, cells, "llrrrrrr")


def summary(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """The finite figures by name, such as `kernel_distance/base-ebm/standard_errors`."""
    figures: dict[str, float] = {}
    for row in rows:
        pair = f"{row.measure}/{row.rival}-{OURS}"
        figures |= {
            f"{row.measure}/{OURS}/mean": fmean(row.ours),
            f"{row.measure}/{row.rival}/mean": fmean(row.theirs),
            f"{pair}/mean": row.mean_difference,
            f"{pair}/standard_error": row.standard_error,
            f"{pair}/standard_errors": row.standard_errors,
            f"{pair}/wins": row.wins,
            f"{pair}/ratio": row.ratio,
        }
    first = evaluations[0]
    for name in first.seconds:
        figures[f"training_seconds/{name}/mean"] = fmean(e.seconds[name] for e in evaluations if name in e.seconds)
    figures |= {"num_seeds": len(evaluations), **{key: first.shared[key] for key in ("num_samples", "num_held_out")}}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def report(rows: Sequence[Row], evaluations: Sequence[Evaluation], config: TrainConfig) -> dict[str, Any]:
    """Everything for JSON, without provenance.

    Args:
        rows: Of `compare`.
        evaluations: What it compared.
        config: Of any of the runs, which differ in their seed only.
    """
    settings = to_dict(config)
    del settings["seed"]
    return {
        "benchmark": "digits",
        "settings": settings,
        **evaluations[0].shared,
        "training_seconds": [dict(evaluation.seconds) for evaluation in evaluations],
        "rows": [{**asdict(row), "standard_errors": row.standard_errors} for row in rows],
        "summary": summary(rows, evaluations),
    }


def _row(measure: str, rival: str, evaluations: Sequence[Evaluation]) -> Row:
    ours, theirs = (
        tuple(evaluation.figures[f"{measure}/{name}"] for evaluation in evaluations) for name in (OURS, rival)
    )
    differences = [b - a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        measure=measure,
        rival=rival,
        ours=ours,
        theirs=theirs,
        wins=sum(difference > 0 for difference in differences),
        mean_difference=fmean(differences),
        standard_error=stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan,
        ratio=fmean(ours) / fmean(theirs) if fmean(theirs) else math.nan,
    )


def _numbers(content: Mapping[str, Any], key: str, path: Path) -> dict[str, float]:
    numbers = content[key]
    if not isinstance(numbers, dict) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in numbers.values()
    ):
        raise ResultsError(f"{path} is damaged: {key!r} must give a number for each name.")
    return numbers
