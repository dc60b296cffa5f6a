"""Small targets with exact draws, each of which shows what a standard Gaussian hides.

All of them can be drawn from at any temperature, as tests of tempering need: a density to the power 1 / T.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, final

import torch
from scipy import special
from torch import Tensor

from ..checks import check_positive
from ..position import Position
from .bands import CDF


class ExactTarget(Protocol):
    """An energy that can be drawn from exactly, such as the densities of `lamina.benchmarks`, or one of your own."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def __call__(self, position: Any, /) -> Tensor:
        """Energies in nats, (C,)."""
        ...

    def sample(self, num: int, *, generator: torch.Generator, dtype: torch.dtype) -> Position:
        """Draw `num` independent positions."""
        ...

    def marginal_cdf(self, d: int) -> CDF | None:
        """Exact CDF of coordinate d of the position as a matrix (C, D); None where it is not known."""
        ...


class SmallTarget(ABC):
    """An `ExactTarget` on matrices (C, D) that can be tempered."""

    name: ClassVar[str]
    dim: ClassVar[int]

    @abstractmethod
    def __call__(self, x: Tensor, /) -> Tensor:
        """Energies in nats, (C, D) -> (C,)."""

    @final
    def sample(
        self, num: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64, temperature: float = 1.0
    ) -> Tensor:
        """Draw `num` independent positions (num, D) from the density proportional to exp(-energy / temperature).

        Raises:
            ParameterError: If the temperature is not positive.
        """
        check_positive("temperature", temperature)
        return self._draw(num, 1 / temperature, generator).to(dtype)

    def marginal_cdf(self, d: int) -> CDF | None:
        """Exact CDF of coordinate d at temperature one; None where it is not known."""
        return None

    @abstractmethod
    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        """Draws (num, D) in float64 at inverse temperature beta."""


@final
class Skewed(SmallTarget):
    """Logarithms of exponential draws: energy sum_d exp(x_d) - x_d. Wrong signs cancel in no symmetry."""

    name = "skewed"
    dim = 3

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `SmallTarget`."""
        return (x.exp() - x).sum(1)

    def marginal_cdf(self, d: int) -> CDF:
        """1 - exp(-exp(x))."""
        return lambda x: -torch.expm1(-x.exp())

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        return (_gammas((num, self.dim), beta, generator) / beta).log()


@final
class Bimodal(SmallTarget):
    """Two overlapping modes of unequal weight and width in the plane: their proportion is easily got wrong."""

    name = "bimodal"
    dim = 2
    means = ((-1.5, -0.5), (1.5, 0.5))
    scales = (0.7, 1.0)
    weights = (0.25, 0.75)

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `SmallTarget`."""
        return -torch.logsumexp(self._log_parts(x), dim=1)

    def marginal_cdf(self, d: int) -> CDF:
        """Weighted sum of two normal CDFs."""
        parts = list(zip(self.weights, self.means, self.scales, strict=True))
        return lambda x: sum(
            (weight * torch.special.ndtr((x - mean[d]) / scale) for weight, mean, scale in parts), torch.zeros_like(x)
        )

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        """By rejection from the sum of the parts' powers, which lies above the power of the sum for beta <= 1."""
        kept = torch.empty(0, self.dim, dtype=torch.float64)
        means, scales, weights = (
            torch.tensor(values, dtype=torch.float64) for values in (self.means, self.scales, self.weights)
        )
        # The integral of a part's power, up to what the parts share: two dimensions.
        masses = weights**beta * scales ** (2 - 2 * beta)
        while len(kept) < num:
            which = (_uniforms((2 * num, 1), generator) > masses[0] / masses.sum()).long().squeeze(1)
            x = means[which] + scales[which, None] / math.sqrt(beta) * _normals((2 * num, 2), generator)
            log_parts = self._log_parts(x)
            log_ratio = beta * torch.logsumexp(log_parts, 1) - torch.logsumexp(beta * log_parts, 1)
            kept = torch.cat((kept, x[_uniforms((2 * num,), generator).log() <= log_ratio]))
        return kept[:num]

    def _log_parts(self, x: Tensor) -> Tensor:
        """Log of weight times density of each mode, up to a constant, (C, 2)."""
        parts = zip(self.weights, self.means, self.scales, strict=True)
        return torch.stack(
            [
                math.log(weight / scale**2) - (x - x.new_tensor(mean)).square().sum(1) / (2 * scale**2)
                for weight, mean, scale in parts
            ],
            dim=1,
        )


@final
class Banana(SmallTarget):
    """A banana: x_0 is standard normal, x_1 is normal about x_0^2 / 2. Curvature turns along the way."""

    name = "banana"
    dim = 2
    width = 0.7

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `SmallTarget`."""
        return x[:, 0].square() / 2 + (x[:, 1] - x[:, 0].square() / 2).square() / (2 * self.width**2)

    def marginal_cdf(self, d: int) -> CDF | None:
        """Known of x_0 only."""
        return torch.special.ndtr if d == 0 else None

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        first, second = (_normals((num, 2), generator) / math.sqrt(beta)).unbind(1)
        return torch.stack((first, first.square() / 2 + self.width * second), dim=1)


@final
class Funnel(SmallTarget):
    """Neal's funnel, gentle: v is standard normal, two others are normal of variance exp(v). Scales vary."""

    name = "funnel"
    dim = 3

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `SmallTarget`."""
        v, rest = x[:, 0], x[:, 1:]
        return v.square() / 2 + v + torch.exp(-v) * rest.square().sum(1) / 2

    def marginal_cdf(self, d: int) -> CDF | None:
        """Known of v only."""
        return torch.special.ndtr if d == 0 else None

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        # The two others integrate to exp(v) / beta, which beta times their normaliser v no longer cancels.
        normals = _normals((num, 3), generator) / math.sqrt(beta)
        v = normals[:, :1] + (1 - beta) / beta
        return torch.cat((v, torch.exp(v / 2) * normals[:, 1:]), dim=1)


@final
class HalfLine(SmallTarget):
    """Rayleigh's law, density x exp(-x^2 / 2) on x > 0: its support ends, and its energy is infinite beyond."""

    name = "half-line"
    dim = 1

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `SmallTarget`."""
        is_inside = x > 0
        inside = torch.where(is_inside, x, 1.0)  # no NaN may reach the gradient through the branch not taken
        return torch.where(is_inside, inside.square() / 2 - inside.log(), torch.inf).squeeze(1)

    def marginal_cdf(self, d: int) -> CDF:
        """1 - exp(-x^2 / 2)."""
        return lambda x: -torch.expm1(-x.square() / 2)

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        return (2 * _gammas((num, 1), (beta + 1) / 2, generator) / beta).sqrt()


TARGETS: Mapping[str, SmallTarget] = {
    target.name: target for target in (Skewed(), Bimodal(), Banana(), Funnel(), HalfLine())
}
"""What `check_kernel` tests on, by name."""


def _normals(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """On (0, 1]."""
    return 1 - torch.rand(shape, generator=generator, dtype=torch.float64)


def _gammas(shape: tuple[int, ...], concentration: float, generator: torch.Generator) -> Tensor:
    """Gamma draws of rate one, by the inverse of the upper tail, which takes every uniform on (0, 1]."""
    uniforms = _uniforms(shape, generator)
    # gammainccinv(a, 1) = 0 would put a chain at minus infinity; the largest number below 1 does not.
    return torch.from_numpy(special.gammainccinv(concentration, uniforms.clamp(max=1 - 2.0**-53).numpy()))
