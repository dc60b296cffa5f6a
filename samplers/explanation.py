"""What `sample` would run on, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .chains import Chains
from .checks import check_count
from .driver import start_chains
from .eager import Eager
from .energy import Energy, Target
from .engines import EngineName, compiling_pays, no_native, resolve, too_short
from .errors import BuildError, NotTraceableError
from .kernel import Kernel, Params, StateLike
from .position import Position
from .totals import Totals


@dataclass(frozen=True)
class Explanation:
    """Which engine "auto" stands for in a run.

    Attributes:
        engine: Its name.
        reason: Why it is this one, in words.
        details: More about it, in words, by name. Of the native engine: "operations" on numbers in the program,
            "captured" numbers of tensors, which it reads anew in every run, and whether the program is "cached".
    """

    engine: EngineName
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([f"{self.reason}.", *(f"{name.capitalize()}: {what}." for name, what in self.details.items())])


def explain(
    energy: Energy,
    kernel: Kernel[Any],
    initial: Position | Chains,
    *,
    num_steps: int = 1000,
    context: Any = None,
    temperature: float | Tensor = 1.0,
    params: Params | None = None,
) -> Explanation:
    """Say which engine `sample` would choose, without taking a step.

    A native program is built and checked for it, and stays in the cache; nothing else is compiled.

    Args:
        energy: See `sample`.
        kernel: See `sample`.
        initial: See `sample`.
        num_steps: Steps of the run, warm-up included, >= 1.
        context: See `sample`.
        temperature: See `sample`.
        params: See `sample`.

    Returns:
        The choice; as a string it is a paragraph.

    Raises:
        NotTraceableError: If the environment asks for "native", and it is not possible; `sample` raises the same.
        BuildError: Likewise.
    """
    check_count("num_steps", num_steps, 1)
    chains, noise = start_chains(kernel, initial, params, None, 0)
    device, name = chains.matrix.device, resolve("auto")
    if name in ("compile", "eager"):
        return Explanation(name, f"{name}: asked for by the environment")
    state = Eager(energy, kernel, chains, noise, context, temperature, None).init()
    target = Target(energy, chains.layout, len(chains.matrix), context=context, temperature=temperature)
    try:
        details = _program_details(kernel, target, chains, state)
        from .native import Native

        native = Native(energy, kernel, chains, noise, context, temperature, state, Totals(kernel, state))
    except (NotTraceableError, BuildError) as error:
        if name == "native":  # asked for by the environment: `sample` raises, too
            raise
        refusal = no_native(error)
    else:
        return Explanation("native", native.reason, details)
    if compiling_pays(num_steps, device):
        return Explanation("compile", f"compile, which pays over {num_steps} steps on {device.type}, since {refusal}")
    return Explanation("eager", f"eager, since {refusal}; {too_short(num_steps, device)}")


def _program_details(kernel: Kernel[Any], target: Target, chains: Chains, state: StateLike) -> dict[str, str]:
    """See `Explanation.details`.

    Raises:
        NotTraceableError: If there is no program.
    """
    from .native.build import is_cached
    from .native.program import live_values
    from .native.trace import Subject
    from .native.writing import write

    trace, printed = write(Subject.of(kernel, target, chains.params, state, Totals(kernel, state)))
    written = [*trace.state, *trace.moves, *trace.sums, *trace.draws]
    operations = live_values(value for _, values in written for value in values)
    num_captured = sum(tensor.numel() for tensor in trace.captured)
    return {
        "operations": str(len(operations)),
        "captured": f"{num_captured} numbers",
        "cached": "yes" if is_cached(printed.source) else "no",
    }
