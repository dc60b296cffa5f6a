"""Warm-up: run the chains, adapt the parameters, freeze them, and report."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .adaptation import DualAveraging
from .eager import Eager
from .kernel import StateLike, with_step_size
from .progress import Progress
from .totals import Totals


@dataclass(frozen=True)
class WarmupReport:
    """What adaptation did; its result is frozen.

    Attributes:
        num_steps: Steps of warm-up.
        target_accept: Acceptance aimed for; None where the kernel has nothing to adapt.
        accept_prob: Mean acceptance over chains and the second half of warm-up.
        num_divergent: Divergent steps, over all chains.
        step_size: The frozen step size: 0-d, or (C,) where each chain has its own.
    """

    num_steps: int
    target_accept: float | None
    accept_prob: float
    num_divergent: int
    step_size: Tensor


def warm_up(
    engine: Eager, state: StateLike, num_steps: int, adaptation: DualAveraging, bar: Progress
) -> tuple[StateLike, WarmupReport]:
    """Adapt the step size where the kernel has a target, and leave the result in the engine's parameters."""
    target = engine.kernel.target_accept
    if target is not None and adaptation.target_accept is not None:
        target = adaptation.target_accept
    adapted = adaptation.init(engine.params.step_size, engine.num_chains)
    totals = Totals(engine.kernel, state)
    for step in range(num_steps):
        if step == num_steps // 2:
            second_half = Totals(engine.kernel, state)
        state, info = engine.step(state)
        totals.add(info)
        if step >= num_steps // 2:
            second_half.add(info)
        if target is not None:
            adapted = adaptation.update(adapted, info.accept_prob, target)
            engine.params = engine.params._replace(step_size=adaptation.current(adapted).to(state.position.dtype))
        bar.advance()
    if target is not None:
        engine.params = with_step_size(engine.params, adaptation.final(adapted))
    step_size = engine.params.step_size
    return state, WarmupReport(
        num_steps=num_steps,
        target_accept=target,
        accept_prob=float(second_half.accept_prob.mean()),
        num_divergent=int(totals.num_divergent.sum()),
        step_size=step_size.squeeze(1) if step_size.ndim else step_size,
    )
