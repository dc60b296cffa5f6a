"""Dual averaging of step sizes, pooled over chains or for each chain, for one acceptance or one for each part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_fraction, check_positive
from ..kernel import InfoLike, Kernel, StateLike, with_step_size
from .base import Adaptation


class DualAveragingState(NamedTuple):
    """Where dual averaging stands. Shaped as step sizes: 0-d or (B,) if pooled, (C, 1) or (C, B) if not.

    Attributes:
        log_step: Log of the step size to use next, x_t.
        log_average: Log of the averaged iterate, x-bar_t: what `final` returns.
        error_sum: Weighted mean of target minus acceptance, H-bar_t.
        num_updates: Updates so far, t; 0-d.
        shrinkage: Where iterates are pulled to, mu = log(10 x the first step size).
        target: The acceptance aimed for; 0-d, or (B,) for a kernel of B parts.
    """

    log_step: Tensor
    log_average: Tensor
    error_sum: Tensor
    num_updates: Tensor
    shrinkage: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class DualAveraging(Adaptation):
    """Nesterov's dual averaging of the log step size, towards a target acceptance.

    A kernel without a target acceptance is left as it is. A kernel of parts has a step size adapted for each.

    Attributes:
        target_accept: In (0, 1); None takes the kernel's own.
        pooled: One step size for all chains, from their mean acceptance; or one for each chain.
        gain: gamma of the source; None takes its value, 0.05, for pooled adaptation and 0.2 for a step size per
            chain. One chain's acceptance is so noisy that at 0.05 the iterates of HMC scatter over more than their
            average can mend: its acceptance came out 0.1 to 0.2 above the target.
        step_delay: t0 of the source.
        decay: kappa of the source.

    Source: Hoffman and Gelman (2014), JMLR 15, section 3.2.1, equations 5 and 6 with algorithm 5. Differs: no search
    for a first step size; the kernel's own is where it starts.
    """

    target_accept: float | None = None
    pooled: bool = True
    gain: float | None = None
    step_delay: float = 10.0
    decay: float = 0.75

    def __post_init__(self) -> None:
        if self.target_accept is not None:
            check_fraction("target_accept", self.target_accept)
        if self.gain is not None:
            check_positive("gain", self.gain)
        check_positive("step_delay", self.step_delay)
        check_positive("decay", self.decay)

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return kernel.target_accept if kernel.target_accept is None else self.target_accept or kernel.target_accept

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> DualAveragingState | None:
        """See `Adaptation.init`; None for a kernel that has nothing to aim at."""
        aim = self.aim(kernel)
        if aim is None:
            return None
        target = torch.tensor(aim, dtype=torch.float64, device=state.position.device)
        start = params.step_size.double().log().expand(len(state.position), target.numel())
        log_step = start.mean(dim=0).reshape(target.shape) if self.pooled else start.clone()
        zero = torch.zeros_like(log_step)
        shrinkage = log_step + math.log(10)
        return DualAveragingState(log_step, log_step, zero, target.new_zeros(()), shrinkage, target)

    def update(
        self, adapted: DualAveragingState | None, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[DualAveragingState | None, Any]:
        """See `Adaptation.update`."""
        if adapted is None:
            return None, params
        adapted = self.learn(adapted, self.acceptance(info.accept_prob) if self.pooled else info.accept_prob)
        return adapted, with_step_size(params, adapted.log_step.exp())

    def final(self, adapted: DualAveragingState | None, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`: the averaged iterate."""
        return params if adapted is None else with_step_size(params, adapted.log_average.exp())

    def notes(self, adapted: DualAveragingState | None) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        if adapted is not None:
            return ()
        return ("Warm-up adapted nothing, as the kernel has no acceptance to aim at: its step size is your choice.",)

    def learn(self, adapted: DualAveragingState, accept_prob: Tensor) -> DualAveragingState:
        """Take in the acceptance of one step, as many numbers as there are step sizes."""
        count = adapted.num_updates + 1
        weight = 1 / (count + self.step_delay)
        error = adapted.target - accept_prob.reshape(adapted.log_step.shape)
        error_sum = (1 - weight) * adapted.error_sum + weight * error
        gain = self.gain or (0.05 if self.pooled else 0.2)
        log_step = adapted.shrinkage - count.sqrt() / gain * error_sum
        forget = count.pow(-self.decay)
        log_average = forget * log_step + (1 - forget) * adapted.log_average
        return adapted._replace(log_step=log_step, log_average=log_average, error_sum=error_sum, num_updates=count)
