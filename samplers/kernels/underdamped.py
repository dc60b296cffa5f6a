"""Underdamped (kinetic) Langevin dynamics, unadjusted, in two splittings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..accept import accept, half_square, log_ratio
from ..checks import check_positive
from ..energy import Target
from ..errors import UnknownNameError
from ..kernel import Info, Noise, PlainKernel
from ..metric import from_white, to_white
from ..noise import Site
from .momentum import MomentumKernel, MomentumState, propose, refresh


class FrictionParams(NamedTuple):
    """Parameters of underdamped Langevin dynamics.

    Attributes:
        step_size: Time step; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        friction: Per unit of time; 0-d, or a column (C, 1).
    """

    step_size: Tensor
    factor: Tensor
    friction: Tensor

    @property
    def persistence(self) -> Tensor:
        """Share of the momentum that is left after a step's friction."""
        return torch.exp(-self.friction * self.step_size)


class FrictionKernel(PlainKernel[FrictionParams]):
    """A kernel with these parameters."""

    step_size: float
    friction: float

    def make_params(self, step_size: Tensor, factor: Tensor) -> FrictionParams:
        """See `PlainKernel.make_params`."""
        return FrictionParams(step_size, factor, factor.new_tensor(self.friction))


@dataclass(frozen=True, kw_only=True)
class UnderdampedLangevin(FrictionKernel, MomentumKernel[FrictionParams]):
    """Underdamped Langevin: dx = L r dt, dr = -L^T grad(x) dt - friction r dt + sqrt(2 friction) dW.

    Not exact: the law it leaves invariant is off by O(step_size^2). One gradient per step. Steps are composed of B
    (kick), A (drift) and O (friction and noise, solved exactly), and every move is taken, save that one into NaN or
    out of the support is refused, the former flagged, and the momentum turned round. `accept_prob` and
    `energy_error` are those that a Metropolis correction would have had, the work that the splitting does; they
    decide nothing. Exact relatives are `GHMC`, which corrects every step, and `MALT`, which corrects trajectories.

    On a Gaussian of precision K, with inverse mass P and step size h, positions have precision K under "baoab", at
    every h that is stable, and K - h^2 K P K / 4 under "obabo".

    Attributes:
        step_size: Time step h of the leapfrog kind, in units of the position (at unit mass); stable below
            2 / sqrt(k) for the largest k that P K has.
        friction: Per unit of time, > 0: momentum is forgotten in a time of 1 / friction. The overdamped limit is
            ULA with its step size h_ULA = step_size^2 / 2.
        splitting: "baoab" or "obabo". Of the latter, halves of O that meet are joined: r is taken before O.
        target_accept: None: there is no acceptance to adapt to.

    Source: Leimkuhler and Matthews (2013), Applied Mathematics Research eXpress 2013 (BAOAB); Bussi and
    Parrinello (2007), Physical Review E 75 (OBABO). Differs: whitened by the inverse mass; the refusal of NaN.
    """

    step_size: float = 0.1
    friction: float = 1.0
    splitting: Literal["baoab", "obabo"] = "baoab"
    target_accept: None = None

    sites: ClassVar[Mapping[str, Site]] = {"xi": Site("normal", "D")}
    is_exact: ClassVar[bool] = False
    law: ClassVar[str] = "the target up to a bias of order step_size^2"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("friction", self.friction)
        if self.splitting not in _SPLITTINGS:
            raise UnknownNameError("splitting", self.splitting, _SPLITTINGS)

    def step(
        self, target: Target, state: MomentumState, noise: Noise, params: FrictionParams
    ) -> tuple[MomentumState, Info]:
        """See `Kernel.step`."""
        proposed, turned, ratio = _SPLITTINGS[self.splitting](target, state, noise["xi"], params)
        return accept(proposed, turned, ratio, None, torch.ones_like(ratio))


def _baoab(
    target: Target, state: MomentumState, xi: Tensor, params: FrictionParams
) -> tuple[MomentumState, MomentumState, Tensor]:
    half = 0.5 * params.step_size
    # A fresh chain's noise is its first momentum; O leaves that alone.
    start = torch.where(state.is_fresh, xi, state.momentum)
    before = start - half * to_white(params.factor, state.grad)
    middle = state.position + half * from_white(params.factor, before)
    after = torch.where(state.is_fresh, before, refresh(before, xi, params.persistence))
    position = middle + half * from_white(params.factor, after)
    energy, grad = target(position)
    end = after - half * to_white(params.factor, grad)

    work = half_square(before) - half_square(start) + half_square(end) - half_square(after)
    is_fresh = torch.zeros_like(state.is_fresh)
    return (
        MomentumState(position, energy, grad, end, is_fresh),
        MomentumState(state.position, state.energy, state.grad, -start, is_fresh),
        log_ratio(state.energy, energy, work),
    )


def _obabo(
    target: Target, state: MomentumState, xi: Tensor, params: FrictionParams
) -> tuple[MomentumState, MomentumState, Tensor]:
    return propose(target, state, xi, params.persistence, params.step_size, params.factor, 1)


_Splitting = Callable[[Target, MomentumState, Tensor, FrictionParams], tuple[MomentumState, MomentumState, Tensor]]
_SPLITTINGS: Mapping[str, _Splitting] = {"baoab": _baoab, "obabo": _obabo}
