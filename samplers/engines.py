"""The engines: several ways to run one definition of a kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

from torch import Tensor

from .chains import Chains
from .eager import Eager
from .energy import Energy
from .errors import BuildError, NotTraceableError, UnknownNameError
from .kernel import InfoLike, Kernel, StateLike
from .noise import NoiseSource
from .totals import Totals

EngineName: TypeAlias = Literal["auto", "native", "eager"]
"""How to run: see `sample`."""

DEFAULT_VARIABLE = "LAMINA_ENGINE"
"""Environment variable that names what "auto" stands for."""


class Engine(Protocol):
    """Runs a kernel on all chains.

    Attributes:
        kernel: The kernel.
        params: Its parameters, which may be changed between steps.
        num_chains: C.
        reason: Why it is this engine, in words.
    """

    kernel: Kernel[Any]
    params: Any
    num_chains: int
    reason: str

    def step(self, state: StateLike) -> tuple[StateLike, InfoLike]:
        """Move all chains once, with the parameters as they are now."""
        ...

    def advance(
        self,
        state: StateLike,
        num_draws: int,
        thinning: int,
        totals: Totals,
        draws: Tensor | None,
        collect: Sequence[str],
    ) -> tuple[StateLike, dict[str, Tensor]]:
        """Move all chains many times; see `Eager.advance`."""
        ...

    def new_draws(self, num_draws: int) -> Tensor:
        """Room for positions, (num_draws, C, D), as `advance` fills it."""
        ...

    def chains(self, state: StateLike) -> Chains:
        """What it takes to continue from a state."""
        ...


def start_engine(
    name: EngineName,
    energy: Energy,
    kernel: Kernel[Any],
    chains: Chains,
    noise: NoiseSource,
    context: Any,
    temperature: float | Tensor,
    chain_batch_size: int | None,
    check: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[Engine, StateLike]:
    """The engine of a name, and where it starts.

    Args:
        name: See `sample`.
        energy: See `sample`.
        kernel: See `sample`.
        chains: Where to start.
        noise: Where randomness comes from.
        context: See `sample`.
        temperature: See `sample`.
        chain_batch_size: See `sample`.
        check: Raises where a start of these energies (C, 1) and gradients (C, D) will not do.

    Raises:
        UnknownNameError: If there is no such engine.
        NotTraceableError: If "native" is asked for by name, and kernel or energy cannot be traced.
        BuildError: If "native" is asked for by name, and cannot be compiled.
    """
    if name == "auto":
        name = os.environ.get(DEFAULT_VARIABLE, "auto")  # type: ignore[assignment]
    if name not in get_args(EngineName):
        raise UnknownNameError("engine", name, get_args(EngineName))
    eager = Eager(energy, kernel, chains, noise, context, temperature, chain_batch_size)
    state = eager.init()
    if check is not None:
        check(state.energy, state.grad)
    if name == "eager":
        return eager, state
    from .native import Native  # takes a while to import, and not everybody needs it

    try:
        return Native(energy, kernel, chains, noise, context, temperature, state), state
    except (NotTraceableError, BuildError) as error:
        if name == "native":
            raise
        eager.reason = f"eager, since native is not possible: {error}"
        return eager, state
