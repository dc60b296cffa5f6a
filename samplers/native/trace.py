"""From a kernel and an energy to the program of one chain's run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import loops
from ..energy import Target
from ..errors import NotTraceableError
from ..kernel import Kernel, StateLike, is_per_chain
from ..noise import Site
from ..totals import Totals, add_energy
from .offset import split_off
from .program import Kind, Loop, Operand, Program, Value
from .symbolic import KINDS, Array, Place, Symbolic, Tracer, as_array, collapsed, entries, is_long, object_array

MAX_TRACED = 12_000
"""Operations, of several chains and before what nobody needs is left out, beyond which tracing is given up."""

_MAX_IN_MATRICES = 2**21
"""Numbers of matrices that stay near a processor, which a program reads once for every block of chains."""

_FEW_IN_MATRICES, _FEW_PRODUCTS = 8_000, 2_000_000
"""Numbers of matrices, and products with all chains, of which either is enough for a device not to need its library."""

ENERGY_FIELDS = ("energy", "total_energy")
"""What is told to people with the energy's additive constant, which chains do without."""

OFFSET = "offset"
"""What the sum over steps of that constant is called, where there is one."""


@dataclass(frozen=True)
class Column:
    """Numbers with a row per chain, that a program reads or writes.

    Attributes:
        name: What they are.
        dtype: Theirs.
        shape: Of a row.
        places: Where its numbers lie in a row, those along a long axis once, with the length of that axis or 0.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    places: tuple[tuple[Place, int], ...]

    @staticmethod
    def of(name: str, value: Tensor) -> Column:
        """The column of a tensor (C, *shape), for the program that is being traced."""
        shape = tuple(value.shape[1:])
        return Column(name, value.dtype, shape, tuple(collapsed(entries(shape, lambda *where: where)).flat))

    @property
    def width(self) -> int:
        """Numbers per chain."""
        return math.prod(self.shape)


Output: TypeAlias = tuple[Column, list[Operand]]
"""A column that a program writes, and the values of chain 0, one for each of its places."""


@dataclass
class Trace:
    """The program of a run.

    Attributes:
        program: All of it.
        steps: Its loop over steps.
        inputs: Columns that it reads.
        state: What it leaves of the kernel's state.
        moves: What it leaves of the running figures of the total energy; see `lamina.samplers.totals`.
        sums: What it adds up over steps.
        draws: What it stores every so many steps.
        captured: Tensors of the energy that it reads.
        is_settled: See `Tracer`.
        sites: The noise of a step.
        state_type: The NamedTuple that the state's columns make up.
        info_type: Likewise for the draws, save the position.
    """

    program: Program
    steps: Loop
    inputs: list[Column]
    state: list[Output]
    moves: list[Output]
    sums: list[Output]
    draws: list[Output]
    captured: list[Tensor]
    is_settled: bool
    sites: Mapping[str, Site]
    state_type: Any
    info_type: Any

    @property
    def written(self) -> list[Operand]:
        """All values that it leaves, adds up or stores."""
        return [value for _, values in (*self.state, *self.moves, *self.sums, *self.draws) for value in values]


@dataclass(frozen=True)
class Subject:
    """What is traced: a kernel on a target, and everything that has a say in the program.

    Attributes:
        kernel: The kernel.
        target: Its target for any number of chains.
        params: Its parameters.
        matrix: Positions of the chains, (C, D): for the width and the dtype.
        memory: What the chains remember, a row each.
        sums: Names of the fields of the kernel's Info to add up.
        moves: Running figures of the total energy, or nothing; see `lamina.samplers.totals`.
        keeps_draws: Whether positions and the fields of Info can be stored every so many steps.
    """

    kernel: Kernel[Any]
    target: Target
    params: Any
    matrix: Tensor
    memory: Mapping[str, Tensor]
    sums: Sequence[str]
    moves: Mapping[str, Tensor]
    keeps_draws: bool = True

    @staticmethod
    def of(
        kernel: Kernel[Any], target: Target, params: Any, state: StateLike, totals: Totals, *, keeps_draws: bool
    ) -> Subject:
        """A run that starts from a state and adds up these totals."""
        memory = kernel.memory(state)
        return Subject(kernel, target, params, state.position, memory, tuple(totals.sums), totals.moves, keeps_draws)


def trace(subject: Subject, num_chains: int, long: int | None) -> Trace:
    """Write down the program of chain 0 among so many chains.

    Args:
        subject: What to trace.
        num_chains: How many chains.
        long: Entries from which on an axis is looped over; None: never.

    Raises:
        NotTraceableError: If that cannot be done.
    """
    return _Recording(subject, num_chains, long).trace()


class _Recording:
    """One tracing."""

    def __init__(self, subject: Subject, num_chains: int, long: int | None) -> None:
        self.subject, self.num_chains = subject, num_chains
        self.program = Program(MAX_TRACED)
        self.tracer = Tracer(self.program, long, _max_in_matrices(subject.matrix))
        self.inputs: list[Column] = []

    def trace(self) -> Trace:
        subject, kernel = self.subject, self.subject.kernel
        with torch.no_grad(), self.tracer, loops.recorded_by(self):
            params = self._params()
            self.tracer.is_settled = False  # by what parameters are, but what they are is no secret
            target = _TracedTarget.of(subject.target, self.tracer, self._input)
            position = self._input("position", subject.matrix)
            memory = {name: self._input(f"memory.{name}", value) for name, value in subject.memory.items()}
            moves = {name: self._input(f"moves.{name}", value) for name, value in subject.moves.items()}
            state = kernel.restore(target, position, memory, params)
            info: dict[str, Tensor] = {}
            draws: list[Output] = []
            told_types: list[Any] = []

            def body(*carried: Tensor) -> tuple[Tensor, ...]:
                fields, figures = carried[: len(state)], dict(zip(moves, carried[len(state) :], strict=True))  # type: ignore[arg-type]
                moved, told = kernel.step(target, type(state)(*fields), self._noise(), params)
                info.update(told._asdict())  # type: ignore[attr-defined]
                told_types.append(type(told))
                if figures:
                    figures = add_energy(figures, told.total_energy)  # type: ignore[attr-defined]
                offset = target.offset_column()  # whose values have to stand before the loop
                if subject.keeps_draws:
                    draws.append(self._output("position", moved.position))
                    draws.extend(self._output(name, value, offset) for name, value in info.items())
                return (*moved, *figures.values())  # type: ignore[misc]

            after = self._loop("steps", 0, body, (*state, *moves.values()))  # type: ignore[misc]
            loop = self.program.root.items[-1]
            assert isinstance(loop, Loop)
            offset = target.offset_column()
            names = (*state._fields, *moves)  # type: ignore[attr-defined]
            left = [self._output(name, value, offset) for name, value in zip(names, after, strict=True)]
            return Trace(
                program=self.program,
                steps=loop,
                inputs=self.inputs,
                state=left[: len(state)],  # type: ignore[arg-type]
                moves=left[len(state) :],  # type: ignore[arg-type]
                sums=self._sums(info, target),
                draws=draws,
                captured=self.tracer.captured,
                is_settled=self.tracer.is_settled,
                sites=kernel.sites,
                state_type=type(state),
                info_type=told_types[0],
            )

    def _sums(self, info: Mapping[str, Tensor], target: _TracedTarget) -> list[Output]:
        """What is asked for, and the energy's constant, so that it can be told from what decides."""
        sums = {name: info[name] for name in self.subject.sums}
        if sums and target.has_offset:
            sums[OFFSET] = target.offset_column().expand(self.num_chains, 1)
        return [self._output(name, value) for name, value in sums.items()]

    def repeat(self, num: int, body: Callable[..., Any], carry: Any) -> Any:
        """See `lamina.samplers.loops.repeat`."""
        return body(*carry) if num == 1 else self._loop("repeat", num, body, carry)

    def while_any(self, body: Callable[..., Any], carry: Any) -> Any:
        """See `lamina.samplers.loops.while_any`."""
        return self._loop("while", 0, lambda *now: loops.select(now[0], body(*now), now), carry)

    def _loop(self, kind: Literal["repeat", "while", "steps"], count: int, body: Callable[..., Any], carry: Any) -> Any:
        tensors = _flatten(carry)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        kinds = [KINDS[tensor.dtype] for tensor in tensors]
        sizes = [tuple(collapsed(np.empty(shape, dtype=object)).shape) for shape in shapes]

        def pack(values: Sequence[Operand]) -> Any:
            made, first = [], 0
            for tensor, shape, size in zip(tensors, shapes, sizes, strict=True):
                array = object_array(values[first : first + math.prod(size)], size)
                made.append(Symbolic(_read_only(np.broadcast_to(array, shape)), tensor.dtype))
                first += math.prod(size)
            return _like(carry, iter(made))

        def unpack(structure: Any) -> list[Operand]:
            values: list[Operand] = []
            for tensor, like, kind, shape in zip(_flatten(structure), tensors, kinds, shapes, strict=True):
                if tensor.dtype != like.dtype:
                    raise NotTraceableError(f"a loop that turns {like.dtype} into {tensor.dtype}")
                values += collapsed(np.broadcast_to(self.tracer.array(tensor, kind), shape)).ravel().tolist()
            return values

        per_value = [
            (kind, max(filter(is_long, shape), default=0))
            for kind, shape, size in zip(kinds, shapes, sizes, strict=True)
            for _ in range(math.prod(size))
        ]
        num_going = math.prod(sizes[0]) // self.num_chains if kind == "while" else 0
        results = self.program.loop(
            kind, count, unpack(carry), per_value, lambda carried: unpack(body(*pack(carried))), num_going
        )
        return pack(results)

    def _params(self) -> Any:
        params = self.subject.params
        fields = {name: self._param(name, value) for name, value in params._asdict().items()}
        return type(params)(**fields)

    def _param(self, name: str, value: Any) -> Any:
        """Parameters are read when the program runs, save integers, and numbers at which something drops out."""
        if not isinstance(value, Tensor):
            return value
        if is_per_chain(name, value):
            return self._input(f"params.{name}", value)
        if drops_out(name, value):
            return self.tracer.tensor(float(value), value.dtype)
        kind = self.tracer.kind(value.dtype)
        if value.ndim == 2 and all(map(is_long, value.shape)):
            matrix = self.program.leaf("matrix", name, False, *value.shape, kind=kind, is_uniform=True)
            return Symbolic(np.broadcast_to(as_array(matrix), tuple(value.shape)), value.dtype)
        leaves = entries(
            tuple(value.shape),
            lambda place, axis: self.program.leaf("param", name, *place, kind=kind, is_uniform=True, axis=axis),
        )
        return Symbolic(_read_only(leaves), value.dtype)

    def _input(self, name: str, value: Tensor) -> Symbolic:
        """The rows of a column, a leaf for every number of every chain."""
        column = Column.of(name, value)
        self.inputs.append(column)
        kind = self.tracer.kind(value.dtype)
        return self._rows(
            range(self.num_chains),
            column.shape,
            value.dtype,
            lambda chain, place, axis: self.program.leaf("input", name, chain, *place, kind=kind, axis=axis),
        )

    def _rows(
        self,
        chains: Sequence[int | None],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        leaf: Callable[[int | None, Place, int], Value],
    ) -> Symbolic:
        """A tensor with a row of leaves for each chain."""
        rows = [entries(shape, lambda place, axis, chain=chain: leaf(chain, place, axis)) for chain in chains]  # type: ignore[misc]
        return Symbolic(_read_only(np.stack(rows)), dtype)

    def _noise(self) -> dict[str, Any]:
        dim = self.subject.matrix.shape[1]
        return {
            name: TracedStream(self, name, site) if site.is_indexed else self._filled(name, site, site.columns(dim))
            for name, site in self.subject.kernel.sites.items()
        }

    def _filled(self, name: str, site: Site, width: int) -> Symbolic:
        dtype = site_dtype(site, self.subject.matrix.dtype)
        return self._rows(
            [None] if site.is_shared else range(self.num_chains),
            (width,),
            dtype,
            lambda chain, place, axis: self.program.leaf(
                site.kind, name, chain, *place, kind=KINDS[dtype], is_finite=True, in_step=True, axis=axis
            ),
        )

    def _output(self, name: str, value: Tensor, offset: Tensor | None = None) -> tuple[Column, list[Operand]]:
        if name in ENERGY_FIELDS and offset is not None:
            value = value + offset.to(value.dtype)
        column = Column.of(name, value)
        return column, collapsed(self.tracer.array(value, KINDS[value.dtype])[0]).ravel().tolist()


class TracedStream:
    """Indexed noise while tracing; see `lamina.samplers.noise.Stream`."""

    def __init__(self, recording: _Recording, name: str, site: Site) -> None:
        self._recording, self._name, self._site = recording, name, site

    def at(self, k: Tensor) -> Symbolic:
        """Noise number k, a column (C, 1), of every chain."""
        if self._site.kind != "uniform":
            raise NotTraceableError("indexed noise that is not uniform")
        recording, program = self._recording, self._recording.program
        dtype = site_dtype(self._site, recording.subject.matrix.dtype)
        step = program.leaf("step", kind="int", in_step=True)
        index = recording.tracer.array(k, "int")
        width = self._site.columns(recording.subject.matrix.shape[1])
        values = [
            program.value("uniform_at", KINDS[dtype], step, index[chain, 0], self._name, i)
            for chain in range(recording.num_chains)
            for i in range(width)
        ]
        return recording.tracer.tensor(object_array(values, (recording.num_chains, width)), dtype)


class _TracedTarget(Target):
    """A target whose energies lack their additive constant: what all chains share, adds nothing but rounding errors."""

    _tracer: Tracer
    _offset: list[Operand]

    @classmethod
    def of(cls, target: Target, tracer: Tracer, read: Callable[[str, Tensor], Symbolic]) -> _TracedTarget:
        """The target for symbolic chains; context and temperatures are read by name."""
        traced = cls.like(target.with_rows(read))
        traced._tracer, traced._offset = tracer, [0.0]
        return traced

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`; the program forgets where x came from, so that energies round the same wherever they stand."""
        return super().__call__(self._opaque(x))

    def energy(self, x: Tensor) -> Tensor:
        """See `Target`."""
        return super().energy(self._opaque(x))

    @property
    def has_offset(self) -> bool:
        """Whether the energies lack anything."""
        return isinstance(self._offset[0], Value) or self._offset[0] != 0

    def offset_column(self) -> Tensor:
        """What the energies lack, over the temperature: 0-d, or a column."""
        offset = self._tracer.tensor(self._offset[0], torch.float64)
        column: Tensor = offset * self.inverse_temperature
        return column

    def _opaque(self, x: Tensor) -> Symbolic:
        kind = KINDS[x.dtype]
        values = self._tracer.array(x, kind)
        copied = [
            self._tracer.program.opaque(kind, value) if isinstance(value, Value) else value
            for value in collapsed(values).ravel()
        ]
        array = np.broadcast_to(object_array(copied, collapsed(values).shape), values.shape)
        return Symbolic(_read_only(array), x.dtype)

    def _check(self, value: Tensor, x: Tensor) -> None:
        """See `Target`; and take the constant out."""
        super()._check(value, x)
        if not isinstance(value, Symbolic):
            raise NotTraceableError("an energy that does not depend on the position")
        demands, self._tracer.demands = self._tracer.demands, []
        numbers = value.numbers.copy()  # the energy's own may be a view of the position
        for chain in range(len(numbers)):
            numbers[chain], self._offset[0] = split_off(self._tracer.program, numbers[chain])
            for demand in demands:
                mine = demand[chain] if demand.ndim and len(demand) == len(numbers) else demand
                numbers[chain] = self._demand(collapsed(mine).ravel().tolist(), numbers[chain], KINDS[value.dtype])
        value.numbers = numbers

    def _demand(self, conditions: list[Operand], value: Operand, kind: Kind) -> Operand:
        """An energy, or NaN for a chain that breaks what was demanded of it."""
        program = self._tracer.program
        for_all = [program.over("and", "bool", [one], one.axis if isinstance(one, Value) else 0) for one in conditions]
        return program.op("where", kind, program.tree("and", "bool", [True, *for_all]), value, math.nan)


def _max_in_matrices(position: Tensor) -> int:
    """See `Tracer`; for chains (C, D) where they stand."""
    return _MAX_IN_MATRICES if position.device.type == "cpu" else max(_FEW_IN_MATRICES, _FEW_PRODUCTS // len(position))


def drops_out(name: str, value: Tensor) -> bool:
    """Whether a parameter has a value at which part of a kernel drops out: no jitter, no inverse mass."""
    return value.ndim == 0 and (float(value) == 0.0 or (name == "factor" and float(value) == 1.0))


def site_dtype(site: Site, dtype: torch.dtype) -> torch.dtype:
    """Normals come in the position's dtype, uniforms in float64."""
    return dtype if site.kind == "normal" else torch.float64


def _read_only(array: Array) -> Array:
    """Guards inputs and what loops carry against writes in place."""
    array = as_array(array)
    array.flags.writeable = False
    return array


def _flatten(structure: Any) -> list[Tensor]:
    """The tensors of a NamedTuple or tuple, nested or not."""
    if isinstance(structure, Tensor):
        return [structure]
    return [tensor for part in structure for tensor in _flatten(part)]


def _like(structure: Any, tensors: Any) -> Any:
    """The same structure around other tensors."""
    if isinstance(structure, Tensor):
        return next(tensors)
    parts = [_like(part, tensors) for part in structure]
    return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
