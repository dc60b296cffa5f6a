"""Whether a contender's draws are right: a speed counts only then.

Chains start from exact draws of the target where it has them, so that an exact sampler leaves their law as it is from
the first step on, mixed or not, and the moments of standardised coordinates are known. An unadjusted sampler is
biased, but all that take the same steps are biased alike: they are compared with Lamina. So are the share of steps
that move and the mean squared jump of a step, which tell a wrong step size, mass or trajectory length at once.
Standard errors come from the spread over chains, which are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student

from lamina.samplers import ess_bulk

from .problems import PROBLEMS, Array
from .protocol import Case

NUM_CHAINS = 500
NUM_DRAWS = 200
FALSE_ALARM = 1e-6
"""Probability, at most, that a check finds fault with a contender that is right."""

UNADJUSTED = ("ula",)
MIN_CHAINS = 100
"""With fewer chains, their ends are only checked to be finite."""

_MAX_ENDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is known of some draws, for each of C chains.

    Attributes:
        moved: Share of steps that moved, (C,).
        jump: Mean squared jump of a step over coordinates, (C,).
        mean: Mean of each coordinate, (C, D).
        square: Its second moment, (C, D).
        ess_per_draw: Smallest bulk effective sample size over coordinates, per draw.
    """

    moved: Array
    jump: Array
    mean: Array
    square: Array
    ess_per_draw: float

    @property
    def is_finite(self) -> bool:
        """Whether all draws are."""
        return bool(np.isfinite(self.square).all())


def traits(problem: str, draws: Array) -> Traits:
    """Sum draws (N, C, D) up, in standardised coordinates where the problem has them."""
    x = _standardised(problem, draws)
    steps = np.diff(x, axis=0)
    ess = ess_bulk(torch.from_numpy(x.transpose(1, 0, 2).copy())) if np.isfinite(x).all() else None
    return Traits(
        moved=(np.diff(draws, axis=0) != 0).any(axis=2).mean(axis=0),
        jump=np.square(steps).mean(axis=(0, 2)),
        mean=x.mean(axis=0),
        square=np.square(x).mean(axis=0),
        ess_per_draw=math.nan if ess is None else float(ess.min()) / (x.shape[0] * x.shape[1]),
    )


def fault_of_draws(case: Case, found: Traits, ours: Traits) -> str | None:
    """What is wrong with consecutive draws; None where nothing is.

    Args:
        case: What was to be sampled.
        found: Of the contender.
        ours: Of Lamina.
    """
    if not found.is_finite:
        return "draws are not finite"
    known = case.algorithm not in UNADJUSTED and PROBLEMS[case.problem].standardise is not None
    tests = [
        *([] if case.algorithm == "nuts" else _alike(found, ours, ("moved", "jump"))),
        *(_exact(found.mean, found.square) if known else _alike(found, ours, ("mean", "square"))),
    ]
    return _worst(tests)


def fault_of_ends(case: Case, ends: Array) -> str | None:
    """What is wrong with where the chains stand after the timed calls, (C, D); None where nothing is."""
    if not np.isfinite(ends).all():
        return "chains have left for infinity"
    if len(ends) < MIN_CHAINS or case.algorithm in UNADJUSTED or PROBLEMS[case.problem].standardise is None:
        return None
    x = _standardised(case.problem, ends[:_MAX_ENDS])
    return _worst(list(_exact(x, np.square(x))))


@dataclass(frozen=True)
class _Test:
    """A difference and its standard error, with as many degrees of freedom."""

    name: str
    difference: float
    error: float
    freedom: int

    @property
    def probability(self) -> float:
        """Of a difference at least as large, were there none."""
        if self.difference == 0:
            return 1.0
        return float(2 * student.sf(abs(self.difference) / self.error, self.freedom)) if self.error > 0 else 0.0


def _alike(found: Traits, ours: Traits, names: tuple[str, ...]) -> Iterator[_Test]:
    """Welch's test of each column against Lamina's, with the fewer degrees of freedom of the two."""
    for name in names:
        one, other = (np.asarray(getattr(of, name)).reshape(len(of.moved), -1) for of in (found, ours))
        errors = np.sqrt(one.var(axis=0, ddof=1) / len(one) + other.var(axis=0, ddof=1) / len(other))
        differences = one.mean(axis=0) - other.mean(axis=0)
        for difference, error in zip(differences, errors, strict=True):
            yield _Test(f"{name} differs from Lamina's", float(difference), float(error), min(len(one), len(other)) - 1)


def _exact(means: Array, squares: Array) -> Iterator[_Test]:
    """Student's test of each column against mean 0 and second moment 1."""
    for name, columns, truth in (("mean", means, 0.0), ("second moment", squares, 1.0)):
        errors = columns.std(axis=0, ddof=1) / math.sqrt(len(columns))
        for difference, error in zip(columns.mean(axis=0) - truth, errors, strict=True):
            yield _Test(f"{name} differs from the target's", float(difference), float(error), len(columns) - 1)


def _worst(tests: list[_Test]) -> str | None:
    worst = min(tests, key=lambda test: test.probability)
    if worst.probability * len(tests) >= FALSE_ALARM:
        return None
    return f"{worst.name} by {worst.difference:.3g}, standard error {worst.error:.1g}"


def _standardised(problem: str, x: Array) -> Array:
    standardise = PROBLEMS[problem].standardise
    x = x.astype(np.float64)
    return x if standardise is None else standardise(x)
