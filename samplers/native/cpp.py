"""Programs as C++: one function that moves a block of chains, a lane each, through all steps of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources

import torch

from ..errors import NotTraceableError
from ..noise import Site, pairs_of_words
from .axes import Storage, Stretch, axis_of
from .program import FLOATS, REDUCTIONS, Block, Kind, Loop, Operand, TooLargeError, Value, live_values, within
from .symbolic import KINDS
from .trace import Output, Trace, site_dtype

TYPES: dict[Kind, str] = {"f32": "F", "f64": "D", "int": "I", "bool": "B"}
_MEMORY: dict[Kind, str] = {"f32": "float", "f64": "double", "int": "int32_t", "bool": "uint8_t"}
_BYTES: dict[Kind, int] = {"f32": 4, "f64": 8, "int": 4, "bool": 8}  # at most
_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "&",
    "or": "|",
    "shift_left": "<<",
    "shift_right": ">>",
}
_CALLS = {
    "fma": "fma",
    "where": "select",
    "max": "maximum",
    "min": "minimum",
    "abs": "absolute",
    "sqrt": "square_root",
    "is_finite": "is_finite",
    "pow": "pow_",
    **{name: f"{name}_" for name in ("exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "erf")},
    **{name: f"{name}_" for name in ("floor", "ceil", "round", "trunc")},
}
_CASTS: dict[Kind, str] = {"f32": "to_f", "f64": "to_d", "int": "to_i", "bool": "to_b"}
_PLAIN = {0.0: "0", math.inf: "__builtin_inf()", -math.inf: "-__builtin_inf()"}
"""Numbers that are part of a program; all others are read when it runs, so that changing them compiles nothing."""


@dataclass
class Printed:
    """A program as source text.

    Attributes:
        source: C++, complete.
        floats: What the table of float32 numbers holds: ("literal", number), ("captured", tensor, i) or
            ("param", name, i).
        doubles: Likewise for float64.
        counts: How often the loops of fixed length run.
        arrays: What lies along a long axis: ("captured", tensor) or ("param", name), whole.
    """

    source: str = ""
    floats: list[tuple[object, ...]] = field(default_factory=list)
    doubles: list[tuple[object, ...]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    arrays: list[tuple[object, ...]] = field(default_factory=list)


def print_cpp(trace: Trace, dtype: torch.dtype, dim: int) -> Printed:
    """Print a program.

    Args:
        trace: The program.
        dtype: Of the positions: a vector of the machine is filled with these.
        dim: D, which normal sites are as wide as.
    """
    return _Printer(trace, dtype, dim).print()


MAX_VALUES = 4000
"""Values of a program beyond which a compiler takes tens of seconds, and whole tensors are as fast."""

_STACK_BYTES = 2**20
"""Of all that lies along long axes; half of what glibc gives to threads where `ulimit -s` sets no limit."""

_WIDEST_BYTES = 64  # of a vector, on any machine

_FEW_VALUES = 110
"""Values in a block beyond which two of each cost more in memory traffic than they hide."""


class _Printer:
    def __init__(self, trace: Trace, dtype: torch.dtype, dim: int) -> None:
        self.trace, self.dtype, self.dim = trace, dtype, dim
        outputs = [*trace.state, *trace.moves, *trace.sums, *trace.draws]
        self.live = live_values(value for _, values in outputs for value in values)
        if len(self.live) > MAX_VALUES:
            raise TooLargeError(MAX_VALUES)
        self.told = self._only_told()
        self.prompt = self.live - self.told
        # Values are numbered anew: what is not needed has no say in the text.
        self.numbers = {value: i for i, value in enumerate(sorted(self.live, key=lambda value: value.number))}
        self.printed = Printed()
        self.tables: dict[object, str] = {}
        self.storage = Storage.of(trace.program.root, self.live, (v for _, values in outputs for v in values))
        self.stretch: Stretch | None = None
        self.arrays: dict[Value, str] = {}
        self.stack_bytes = 0

    def _only_told(self) -> set[Value]:
        """Values of a step that serve nothing but what is stored with a draw: they wait until one is."""
        trace, items = self.trace, self.trace.steps.block.items
        kept = [value for _, values in (*trace.state, *trace.moves, *trace.sums) for value in values]
        kept += [value for item in items if isinstance(item, Loop) for value in (*item.before, *item.after)]
        told = (self.live - live_values(kept)) & {item for item in items if isinstance(item, Value)}
        return set() if any(map(axis_of, told)) else told

    def print(self) -> Printed:
        body = list(self._body())
        self.printed.source = "\n".join(
            [
                f"#define LANES ({self._vectors()} * WIDEST / {self.dtype.itemsize})",
                _runtime(),
                _SIGNATURE,
                *(f"    {line}" for line in self._constants()),
                _BLOCKS,
                *(f"        {line}" for line in body),
                "    }",
                "}",
                "",
            ]
        )
        return self.printed

    def _body(self) -> Iterator[str]:
        trace = self.trace
        yield from self._inputs()
        yield from self._block(trace.program.root)
        for number, output in enumerate([*trace.state, *trace.moves]):
            yield from self._store(output, f"out[{number}]", "")
        for name, place, value in self._sums():
            yield f"store({place}, {self._total(name, place, value)}, n);"

    def _sums(self) -> Iterator[tuple[str, str, Operand]]:
        """What is added up: a name, where the total is kept, and the value."""
        first = len(self.trace.state) + len(self.trace.moves)
        for number, (_, values) in enumerate(self.trace.sums):
            for i, value in enumerate(values):
                yield f"sum{number}_{i}", f"((double*)out[{first + number}] + {i} * chains + o)", value

    def _total(self, name: str, place: str, value: Operand) -> str:
        """The sum over all steps of this and earlier runs, in float64; added up in their order, so to the same bits."""
        if _is_same(value):
            return f"load<D>({place}, n) + {self._as_double(value)} * full<D>((double)(last_step - first_step))"
        return f"load<D>({place}, n) + to_d({name})" if _is_counted(value) else name

    def _as_double(self, value: Operand) -> str:
        return f"to_d({self._name(value, value.kind)})" if isinstance(value, Value) else self._name(value, "f64")

    def _vectors(self) -> int:
        """Vectors of the machine in a block of chains: two hide each other's latency while they fit the registers."""
        blocks = Counter(value.block for value in self.live)
        return 2 if max(blocks.values()) <= _FEW_VALUES and not self.storage.stretches else 1

    def _inputs(self) -> Iterator[str]:
        columns = {column.name: number for number, column in enumerate(self.trace.inputs)}
        for value in self.numbers:
            if value.op == "input":
                name, chain, offset, stride = value.args
                if chain != 0:
                    raise MixedChainsError
                kind = TYPES[value.kind]
                source = f"(const {_MEMORY[value.kind]}*)in[{columns[str(name)]}]"
                if value.axis:
                    yield self._array(value, value.axis)
                    load = f"load<{kind}>({source} + ({offset} + a * {stride}) * chains + o, n)"
                    yield f"for (int64_t a = 0; a < {value.axis}; ++a) {self.arrays[value]}[a] = {load};"
                else:
                    yield f"const {kind} v{self.numbers[value]} = load<{kind}>({source} + {offset} * chains + o, n);"

    def _array(self, value: Value, length: int) -> str:
        """Room for the entries of a value along a long axis."""
        self._reserve(value.kind, length)
        self.arrays[value] = f"a{self.numbers[value]}"
        return f"{TYPES[value.kind]} {self.arrays[value]}[{length}];"

    def _reserve(self, kind: Kind, length: int) -> None:
        """Take some of the stack, which ends a process that takes too much."""
        self.stack_bytes += length * _WIDEST_BYTES * _BYTES[kind] // self.dtype.itemsize
        if self.stack_bytes > _STACK_BYTES:
            raise NotTraceableError("longer axes than the stack of a thread holds, which calls for whole tensors")

    def _store(self, output: Output, target: str, draw: str) -> Iterator[str]:
        """Write a column; `draw` says which row of several."""
        column, values = output
        kind = KINDS[column.dtype]
        for value, ((offset, stride), axis) in zip(values, column.places, strict=True):
            loop = f"for (int64_t a = 0; a < {axis}; ++a) " if axis else ""
            place = f"({draw}{offset}{f' + a * {stride}' if axis else ''}) * chains + o"
            yield f"{loop}store(({_MEMORY[kind]}*){target} + {place}, {self._name(value, kind)}, n);"

    def _constants(self) -> Iterator[str]:
        """Numbers that all chains share, from their tables; known once the body is printed."""
        for table, kind, entries in (("floats", "F", self.printed.floats), ("doubles", "D", self.printed.doubles)):
            yield from (f"const {kind} {table}_{i} = full<{kind}>({table}[{i}]);" for i in range(len(entries)))

    def _block(self, block: Block) -> Iterator[str]:
        for item in self.storage.items[block]:
            if isinstance(item, Loop):
                yield from self._steps(item) if item is self.trace.steps else self._loop(item)
            elif isinstance(item, Stretch):
                yield from self._along(item)
            else:
                yield from self._values([item])

    def _values(self, items: Iterable[Value | Loop], wanted: set[Value] | None = None) -> Iterator[str]:
        for item in items:
            if item in (self.prompt if wanted is None else wanted):
                assert isinstance(item, Value)
                yield f"const {TYPES[item.kind]} v{self.numbers[item]} = {self._expression(item)};"

    def _along(self, stretch: Stretch) -> Iterator[str]:
        """A loop over a long axis."""
        for value in stretch.values:
            if value.op in REDUCTIONS:
                yield f"{TYPES[value.kind]} v{self.numbers[value]} = {self._literal(_NEUTRAL[value.op], value.kind)};"
            elif value in self.storage.stored and value not in self.arrays:
                yield self._array(value, stretch.axis)
        self.stretch = stretch
        yield f"for (int64_t a = 0; a < {stretch.axis}; ++a) {{"
        for value in stretch.values:
            if value.op in REDUCTIONS:
                yield f"    {self._reduction(value)}"
            else:
                yield from (f"    {line}" for line in self._values([value]))
                if value in self.storage.stored:
                    yield f"    {self.arrays[value]}[a] = v{self.numbers[value]};"
        yield "}"
        self.stretch = None
        yield from self._values(stretch.waiting)

    def _reduction(self, value: Value) -> str:
        (entry,) = value.operands
        name, op = f"v{self.numbers[value]}", value.op.removeprefix("over_")
        if op == "add" and entry.op == "mul" and entry.kind in FLOATS:
            factors = ", ".join(self._name(arg, entry.kind) for arg in entry.args)  # type: ignore[arg-type]
            return f"{name} = fma({factors}, {name});"
        term = self._name(entry, entry.kind)
        return f"{name} = {name} {_INFIX[op]} {term};" if op in _INFIX else f"{name} = {_CALLS[op]}({name}, {term});"

    def _carried(self, loop: Loop) -> list[int]:
        """Numbers of the carried values that are needed."""
        return [i for i, value in enumerate(loop.carried) if value in self.live or loop.results[i] in self.live]

    def _loop(self, loop: Loop) -> Iterator[str]:
        carried = self._carried(loop)
        if not carried:
            return
        yield from self._begin(loop, carried)
        if loop.kind == "repeat":
            number = len(self.printed.counts)
            self.printed.counts.append(loop.count)
            yield f"for (int64_t i{number} = 0; i{number} < counts[{number}]; ++i{number}) {{"
        else:
            going = " | ".join(self._name(value, "bool") for value in loop.carried[: loop.num_going])
            yield f"while (any({going})) {{"
        yield from (f"    {line}" for line in self._round(loop, carried))
        yield "}"

    def _round(self, loop: Loop, carried: list[int]) -> Iterator[str]:
        """The body of a loop. What no later round reads, such as the energy on a trajectory, waits for the last one."""
        read = within(loop, (loop.after[i] for i in carried))
        each = [i for i in carried if loop.carried[i] in read]
        is_plain = all(isinstance(item, Value) and not axis_of(item) for item in loop.block.items)
        if loop.kind != "repeat" or not is_plain or len(each) == len(carried):
            yield from self._block(loop.block)
            yield from self._assign(loop, carried)
            return
        needed = within(loop, (loop.after[i] for i in each))
        yield from self._values(item for item in loop.block.items if item in needed)
        number = len(self.printed.counts) - 1
        yield f"if (i{number} + 1 == counts[{number}]) {{"
        last = self._values(item for item in loop.block.items if item not in needed)
        yield from (f"    {line}" for line in last)
        yield from (f"    {line}" for line in self._assign(loop, [i for i in carried if i not in each]))
        yield "}"
        yield from self._assign(loop, each)

    def _steps(self, loop: Loop) -> Iterator[str]:
        carried = self._carried(loop)
        added = [(name, place, value) for name, place, value in self._sums() if not _is_same(value)]
        yield from self._begin(loop, carried)
        for name, place, value in added:
            yield f"I {name} = full<I>(0);" if _is_counted(value) else f"D {name} = load<D>({place}, n);"
        yield "for (int64_t step = first_step, draw = 0, left = thinning; step < last_step; ++step) {"
        yield from (f"    {line}" for line in self._noise())
        yield from (f"    {line}" for line in self._block(loop.block))
        for name, _, value in added:
            term = f"to_i({self._name(value, 'bool')})" if _is_counted(value) else self._as_double(value)
            yield f"    {name} = {name} + {term};"
        yield "    if (--left == 0) {"
        yield "        left = thinning;"
        for number, output in enumerate(self.trace.draws):
            yield from (f"        {line}" for line in self._draw(number, output))
        yield "        ++draw;"
        yield "    }"
        yield from (f"    {line}" for line in self._assign(loop, carried))
        yield "}"

    def _draw(self, number: int, output: Output) -> Iterator[str]:
        yield f"if (draws[{number}]) {{"
        told = live_values(output[1]) & self.told
        in_order: list[Value] = sorted(told, key=self.numbers.__getitem__)
        yield from (f"    {line}" for line in self._values(in_order, told))
        width = output[0].width
        yield from (f"    {line}" for line in self._store(output, f"draws[{number}]", f"draw * {width} + "))
        yield "}"

    def _begin(self, loop: Loop, carried: Sequence[int]) -> Iterator[str]:
        for i in carried:
            value, before = loop.carried[i], self._name(loop.before[i], loop.carried[i].kind)
            kind, number = TYPES[value.kind], self.numbers[value]
            if not value.axis:
                yield f"{kind} v{number} = {before};"
                continue
            # Two arrays take turns: one holds what is carried, the other what becomes of it.
            self.arrays[value] = f"a{number}"
            self._reserve(value.kind, 2 * value.axis)
            yield f"{kind} both{number}[2][{value.axis}];"
            yield f"{kind} *a{number} = both{number}[0], *next{number} = both{number}[1];"
            yield f"for (int64_t a = 0; a < {value.axis}; ++a) a{number}[a] = {before};"
            after = loop.after[i]
            if isinstance(after, Value) and after.block is loop.block and after in self.storage.stored:
                self.arrays.setdefault(after, f"next{number}")

    def _assign(self, loop: Loop, carried: Sequence[int]) -> Iterator[str]:
        """All at once: what is assigned may itself be carried."""
        changed = [i for i in carried if loop.after[i] is not loop.carried[i]]
        for i in changed:
            value, after = loop.carried[i], self._name(loop.after[i], loop.carried[i].kind)
            number = self.numbers[value]
            if not value.axis:
                yield f"const {TYPES[value.kind]} next{number} = {after};"
            elif after != f"next{number}[a]":
                yield f"for (int64_t a = 0; a < {value.axis}; ++a) next{number}[a] = {after};"
        for i in changed:
            number = self.numbers[loop.carried[i]]
            if loop.carried[i].axis:
                yield f"swap(a{number}, next{number});"
            else:
                yield f"v{number} = next{number};"

    def _name(self, operand: Operand, kind: Kind) -> str:
        if not isinstance(operand, Value):
            return self._literal(operand, kind)
        if operand.op == "result":
            loop, i = operand.args
            assert isinstance(loop, Loop)
            assert isinstance(i, int)
            operand = loop.carried[i]
        if operand.op in ("captured", "param"):
            what, offset, stride = operand.args
            if operand.axis:
                return self._entry(operand.kind, (operand.op, what), f"{offset} + a * {stride}")
            return self._table(operand.kind, (operand.op, what, offset))
        is_stored = operand.axis and (self.stretch is None or self.storage.stretches.get(operand) is not self.stretch)
        return f"{self.arrays[operand]}[a]" if is_stored else f"v{self.numbers[operand]}"

    def _entry(self, kind: Kind, array: tuple[object, ...], place: str) -> str:
        """An entry of a whole array, along a long axis."""
        if array not in self.printed.arrays:
            self.printed.arrays.append(array)
        number = self.printed.arrays.index(array)
        return f"full<{TYPES[kind]}>(((const {_MEMORY[kind]}*)arrays[{number}])[{place}])"

    def _literal(self, number: float, kind: Kind) -> str:
        if kind == "bool":
            return f"full<B>({'true' if number else 'false'})"
        if kind == "int":
            return f"full<I>({int(min(max(number, -(2**31)), 2**31 - 1))})"  # reductions start from infinity
        if math.isnan(number):
            return f'full<{TYPES[kind]}>(__builtin_nan(""))'
        if number in _PLAIN:
            return f"full<{TYPES[kind]}>({_PLAIN[number]})"
        return self._table(kind, ("literal", float(number)))

    def _table(self, kind: Kind, entry: tuple[object, ...]) -> str:
        name, entries = ("floats", self.printed.floats) if kind == "f32" else ("doubles", self.printed.doubles)
        key = (name, entry)
        if key not in self.tables:
            self.tables[key] = f"{name}_{len(entries)}"
            entries.append(entry)
        return self.tables[key]

    def _expression(self, value: Value) -> str:
        op, args = value.op, value.args
        if op == "uniform_at":
            step, k, site, i = args
            key = list(self.trace.sites).index(site)  # type: ignore[arg-type]
            step, k = self._name(step, "int"), self._name(k, "int")  # type: ignore[arg-type]
            return f"uniform_at<{i}>(keys + {2 * key}, {step}, {k}, chain)"
        kinds = [arg.kind for arg in args if isinstance(arg, Value)]
        kind = kinds[-1] if kinds else value.kind  # literals take after the last operand
        names = [self._name(arg, "bool" if op == "where" and i == 0 else kind) for i, arg in enumerate(args)]  # type: ignore[arg-type]
        if op == "where":
            names[1:] = [self._name(arg, value.kind) for arg in args[1:]]  # type: ignore[arg-type]
        if op in _INFIX:
            return f"{names[0]} {_INFIX[op]} {names[1]}"
        if op in _CALLS:
            return f"{_CALLS[op]}({', '.join(names)})"
        match op:
            case "copy":
                return names[0]
            case "neg":
                return f"-{names[0]}"
            case "not":
                return f"~{names[0]}"
            case "cast":
                return f"{_CASTS[value.kind]}({names[0]})"
        raise AssertionError(f"no C++ for {op}")

    def _noise(self) -> Iterator[str]:
        """The noise of a step, two numbers for each evaluation of Threefry; only what is needed."""
        step = [value for value in self.live if value.op == "step"]
        if step:
            yield f"const I v{self.numbers[step[0]]} = full<I>((int32_t)step);"
        wanted = {(value.args[0], value.args[2]): value for value in self.live if value.op in ("normal", "uniform")}
        for number, (name, site) in enumerate(self.trace.sites.items()):
            pairs = pairs_of_words(site.columns(self.dim))
            kind = TYPES[KINDS[site_dtype(site, self.dtype)]]
            along = [value for value in wanted.values() if value.args[0] == name and value.axis]
            if along:
                yield from self._noise_along(along[0], number, site, pairs)
                continue
            for pair in range(pairs):
                two = [wanted.get((name, 2 * pair + i)) for i in (0, 1)]
                if two == [None, None]:
                    continue
                names = [f"v{self.numbers[value]}" if value else f"unused{number}_{pair}" for value in two]
                words = [f"word{number}_{pair}_{i}" for i in (0, 1)]
                counter = "full<U>(0)" if site.is_shared else "chain"
                yield f"U {words[0]} = {counter}, {words[1]} = full<U>((uint32_t)(step * {pairs} + {pair}));"
                yield f"threefry(keys[{2 * number}], keys[{2 * number + 1}], {words[0]}, {words[1]});"
                if site.kind == "normal":
                    yield f"{kind} {names[0]}, {names[1]};"
                    yield f"normals({words[0]}, {words[1]}, {names[0]}, {names[1]});"
                else:
                    yield from (f"const D {names[i]} = uniform({words[i]});" for i in (0, 1) if two[i] is not None)

    def _noise_along(self, value: Value, number: int, site: Site, pairs: int) -> Iterator[str]:
        """The noise of a site along a long axis."""
        yield self._array(value, 2 * pairs)
        name = self.arrays[value]
        yield f"for (int64_t pair = 0; pair < {pairs}; ++pair) {{"
        counter = "full<U>(0)" if site.is_shared else "chain"
        yield f"    U one = {counter}, other = full<U>((uint32_t)(step * {pairs} + pair));"
        yield f"    threefry(keys[{2 * number}], keys[{2 * number + 1}], one, other);"
        if site.kind == "normal":
            yield f"    normals(one, other, {name}[2 * pair], {name}[2 * pair + 1]);"
        else:
            yield f"    {name}[2 * pair] = uniform(one), {name}[2 * pair + 1] = uniform(other);"
        yield "}"


def _is_same(value: Operand) -> bool:
    """Whether a value is the same in all steps."""
    return not isinstance(value, Value) or value.is_uniform


def _is_counted(value: Operand) -> bool:
    """Whether a sum over steps counts truths, which integers do faster."""
    return isinstance(value, Value) and value.kind == "bool"


_NEUTRAL: dict[str, float] = {
    "over_add": 0.0,
    "over_mul": 1.0,
    "over_max": -math.inf,
    "over_min": math.inf,
    "over_and": True,
    "over_or": False,
}
"""What reductions start from."""


class MixedChainsError(Exception):
    """What happens to one chain depends on another."""


def _runtime() -> str:
    return resources.files(__package__).joinpath("runtime.hpp").read_text()


_SIGNATURE = """
namespace {

template <class T> INLINE void swap(T*& one, T*& other) {
    T* kept = one;
    one = other, other = kept;
}

INLINE U as_words(I x) { return load<U>((const uint32_t*)&x); }

// Number k of an indexed site: a key of its own for every step and index.
INLINE void words_at(const uint32_t* key, I step, I k, U chain, uint32_t pair, U& one, U& other) {
    U key_one = as_words(step), key_other = as_words(k);
    threefry(key[0], key[1], key_one, key_other);
    one = chain, other = full<U>(pair);
    threefry(key_one, key_other, one, other);
}
template <int i> INLINE D uniform_at(const uint32_t* key, I step, I k, U chain) {
    U one, other;
    words_at(key, step, k, chain, i / 2, one, other);
    return uniform(i % 2 ? other : one);
}

}  // namespace

// Moves the chains from `begin` to `end` from first_step to last_step.
//
// in, out, draws: columns, one number of all `chains` after the other; sums in `out` are added to.
// draws: stored every `thinning` steps, draw after draw; null where a column is not wanted.
// keys: two words for each site of noise.
extern "C" void run(
    const void* const* in, void* const* out, void* const* draws, const float* floats, const double* doubles,
    const int64_t* counts, const void* const* arrays, const uint32_t* keys, int64_t chains, int64_t begin,
    int64_t end, int64_t first_chain, int64_t first_step, int64_t last_step, int64_t thinning) {"""

_BLOCKS = """
    for (int64_t o = begin; o < end; o += LANES) {
        const int64_t n = end - o < LANES ? end - o : LANES;
        const U chain = as_words(lane_numbers()) + full<U>((uint32_t)(first_chain + o));"""
