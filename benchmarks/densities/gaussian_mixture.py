"""Mixtures of round Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, Density, constant_like, normals, pinned_uniforms, require_positive, uniforms


@final
@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Density):
    """Sum over k of weight_k N(mean_k, scale_k^2 I).

    `ring`, `unequal` and `forty_modes` build the mixtures of the registry.

    Attributes:
        means: K points of D numbers each.
        scales: K standard deviations, > 0.
        weights: K probabilities, > 0, adding up to 1.

    Raises:
        ParameterError: If the lengths disagree or a value is out of range.
    """

    means: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    name: str = "gaussian_mixture"
    reveals: str = "modes that are never visited, or visited in the wrong proportion"
    source: str = "textbook finite mixture"
    _means: Tensor = field(init=False, repr=False, compare=False)
    _precisions: Tensor = field(init=False, repr=False, compare=False)
    _log_heights: Tensor = field(init=False, repr=False, compare=False)

    formula: ClassVar[str] = "-log sum_k w_k s_k^-D exp(-|x - m_k|^2 / (2 s_k^2))"

    def __post_init__(self) -> None:
        """Check the components and turn them into tensors once."""
        sizes = [len(self.means), len(self.scales), len(self.weights)]
        if sizes[0] < 1 or len(set(sizes)) != 1 or len({len(mean) for mean in self.means}) != 1:
            raise ParameterError(
                f"{self.name}: give K >= 1 means of one dimension, K scales, K weights; got lengths {sizes}."
            )
        require_positive(self.name, smallest_scale=min(self.scales), smallest_weight=min(self.weights))
        if not math.isclose(sum(self.weights), 1.0, rel_tol=1e-12):
            raise ParameterError(f"{self.name}: weights must add up to 1; got {sum(self.weights)}. Normalise them.")
        scales = torch.tensor(self.scales, dtype=torch.float64)
        log_heights = self._weights.log() - self.dim * scales.log()
        object.__setattr__(self, "_means", torch.tensor(self.means, dtype=torch.float64))
        object.__setattr__(self, "_precisions", scales**-2)
        object.__setattr__(self, "_log_heights", log_heights)

    @classmethod
    def ring(cls, num_modes: int = 8, radius: float = 4.0, scale: float = 0.5) -> Self:
        """Build equal modes at equal distances on a circle; by default neighbours are 6 scales apart."""
        angles = [2.0 * math.pi * k / num_modes for k in range(num_modes)]
        return cls(
            means=tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles),
            scales=(scale,) * num_modes,
            weights=(1.0 / num_modes,) * num_modes,
            name="ring_mixture",
            reveals="chains that stay in the mode where they began",
        )

    @classmethod
    def unequal(cls) -> Self:
        """Build two overlapping modes of unequal weight and width, which chains cross often."""
        return cls(
            means=((-1.5, -0.5), (1.5, 0.5)),
            scales=(0.7, 1.0),
            weights=(0.25, 0.75),
            name="unequal_mixture",
            reveals="acceptance rules that get the proportion of two modes wrong; no symmetry hides it",
        )

    @classmethod
    def forty_modes(cls) -> Self:
        """Build 40 equal modes scattered over the square [-40, 40]^2, most of them far apart, a few touching.

        The scale is softplus(1), as published.
        """
        places = 40.0 * (2.0 * pinned_uniforms(80).view(40, 2) - 1.0)
        return cls(
            means=tuple(map(tuple, places.tolist())),
            scales=(math.log1p(math.e),) * 40,
            weights=(1.0 / 40,) * 40,
            name="forty_modes",
            reveals="modes that local moves never find, scattered without order",
            source=(
                "Midgley et al. (2023), Flow annealed importance sampling bootstrap, ICLR; differs: other draws from "
                "the same uniform law of places"
            ),
        )

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.means[0])

    @property
    def log_normalizer(self) -> float:
        """D/2 log(2 pi): the weights and scales are part of the energy."""
        return 0.5 * self.dim * math.log(2.0 * math.pi)

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the means."""
        return self._weights @ self._means

    @property
    def second_moment(self) -> Tensor:
        """The weighted mean of m_k^2 + s_k^2."""
        return self._weights @ (self._means**2 + 1.0 / self._precisions[:, None])

    @property
    def plot_box(self) -> Box:
        """Four scales beyond the outermost components."""
        scales = torch.tensor(self.scales, dtype=torch.float64)[:, None]
        lows = (self._means - 4.0 * scales).amin(0).tolist()
        highs = (self._means + 4.0 * scales).amax(0).tolist()
        return (lows[0], highs[0]), (lows[min(1, self.dim - 1)], highs[min(1, self.dim - 1)])

    @property
    def _weights(self) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)

    def _energy(self, x: Tensor) -> Tensor:
        square_distance = (x[:, None, :] - constant_like(self._means, x)).square().sum(2)
        scaled = -0.5 * square_distance * constant_like(self._precisions, x)
        return -torch.logsumexp(scaled + constant_like(self._log_heights, x), dim=1)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        pick, noise = uniforms(num, 1, generator), normals(num, self.dim, generator)
        edges = constant_like(self._weights.cumsum(0)[:-1], noise)  # without the last, rounding cannot overshoot
        component = torch.searchsorted(edges, pick[:, 0])
        scales = constant_like(self._precisions, noise).rsqrt()
        return constant_like(self._means, noise)[component] + scales[component, None] * noise

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        parts = list(zip(self.weights, self.means, self.scales, strict=True))
        return lambda x: sum(
            (weight * torch.special.ndtr((x - mean[d]) / scale) for weight, mean, scale in parts),
            start=torch.zeros_like(x),
        )
