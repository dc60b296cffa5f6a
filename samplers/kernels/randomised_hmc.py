"""Randomised HMC: Hamiltonian Monte Carlo whose trajectories have random lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ..accept import accept, half_square, log_ratio
from ..adaptation.base import Adaptation
from ..adaptation.chees import ChEES
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..kernel import Noise, PlainKernel, State
from ..loops import repeat_each
from ..metric import from_white
from ..noise import Site
from .leapfrog import leapfrog


class RandomisedHMCParams(NamedTuple):
    """Parameters of randomised HMC.

    Attributes:
        step_size: Time step of the leapfrog integrator; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        trajectory_length: Longest time of a trajectory; 0-d, or a column (C, 1).
    """

    step_size: Tensor
    factor: Tensor
    trajectory_length: Tensor


class RandomisedHMCInfo(NamedTuple):
    """What a step tells: the fields of `Info`, and what `ChEES` learns from.

    Attributes:
        accept_prob: See `Info`.
        is_accepted: See `Info`.
        is_divergent: See `Info`.
        energy: See `Info`.
        energy_error: See `Info`.
        num_grad_evals: See `Info`; also the number of leapfrog steps.
        total_energy: See `HMCInfo`.
        trajectory_length: Time of the trajectory, (C, 1).
        proposal: Where it ended, (C, D); not finite where it diverged.
        velocity: Velocity there, L r, (C, D).
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor
    total_energy: Tensor
    trajectory_length: Tensor
    proposal: Tensor
    velocity: Tensor


@dataclass(frozen=True, kw_only=True)
class RandomisedHMC(PlainKernel[RandomisedHMCParams]):
    """HMC with ceil(u T / h) leapfrog steps, u uniform on (0, 1], drawn anew for every step.

    Exact. One gradient per leapfrog step. Random lengths keep trajectories off the periods of the target, and leave a
    single scale to tune, T, which `ChEES` finds; it is the default adaptation and wants two chains or more.

    All chains share u, so that they take equally many leapfrog steps and none waits for another (unless they have
    step sizes of their own). Each chain is as exact as with a u of its own.

    Attributes:
        step_size: h, time step of the leapfrog integrator, in units of the position (at unit mass).
        trajectory_length: T, the longest time of a trajectory; trajectories take half of it on average.
        max_leapfrog_steps: Most leapfrog steps in a trajectory, whatever T / h; it bounds what a step size gone wrong
            in warm-up may cost.
        target_accept: 0.651, optimal in high dimension (Beskos et al. 2013, Bernoulli 19). `ChEES` holds a harmonic
            mean over chains to it, which is more careful.

    Source: Hoffman, Radul and Sountsov (2021), AISTATS, PMLR 130, section 2.2 and algorithm 1. Differs: u is
    uniform noise, not a Halton sequence; whitened by the inverse mass.
    """

    step_size: float = 0.1
    trajectory_length: float = 1.0
    max_leapfrog_steps: int = 1000
    target_accept: float = 0.651

    sites: ClassVar[Mapping[str, Site]] = {
        "momentum": Site("normal", "D"),
        "length": Site("uniform", 1, is_shared=True),
        "u": Site("uniform", 1),
    }
    is_exact: ClassVar[bool] = True
    info_fields: ClassVar[tuple[str, ...]] = RandomisedHMCInfo._fields
    counted: ClassVar[tuple[str, ...]] = ("trajectory_length",)

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("trajectory_length", self.trajectory_length)
        check_count("max_leapfrog_steps", self.max_leapfrog_steps, 1)
        check_fraction("target_accept", self.target_accept)

    def make_params(self, step_size: Tensor, factor: Tensor) -> RandomisedHMCParams:
        """See `PlainKernel.make_params`."""
        return RandomisedHMCParams(step_size, factor, factor.new_tensor(self.trajectory_length))

    def step(
        self, target: Target, state: State, noise: Noise, params: RandomisedHMCParams
    ) -> tuple[State, RandomisedHMCInfo]:
        """See `Kernel.step`."""

        def move(moved: State, momentum: Tensor) -> tuple[State, Tensor]:
            return leapfrog(target, moved, momentum, params.step_size, params.factor, 1)[:2]

        longest = params.trajectory_length.double() / params.step_size.double()
        num_steps = (noise["length"] * longest).ceil().clamp(max=self.max_leapfrog_steps)
        num_steps = num_steps.to(state.energy.dtype).expand_as(state.energy)
        start = noise["momentum"]
        proposed, end = repeat_each(num_steps, move, (state, start))
        kinetic = half_square(start)
        ratio = log_ratio(state.energy, proposed.energy, half_square(end) - kinetic)
        chosen, info = accept(proposed, state, ratio, noise["u"], num_steps)
        total, length = state.energy + kinetic, num_steps * params.step_size
        return chosen, RandomisedHMCInfo(*info, total, length, proposed.position, from_white(params.factor, end))

    def default_adaptation(self) -> Adaptation:
        """See `Kernel.default_adaptation`: step size and trajectory length."""
        return ChEES()

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `Kernel.notes`."""
        return (f"Mean trajectory length {means['trajectory_length'].mean():.3g}.",)
