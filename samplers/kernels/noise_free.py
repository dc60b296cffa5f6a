"""Langevin dynamics without its noise, which some recipes of latent energy-based models run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..accept import accept, half_square, log_ratio
from ..checks import check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..metric import from_white, to_white
from ..noise import Site
from .langevin import LangevinKernel, LangevinParams


@dataclass(frozen=True, kw_only=True)
class NoiseFreeLangevin(LangevinKernel):
    """Langevin without noise: x' = x - h P grad(x), which is gradient descent.

    It samples nothing: chains descend the energy to the nearest local minimum, and their spread means nothing. Here
    to reproduce and to compare with recipes that do this and call it sampling. `energy_error` is the change of the
    energy, so that `accept_prob` is 1 where a step descends; they decide nothing, save that a move into NaN or out of
    the support is refused and the former flagged.

    Attributes:
        step_size: h, in squared units of the position, as in ULA.
        target_accept: None: there is no acceptance to adapt to.
    """

    step_size: float = 0.01
    target_accept: None = None

    sites: ClassVar[Mapping[str, Site]] = {}
    is_exact: ClassVar[bool] = False
    law: ClassVar[str] = "no density: it descends the energy"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        drift = params.step_size * from_white(params.factor, to_white(params.factor, state.grad))
        position = state.position - drift
        proposed = State(position, *target(position))
        # Zero times the gradient: a move to where it is undefined is not only refused but flagged.
        ratio = log_ratio(state.energy, proposed.energy, 0 * half_square(proposed.grad))
        return accept(proposed, state, ratio, None, torch.ones_like(ratio))
