"""Rosenbrock's valley as a density."""

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
class Rosenbrock(Density):
    """exp(-Rosenbrock) in the plane: x ~ N(a, 1/2), y given x ~ N(x^2, 1/(2 b)).

    Only the 2-D function factorises like this; its usual chain in higher dimension does not.

    Attributes:
        center: a, where the valley is deepest.
        sharpness: b, > 0; the valley is 1 / sqrt(2 b) wide, so 0.07 by default.

    Raises:
        ParameterError: If sharpness is not positive.
    """

    center: float = 1.0
    sharpness: float = 100.0

    name: ClassVar[str] = "rosenbrock"
    dim: ClassVar[int] = 2
    reveals: ClassVar[str] = "step sizes that a narrow, curved valley forces down, and slow travel along it"
    formula: ClassVar[str] = "b (y - x^2)^2 + (a - x)^2"
    source: ClassVar[str] = (
        "Rosenbrock (1960), The Computer Journal 3; differs from the density of Goodman & Weare (2010), "
        "Commun. Appl. Math. Comput. Sci. 5, which divides the energy by 20"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, sharpness=self.sharpness)

    @property
    def log_normalizer(self) -> float:
        """log(pi / sqrt(b)): the product of sqrt(pi) and sqrt(pi / b)."""
        return math.log(math.pi) - 0.5 * math.log(self.sharpness)

    @property
    def mean(self) -> Tensor:
        """(a, E[x^2]) with E[x^2] = a^2 + 1/2."""
        return torch.tensor([self.center, self.center**2 + 0.5], dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """(a^2 + 1/2, E[x^4] + 1/(2 b)) with E[x^4] = a^4 + 3 a^2 + 3/4."""
        fourth = self.center**4 + 3.0 * self.center**2 + 0.75
        return torch.tensor([self.center**2 + 0.5, fourth + 0.5 / self.sharpness], dtype=torch.float64)

    @property
    def plot_box(self) -> Box:
        """Three standard deviations of x, and the valley floor up to there."""
        reach = 3.0 * math.sqrt(0.5)
        width = 3.0 * math.sqrt(0.5 / self.sharpness)
        low, high = self.center - reach, self.center + reach
        return (low, high), (-width - 0.5, max(low**2, high**2) + width)

    def _energy(self, x: Tensor) -> Tensor:
        first, second = x.unbind(1)
        return self.sharpness * (second - first.square()).square() + (self.center - first).square()

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise0, noise1 = normals(num, 2, generator).unbind(1)
        first = self.center + math.sqrt(0.5) * noise0
        return torch.stack([first, first.square() + math.sqrt(0.5 / self.sharpness) * noise1], dim=1)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        if d == 0:
            return lambda x: torch.special.ndtr((x - self.center) / math.sqrt(0.5))
        precision = math.sqrt(2.0 * self.sharpness)
        # The valley crosses a level y within 1 / (2 |x| precision), and |x| > |a| + 3 has next to no mass.
        num_nodes = 1 + 2 * math.ceil(12.0 * (abs(self.center) + 3.0) * precision)
        return lambda y: normal_average(
            lambda x: torch.special.ndtr(precision * (y - x**2)), self.center, math.sqrt(0.5), num_nodes
        )
