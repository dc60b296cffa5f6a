"""NUTS: the no-U-turn sampler, multinomial, for many chains as one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..accept import DIVERGENCE_THRESHOLD, half_square, log_ratio
from ..checks import check_count, check_fraction, check_positive
from ..energy import Target
from ..kernel import Noise, PlainKernel, State
from ..loops import select, while_any
from ..noise import Site
from .leapfrog import leapfrog


class NUTSParams(NamedTuple):
    """Parameters of NUTS.

    Attributes:
        step_size: Time step of the leapfrog integrator; 0-d, or a column (C, 1).
        factor: L with inverse mass L L^T, see `lamina.samplers.metric`.
    """

    step_size: Tensor
    factor: Tensor


class NUTSInfo(NamedTuple):
    """`Info`, and what is particular to trees; columns (C, 1).

    Attributes:
        accept_prob: Mean over the tree of min(1, exp(-energy error)), which step sizes adapt to.
        is_accepted: Whether the chain moved.
        is_divergent: Whether the trajectory met NaN, or an energy error above 1000.
        energy: Energy after the step, over the temperature.
        energy_error: Change of the total energy from the start to the point chosen, float64.
        num_grad_evals: Leaves of the tree.
        total_energy: See `HMCInfo`.
        tree_depth: Doublings begun.
        is_cut: Whether the tree grew to its largest depth.
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor
    total_energy: Tensor
    tree_depth: Tensor
    is_cut: Tensor


class _Point(NamedTuple):
    """A point of a trajectory: position, energy, gradient and whitened momentum."""

    position: Tensor
    energy: Tensor
    grad: Tensor
    momentum: Tensor


class _Choice(NamedTuple):
    """The point that a tree has chosen so far.

    Attributes:
        position, energy, grad: The point.
        error: Its total energy less that of the start.
        scale: Largest -error of the leaves that it was chosen from.
        weight: Sum of exp(-error - scale) over them, float64.
    """

    position: Tensor
    energy: Tensor
    grad: Tensor
    error: Tensor
    scale: Tensor
    weight: Tensor


class _Tree(NamedTuple):
    """What is carried from doubling to doubling.

    Attributes:
        is_growing: Whether the chain doubles once more.
        depth: Doublings begun.
        num_leaves: Leaves so far, the start not among them.
        back, front: The two ends of the trajectory.
        choice: From the start and all complete doublings.
        momentum_sum: Over the same points.
        accept_sum: Sum of min(1, exp(-error)) over leaves.
        is_divergent: Whether the integration failed.
    """

    is_growing: Tensor
    depth: Tensor
    num_leaves: Tensor
    back: _Point
    front: _Point
    choice: _Choice
    momentum_sum: Tensor
    accept_sum: Tensor
    is_divergent: Tensor


class _Doubling(NamedTuple):
    """What is carried from leaf to leaf of one doubling; it has K sizes of subtrees.

    Attributes:
        is_growing: Whether the chain needs more leaves.
        leaf: Leaves so far.
        end: The last of them.
        choice: From all of them.
        momentum_sum: Over them.
        first_momenta: Momenta at the first leaves of the subtrees that this leaf is in, (C, K, D).
        sums_before: `momentum_sum` before each of these leaves, (C, K, D).
        accept_sum: As in `_Tree`.
        has_stopped: Whether the integration failed, or a subtree turned.
        is_divergent: As in `_Tree`.
    """

    is_growing: Tensor
    leaf: Tensor
    end: _Point
    choice: _Choice
    momentum_sum: Tensor
    first_momenta: Tensor
    sums_before: Tensor
    accept_sum: Tensor
    has_stopped: Tensor
    is_divergent: Tensor


@dataclass(frozen=True, kw_only=True)
class NUTS(PlainKernel[NUTSParams]):
    """The no-U-turn sampler: trajectories that double until they would turn back, and a point chosen from all of one.

    Exact. One gradient per leaf. Chains grow their trees in step, and each step of the batch takes as long as the
    deepest tree: with many chains, HMC of a tuned length does more per second.

    Attributes:
        step_size: Time step of the leapfrog integrator, in units of the position (at unit mass).
        max_tree_depth: Largest number of doublings; a tree has at most 2^max_tree_depth - 1 leaves.
        target_accept: 0.8, as in Stan.

    Source: Hoffman and Gelman (2014), JMLR 15; multinomial choice with biased progressive sampling and the criterion
    on sums of momenta: Betancourt (2017), arXiv 1701.02434, appendices A.3 and A.4; iterative form: Phan, Pradhan and
    Jankowiak (2019), arXiv 1912.11554, appendix A. Differs: sums of momenta are centred between the two ends, as
    NumPyro does, which keeps trajectories on round Gaussians from running past their turn; points outside the support
    end a trajectory without being flagged.
    """

    step_size: float = 0.1
    max_tree_depth: int = 10
    target_accept: float = 0.8

    info_fields: ClassVar[tuple[str, ...]] = NUTSInfo._fields
    counted: ClassVar[tuple[str, ...]] = ("tree_depth", "is_cut")
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_count("max_tree_depth", self.max_tree_depth, 1)
        check_fraction("target_accept", self.target_accept)

    @property
    def sites(self) -> Mapping[str, Site]:
        """See `Kernel.sites`."""
        return {
            "momentum": Site("normal", "D"),
            "direction": Site("uniform", self.max_tree_depth),
            "doubling": Site("uniform", self.max_tree_depth),
            "leaf": Site("uniform", 1, is_indexed=True),
        }

    def make_params(self, step_size: Tensor, factor: Tensor) -> NUTSParams:
        """See `PlainKernel.make_params`."""
        return NUTSParams(step_size, factor)

    def step(self, target: Target, state: State, noise: Noise, params: NUTSParams) -> tuple[State, NUTSInfo]:
        """See `Kernel.step`."""
        start = _Point(*state, noise["momentum"])

        def double(*fields: Any) -> _Tree:
            tree = _Tree(*fields)
            is_forward = noise["direction"].gather(1, tree.depth) < 0.5
            step_size = torch.where(is_forward, params.step_size, -params.step_size)

            def add_leaf(*fields: Any) -> _Doubling:
                doubling = _Doubling(*fields)
                leaf = _next_leaf(target, doubling.end, step_size, params.factor)
                num_before = 2**tree.depth - 1 + doubling.leaf  # all doublings before this one are complete
                return _add(doubling, leaf, _error(start, leaf), noise["leaf"].at(num_before), tree.depth)

            doubling = while_any(add_leaf, _begin(tree, is_forward, self.max_tree_depth))
            return _end(tree, doubling, is_forward, noise["doubling"].gather(1, tree.depth), self.max_tree_depth)

        tree = while_any(double, _seed(start))
        chosen = tree.choice
        info = NUTSInfo(
            accept_prob=tree.accept_sum / tree.num_leaves,
            is_accepted=(chosen.position != state.position).any(dim=1, keepdim=True),
            is_divergent=tree.is_divergent,
            energy=chosen.energy,
            energy_error=chosen.error,
            num_grad_evals=tree.num_leaves,
            total_energy=start.energy + half_square(start.momentum),
            tree_depth=tree.depth,
            is_cut=tree.depth == self.max_tree_depth,
        )
        return State(chosen.position, chosen.energy, chosen.grad), info

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `Kernel.notes`."""
        depth, cut = float(means["tree_depth"].mean()), float(means["is_cut"].mean())
        notes = [f"Mean tree depth {depth:.1f}."]
        if cut:
            notes.append(
                f"{100 * cut:.3g} % of the trees reached max_tree_depth = {self.max_tree_depth} before they turned: "
                "raise it, or adapt the mass."
            )
        return tuple(notes)


def _seed(start: _Point) -> _Tree:
    """A tree of its start alone."""
    no = torch.zeros_like(start.energy, dtype=torch.bool)
    none, nothing = no.long(), no.double()
    choice = _Choice(start.position, start.energy, start.grad, nothing, nothing, nothing + 1)
    return _Tree(~no, none, none, start, start, choice, start.momentum, nothing, no)


def _begin(tree: _Tree, is_forward: Tensor, max_depth: int) -> _Doubling:
    """A doubling without leaves yet, from one end of the tree."""
    slots = torch.zeros_like(tree.momentum_sum).unsqueeze(1).repeat(1, max(max_depth - 1, 1), 1)
    no = torch.zeros_like(tree.is_growing)
    return _Doubling(
        is_growing=tree.is_growing,
        leaf=no.long(),
        end=select(is_forward, tree.front, tree.back),
        choice=tree.choice._replace(
            scale=torch.full_like(tree.accept_sum, -torch.inf), weight=torch.zeros_like(tree.accept_sum)
        ),
        momentum_sum=torch.zeros_like(tree.momentum_sum),
        first_momenta=slots,
        sums_before=slots,
        accept_sum=torch.zeros_like(tree.accept_sum),
        has_stopped=no,
        is_divergent=no,
    )


def _next_leaf(target: Target, end: _Point, step_size: Tensor, factor: Tensor) -> _Point:
    """One leapfrog step beyond an end."""
    state, momentum, _ = leapfrog(target, State(*end[:3]), end.momentum, step_size, factor, 1)
    return _Point(*state, momentum)


def _error(start: _Point, leaf: _Point) -> Tensor:
    """Total energy at the leaf less that at the start; NaN where it is undefined."""
    kinetic_change = half_square(leaf.momentum) - half_square(start.momentum)
    error = -log_ratio(start.energy, leaf.energy, kinetic_change)
    return torch.where(leaf.energy == -torch.inf, torch.nan, error)


def _add(doubling: _Doubling, leaf: _Point, error: Tensor, uniform: Tensor, depth: Tensor) -> _Doubling:
    """Take in a leaf; stop where it failed, or where a subtree that it completes turns."""
    has_failed = ~(error <= DIVERGENCE_THRESHOLD)
    log_weight = torch.where(has_failed, -torch.inf, -error)
    old = doubling.choice
    scale, kept, added = _to_larger(old.scale, log_weight, leaf.momentum.dtype)
    weight = old.weight * kept + added
    is_chosen = uniform * weight <= added
    chosen = _Choice(*leaf[:3], error, scale, weight)
    momentum_sum = doubling.momentum_sum + leaf.momentum
    first, before, is_turning = _turn_in_subtree(doubling, leaf.momentum, momentum_sum)
    has_stopped, num_leaves = has_failed | is_turning, doubling.leaf + 1
    return _Doubling(
        is_growing=~has_stopped & (num_leaves < 2**depth),
        leaf=num_leaves,
        end=leaf,
        choice=select(is_chosen, chosen, old._replace(scale=scale, weight=weight)),
        momentum_sum=momentum_sum,
        first_momenta=first,
        sums_before=before,
        accept_sum=doubling.accept_sum + torch.exp(log_weight.to(leaf.energy.dtype).clamp(max=0)),
        has_stopped=has_stopped,
        is_divergent=has_failed & (leaf.energy != torch.inf),
    )


def _to_larger(one: Tensor, other: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The larger of two scales, and what weights relative to either are to be multiplied by to be relative to it.

    Scales are kept in float64, since energies may be large. Of their difference, which is not, the precision of the
    energies that they come from is enough.
    """
    gain = (other - one).to(dtype)
    factor, is_larger = torch.exp(-gain.abs()).double(), gain > 0
    return torch.maximum(one, other), torch.where(is_larger, factor, 1.0), torch.where(is_larger, 1.0, factor)


def _turn_in_subtree(doubling: _Doubling, momentum: Tensor, momentum_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What to remember with this leaf, and whether any balanced subtree that ends with it turns.

    A doubling consists of subtrees of 2 leaves, side by side, and of 4, of 8, and so on. There is a slot for each size,
    with the first leaf of the subtree that the leaves have come to.

    Returns:
        `first_momenta` and `sums_before` with this leaf, and a column.
    """
    slot = torch.arange(doubling.first_momenta.shape[1], device=momentum.device)
    size = 2 << slot
    place = doubling.leaf & (size - 1)  # the remainder
    is_begun, is_ended = (place == 0).unsqueeze(2), place == size - 1

    first = torch.where(is_begun, momentum.unsqueeze(1), doubling.first_momenta)
    before = torch.where(is_begun, doubling.momentum_sum.unsqueeze(1), doubling.sums_before)
    is_turning = _is_turning(first, momentum.unsqueeze(1), momentum_sum.unsqueeze(1) - before).squeeze(2) & is_ended
    return first, before, is_turning.any(dim=1, keepdim=True)


def _end(tree: _Tree, doubling: _Doubling, is_forward: Tensor, uniform: Tensor, max_depth: int) -> _Tree:
    """Where the doubling is complete, choose between it and the old tree, and see whether the whole turns."""
    back = select(is_forward, tree.back, doubling.end)
    front = select(is_forward, doubling.end, tree.front)
    old, new = tree.choice, doubling.choice
    scale, *factors = _to_larger(old.scale, new.scale, tree.momentum_sum.dtype)
    kept, added = old.weight * factors[0], new.weight * factors[1]
    is_chosen = uniform * kept <= added  # as likely as new weight over old, at most 1
    choice = select(is_chosen, new, old)._replace(scale=scale, weight=kept + added)
    momentum_sum, depth = tree.momentum_sum + doubling.momentum_sum, tree.depth + 1
    is_turning = _is_turning(back.momentum, front.momentum, momentum_sum)
    return _Tree(
        is_growing=~(doubling.has_stopped | is_turning) & (depth < max_depth),
        depth=depth,
        num_leaves=tree.num_leaves + doubling.leaf,
        back=back,
        front=front,
        choice=select(doubling.has_stopped, old, choice),
        momentum_sum=momentum_sum,
        accept_sum=tree.accept_sum + doubling.accept_sum,
        is_divergent=doubling.is_divergent,
    )


def _is_turning(one: Tensor, other: Tensor, momentum_sum: Tensor) -> Tensor:
    """Whether a stretch of a trajectory moves back towards itself at either of its ends (..., 1)."""
    across = momentum_sum - 0.5 * (one + other)
    return ((one * across).sum(-1, keepdim=True) <= 0) | ((other * across).sum(-1, keepdim=True) <= 0)
