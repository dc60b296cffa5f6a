"""Annealed importance sampling: log normalisers with their errors, from below and from above.

- Chains that walk from the base to the target (`ais`) have weights whose mean is an unbiased estimate of Z / Z_base, so
  its log under-estimates log Z on average (Jensen's inequality).
- Chains that walk from exact draws of the target back to the base (`reverse_ais`) estimate Z_base / Z, and minus the
  log of their mean weight over-estimates log Z on average. From draws that are not exact this is no bound.

Both together bracket log Z in expectation: over runs, not in each of them.

Sources: Neal (2001), Statistics and Computing 11, section 2, for the weights; Grosse, Ghahramani and Adams (2015),
arXiv 1511.02543, for the bounds; Wu, Burda, Salakhutdinov and Grosse (2017), ICLR, for latent variables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ..checks import check_count
from ..energy import Energy
from ..errors import ParameterError
from ..kernel import Kernel
from ..position import Position
from ..progress import progress
from .path import Base, Schedule, Walk, num_rows

_TRUSTED_FRACTION = 0.1
"""Of the chains: weights worth fewer get a warning, as their spread is then that of a few."""


@dataclass(frozen=True)
class AISReport:
    """An estimate of log Z; print it.

    Without a context there is one estimate, G = 1; with one there is an estimate for each of its G rows.

    Attributes:
        direction: Which way the chains walked.
        is_bound: Whether the estimate lies below log Z (forward) or above it (reverse) on average.
        log_normalizer: log Z, (G,), float64.
        log_weights: Of the chains, (G, n): of the target against the base, or the reverse.
        position: Where the chains ended: those of a forward run, weighted, stand for the target.
        accept_prob: Mean acceptance at each stop between the ends, in the order of the walk.
    """

    direction: Literal["forward", "reverse"]
    is_bound: bool
    log_normalizer: Tensor
    log_weights: Tensor = field(repr=False)
    position: Position = field(repr=False)
    accept_prob: Tensor = field(repr=False)

    @property
    def standard_error(self) -> Tensor:
        """Of log Z, by the delta method, (G,). It knows of no modes that all chains have missed."""
        return standard_error(self.log_weights)

    @property
    def ess(self) -> Tensor:
        """What the weights of the n chains are worth, in chains: (sum w)^2 / sum w^2, (G,)."""
        return effective_size(self.log_weights)

    def __str__(self) -> str:
        """The estimate, and what it is worth, in words."""
        num_groups, num_chains = self.log_weights.shape
        side = "under" if self.direction == "forward" else "over"
        worth = f"{side}-estimates log Z on average" if self.is_bound else "no bound, as the draws were not exact"
        value, error = float(self.log_normalizer.mean()), float(self.standard_error.square().sum().sqrt() / num_groups)
        what = "log Z" if num_groups == 1 else f"Mean log Z of {num_groups} rows"
        ess = float(self.ess.min())
        lines = [
            f"{what} = {value:.4f} +- {error:.4f} by {self.direction} AIS: {worth}.",
            f"{num_chains} chains, {len(self.accept_prob) + 2} stops; the weights are worth {ess:.0f} chains.",
        ]
        if ess < _TRUSTED_FRACTION * num_chains:
            lines.append(
                "Warning: few chains carry the weight, so the error is not to be trusted. Take more inverse "
                "temperatures, more steps at each, or a base that covers the target."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Bracket:
    """Two estimates of log Z, from below and from above; print it.

    Attributes:
        lower: By `ais`.
        upper: By `reverse_ais`.
    """

    lower: AISReport
    upper: AISReport

    def __post_init__(self) -> None:
        if (directions := (self.lower.direction, self.upper.direction)) != ("forward", "reverse"):
            raise ParameterError(f"a bracket takes a forward and a reverse report; got {' and '.join(directions)}.")

    @property
    def gap(self) -> Tensor:
        """Upper minus lower, (G,), in nats; near zero where both walks did well."""
        return self.upper.log_normalizer - self.lower.log_normalizer

    def __str__(self) -> str:
        """Both numbers and the gap."""
        low, high = self.lower.log_normalizer.mean(), self.upper.log_normalizer.mean()
        worth = "in expectation" if self.upper.is_bound else "if the draws behind the upper number were exact"
        return f"log Z between {low:.4f} and {high:.4f} {worth}: a gap of {self.gap.mean():.4f} nats."


def ais(
    energy: Energy,
    base: Base,
    kernel: Kernel[Any],
    schedule: Schedule,
    *,
    num_chains: int,
    generator: torch.Generator,
    num_steps: int = 1,
    context: Any = None,
    show_progress: bool | None = None,
) -> AISReport:
    """Estimate the log normaliser of exp(-energy) with chains that walk from the base to the target.

    Args:
        energy: Per-chain energy, `(C, *event) -> (C,)`; with a context `energy(position, context)`. Differentiable
            by autograd where the kernel takes gradients.
        base: Where chains start, such as `NormalBase.like(position)`.
        kernel: An exact one that makes one decision per step, such as `HMC()`.
        schedule: Where chains stop on the way, and the kernel's step sizes there; `tune` makes a good one.
        num_chains: n, for each row of the context.
        generator: Source of randomness, on the device where the chains are to be.
        num_steps: Steps of the kernel at each stop.
        context: Structure of tensors with one row for each estimate, such as a data point whose marginal likelihood
            is the normaliser; None for a single estimate.
        show_progress: None shows a bar where standard error is a terminal.

    Returns:
        The estimate, which lies below log Z on average.

    Raises:
        EnergyError: If the energy is NaN where a chain stands; plus infinity, outside the support, is allowed.
        ParameterError: If the kernel is not exact or of several parts, or a count is out of range.
    """
    total = check_count("num_chains", num_chains, 2) * num_rows(context)
    walk = Walk(energy, base, kernel, base.sample(total, generator=generator), context, generator)
    log_weights, accept_prob = _gather(walk, schedule.stops(), num_steps, "AIS", show_progress)
    return AISReport(
        direction="forward",
        is_bound=True,
        log_normalizer=base.log_normalizer + log_mean_weight(log_weights),
        log_weights=log_weights,
        position=walk.position,
        accept_prob=accept_prob,
    )


def reverse_ais(
    energy: Energy,
    base: Base,
    kernel: Kernel[Any],
    schedule: Schedule,
    *,
    draws: Position,
    draws_are_exact: bool,
    generator: torch.Generator,
    num_steps: int = 1,
    context: Any = None,
    show_progress: bool | None = None,
) -> AISReport:
    """Estimate the log normaliser of exp(-energy) with chains that walk from draws of the target to the base.

    Args:
        energy: See `ais`.
        base: See `ais`.
        kernel: See `ais`.
        schedule: See `ais`; walked from 1 to 0.
        draws: Independent draws from the target to start from: n for each row of the context, row by row.
        draws_are_exact: Whether they are exact: only then is the estimate a bound. The end of a run of MCMC, however
            long, is not; draws of a model together with the data that it made are.
        generator: See `ais`.
        num_steps: See `ais`.
        context: See `ais`.
        show_progress: See `ais`.

    Returns:
        The estimate, which lies above log Z on average if the draws are exact.

    Raises:
        EnergyError: See `ais`.
        ParameterError: See `ais`.
        PositionError: If draws are not equally many for each row of the context.
    """
    walk = Walk(energy, base, kernel, draws, context, generator)
    log_weights, accept_prob = _gather(walk, schedule.stops()[::-1], num_steps, "reverse AIS", show_progress)
    return AISReport(
        direction="reverse",
        is_bound=bool(draws_are_exact),
        log_normalizer=base.log_normalizer - log_mean_weight(log_weights),
        log_weights=log_weights,
        position=walk.position,
        accept_prob=accept_prob,
    )


def _gather(
    walk: Walk, stops: list[tuple[float, Tensor | None]], num_steps: int, label: str, show_progress: bool | None
) -> tuple[Tensor, Tensor]:
    """Log weights (G, n) of chains that go from stop to stop, and the acceptance at those between the ends."""
    check_count("num_steps", num_steps, 1)
    log_weights: Tensor | float = 0.0
    accept_probs: list[float] = []
    with progress(len(stops) - 1, label, enabled=show_progress) as bar:
        for number, ((here, _), (there, step_size)) in enumerate(pairwise(stops), start=2):
            log_weights = log_weights + (there - here) * walk.work()
            if number < len(stops):
                accept_probs.append(float(walk.move(there, step_size, num_steps).mean()))
            bar.advance()
    assert isinstance(log_weights, Tensor)
    return log_weights.reshape(walk.num_groups, -1), torch.tensor(accept_probs, dtype=torch.float64)


def log_mean_weight(log_weights: Tensor) -> Tensor:
    """Log of the mean weight along the last axis."""
    return torch.logsumexp(log_weights, dim=-1) - math.log(log_weights.shape[-1])


def standard_error(log_weights: Tensor) -> Tensor:
    """Standard error of `log_mean_weight` by the delta method, where the last axis is of independent weights."""
    relative = torch.exp(log_weights - log_mean_weight(log_weights).unsqueeze(-1))  # of mean 1
    return relative.std(dim=-1) / math.sqrt(log_weights.shape[-1])


def effective_size(log_weights: Tensor) -> Tensor:
    """What weights along the last axis are worth: (sum w)^2 / sum w^2."""
    return 1 / torch.softmax(log_weights, dim=-1).square().sum(dim=-1)
