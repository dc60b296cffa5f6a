"""What `sample` would run on, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from .chains import Chains
from .checks import check_count
from .driver import start_chains
from .eager import Eager, Record
from .energy import Energy
from .engines import EngineName, choose, resolve
from .kernel import Kernel, Params
from .position import Position


@dataclass(frozen=True)
class Explanation:
    """Which engine "auto" stands for in a run.

    Attributes:
        engine: Its name.
        reason: Why it is this one, in words.
        details: More about it, in words, by name. Of the native engine: "operations" on numbers in the program,
            "captured" numbers of tensors, which it reads anew in every run, and whether the program was "cached".
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
    name = resolve("auto")
    if name in ("compile", "eager"):
        return Explanation(name, f"{name}: asked for by the environment")
    eager = Eager(energy, kernel, chains, noise, context, temperature, None)
    engine, refusals, native = choose(name, eager, partial(Record.of_all, kernel), num_steps)
    if native is not None:
        return Explanation(engine, native[0].reason, native[0].details)
    pays = f", which pays over {num_steps} steps on {chains.matrix.device.type}" if engine == "compile" else ""
    return Explanation(engine, f"{engine}{pays}, since {'; '.join(refusals)}")
