"""The energies in ordinary torch, (C, D) -> (C,), as a user would write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from .problems import (
    DECODER_SCALE,
    FUNNEL_SCALE,
    PRECISION,
    RING_MEANS,
    RING_VARIANCE,
    SCALES,
    Layers,
    decoder,
    logistic_rows,
    mlp,
    observations,
)

Energy = Callable[[Tensor], Tensor]


def make_energy(problem: str, num_chains: int) -> Energy:
    """The energy of a problem; the decoder's has an observation for each chain."""
    if problem != "decoder":
        return _MAKERS[problem]()
    energy, y = posterior(), observed(num_chains)
    return lambda z: energy(z, y)


def observed(num_chains: int) -> Tensor:
    """The observations of the decoder, (C, 784)."""
    return torch.from_numpy(observations(num_chains))


def posterior() -> Callable[[Tensor, Tensor], Tensor]:
    """The energy of latents (C, 32) given what they are to decode to, (C, 784)."""
    (first, last), (shift, offset) = _tensors(decoder())

    def energy(z: Tensor, y: Tensor) -> Tensor:
        residual = y - torch.relu(z @ first + shift) @ last - offset
        return residual.square().sum(-1) / (2 * DECODER_SCALE**2) + 0.5 * z.square().sum(-1)

    return energy


def autocast(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same energy with matrix products in bfloat16, as a user would ask for them."""

    def in_bfloat16(*arguments: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return energy(*arguments)

    return in_bfloat16


class Gauss2:
    """The 2-D Gaussian, which brings a gradient that was written by hand."""

    def __init__(self) -> None:
        self._precision = torch.as_tensor(PRECISION, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Energies (C,) at x (C, 2)."""
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies, and their gradient (C, 2)."""
        grad = x @ self._precision
        return 0.5 * (x * grad).sum(-1), grad


def _gauss2() -> Energy:
    precision = torch.as_tensor(PRECISION, dtype=torch.float32)
    return lambda x: 0.5 * ((x @ precision) * x).sum(-1)


def _banana() -> Energy:
    def energy(z: Tensor) -> Tensor:
        x, y = z.unbind(-1)
        return 5 * (y - x**2) ** 2 + (1 - x) ** 2 / 20

    return energy


def _funnel10() -> Energy:
    def energy(x: Tensor) -> Tensor:
        v, z = x[:, 0], x[:, 1:]
        return v**2 / (2 * FUNNEL_SCALE**2) + 0.5 * torch.exp(-v) * z.square().sum(-1) + 4.5 * v

    return energy


def _ring8() -> Energy:
    means = torch.as_tensor(RING_MEANS, dtype=torch.float32)

    def energy(x: Tensor) -> Tensor:
        squares = (x[:, None] - means).square().sum(-1)
        return -torch.logsumexp(-squares / (2 * RING_VARIANCE), dim=-1)

    return energy


def _gauss100() -> Energy:
    precision = torch.as_tensor(SCALES**-2, dtype=torch.float32)
    return lambda x: 0.5 * (precision * x * x).sum(-1)


def _logistic() -> Energy:
    rows = torch.from_numpy(logistic_rows())
    return lambda x: softplus(-(x @ rows.T)).sum(-1) + 0.5 * x.square().sum(-1)


def _mlp() -> Energy:
    (first, middle, last), (a, b, c) = _tensors(mlp())

    def energy(x: Tensor) -> Tensor:
        hidden = gelu(gelu(x @ first + a) @ middle + b)
        return (hidden @ last + c).squeeze(-1) + 0.5 * x.square().sum(-1)

    return energy


def _tensors(layers: Layers) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return tuple(map(torch.from_numpy, layers.weights)), tuple(map(torch.from_numpy, layers.biases))


_MAKERS: Mapping[str, Callable[[], Energy]] = {
    "gauss2": _gauss2,
    "banana": _banana,
    "funnel10": _funnel10,
    "ring8": _ring8,
    "gauss100": _gauss100,
    "logistic": _logistic,
    "mlp": _mlp,
}
