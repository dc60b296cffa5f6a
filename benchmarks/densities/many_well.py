"""Many wells: tilted double wells beside Gaussian coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, normals, uniforms
from .quadrature import TABLE_ERROR, Line

_REACH = 4.0  # the energy of a well is 170 nats above its floor there


@final
@dataclass(frozen=True, kw_only=True)
class ManyWell(Density):
    """D/2 independent pairs: a tilted quartic double well in x_0, x_2, ..., a standard normal in x_1, x_3, ...

    The wells lie at 1.75 and -1.71 with 0.84 and 0.16 of the mass, below a barrier of 9.9 and 8.1 nats.

    Attributes:
        dim: Number of coordinates, even, >= 2; there are 2^(dim / 2) modes.

    Raises:
        ParameterError: If dim is odd or below 2.
    """

    dim: int = 32

    name: ClassVar[str] = "many_well"
    reveals: ClassVar[str] = "wells of unequal mass behind barriers that local moves do not cross"
    formula: ClassVar[str] = "sum over pairs (a, b) of a^4 - 6 a^2 - a / 2 + b^2 / 2"
    source: ClassVar[str] = (
        "the double well of Noé et al. (2019), Science 365, repeated as in Midgley et al. (2023), Flow annealed "
        "importance sampling bootstrap, ICLR"
    )

    def __post_init__(self) -> None:
        """Check the number of coordinates."""
        if self.dim < 2 or self.dim % 2:
            raise ParameterError(f"{self.name}: dim must be even and at least 2; got {self.dim}. Give whole pairs.")

    @property
    def log_normalizer(self) -> float:
        """D/2 log(Z_1 sqrt(2 pi)), where quadrature of one well gives Z_1 = 11784.509265."""
        return self.dim / 2 * (self._well.log_normalizer + 0.5 * math.log(2.0 * math.pi))

    @property
    def mean(self) -> Tensor:
        """That of one well by quadrature, and zero."""
        return self._interleave(self._well.moment(1), 0.0)

    @property
    def second_moment(self) -> Tensor:
        """That of one well by quadrature, and one."""
        return self._interleave(self._well.moment(2), 1.0)

    @property
    def moments_error(self) -> float:
        """Rounding of the trapezoid sums, which have converged."""
        return 1e-12 * self.dim

    @property
    def sampling_error(self) -> float:
        """Error of the inverse-CDF table of the wells."""
        return TABLE_ERROR

    @property
    def plot_box(self) -> Box:
        """Both wells, and three and a half standard deviations of the Gaussian coordinate."""
        return (-2.8, 2.8), (-3.5, 3.5)

    @cached_property
    def _well(self) -> Line:
        return Line.from_energy(_well_energy, -_REACH, _REACH)

    def _interleave(self, well: float, normal: float) -> Tensor:
        return torch.tensor([well, normal] * (self.dim // 2), dtype=torch.float64)

    def _energy(self, x: Tensor) -> Tensor:
        return (_well_energy(x[:, 0::2]) + 0.5 * x[:, 1::2].square()).sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        wells = self._well.table.quantile(uniforms(num, self.dim // 2, generator))
        return torch.stack([wells, normals(num, self.dim // 2, generator)], dim=2).flatten(1)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return torch.special.ndtr if d % 2 else self._well.table.cdf


def _well_energy(x: Tensor) -> Tensor:
    return x.square() * (x.square() - 6.0) - 0.5 * x
