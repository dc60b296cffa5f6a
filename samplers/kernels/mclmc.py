"""MCLMC: microcanonical Langevin Monte Carlo, unadjusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..accept import accept, log_ratio
from ..adaptation.base import Adaptation
from ..checks import check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..noise import Site
from .isokinetic import check_dim, isokinetic_step, unit
from .momentum import MomentumKernel, MomentumState


class MCLMCParams(NamedTuple):
    """Parameters of MCLMC.

    Attributes:
        step_size: Time step; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        decoherence_length: Distance over which directions are forgotten, 0-d.
    """

    step_size: Tensor
    factor: Tensor
    decoherence_length: Tensor


@dataclass(frozen=True, kw_only=True)
class MCLMC(MomentumKernel[MCLMCParams]):
    """Microcanonical Langevin: motion at constant speed that slowly forgets its direction; every move is taken.

    Not exact: its law is off by O(step_size^2). The momentum in its state is the direction of motion, a unit vector.
    `energy_error` in its Info is the error of the integrator in one step; its variance over D, at most about 5e-4, is
    what the source tunes the step size by (section 4.2).

    Attributes:
        step_size: Time step, in units of the position (at unit mass). The speed is one: it is the length of a step.
        decoherence_length: Distance over which directions are forgotten; about the size of the target, sqrt(D) times
            its standard deviation.
        target_accept: None: there is no acceptance to adapt to.

    Source: Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311), algorithm 1, with the refreshment of equation
    (16). Differs: the leapfrog form of the integrator, one gradient per step; a move into NaN or out of the support is
    refused, with a new direction, and the former flagged.
    """

    step_size: float = 0.1
    decoherence_length: float = 1.0
    target_accept: None = None

    sites: ClassVar[Mapping[str, Site]] = {"xi": Site("normal", "D")}
    is_exact: ClassVar[bool] = False
    law: ClassVar[str] = "the target up to a bias of order step_size^2"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("decoherence_length", self.decoherence_length)

    def make_params(self, step_size: Tensor, factor: Tensor) -> MCLMCParams:
        """See `PlainKernel.make_params`."""
        return MCLMCParams(step_size, factor, factor.new_tensor(self.decoherence_length))

    def default_adaptation(self) -> Adaptation:
        """See `Kernel.default_adaptation`: step size and decoherence length."""
        from ..adaptation.microcanonical import Microcanonical  # it knows this kernel

        return Microcanonical()

    def init(self, target: Target, position: Tensor, params: MCLMCParams) -> MomentumState:
        """See `Kernel.init`."""
        check_dim("MCLMC", position.shape[1])
        return super().init(target, position, params)

    def step(
        self, target: Target, state: MomentumState, noise: Noise, params: MCLMCParams
    ) -> tuple[MomentumState, Info]:
        """See `Kernel.step`."""
        direction = _refresh(state, noise["xi"], params)
        place = State(state.position, state.energy, state.grad)
        moved, end, kinetic_change = isokinetic_step(target, place, direction, params.step_size, params.factor)
        settled = torch.zeros_like(state.is_fresh)
        ratio = log_ratio(state.energy, moved.energy, kinetic_change)
        # A refused chain would run into the same wall again: it starts anew, in any direction.
        return accept(
            MomentumState(*moved, end, settled),
            state._replace(is_fresh=~settled),
            ratio,
            None,
            torch.ones_like(ratio),
        )


def _refresh(state: MomentumState, xi: Tensor, params: MCLMCParams) -> Tensor:
    """Forget the direction by as much as one step asks for, or wholly where the chain is fresh."""
    dim = xi.shape[1]
    noise_scale = torch.sqrt(torch.expm1(2 * params.step_size / params.decoherence_length) / dim)
    return unit(torch.where(state.is_fresh, xi, state.momentum + noise_scale * xi))
