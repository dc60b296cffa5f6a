"""Building blocks of every network here, and their seeded initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Initialise the modules built inside, on the CPU, from a seed; every global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
        yield


def mlp(sizes: Sequence[int], *, smooth: bool = True) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them.

    Args:
        sizes: Input size, hidden sizes, output size.
        smooth: SiLU, whose second derivative exists everywhere (what leapfrog's second order rests on); or
            LeakyReLU(0.2), as published.
    """
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation(smooth)]
    return nn.Sequential(*layers[:-1])


def map_net(*layers: nn.Module) -> nn.Sequential:
    """Layers of which some are convolutions, whose weights lie with their channels last, and with them all maps.

    So CPUs and tensor cores take them; `lamina-bench training` has them beside the usual order.
    """
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def zero_last(net: nn.Sequential) -> nn.Sequential:
    """Set the last layer to zero, so that the network starts as the zero function."""
    last = net[-1]
    assert isinstance(last, nn.Linear | nn.Conv2d)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return net


Event: TypeAlias = Sequence[int]
"""Shape of a latent layer or an image without its chain axis: a map (channels, height, width), or entries in a row."""


def is_map(event: Event) -> bool:
    """Whether convolutions make sense of an event: (channels, height, width)."""
    return len(event) == 3


def event_net(source: Event, target: Event, hidden: Sequence[int], *, width: int, smooth: bool = True) -> nn.Sequential:
    """A network from one event to another: convolutions where there are maps, an MLP between rows of entries.

    Maps double or halve from one size to the other; between a map and a row, they do so at most twice, while
    height and width are even, and one linear layer does the rest. The finest map has `width` channels, and every
    halving doubles them. Apply it to `rows(z)`.

    Args:
        source: Shape of the input.
        target: Shape of the output.
        hidden: Sizes of the hidden layers between rows.
        width: Channels of the finest map.
        smooth: See `mlp`.

    Raises:
        ParameterError: If no number of doublings leads from one map to the other.
    """
    if is_map(source) and is_map(target):
        halvings = _halvings_between(source, target)
        channels = [width * 2**k for k in range(abs(halvings) + 1)]
        if halvings >= 0:
            last = nn.Conv2d(channels[-1], target[0], 3, padding=1)
            return map_net(*_halving(source[0], channels, smooth), last)
        first = nn.Conv2d(source[0], channels[-1], 3, padding=1)
        return map_net(first, *_doubling(channels[::-1], target[0], smooth))
    if is_map(source):
        channels, coarsest = _to_coarsest(source, width)
        last_linear = nn.Linear(math.prod(coarsest), math.prod(target))
        return map_net(*_halving(source[0], channels, smooth), nn.Flatten(), last_linear)
    if is_map(target):
        channels, coarsest = _to_coarsest(target, width)
        seed = nn.Linear(math.prod(source), math.prod(coarsest))
        return map_net(seed, nn.Unflatten(1, coarsest), *_doubling(channels[::-1], target[0], smooth))
    return mlp([math.prod(source), *hidden, math.prod(target)], smooth=smooth)


def feature_event(latent: Event, hidden: Sequence[int], width: int) -> Event:
    """Shape of the deterministic features beside a latent layer: a map of its size, or the last hidden layer."""
    return (width, *latent[1:]) if is_map(latent) else (hidden[-1],)


def rows(x: Tensor) -> Tensor:
    """Maps (C, channels, height, width) as they are, all other events as rows (C, D)."""
    return x if is_map(x.shape[1:]) else flat(x)


def activation(smooth: bool) -> nn.Module:
    """See `mlp`."""
    return nn.SiLU() if smooth else nn.LeakyReLU(0.2)


def _halving(source: int, channels: Sequence[int], smooth: bool) -> list[nn.Module]:
    """A convolution at full size, then one for each halving, an activation after each."""
    layers: list[nn.Module] = [nn.Conv2d(source, channels[0], 3, padding=1), activation(smooth)]
    for fine, coarse in pairwise(channels):
        layers += [nn.Conv2d(fine, coarse, 4, stride=2, padding=1), activation(smooth)]
    return layers


def _doubling(channels: Sequence[int], target: int, smooth: bool) -> list[nn.Module]:
    """A transposed convolution for each doubling, then a convolution, an activation before each."""
    layers: list[nn.Module] = []
    for coarse, fine in pairwise(channels):
        layers += [activation(smooth), nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)]
    return [*layers, activation(smooth), nn.Conv2d(channels[-1], target, 3, padding=1)]


def _halvings_between(source: Event, target: Event) -> int:
    """How often a map halves on the way to another; negative where it doubles."""
    for halvings in range(max(*source, *target).bit_length()):
        for sign, fine, coarse in ((1, source, target), (-1, target, source)):
            if all(side == small << halvings for side, small in zip(fine[1:], coarse[1:], strict=True)):
                return sign * halvings
    raise ParameterError(
        f"maps lead to each other by doubling or halving height and width; got {tuple(source)} and {tuple(target)}. "
        "Choose sizes such as 28, 14, 7 or 32, 16, 8, 4, or a layer without map between them."
    )


def _to_coarsest(event: Event, width: int) -> tuple[list[int], tuple[int, int, int]]:
    """Channels from the finest map on, and the shape of the coarsest, after two halvings at most."""
    _, height, size = event
    halvings = next((k for k in range(2) if (height >> k) % 2 or (size >> k) % 2), 2)
    channels = [width * 2**k for k in range(halvings + 1)]
    return channels, (channels[-1], height >> halvings, size >> halvings)


def flat(x: Tensor) -> Tensor:
    """Events as rows: (C, *event) -> (C, D); an event () has D = 1."""
    return x.unsqueeze(-1).flatten(1)


def flat_sum(x: Tensor) -> Tensor:
    """Sum over everything but the first axis: (C, *event) -> (C,)."""
    return flat(x).sum(1)
