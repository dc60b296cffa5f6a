"""NUTS: its trees against a recursive one written from the definition, and what it tells about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lamina.samplers import NUTS, CounterNoise, GeneratorNoise, Layout, ParameterError, Target, run, sample


def energy(x: Tensor) -> Tensor:
    """A banana, stiff enough for deep trees."""
    return 0.5 * x[:, 0].square() + 2 * (x[:, 1] - 0.5 * x[:, 0].square()).square()


def bounded(x: Tensor) -> Tensor:
    """The banana on the side of x[0] > -1, with an undefined corner beyond x[1] = 2."""
    inside = torch.where(x[:, 0] > -1, energy(x), torch.inf)
    return torch.where(x[:, 1] < 2, inside, torch.nan)


@dataclass
class Leaf:
    x: Tensor
    r: Tensor
    error: float


class Recursive:
    """One transition of one chain by recursion: doublings of balanced trees, each subtree checked when complete.

    The same noise means the same thing as in the kernel: number k for the k-th leaf.
    """

    def __init__(self, target: Target, step_size: float, max_depth: int) -> None:
        self.target, self.step_size, self.max_depth = target, step_size, max_depth

    def transition(self, x: Tensor, r: Tensor, direction: Tensor, doubling: Tensor, leaf_noise: list[float]) -> Leaf:
        self.origin = self.total(x, r)
        start = Leaf(x, r, 0.0)
        tree, choice, log_weight, self.num_leaves = [start], start, 0.0, 0
        for depth in range(self.max_depth):
            self.depth, self.forward = depth + 1, bool(direction[depth] < 0.5)
            self.end, self.leaves = tree[-1] if self.forward else tree[0], []
            if not self.grow(depth):
                return choice
            new, new_weight = self.choose(leaf_noise)
            if math.log(doubling[depth]) < new_weight - log_weight:
                choice = new
            log_weight = math.log(math.exp(log_weight) + math.exp(new_weight))
            tree = tree + self.leaves if self.forward else self.leaves[::-1] + tree
            if self.turns(tree):
                return choice
        return choice

    def grow(self, depth: int) -> bool:
        """Add 2^depth leaves; whether the trajectory may go on."""
        if depth == 0:
            self.leapfrog()
            self.num_leaves += 1
            return self.leaves[-1].error <= 1000
        return self.grow(depth - 1) and self.grow(depth - 1) and not self.turns(self.leaves[-(2**depth) :])

    def leapfrog(self) -> None:
        step = self.step_size if self.forward else -self.step_size
        x, r = self.end.x, self.end.r
        r = r - 0.5 * step * self.target(x)[1]
        x = x + step * r
        r = r - 0.5 * step * self.target(x)[1]
        self.end = Leaf(x, r, self.total(x, r) - self.origin)
        self.leaves.append(self.end)

    def total(self, x: Tensor, r: Tensor) -> float:
        return float(self.target(x)[0] + 0.5 * r.square().sum())

    def turns(self, leaves: list[Leaf]) -> bool:
        one, other = leaves[0].r, leaves[-1].r
        across = torch.stack([leaf.r for leaf in leaves]).sum(0) - 0.5 * (one + other)
        return bool((one * across).sum() <= 0) or bool((other * across).sum() <= 0)

    def choose(self, leaf_noise: list[float]) -> tuple[Leaf, float]:
        """Draw one of the new leaves by weight, one leaf at a time."""
        weight, first = 0.0, self.num_leaves - len(self.leaves)
        for k, leaf in enumerate(self.leaves, start=first):
            weight += math.exp(-leaf.error)
            if k == first or leaf_noise[k] < math.exp(-leaf.error) / weight:
                chosen = leaf
        return chosen, math.log(weight)


@pytest.mark.parametrize("energy", [energy, bounded])
@pytest.mark.parametrize("max_tree_depth", [2, 6])
def test_trees_are_those_of_the_recursion(energy: object, max_tree_depth: int) -> None:
    num_chains, step_size = 40, 0.17
    kernel = NUTS(step_size=step_size, max_tree_depth=max_tree_depth)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(num_chains, 2, dtype=torch.float64, generator=generator)
    target = Target(energy, Layout.of(x), num_chains)  # type: ignore[arg-type]
    params = kernel.init_params(x)
    noise = CounterNoise(3).draw(kernel.sites, x, 0)
    state, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    assert len(set(info.num_grad_evals.flatten().tolist())) >= (1 if max_tree_depth == 2 else 5)

    one = Target(energy, Layout.of(x), 1)  # type: ignore[arg-type]
    leaf_noise = torch.cat([noise["leaf"].at(torch.tensor(k)) for k in range(2**max_tree_depth)], dim=1)
    for chain in range(num_chains):
        row = slice(chain, chain + 1)
        naive = Recursive(one, step_size, max_tree_depth)
        chosen = naive.transition(
            x[row],
            noise["momentum"][row],
            noise["direction"][chain],
            noise["doubling"][chain],
            leaf_noise[chain].tolist(),
        )
        assert naive.num_leaves == info.num_grad_evals[chain]
        assert naive.depth == info.tree_depth[chain]
        torch.testing.assert_close(state.position[row], chosen.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(float(info.energy_error[chain]), chosen.error, rtol=1e-9, atol=1e-9)


def test_it_tells_failure_from_the_end_of_the_support() -> None:
    kernel = NUTS(step_size=0.3)
    x = torch.tensor([[0.0, 1.9], [-0.9, 0.0]], dtype=torch.float64).repeat(50, 1)
    target = Target(bounded, Layout.of(x), len(x))
    params = kernel.init_params(x)
    noise = GeneratorNoise(torch.Generator().manual_seed(0)).draw(kernel.sites, x, 0)
    state, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    assert torch.isfinite(state.energy).all()
    assert info.is_divergent[0::2].sum() > info.is_divergent[1::2].sum()
    assert (bounded(state.position) == state.energy.squeeze(1)).all()


def test_sub_batches_see_the_same_streams() -> None:
    x = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = NUTS(step_size=0.2)
    whole = run(energy, kernel, x, num_steps=5, generator=torch.Generator().manual_seed(1))
    parts = run(energy, kernel, x, num_steps=5, generator=torch.Generator().manual_seed(1), chain_batch_size=7)
    assert torch.equal(whole.position, parts.position)
    counted = run(energy, kernel, x, num_steps=5, noise=1)
    assert torch.equal(counted.position, run(energy, kernel, x, num_steps=5, noise=1, chain_batch_size=7).position)


def test_summary_says_when_trees_are_cut() -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    result = sample(energy, NUTS(step_size=0.001, max_tree_depth=3), x, num_samples=20, noise=0)
    assert "100 % of the trees reached max_tree_depth = 3" in str(result.summary())
    assert torch.equal(result.num_grad_evals, torch.full((20,), 20 * 7))


@pytest.mark.parametrize("options", [{"max_tree_depth": 0}, {"step_size": 0.0}, {"target_accept": 1.0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(options))):
        NUTS(**options)  # type: ignore[arg-type]
