"""The Barker proposal: a random walk whose signs listen to the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..accept import accept, log_ratio, row_sum
from ..checks import check_fraction, check_positive
from ..energy import Target
from ..kernel import Info, Noise, State
from ..metric import from_white, to_white
from ..noise import Site
from .walk import WalkKernel, WalkParams


@dataclass(frozen=True, kw_only=True)
class Barker(WalkKernel):
    """Metropolis with the Barker proposal: x' = x + L w, where w is s xi with each sign chosen towards low energy.

    Exact. One gradient per step. A coordinate keeps the sign of its move z with probability sigmoid(-z g), where
    g = L^T grad. However large a gradient, it turns a move round at most, and does not lengthen it as it does in
    MALA: too large a step size, or a start far out, costs efficiency and not the run.

    Attributes:
        step_size: s, in units of the position (at unit mass).
        target_accept: 0.4, as in the source's experiments; in ever higher dimension 0.574 is optimal (Vogrinc,
            Livingstone and Zanella 2023, Biometrika 110).

    Source: Livingstone and Zanella (2022), JRSS-B 84, algorithms 1 and 2, whitened by the inverse mass.
    """

    step_size: float = 0.1
    target_accept: float = 0.4

    sites: ClassVar[Mapping[str, Site]] = {
        "xi": Site("normal", "D"),
        "sign": Site("uniform", "D"),
        "u": Site("uniform", 1),
    }
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_fraction("target_accept", self.target_accept)

    def step(self, target: Target, state: State, noise: Noise, params: WalkParams) -> tuple[State, Info]:
        """See `Kernel.step`."""
        white_grad = to_white(params.factor, state.grad)
        z = params.step_size * noise["xi"]
        move = torch.where(noise["sign"] <= torch.sigmoid(-z * white_grad), z, -z)
        position = state.position + from_white(params.factor, move)
        proposed = State(position, *target(position))
        forth = _log_prob_of_signs(move, white_grad)
        back = _log_prob_of_signs(-move, to_white(params.factor, proposed.grad))
        ratio = log_ratio(state.energy, proposed.energy, forth - back)
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


def _log_prob_of_signs(move: Tensor, white_grad: Tensor) -> Tensor:
    """Log-probability that a whitened move (C, D) gets its signs at a whitened gradient, a column in float64.

    The logarithms have the precision of the gradients that they come from, and their sum is in float64.
    """
    return row_sum(logsigmoid(-move * white_grad).double())
