"""The eager engine: runs a kernel step by step, whole or in sub-batches of chains that see the same noise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .chains import Chains
from .checks import check_count
from .energy import Energy, Target
from .kernel import InfoLike, Kernel, Noise, StateLike, is_per_chain
from .noise import NoiseSource, noise_from_state
from .totals import Totals

Step: TypeAlias = Callable[[Target, Any, Noise, Any], tuple[Any, Any]]
"""What `Kernel.step` is."""

Move: TypeAlias = Callable[[Target, Any, Noise, Any], Any]
"""What `Kernel.move` is."""


class Record(NamedTuple):
    """What is kept of a stretch of a run.

    Attributes:
        totals: Adds up every step.
        thinning: Steps for each draw.
        draws: Filled with the positions at the draws, (num_draws, C, D); None: nowhere.
        collect: Fields of the kernel's Info to keep at the draws as well.
    """

    totals: Totals
    thinning: int = 1
    draws: Tensor | None = None
    collect: Sequence[str] = ()

    @staticmethod
    def of_all(kernel: Kernel[Any], state: StateLike) -> Record:
        """Everything that a kernel tells, as warm-up wants it, from a state on."""
        return Record(Totals(kernel, state), collect=kernel.info_fields)

    @property
    def is_silent(self) -> bool:
        """Whether nobody asks how steps go."""
        return self.totals.is_empty and not self.collect


class Eager:
    """Runs a kernel on all chains.

    Args:
        energy: Per-chain energy, see `Target`.
        kernel: The kernel.
        chains: Where to start.
        noise: Where randomness comes from.
        context: See `Target`.
        temperature: See `Target`.
        chain_batch_size: Evaluate at most this many chains at once; None: all.

    Attributes:
        energy: See above.
        kernel: See above.
        noise: See above.
        start: Where the chains started.
        target: Theirs, all chains at once.
        params: Of the kernel, which may be changed between steps.
        num_chains: C.
        reason: Why it is this engine, in words.
        offset: See `Engine`; plain torch decides by the energies as they are.
    """

    offset: float = 0.0

    def __init__(
        self,
        energy: Energy,
        kernel: Kernel[Any],
        chains: Chains,
        noise: NoiseSource,
        context: Any,
        temperature: float | Tensor,
        chain_batch_size: int | None,
    ) -> None:
        self.energy, self.kernel = energy, kernel
        num_chains = len(chains.matrix)
        self._size = num_chains if chain_batch_size is None else check_count("chain_batch_size", chain_batch_size, 1)
        self._step: Step = kernel.step
        self._move: Move = kernel.move
        self.reason = "eager: asked for"
        self._aim(Target(energy, chains.layout, num_chains, context=context, temperature=temperature), num_chains)
        self._begin(chains, noise)

    def _aim(self, target: Target, num_chains: int) -> None:
        self.target, self.num_chains = target, num_chains
        slices = [slice(first, first + self._size) for first in range(0, num_chains, self._size)]
        self._parts: list[tuple[slice, Target]] = (
            [(index, target.rows(index)) for index in slices] if len(slices) > 1 else [(slice(None), target)]
        )

    def _begin(self, chains: Chains, noise: NoiseSource) -> None:
        self.start, self.noise, self.params, self._steps = chains, noise, chains.params, chains.num_steps

    def among(self, some: slice) -> Eager:
        """The same run of some of the chains alone."""
        other, start = copy.copy(self), self.start
        matrix, memory = start.matrix[some], {name: value[some] for name, value in start.memory.items()}
        other._aim(self.target.rows(some), len(matrix))
        other._begin(replace(start, matrix=matrix, memory=memory, params=rows_of_params(self.params, some)), self.noise)
        return other

    def continued(self, chains: Chains) -> Eager:
        """The same run from where chains stand, with the noise they bring."""
        other = copy.copy(self)
        other._begin(chains, noise_from_state(chains.noise_state, chains.matrix.device))
        return other

    def moved_by(self, step: Step, view: Callable[[Target], Target]) -> Eager:
        """The same run by another form of the kernel's step, on another form of the targets."""
        other = copy.copy(self)
        other._step, other._move = step, lambda *arguments: step(*arguments)[0]
        other._parts = [(index, view(target)) for index, target in self._parts]
        return other

    @torch.no_grad()
    def init(self) -> StateLike:
        """Energies and gradients where the chains stand."""
        state: StateLike = _join(
            [
                self.kernel.restore(
                    target,
                    self.start.matrix[index],
                    {name: value[index] for name, value in self.start.memory.items()},
                    rows_of_params(self.params, index),
                )
                for index, target in self._parts
            ]
        )
        return state

    def step(self, state: StateLike) -> tuple[StateLike, InfoLike]:
        """Move all chains once, with the parameters as they are now."""
        return self.step_by(state, self._draw(state))

    @torch.no_grad()
    def step_by(self, state: StateLike, noise: Noise) -> tuple[StateLike, InfoLike]:
        """Move all chains once by this noise, which counts as no step."""
        return self._stepped(state, noise)

    def _stepped(self, state: StateLike, noise: Noise) -> tuple[StateLike, InfoLike]:
        results = self._by_parts(self._step, state, noise)
        return _join([state for state, _ in results]), _join([info for _, info in results])

    def _draw(self, state: StateLike) -> Noise:
        """The noise of the next step."""
        noise = self.noise.draw(self.kernel.sites, state.position, self._steps)
        self._steps += 1
        return noise

    def _by_parts(self, move: Move, state: StateLike, noise: Noise) -> list[Any]:
        """What a move makes of each sub-batch of chains."""
        if len(self._parts) == 1:
            return [move(self._parts[0][1], state, noise, self.params)]
        sites = self.kernel.sites
        return [
            move(
                target,
                rows_of_state(state, index),
                {name: values if sites[name].is_shared else values[index] for name, values in noise.items()},
                rows_of_params(self.params, index),
            )
            for index, target in self._parts
        ]

    @torch.no_grad()
    def advance(self, state: StateLike, num_draws: int, record: Record) -> tuple[StateLike, dict[str, Tensor]]:
        """Move all chains, and keep every so many steps where they are.

        Args:
            state: Where they stand.
            num_draws: How often they are kept.
            record: What is kept, and after how many steps.

        Returns:
            Where they stand now, and the fields as of the steps kept, (num_draws, C, width) each.
        """
        is_silent = record.is_silent
        kept: dict[str, list[Tensor]] = {name: [] for name in record.collect}
        for draw in range(num_draws):
            for _ in range(record.thinning):
                if is_silent:
                    state = _join(self._by_parts(self._move, state, self._draw(state)))
                    continue
                state, info = self._stepped(state, self._draw(state))
                record.totals.add(info)
            if record.draws is not None:
                record.draws[draw] = state.position
            for name, columns in kept.items():
                columns.append(getattr(info, name))
        return state, {name: torch.stack(columns) for name, columns in kept.items() if columns}

    def new_draws(self, num_draws: int) -> Tensor:
        """Room for positions, (num_draws, C, D)."""
        return self.start.matrix.new_empty(num_draws, *self.start.matrix.shape)

    def chains(self, state: StateLike) -> Chains:
        """What it takes to continue from a state."""
        layout, memory = self.start.layout, self.kernel.memory(state)
        return Chains(state.position, layout, self.params, self.noise.state_dict(), self._steps, memory)


def rows_of_params(params: Any, index: slice) -> Any:
    """The parameters of some of the chains."""
    if index == slice(None):
        return params
    fields = params._asdict().items()
    return type(params)(*(field[index] if is_per_chain(name, field) else field for name, field in fields))


def rows_of_state(state: Any, index: slice) -> Any:
    """The state of some of the chains."""
    return type(state)(*(field[index] for field in state))


def _join(parts: list[Any]) -> Any:
    """Concatenate the states or infos of sub-batches."""
    return parts[0] if len(parts) == 1 else type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
