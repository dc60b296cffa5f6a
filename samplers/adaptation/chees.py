"""ChEES: the trajectory length of randomised HMC, by gradient ascent on a criterion over many chains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_positive
from ..errors import ParameterError
from ..kernel import Kernel, StateLike
from .base import Adaptation
from .dual_averaging import DualAveraging, DualAveragingState

LARGEST_CHANGE = 0.35
"""Limit on one change of the log trajectory length, about log(2) / 2, as in TensorFlow Probability."""


class ChEESState(NamedTuple):
    """Where ChEES stands.

    Attributes:
        step_size: State of the dual averaging of the step size.
        position: Where the next step starts, (C, D).
        log_length: Log of the trajectory length to use next, 0-d like all that follows.
        log_average: Log of its averaged iterate: what `final` returns.
        square: Running mean of squared gradients.
        num_updates: Updates so far.
    """

    step_size: DualAveragingState | None
    position: Tensor
    log_length: Tensor
    log_average: Tensor
    square: Tensor
    num_updates: Tensor


@dataclass(frozen=True, kw_only=True)
class ChEES(Adaptation):
    """Maximise the change in the estimator of the expected square, for `RandomisedHMC`.

    The criterion is 1/4 E[(|x' - E x'|^2 - |x - E x|^2)^2] for a trajectory from x to x'. Its derivative by the log of
    the trajectory's time t is E[t (|x' - E x'|^2 - |x - E x|^2) (x' - E x')^T v'], v' being the velocity at the end.
    Means are over chains, so it takes many: two at least, some tens to be of use. Unlike the expected squared jump, it
    is not fooled by proposals on the other side of the mean, which tell nothing of variances.

    The trajectory length starts where the parameters have it. Start short, at no more than about twice the width of the
    target: periodic motion gives the criterion further, lower maxima at longer times.

    The step size is found by dual averaging of the harmonic mean of acceptance over chains. That lies below their mean,
    so chains accept more often than aimed for: few rejecting chains among many accepting ones count.

    Attributes:
        step_size: Dual averaging of the step size, pooled. Its target acceptance, or else the kernel's, is for the
            harmonic mean.
        learning_rate: Change of the log trajectory length at a typical gradient.
        forgetting: Weight of the latest squared gradient in their running mean: Adam's 1 - beta_2.

    Source: Hoffman, Radul and Sountsov (2021), AISTATS, PMLR 130, section 3 and algorithm 1. Details as in TensorFlow
    Probability: Adam without momentum (beta_1 = 0), changes limited to +-0.35, iterates averaged with weights
    1 / sqrt(n), no chains of acceptance below 1e-4, means of proposals weighted by acceptance. Differs from both in
    the noise, see `RandomisedHMC`, and from the latter in the harmonic mean; from BlackJAX in that trajectories in
    warm-up follow the iterate, not its average.
    """

    step_size: DualAveraging = field(default_factory=DualAveraging)
    learning_rate: float = 0.025
    forgetting: float = 0.05

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("forgetting", self.forgetting)
        if not self.step_size.pooled:
            raise ParameterError("ChEES learns from chains that share a step size; give it DualAveraging(pooled=True).")

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return self.step_size.aim(kernel)

    def acceptance(self, accept_prob: Tensor) -> Tensor:
        """The harmonic mean over chains."""
        return 1 / (1 / accept_prob).mean(dim=0)

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> ChEESState:
        """See `Adaptation.init`.

        Raises:
            ParameterError: If the kernel has no trajectory length, or there is only one chain.
        """
        if not {"trajectory_length", "proposal", "velocity"} <= set(kernel.info_fields):
            raise ParameterError(
                f"ChEES adapts kernels with a trajectory length, such as RandomisedHMC; got {type(kernel).__name__}."
            )
        if len(state.position) < 2:
            raise ParameterError(
                "ChEES compares chains and needs two at least, better some tens; got one. Start more chains, or pass "
                "adaptation=DualAveraging() and choose a trajectory length."
            )
        log_length = params.trajectory_length.double().log().mean()
        zero = torch.zeros_like(log_length)
        adapted = self.step_size.init(kernel, params, state, num_steps)
        return ChEESState(adapted, state.position, log_length, log_length, zero, zero)

    def update(
        self, adapted: ChEESState, kernel: Any, params: Any, state: StateLike, info: Any
    ) -> tuple[ChEESState, Any]:
        """See `Adaptation.update`."""
        step_adapted, params = self.step_size.update(
            adapted.step_size, kernel, params, state, info._replace(accept_prob=self.acceptance(info.accept_prob)[None])
        )
        count = adapted.num_updates + 1
        gradient = chees_gradient(adapted.position, info)
        square = (1 - self.forgetting) * adapted.square + self.forgetting * gradient.square()
        typical = (square / (1 - (1 - self.forgetting) ** count)).sqrt() + 1e-30
        change = (self.learning_rate * gradient / typical).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        longest = (kernel.innermost.max_leapfrog_steps * params.step_size.double()).log()
        log_length = torch.minimum(adapted.log_length + change, longest)
        weight = count.rsqrt()
        log_average = weight * log_length + (1 - weight) * adapted.log_average
        adapted = ChEESState(step_adapted, state.position, log_length, log_average, square, count)
        return adapted, _with_length(params, log_length)

    def final(self, adapted: ChEESState, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`: the averaged iterates."""
        return _with_length(self.step_size.final(adapted.step_size, kernel, params), adapted.log_average)

    def notes(self, adapted: ChEESState) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        return (
            f"ChEES settled at a trajectory length of {adapted.log_average.exp():.3g}, and aimed for its acceptance "
            "with the harmonic mean over chains, which lies below the mean.",
        )


def chees_gradient(start: Tensor, info: Any) -> Tensor:
    """Derivative of the criterion by the log of the trajectory length, 0-d in float64.

    Chains count by their acceptance; those that diverged do not.

    Args:
        start: Where the trajectories started, (C, D).
        info: What the step told: `accept_prob`, `trajectory_length`, `proposal`, `velocity`.
    """
    is_used = (info.accept_prob > 1e-4) & torch.isfinite(info.proposal).all(dim=1, keepdim=True)
    weight = torch.where(is_used, info.accept_prob, 0.0)
    weight = weight / weight.sum().clamp(min=1e-30)
    before = start.double()
    before = before - before.mean(dim=0)
    after = torch.where(is_used, info.proposal, start).double()
    after = after - (weight * after).sum(dim=0)
    gain = after.square().sum(dim=1, keepdim=True) - before.square().sum(dim=1, keepdim=True)
    speed = (after * torch.where(is_used, info.velocity, 0.0)).sum(dim=1, keepdim=True)
    gradient: Tensor = (weight * info.trajectory_length * gain * speed).sum()
    return gradient


def _with_length(params: Any, log_length: Tensor) -> Any:
    return params._replace(trajectory_length=log_length.exp().to(params.trajectory_length.dtype))
