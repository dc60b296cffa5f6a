"""Warm-up: run the chains, adapt the parameters, freeze them, see how they do, and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .adaptation.base import Adaptation
from .engines import Engine
from .kernel import StateLike
from .progress import Progress
from .totals import Totals

ACCEPTANCE_TOLERANCE = 0.15
"""Difference of acceptance from its aim that is worth a note."""


@dataclass(frozen=True)
class WarmupReport:
    """What adaptation did; its result is frozen.

    The last tenth of warm-up adapts nothing: it runs with the parameters that are frozen, so that their acceptance is
    measured, not inferred from iterates that were still moving.

    Attributes:
        num_steps: Steps of warm-up.
        target_accept: Acceptance aimed for, one for each part of a kernel of parts; None where there is nothing to
            aim at.
        accept_prob_last: Acceptance over the second half of the steps that adapted, at their moving iterates. It is
            what the aim is about: for most adaptations a mean over chains.
        accept_prob_averaged: Acceptance over the steps with frozen parameters; None if there were fewer than ten
            steps in all.
        num_divergent: Divergent steps, over all chains.
        params: The frozen parameters.
        adaptation_notes: What the adaptation says it has learnt.
    """

    num_steps: int
    target_accept: float | tuple[float, ...] | None
    accept_prob_last: float | tuple[float, ...]
    accept_prob_averaged: float | tuple[float, ...] | None
    num_divergent: int
    params: Any
    adaptation_notes: tuple[str, ...]

    @property
    def step_size(self) -> Tensor:
        """The frozen step size: 0-d, or (C,) where each chain has its own; (B,) or (C, B) of a kernel of B parts."""
        step_size: Tensor = self.params.step_size
        return step_size.squeeze(1) if step_size.ndim == 2 and step_size.shape[1] == 1 else step_size

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the warm-up, in words."""
        return (*self.adaptation_notes, *self._misses())

    def _misses(self) -> tuple[str, ...]:
        if self.target_accept is None or self.accept_prob_averaged is None:
            return ()
        parts = zip(*map(_parts, (self.target_accept, self.accept_prob_last, self.accept_prob_averaged)), strict=True)
        return tuple(
            f"Warm-up aimed for acceptance {target:.2f}; it was {last:.2f} while adapting, and {averaged:.2f} with the "
            "frozen parameters. Warm up for longer, or give a step size nearer to the right one."
            for target, last, averaged in parts
            if max(abs(last - target), abs(averaged - target)) > ACCEPTANCE_TOLERANCE
        )


def warm_up(
    engine: Engine, state: StateLike, num_steps: int, adaptation: Adaptation, bar: Progress
) -> tuple[StateLike, WarmupReport]:
    """Adapt the parameters, and leave the result in the engine."""
    kernel, num_adapting = engine.kernel, num_steps - num_steps // 10
    adapted = adaptation.init(kernel, engine.params, state, num_adapting)
    totals = Totals(kernel, state)
    acceptance = []
    for step in range(num_steps):
        if step == num_adapting:
            engine.params = adaptation.final(adapted, kernel, engine.params)
        state, info = engine.step(state)
        totals.add(info)
        acceptance.append(adaptation.acceptance(info.accept_prob))
        if step < num_adapting:
            adapted, engine.params = adaptation.update(adapted, kernel, engine.params, state, info)
        bar.advance()
    if num_adapting == num_steps:
        engine.params = adaptation.final(adapted, kernel, engine.params)
    return state, WarmupReport(
        num_steps=num_steps,
        target_accept=adaptation.aim(kernel),
        accept_prob_last=_mean(acceptance[num_adapting // 2 : num_adapting]),
        accept_prob_averaged=_mean(acceptance[num_adapting:]) if num_adapting < num_steps else None,
        num_divergent=int(totals.num_divergent.sum()),
        params=engine.params,
        adaptation_notes=adaptation.notes(adapted),
    )


def _mean(acceptance: list[Tensor]) -> float | tuple[float, ...]:
    """Mean over steps of acceptances (B,): a number, or one for each part."""
    mean = torch.stack(acceptance).mean(dim=0)
    return float(mean) if mean.numel() == 1 else tuple(mean.tolist())


def _parts(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
