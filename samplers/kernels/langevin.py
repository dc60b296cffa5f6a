"""The Langevin proposal that ULA makes and MALA corrects, and what else the two share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..accept import log_ratio, row_sum
from ..energy import Target
from ..kernel import PlainKernel, State
from ..metric import from_white, to_white


class LangevinParams(NamedTuple):
    """Parameters of ULA and MALA.

    Attributes:
        step_size: h in x' = x - h P grad + sqrt(2 h) P^(1/2) xi; 0-d, or a column (C, 1).
        factor: L with P = L L^T, see `lamina.samplers.metric`.
    """

    step_size: Tensor
    factor: Tensor


class LangevinKernel(PlainKernel[LangevinParams]):
    """What ULA and MALA share: their parameters and their state. They differ in what they do with a proposal."""

    def make_params(self, step_size: Tensor, factor: Tensor) -> LangevinParams:
        """See `PlainKernel.make_params`."""
        return LangevinParams(step_size, factor)


def propose(target: Target, state: State, xi: Tensor, params: LangevinParams) -> tuple[State, Tensor]:
    """One Langevin proposal, and the log of its Metropolis-Hastings ratio.

    x' = x - h P grad(x) + sqrt(2 h) L xi, with P = L L^T: one leapfrog step of sqrt(2 h). The noise that would lead
    back from x' to x is kick - xi, with kick = sqrt(h/2) L^T (grad(x) + grad(x')), so that log q(x'|x) - log q(x|x') =
    |kick - xi|^2 / 2 - |xi|^2 / 2 = kick . (kick / 2 - xi): no subtraction of nearby positions or of large squares, and
    no inverse of L.

    Source: Roberts and Tweedie (1996), Bernoulli 2(4), sections 1.4.1 and 1.4.2, preconditioned by P.

    Returns:
        The proposed state and the log ratio (C, 1) in float64.
    """
    half = torch.sqrt(0.5 * params.step_size)
    momentum = torch.addcmul(xi, half, to_white(params.factor, state.grad), value=-1)
    position = torch.addcmul(state.position, half, from_white(params.factor, momentum), value=2)
    energy, grad = target(position)
    kick = half * to_white(params.factor, state.grad + grad)
    return State(position, energy, grad), log_ratio(state.energy, energy, row_sum(kick * (0.5 * kick - xi)))
