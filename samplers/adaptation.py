"""Step-size adaptation, apart from kernels: init, update on what a step told, final.

Two rules. `DualAveraging` converges, for a warm-up that is then frozen. `Tracking` keeps a constant gain, for
training loops in which the target drifts and parameters change only between runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_fraction, check_positive
from .errors import ParameterError


class DualAveragingState(NamedTuple):
    """Where dual averaging stands; 0-d, or columns (C, 1) where each chain adapts alone.

    Attributes:
        log_step: Log of the step size to use next, x_t.
        log_average: Log of the averaged iterate, x-bar_t: what `final` returns.
        error_sum: Weighted mean of target minus acceptance, H-bar_t.
        num_updates: Updates so far, t.
        shrinkage: Where iterates are pulled to, mu = log(10 x the first step size).
    """

    log_step: Tensor
    log_average: Tensor
    error_sum: Tensor
    num_updates: Tensor
    shrinkage: Tensor


@dataclass(frozen=True, kw_only=True)
class DualAveraging:
    """Nesterov's dual averaging of the log step size, towards a target acceptance.

    Attributes:
        target_accept: In (0, 1); None takes the kernel's own.
        pooled: One step size for all chains, from their mean acceptance; or one for each chain.
        gain: gamma of the source; None takes its value, 0.05, for pooled adaptation and 0.2 for a step size per
            chain. One chain's acceptance is so noisy that at 0.05 the iterates of HMC scatter over more than their
            average can mend: its acceptance came out 0.1 to 0.2 above the target.
        step_delay: t0 of the source.
        decay: kappa of the source.

    Source: Hoffman and Gelman (2014), JMLR 15, section 3.2.1, equations 5 and 6 with algorithm 5.
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

    def init(self, step_size: Tensor, num_chains: int) -> DualAveragingState:
        """Start from a step size, 0-d or a column."""
        shape = () if self.pooled else (num_chains, 1)
        start = step_size.double().log()
        log_step = (start.mean() if self.pooled else start).expand(shape).clone()
        zero = torch.zeros_like(log_step)
        return DualAveragingState(log_step, log_step, zero, zero, log_step + torch.tensor(10.0).double().log())

    def update(self, state: DualAveragingState, accept_prob: Tensor, target: float) -> DualAveragingState:
        """Take in the acceptance probabilities (C, 1) of one step."""
        accept_prob = accept_prob.mean() if self.pooled else accept_prob
        count = state.num_updates + 1
        weight = 1 / (count + self.step_delay)
        error_sum = (1 - weight) * state.error_sum + weight * (target - accept_prob)
        gain = self.gain or (0.05 if self.pooled else 0.2)
        log_step = state.shrinkage - count.sqrt() / gain * error_sum
        forget = count.pow(-self.decay)
        log_average = forget * log_step + (1 - forget) * state.log_average
        return DualAveragingState(log_step, log_average, error_sum, count, state.shrinkage)

    def current(self, state: DualAveragingState) -> Tensor:
        """The step size to use next."""
        return state.log_step.exp()

    def final(self, state: DualAveragingState) -> Tensor:
        """The averaged step size, to be frozen."""
        return state.log_average.exp()


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Follow a drifting target: log step += gain x (acceptance - target), once between two runs.

    A constant gain never settles, which is the point: in a training loop the energy changes for ever.

    Attributes:
        target_accept: In (0, 1).
        gain: Change of the log step size at an acceptance error of one.
        smallest: Lower limit of the step size; a chain stuck in a corner cannot drag it to zero.
        largest: Upper limit.
    """

    target_accept: float
    gain: float = 0.2
    smallest: float = 1e-6
    largest: float = 1e3

    def __post_init__(self) -> None:
        check_fraction("target_accept", self.target_accept)
        for name in ("gain", "smallest", "largest"):
            check_positive(name, getattr(self, name))
        if self.smallest > self.largest:
            raise ParameterError(f"smallest must not exceed largest; got {self.smallest} and {self.largest}.")

    def update(self, step_size: Tensor, accept_prob: Tensor) -> Tensor:
        """The step size for the next run, from the mean acceptance of the last one; 0-d, on its device."""
        change = self.gain * (accept_prob.mean() - self.target_accept)
        return (step_size * change.exp().to(step_size.dtype)).clamp(self.smallest, self.largest)
