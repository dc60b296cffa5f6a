"""Diagonal Gaussians, and the networks that give them their mean and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .nets import flat, flat_sum, mlp


class Gaussian(NamedTuple):
    """N(mean, diag(scale^2)) for every chain.

    Attributes:
        mean: (C, *event).
        scale: (C, *event), positive.
    """

    mean: Tensor
    scale: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z (C, *event), (C,) in nats."""
        white = (z - self.mean) / self.scale
        return flat_sum(-0.5 * white.square() - torch.log(self.scale) - 0.5 * math.log(2 * math.pi))

    def transform(self, u: Tensor) -> Tensor:
        """Standard normal noise to a draw."""
        return self.mean + self.scale * u

    def inverse(self, z: Tensor) -> Tensor:
        """A draw back to standard normal noise."""
        return (z - self.mean) / self.scale


class MLPGaussian(nn.Module):
    """z -> N(mu(z), diag(sigma(z)^2)) by one MLP, with sigma = exp(log sigma) + floor.

    Args:
        size_in: Size of the input, which is flattened.
        event: Shape of the output.
        hidden: Sizes of the hidden layers.
        floor: Smallest scale; 0.01 as published, and it keeps densities bounded.
        smooth: See `mlp`.
    """

    def __init__(
        self, size_in: int, event: Sequence[int], hidden: Sequence[int], *, floor: float = 0.01, smooth: bool = True
    ) -> None:
        super().__init__()
        self.event = torch.Size(event)
        self.floor = floor
        self.net = mlp([size_in, *hidden, 2 * math.prod(event)], smooth=smooth)

    def forward(self, z: Tensor) -> Gaussian:
        """Condition on z (C, ...)."""
        mean, log_scale = self.net(flat(z)).chunk(2, dim=1)
        scale = torch.exp(log_scale) + self.floor
        return Gaussian(mean.reshape(-1, *self.event), scale.reshape(-1, *self.event))


class LinearGaussian(nn.Module):
    """z -> N(W z + b, diag(sigma^2)) with constant sigma: the case with closed forms.

    Args:
        size_in: Size of the input, which is flattened.
        event: Shape of the output.
    """

    def __init__(self, size_in: int, event: Sequence[int]) -> None:
        super().__init__()
        self.event = torch.Size(event)
        self.linear = nn.Linear(size_in, math.prod(event))
        self.log_scale = nn.Parameter(torch.zeros(math.prod(event)))

    def forward(self, z: Tensor) -> Gaussian:
        """Condition on z (C, ...)."""
        mean = self.linear(flat(z))
        scale = torch.exp(self.log_scale).expand_as(mean)
        return Gaussian(mean.reshape(-1, *self.event), scale.reshape(-1, *self.event))
