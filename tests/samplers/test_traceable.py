"""Kernel steps are straight programs: no branch on a value, nothing drawn, nothing baked in.

Traced on fake tensors, which have no values, a step must give a graph that repeats its results bit for bit on
other inputs, NaN among them. This is what later engines rest on (docs/decisions/0002-traceable-kernels.md).

Loops over values go through `while_any`, which such engines see as a loop; here a few rounds of it stand for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lamina.samplers import KERNELS, MALA, Clipped, GeneratorNoise, Kernel, Layout, Target, UnderdampedLangevin
from lamina.samplers.loops import select

LOOPING = {"randomised-hmc": "loops", "nuts": "kernels.nuts", "mams": "loops"}
"""Kernels with loops over values, and the modules that call `while_any` for them."""

TRACED: dict[str, Kernel[Any]] = {
    **{name: kind() for name, kind in KERNELS.items()},
    "hmc-jitter": KERNELS["hmc"](jitter=0.3),  # type: ignore[call-arg]
    "obabo": UnderdampedLangevin(splitting="obabo"),
    "mala-clipped": Clipped(kernel=MALA(), max_norm=0.5),
}
NUM_ROUNDS = 3


def energy(x: Tensor) -> Tensor:
    """A funnel that is NaN beyond v = 3."""
    v, rest = x[:, 0], x[:, 1:]
    inside = torch.where(v < 3, v, torch.nan)
    return inside.square() / 18 + 0.5 * torch.exp(-v) * rest.square().sum(-1) + 0.5 * rest.shape[1] * v


class Table:
    """Indexed noise as a pure function of the index: a row of numbers for each chain."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def at(self, k: Tensor) -> Tensor:
        return self.numbers.gather(1, k)


def few_rounds(body: Callable[..., Any], carry: Any) -> Any:
    for _ in range(NUM_ROUNDS):
        carry = select(carry[0], body(*carry), carry)
    return carry


def arguments(kernel: Kernel[Any], seed: int) -> tuple[Any, Any, dict[str, Tensor], Target]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, dtype=torch.float64, generator=generator) + torch.tensor([1.5, 0.0, 0.0])
    x[:, 0] = x[:, 0].clamp(max=2.9)
    target, params = Target(energy, Layout.of(x), len(x)), kernel.init_params(x, step_size=0.4)
    sites = {
        name: site._replace(is_indexed=False, width=NUM_ROUNDS**2) if site.is_indexed else site
        for name, site in kernel.sites.items()
    }
    return params, kernel.init(target, x, params), GeneratorNoise(generator).draw(sites, x, 0), target


@pytest.mark.parametrize("name", TRACED)
def test_step_is_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = TRACED[name]
    if name in LOOPING:
        module = importlib.import_module(f"lamina.samplers.{LOOPING[name]}")
        monkeypatch.setattr(module, "while_any", few_rounds)
    params, state, noise, target = arguments(kernel, seed=0)
    kind, width = type(state), len(state)

    def step(*flat: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(noise, flat[width:], strict=True))
        filled = {site: Table(named[site]) if kernel.sites[site].is_indexed else named[site] for site in named}
        after, info = kernel.step(target, kind(*flat[:width]), filled, params)
        return (*after, *info)  # type: ignore[misc]

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*state, *noise.values())
    _, other, other_noise, _ = arguments(kernel, seed=1)
    expected = step(*other, *other_noise.values())
    is_accepted, is_divergent = expected[width + 1], expected[width + 2]
    assert is_accepted.any()
    assert is_divergent.any() or name == "noise-free", "the inputs were meant to reach NaN"
    assert not is_accepted.all() or name == "noise-free"
    for ours, theirs in zip(graph(*other, *other_noise.values()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_looping_kernels_are_those_that_call_while_any() -> None:
    """Themselves, or by way of `repeat_each`."""
    modules = {name: importlib.import_module(kind.__module__) for name, kind in KERNELS.items()}
    called = {
        **{name: "loops" for name, module in modules.items() if hasattr(module, "repeat_each")},
        **{name: f"kernels.{name}" for name, module in modules.items() if hasattr(module, "while_any")},
    }
    assert called == LOOPING
