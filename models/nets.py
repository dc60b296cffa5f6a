"""Building blocks of every network here, and their seeded initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

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


def quarter_size(image: Sequence[int]) -> tuple[int, int]:
    """A quarter of an image's height and of its width, for networks that halve or double twice.

    Args:
        image: (channels, height, width).

    Raises:
        ParameterError: If height or width is no multiple of 4.
    """
    _, height, width = image
    if height % 4 or width % 4:
        raise ParameterError(
            f"convolutional networks here want a height and width divisible by 4; got {tuple(image)}. Pad the images."
        )
    return height // 4, width // 4


def flat(x: Tensor) -> Tensor:
    """Events as rows: (C, *event) -> (C, D); an event () has D = 1."""
    return x.unsqueeze(-1).flatten(1)


def flat_sum(x: Tensor) -> Tensor:
    """Sum over everything but the first axis: (C, *event) -> (C,)."""
    return flat(x).sum(1)
