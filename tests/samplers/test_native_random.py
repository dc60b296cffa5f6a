"""Energies put together at random, by the native engine and eagerly on the same noise: rules that meet in any order.

Tests of single rules miss what two of them do to each other, such as undoing each other's work for ever.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lamina.samplers import HMC, ULA, Kernel, run
from lamina.samplers.native import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

DIM = 3

Operation: TypeAlias = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
"""Of two (C, 3) and of captured tensors: a number, two rows and a matrix. None makes large numbers of small ones."""

OPERATIONS: Sequence[Operation] = (
    lambda x, y, c: x + y,
    lambda x, y, c: x - y,
    lambda x, y, c: -x * c[1],
    lambda x, y, c: c[0] * (2 * x),
    lambda x, y, c: (2 * x) * c[1],
    lambda x, y, c: (2 * x + y * c[1]) * c[2],
    lambda x, y, c: 0.5 * (x @ c[3]),
    lambda x, y, c: x / (1 + y.square()),
    lambda x, y, c: torch.tanh(x) * y,
    lambda x, y, c: torch.where(x > c[1], x, -0.5 * y),
    lambda x, y, c: functional.softplus(x) - c[2],
    lambda x, y, c: torch.exp(-0.5 * x.square()),
    lambda x, y, c: x.roll(1, 1),
    lambda x, y, c: x - x.mean(1, keepdim=True),
    lambda x, y, c: x.clamp(-1, 1) + torch.sin(y),
)

ENDS: Sequence[Operation] = (
    lambda x, y, c: 0.05 * x.square().sum(1),
    lambda x, y, c: 0.1 * ((x @ c[3]) * x).sum(1),
    lambda x, y, c: torch.logsumexp(x, 1),
    lambda x, y, c: functional.softplus((x * y).sum(1)),
)


def energy_of(chance: random.Random) -> Callable[[Tensor], Tensor]:
    """Up to eight operations, each on what came before, and a well around them."""
    generator = torch.Generator().manual_seed(chance.randrange(2**32))
    chosen = [
        (chance.choice(OPERATIONS), chance.randrange(step + 1), chance.randrange(step + 1), captured(generator))
        for step in range(chance.randint(3, 8))
    ]
    end, last = chance.choice(ENDS), captured(generator)

    def energy(x: Tensor) -> Tensor:
        values = [x]
        for operation, one, other, constants in chosen:
            values.append(operation(values[one], values[other], constants))
        well: Tensor = 0.5 * x.square().sum(1) + end(values[-1], values[-2], last)
        return well

    return energy


def captured(generator: torch.Generator) -> Sequence[Tensor]:
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((), (DIM,), (1, DIM), (DIM, DIM))]


@pytest.mark.parametrize("seed", range(16))
def test_random_energies_agree_with_plain_torch(seed: int) -> None:
    chance = random.Random(seed)
    kernels: Sequence[Kernel] = (ULA(step_size=0.01), HMC(step_size=0.05, num_leapfrog_steps=3))
    energy, kernel = energy_of(chance), chance.choice(kernels)
    start = torch.randn(20, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    native, eager = (run(energy, kernel, start, num_steps=10, noise=seed, engine=name) for name in ("native", "eager"))
    assert isinstance(native.position, Tensor)
    assert (native.position != start).any(1).all()
    torch.testing.assert_close(native.position, eager.position, rtol=1e-10, atol=1e-10)
