"""RWM: random-walk Metropolis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..accept import accept, log_ratio
from ..checks import check_fraction, check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..metric import from_white
from ..noise import Site
from .walk import WalkKernel, WalkParams


@dataclass(frozen=True, kw_only=True)
class RWM(WalkKernel):
    """Random-walk Metropolis: x' = x + s L xi, accepted or rejected by the energies alone.

    Exact, for any energy, whether it can be differentiated or not: no gradient is ever asked for. So the `grad` of
    its state is empty, (C, 0), and `num_grad_evals` is 0; its cost is one energy per step, which is to be compared
    by the clock.

    Attributes:
        step_size: s, in units of the position (at unit mass): each coordinate of a proposal is about s away.
        target_accept: 0.234, optimal in high dimension (Roberts, Gelman and Gilks 1997, Annals of Applied
            Probability 7, corollary 1.2).

    Source: Metropolis et al. (1953), Journal of Chemical Physics 21. Differs: normal moves with covariance s^2 L L^T.
    """

    step_size: float = 0.1
    target_accept: float = 0.234

    sites: ClassVar[Mapping[str, Site]] = {"xi": Site("normal", "D"), "u": Site("uniform", 1)}
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_fraction("target_accept", self.target_accept)

    def init(self, target: Target, position: Tensor, params: WalkParams) -> State:
        """See `Kernel.init`; without a gradient."""
        return _state(target, position)

    def step(self, target: Target, state: State, noise: Noise, params: WalkParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        proposed = _state(target, state.position + params.step_size * from_white(params.factor, noise["xi"]))
        no_change = torch.zeros_like(state.energy, dtype=torch.float64)
        ratio = log_ratio(state.energy, proposed.energy, no_change)
        return accept(proposed, state, ratio, noise["u"], torch.zeros_like(ratio))


def _state(target: Target, position: Tensor) -> State:
    return State(position, target.energy(position), position[:, :0])
