"""Kernel steps are straight programs: no branch on a value, nothing drawn, nothing baked in.

Traced on fake tensors, which have no values, a step must give a graph that repeats its results bit for bit on
other inputs, NaN among them. This is what later engines rest on (docs/decisions/0002-traceable-kernels.md).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lamina.samplers import HMC, KERNELS, MALA, ULA, GeneratorNoise, Kernel, Layout, State, Target


def energy(x: Tensor) -> Tensor:
    """A funnel that is NaN beyond v = 3."""
    v, rest = x[:, 0], x[:, 1:]
    inside = torch.where(v < 3, v, torch.nan)
    return inside.square() / 18 + 0.5 * torch.exp(-v) * rest.square().sum(-1) + 0.5 * rest.shape[1] * v


def arguments(kernel: Kernel[Any], seed: int) -> tuple[Any, list[Tensor], Target]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, dtype=torch.float64, generator=generator) + torch.tensor([1.5, 0.0, 0.0])
    target = Target(energy, Layout.of(x), len(x))
    x[:, 0] = x[:, 0].clamp(max=2.9)
    params = kernel.init_params(x)
    noise = GeneratorNoise(generator).draw(kernel.sites, x, 0)
    state = kernel.init(target, x, params)
    return params, [*state, *noise.values()], target


@pytest.mark.parametrize("kernel", [ULA(step_size=0.3), MALA(step_size=0.3), HMC(step_size=0.4, jitter=0.3)], ids=str)
def test_step_is_one_graph(kernel: Kernel[Any]) -> None:
    params, traced_on, target = arguments(kernel, seed=0)

    def step(*flat: Tensor) -> tuple[Tensor, ...]:
        noise = dict(zip(kernel.sites, flat[3:], strict=True))
        state, info = kernel.step(target, State(*flat[:3]), noise, params)
        return (*state, *info)

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*traced_on)
    _, others, _ = arguments(kernel, seed=1)
    expected = step(*others)
    is_accepted, is_divergent = expected[4], expected[5]
    assert is_divergent.any(), "the inputs were meant to reach NaN"
    assert is_accepted.any()
    assert not is_accepted.all()
    for ours, theirs in zip(graph(*others), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_every_kernel_is_covered() -> None:
    assert set(KERNELS.values()) == {ULA, MALA, HMC}
