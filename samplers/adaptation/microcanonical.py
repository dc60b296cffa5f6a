"""Tuning of the microcanonical samplers: how far to fly, and in what steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_positive
from ..errors import ParameterError
from ..kernel import InfoLike, Kernel, StateLike, with_step_size
from ..kernels.mams import MAMS
from ..kernels.mclmc import MCLMC
from .base import Adaptation
from .dual_averaging import DualAveraging

MEASURED = (0.5, 0.8)
"""Share of the adapting steps between which autocorrelation is measured; lengths are frozen from the former on."""

MIN_MEANS = 32
"""Batch means, over all chains, from which autocorrelation is measured: it is then known within 25 %, L within 13 %."""

MIN_BATCH = 10
"""Shortest batch, in lengths L. Shorter ones would not see the correlation that they are to measure."""

LARGEST_CHANGE = 3.0
"""Limit on the last change of L, either way: chains that stay in modes of their own are correlated for ever."""


class Batches(NamedTuple):
    """Means over batches of steps, of each chain by itself, in whitened coordinates.

    Attributes:
        length: Steps in a batch.
        first: The step before the first batch.
        last: The last step of the last one. Both are that of the warm-up where it is too short for a batch.
        current: Sum over the batch that is not complete, (C, D).
        mean: Mean of the complete ones over chains and batches, (D,).
        square: Of their squared lengths, 0-d.
    """

    length: int
    first: int
    last: int
    current: Tensor
    mean: Tensor
    square: Tensor


class MicrocanonicalState(NamedTuple):
    """What was learnt so far.

    Attributes:
        num_updates: Steps so far.
        mean: Weighted mean of positions over chains and steps, (D,).
        square: Of their squares, (D,).
        step_size: What is known of the step size: dual averaging's state, or the mean log step size of MCLMC.
        batches: What is known of autocorrelation.
        change: By what factor autocorrelation changed L; None while it has not, NaN where batches were too short.
    """

    num_updates: int
    mean: Tensor
    square: Tensor
    step_size: Any
    batches: Batches
    change: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Microcanonical(Adaptation):
    """Tunes `MAMS` and `MCLMC`.

    Lengths follow the size of the target: L = sqrt(sum of the variances of all coordinates), in whitened coordinates.
    MCLMC forgets its direction over L; flights of MAMS are L long on average. The step size of MAMS aims at its
    acceptance by dual averaging; that of MCLMC at a variance of the energy error per coordinate.

    Last, lengths follow how long chains stay correlated at this L. The distance that they fly for one effective draw,
    l = distance of a step x autocorrelation time in steps, should be L / `share`. Where it is not, L becomes
    sqrt(share x l x L): while flights are short for the target, chains diffuse, l falls as 1 / L, and this is where
    L = share x l holds. The step size has the last fifth of the steps to follow.

    The autocorrelation time is the variance of batch means times the length of a batch, over the variance of the
    draws; both are summed over coordinates, so that the widest count most. Many chains have one batch each, few have
    several: memory does not grow with steps.

    Attributes:
        energy_variance: Of MCLMC: variance of the energy error of one step, over D.
        averaging: Of MAMS: how its step size is adapted.
        share: L over the distance flown for one effective draw; None takes 0.4 for MCLMC, 0.5 for MAMS.

    Source: Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311), section 4.2, for MCLMC; Robnik, Cohn-Gordon
    and Seljak (2025), arXiv 2503.01707, section 5, for MAMS. Differs: variances are taken over chains and steps
    together, of which later ones count more. The last stage is that of BlackJAX (`mclmc_adaptation`, and
    `adjusted_mclmc_adaptation`, where it is off by default), whose shares these are. Differs: BlackJAX sets L = share
    x l, at most doubled for MAMS, by the mean over coordinates of the effective sample size of one chain, from all
    lags; that overshoots where chains diffuse.
    """

    energy_variance: float = 5e-4
    averaging: DualAveraging = field(default_factory=DualAveraging)
    share: float | None = None

    def __post_init__(self) -> None:
        check_positive("energy_variance", self.energy_variance)
        if self.share is not None:
            check_positive("share", self.share)

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return self.averaging.aim(kernel)

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> MicrocanonicalState:
        """See `Adaptation.init`."""
        if not isinstance(kernel.innermost, MAMS | MCLMC):
            raise ParameterError(f"Microcanonical tunes MAMS and MCLMC; got {type(kernel).__name__}.")
        nothing = torch.zeros(state.position.shape[1], dtype=torch.float64, device=state.position.device)
        start: Any = params.step_size.double().log()
        if isinstance(kernel.innermost, MAMS):
            start = self.averaging.init(kernel, params, state, num_steps)
        return MicrocanonicalState(0, nothing, nothing, start, _no_batches(state.position, num_steps), None)

    def update(
        self, adapted: MicrocanonicalState, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[MicrocanonicalState, Any]:
        """See `Adaptation.update`."""
        count = adapted.num_updates + 1
        weight = 2 / (count + 1)
        x = _whiten(params.factor.double(), state.position.double())
        adapted = adapted._replace(
            num_updates=count,
            mean=torch.lerp(adapted.mean, x.mean(dim=0), weight),
            square=torch.lerp(adapted.square, x.square().mean(dim=0), weight),
            batches=_add(adapted.batches, x, count),
        )
        step_size, params = self._follow_step_size(adapted, kernel, params, state, info)
        adapted = adapted._replace(step_size=step_size)
        batches = adapted.batches
        if count <= batches.first:
            # One chain's first step has no spread: a flight is at least a step long.
            return adapted, _with_length(params, torch.maximum(_variance(adapted).sqrt(), params.step_size.mean()))
        if count == batches.last:
            change = self._change(adapted, params)
            adapted = adapted._replace(change=change)
            params = _with_length(params, _length(params) * change.nan_to_num(nan=1.0))
        return adapted, params

    def final(self, adapted: MicrocanonicalState, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`."""
        if isinstance(kernel.innermost, MAMS):
            return self.averaging.final(adapted.step_size, kernel, params)
        return with_step_size(params, adapted.step_size.exp())

    def notes(self, adapted: MicrocanonicalState) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        if adapted.change is None or adapted.change.isnan():
            return ("Lengths follow the size of the target alone: warm-up was too short to measure autocorrelation.",)
        return (f"Autocorrelation made lengths {adapted.change:.3g} times the size of the target.",)

    def _change(self, adapted: MicrocanonicalState, params: Any) -> Tensor:
        """The factor by which autocorrelation changes L; NaN where batches were too short, 0-d."""
        adjusts = hasattr(params, "trajectory_length")
        length = _length(params).double()
        distance = length if adjusts else params.step_size.double().mean()
        share = self.share or (0.5 if adjusts else 0.4)
        change = (share * distance * _autocorrelation_time(adapted) / length).sqrt()
        is_seen = adapted.batches.length * distance >= MIN_BATCH * length
        return torch.where(is_seen, change.clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE), torch.nan)

    def _follow_step_size(
        self, adapted: MicrocanonicalState, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[Any, Any]:
        """What is known of the step size now, and parameters with the next one."""
        step_size: Any
        if isinstance(kernel.innermost, MAMS):
            step_size, params = self.averaging.update(adapted.step_size, kernel, params, state, info)
        else:
            step_size, params = self._follow_errors(adapted.step_size, adapted.num_updates, params, state, info)
        return step_size, params

    def _follow_errors(
        self, mean_log: Tensor, count: int, params: Any, state: StateLike, info: InfoLike
    ) -> tuple[Tensor, Any]:
        """Move the step size to where errors, which grow with its third power, have the variance wanted."""
        variance = info.energy_error.square().mean() / state.position.shape[1]
        log_step = params.step_size.double().log()
        wanted = torch.log(self.energy_variance / variance) / 6
        # A refused step has an infinite error and says only: much smaller. A perfect one: larger.
        log_step = log_step + wanted.nan_to_num(nan=-1.0).clamp(-1.0, 1.0) / count**0.5
        weight = 2 / (count + 1)
        return torch.lerp(mean_log, log_step, weight), with_step_size(params, log_step.exp())


def _length(params: Any) -> Tensor:
    """L: the mean length of flights, or the decoherence length."""
    length: Tensor = params.trajectory_length / 2 if hasattr(params, "trajectory_length") else params.decoherence_length
    return length


def _with_length(params: Any, length: Tensor) -> Any:
    length = length.to(params.step_size.dtype)
    if hasattr(params, "trajectory_length"):
        return params._replace(trajectory_length=2 * length)
    return params._replace(decoherence_length=length)


def _variance(adapted: MicrocanonicalState) -> Tensor:
    """Sum over coordinates, whitened."""
    return (adapted.square - adapted.mean.square()).sum()


def _autocorrelation_time(adapted: MicrocanonicalState) -> Tensor:
    """In steps, 1 for independent draws; 0-d."""
    batches = adapted.batches
    num_means = len(batches.current) * (batches.last - batches.first) // batches.length
    of_means = (batches.square - batches.mean.square().sum()) * num_means / (num_means - 1)
    return batches.length * of_means / _variance(adapted)


def _no_batches(position: Tensor, num_steps: int) -> Batches:
    first, last = (int(share * num_steps) for share in MEASURED)
    num_batches = -(-MIN_MEANS // len(position))
    length = (last - first) // num_batches
    first = first if length else num_steps
    zeros = torch.zeros_like(position, dtype=torch.float64)
    return Batches(length, first, first + num_batches * length, zeros, zeros[0], zeros.new_zeros(()))


def _add(batches: Batches, x: Tensor, count: int) -> Batches:
    """Take in one draw of all chains (C, D), that of step `count`."""
    if not batches.first < count <= batches.last:
        return batches
    current = batches.current + x
    if (count - batches.first) % batches.length:
        return batches._replace(current=current)
    means = current / batches.length
    weight = batches.length / (count - batches.first)
    return batches._replace(
        current=torch.zeros_like(current),
        mean=torch.lerp(batches.mean, means.mean(dim=0), weight),
        square=torch.lerp(batches.square, means.square().sum(dim=1).mean(), weight),
    )


def _whiten(factor: Tensor, x: Tensor) -> Tensor:
    """L^-1 x for every row of x (C, D)."""
    if factor.ndim < 2:
        return x / factor
    if factor.ndim == 3 and factor.shape[1] == 1:
        return x / factor.squeeze(1)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.unsqueeze(-1), upper=False).squeeze(-1)
    return whitened
