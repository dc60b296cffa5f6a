"""Numerical integration and tables for facts that have no closed form.

The trapezoid rule is used throughout: on a smooth integrand that vanishes at both ends its error falls
faster than any power of the step (Trefethen & Weideman 2014, SIAM Review 56, theorem 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

TABLE_ERROR = 1e-7
"""Bound on the error of a `CdfTable`, with which its cells were chosen; the tests hold it to that."""

_NUM_CELLS = 2**17  # linear interpolation errs by cell^2 / 8 times the steepest slope of the density
_NUM_NODES = 4001
_NUM_PLANE_NODES = 1001
_NORMAL_REACH = 9.0  # standard deviations; 2e-19 of a normal's mass lies beyond


@final
@dataclass(frozen=True, eq=False)
class CdfTable:
    """A cumulative distribution function and its inverse, both by linear interpolation of one table.

    Attributes:
        nodes: Increasing values, (K,), float64.
        probabilities: CDF at the nodes, (K,), from 0 to 1.
    """

    nodes: Tensor
    probabilities: Tensor

    @classmethod
    def from_density(cls, nodes: Tensor, density: Tensor) -> Self:
        """Integrate a density that is known up to a factor at evenly spaced nodes.

        Args:
            nodes: Evenly spaced values that cover all of the mass, (K,), float64.
            density: Density at the nodes, up to a factor, (K,).

        Returns:
            A table with far finer cells, from the integral of the cubic spline through the nodes.
        """
        integral = CubicSpline(nodes.numpy(), density.numpy()).antiderivative()
        fine = torch.linspace(float(nodes[0]), float(nodes[-1]), _NUM_CELLS + 1, dtype=torch.float64)
        mass = torch.from_numpy(integral(fine.numpy()))
        # The spline may dip below zero by rounding where the density vanishes; a CDF must not fall.
        return cls(fine, torch.cummax(mass / mass[-1], dim=0).values.clamp(0.0, 1.0))

    def cdf(self, values: Tensor) -> Tensor:
        """Return P(X <= value) for float64 values of any shape."""
        return _interpolate(values, self.nodes, self.probabilities)

    def quantile(self, probabilities: Tensor) -> Tensor:
        """Return the values whose CDF is given, for float64 probabilities of any shape."""
        return _interpolate(probabilities, self.probabilities, self.nodes)


@final
@dataclass(frozen=True, eq=False)
class Line:
    """The facts of a density on the line, by quadrature.

    Attributes:
        nodes: Evenly spaced values that cover all of the mass, (K,), float64.
        density: exp(-energy) there, (K,).
    """

    nodes: Tensor
    density: Tensor

    @classmethod
    def from_energy(cls, energy: Callable[[Tensor], Tensor], low: float, high: float) -> Self:
        """Tabulate exp(-energy) between two ends where it is next to nothing."""
        nodes = torch.linspace(low, high, _NUM_NODES, dtype=torch.float64)
        return cls(nodes, torch.exp(-energy(nodes)))

    @property
    def log_normalizer(self) -> float:
        """Log of the integral of exp(-energy)."""
        return math.log(self._integral(0))

    def moment(self, power: int) -> float:
        """E[x^power]."""
        return self._integral(power) / self._integral(0)

    @cached_property
    def table(self) -> CdfTable:
        """The cumulative distribution function and its inverse."""
        return CdfTable.from_density(self.nodes, self.density)

    def _integral(self, power: int) -> float:
        return float(torch.trapezoid(self.nodes**power * self.density, self.nodes))


@final
@dataclass(frozen=True, eq=False)
class Plane:
    """The facts of a density in the plane, by quadrature.

    Attributes:
        nodes: Evenly spaced values of either coordinate, which cover all of the mass, (K,), float64.
        density: exp(-energy) on the grid, (K, K), with the first coordinate along the rows.
    """

    nodes: Tensor
    density: Tensor

    @classmethod
    def from_energy(cls, energy: Callable[[Tensor], Tensor], reach: float) -> Self:
        """Tabulate exp(-energy), which is next to nothing outside of [-reach, reach]^2."""
        nodes = torch.linspace(-reach, reach, _NUM_PLANE_NODES, dtype=torch.float64)
        density = torch.exp(-energy(torch.cartesian_prod(nodes, nodes)))
        return cls(nodes, density.view(_NUM_PLANE_NODES, _NUM_PLANE_NODES))

    @property
    def log_normalizer(self) -> float:
        """Log of the integral of exp(-energy)."""
        return math.log(float(self.density.sum())) + 2.0 * math.log(float(self.nodes[1] - self.nodes[0]))

    def moment(self, power: int) -> Tensor:
        """E[x_d^power] for both coordinates, (2,)."""
        values = self.nodes**power
        return torch.stack([values @ self.density.sum(1 - d) for d in range(2)]) / self.density.sum()

    @cached_property
    def tables(self) -> tuple[CdfTable, CdfTable]:
        """The marginal cumulative distribution functions and their inverses."""
        first, second = (CdfTable.from_density(self.nodes, self.density.sum(1 - d)) for d in range(2))
        return first, second


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Interpolate the non-decreasing points (xs, ys) linearly at x, constant beyond both ends."""
    xs, ys = xs.to(x.device), ys.to(x.device)
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, xs.numel() - 1)
    left = right - 1
    fraction = ((x - xs[left]) / (xs[right] - xs[left])).clamp(0.0, 1.0)
    return ys[left] + fraction * (ys[right] - ys[left])


def normal_average(fn: Callable[[float], Tensor], mean: float, std: float, num_nodes: int) -> Tensor:
    """Return E[fn(v)] for v ~ N(mean, std^2) by the trapezoid rule.

    Args:
        fn: Smooth function of a number; its values may have any one shape.
        mean: Mean of v.
        std: Standard deviation of v.
        num_nodes: Number of nodes over +-9 standard deviations; the step must resolve fn.

    Returns:
        The average, in the shape of the values.
    """
    nodes = torch.linspace(-_NORMAL_REACH, _NORMAL_REACH, num_nodes, dtype=torch.float64)
    weights = torch.softmax(-0.5 * nodes**2, dim=0)
    total = torch.zeros((), dtype=torch.float64)
    # One node at a time: memory stays that of one value of fn, however large.
    for weight, node in zip(weights.tolist(), nodes.tolist(), strict=True):
        total = total + weight * fn(mean + std * node)
    return total
