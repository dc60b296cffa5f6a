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
        log_weight: Log of the sum of exp(-error) over the leaves that it was chosen from.
    """

    position: Tensor
    energy: Tensor
    grad: Tensor
    error: Tensor
    log_weight: Tensor


class _Tree(NamedTuple):
    """What is carried from leaf to leaf; K is the largest depth.

    Attributes:
        is_growing: Whether the chain needs more leaves.
        depth: Complete doublings.
        leaf: Number of the next leaf in its doubling, which has 2^depth of them.
        num_leaves: Leaves so far, over all doublings.
        back, front: The two ends of the trajectory.
        choice: From the start and all complete doublings.
        momentum_sum: Over the same points.
        new_choice: From the doubling under way.
        new_sum: Its sum of momenta.
        first_momenta: Momenta at the first leaves of those subtrees of it that are not complete, (C, K D).
        sums_before: `new_sum` before each of these leaves, (C, K D).
        accept_sum: Sum of min(1, exp(-error)) over leaves.
        is_divergent: Whether the integration failed.
    """

    is_growing: Tensor
    depth: Tensor
    leaf: Tensor
    num_leaves: Tensor
    back: _Point
    front: _Point
    choice: _Choice
    momentum_sum: Tensor
    new_choice: _Choice
    new_sum: Tensor
    first_momenta: Tensor
    sums_before: Tensor
    accept_sum: Tensor
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
    NumPyro does, which keeps trajectories on round Gaussians from running past their turn; leaves of all doublings
    run through one loop, so that chains wait for each other once a step, not once a doubling; points outside the
    support end a trajectory without being flagged.
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

        def grow(*fields: Any) -> _Tree:
            tree = _Tree(*fields)
            is_forward = noise["direction"].gather(1, tree.depth) < 0.5
            leaf = _next_leaf(target, tree, is_forward, params)
            tree = _add(tree, leaf, is_forward, _error(start, leaf), noise["leaf"].at(tree.num_leaves))
            return _end_doubling(tree, noise["doubling"].gather(1, tree.depth), self.max_tree_depth)

        tree = while_any(grow, _seed(start, self.max_tree_depth))
        chosen = tree.choice
        info = NUTSInfo(
            accept_prob=tree.accept_sum / tree.num_leaves,
            is_accepted=(chosen.position != state.position).any(dim=1, keepdim=True),
            is_divergent=tree.is_divergent,
            energy=chosen.energy,
            energy_error=chosen.error,
            num_grad_evals=tree.num_leaves,
            total_energy=start.energy + half_square(start.momentum),
            tree_depth=tree.depth + (tree.leaf > 0),
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


def _seed(start: _Point, max_depth: int) -> _Tree:
    """A tree of its start alone."""
    no = torch.zeros_like(start.energy, dtype=torch.bool)
    none, nothing = no.long(), no.double()
    slots = torch.zeros_like(start.momentum).repeat(1, max_depth)
    choice = _Choice(start.position, start.energy, start.grad, nothing, nothing)
    return _Tree(
        is_growing=~no,
        depth=none,
        leaf=none,
        num_leaves=none,
        back=start,
        front=start,
        choice=choice,
        momentum_sum=start.momentum,
        new_choice=choice,
        new_sum=start.momentum,
        first_momenta=slots,
        sums_before=slots,
        accept_sum=nothing,
        is_divergent=no,
    )


def _next_leaf(target: Target, tree: _Tree, is_forward: Tensor, params: NUTSParams) -> _Point:
    """One leapfrog step beyond the end that the current doubling extends."""
    end = select(is_forward, tree.front, tree.back)
    step_size = torch.where(is_forward, params.step_size, -params.step_size)
    state, momentum, _ = leapfrog(target, State(*end[:3]), end.momentum, step_size, params.factor, 1)
    return _Point(*state, momentum)


def _error(start: _Point, leaf: _Point) -> Tensor:
    """Total energy at the leaf less that at the start; NaN where it is undefined."""
    kinetic_change = half_square(leaf.momentum) - half_square(start.momentum)
    error = -log_ratio(start.energy, leaf.energy, kinetic_change)
    return torch.where(leaf.energy == -torch.inf, torch.nan, error)


def _add(tree: _Tree, leaf: _Point, is_forward: Tensor, error: Tensor, uniform: Tensor) -> _Tree:
    """Take a leaf into the current doubling; stop where it failed, or where a subtree that it completes turns."""
    is_first = tree.leaf == 0
    has_failed = ~(error <= DIVERGENCE_THRESHOLD)
    log_weight = torch.where(has_failed, -torch.inf, -error)
    before = torch.where(is_first, -torch.inf, tree.new_choice.log_weight)
    total = torch.logaddexp(before, log_weight)
    is_chosen = is_first | (torch.log(uniform) < log_weight - total)
    chosen = select(is_chosen, _Choice(*leaf[:3], error, total), tree.new_choice._replace(log_weight=total))

    sum_before = torch.where(is_first, 0, tree.new_sum)
    tree = tree._replace(
        num_leaves=tree.num_leaves + 1,
        back=select(is_forward, tree.back, leaf),
        front=select(is_forward, leaf, tree.front),
        new_choice=chosen,
        new_sum=sum_before + leaf.momentum,
        accept_sum=tree.accept_sum + torch.exp(log_weight.clamp(max=0)),
        is_divergent=has_failed & (leaf.energy != torch.inf),
    )
    tree, is_turning = _turn_in_subtree(tree, leaf.momentum, sum_before)
    return tree._replace(is_growing=~(has_failed | is_turning), leaf=tree.leaf + 1)


def _turn_in_subtree(tree: _Tree, momentum: Tensor, sum_before: Tensor) -> tuple[_Tree, Tensor]:
    """Whether any balanced subtree that ends with this leaf turns.

    Leaf n, in binary, says it all: a leaf with even n begins subtrees, and is remembered in the slot given by the
    number of ones above its lowest bit; a leaf with odd n ends one subtree for each of its trailing ones, whose first
    leaves lie in the slots from the same number downwards.
    """
    num_chains, dim = momentum.shape
    slot = torch.arange(tree.first_momenta.shape[1] // dim, device=momentum.device)
    bits = (tree.leaf >> slot) & 1
    top = bits[:, 1:].sum(dim=1, keepdim=True)
    num_ended = bits.cumprod(dim=1).sum(dim=1, keepdim=True)
    is_begun = ((slot == top) & (bits[:, :1] == 0)).unsqueeze(2)
    is_ended = (slot <= top) & (slot > top - num_ended)

    shape = (num_chains, len(slot), dim)
    first = torch.where(is_begun, momentum.unsqueeze(1), tree.first_momenta.view(shape))
    before = torch.where(is_begun, sum_before.unsqueeze(1), tree.sums_before.view(shape))
    is_turning = _is_turning(first, momentum.unsqueeze(1), tree.new_sum.unsqueeze(1) - before).squeeze(2) & is_ended
    tree = tree._replace(first_momenta=first.flatten(1), sums_before=before.flatten(1))
    return tree, is_turning.any(dim=1, keepdim=True)


def _end_doubling(tree: _Tree, uniform: Tensor, max_depth: int) -> _Tree:
    """Where the current doubling is complete, choose between it and the old tree, and see whether the whole turns."""
    is_complete = tree.is_growing & (tree.leaf == 2**tree.depth)
    old, new = tree.choice, tree.new_choice
    total = torch.logaddexp(old.log_weight, new.log_weight)
    is_chosen = torch.log(uniform) < new.log_weight - old.log_weight
    choice = select(is_chosen, new, old)._replace(log_weight=total)
    momentum_sum = tree.momentum_sum + tree.new_sum
    is_turning = _is_turning(tree.back.momentum, tree.front.momentum, momentum_sum)
    depth = tree.depth + is_complete
    return tree._replace(
        is_growing=tree.is_growing & ~(is_complete & is_turning) & (depth < max_depth),
        depth=depth,
        leaf=torch.where(is_complete, 0, tree.leaf),
        choice=select(is_complete, choice, old),
        momentum_sum=torch.where(is_complete, momentum_sum, tree.momentum_sum),
    )


def _is_turning(one: Tensor, other: Tensor, momentum_sum: Tensor) -> Tensor:
    """Whether a stretch of a trajectory moves back towards itself at either of its ends (..., 1)."""
    across = momentum_sum - 0.5 * (one + other)
    return ((one * across).sum(-1, keepdim=True) <= 0) | ((other * across).sum(-1, keepdim=True) <= 0)
