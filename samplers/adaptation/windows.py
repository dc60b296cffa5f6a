"""Windows: learn the mass in ever longer windows, and everything else anew after each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ParameterError
from ..kernel import InfoLike, Kernel, StateLike, with_factor
from .base import Adaptation
from .dual_averaging import DualAveraging
from .welford import Mass, Moments, add_draws, mass_factor, no_moments

POOLED_FROM = 20
"""Chains from which on `Windows` pools them: their first window, of 25 steps, holds as many draws as the last one of a
single chain, 500 steps of 1000."""


def stan_windows(num_steps: int) -> tuple[int, ...]:
    """Where Stan's windows lie in a warm-up: the first starts at the first entry, each ends where the next starts.

    75 steps come before them, 50 after; they take 25, 50, 100, ... steps, and the last one all that is left, if that
    would not do for another one twice as long. In less than 150 steps there is one window, of 75 %, with 15 % before
    and 10 % after; in less than 20 none.

    Source: Stan Development Team, Stan Reference Manual, section "Automatic parameter tuning" of the chapter on MCMC;
    `stan/mcmc/windowed_adaptation.hpp`.
    """
    if num_steps < 20:
        return ()
    before, size, after = 75, 25, 50
    if before + size + after > num_steps:
        before, after = int(0.15 * num_steps), int(0.1 * num_steps)
        size = num_steps - before - after
    last = num_steps - after
    bounds = [before, before + size]
    while bounds[-1] < last:
        size *= 2
        bound = bounds[-1] + size
        bounds.append(bound if bound + 2 * size <= last else last)
    return tuple(bounds)


class WindowsState(NamedTuple):
    """Where windowed adaptation stands.

    Attributes:
        step_size: State of what adapts all but the mass.
        moments: Of the draws in this window so far.
        num_steps: Updates to come in all.
        num_updates: Updates so far.
        pooled: Whether chains share a mass.
    """

    step_size: Any
    moments: Moments
    num_steps: int
    num_updates: int
    pooled: bool


@dataclass(frozen=True, kw_only=True)
class Windows(Adaptation):
    """Stan's warm-up: the inverse mass becomes the covariance of each window's draws.

    After each window the step size, and whatever else is adapted with it, starts afresh from its averaged iterate; a
    trajectory length, from what takes a chain as far along the widest direction with the new mass as with the old. Few
    long chains get a mass each, as in Stan, and so stay independent of each other; many short ones are pooled, and
    then know the covariance after one window. Chains whose contexts differ have targets that differ, and are not to be
    pooled: say `pooled=False`, here and in `DualAveraging`.

    Attributes:
        step_size: Adapts all but the mass: `DualAveraging`, or `ChEES` for `RandomisedHMC`.
        mass: "diagonal", or "dense" for correlated targets of up to some hundreds of dimensions.
        pooled: One mass for all chains, or one for each; None pools from 20 chains on.

    Source: Stan Development Team, Stan Reference Manual, section "Automatic parameter tuning" of the chapter on MCMC.
    Differs: no search for a step size at the start of a window; the averaged one is where it starts, as in BlackJAX.
    """

    step_size: Adaptation = field(default_factory=DualAveraging)
    mass: Mass = "diagonal"
    pooled: bool | None = None

    def __post_init__(self) -> None:
        if self.mass not in ("diagonal", "dense"):
            raise ParameterError(f'mass must be "diagonal" or "dense"; got {self.mass!r}.')

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return self.step_size.aim(kernel)

    def acceptance(self, accept_prob: Tensor) -> Tensor:
        """See `Adaptation.acceptance`."""
        return self.step_size.acceptance(accept_prob)

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> WindowsState:
        """See `Adaptation.init`."""
        pooled = len(state.position) >= POOLED_FROM if self.pooled is None else self.pooled
        moments = no_moments(state.position, self.mass, pooled=pooled)
        return WindowsState(self.step_size.init(kernel, params, state, num_steps), moments, num_steps, 0, pooled)

    def update(
        self, adapted: WindowsState, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[WindowsState, Any]:
        """See `Adaptation.update`."""
        inner, params = self.step_size.update(adapted.step_size, kernel, params, state, info)
        count = adapted.num_updates + 1
        adapted = adapted._replace(step_size=inner, num_updates=count)
        bounds = stan_windows(adapted.num_steps)
        if not bounds or not bounds[0] < count <= bounds[-1]:
            return adapted, params
        moments = add_draws(adapted.moments, state.position)
        if count not in bounds:
            return adapted._replace(moments=moments), params
        factor = mass_factor(moments, pooled=adapted.pooled)
        params = _with_mass(self.step_size.final(inner, kernel, params), factor)
        inner = self.step_size.init(kernel, params, state, adapted.num_steps - count)
        moments = no_moments(state.position, self.mass, pooled=adapted.pooled)
        return adapted._replace(step_size=inner, moments=moments), params

    def final(self, adapted: WindowsState, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`."""
        return self.step_size.final(adapted.step_size, kernel, params)

    def notes(self, adapted: WindowsState) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        whose = "shared by all chains" if adapted.pooled else "for each chain"
        learnt = f"A {self.mass} mass {whose} was learnt in {max(len(stan_windows(adapted.num_steps)) - 1, 0)} windows."
        return (learnt, *self.step_size.notes(adapted.step_size))


def _with_mass(params: Any, factor: Tensor) -> Any:
    if hasattr(params, "trajectory_length"):
        length = params.trajectory_length * _width(params.factor) / _width(factor)
        params = params._replace(trajectory_length=length.to(params.trajectory_length.dtype))
    return with_factor(params, factor)


def _width(factor: Tensor) -> Tensor:
    """Standard deviation of the widest direction of N(0, L L^T), a mean over chains that have an L each; 0-d."""
    is_dense = factor.ndim > 1 and factor.shape[-2] > 1
    widths: Tensor = torch.linalg.matrix_norm(factor, ord=2) if is_dense else factor.expand(1, *factor.shape).amax(-1)
    return widths.double().mean()
