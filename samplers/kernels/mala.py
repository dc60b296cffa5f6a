"""MALA: the Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..accept import accept
from ..checks import check_fraction, check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..noise import Site
from .langevin import LangevinKernel, LangevinParams, log_hastings, propose


@dataclass(frozen=True, kw_only=True)
class MALA(LangevinKernel):
    """Metropolis-adjusted Langevin: ULA's move as a proposal, accepted or rejected.

    Exact. One gradient per step: that of the current position is carried along.

    Attributes:
        step_size: h in x' = x - h grad + sqrt(2 h) xi, in squared units of the position. The papers' s is
            h = s^2 / 2, see `step_size_from_noise_scale`.
        target_accept: 0.574, optimal in high dimension (Roberts and Rosenthal 1998, JRSS-B 60, theorem 2).

    Source: Roberts and Tweedie (1996), Bernoulli 2(4), section 1.4.2. Differs: preconditioned by the inverse
    mass.
    """

    step_size: float = 0.01
    target_accept: float = 0.574

    sites: ClassVar[Mapping[str, Site]] = {"xi": Site("normal", "D"), "u": Site("uniform", 1)}
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_fraction("target_accept", self.target_accept)

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_hastings(state, proposed, noise["xi"], params)
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))
