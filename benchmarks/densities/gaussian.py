"""Gaussians with any covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, special
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, constant_like, normals


@final
@dataclass(frozen=True, kw_only=True)
class Gaussian(Density):
    """N(center, covariance) in any dimension from 1 on.

    `from_covariance`, `correlated`, `stiff` and `ill_conditioned` are the convenient constructors.

    Attributes:
        covariance: Symmetric, positive definite, as a tuple of D rows.
        center: The mean, as a tuple of D numbers.

    Raises:
        ParameterError: If the shapes disagree or the covariance is not symmetric positive definite.
    """

    covariance: tuple[tuple[float, ...], ...] = field(repr=False)
    center: tuple[float, ...]
    name: str = "gaussian"
    reveals: str = "a wrong step-size convention, metric or acceptance rule: every moment is known"
    source: str = "textbook multivariate normal"
    _center: Tensor = field(init=False, repr=False, compare=False)
    _cholesky: Tensor = field(init=False, repr=False, compare=False)
    _whitening: Tensor = field(init=False, repr=False, compare=False)

    formula: ClassVar[str] = "1/2 (x - m)' inv(S) (x - m)"

    def __post_init__(self) -> None:
        """Factor the covariance once; energies only multiply."""
        dim = len(self.center)
        if dim < 1 or [len(row) for row in self.covariance] != [dim] * dim:
            raise ParameterError(
                f"{self.name}: center and covariance must have sizes D and (D, D) with D >= 1; got "
                f"{dim} and rows of {[len(row) for row in self.covariance]}. Make them agree."
            )
        covariance = torch.tensor(self.covariance, dtype=torch.float64)
        cholesky, failed = torch.linalg.cholesky_ex(covariance)
        asymmetry = float((covariance - covariance.T).abs().max() / covariance.abs().max())
        if failed or not asymmetry < 1e-12:
            definite = "not positive definite" if failed else "positive definite"
            raise ParameterError(
                f"{self.name}: the covariance must be symmetric positive definite; got one that is {definite}, with "
                f"a relative asymmetry of {asymmetry:.1e}. Check signs and repeated coordinates."
            )
        identity = torch.eye(dim, dtype=torch.float64)
        object.__setattr__(self, "_center", torch.tensor(self.center, dtype=torch.float64))
        object.__setattr__(self, "_cholesky", cholesky)
        object.__setattr__(self, "_whitening", torch.linalg.solve_triangular(cholesky, identity, upper=False))

    @classmethod
    def from_covariance(
        cls,
        covariance: Tensor | Sequence[Sequence[float]],
        center: Tensor | Sequence[float] | None = None,
        *,
        name: str = "gaussian",
    ) -> Self:
        """Build a Gaussian from a covariance, (D, D), and a mean, (D,), by default zero."""
        rows = torch.as_tensor(covariance, dtype=torch.float64)
        if rows.ndim != 2:
            raise ParameterError(f"{name}: the covariance must be a matrix (D, D); got shape {tuple(rows.shape)}.")
        middle = torch.zeros(len(rows)) if center is None else center
        numbers = torch.as_tensor(middle, dtype=torch.float64).tolist()
        return cls(covariance=tuple(map(tuple, rows.tolist())), center=tuple(numbers), name=name)

    @classmethod
    def correlated(cls, rho: float = 0.9) -> Self:
        """Build a 2-D Gaussian with correlation rho, standard deviations 1 and 2, and mean (1, -1)."""
        return cls(
            covariance=((1.0, 2.0 * rho), (2.0 * rho, 4.0)),
            center=(1.0, -1.0),
            name="correlated_gaussian",
            reveals="a wrong metric or its inverse, and samplers that take the mean to be zero",
        )

    @classmethod
    def stiff(cls, dim: int = 10, condition_number: float = 1e4) -> Self:
        """Build a centred Gaussian with variances spread evenly in logarithm around 1, off the axes."""
        reach = 0.5 * math.log10(condition_number)
        return cls(
            covariance=_rotated(np.logspace(-reach, reach, dim)),
            center=(0.0,) * dim,
            name="stiff_gaussian",
            reveals="steps tied to the narrowest direction; only a dense metric helps",
        )

    @classmethod
    def ill_conditioned(cls, dim: int = 100, shape: float = 0.5) -> Self:
        """Build a centred Gaussian whose variances are the mid-quantiles of the inverse Gamma(shape, 1), off the axes.

        By default they run from 0.25 to 5e4 with a few far above the rest.
        """
        levels = (np.arange(dim) + 0.5) / dim
        return cls(
            covariance=_rotated(1.0 / special.gammaincinv(shape, levels)),
            center=(0.0,) * dim,
            name="ill_conditioned_gaussian",
            reveals="trajectories too short for the widest directions, and a metric that is slow to learn",
            source=(
                "Sountsov, Radul & contributors (2020), Inference Gym, IllConditionedGaussian; differs: quantiles of "
                "their law of eigenvalues instead of draws from it, discrete cosines instead of a random rotation"
            ),
        )

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.center)

    @property
    def log_normalizer(self) -> float:
        """D/2 log(2 pi) + 1/2 log det S."""
        return 0.5 * self.dim * math.log(2.0 * math.pi) + float(self._cholesky.diagonal().log().sum())

    @property
    def mean(self) -> Tensor:
        """The center."""
        return self._center.clone()

    @property
    def second_moment(self) -> Tensor:
        """S_dd + m_d^2."""
        return torch.tensor(self.covariance, dtype=torch.float64).diagonal() + self.mean**2

    @property
    def plot_box(self) -> Box:
        """Three and a half standard deviations around the mean."""
        reach = 3.5 * self.variance[:2].sqrt()
        lows, highs = (self.mean[:2] - reach).tolist(), (self.mean[:2] + reach).tolist()
        return (lows[0], highs[0]), (lows[-1], highs[-1])  # in 1-D the only coordinate serves twice

    def _energy(self, x: Tensor) -> Tensor:
        white = (x - constant_like(self._center, x)) @ constant_like(self._whitening, x).T
        return 0.5 * white.square().sum(1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise = normals(num, self.dim, generator)
        return constant_like(self._center, noise) + noise @ constant_like(self._cholesky, noise).T

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        mean, std = self.center[d], math.sqrt(self.covariance[d][d])
        return lambda x: torch.special.ndtr((x - mean) / std)


def _rotated(variances: NDArray[np.floating[Any]]) -> tuple[tuple[float, ...], ...]:
    """The covariance with these eigenvalues and discrete cosines as eigenvectors: each coordinate mixes them all."""
    basis = fft.dct(np.eye(len(variances)), norm="ortho")
    covariance = (basis * variances) @ basis.T
    return tuple(map(tuple, (0.5 * (covariance + covariance.T)).tolist()))
