"""MAMS: the Metropolis-adjusted microcanonical sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..accept import accept, log_ratio
from ..adaptation.base import Adaptation
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..kernel import Noise, PlainKernel, State, StateLike
from ..loops import repeat_each
from ..noise import Site
from .isokinetic import check_dim, isokinetic_step, unit


class MAMSParams(NamedTuple):
    """Parameters of MAMS.

    Attributes:
        step_size: Time step, which is also the length of a step; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
        trajectory_length: Largest length of a trajectory, 0-d.
    """

    step_size: Tensor
    factor: Tensor
    trajectory_length: Tensor


class MAMSInfo(NamedTuple):
    """What a step tells: the fields of `Info`, and how far it flew.

    Attributes:
        accept_prob: See `Info`.
        is_accepted: See `Info`.
        is_divergent: See `Info`.
        energy: See `Info`.
        energy_error: See `Info`.
        num_grad_evals: See `Info`; also the number of steps.
        trajectory_length: Length of the flight, (C, 1).
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor
    trajectory_length: Tensor


@dataclass(frozen=True, kw_only=True)
class MAMS(PlainKernel[MAMSParams]):
    """Microcanonical dynamics with accept or reject: a fresh direction, a flight at constant speed, a decision.

    Exact. One gradient per step of a flight. Flights have a random length, uniform up to `trajectory_length` and the
    same for all chains, which move in step.

    Attributes:
        step_size: Time step, in units of the position (at unit mass). The speed is one: it is the length of a step.
        trajectory_length: Largest length of a flight; of the order of sqrt(D) times the target's standard deviation.
        max_steps: Most steps in a flight, whatever the length; it bounds what a step size gone wrong in warm-up may
            cost.
        target_accept: 0.9, as in the source: accepting more than HMC pays, as flights are long.

    Source: Robnik, Cohn-Gordon and Seljak (2025), arXiv 2503.01707, algorithm 1, with the directions refreshed wholly.
    Differs: the length of a flight is drawn uniformly rather than from a quasi-random sequence.
    """

    step_size: float = 0.1
    trajectory_length: float = 2.0
    max_steps: int = 1000
    target_accept: float = 0.9

    sites: ClassVar[Mapping[str, Site]] = {
        "direction": Site("normal", "D"),
        "length": Site("uniform", 1, is_shared=True),
        "u": Site("uniform", 1),
    }
    is_exact: ClassVar[bool] = True
    info_fields: ClassVar[tuple[str, ...]] = MAMSInfo._fields
    counted: ClassVar[tuple[str, ...]] = ("trajectory_length",)

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("trajectory_length", self.trajectory_length)
        check_count("max_steps", self.max_steps, 1)
        check_fraction("target_accept", self.target_accept)

    def make_params(self, step_size: Tensor, factor: Tensor) -> MAMSParams:
        """See `PlainKernel.make_params`."""
        return MAMSParams(step_size, factor, factor.new_tensor(self.trajectory_length))

    def default_adaptation(self) -> Adaptation:
        """See `Kernel.default_adaptation`: step size and length of flight."""
        from ..adaptation.microcanonical import Microcanonical  # it knows this kernel

        return Microcanonical()

    def init(self, target: Target, position: Tensor, params: MAMSParams) -> StateLike:
        """See `Kernel.init`."""
        check_dim("MAMS", position.shape[1])
        return super().init(target, position, params)

    def step(self, target: Target, state: State, noise: Noise, params: MAMSParams) -> tuple[State, MAMSInfo]:
        """See `Kernel.step`."""

        def fly(moved: State, direction: Tensor, change: Tensor) -> tuple[State, Tensor, Tensor]:
            moved, direction, more = isokinetic_step(target, moved, direction, params.step_size, params.factor)
            return moved, direction, change + more

        num_steps = (noise["length"] * params.trajectory_length / params.step_size).ceil().clamp(max=self.max_steps)
        num_steps = num_steps.double().expand_as(state.energy)
        start = (state, unit(noise["direction"]), torch.zeros_like(num_steps))
        proposed, _, kinetic_change = repeat_each(num_steps, fly, start)
        ratio = log_ratio(state.energy, proposed.energy, kinetic_change)
        chosen, info = accept(proposed, state, ratio, noise["u"], num_steps)
        return chosen, MAMSInfo(*info, num_steps * params.step_size)

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `Kernel.notes`."""
        return (f"Mean length of flights {means['trajectory_length'].mean():.3g}.",)
