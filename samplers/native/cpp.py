"""Programs as C++: one function that moves a block of chains, a lane each, through all steps of a run.

Values are printed by `expressions`, blocks and loops by `blocks`, the noise by `noise`; what the function reads when it
runs is in `tables`, and what it calls in `runtime.hpp`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

import torch

from .axes import Storage, axis_of
from .blocks import Blocks, indented
from .expressions import Expressions
from .noise import print_noise
from .program import OTHER_PLACES, Loop, Operand, TooLargeError, Value, live_values, within
from .shared import Shared, release
from .symbolic import KINDS
from .tables import MEMORY, TYPES, Tables
from .trace import Output, Trace

MAX_VALUES = 4000
"""Values of a program beyond which a compiler takes tens of seconds, and whole tensors are as fast."""

_FEW_VALUES = 110
"""Values in a block beyond which two of each cost more in memory traffic than they hide."""

_SHARE, _HEAVY_SHARE = 256, 16
"""Chains that are worth a thread; those of a program that multiplies by matrices, a block of which takes long."""

_SHORT_BLOCKS = (8, 16)
"""Lanes, from the least that `runtime.hpp` has; blocks of 32 are the longest, and usual."""


class Printed(NamedTuple):
    """A program as text.

    Attributes:
        text: Its function `run`, in terms of what `runtime.hpp` and `scalar.hpp` define.
        lanes: Chains in a block on a processor, in C++; fewer where there are not that many, see `source`.
        tables: What it reads besides the chains.
        share: Chains that are worth a thread of a processor, whole blocks of them.
    """

    text: str
    lanes: str
    tables: Tables
    share: int

    def source(self, num_chains: int) -> str:
        """C++ for a processor with vectors, complete; for few chains in a block that is no longer than it must be."""
        short = next((lanes for lanes in _SHORT_BLOCKS if num_chains <= lanes), None)
        lanes = self.lanes if short is None else f"({self.lanes} < {short} ? {self.lanes} : {short})"
        alone = "#define ALONE 1\n" if num_chains == 1 else ""
        return f"#define LANES {lanes}\n{alone}{runtime('runtime.hpp')}\n{self.text}"


@cache
def runtime(name: str) -> str:
    """What programs call, `runtime.hpp` or `scalar.hpp`."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class MixedChainsError(Exception):
    """What happens to one chain depends on another."""


def print_cpp(trace: Trace, dtype: torch.dtype, dim: int) -> Printed:
    """Print a program.

    Args:
        trace: The program.
        dtype: Of the positions: a vector of the machine is filled with these.
        dim: D, which normal sites are as wide as.
    """
    return _Printer(trace, dtype, dim).print()


class _Sum(NamedTuple):
    """Something that is added up over steps, in float64 and in their order, so to the same bits in one run and in two.

    Attributes:
        name: Of what has been added up in this call.
        place: Where the total is kept.
        value: What is added.
    """

    name: str
    place: str
    value: Operand

    @property
    def is_same(self) -> bool:
        """Whether it is the same in all steps."""
        return not isinstance(self.value, Value) or self.value.is_uniform

    @property
    def is_counted(self) -> bool:
        """Whether truths are counted, which integers do faster."""
        return isinstance(self.value, Value) and self.value.kind == "bool"


class _Printer:
    def __init__(self, trace: Trace, dtype: torch.dtype, dim: int) -> None:
        self.trace, self.dtype, self.dim = trace, dtype, dim
        self.live = live_values(trace.written)
        if len(self.live) > MAX_VALUES:
            raise TooLargeError(MAX_VALUES)
        release(trace.program.root, self.live)
        self.live = live_values(trace.written)
        shared = Shared.of(trace.program.root, self.live, trace.written)
        storage = Storage.of(trace.program.root, self.live, trace.written)
        self.told = self._only_told()
        self.expressions = Expressions(self.live, storage, shared, trace.sites, dtype.itemsize)
        self.blocks = Blocks(self.expressions, self.told)
        first = len(trace.state) + len(trace.moves)
        self.sums = [
            _Sum(f"sum{number}_{i}", f"((double*)out[{first + number}] + {i} * chains + o)", value)
            for number, (_, values) in enumerate(trace.sums)
            for i, value in enumerate(values)
        ]

    def _only_told(self) -> set[Value]:
        """Values of a step that serve nothing but what is stored with a draw: they wait until one is."""
        trace, items = self.trace, self.trace.steps.block.items
        kept = [value for _, values in (*trace.state, *trace.moves, *trace.sums) for value in values]
        kept += [value for item in items if isinstance(item, Loop) for value in (*item.before, *item.after)]
        told = (self.live - live_values(kept)) & {item for item in items if isinstance(item, Value)}
        return set() if any(axis_of(value) or value.op in OTHER_PLACES for value in told) else told

    def print(self) -> Printed:
        body = list(self._body())
        lines = [
            _SIGNATURE,
            *indented(self.expressions.tables.constants()),
            _BLOCKS,
            *indented(body, 2),
            "    }",
            "}",
            "",
        ]
        lanes = f"({self._vectors()} * WIDEST / {self.dtype.itemsize})"
        share = _HEAVY_SHARE if any(value.op == "product" for value in self.live) else _SHARE
        return Printed("\n".join(lines), lanes, self.expressions.tables, share)

    def _vectors(self) -> int:
        """Vectors of the machine in a block of chains: two hide each other's latency while they fit the registers."""
        values = max(Counter(value.block for value in self.live).values())
        return 2 if values <= _FEW_VALUES and not self.expressions.storage.stretches else 1

    def _body(self) -> Iterator[str]:
        trace = self.trace
        yield from self._inputs()
        for item in self.expressions.storage.items[trace.program.root]:
            yield from self._steps() if item is trace.steps else self.blocks.item(item)
        for number, output in enumerate([*trace.state, *trace.moves]):
            yield from self._store(output, f"out[{number}]", "")
        for total in self.sums:
            yield f"store({total.place}, {self._total(total)}, n);"

    def _inputs(self) -> Iterator[str]:
        columns = {column.name: number for number, column in enumerate(self.trace.inputs)}
        for value, number in self.expressions.numbers.items():
            if value.op == "input":
                name, chain, offset, stride = value.args
                if chain != 0:
                    raise MixedChainsError
                kind = TYPES[value.kind]
                source = f"(const {MEMORY[value.kind]}*)in[{columns[str(name)]}]"
                if value.axis:
                    yield self.expressions.new_array(value, value.axis)
                    load = f"load<{kind}>({source} + ({offset} + a * {stride}) * chains + o, n)"
                    yield f"for (int64_t a = 0; a < {value.axis}; ++a) {self.expressions.arrays[value]}[a] = {load};"
                else:
                    yield f"const {kind} v{number} = load<{kind}>({source} + {offset} * chains + o, n);"

    def _steps(self) -> Iterator[str]:
        loop, added = self.trace.steps, [one for one in self.sums if not one.is_same]
        carried = self.blocks.carried(loop)
        yield from self.blocks.begin(loop, carried)
        for one in added:
            yield f"I {one.name} = full<I>(0);" if one.is_counted else f"D {one.name} = load<D>({one.place}, n);"
        yield "for (int64_t step = first_step, draw = 0, left = thinning; step < last_step; ++step) {"
        yield from indented(print_noise(self.trace.sites, self.dtype, self.dim, self.expressions))
        yield from indented(self.blocks.block(loop.block))
        for one in added:
            term = f"to_i({self.expressions.name(one.value, 'bool')})" if one.is_counted else self._as_double(one.value)
            yield f"    {one.name} = {one.name} + {term};"
        if self.trace.draws:
            yield "    if (--left == 0) {"
            yield "        left = thinning;"
            for number, output in enumerate(self.trace.draws):
                yield from indented(self._draw(number, output), 2)
            yield "        ++draw;"
            yield "    }"
        yield from indented(self.blocks.assign(loop, carried))
        yield "}"

    def _total(self, total: _Sum) -> str:
        before = f"load<D>({total.place}, n)"
        if total.is_same:
            return f"{before} + {self._as_double(total.value)} * full<D>((double)(last_step - first_step))"
        return f"{before} + to_d({total.name})" if total.is_counted else total.name

    def _as_double(self, operand: Operand) -> str:
        name = self.expressions.name
        return f"to_d({name(operand, operand.kind)})" if isinstance(operand, Value) else name(operand, "f64")

    def _draw(self, number: int, output: Output) -> Iterator[str]:
        column, values = output
        told = within(self.trace.steps, values) & self.told
        yield f"if (draws[{number}]) {{"
        yield from indented(self.expressions.definition(value) for value in self.expressions.numbers if value in told)
        yield from indented(self._store(output, f"draws[{number}]", f"draw * {column.width} + "))
        yield "}"

    def _store(self, output: Output, target: str, draw: str) -> Iterator[str]:
        """Write a column; `draw` says which row of several."""
        column, values = output
        kind = KINDS[column.dtype]
        for value, ((offset, stride), axis) in zip(values, column.places, strict=True):
            loop = f"for (int64_t a = 0; a < {axis}; ++a) " if axis else ""
            place = f"({draw}{offset}{f' + a * {stride}' if axis else ''}) * chains + o"
            yield f"{loop}store(({MEMORY[kind]}*){target} + {place}, {self.expressions.name(value, kind)}, n);"


_SIGNATURE = """
// Moves the chains from `begin` to `end` from first_step to last_step.
//
// in, out, draws: columns, one number of all `chains` after the other; sums in `out` are added to.
// draws: stored every `thinning` steps, draw after draw; null where a column is not wanted.
// keys: two words for each site of noise.
ENTRY void run(
    const void* const* in, void* const* out, void* const* draws, const float* floats, const double* doubles,
    const int64_t* counts, const void* const* arrays, const uint32_t* keys, int64_t chains, int64_t begin,
    int64_t end, int64_t first_chain, int64_t first_step, int64_t last_step, int64_t thinning) {"""

_BLOCKS = """
    for (int64_t o = begin; o < end; o += LANES) {
        const int64_t n = end - o < LANES ? end - o : LANES;
        const U chain = as_words(lane_numbers(n)) + full<U>((uint32_t)(first_chain + o));"""
