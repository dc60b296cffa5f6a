"""What is sampled: dimensions, step sizes, exact starts, and what is known of the law. Needs numpy alone.

Energies stand in `torch_energies` and `jax_energies`, each as its users would write them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
PRECISION = np.linalg.inv(COVARIANCE)
SCALES = np.logspace(-1, 1, 100)
RING_VARIANCE = 0.25
RING_MEANS = 4 * np.stack([f(2 * np.pi * np.arange(8) / 8) for f in (np.cos, np.sin)], axis=1)
FUNNEL_SCALE = 3.0
BANANA_SCALES = (math.sqrt(10), math.sqrt(0.1))
"""Standard deviations of x - 1 and y - x^2, independent normals."""

DECODER_SCALE = 0.3


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One target.

    Attributes:
        dim: D.
        leapfrog_step: Time step of HMC, GHMC and NUTS.
        langevin_step: h in x' = x - h grad + sqrt(2 h) xi, of ULA and MALA.
        draw: Starts (C, D) in float64 from a generator and C: exact draws of the target where it has them.
        standardise: Maps points (..., D) to coordinates of mean 0 and second moment 1 under the target; None where the
            law has no closed form.
        unadjusted_step: ULA's own h where chains that nothing holds back leave for infinity at MALA's: below twice the
            inverse of the largest curvature that starts meet.
    """

    dim: int
    leapfrog_step: float
    langevin_step: float
    draw: Callable[[np.random.Generator, int], Array]
    standardise: Callable[[Array], Array] | None = None
    unadjusted_step: float | None = None

    def langevin(self, algorithm: str) -> float:
        """The step size h of an algorithm by Langevin dynamics."""
        return self.unadjusted_step if algorithm == "ula" and self.unadjusted_step else self.langevin_step


@dataclass(frozen=True)
class Layers:
    """Weights (in, out) and biases of a network, float32."""

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]


@functools.cache
def mlp() -> Layers:
    """The network of the energy 32-200-200-1."""
    return _layers(0, 32, 200, 200, 1)


@functools.cache
def decoder() -> Layers:
    """The decoder 32-256-784."""
    return _layers(1, 32, 256, 784)


def observations(num_chains: int) -> NDArray[np.float32]:
    """What each chain decodes to, (C, 784)."""
    return (0.5 * np.random.default_rng(2).standard_normal((num_chains, 784))).astype(np.float32)


@functools.cache
def logistic_rows() -> NDArray[np.float32]:
    """1,000 rows of 25 features times their labels, which are 1 or -1; of the model itself."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((1000, 25))
    weights = rng.standard_normal(25) / 5
    labels = np.where(rng.random(1000) < 1 / (1 + np.exp(-features @ weights)), 1.0, -1.0)
    return (features * labels[:, None]).astype(np.float32)


def starts(problem: str, num_chains: int) -> NDArray[np.float32]:
    """Where the chains start, (C, D); the same for all libraries."""
    return PROBLEMS[problem].draw(np.random.default_rng(4), num_chains).astype(np.float32)


def _layers(seed: int, *widths: int) -> Layers:
    rng = np.random.default_rng(seed)
    weights = tuple(
        (rng.standard_normal(pair) / math.sqrt(pair[0])).astype(np.float32) for pair in itertools.pairwise(widths)
    )
    return Layers(weights, tuple((0.1 * rng.standard_normal(width)).astype(np.float32) for width in widths[1:]))


def _draw_gauss2(rng: np.random.Generator, num_chains: int) -> Array:
    return rng.standard_normal((num_chains, 2)) @ np.linalg.cholesky(COVARIANCE).T


def _standardise_gauss2(x: Array) -> Array:
    return x @ np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T


def _draw_banana(rng: np.random.Generator, num_chains: int) -> Array:
    z = rng.standard_normal((num_chains, 2)) * BANANA_SCALES
    return np.stack([1 + z[:, 0], (1 + z[:, 0]) ** 2 + z[:, 1]], axis=1)


def _standardise_banana(x: Array) -> Array:
    return np.stack([x[..., 0] - 1, x[..., 1] - x[..., 0] ** 2], axis=-1) / BANANA_SCALES


def _draw_funnel(rng: np.random.Generator, num_chains: int) -> Array:
    x = rng.standard_normal((num_chains, 10))
    x[:, 0] *= FUNNEL_SCALE
    x[:, 1:] *= np.exp(x[:, :1] / 2)
    return x


def _standardise_funnel(x: Array) -> Array:
    return np.concatenate([x[..., :1] / FUNNEL_SCALE, x[..., 1:] * np.exp(-x[..., :1] / 2)], axis=-1)


def _draw_ring(rng: np.random.Generator, num_chains: int) -> Array:
    return RING_MEANS[rng.integers(8, size=num_chains)] + rng.normal(0, math.sqrt(RING_VARIANCE), (num_chains, 2))


def _standardise_ring(x: Array) -> Array:
    return x / math.sqrt(8 + RING_VARIANCE)


def _draw_gauss100(rng: np.random.Generator, num_chains: int) -> Array:
    return SCALES * rng.standard_normal((num_chains, 100))


def _standardise_gauss100(x: Array) -> Array:
    return x / SCALES


def _draw_logistic(rng: np.random.Generator, num_chains: int) -> Array:
    """From the normal approximation at the mode."""
    rows, mode = logistic_rows().astype(np.float64), np.zeros(25)
    for _ in range(30):
        share = 1 / (1 + np.exp(rows @ mode))
        hessian = rows.T @ (rows * (share * (1 - share))[:, None]) + np.eye(25)
        mode = mode - np.linalg.solve(hessian, mode - rows.T @ share)
    return mode + rng.standard_normal((num_chains, 25)) @ np.linalg.cholesky(np.linalg.inv(hessian)).T


def _draw_normal(rng: np.random.Generator, num_chains: int) -> Array:
    return rng.standard_normal((num_chains, 32))


PROBLEMS: Mapping[str, Problem] = {
    "gauss2": Problem(dim=2, leapfrog_step=0.3, langevin_step=0.15, draw=_draw_gauss2, standardise=_standardise_gauss2),
    "banana": Problem(
        dim=2,
        leapfrog_step=0.08,
        langevin_step=0.02,
        draw=_draw_banana,
        standardise=_standardise_banana,
        unadjusted_step=1e-4,
    ),
    "funnel10": Problem(
        dim=10,
        leapfrog_step=0.1,
        langevin_step=0.01,
        draw=_draw_funnel,
        standardise=_standardise_funnel,
        unadjusted_step=1e-6,
    ),
    "ring8": Problem(dim=2, leapfrog_step=0.25, langevin_step=0.05, draw=_draw_ring, standardise=_standardise_ring),
    "gauss100": Problem(
        dim=100, leapfrog_step=0.08, langevin_step=0.0008, draw=_draw_gauss100, standardise=_standardise_gauss100
    ),
    "logistic": Problem(dim=25, leapfrog_step=0.05, langevin_step=0.001, draw=_draw_logistic),
    "mlp": Problem(dim=32, leapfrog_step=0.01, langevin_step=0.01, draw=_draw_normal),
    "decoder": Problem(dim=32, leapfrog_step=0.001, langevin_step=0.0005, draw=_draw_normal),
}
"""The targets by name."""
