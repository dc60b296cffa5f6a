"""HMC: Hamiltonian Monte Carlo with static trajectories, optionally jittered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..accept import accept, half_square, log_ratio
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..errors import ParameterError
from ..kernel import Noise, PlainKernel, State
from ..noise import Site
from .leapfrog import leapfrog


class HMCParams(NamedTuple):
    """Parameters of HMC.

    Attributes:
        step_size: Time step of the leapfrog integrator; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        num_leapfrog_steps: A run-time integer.
        jitter: 0-d, in [0, 1); of no effect where the kernel has none.
    """

    step_size: Tensor
    factor: Tensor
    num_leapfrog_steps: int
    jitter: Tensor


class HMCInfo(NamedTuple):
    """What a step tells: the fields of `Info`, and the energy that `ebfmi` asks for.

    Attributes:
        accept_prob: See `Info`.
        is_accepted: See `Info`.
        is_divergent: See `Info`.
        energy: See `Info`.
        energy_error: See `Info`.
        num_grad_evals: See `Info`.
        total_energy: Potential and kinetic, at the start of the trajectory, (C, 1) in float64.
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor
    total_energy: Tensor


@dataclass(frozen=True, kw_only=True)
class HMC(PlainKernel[HMCParams]):
    """Hamiltonian Monte Carlo: a fresh momentum, a leapfrog trajectory, accept or reject.

    Exact. One gradient per leapfrog step.

    Attributes:
        step_size: Time step of the leapfrog integrator, in units of the position (at unit mass).
        num_leapfrog_steps: Leapfrog steps per trajectory.
        jitter: Trajectory lengths vary by this fraction: chain by chain and step by step the time step is
            multiplied by a uniform draw from [1 - jitter, 1 + jitter], which keeps trajectories off the
            periods of the target. 0 for none.
        target_accept: 0.8, above the 0.651 that is optimal for ever longer trajectories in high dimension
            (Beskos et al. 2013, Bernoulli 19), as in Stan: safer where curvature varies.

    Source: Neal (2011), Handbook of MCMC, chapter 5, figure 2; jitter of the time step: ibid., section 5.4.2.2.
    """

    step_size: float = 0.1
    num_leapfrog_steps: int = 10
    jitter: float = 0.0
    target_accept: float = 0.8

    is_exact: ClassVar[bool] = True
    info_fields: ClassVar[tuple[str, ...]] = HMCInfo._fields

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_count("num_leapfrog_steps", self.num_leapfrog_steps, 1)
        check_fraction("target_accept", self.target_accept)
        if not isinstance(self.jitter, Real) or not 0 <= float(self.jitter) < 1:
            raise ParameterError(f"jitter must lie in [0, 1); got {self.jitter!r}.")

    @property
    def sites(self) -> Mapping[str, Site]:
        """See `Kernel.sites`."""
        always = {"momentum": Site("normal", "D"), "u": Site("uniform", 1)}
        return always | {"jitter": Site("uniform", 1)} if self.jitter else always

    def make_params(self, step_size: Tensor, factor: Tensor) -> HMCParams:
        """See `PlainKernel.make_params`."""
        return HMCParams(step_size, factor, self.num_leapfrog_steps, factor.new_tensor(self.jitter))

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, HMCInfo]:
        """See `Kernel.step`."""
        start = noise["momentum"]
        if self.jitter:
            spread = params.jitter * (2 * noise["jitter"] - 1).to(params.step_size.dtype)
            params = params._replace(step_size=params.step_size * (1 + spread))
        proposed, end = self.trajectory(target, state, start, params)
        kinetic = half_square(start)
        ratio = log_ratio(state.energy, proposed.energy, half_square(end) - kinetic)
        num_grad_evals = torch.full_like(ratio, params.num_leapfrog_steps)
        chosen, info = accept(proposed, state, ratio, noise["u"], num_grad_evals)
        return chosen, HMCInfo(*info, state.energy + kinetic)

    def trajectory(self, target: Target, state: State, momentum: Tensor, params: HMCParams) -> tuple[State, Tensor]:
        """Where a step from this state and whitened momentum would end, and the momentum there."""
        proposed, end, _ = leapfrog(target, state, momentum, params.step_size, params.factor, params.num_leapfrog_steps)
        return proposed, end
