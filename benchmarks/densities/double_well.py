"""A product of quartic double wells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from .base import require_coordinates, require_positive
from .separable import SeparableDensity

_DEEPEST = 60.0  # nats; the line ends where the energy is this high, e^-60 of the peak


@final
@dataclass(frozen=True, kw_only=True)
class DoubleWell(SeparableDensity):
    """Independent coordinates, each with two wells at -b and b and a barrier of height h b^4 at 0.

    Attributes:
        dim: Number of coordinates, >= 1; there are 2^dim modes.
        height: h, barrier for b = 1, in nats, > 0.
        offset: b, distance of the wells from 0, > 0.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    dim: int = 2
    height: float = 2.0
    offset: float = 1.0
    name: str = "double_well"
    reveals: str = "barrier crossing: too few crossings, and bias of discretised diffusions at a barrier"

    formula: ClassVar[str] = "h sum_d (x_d^2 - b^2)^2"
    source: ClassVar[str] = "textbook quartic potential of statistical physics; facts by 1-D quadrature"

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, height=self.height, offset=self.offset)
        require_coordinates(self.name, self.dim)

    @classmethod
    def product(cls, dim: int = 16) -> Self:
        """Build wells in so many coordinates that no chain visits each of the 2^D modes."""
        return cls(
            dim=dim,
            name="product_double_well",
            reveals="more modes than there are draws; averages are right only where every coordinate crosses",
        )

    @property
    def mean(self) -> Tensor:
        """Zero by symmetry."""
        return torch.zeros(self.dim, dtype=torch.float64)

    @property
    def _ends(self) -> tuple[float, float]:
        return self._within(_DEEPEST)

    @property
    def _plot_ends(self) -> tuple[float, float]:
        return self._within(10.0)

    def _within(self, energy: float) -> tuple[float, float]:
        """Where the energy of one coordinate stays below a level above the barrier."""
        reach = math.sqrt(self.offset**2 + math.sqrt(energy / self.height))
        return -reach, reach

    def _coordinate_energy(self, x: Tensor) -> Tensor:
        return self.height * (x.square() - self.offset**2).square()
