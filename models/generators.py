"""Generators g: from the lowest latent layer to an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .nets import flat, mlp, quarter_size


class MLPGenerator(nn.Module):
    """An MLP from z_1 to an image.

    Args:
        latent: Shape of z_1.
        image: Shape of an image (channels, height, width).
        hidden: Sizes of the hidden layers.
        squash: End in tanh, for data in [-1, 1]; False gives logits.
        smooth: See `mlp`.
    """

    def __init__(
        self,
        latent: Sequence[int],
        image: Sequence[int],
        hidden: Sequence[int],
        *,
        squash: bool = True,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        self.image = torch.Size(image)
        self.squash = squash
        self.net = mlp([math.prod(latent), *hidden, math.prod(image)], smooth=smooth)

    def forward(self, z: Tensor) -> Tensor:
        """(C, *latent) -> (C, *image)."""
        out: Tensor = self.net(flat(z)).reshape(-1, *self.image)
        return torch.tanh(out) if self.squash else out


class ConvGenerator(nn.Module):
    """Transposed convolutions from z_1 to an image: a quarter of its size, then doubled twice.

    Args:
        latent: Shape of z_1.
        image: (channels, height, width), height and width multiples of 4.
        channels: Channels at a quarter and at half of the size.
        squash: End in tanh, for data in [-1, 1]; False gives logits.
    """

    def __init__(
        self,
        latent: Sequence[int],
        image: Sequence[int],
        channels: tuple[int, int] = (64, 32),
        *,
        squash: bool = True,
    ) -> None:
        super().__init__()
        height, width = quarter_size(image)
        quarter, half = channels
        self.squash = squash
        self.seed = nn.Linear(math.prod(latent), quarter * height * width)
        self.fold = nn.Unflatten(1, (quarter, height, width))
        self.net = nn.Sequential(
            nn.SiLU(),
            nn.ConvTranspose2d(quarter, half, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(half, half, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, image[0], 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(C, *latent) -> (C, *image)."""
        out: Tensor = self.net(self.fold(self.seed(flat(z))))
        return torch.tanh(out) if self.squash else out
