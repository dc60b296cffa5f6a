"""The engines: several ways to run one definition of a kernel."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from .chains import Chains
from .compiled import compiled
from .eager import Eager, Record
from .errors import BuildError, NotTraceableError, UnknownNameError
from .kernel import InfoLike, Kernel, StateLike
from .programs import Programs

if TYPE_CHECKING:
    from .native import Native

EngineName: TypeAlias = Literal["auto", "native", "compile", "eager"]
"""How to run: see `sample`."""

DEFAULT_VARIABLE = "LAMINA_ENGINE"
"""Environment variable that names what "auto" stands for."""

COMPILE_FROM: Mapping[str, int] = {"cpu": 20_000, "cuda": 5_000}
"""Steps that win back the ten to thirty seconds of `torch.compile`, by kind of device."""


class Engine(Protocol):
    """Runs a kernel on all chains.

    Attributes:
        kernel: The kernel.
        params: Its parameters, which may be changed between steps.
        num_chains: C.
    """

    kernel: Kernel[Any]
    params: Any
    num_chains: int

    @property
    def offset(self) -> Tensor | float:
        """What is added to the energies that are told, while decisions do without: one number, or (C, 1)."""
        ...

    @property
    def reason(self) -> str:
        """Why it is this engine, in words."""
        ...

    def step(self, state: StateLike) -> tuple[StateLike, InfoLike]:
        """Move all chains once, with the parameters as they are now."""
        ...

    def advance(self, state: StateLike, num_draws: int, record: Record) -> tuple[StateLike, dict[str, Tensor]]:
        """Move all chains many times; see `Eager.advance`."""
        ...

    def new_draws(self, num_draws: int) -> Tensor:
        """Room for positions, (num_draws, C, D), as `advance` fills it."""
        ...

    def chains(self, state: StateLike) -> Chains:
        """What it takes to continue from a state."""
        ...


class Steadfast:
    """The native engine for as long as it can, eager from then on: warm-up may find a mass that no program can hold.

    Both see the same counter-based noise, so that chains go on as if nothing had happened.

    Args:
        native: The engine to begin with.
        eager: The same run by the other.
    """

    def __init__(self, native: Engine, eager: Eager) -> None:
        self._engine, self._eager = native, eager
        self.kernel, self.num_chains = native.kernel, native.num_chains

    @property
    def params(self) -> Any:
        """Those of the engine that runs."""
        return self._engine.params

    @params.setter
    def params(self, params: Any) -> None:
        self._engine.params = params

    @property
    def offset(self) -> Tensor | float:
        """That of the engine that runs."""
        return self._engine.offset

    @property
    def reason(self) -> str:
        """That of the engine that runs."""
        return self._engine.reason

    def step(self, state: StateLike) -> tuple[StateLike, InfoLike]:
        """See `Engine`."""
        try:
            return self._engine.step(state)
        except (NotTraceableError, BuildError) as error:
            state = self._fall_back(state, error)
            return self._engine.step(state)

    def advance(self, state: StateLike, num_draws: int, record: Record) -> tuple[StateLike, dict[str, Tensor]]:
        """See `Engine`."""
        try:
            return self._engine.advance(state, num_draws, record)
        except (NotTraceableError, BuildError) as error:
            state = self._fall_back(state, error)
            return self._engine.advance(state, num_draws, record)

    def new_draws(self, num_draws: int) -> Tensor:
        """See `Engine`."""
        return self._engine.new_draws(num_draws)

    def chains(self, state: StateLike) -> Chains:
        """See `Engine`."""
        return self._engine.chains(state)

    def _fall_back(self, state: StateLike, error: Exception) -> StateLike:
        eager = self._eager.continued(self._engine.chains(state))
        eager.reason = f"eager after a native start, since {no_native(error)}"
        self._engine = eager
        return eager.init()


def start_engine(
    name: EngineName,
    eager: Eager,
    num_steps: int,
    new_record: Callable[[StateLike], Record],
    check: Callable[[Tensor, Tensor], None] | None = None,
    programs: Programs | None = None,
) -> tuple[Engine, StateLike]:
    """The engine of a name, and where it starts.

    Args:
        name: See `sample`.
        eager: The run by plain torch.
        num_steps: Steps that the run is going to take, warm-up included.
        new_record: What it is going to keep, from a state: sums, and whether anything at draws.
        check: Raises where a start of these energies (C, 1) and gradients (C, D) will not do.
        programs: See `run`.

    Raises:
        UnknownNameError: If there is no such engine.
        NotTraceableError: If "native" or "compile" is asked for by name, and kernel or energy cannot be traced.
        BuildError: If "native" is asked for by name, and cannot be compiled.
    """
    name = resolve(name)
    try:
        choice = choose(name, eager, new_record, num_steps, programs)
    except NotTraceableError:
        if check is not None:
            state = eager.init()
            check(state.energy, state.grad)  # a start that will not do is the better reason
        raise
    native, state = choice.native or (None, eager.init())
    if check is not None:
        check(state.energy, state.grad)
    if native is not None:
        return native if name == "native" else Steadfast(native, eager), state
    refusals = choice.refusals
    if choice.engine == "compile":
        try:
            engine = compiled(eager, state)
        except NotTraceableError as error:
            if name == "compile":
                raise
            refusals = (*refusals, f"nor can it be compiled: {error}")
        else:
            engine.reason = "; ".join((engine.reason, *refusals))
            return engine, state
    if refusals:
        eager.reason = f"eager, since {'; '.join(refusals)}"
    return eager, state


class Choice(NamedTuple):
    """Which engine a run takes.

    Attributes:
        engine: Its name.
        refusals: Why it is none of those that come before, in words.
        native: The engine itself, where it is this one, and energies and gradients where the chains stand.
    """

    engine: EngineName
    refusals: tuple[str, ...] = ()
    native: tuple[Native, StateLike] | None = None


def choose(
    name: EngineName,
    eager: Eager,
    new_record: Callable[[StateLike], Record],
    num_steps: int,
    programs: Programs | None = None,
) -> Choice:
    """What "auto" and other names stand for in a run. A native program is built for it; nothing else is compiled.

    Args:
        name: As `resolve` gives it.
        eager: The run by plain torch.
        new_record: See `start_engine`.
        num_steps: See `start_engine`.
        programs: See `run`.

    Raises:
        NotTraceableError: If "native" is asked for by name, and kernel or energy cannot be traced.
        BuildError: If "native" is asked for by name, and cannot be compiled.
    """
    if name in ("compile", "eager"):
        return Choice(name)
    from .native import Native  # takes a while to import, and not everybody needs it

    try:
        return Choice("native", native=Native.started(eager, new_record, programs))
    except (NotTraceableError, BuildError) as error:
        if name == "native":
            raise
        refusal = no_native(error)
    device = eager.start.matrix.device
    if compiling_pays(num_steps, device):
        return Choice("compile", (refusal,))
    return Choice("eager", (refusal, too_short(num_steps, device)))


def resolve(name: EngineName) -> EngineName:
    """The name itself; or, for "auto", what the environment says it stands for.

    Raises:
        UnknownNameError: If there is no such engine.
    """
    if name == "auto":
        name = os.environ.get(DEFAULT_VARIABLE, "auto")  # type: ignore[assignment]
    if name not in get_args(EngineName):
        raise UnknownNameError("engine", name, get_args(EngineName))
    return name


def compiling_pays(num_steps: int, device: torch.device) -> bool:
    """Whether "auto" compiles what it cannot run natively: a matter of length and device, never of timings."""
    return num_steps >= COMPILE_FROM.get(device.type, math.inf)


def no_native(error: Exception) -> str:
    """Why it is not the native engine, in words."""
    return f"native is not possible: {error}"


def too_short(num_steps: int, device: torch.device) -> str:
    """Why it is not the compiled engine, in words."""
    if device.type not in COMPILE_FROM:
        return f"compile is not chosen on {device.type}"
    return f"{num_steps} steps are too few for compile to pay, which it does from {COMPILE_FROM[device.type]} on"
