"""Logarithms of Gamma variates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from scipy import special
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, require_positive, uniforms


@final
@dataclass(frozen=True, kw_only=True)
class LogGamma(Density):
    """Independent coordinates y = log of a Gamma(a, 1) variate: skewed, with an exponential left tail.

    Attributes:
        dim: Number of coordinates, >= 1.
        shape: a, > 0; smaller is more skewed.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    dim: int = 2
    shape: float = 2.0

    name: ClassVar[str] = "log_gamma"
    reveals: ClassVar[str] = "sign and reversal errors, which symmetric targets cancel; overflow on the right"
    formula: ClassVar[str] = "sum_d exp(y_d) - a y_d"
    source: ClassVar[str] = "Prentice (1974), A log gamma model and its maximum likelihood estimation, Biometrika 61"

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_positive(self.name, shape=self.shape)
        if self.dim < 1:
            raise ParameterError(f"{self.name}: dim must be at least 1; got {self.dim}. Choose 1 or more.")

    @property
    def log_normalizer(self) -> float:
        """D log Gamma(a)."""
        return self.dim * float(special.gammaln(self.shape))

    @property
    def mean(self) -> Tensor:
        """The digamma function at a."""
        return torch.full((self.dim,), float(special.digamma(self.shape)), dtype=torch.float64)

    @property
    def second_moment(self) -> Tensor:
        """Trigamma plus the squared digamma at a."""
        return self.mean**2 + float(special.polygamma(1, self.shape))

    @property
    def plot_box(self) -> Box:
        """All but 0.1 % of the mass on the left and 0.01 % on the right."""
        low, high = special.gammaincinv(self.shape, 1e-3), special.gammainccinv(self.shape, 1e-4)
        low, high = torch.tensor([low, high], dtype=torch.float64).log().tolist()
        return (low, high), (low, high)

    def _energy(self, x: Tensor) -> Tensor:
        return (x.exp() - self.shape * x).sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Invert the CDF on the CPU, which alone has the inverse incomplete gamma function."""
        probability = uniforms(num, self.dim, generator)
        gamma = special.gammaincinv(self.shape, probability.cpu().numpy())
        return torch.from_numpy(gamma).log().to(generator.device)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return lambda y: torch.special.gammainc(torch.full_like(y, self.shape), y.exp())
