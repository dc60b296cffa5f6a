"""Tracking: a step size that follows a drifting target, for training loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_fraction, check_positive
from ..errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Follow a drifting target: log step += gain x (acceptance - target), once between two runs.

    A constant gain never settles, which is the point: in a training loop the energy changes for ever.

    Attributes:
        target_accept: In (0, 1); one for each part of a kernel of parts.
        gain: Change of the log step size at an acceptance error of one.
        smallest: Lower limit of the step size; a chain stuck in a corner cannot drag it to zero.
        largest: Upper limit.
    """

    target_accept: float | tuple[float, ...]
    gain: float = 0.2
    smallest: float = 1e-6
    largest: float = 1e3

    def __post_init__(self) -> None:
        for target in self.target_accept if isinstance(self.target_accept, tuple) else (self.target_accept,):
            check_fraction("target_accept", target)
        for name in ("gain", "smallest", "largest"):
            check_positive(name, getattr(self, name))
        if self.smallest > self.largest:
            raise ParameterError(f"smallest must not exceed largest; got {self.smallest} and {self.largest}.")

    def update(self, step_size: Tensor, accept_prob: Tensor) -> Tensor:
        """The step size for the next run, on its device.

        Args:
            step_size: Of the last run: 0-d, or (B,) for a kernel of B parts.
            accept_prob: Mean acceptance of each chain in it: (C,), or (C, B).
        """
        target = torch.tensor(self.target_accept, dtype=accept_prob.dtype, device=accept_prob.device)
        change = self.gain * (accept_prob.mean(dim=0) - target)
        return (step_size * change.exp().to(step_size.dtype)).clamp(self.smallest, self.largest)
