"""The contracts of targets: energies with a description, and densities, which declare exact facts as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError, PositionError

Box = tuple[tuple[float, float], tuple[float, float]]
"""Limits (lo, hi) of the first and of the second coordinate."""


class Target(ABC):
    """An energy with a description: what densities with exact truth and posteriors with a reference share.

    A target *is* its energy: `target(x)` maps chains (C, D) to energies (C,) in nats.

    Concrete targets are final, frozen dataclasses of plain numbers, so they compare, hash and pickle.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the registry, or one that the user chose."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of coordinates, D."""

    @property
    @abstractmethod
    def reveals(self) -> str:
        """One line: the sampler bug or difficulty that this target shows."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """The energy, as a formula."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the target comes from, and how it differs from there."""

    @property
    @abstractmethod
    def plot_box(self) -> Box:
        """Limits for pictures of the first two coordinates; holds nearly all of their mass."""

    @abstractmethod
    def _energy(self, x: Tensor) -> Tensor:
        """Energy of checked chains: (C, D) -> (C,)."""

    @final
    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the energy of each chain, minus the log-density up to a constant.

        Args:
            x: Chains, (C, D), of any floating dtype and device, which the result follows.

        Returns:
            Energies in nats, (C,).

        Raises:
            PositionError: If x is not a floating-point matrix with D columns.
        """
        self._check(x)
        return self._energy(x)

    @final
    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim or not x.is_floating_point():
            raise PositionError(
                f"{self.name} takes chains as a floating-point tensor of shape (C, {self.dim}); got "
                f"{x.dtype} of shape {tuple(x.shape)}. Reshape to one row per chain."
            )


class Density(Target):
    """An unnormalised density exp(-energy) whose normaliser, moments and law are known.

    All but the energy is declared truth, in float64 on the CPU, which samplers and diagnostics are measured
    against. Concrete densities fill in the facts below, `_energy`, `_draw` and, where it is known, `_marginal_cdf`.
    """

    @property
    @abstractmethod
    def log_normalizer(self) -> float:
        """Log of the integral of exp(-energy), in nats."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x_d], (D,)."""

    @property
    @abstractmethod
    def second_moment(self) -> Tensor:
        """E[x_d^2], (D,)."""

    @property
    def variance(self) -> Tensor:
        """E[x_d^2] - E[x_d]^2, (D,)."""
        return self.second_moment - self.mean**2

    @property
    def moments_error(self) -> float:
        """Bound on the absolute error of `log_normalizer`, `mean` and `second_moment`; 0.0: closed form."""
        return 0.0

    @property
    def sampling_error(self) -> float:
        """Bound on the Kolmogorov distance per coordinate between `sample` and the density; 0.0: exact."""
        return 0.0

    @abstractmethod
    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Independent float64 draws (num, D) on the generator's device."""

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor] | None:
        """CDF of coordinate d on float64 tensors, or None where it is not known."""
        return None

    @final
    def sample(
        self,
        num: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw independently from the density, exactly up to `sampling_error`.

        Draws are made in float64 on the generator's device and then converted, so that one seed gives
        the same points in every dtype. The global generator is neither read nor advanced.

        Args:
            num: Number of draws, >= 1.
            generator: Source of randomness. None: a new one, seeded by the operating system.
            dtype: Floating dtype of the result.
            device: Device of the result; it may differ from the generator's.

        Returns:
            Draws, (num, D).

        Raises:
            ParameterError: If num < 1.
        """
        if num < 1:
            raise ParameterError(f"num must be at least 1; got {num}. Ask for one draw or more.")
        if generator is None:
            generator = torch.Generator(device)
            generator.seed()
        return self._draw(num, generator).to(device=device, dtype=dtype)

    @final
    def marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor] | None:
        """Return the cumulative distribution function of coordinate d, for tests of exactness.

        Args:
            d: Coordinate, 0 <= d < D.

        Returns:
            A function from values of any shape to probabilities in float64, exact to 1e-7 or better;
            None where it is not known.

        Raises:
            ParameterError: If there is no coordinate d.
        """
        if not 0 <= d < self.dim:
            raise ParameterError(f"{self.name} has coordinates 0 to {self.dim - 1}; got {d}. Choose one of them.")
        cdf = self._marginal_cdf(d)
        return None if cdf is None else lambda values: cdf(values.double())


def require_positive(density: str, **values: float) -> None:
    """Raise ParameterError unless every named value of a density is finite and above zero."""
    for name, value in values.items():
        if not 0.0 < value < float("inf"):
            raise ParameterError(f"{density}: {name} must be positive and finite; got {value}. Choose a larger one.")


def require_coordinates(density: str, dim: int) -> None:
    """Raise ParameterError unless a density has at least one coordinate."""
    if dim < 1:
        raise ParameterError(f"{density}: dim must be at least 1; got {dim}. Choose 1 or more.")


def constant_like(values: Tensor, x: Tensor) -> Tensor:
    """Return constants in the dtype and on the device of x, without waiting for the device."""
    return values.to(dtype=x.dtype, device=x.device, non_blocking=True)


def normals(num: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return standard normal float64 draws (num, dim) on the generator's device."""
    return torch.randn(num, dim, generator=generator, dtype=torch.float64, device=generator.device)


def pinned_uniforms(num: int) -> Tensor:
    """Return float64 numbers (num,) that look uniform on [0, 1): constants, as NumPy pins this bit stream for good."""
    bits = np.random.PCG64(0).random_raw(num) >> np.uint64(11)
    return torch.from_numpy(bits * 2.0**-53)


def uniforms(num: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return float64 draws (num, dim) from the open interval (0, 1) on the generator's device."""
    draws = torch.rand(num, dim, generator=generator, dtype=torch.float64, device=generator.device)
    return draws.clamp_(min=2.0**-54)  # rand may return 0, whose quantile is infinite
