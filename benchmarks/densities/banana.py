"""The banana of Haario, Saksman and Tamminen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Box, Density, normals, require_positive
from .quadrature import normal_average


@final
@dataclass(frozen=True, kw_only=True)
class Banana(Density):
    """A Gaussian bent along a parabola: x0 ~ N(0, s^2), x1 given x0 ~ N(b (x0^2 - s^2), 1).

    By default (s = 2, b = 1/4) the ridge rises by 3 over two standard deviations of x0 and turns to a
    slope of 2: clearly curved, and still within reach of one step size.

    Attributes:
        scale: s, standard deviation of x0, > 0.
        bend: b, curvature of the ridge, > 0.

    Raises:
        ParameterError: If scale or bend is not positive.
    """

    scale: float = 2.0
    bend: float = 0.25

    name: ClassVar[str] = "banana"
    dim: ClassVar[int] = 2
    reveals: ClassVar[str] = "moves that follow straight lines only; errors of curved trajectories"
    formula: ClassVar[str] = "x0^2 / (2 s^2) + (x1 - b (x0^2 - s^2))^2 / 2"
    source: ClassVar[str] = (
        "Haario, Saksman & Tamminen (1999), Computational Statistics 14; differs: 2-D, mirrored in x1, "
        "and milder than their s = 10, b = 0.03 and 0.1"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, scale=self.scale, bend=self.bend)

    @property
    def log_normalizer(self) -> float:
        """log(2 pi s): bending keeps volume."""
        return math.log(2.0 * math.pi * self.scale)

    @property
    def mean(self) -> Tensor:
        """Zero: the parabola is shifted by its own mean."""
        return torch.zeros(2, dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """s^2, and 1 + 2 b^2 s^4 since x0^2 has variance 2 s^4."""
        return torch.tensor([self.scale**2, 1.0 + 2.0 * self.bend**2 * self.scale**4], dtype=torch.float64)

    @property
    def plot_box(self) -> Box:
        """Three standard deviations of x0, and the ridge up to there."""
        reach, top, bottom = 3.0 * self.scale, self._ridge(3.0 * self.scale), self._ridge(0.0)
        return (-reach, reach), (bottom - 3.0, top + 2.0)

    def _ridge(self, x0: float) -> float:
        return self.bend * (x0**2 - self.scale**2)

    def _energy(self, x: Tensor) -> Tensor:
        x0, x1 = x.unbind(1)
        off_ridge = x1 - self.bend * (x0.square() - self.scale**2)
        return 0.5 * (x0 / self.scale).square() + 0.5 * off_ridge.square()

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise0, noise1 = normals(num, 2, generator).unbind(1)
        x0 = self.scale * noise0
        return torch.stack([x0, self.bend * (x0.square() - self.scale**2) + noise1], dim=1)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        if d == 0:
            return lambda x: torch.special.ndtr(x / self.scale)
        # The ridge crosses a level within 1 / (2 b |x0|); a quarter of that at four standard deviations.
        num_nodes = 101 + math.ceil(600.0 * self.bend * self.scale**2)
        return lambda x: normal_average(lambda x0: torch.special.ndtr(x - self._ridge(x0)), 0.0, self.scale, num_nodes)
