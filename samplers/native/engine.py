"""The native engine: traces, prints, compiles, checks, and runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..chains import Chains
from ..eager import Eager, Record, rows_of_state
from ..errors import BuildError, NotTraceableError
from ..kernel import InfoLike, StateLike
from ..noise import CounterNoise, GeneratorNoise, check_length
from ..programs import Programs
from ..totals import Totals
from .cpp import Printed
from .cuda import OnCUDA
from .processor import Arguments, OnProcessor
from .program import live_values
from .symbolic import check_integers
from .trace import OFFSET, Column, Output, Subject, Trace, drops_out
from .writing import write

_DEVICES = ("cpu", "cuda")
_MAX_COMPARED = 1000


class Native:
    """Runs a kernel on all chains as one compiled program; made by `started`.

    Args:
        eager: The run by plain torch.
        store: Where its programs are kept for later runs, if they are.
    """

    def __init__(self, eager: Eager, store: Programs | None) -> None:
        self._start, self._store = eager.start, store
        self.reason = "native: kernel and energy are one compiled program"
        self.kernel, self.params, self.num_chains = eager.kernel, eager.params, eager.num_chains
        self._target, self._steps = eager.target, self._start.num_steps
        self._rows_of_target: dict[str, Tensor] = {}
        self._target.with_rows(self._keep_rows)
        self._programs: dict[object, _Program] = {}
        self._noise = CounterNoise(0)
        self.offset: Tensor | float = 0.0

    @staticmethod
    def started(
        eager: Eager, new_record: Callable[[StateLike], Record], programs: Programs | None = None
    ) -> tuple[Native, StateLike]:
        """The engine, held against plain torch, and energies and gradients where the chains stand.

        Args:
            eager: The run by plain torch, whose noise is counter-based, or a generator, which is asked for a seed.
            new_record: What the run is going to keep, from a state; the program adds up and stores it.
            programs: Those of earlier runs, which need not be traced again.

        Raises:
            EnergyError: If the energy breaks its contract.
            NotTraceableError: If kernel or energy cannot be traced, or lives on a device that runs no programs.
            BuildError: If there is no compiler, or it fails.
        """
        if eager.start.matrix.device.type not in _DEVICES:
            raise NotTraceableError(f"the chains are on {eager.start.matrix.device}")
        if not isinstance(eager.noise, CounterNoise | GeneratorNoise):
            raise NotTraceableError(f"noise from a {type(eager.noise).__name__} is handed over step by step")
        native = Native(eager, programs)
        state = (native._checked_start if programs is None else native._kept_start)(eager, new_record)
        native._noise = _counter_based(eager.noise)  # a generator is asked only when nothing can fail any more
        return native, state

    @property
    def details(self) -> dict[str, str]:
        """Of the program that was checked, see `Explanation`."""
        return next(iter(self._programs.values())).details

    def step(self, state: StateLike) -> tuple[StateLike, InfoLike]:
        """Move all chains once, with the parameters as they are now."""
        record = Record.of_all(self.kernel, state)
        program = self._program(state, record)
        state, drawn = self._run(program, state, 1, record)
        return state, program.trace.info_type(**{name: column[0] for name, column in drawn.items()})

    def advance(self, state: StateLike, num_draws: int, record: Record) -> tuple[StateLike, dict[str, Tensor]]:
        """See `Eager.advance`."""
        return self._run(self._program(state, record), state, num_draws, record)

    def new_draws(self, num_draws: int) -> Tensor:
        """See `Eager.new_draws`; in memory, a draw holds one coordinate of all chains after the other."""
        return self._start.matrix.new_empty(num_draws, self._start.matrix.shape[1], self.num_chains).transpose(1, 2)

    def chains(self, state: StateLike) -> Chains:
        """See `Eager.chains`."""
        memory = self.kernel.memory(state)
        return Chains(state.position, self._start.layout, self.params, self._noise.state_dict(), self._steps, memory)

    def _program(self, state: StateLike, record: Record) -> _Program:
        """The program for the parameters as they are; another one only where their shapes change, or what drops out.

        A run that keeps nothing at draws has a program without what is only told there, which leaves registers free.
        """
        totals, keeps_draws = record.totals, record.draws is not None or bool(record.collect)
        key = (self._params_as_read(), tuple(totals.sums), bool(totals.moves), keeps_draws)
        if key not in self._programs:
            subject = Subject.of(self.kernel, self._target, self.params, state, totals, keeps_draws=keeps_draws)
            try:
                self._programs[key] = self._made(subject)
            except (NotTraceableError, BuildError) as error:
                # All else that is refused is about where chains stand, and not the next time.
                if self._store is not None:
                    self._store.refuse(self._situation(), error)
                raise
        return self._programs[key]

    def _params_as_read(self) -> str:
        """What of the parameters has a say in programs, which read all else."""
        fields = self.params._asdict().items()
        return repr(
            {
                name: (tuple(value.shape), drops_out(name, value)) if isinstance(value, Tensor) else value
                for name, value in fields
            }
        )

    def _made(self, subject: Subject) -> _Program:
        trace, printed = write(subject)
        if self._store is not None and trace.is_settled:
            raise NotTraceableError("the energy works something out from captured tensors alone, see Programs")
        return _Program(trace, printed, self._start.matrix.device, self.num_chains)

    def _run(
        self, program: _Program, state: StateLike, num_draws: int, record: Record
    ) -> tuple[StateLike, dict[str, Tensor]]:
        totals, thinning, draws, collect = record
        trace, num_steps = program.trace, num_draws * thinning
        for site in trace.sites.values():
            check_length(site, self._start.matrix.shape[1], self._steps + num_steps)
        device = self._start.matrix.device
        left = [_room(output, device, self.num_chains) for output in (*trace.state, *trace.moves)]
        nothing = torch.zeros(1, 1, dtype=torch.float64, device=device)
        sums = [_begun(totals.sums.get(column.name, nothing), column, self.num_chains) for column, _ in trace.sums]
        wanted = dict(zip((column.name for column, _ in trace.draws), trace.draws, strict=True))
        fields = {name: _room(wanted[name], device, num_draws, self.num_chains) for name in collect}
        drawn = [
            draws.transpose(1, 2) if name == "position" and draws is not None else fields.get(name) for name in wanted
        ]
        program.run(
            inputs=[self._column(column.name, state, totals) for column in trace.inputs],
            outputs=[*left, *sums],
            draws=drawn,
            params=self.params,
            noise=self._noise,
            steps=(self._steps, self._steps + num_steps),
            thinning=thinning,
            num_chains=self.num_chains,
        )
        self._steps += num_steps
        totals.sums = {column.name: total.T for (column, _), total in zip(trace.sums, sums, strict=True)}
        offset = totals.sums.pop(OFFSET, None)
        if offset is not None and num_steps:
            self.offset = offset / num_steps
        totals.num_steps += num_steps
        values = [_rows(output, columns) for output, columns in zip((*trace.state, *trace.moves), left, strict=True)]
        width = len(trace.state)
        totals.moves = {column.name: value for (column, _), value in zip(trace.moves, values[width:], strict=True)}
        by_draw = {name: _rows(wanted[name], room, lead=1) for name, room in fields.items()}
        return trace.state_type(*values[:width]), by_draw

    def _column(self, name: str, state: StateLike, totals: Totals) -> Tensor:
        """An input of a program: (C, *shape)."""
        room, _, field = name.partition(".")
        match room:
            case "position":
                return state.position
            case "memory":
                return self.kernel.memory(state)[field]
            case "params":
                value: Tensor = getattr(self.params, field)
                return value
            case "moves":
                return totals.moves[field]
        return self._rows_of_target[name]

    def _keep_rows(self, name: str, rows: Tensor) -> Tensor:
        self._rows_of_target[name] = rows
        return rows

    def _checked_start(self, eager: Eager, new_record: Callable[[StateLike], Record]) -> StateLike:
        """Hold the program's energies and gradients against plain torch, where chains stand and beside it.

        Of many chains some will do, spread over all: what is compared is a program and not its numbers, and plain torch
        takes as long for one gradient as a program does for dozens of steps.

        Returns:
            The program's, where the chains stand.

        Raises:
            NotTraceableError: If they differ by more than rounding, or no energy is finite.
        """
        some = slice(None, None, -(-self.num_chains // _MAX_COMPARED))
        few = eager.among(some)
        theirs = _state_of(few, eager, some)
        if not torch.isfinite(theirs.energy).any():
            raise NotTraceableError("no chain stands where its energy is finite, so that nothing can be checked")
        memory = self.kernel.memory(theirs)
        begin = eager.init() if memory else self._unread(theirs)
        record = new_record(begin)
        ours = self._where_it_stands(begin, record)
        _compare(ours, some, theirs)
        position = begin.position.clone()
        position[some] = _beside(position[some])
        beside = begin._replace(position=position)  # type: ignore[attr-defined]
        there: StateLike | None = None
        # What an energy raises where no chain stands is no business of the run's.
        with suppress(Exception), torch.no_grad():
            there = self.kernel.restore(few.target, beside.position[some], memory, few.params)
        if there is not None:
            _compare(self._where_it_stands(beside, record), some, there)
        return ours

    def _kept_start(self, eager: Eager, new_record: Callable[[StateLike], Record]) -> StateLike:
        """The start of a run whose programs are those of one before, see `Programs`.

        Its energies and gradients are left to those before, where the run keeps none but those that its steps make.
        """
        assert self._store is not None
        situation = self._situation()
        kept = self._store.found(situation)
        if kept is None:
            state = self._checked_start(eager, new_record)
            self._store.keep(situation, (self._programs, state))
            return state
        self._programs, like = kept
        begin: StateLike = eager.init() if self.kernel.memory(like) else like._replace(position=self._start.matrix)
        record = new_record(begin)
        return self._where_it_stands(begin, record) if record.collect else begin

    def _situation(self) -> Hashable:
        """What has a say in programs besides the energy."""
        matrix, target, beta = self._start.matrix, self._target, self._target.inverse_temperature
        temperature = (beta.shape, beta.dtype) if isinstance(beta, Tensor) else beta
        columns = (matrix.shape, matrix.dtype, matrix.device, self._start.layout, target.context_structure, temperature)
        situation = (self.kernel, self._params_as_read(), *columns)
        try:
            hash(situation)
        except TypeError as error:
            raise NotTraceableError(f"{self.kernel} cannot be told from other kernels: {error}") from error
        return situation

    def _unread(self, few: StateLike) -> StateLike:
        """A state of all chains whose energies and gradients nobody knows: a program reads positions alone."""
        energy = few.energy.new_zeros(self.num_chains, 1)
        state: StateLike = few._replace(position=self._start.matrix, energy=energy)  # type: ignore[attr-defined]
        return state

    def _where_it_stands(self, state: StateLike, record: Record) -> StateLike:
        """The state with the program's own energies and gradients."""
        stands, _ = self._run(self._program(state, record), state, 0, record)
        return stands


def _state_of(few: Eager, all_chains: Eager, some: slice) -> StateLike:
    """Energies and gradients of few chains by plain torch; of all, where an energy does not take the few alone."""
    try:
        return few.init()
    except Exception:
        state: StateLike = rows_of_state(all_chains.init(), some)
        return state


def _compare(ours: StateLike, some: slice, theirs: StateLike) -> None:
    """Raise unless the program's energies and gradients of some chains are those of plain torch, up to rounding."""
    for name in ("energy", "grad"):
        one, other = getattr(ours, name)[some], getattr(theirs, name)
        if not _is_close(one, other):
            raise NotTraceableError(
                f"the program's {name} differs from the energy's own by {float((one - other).abs().max()):.2g}"
            )


class _Program:
    """A compiled program, and what it reads besides the chains."""

    def __init__(self, trace: Trace, printed: Printed, device: torch.device, num_chains: int) -> None:
        self.trace, self._tables, self._device = trace, printed.tables, device
        self._call = OnProcessor(printed, num_chains) if device.type == "cpu" else OnCUDA(printed, device)

    @property
    def details(self) -> dict[str, str]:
        """See `Native.details`."""
        return {
            "operations": str(len(live_values(self.trace.written))),
            "captured": f"{sum(tensor.numel() for tensor in self.trace.captured)} numbers",
            "cached": "yes" if self._call.was_cached else "no",
        }

    def run(
        self,
        *,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        draws: Sequence[Tensor | None],
        params: Any,
        noise: CounterNoise,
        steps: tuple[int, int],
        thinning: int,
        num_chains: int,
    ) -> None:
        """Run it."""
        self._call(
            Arguments(
                inputs=[_columns(value) for value in inputs],
                outputs=outputs,
                draws=draws,
                floats=self._numbers(self._tables.floats, params),
                doubles=self._numbers(self._tables.doubles, params),
                counts=self._tables.counts,
                arrays=[self._array(what, where, params) for what, where in self._tables.arrays],
                keys=[word for name in self.trace.sites for word in noise.key(name)],
                num_chains=num_chains,
                first_chain=noise.first_chain,
                steps=steps,
                thinning=thinning,
            )
        )

    def _whole(self, what: object, where: Any, params: Any) -> Tensor:
        """A tensor that the program reads, from the energy or from the parameters."""
        tensor: Tensor = self.trace.captured[where] if what == "captured" else getattr(params, where)
        return tensor.detach()

    def _array(self, what: object, where: Any, params: Any) -> Tensor:
        """The same as it lies in memory, where the program runs."""
        return self._whole(what, where, params).to(self._device).contiguous()

    def _numbers(self, entries: Iterable[tuple[Any, ...]], params: Any) -> list[float]:
        """The numbers of a table."""
        whole: dict[tuple[Any, ...], list[float]] = {}
        numbers = []
        for what, where, *place in entries:
            if what == "literal":
                numbers.append(where)
                continue
            if (what, where) not in whole:
                whole[what, where] = self._whole(what, where, params).flatten().tolist()
            numbers.append(whole[what, where][place[0]])
        return numbers


def _beside(position: Tensor) -> Tensor:
    """Where no chain stands: on the way from each to another, or around it where the other stands there too."""
    between = torch.lerp(position, position.roll(1, 0), 0.3)
    noise = torch.randn(position.shape, generator=torch.Generator().manual_seed(0), dtype=position.dtype)
    around = position + 0.1 * noise.to(position.device) * (1 + position.abs())
    return torch.where((between == position).all(1, keepdim=True), around, between)


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Whether two engines agree up to rounding, wherever the numbers are in range."""
    if not other.numel():
        return True
    info = torch.finfo(other.dtype)
    in_range = torch.isfinite(other) & (other.abs() < info.max**0.5)
    scale = torch.where(in_range, other.abs(), 0).amax(dim=1, keepdim=True) + 1
    return bool(((one - other).abs() <= 2e4 * info.eps * scale)[in_range].all())


def _counter_based(noise: CounterNoise | GeneratorNoise) -> CounterNoise:
    """Noise that a program can make itself."""
    if isinstance(noise, CounterNoise):
        return noise
    seed = torch.randint(2**63 - 1, (), generator=noise.generator, device=noise.generator.device)
    return CounterNoise(int(seed))


_MEMORY_DTYPES = {torch.int64: torch.int32, torch.bool: torch.uint8}


def _memory_dtype(dtype: torch.dtype) -> torch.dtype:
    return _MEMORY_DTYPES.get(dtype, dtype)


def _columns(value: Tensor) -> Tensor:
    """(C, *shape) as the program reads it, (width, C).

    Raises:
        NotTraceableError: If it holds integers that do not fit.
    """
    check_integers(value)
    return value.reshape(len(value), -1).to(_memory_dtype(value.dtype)).T.contiguous()


def _room(output: Output, device: torch.device, *lead: int) -> Tensor:
    """Room for what the program writes: (*lead without C, width, C)."""
    column, _ = output
    return torch.empty(*lead[:-1], column.width, lead[-1], dtype=_memory_dtype(column.dtype), device=device)


def _begun(total: Tensor, column: Column, num_chains: int) -> Tensor:
    """Sums so far, (width, C)."""
    return total.expand(num_chains, column.width).T.clone(memory_format=torch.contiguous_format)


def _rows(output: Output, room: Tensor, lead: int = 0) -> Tensor:
    """What the program wrote, as (*lead, C, *shape)."""
    column, _ = output
    rows = room.transpose(-1, -2).to(column.dtype)
    return rows.reshape(*rows.shape[: lead + 1], *column.shape) if len(column.shape) != 1 else rows
