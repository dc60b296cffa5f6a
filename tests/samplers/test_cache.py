"""The energy and gradient that a state carries are those of its position, whatever happened on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.samplers import HMC, MALA, Info, Kernel, State, Target, run, sample
from lamina.samplers.accept import accept
from lamina.samplers.kernel import Noise
from lamina.samplers.langevin import propose
from lamina.samplers.noise import CounterNoise
from lamina.samplers.position import Layout

NUM_CHAINS = 64


def half_normal(x: Tensor) -> Tensor:
    """Steep, and NaN on the other side of zero, so that even ULA stays where it is now and then."""
    return (x.square() - x.log()).sum(1)


class Scaled(nn.Module):
    """A Gaussian whose precision is a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.weight * x.square().sum(1)


def positive_start() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(NUM_CHAINS, 2, generator=generator, dtype=torch.float64) + 0.2


def has_a_fresh_cache(kernel: Kernel[Any], *, num_steps: int = 20) -> bool:
    """Whether the cache is right after every one of some steps, among which there are moves and rejections."""
    x = positive_start()
    target, noise = Target(half_normal, Layout.of(x), NUM_CHAINS), CounterNoise(1)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)
    num_moves, is_fresh = 0, True
    for step in range(num_steps):
        state, info = kernel.step(target, state, noise.draw(kernel.sites, x, step), params)
        energy, grad = target(state.position)
        is_fresh &= torch.equal(state.energy, energy) & torch.equal(state.grad, grad)
        is_fresh &= torch.equal(info.energy, energy)
        num_moves += int(info.is_accepted.sum())
    assert 0.1 < num_moves / (num_steps * NUM_CHAINS) < 0.99  # else one of the two branches was hardly taken
    return is_fresh


def notices_new_weights(kernel: Kernel[Any]) -> bool:
    """Whether a continued run starts from energies and gradients of the weights as they are by then."""
    energy = Scaled(1.0)
    first = run(energy, kernel, positive_start(), num_steps=3, noise=2)
    with torch.no_grad():
        energy.weight.mul_(3.0)
    continued = run(energy, kernel, first.chains, num_steps=3, record_energies=True)
    anew = run(Scaled(3.0), kernel, first.chains, num_steps=3)
    assert continued.energies is not None
    is_fresh = torch.equal(continued.energies[:, 0], energy(first.position))
    return is_fresh and torch.equal(continued.chains.matrix, anew.chains.matrix)


def test_cache_is_fresh_after_moves_and_rejections(kernel: Kernel[Any]) -> None:
    assert has_a_fresh_cache(kernel)


def test_new_weights_are_noticed_by_run(kernel: Kernel[Any]) -> None:
    assert notices_new_weights(kernel)


def test_new_weights_are_noticed_by_a_resumed_sample(kernel: Kernel[Any]) -> None:
    energy = Scaled(1.0)
    first = sample(energy, kernel, positive_start(), num_samples=3, noise=2)
    with torch.no_grad():
        energy.weight.mul_(3.0)
    second = sample(energy, kernel, first.chains, num_samples=10, collect=("energy", "is_accepted"))
    draws = second.draws
    assert isinstance(draws, Tensor)
    assert torch.equal(second.info["energy"], energy(draws.reshape(-1, 2)).detach().reshape(NUM_CHAINS, 10))


# --- Controls: kernels with one stale cache each ---------------------------------------------------------------


class KeepsGradientOfProposal(MALA):
    """Carries the proposal's gradient along, even where the proposal was rejected. Invariance tests miss it."""

    def step(self, target: Target, state: State, noise: Noise, params: Any) -> tuple[State, Info]:
        proposed, ratio = propose(target, state, noise["xi"], params)
        after, info = accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))
        return after._replace(grad=proposed.grad), info


class KeepsEnergyOfStart(HMC):
    """Forgets to update the energy of an accepted move."""

    def step(self, target: Target, state: State, noise: Noise, params: Any) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        return after._replace(energy=state.energy), info


class RemembersPositions(MALA):
    """Takes the energy of a position seen before from a notebook."""

    notebook: dict[bytes, State] = {}  # noqa: RUF012 (the planted bug)

    def init(self, target: Target, position: Tensor, params: Any) -> State:
        known = self.notebook.get(position.numpy().tobytes())
        return known or super().init(target, position, params)

    def step(self, target: Target, state: State, noise: Noise, params: Any) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        self.notebook[after.position.numpy().tobytes()] = after
        return after, info


@pytest.mark.parametrize("bug", [KeepsGradientOfProposal(step_size=0.3), KeepsEnergyOfStart(step_size=0.4)])
def test_stale_cache_within_a_run_is_found(bug: Kernel[Any]) -> None:
    assert not has_a_fresh_cache(bug)


def test_stale_cache_between_runs_is_found() -> None:
    assert has_a_fresh_cache(RemembersPositions(step_size=0.3))
    assert not notices_new_weights(RemembersPositions(step_size=0.2))
