"""Random-walk Metropolis with heavy-tailed moves, as a kernel for Lamina."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lamina.samplers import Info, PlainKernel, Site, State, Target
from lamina.samplers.accept import accept, log_ratio
from lamina.samplers.checks import check_count, check_fraction, check_positive
from lamina.samplers.kernel import Noise
from lamina.samplers.metric import from_white

__all__ = ["StudentWalk", "StudentWalkParams"]


class StudentWalkParams(NamedTuple):
    """Parameters of StudentWalk: what adaptation may change.

    Attributes:
        step_size: s in x' = x + s L t; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
    """

    step_size: Tensor
    factor: Tensor


@dataclass(frozen=True, kw_only=True)
class StudentWalk(PlainKernel[StudentWalkParams]):
    """Random-walk Metropolis with Student-t moves: x' = x + s L t, accepted or rejected by the energies alone.

    Exact, for any energy, whether it can be differentiated or not. A normal walk takes long to come back from far out
    in a heavy tail, as its moves all have about one length; here one in a while is long.

    Attributes:
        step_size: s, in units of the position (at unit mass).
        degrees: Degrees of freedom of the moves; 1 for Cauchy, and the larger the closer to normal.
        target_accept: 0.234, as for the normal walk; nothing is proved of this one.

    Source: Jarner and Roberts (2007), Scandinavian Journal of Statistics 34.
    """

    step_size: float = 0.1
    degrees: int = 2
    target_accept: float = 0.234

    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse choices that mean nothing."""
        check_positive("step_size", self.step_size)
        check_count("degrees", self.degrees, 1)
        check_fraction("target_accept", self.target_accept)

    @property
    def sites(self) -> Mapping[str, Site]:
        """A normal vector, the normal numbers whose squares add up to its chi-square divisor, and a uniform."""
        return {"xi": Site("normal", "D"), "divisor": Site("normal", self.degrees), "u": Site("uniform", 1)}

    def make_params(self, step_size: Tensor, factor: Tensor) -> StudentWalkParams:
        """See `PlainKernel.make_params`."""
        return StudentWalkParams(step_size, factor)

    def init(self, target: Target, position: Tensor, params: StudentWalkParams) -> State:
        """See `Kernel.init`; no gradient is needed, so that of the state is empty, (C, 0)."""
        return State(position, target.energy(position), position[:, :0])

    def step(self, target: Target, state: State, noise: Noise, params: StudentWalkParams) -> tuple[State, Info]:
        """See `Kernel.step`. The moves are symmetric, so the ratio has the energies only."""
        divisor = noise["divisor"].square().mean(dim=1, keepdim=True).sqrt()
        move = params.step_size * from_white(params.factor, noise["xi"]) / divisor
        proposed = self.init(target, state.position + move, params)
        ratio = log_ratio(state.energy, proposed.energy, torch.zeros_like(state.energy, dtype=torch.float64))
        return accept(proposed, state, ratio, noise["u"], torch.zeros_like(ratio))
