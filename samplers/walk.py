"""What random-walk Metropolis and the Barker proposal share: a step size in units of the position."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .kernel import Kernel
from .metric import factorise
from .position import Position
from .step_size import step_size_tensor


class WalkParams(NamedTuple):
    """Parameters of random-walk Metropolis and of the Barker proposal.

    Attributes:
        step_size: s in x' = x + s L xi, before signs are chosen; 0-d, or a column (C, 1).
        factor: L, where L L^T is the covariance of the proposal at s = 1; see `lamina.samplers.metric`.
    """

    step_size: Tensor
    factor: Tensor


class WalkKernel(Kernel[WalkParams]):
    """A kernel with these parameters."""

    step_size: float

    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> WalkParams:
        """See `Kernel.init_params`."""
        factor = factorise(inverse_mass, position)
        return WalkParams(step_size_tensor(self.step_size if step_size is None else step_size, factor), factor)
