"""Whether programs of the native engine have become slower than a committed baseline says.

For each of a fixed set of programs two figures are compared. The operations of a step, counted in the program itself,
are the same on every machine and in every run: loops of fixed length count as often as they run, loops over values
once, and noise not at all. The time of an eager step over that of a native one comes from one run, in turn, so that a
busy or a slow machine has little say in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lamina.samplers import CounterNoise, Layout, run
from lamina.samplers.chains import Chains
from lamina.samplers.eager import Eager
from lamina.samplers.energy import Target
from lamina.samplers.engines import EngineName
from lamina.samplers.native.program import Block, Loop, Value, live_values
from lamina.samplers.native.trace import Subject
from lamina.samplers.native.writing import write
from lamina.samplers.totals import Totals

from .peers.lamina_worker import make_kernel
from .peers.problems import PROBLEMS, starts
from .peers.torch_energies import make_energy
from .tables import aligned

PROGRAMS = (
    *(
        f"{a}/{p}"
        for a in ("hmc", "mala", "ula", "nuts", "barker", "ghmc")
        for p in ("gauss2", "ring8", "banana", "funnel10")
    ),
    *("hmc/gauss100", "hmc/logistic", "ula/mlp"),
)
NUM_CHAINS = 100
NUM_ROUNDS = 5
STEPS: Mapping[EngineName, int] = {"eager": 10, "native": 2000}
"""Steps of a call, a tenth of them where they are long: enough natively that tracing takes a small part of the time."""

_LONG_STEPS = ("nuts/", "hmc/logistic", "ula/mlp")

MORE_OPERATIONS = 1.02
"""Multiple of the baseline's operations from which on a program has regressed."""

LESS_SPEED = 0.6
"""Share of the baseline's ratio of times from which on it has: beyond what medians of five vary by."""


@dataclass(frozen=True)
class Figures:
    """What is known of a program.

    Attributes:
        operations: On numbers, of a chain in a step.
        speed: Time of an eager step over that of a native one; None where it was not measured.
    """

    operations: int
    speed: float | None

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return {"operations": self.operations, "speed": self.speed}


def count(name: str) -> int:
    """Operations of a step of a program; no compiler is needed.

    Args:
        name: In `PROGRAMS`.
    """
    kernel, energy, x = _parts(name)
    layout, params = Layout.of(x), kernel.init_params(x)
    state = Eager(energy, kernel, Chains(x, layout, params, {}, 0), CounterNoise(0), None, 1.0, None).init()
    totals = Totals(kernel, state, has_sums=kernel.is_exact, has_moves=False)  # as `run` is called below
    subject = Subject(
        kernel=kernel,
        target=Target(energy, layout, len(x), context=None, temperature=1.0),
        params=params,
        matrix=x,
        memory=kernel.memory(state),
        sums=tuple(totals.sums),
        moves=totals.moves,
    )
    trace, _ = write(subject)
    needed = live_values(value for _, values in (*trace.state, *trace.sums) for value in values)
    return _operations(trace.steps.block, needed)


def _operations(block: Block, needed: set[Value]) -> int:
    return sum(
        (item.count if item.kind == "repeat" else 1) * _operations(item.block, needed)
        if isinstance(item, Loop)
        else item in needed and item.op != "copy"
        for item in block.items
    )


def _parts(name: str) -> tuple[Any, Any, torch.Tensor]:
    """Kernel, energy and starts."""
    algorithm, problem = name.split("/")
    x = torch.from_numpy(starts(problem, NUM_CHAINS))
    return make_kernel(algorithm, PROBLEMS[problem]), make_energy(problem, NUM_CHAINS), x


def speed(name: str) -> float:
    """Time of an eager step over that of a native one, the medians of calls in turn.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    kernel, energy, x = _parts(name)
    share = 10 if name.startswith(_LONG_STEPS) else 1
    times: dict[EngineName, list[float]] = {engine: [] for engine in STEPS}
    for _ in range(NUM_ROUNDS + 1):
        for engine, all_steps in STEPS.items():
            num_steps = all_steps // share
            began = time.process_time()
            run(energy, kernel, x, num_steps=num_steps, noise=0, engine=engine, summarise=kernel.is_exact)
            times[engine].append((time.process_time() - began) / num_steps)
    eager, native = (statistics.median(times[engine][1:]) for engine in ("eager", "native"))  # the first may compile
    return eager / native


def measure(name: str, *, has_compiler: bool) -> Figures:
    """The figures of a program."""
    return Figures(count(name), speed(name) if has_compiler else None)


def faults(new: Figures, old: Figures, *, is_same_machine: bool) -> list[str]:
    """What of a program has become worse, in words.

    Args:
        new: Now.
        old: The baseline.
        is_same_machine: Ratios of times are compared only then.
    """
    found = []
    if new.operations > MORE_OPERATIONS * old.operations:
        found.append("more operations")
    if is_same_machine and new.speed and old.speed and new.speed < LESS_SPEED * old.speed:
        found.append("slower")
    return found


def table(new: Mapping[str, Figures], old: Mapping[str, Figures], found: Mapping[str, list[str]]) -> str:
    """A line for each program: now, before, and what is worse."""
    rows = []
    for name, figures in new.items():
        before = old.get(name)
        rows.append(
            (
                name,
                str(figures.operations),
                str(before.operations) if before else "-",
                _ratio(figures.speed),
                _ratio(before.speed if before else None),
                ", ".join(found.get(name, [])) or "ok",
            )
        )
    return aligned(("program", "operations", "before", "eager/native", "before", "verdict"), rows, "lrrrrl")


def _ratio(speed: float | None) -> str:
    return "-" if speed is None else f"{speed:.1f}"


def figures_of(content: Mapping[str, Any]) -> dict[str, Figures]:
    """Those of a baseline as it was stored."""
    return {name: Figures(row["operations"], row["speed"]) for name, row in content["rows"].items()}


def summary(figures: Mapping[str, Figures]) -> dict[str, float]:
    """Numbers by name."""
    operations = {f"{name}/operations": one.operations for name, one in figures.items()}
    return operations | {f"{name}/eager_over_native": one.speed for name, one in figures.items() if one.speed}
