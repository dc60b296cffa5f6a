"""What random-walk Metropolis and the Barker proposal share: a step size in units of the position."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..kernel import PlainKernel


class WalkParams(NamedTuple):
    """Parameters of random-walk Metropolis and of the Barker proposal.

    Attributes:
        step_size: s in x' = x + s L xi, before signs are chosen; 0-d, or a column (C, 1).
        factor: L, where L L^T is the covariance of the proposal at s = 1; see `lamina.samplers.metric`.
    """

    step_size: Tensor
    factor: Tensor


class WalkKernel(PlainKernel[WalkParams]):
    """A kernel with these parameters."""

    def make_params(self, step_size: Tensor, factor: Tensor) -> WalkParams:
        """See `PlainKernel.make_params`."""
        return WalkParams(step_size, factor)
