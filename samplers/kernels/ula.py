"""ULA: the unadjusted Langevin algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..accept import accept, where_chains_can_stand
from ..checks import check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..noise import Site
from .langevin import LangevinKernel, LangevinParams, log_hastings, propose


@dataclass(frozen=True, kw_only=True)
class ULA(LangevinKernel):
    """Unadjusted Langevin: x' = x - h grad(x) + sqrt(2 h) xi, and every move is taken.

    Not exact: it leaves a law invariant that is off by O(h); on a Gaussian of precision k its variance is
    1 / (k (1 - h k / 2)). `accept_prob` and `energy_error` in its Info are those that MALA would have had, a
    free probe of that bias; they decide nothing, save that a move into NaN or out of the support is refused
    and the former flagged.

    Attributes:
        step_size: h, in squared units of the position. The papers' s (drift s^2/2, noise s) is h = s^2 / 2,
            see `step_size_from_noise_scale`.
        target_accept: None: there is no acceptance to adapt to.

    Source: Roberts and Tweedie (1996), Bernoulli 2(4), section 1.4.1. Differs: preconditioned by the inverse
    mass; the refusal of NaN.
    """

    step_size: float = 0.01
    target_accept: None = None

    sites: ClassVar[Mapping[str, Site]] = {"xi": Site("normal", "D")}
    is_exact: ClassVar[bool] = False
    law: ClassVar[str] = "the target up to a bias of order step_size"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_hastings(state, proposed, noise["xi"], params)
        return accept(proposed, state, ratio, None, torch.ones_like(ratio))

    def move(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> State:
        """See `Kernel.move`: without the ratio, which decides nothing."""
        return where_chains_can_stand(propose(target, state, noise["xi"], params), state)
