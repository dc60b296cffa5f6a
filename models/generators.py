"""Generators g: from latents to an image, or to an image of parameters for the likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .hierarchy import Latents
from .nets import Event, activation, event_net, feature_event, flat, mlp, rows


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
        self, latent: Event, image: Event, hidden: Sequence[int], *, squash: bool = True, smooth: bool = True
    ) -> None:
        super().__init__()
        self.image = torch.Size(image)
        self.squash = squash
        self.net = mlp([math.prod(latent), *hidden, math.prod(image)], smooth=smooth)

    def forward(self, z: Latents) -> Tensor:
        """(C, *event_i) per layer -> (C, *image)."""
        out: Tensor = self.net(flat(z[0])).reshape(-1, *self.image)
        return torch.tanh(out) if self.squash else out


class ConvGenerator(nn.Module):
    """Transposed convolutions from z_1 to an image; from a row, they begin at a quarter of its size, where it is whole.

    Args:
        latent: Shape of z_1.
        image: (channels, height, width).
        width: Channels at full size; see `event_net`.
        squash: End in tanh, for data in [-1, 1]; False gives logits.
        smooth: See `mlp`.
    """

    def __init__(
        self, latent: Event, image: Event, *, width: int = 16, squash: bool = True, smooth: bool = True
    ) -> None:
        super().__init__()
        self.squash = squash
        self.net = event_net(latent, image, (), width=width, smooth=smooth)

    def forward(self, z: Latents) -> Tensor:
        """(C, *event_i) per layer -> (C, *image)."""
        out: Tensor = self.net(rows(z[0]))
        return torch.tanh(out) if self.squash else out


class LadderGenerator(nn.Module):
    """Every layer enters on the way down: h_L = g_L(z_L), h_i = g_i(z_i, h_{i+1}), and an image of h_1.

    h_i = activation(A_i z_i + N_i(h_{i+1})), where A_i and N_i are `event_net`s; h_i is a map of z_i's size where
    z_i is a map, else a row.

    Args:
        latents: Shapes of z_1, ..., z_L.
        image: (channels, height, width).
        hidden: Sizes of the hidden layers between rows; the last is the size of every row h_i.
        width: Channels of every map h_i, and of the finest map on the way to another size.
        squash: End in tanh, for data in [-1, 1]; False gives logits.
        smooth: See `mlp`.

    Source: the architectural ladder of Cui, Wu and Han (ICCV 2023), arXiv 2310.09604, after Zhao, Song and Ermon
    (ICML 2017), arXiv 1702.08396.
    """

    def __init__(
        self,
        latents: Sequence[Event],
        image: Event,
        hidden: Sequence[int],
        *,
        width: int = 16,
        squash: bool = True,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        self.squash = squash
        events = [feature_event(latent, hidden, width) for latent in latents]

        def net(source: Event, target: Event) -> nn.Sequential:
            return event_net(source, target, hidden, width=width, smooth=smooth)

        self.reads = nn.ModuleList(net(latent, event) for latent, event in zip(latents, events, strict=True))
        self.lifts = nn.ModuleList(net(above, below) for below, above in pairwise(events))
        self.activation = activation(smooth)
        self.out = net(events[0], image)
        self.image = torch.Size(image)

    def forward(self, z: Latents) -> Tensor:
        """(C, *event_i) per layer -> (C, *image)."""
        h = self.activation(self.reads[-1](rows(z[-1])))
        for layer in range(len(z) - 2, -1, -1):
            h = self.activation(self.reads[layer](rows(z[layer])) + self.lifts[layer](h))
        out: Tensor = self.out(h).reshape(-1, *self.image)
        return torch.tanh(out) if self.squash else out
