"""A normal tilted by a neural network: a latent energy-based prior with known truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Box, Density, constant_like, normals, pinned_uniforms, require_positive, uniforms
from .quadrature import Plane

_WIDTH = 16
_STEEPNESS = 2.0  # of the first layer: its weights reach from minus to plus this
_REACH = 9.0  # standard deviations of the normal


@final
@dataclass(frozen=True, kw_only=True)
class NetworkTilt(Density):
    """exp(f(x)) N(x; 0, I) for a fixed network f with one hidden layer, bounded by a: the form of a latent EBM prior.

    Attributes:
        tilt: a, > 0; draws are accepted at a rate of exp(-2 a) at least.

    Raises:
        ParameterError: If tilt is not positive.
    """

    tilt: float = 3.0

    name: ClassVar[str] = "network_tilt"
    dim: ClassVar[int] = 2
    reveals: ClassVar[str] = "what only happens with networks: compiled gradients, graphs that are kept, saturation"
    formula: ClassVar[str] = "|x|^2 / 2 - f(x), f(x) = a tanh(w . tanh(W x + b)), 16 hidden units, fixed weights"
    source: ClassVar[str] = (
        "the prior of Pang, Han, Nijkamp, Zhu & Wu (2020), NeurIPS; differs: fixed, arbitrary weights and a bound on f"
    )

    def __post_init__(self) -> None:
        """Check the tilt."""
        require_positive(self.name, tilt=self.tilt)

    @property
    def log_normalizer(self) -> float:
        """By quadrature on a grid."""
        return self._plane.log_normalizer

    @property
    def mean(self) -> Tensor:
        """By quadrature on a grid."""
        return self._plane.moment(1)

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
        """Three and a half standard deviations of the normal."""
        return (-3.5, 3.5), (-3.5, 3.5)

    @cached_property
    def _plane(self) -> Plane:
        return Plane.from_energy(self._energy, _REACH)

    @cached_property
    def _weights(self) -> Tensor:
        """Two columns of W, b and w, (4, 16)."""
        return _STEEPNESS * (2.0 * pinned_uniforms(4 * _WIDTH).view(4, _WIDTH) - 1.0)

    def _tilt(self, x: Tensor) -> Tensor:
        first, second, bias, last = constant_like(self._weights, x)
        hidden = torch.tanh(x[:, :1] * first + x[:, 1:] * second + bias)
        return self.tilt * torch.tanh((hidden * last).sum(1))

    def _energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1) - self._tilt(x)

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Reject from the normal, where exp(f) is at most exp(a): exact."""
        kept: list[Tensor] = []
        missing = num
        while missing > 0:
            candidates = normals(4 * missing + 64, 2, generator)
            log_uniform = uniforms(len(candidates), 1, generator)[:, 0].log()
            kept.append(candidates[log_uniform < self._tilt(candidates) - self.tilt][:missing])
            missing -= len(kept[-1])
        return torch.cat(kept)

    def _marginal_cdf(self, d: int) -> Callable[[Tensor], Tensor]:
        return self._plane.tables[d].cdf
