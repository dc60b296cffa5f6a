"""GHMC: generalised Hamiltonian Monte Carlo, whose momentum persists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..accept import accept
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..errors import ParameterError
from ..kernel import Info, Noise
from ..noise import Site
from .momentum import MomentumKernel, MomentumState, propose


class GHMCParams(NamedTuple):
    """Parameters of GHMC.

    Attributes:
        step_size: Time step of the leapfrog integrator; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        num_leapfrog_steps: A run-time integer.
        persistence: Share a of the momentum that a step keeps, in [0, 1); 0-d, or a column (C, 1).
    """

    step_size: Tensor
    factor: Tensor
    num_leapfrog_steps: int
    persistence: Tensor


@dataclass(frozen=True, kw_only=True)
class GHMC(MomentumKernel[GHMCParams]):
    """Generalised HMC: the momentum is refreshed in part, r' = a r + sqrt(1 - a^2) xi, and turns round on rejection.

    Exact for position and momentum together. One gradient per leapfrog step. Without persistence it is HMC. With one
    leapfrog step and a = exp(-friction step_size) it is underdamped Langevin dynamics with a Metropolis correction,
    OBABO with neighbouring halves of O joined; see `UnderdampedLangevin`, and `MALT` for whole trajectories of it.

    Attributes:
        step_size: Time step of the leapfrog integrator, in units of the position (at unit mass).
        num_leapfrog_steps: Leapfrog steps between refreshments.
        persistence: a, in [0, 1).
        target_accept: 0.9. Our choice, higher than for HMC: each rejection sends a chain back the way it came, which
            undoes what persistence is for (Neal 2011, section 5.5.3).

    Source: Horowitz (1991), Physics Letters B 268; Neal (2011), Handbook of MCMC, chapter 5, section 5.5.3.
    """

    step_size: float = 0.1
    num_leapfrog_steps: int = 1
    persistence: float = 0.9
    target_accept: float = 0.9

    sites: ClassVar[Mapping[str, Site]] = {"momentum": Site("normal", "D"), "u": Site("uniform", 1)}
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_count("num_leapfrog_steps", self.num_leapfrog_steps, 1)
        check_fraction("target_accept", self.target_accept)
        if not isinstance(self.persistence, Real) or not 0 <= float(self.persistence) < 1:
            raise ParameterError(f"persistence must lie in [0, 1); got {self.persistence!r}.")

    def make_params(self, step_size: Tensor, factor: Tensor) -> GHMCParams:
        """See `PlainKernel.make_params`."""
        return GHMCParams(step_size, factor, self.num_leapfrog_steps, factor.new_tensor(self.persistence))

    def step(
        self, target: Target, state: MomentumState, noise: Noise, params: GHMCParams
    ) -> tuple[MomentumState, Info]:
        """See `Kernel.step`."""
        num = params.num_leapfrog_steps
        proposed, turned, ratio = propose(
            target, state, noise["momentum"], params.persistence, params.step_size, params.factor, num
        )
        return accept(proposed, turned, ratio, noise["u"], torch.full_like(ratio, num))
