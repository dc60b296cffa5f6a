"""Neal's funnel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, normals, require_positive
from .quadrature import normal_average


@final
@dataclass(frozen=True, kw_only=True)
class Funnel(Density):
    """One log-variance governs all other coordinates: v ~ N(0, s^2), x_i given v ~ N(0, e^v).

    Coordinate 0 is v. The x_i have all moments, but such heavy tails that averages of x_i^2 over draws
    are worthless as estimates; compare v, and x_i exp(-v / 2), instead.

    Attributes:
        dim: Number of coordinates with v, >= 2.
        scale: s, standard deviation of v, > 0.

    Raises:
        ParameterError: If dim < 2 or scale is not positive.
    """

    dim: int = 10
    scale: float = 3.0

    name: ClassVar[str] = "funnel"
    reveals: ClassVar[str] = "one step size for two scales: necks never entered, divergences, lost NaNs"
    formula: ClassVar[str] = "v^2 / (2 s^2) + (D - 1) v / 2 + exp(-v) sum_i x_i^2 / 2"
    source: ClassVar[str] = "Neal (2003), Slice sampling, Annals of Statistics 31, section 8"

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, scale=self.scale)
        if self.dim < 2:
            raise ParameterError(f"{self.name}: dim counts v and at least one x, so >= 2; got {self.dim}.")

    @property
    def log_normalizer(self) -> float:
        """Log s + D/2 log(2 pi): the energy holds the log-variances of the x_i."""
        return math.log(self.scale) + 0.5 * self.dim * math.log(2.0 * math.pi)

    @property
    def mean(self) -> Tensor:
        """Zero by symmetry."""
        return torch.zeros(self.dim, dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """s^2, and E[e^v] = exp(s^2 / 2) for each x_i."""
        moments = torch.full((self.dim,), math.exp(0.5 * self.scale**2), dtype=torch.float64)
        moments[0] = self.scale**2
        return moments

    @property
    def plot_box(self) -> Box:
        """Two and a half standard deviations of v, and the x_1 that belong to its upper half."""
        reach = 3.0 * math.exp(0.5 * self.scale)
        return (-2.5 * self.scale, 2.5 * self.scale), (-reach, reach)

    def _energy(self, x: Tensor) -> Tensor:
        v, rest = x[:, 0], x[:, 1:]
        prior = 0.5 * (v / self.scale).square()
        return prior + 0.5 * (self.dim - 1) * v + 0.5 * torch.exp(-v) * rest.square().sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise = normals(num, self.dim, generator)
        v = self.scale * noise[:, :1]
        return torch.cat([v, torch.exp(0.5 * v) * noise[:, 1:]], dim=1)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        if d == 0:
            return lambda v: torch.special.ndtr(v / self.scale)
        # In v the integrand is analytic within pi / 2 of the real line: a step of 0.3 errs by 1e-14.
        num_nodes = 1 + 2 * math.ceil(30.0 * self.scale)
        return lambda x: normal_average(
            lambda v: torch.special.ndtr(x * math.exp(-0.5 * v)),
            mean=0.0,
            std=self.scale,
            num_nodes=num_nodes,
        )
