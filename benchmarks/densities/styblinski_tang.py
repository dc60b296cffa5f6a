"""The function of Styblinski and Tang as a density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import require_coordinates, require_positive
from .separable import SeparableDensity


@final
@dataclass(frozen=True, kw_only=True)
class StyblinskiTang(SeparableDensity):
    """Independent coordinates, each with a deep well at -2.90 and a shallower one at 2.75.

    At T = 5 the barrier is 7.8 nats above the one and 5.0 above the other.

    Attributes:
        dim: Number of coordinates, >= 1; there are 2^dim modes.
        temperature: T, > 0; the original function at T = 1 has all but 1e-6 of a coordinate's mass in one well.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    dim: int = 2
    temperature: float = 5.0

    name: ClassVar[str] = "styblinski_tang"
    reveals: ClassVar[str] = "wells of unequal depth, of which the small ones are missed or counted too often"
    formula: ClassVar[str] = "sum_d (x_d^4 - 16 x_d^2 + 5 x_d) / (2 T)"
    source: ClassVar[str] = (
        "Styblinski & Tang (1990), Neural Networks 3; a function for optimisers, tempered into a density"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, temperature=self.temperature)
        require_coordinates(self.name, self.dim)

    @property
    def _ends(self) -> tuple[float, float]:
        return self._within(60.0)

    @property
    def _plot_ends(self) -> tuple[float, float]:
        return self._within(0.0)

    def _within(self, energy: float) -> tuple[float, float]:
        """Where x^2 (x^2 - 16) / (2 T), the energy but for its tilt, stays below a level above the barrier."""
        reach = math.sqrt(8.0 + math.sqrt(64.0 + 2.0 * self.temperature * energy))
        return -reach, reach

    def _coordinate_energy(self, x: Tensor) -> Tensor:
        return (x.square() * (x.square() - 16.0) + 5.0 * x) / (2.0 * self.temperature)
