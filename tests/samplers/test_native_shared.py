"""Loops that chains leave one by one, in native programs: what those inside share, and what is held for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from lamina.samplers import NUTS, RWM, Info, State, sample
from lamina.samplers.energy import Target
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.walk import WalkParams
from lamina.samplers.loops import while_any
from lamina.samplers.native import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

Widths: TypeAlias = Callable[[Tensor], Tensor]
"""How wide a move is, (C, 1), made of noise (C, D) by loops that each chain leaves in a round of its own."""

SCALAR = "int32_t rounds"


def _climb(xi: Tensor, count: Tensor, *, by: int = 1, reads_old: bool = False) -> tuple[Tensor, ...]:
    """Add up the noise, ever more of it in each round, and remember every other sum."""

    def body(_: Tensor, count: Tensor, total: Tensor, slot: Tensor, is_far: Tensor) -> tuple[Tensor, ...]:
        is_even = (count & 1) == 0
        kept = torch.where(is_even, total, slot)
        is_far = is_far | (((total - kept).abs() > 1.5) & ~is_even)
        total = total + (count + 1) * xi[:, :1] + (0.2 * slot if reads_old else 0.1)
        count = count + by
        return (total.abs() < 6) & (count < 11) & ~is_far, count, total, kept, is_far

    nothing, no = torch.zeros_like(xi[:, :1]), torch.zeros_like(xi[:, :1], dtype=torch.bool)
    return while_any(body, (xi[:, 1:2] < 1, count, nothing, nothing, no))


def from_a_literal(xi: Tensor) -> Tensor:
    _, count, total, _, is_far = _climb(xi, torch.zeros_like(xi[:, :1], dtype=torch.long))
    return 1 + total.abs() + count + 0.5 * is_far


def with_the_old_read_after_the_new(xi: Tensor) -> Tensor:
    _, count, total, _, _ = _climb(xi, torch.zeros_like(xi[:, :1], dtype=torch.long), reads_old=True)
    return 1 + total.abs() + count


def with_all_read_afterwards(xi: Tensor) -> Tensor:
    _, count, total, slot, is_far = _climb(xi, torch.full_like(xi[:, :1], 3, dtype=torch.long))
    return 1 + total.abs() + count + slot.abs() + 0.5 * is_far


def from_where_each_chain_is(xi: Tensor) -> Tensor:
    _, count, total, _, _ = _climb(xi, (xi[:, 1:2] > 0).long())
    return 1 + total.abs() + count


def by_twos(xi: Tensor) -> Tensor:
    _, count, total, _, _ = _climb(xi, torch.zeros_like(xi[:, :1], dtype=torch.long), by=2)
    return 1 + total.abs() + count


def in_one_another(xi: Tensor) -> Tensor:
    """The outer loop's counter is read in the inner one, and decides how long that lasts."""

    def outer(_: Tensor, depth: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        def inner(_: Tensor, leaf: Tensor, total: Tensor, slot: Tensor) -> tuple[Tensor, ...]:
            slot = torch.where(leaf == depth - 1, total, slot)
            total = total + xi[:, :1] * 0.3 + 0.1 * slot + depth
            leaf = leaf + 1
            return (leaf < 2**depth) & (total < 40), leaf, total, slot

        start = (total < 30, torch.zeros_like(depth), total, torch.zeros_like(total))
        total = while_any(inner, start)[2]
        return (total < 20) & (depth < 4), depth + 1, total

    nothing = torch.zeros_like(xi[:, :1])
    _, depth, total = while_any(outer, (xi[:, 1:2] < 1, torch.zeros_like(nothing, dtype=torch.long), nothing))
    return 1 + total.abs() + depth


SHARED = (from_a_literal, with_the_old_read_after_the_new, with_all_read_afterwards, in_one_another)
OWN = (from_where_each_chain_is, by_twos)


@dataclass(frozen=True, kw_only=True)
class Wide(RWM):
    """Moves whose width is made in loops. What it samples is beside the point."""

    widths: Widths = from_a_literal

    def step(self, target: Target, state: State, noise: Noise, params: WalkParams) -> tuple[State, Info]:
        return super().step(target, state, noise, params._replace(step_size=0.1 * self.widths(noise["xi"])))


def energy(x: Tensor) -> Tensor:
    return 0.01 * x.square().sum(1)


def native_and_eager(kernel: Any) -> None:
    start = torch.randn(67, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    options = {"num_samples": 40, "noise": 3, "collect": kernel.info_fields, "show_progress": False}
    native, eager = (sample(energy, kernel, start, engine=name, **options) for name in ("native", "eager"))
    torch.testing.assert_close(native.draws, eager.draws, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(native.info, eager.info, rtol=1e-9, atol=1e-9)
    assert float((eager.draws[:, -1] - start).abs().median()) > 0.5


@pytest.mark.parametrize("widths", SHARED, ids=lambda widths: widths.__name__)
def test_counters_are_one_number(widths: Widths, programs: list[str]) -> None:
    native_and_eager(Wide(widths=widths))
    assert all(SCALAR in program for program in programs)


@pytest.mark.parametrize("widths", OWN, ids=lambda widths: widths.__name__)
def test_what_differs_among_chains_stays_in_their_lanes(widths: Widths, programs: list[str]) -> None:
    native_and_eager(Wide(widths=widths))
    assert programs
    assert not any(SCALAR in program for program in programs)


def test_trees_look_at_those_subtrees_alone_that_end(programs: list[str]) -> None:
    native_and_eager(NUTS(step_size=0.9, max_tree_depth=5))
    assert all(program.count(SCALAR) == 2 for program in programs)
    assert all(program.count(" = full<B>(false);\n                    if (v") >= 5 for program in programs)


def test_chains_that_have_left_keep_what_is_read_afterwards() -> None:
    """Each chain alone, which stays until its own last round, makes the same moves as among others."""
    kernel = Wide(widths=with_all_read_afterwards)
    start = torch.randn(19, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    together = sample(energy, kernel, start, num_samples=15, noise=3, engine="native", show_progress=False)
    for i in range(3):
        alone = sample(energy, kernel, start[: i + 1], num_samples=15, noise=3, engine="native", show_progress=False)
        assert torch.equal(alone.draws[i], together.draws[i])
