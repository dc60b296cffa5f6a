"""A resumed `sample` sees an energy whose weights have changed; what else caches owe is in the battery."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lamina.samplers import Kernel, sample

NUM_CHAINS = 64


class Scaled(nn.Module):
    """A Gaussian whose precision is a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.weight * x.square().sum(1)


def test_new_weights_are_noticed_by_a_resumed_sample(kernel: Kernel[Any]) -> None:
    energy = Scaled(1.0)
    start = torch.rand(NUM_CHAINS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    first = sample(energy, kernel, start, num_samples=3, noise=2)
    with torch.no_grad():
        energy.weight.mul_(3.0)
    second = sample(energy, kernel, first.chains, num_samples=10, collect=("energy", "is_accepted"))
    draws = second.draws
    assert isinstance(draws, Tensor)
    assert torch.equal(second.info["energy"], energy(draws.reshape(-1, 2)).detach().reshape(NUM_CHAINS, 10))
