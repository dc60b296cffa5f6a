"""Independent Rosenbrock valleys in higher dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, normals, require_positive
from .quadrature import CdfTable, normal_average


@final
@dataclass(frozen=True, kw_only=True)
class BlockRosenbrock(Density):
    """D/2 independent pairs: x ~ N(1, 1), y given x ~ N(x^2, Q), all x before all y.

    Attributes:
        dim: Number of coordinates, even, >= 2.
        noise: Q, variance of y about x^2, > 0.

    Raises:
        ParameterError: If dim is odd or below 2, or the noise is not positive.
    """

    dim: int = 36
    noise: float = 0.1

    name: ClassVar[str] = "block_rosenbrock"
    reveals: ClassVar[str] = "many curved valleys at once: no constant metric fits any of them"
    formula: ClassVar[str] = "sum over pairs (x, y) of (x - 1)^2 / 2 + (y - x^2)^2 / (2 Q)"
    source: ClassVar[str] = (
        "Grumitt, Dai & Seljak (2022), NeurIPS, as in Robnik, De Luca, Silverstein & Seljak (2023), JMLR 24"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, noise=self.noise)
        if self.dim < 2 or self.dim % 2:
            raise ParameterError(f"{self.name}: dim must be even and at least 2; got {self.dim}. Give whole pairs.")

    @property
    def log_normalizer(self) -> float:
        """D/2 log(2 pi sqrt(Q))."""
        return self._num_pairs * (math.log(2.0 * math.pi) + 0.5 * math.log(self.noise))

    @property
    def mean(self) -> Tensor:
        """1, and E[x^2] = 2."""
        return self._by_pair(1.0, 2.0)

    @property
    def second_moment(self) -> Tensor:
        """2, and E[x^4] + Q = 10 + Q."""
        return self._by_pair(2.0, 10.0 + self.noise)

    @property
    def plot_box(self) -> Box:
        """Three and a half standard deviations of x; of y, where two x's are not to be had, as far as x reaches."""
        across = (-2.5, 4.5)
        width = 3.0 * math.sqrt(self.noise)
        return across, across if self._num_pairs > 1 else (-width - 0.5, 4.5**2 + width)

    @property
    def _num_pairs(self) -> int:
        return self.dim // 2

    @cached_property
    def _table(self) -> CdfTable:
        """The law of y, tabulated once because all y share it."""
        std = math.sqrt(self.noise)
        low, high = -6.0 * std, 7.0**2 + 6.0 * std  # x > 7 has a probability of 1e-9
        # Linear interpolation errs by cell^2 / 8 times the slope of the density, which is about Q^(-3/4) / 2 at most.
        num_cells = math.ceil((high - low) / (2e-3 * self.noise**0.375))
        levels = torch.linspace(low, high, num_cells + 1, dtype=torch.float64)
        # The valley crosses a level within std / (2 |x|), and |x| > 7 has next to no mass.
        num_nodes = 1 + 2 * math.ceil(80.0 / std)
        return CdfTable(
            levels, normal_average(lambda x: torch.special.ndtr((levels - x**2) / std), 1.0, 1.0, num_nodes)
        )

    def _by_pair(self, x: float, y: float) -> Tensor:
        return torch.tensor([x] * self._num_pairs + [y] * self._num_pairs, dtype=torch.float64)

    def _energy(self, position: Tensor) -> Tensor:
        x, y = position.chunk(2, dim=1)
        return 0.5 * ((x - 1.0).square() + (y - x.square()).square() / self.noise).sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise_x, noise_y = normals(num, self.dim, generator).chunk(2, dim=1)
        x = 1.0 + noise_x
        return torch.cat([x, x.square() + math.sqrt(self.noise) * noise_y], dim=1)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        if d < self._num_pairs:
            return lambda x: torch.special.ndtr(x - 1.0)
        return self._table.cdf
