"""The log densities in ordinary jax.numpy, (..., D) -> (...), as a user would write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .problems import (
    DECODER_SCALE,
    FUNNEL_SCALE,
    PRECISION,
    RING_MEANS,
    RING_VARIANCE,
    SCALES,
    decoder,
    logistic_rows,
    mlp,
)

LogDensity = Callable[..., Any]


def make_log_density(problem: str) -> LogDensity:
    """The log density of a problem: of x, and for the decoder of x and what it is to decode to."""
    import jax
    import jax.numpy as jnp

    def gauss2(x: Any) -> Any:
        a, b = x[..., 0], x[..., 1]
        return -0.5 * (PRECISION[0, 0] * a**2 + 2 * PRECISION[0, 1] * a * b + PRECISION[1, 1] * b**2)

    def banana(x: Any) -> Any:
        return -(5 * (x[..., 1] - x[..., 0] ** 2) ** 2 + (1 - x[..., 0]) ** 2 / 20)

    def funnel10(x: Any) -> Any:
        v, z = x[..., 0], x[..., 1:]
        return -(v**2 / (2 * FUNNEL_SCALE**2) + 0.5 * jnp.exp(-v) * (z * z).sum(-1) + 4.5 * v)

    def ring8(x: Any) -> Any:
        squares = ((x[..., None, :] - jnp.asarray(RING_MEANS, jnp.float32)) ** 2).sum(-1)
        return jax.nn.logsumexp(-squares / (2 * RING_VARIANCE), axis=-1)

    def gauss100(x: Any) -> Any:
        return -0.5 * (x * x * jnp.asarray(SCALES**-2, jnp.float32)).sum(-1)

    def logistic(x: Any) -> Any:
        return -(jax.nn.softplus(-(x @ jnp.asarray(logistic_rows()).T)).sum(-1) + 0.5 * (x * x).sum(-1))

    def network(x: Any) -> Any:
        (first, middle, last), (a, b, c) = mlp().weights, mlp().biases
        hidden = jax.nn.gelu(x @ jnp.asarray(first) + a, approximate=False)
        hidden = jax.nn.gelu(hidden @ jnp.asarray(middle) + b, approximate=False)
        return -((hidden @ jnp.asarray(last) + c)[..., 0] + 0.5 * (x * x).sum(-1))

    def posterior(z: Any, y: Any) -> Any:
        (first, last), (shift, offset) = decoder().weights, decoder().biases
        residual = y - jax.nn.relu(z @ jnp.asarray(first) + shift) @ jnp.asarray(last) - offset
        return -((residual * residual).sum(-1) / (2 * DECODER_SCALE**2) + 0.5 * (z * z).sum(-1))

    made: dict[str, LogDensity] = {
        "gauss2": gauss2,
        "banana": banana,
        "funnel10": funnel10,
        "ring8": ring8,
        "gauss100": gauss100,
        "logistic": logistic,
        "mlp": network,
        "decoder": posterior,
    }
    return made[problem]
