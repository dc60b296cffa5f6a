"""The Langevin proposal that ULA makes and MALA corrects, and what else the two share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..accept import energy_drop, row_sum
from ..energy import Target
from ..kernel import PlainKernel, State
from ..metric import from_white, to_white

_HALF_LENGTH = math.sqrt(0.5)
"""Half the length of the leapfrog step that a proposal is, over the root of h."""


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


def propose(target: Target, state: State, xi: Tensor, params: LangevinParams) -> State:
    """One Langevin proposal: x' = x - h P grad(x) + sqrt(2 h) L xi, with P = L L^T.

    Source: Roberts and Tweedie (1996), Bernoulli 2(4), section 1.4.1, preconditioned by P. Written as one leapfrog step
    of length sqrt(2 h) with momentum xi.
    """
    root = torch.sqrt(params.step_size)
    momentum = torch.addcmul(xi, root, to_white(params.factor, state.grad), value=-_HALF_LENGTH)
    position = torch.addcmul(state.position, root, from_white(params.factor, momentum), value=2 * _HALF_LENGTH)
    return State(position, *target(position))


def log_hastings(state: State, proposed: State, xi: Tensor, params: LangevinParams) -> Tensor:
    """Log of the Metropolis-Hastings ratio of a Langevin proposal, (C, 1) in float64.

    The noise that would lead back from x' to x is kick - xi, with kick = sqrt(h/2) L^T (grad(x) + grad(x')), so that
    log q(x|x') - log q(x'|x) = |xi|^2 / 2 - |kick - xi|^2 / 2 = kick . (xi - kick / 2): no subtraction of nearby
    positions or of large squares, and no inverse of L.

    Source: Roberts and Tweedie (1996), Bernoulli 2(4), section 1.4.2, preconditioned by P.
    """
    root, pull = torch.sqrt(params.step_size), to_white(params.factor, state.grad + proposed.grad)
    middle = torch.addcmul(xi, root, pull, value=-0.5 * _HALF_LENGTH)
    drop = energy_drop(state.energy, proposed.energy)
    return torch.addcmul(drop, root, row_sum(pull.double() * middle), value=_HALF_LENGTH)
