"""Densities whose coordinates are independent and share one law."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from .base import Box, Density, uniforms
from .quadrature import TABLE_ERROR, Line


class SeparableDensity(Density):
    """exp(-sum_d e(x_d)) for an energy e of one coordinate: all facts are those of a density on the line.

    Concrete densities fill in `_coordinate_energy` and the ends of the line.
    """

    @abstractmethod
    def _coordinate_energy(self, x: Tensor) -> Tensor:
        """Energy e of each entry of x."""

    @property
    @abstractmethod
    def _ends(self) -> tuple[float, float]:
        """Where to cut the line: at least 50 nats above the deepest point."""

    @property
    @abstractmethod
    def _plot_ends(self) -> tuple[float, float]:
        """Limits of one coordinate in pictures."""

    @final
    @cached_property
    def _line(self) -> Line:
        return Line.from_energy(self._coordinate_energy, *self._ends)

    @property
    def log_normalizer(self) -> float:
        """D times that of one coordinate."""
        return self.dim * self._line.log_normalizer

    @property
    def mean(self) -> Tensor:
        """The same for every coordinate, by quadrature."""
        return torch.full((self.dim,), self._line.moment(1), dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """The same for every coordinate, by quadrature."""
        return torch.full((self.dim,), self._line.moment(2), dtype=torch.float64)

    @property
    def moments_error(self) -> float:
        """Rounding of the trapezoid sums, which have converged."""
        return 1e-12 * self.dim

    @property
    def sampling_error(self) -> float:
        """Error of the inverse-CDF table."""
        return TABLE_ERROR

    @property
    def plot_box(self) -> Box:
        """The same limits for both coordinates."""
        return self._plot_ends, self._plot_ends

    @final
    def _energy(self, x: Tensor) -> Tensor:
        return self._coordinate_energy(x).sum(1)

    @final
    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        return self._line.table.quantile(uniforms(num, self.dim, generator))

    @final
    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return self._line.table.cdf
