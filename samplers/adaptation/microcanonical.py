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


class MicrocanonicalState(NamedTuple):
    """What was learnt so far.

    Attributes:
        num_updates: Steps so far.
        mean: Weighted mean of positions over chains and steps, (D,).
        square: Of their squares, (D,).
        step_size: What is known of the step size: dual averaging's state, or the mean log step size of MCLMC.
    """

    num_updates: int
    mean: Tensor
    square: Tensor
    step_size: Any


@dataclass(frozen=True, kw_only=True)
class Microcanonical(Adaptation):
    """Tunes `MAMS` and `MCLMC`.

    Lengths follow the size of the target: L = sqrt(sum of the variances of all coordinates), in whitened coordinates.
    MCLMC forgets its direction over L; flights of MAMS are L long on average. The step size of MAMS aims at its
    acceptance by dual averaging; that of MCLMC at a variance of the energy error per coordinate.

    Attributes:
        energy_variance: Of MCLMC: variance of the energy error of one step, over D.
        averaging: Of MAMS: how its step size is adapted.

    Source: Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311), section 4.2, for MCLMC; Robnik, Cohn-Gordon
    and Seljak (2025), arXiv 2503.01707, section 5, for MAMS. Differs: variances are taken over chains and steps
    together, of which later ones count more; the last stage of both, which lengthens L by the autocorrelation of a
    single long chain, is left out.
    """

    energy_variance: float = 5e-4
    averaging: DualAveraging = field(default_factory=DualAveraging)

    def __post_init__(self) -> None:
        check_positive("energy_variance", self.energy_variance)

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return self.averaging.aim(kernel)

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> MicrocanonicalState:
        """See `Adaptation.init`."""
        if not isinstance(kernel.innermost, MAMS | MCLMC):
            raise ParameterError(f"Microcanonical tunes MAMS and MCLMC; got {type(kernel).__name__}.")
        nothing = torch.zeros(state.position.shape[1], dtype=torch.float64, device=state.position.device)
        adapts = isinstance(kernel.innermost, MAMS)
        start = self.averaging.init(kernel, params, state, num_steps) if adapts else params.step_size.double().log()
        return MicrocanonicalState(0, nothing, nothing, start)

    def update(
        self, adapted: MicrocanonicalState, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[MicrocanonicalState, Any]:
        """See `Adaptation.update`."""
        count = adapted.num_updates + 1
        weight = 2 / (count + 1)
        x = _whiten(params.factor.double(), state.position.double())
        mean = torch.lerp(adapted.mean, x.mean(dim=0), weight)
        square = torch.lerp(adapted.square, x.square().mean(dim=0), weight)
        length = (square - mean.square()).sum().sqrt().to(params.step_size.dtype)
        # One chain's first step has no spread: a flight is at least a step long.
        length = torch.maximum(length, params.step_size.mean())
        step_size: Any
        if isinstance(kernel.innermost, MAMS):
            step_size, params = self.averaging.update(adapted.step_size, kernel, params, state, info)
            params = params._replace(trajectory_length=2 * length)
        else:
            step_size, params = self._follow_errors(adapted.step_size, count, params, state, info)
            params = params._replace(decoherence_length=length)
        return MicrocanonicalState(count, mean, square, step_size), params

    def final(self, adapted: MicrocanonicalState, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`."""
        if isinstance(kernel.innermost, MAMS):
            return self.averaging.final(adapted.step_size, kernel, params)
        return with_step_size(params, adapted.step_size.exp())

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


def _whiten(factor: Tensor, x: Tensor) -> Tensor:
    """L^-1 x for every row of x (C, D)."""
    if factor.ndim < 2:
        return x / factor
    if factor.ndim == 3 and factor.shape[1] == 1:
        return x / factor.squeeze(1)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.unsqueeze(-1), upper=False).squeeze(-1)
    return whitened
