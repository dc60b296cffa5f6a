"""Rastrigin's function as a density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import require_coordinates, require_positive
from .separable import SeparableDensity


@final
@dataclass(frozen=True, kw_only=True)
class Rastrigin(SeparableDensity):
    """Independent coordinates: a normal with variance 1/2, rippled at every integer by a barrier of about 2 a.

    In closed form Z_1 = exp(-a) sqrt(pi) (I_0(a) + 2 sum_k I_k(a) exp(-pi^2 k^2)) with modified Bessel functions,
    from the Fourier series of exp(a cos(2 pi x)); the tests compare.

    Attributes:
        dim: Number of coordinates, >= 1.
        ripple: a, > 0.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    dim: int = 2
    ripple: float = 10.0

    name: ClassVar[str] = "rastrigin"
    reveals: ClassVar[str] = "a lattice of narrow modes of unequal mass; steps that suit one mode cannot leave it"
    formula: ClassVar[str] = "sum_d a + x_d^2 - a cos(2 pi x_d)"
    source: ClassVar[str] = "Rastrigin (1974), Systems of Extremal Control; a function for optimisers, as a density"

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, ripple=self.ripple)
        require_coordinates(self.name, self.dim)

    @property
    def mean(self) -> Tensor:
        """Zero by symmetry."""
        return torch.zeros(self.dim, dtype=torch.float64)

    @property
    def _ends(self) -> tuple[float, float]:
        return -math.sqrt(50.0), math.sqrt(50.0)

    @property
    def _plot_ends(self) -> tuple[float, float]:
        return -2.6, 2.6

    def _coordinate_energy(self, x: Tensor) -> Tensor:
        return x.square() + self.ripple * (1.0 - torch.cos(2.0 * math.pi * x))
