"""Building blocks of every network here, and their seeded initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Initialise the modules built inside from a seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mlp(sizes: Sequence[int], *, smooth: bool = True) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them.

    Args:
        sizes: Input size, hidden sizes, output size.
        smooth: SiLU, whose second derivative exists everywhere (what leapfrog's second order rests on); or
            LeakyReLU(0.2), as published.
    """
    layers: list[nn.Module] = []
    for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(size_in, size_out), nn.SiLU() if smooth else nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def zero_last(net: nn.Sequential) -> nn.Sequential:
    """Set the last layer to zero, so that the network starts as the zero function."""
    last = net[-1]
    assert isinstance(last, nn.Linear | nn.Conv2d)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return net


def flat_sum(x: Tensor) -> Tensor:
    """Sum over everything but the first axis: (C, *event) -> (C,)."""
    return x.flatten(1).sum(1)
