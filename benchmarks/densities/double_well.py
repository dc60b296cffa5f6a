"""A product of quartic double wells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, require_positive, uniforms
from .quadrature import TABLE_ERROR, CdfTable

_NUM_NODES = 4001
_DEEPEST = 60.0  # nats; the table ends where the energy is this high, e^-60 of the peak


@final
@dataclass(frozen=True, kw_only=True)
class DoubleWell(Density):
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

    name: ClassVar[str] = "double_well"
    reveals: ClassVar[str] = "barrier crossing: too few crossings, and bias of discretised diffusions at a barrier"
    formula: ClassVar[str] = "h sum_d (x_d^2 - b^2)^2"
    source: ClassVar[str] = "textbook quartic potential of statistical physics; facts by 1-D quadrature"

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, height=self.height, offset=self.offset)
        if self.dim < 1:
            raise ParameterError(f"{self.name}: dim must be at least 1; got {self.dim}. Choose 1 or more.")

    @property
    def log_normalizer(self) -> float:
        """D times the log of the 1-D integral."""
        nodes, density = self._profile
        return self.dim * math.log(float(torch.trapezoid(density, nodes)))

    @property
    def mean(self) -> Tensor:
        """Zero by symmetry."""
        return torch.zeros(self.dim, dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """The same for every coordinate, by quadrature."""
        nodes, density = self._profile
        moment = torch.trapezoid(nodes**2 * density, nodes) / torch.trapezoid(density, nodes)
        return moment.expand(self.dim).clone()

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
        """Where a coordinate's energy is below 10 nats."""
        reach = math.sqrt(self.offset**2 + math.sqrt(10.0 / self.height))
        return (-reach, reach), (-reach, reach)

    @cached_property
    def _profile(self) -> tuple[Tensor, Tensor]:
        """Nodes and unnormalised density of one coordinate."""
        reach = math.sqrt(self.offset**2 + math.sqrt(_DEEPEST / self.height))
        nodes = torch.linspace(-reach, reach, _NUM_NODES, dtype=torch.float64)
        return nodes, torch.exp(-self.height * (nodes.square() - self.offset**2).square())

    @cached_property
    def _table(self) -> CdfTable:
        return CdfTable.from_density(*self._profile)

    def _energy(self, x: Tensor) -> Tensor:
        return self.height * (x.square() - self.offset**2).square().sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        return self._table.quantile(uniforms(num, self.dim, generator))

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return self._table.cdf
