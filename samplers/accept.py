"""Accept or reject: the one rule of all kernels (Metropolis et al. 1953, Hastings 1970).

- NaN anywhere in the comparison rejects and is flagged as a divergence. So does a proposal of energy minus
  infinity, from which no chain could ever leave.
- Plus infinity as the proposed energy (outside the support) is a plain rejection; a chain that stands there itself,
  as one may whose energy was changed under it, takes any proposal inside.
- An energy error beyond +-1000 is flagged as a divergence; it decides nothing.
- An unadjusted kernel takes each move to where a chain can stand, and only tells what an adjusted one would compare. So
  a chain that stands on NaN itself, as one may whose energy was changed under it, is flagged, but leaves.

Nothing is replaced by zero, and no energy is clamped. The comparison is made in float64.
"""

from __future__ import annotations

import functools
import math
from typing import TypeVar, cast

import torch
from torch import Tensor

from .kernel import Info, StateLike
from .loops import SHORT_ROW, select, values_are_at_hand

DIVERGENCE_THRESHOLD = 1000.0
"""|energy error| in nats beyond which a step is flagged (Stan's value)."""

StateT = TypeVar("StateT", bound=StateLike)


def accept(
    proposed: StateT, current: StateT, log_ratio: Tensor, uniform: Tensor | None, num_grad_evals: Tensor
) -> tuple[StateT, Info]:
    """Choose between two states, chain by chain.

    Args:
        proposed: Where the chains might go.
        current: Where they are.
        log_ratio: Log of the Metropolis-Hastings ratio, (C, 1), float64.
        uniform: Uniform noise on (0, 1], (C, 1). None accepts every move to where a chain can stand, which is how an
            unadjusted kernel keeps out of NaN.
        num_grad_evals: Gradients spent on the proposal, (C, 1).

    Returns:
        The chosen state, and what happened.
    """
    log_ratio, is_divergent = _flagged(log_ratio, proposed.energy)
    accept_prob = torch.exp(torch.clamp(log_ratio, max=0.0))
    is_accepted = can_stand(proposed) if uniform is None else uniform <= accept_prob
    state = select(is_accepted, proposed, current)
    info = Info(
        accept_prob=accept_prob,
        is_accepted=is_accepted,
        is_divergent=is_divergent,
        energy=state.energy,
        energy_error=-log_ratio,
        num_grad_evals=num_grad_evals,
    )
    return state, info


def _flagged(log_ratio: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """The log ratio, minus infinity where it is undefined, and which chains diverged.

    Args:
        log_ratio: See `accept`.
        proposed: Energies there, which make the ratio infinite or NaN where they are so.
    """
    if values_are_at_hand(log_ratio):
        lowest, highest = map(float, torch.aminmax(log_ratio))
        if lowest >= -DIVERGENCE_THRESHOLD and highest <= DIVERGENCE_THRESHOLD:
            return log_ratio, torch.zeros_like(log_ratio, dtype=torch.bool)  # as in nearly all steps
    is_undefined = torch.isnan(log_ratio) | (proposed == -torch.inf)
    log_ratio = torch.where(is_undefined, -torch.inf, log_ratio)
    size = log_ratio.abs()
    return log_ratio, is_undefined | ((size > DIVERGENCE_THRESHOLD) & (size < torch.inf))


def can_stand(state: StateLike) -> Tensor:
    """Whether position, energy, gradient and what else a state holds are finite, (C, 1).

    Programs look at their sum, which only overflows sooner where numbers are next to the largest there are.
    """
    numbers = _numbers(state)
    if not values_are_at_hand(state.energy):
        return functools.reduce(torch.add, map(row_sum, numbers)).abs() < torch.inf  # false of NaN
    if _all_finite(state):
        return torch.ones_like(state.energy, dtype=torch.bool)
    return functools.reduce(torch.logical_and, (torch.isfinite(field).all(1, keepdim=True) for field in numbers))


def where_chains_can_stand(proposed: StateT, current: StateT) -> StateT:
    """The proposed state, save for chains that cannot stand there: they stay."""
    if values_are_at_hand(proposed.energy) and _all_finite(proposed):
        return proposed  # torch.where would take as long as a cheap energy
    return select(can_stand(proposed), proposed, current)


def _all_finite(state: StateLike) -> bool:
    """Whether a look tells that all numbers are finite: where their sums are."""
    for field in cast(tuple[Tensor, ...], state):
        if field.is_floating_point() and not math.isfinite(field if field.numel() == 1 else field.sum()):
            return False
    return True


def _numbers(state: StateLike) -> list[Tensor]:
    """All but integers and truths; energies last, since position and gradient may be forms of the same numbers."""
    fields = (field for field in cast(tuple[Tensor, ...], state) if field is not state.energy)
    return [*filter(Tensor.is_floating_point, fields), state.energy]


def log_ratio(current: Tensor, proposed: Tensor, kinetic_change: Tensor) -> Tensor:
    """Log Metropolis ratio from energies and the change of the kinetic energy, columns (C, 1), in float64.

    For proposals without a momentum, `kinetic_change` is log q(x'|x) - log q(x|x').
    """
    return energy_drop(current, proposed) - kinetic_change


def energy_drop(current: Tensor, proposed: Tensor) -> Tensor:
    """By how much energies are lower where a chain might go, columns (C, 1), in float64."""
    return current.double() - proposed  # which is widened as well


def half_square(r: Tensor) -> Tensor:
    """|r|^2 / 2 of every row, a column (C, 1) in float64: kinetic energy of a whitened momentum."""
    return 0.5 * row_sum(r.double().square())


def row_sum(terms: Tensor) -> Tensor:
    """The sum of every row, a column (C, 1)."""
    if terms.shape[1] == 1:
        return terms
    if terms.shape[1] > SHORT_ROW:
        return terms.sum(dim=1, keepdim=True)
    return functools.reduce(torch.add, terms.unbind(dim=1)).unsqueeze(1)
