"""Diagonal Gaussians, and the networks that give them their mean and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .nets import Event, event_net, flat, flat_sum, is_map, mlp, rows


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

    def times(self, other: Gaussian) -> Gaussian:
        """The normalised product of two densities: precisions add, means are weighted by them."""
        own, others = self.scale.pow(-2), other.scale.pow(-2)
        variance = 1 / (own + others)
        return Gaussian(variance * (own * self.mean + others * other.mean), variance.sqrt())


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
        return _gaussian(self.net(flat(z)), self.event, self.floor)


class EventGaussian(nn.Module):
    """h -> N(mu(h), diag(sigma(h)^2)) by `event_net`, which keeps maps as maps; sigma as in `MLPGaussian`.

    Args:
        source: Shape of the input.
        event: Shape of the output.
        hidden: See `event_net`; likewise `width` and `smooth`.
        width: Channels of the finest map.
        floor: Smallest scale.
        smooth: See `mlp`.
    """

    def __init__(
        self,
        source: Event,
        event: Event,
        hidden: Sequence[int] = (),
        *,
        width: int = 16,
        floor: float = 0.01,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        self.event = torch.Size(event)
        self.floor = floor
        twice = (2 * event[0], *event[1:]) if is_map(event) else (2 * math.prod(event),)
        self.net = event_net(source, twice, hidden, width=width, smooth=smooth)

    def forward(self, h: Tensor) -> Gaussian:
        """Condition on h (C, *source)."""
        return _gaussian(self.net(rows(h)), self.event, self.floor)


class StandardNormal(nn.Module):
    """z -> N(0, I), whatever z is: conditionals of a base prior whose layers are independent.

    Args:
        event: Shape of the output.
    """

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = torch.Size(event)

    def forward(self, z: Tensor) -> Gaussian:
        """Condition on z (C, ...), of which only the number of chains, dtype and device matter."""
        return standard_normal(z.new_zeros((len(z), *self.event)))


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


def standard_normal(like: Tensor) -> Gaussian:
    """N(0, I) in the shape, dtype and device of a tensor."""
    return Gaussian(torch.zeros_like(like), torch.ones_like(like))


def _gaussian(means_and_log_scales: Tensor, event: torch.Size, floor: float) -> Gaussian:
    """Halves of a network's output, (C, 2 n, ...), as mean and scale."""
    mean, log_scale = means_and_log_scales.chunk(2, dim=1)
    scale = torch.exp(log_scale) + floor
    return Gaussian(mean.reshape(-1, *event), scale.reshape(-1, *event))
