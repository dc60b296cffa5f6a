"""Two moons on a ring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Box, Density, normals, require_positive, uniforms
from .quadrature import Plane

_REACH = 12.0  # of the radial well, in its own standard deviations, for the quadrature grid


@final
@dataclass(frozen=True, kw_only=True)
class DualMoon(Density):
    """A ring of radius R on which two bumps at (-R, 0) and (R, 0) leave two facing moons.

    Attributes:
        radius: R, > 0.
        width: w, thickness of the ring, > 0.
        bump: s, width of the bumps along x0, > 0.

    Raises:
        ParameterError: If a parameter is not positive.
    """

    radius: float = 2.0
    width: float = 0.4
    bump: float = 0.6

    name: ClassVar[str] = "dual_moon"
    dim: ClassVar[int] = 2
    reveals: ClassVar[str] = "two curved modes joined only around the ring, not straight across"
    formula: ClassVar[str] = (
        "((|x|^2 - R^2) / (2 R w))^2 / 2 - log(exp(-((x0 - R) / s)^2 / 2) + exp(-((x0 + R) / s)^2 / 2))"
    )
    source: ClassVar[str] = (
        "Rezende & Mohamed (2015), ICML, table 1, U1; differs: their radial term ((|x| - R) / w)^2 / 2 has a "
        "kink at 0, ours is smooth there and agrees with it to second order on the ring"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, radius=self.radius, width=self.width, bump=self.bump)

    @property
    def log_normalizer(self) -> float:
        """By quadrature on a grid."""
        return self._plane.log_normalizer

    @property
    def mean(self) -> Tensor:
        """Zero by symmetry."""
        return torch.zeros(2, dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """By quadrature on a grid."""
        return self._plane.moment(2)

    @property
    def moments_error(self) -> float:
        """Rounding of the trapezoid sums, which have converged."""
        return 1e-11

    @property
    def plot_box(self) -> Box:
        """The ring and three and a half standard deviations of its radial well."""
        reach = math.sqrt(self.radius**2 + 3.5 * self._spread)
        return (-reach, reach), (-reach, reach)

    @property
    def _spread(self) -> float:
        """Standard deviation of |x|^2 in the radial well, 2 R w."""
        return 2.0 * self.radius * self.width

    @cached_property
    def _plane(self) -> Plane:
        return Plane.from_energy(self._energy, math.sqrt(self.radius**2 + _REACH * self._spread))

    def _log_bumps(self, x0: Tensor) -> Tensor:
        right, left = (x0 - self.radius) / self.bump, (x0 + self.radius) / self.bump
        return torch.logaddexp(-0.5 * right.square(), -0.5 * left.square())

    def _energy(self, x: Tensor) -> Tensor:
        radial = (x.square().sum(1) - self.radius**2) / self._spread
        return 0.5 * radial.square() - self._log_bumps(x[:, 0])

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Reject from the bare ring, where |x|^2 is a normal cut at 0 and the angle is uniform: exact."""
        kept: list[Tensor] = []
        missing = num
        while missing > 0:
            candidates = self._ring(4 * missing + 64, generator)
            # For x0 >= 0 the left bump is at most exp(-(R / s)^2 / 2), the right one at most 1; and mirrored.
            log_ceiling = math.log1p(math.exp(-0.5 * (self.radius / self.bump) ** 2))
            log_uniform = uniforms(len(candidates), 1, generator)[:, 0].log()
            accepted = log_uniform < self._log_bumps(candidates[:, 0]) - log_ceiling
            kept.append(candidates[accepted][:missing])
            missing -= len(kept[-1])
        return torch.cat(kept)

    def _ring(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw from the radial well alone; fewer than num, as squares below zero are dropped."""
        square = self.radius**2 + self._spread * normals(num, 1, generator)[:, 0]
        angle = 2.0 * math.pi * uniforms(num, 1, generator)[:, 0]
        ring = torch.stack([angle.cos(), angle.sin()], dim=1)[square > 0.0]
        return square[square > 0.0].sqrt()[:, None] * ring

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return self._plane.tables[d].cdf
