"""MALT: Metropolis-adjusted Langevin trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..accept import accept, half_square, log_ratio
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..noise import Site
from .leapfrog import leapfrog
from .momentum import refresh
from .underdamped import FrictionKernel, FrictionParams


@dataclass(frozen=True, kw_only=True)
class MALT(FrictionKernel):
    """Metropolis-adjusted Langevin trajectories: HMC whose momentum suffers friction and noise on the way.

    Exact. One gradient per leapfrog step. A fresh momentum, then leapfrog steps with partial refreshments
    r' = a r + sqrt(1 - a^2) xi between them, a = exp(-friction step_size): OBABO trajectories. What is accepted or
    rejected is the whole of one, by the energy errors of its leapfrog steps alone. Nothing turns round, unlike in
    GHMC; and friction smooths away the resonances of HMC, which it becomes without friction. One step is MALA.

    Attributes:
        step_size: Time step h of the leapfrog integrator, in units of the position (at unit mass).
        num_leapfrog_steps: Leapfrog steps per trajectory; no parameter, as the noise of a step grows with it.
        friction: Per unit of time, > 0.
        target_accept: 0.8, for the reason that HMC has; 0.651 is optimal in high dimension (section 3 of the source).

    Source: Riou-Durand and Vogrinc (2022), arXiv 2202.13230, section 2. Differs: whitened by the inverse mass;
    halves of O that meet are joined.
    """

    step_size: float = 0.1
    num_leapfrog_steps: int = 10
    friction: float = 1.0
    target_accept: float = 0.8

    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_count("num_leapfrog_steps", self.num_leapfrog_steps, 1)
        check_positive("friction", self.friction)
        check_fraction("target_accept", self.target_accept)

    @property
    def sites(self) -> Mapping[str, Site]:
        """See `Kernel.sites`: a row of noise for each leapfrog step."""
        return {"xi": Site("normal", "D", times=self.num_leapfrog_steps), "u": Site("uniform", 1)}

    def step(self, target: Target, state: State, noise: Noise, params: FrictionParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        num = self.num_leapfrog_steps
        first, *others = noise["xi"].chunk(num, dim=1)
        proposed, end, work = _advance(target, state, first, params)
        for xi in others:
            start = refresh(end, xi, params.persistence)
            proposed, end, more = _advance(target, proposed, start, params)
            work = work + more
        ratio = log_ratio(state.energy, proposed.energy, work)
        return accept(proposed, state, ratio, noise["u"], torch.full_like(ratio, num))


def _advance(target: Target, state: State, start: Tensor, params: FrictionParams) -> tuple[State, Tensor, Tensor]:
    """One leapfrog step: where it leads, the momentum there, and what the kinetic energy gained."""
    there, end, _ = leapfrog(target, state, start, params.step_size, params.factor, 1)
    return there, end, half_square(end) - half_square(start)
