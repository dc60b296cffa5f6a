"""Blocks of a program in C++: values in their order, loops with what they carry, and loops over long axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from .axes import Stretch, read_by
from .expressions import CALLS, INFIX, Expressions
from .program import FLOATS, OTHER_PLACES, REDUCTIONS, Block, Loop, Operand, Value, within
from .tables import TYPES

_NEUTRAL: dict[str, float] = {
    "over_add": 0.0,
    "over_mul": 1.0,
    "over_max": -math.inf,
    "over_min": math.inf,
    "over_and": True,
    "over_or": False,
}
"""What reductions start from."""

_TOGETHER = 6
"""Entries of a long axis in one round of its loop: they do not wait for each other, and share what they read."""

_COLUMNS, _TOGETHER_OF_COLUMNS = 8, 2
"""The same of products with a matrix, and of what is made of these.

Half a line of memory, as more would want more rows of it near the processor than have room. The rest is little beside
them, and would take long to compile.
"""

_FEW_VALUES = 400
"""For each entry, of which several are printed side by side."""


class Blocks:
    """Prints blocks.

    Args:
        expressions: Of the program.
        late: Values that wait, though their place in a block has come.
    """

    def __init__(self, expressions: Expressions, late: Collection[Value]) -> None:
        self._expressions, self._late = expressions, late
        self._numbers, self._storage, self._name = expressions.numbers, expressions.storage, expressions.name
        self._shared = expressions.shared
        self._in_place: set[Value] = set()

    def block(self, block: Block) -> Iterator[str]:
        """All of a block."""
        items = self._storage.items[block]
        guards = self._shared.guards(items)
        behind = {value for values in guards.values() for value in values}
        for item in items:
            if isinstance(item, Value) and item in guards:
                yield from self._guarded(item, guards[item])
            elif not isinstance(item, Value) or item not in behind:
                yield from self.item(item)

    def _guarded(self, guard: Value, behind: Iterable[Value]) -> Iterator[str]:
        """A conjunction with a truth that all chains share, and what is to be computed for it where that holds."""
        condition, other = sorted(guard.operands, key=lambda operand: operand not in self._shared.values)
        name = f"v{self._numbers[guard]}"
        yield f"B {name} = full<B>(false);"
        yield f"if ({self._expressions.shared_name(condition)}) {{"
        yield from indented(self._values(behind))
        yield f"    {name} = {self._name(other, 'bool')};"
        yield "}"

    def item(self, item: Value | Loop | Stretch) -> Iterator[str]:
        """A part of a block."""
        if isinstance(item, Loop):
            yield from self._loop(item)
        elif isinstance(item, Stretch):
            yield from self._room(item)
            yield from self._along(item)
        else:
            yield from self._values([item])

    def _values(self, values: Iterable[Value]) -> Iterator[str]:
        yield from (self._expressions.definition(value) for value in values if value not in self._late)

    # --- Loops -------------------------------------------------------------------------------------------------------

    def carried(self, loop: Loop) -> list[int]:
        """Numbers of the carried values that are needed."""
        return [
            i for i, pair in enumerate(zip(loop.carried, loop.results, strict=True)) if any(map(self._is_live, pair))
        ]

    def _is_live(self, value: Value) -> bool:
        return value in self._numbers

    def begin(self, loop: Loop, carried: Iterable[int]) -> Iterator[str]:
        """Variables for the carried values, as they are before a loop."""
        for i in carried:
            value, before = loop.carried[i], self._name(loop.before[i], loop.carried[i].kind)
            kind, number = TYPES[value.kind], self._numbers[value]
            if not value.axis:
                yield f"{kind} v{number} = {before};"
                continue
            after = self._entries_after(loop, i)
            if after and self._ends_reading(loop, i, after):
                self._in_place.add(value)
                yield self._expressions.new_array(value, value.axis)
                self._expressions.arrays[after] = f"a{number}"
            else:
                # Two arrays take turns: one holds what is carried, the other what becomes of it.
                self._expressions.arrays[value] = f"a{number}"
                self._expressions.reserve(value.kind, 2 * value.axis)
                yield f"{kind} both{number}[2][{value.axis}];"
                yield f"{kind} *a{number} = both{number}[0], *next{number} = both{number}[1];"
                if after:
                    self._expressions.arrays[after] = f"next{number}"
            yield f"for (int64_t a = 0; a < {value.axis}; ++a) a{number}[a] = {before};"

    def _entries_after(self, loop: Loop, i: int) -> Value | None:
        """What becomes of a carried value along a long axis, where its entries can go to an array of that value's."""
        after = loop.after[i]
        is_new = isinstance(after, Value) and after.block is loop.block and after not in self._expressions.arrays
        return after if is_new and after in self._storage.stored else None

    def _ends_reading(self, loop: Loop, i: int, after: Value) -> bool:
        """Whether nothing reads a carried value once the new one is there, which can then take its place by entries."""
        order: list[object] = []
        for item in self._storage.items[loop.block]:
            order += item.values if isinstance(item, Stretch) else [item]
            if after in order:
                break
        before = set(order[: order.index(after) + 1])
        users, value = self._shared.users, loop.carried[i]
        readers = users.get(value, set())
        home = self._storage.stretches.get
        if any(reader and reader.op in OTHER_PLACES and home(reader) is home(after) for reader in readers):
            return False
        later = {user for reader in readers if reader for user in users.get(reader, set()) if user}
        sums = {user for user in later if value in read_by(user)}
        return readers | sums <= before

    def assign(self, loop: Loop, carried: Iterable[int]) -> Iterator[str]:
        """What becomes of the carried values; all at once, as what is assigned may itself be carried."""
        places = self._expressions.places
        changed = [i for i in carried if loop.after[i] is not loop.carried[i] and loop.after[i] not in places]
        for i in changed:
            value, after = loop.carried[i], self._name(loop.after[i], loop.carried[i].kind)
            number = self._numbers[value]
            if not value.axis:
                yield f"const {TYPES[value.kind]} next{number} = {after};"
            elif after not in (f"a{number}[a]", f"next{number}[a]"):
                yield f"for (int64_t a = 0; a < {value.axis}; ++a) next{number}[a] = {after};"
        for i in changed:
            value = loop.carried[i]
            number = self._numbers[value]
            if value not in self._in_place:
                yield f"swap(a{number}, next{number});" if value.axis else f"v{number} = next{number};"

    def _loop(self, loop: Loop) -> Iterator[str]:
        carried = self.carried(loop)
        if not carried:
            return
        yield from self.begin(loop, carried)
        if loop.kind == "repeat":
            number = self._expressions.tables.new_count(loop.count)
            yield f"for (int64_t i{number} = 0; i{number} < counts[{number}]; ++i{number}) {{"
            body = self._round(loop, carried, f"i{number} + 1 == counts[{number}]")
        else:
            going = " | ".join(self._name(value, "bool") for value in loop.carried[: loop.num_going])
            counted = [value for value in loop.carried if value in self._shared.counters]
            for value in counted:
                yield f"int32_t {self._expressions.shared_name(value)} = {self._shared.counters[value]};"
            self._expressions.places.update(self._shared.in_place(loop))
            yield f"while (any({going})) {{"
            body = itertools.chain(
                self._whole_round(loop, carried),
                (f"++{self._expressions.shared_name(value)};" for value in counted),
            )
        yield from indented(body)
        yield "}"

    def _whole_round(self, loop: Loop, carried: list[int]) -> Iterator[str]:
        yield from self.block(loop.block)
        yield from self.assign(loop, carried)

    def _round(self, loop: Loop, carried: list[int], is_last: str) -> Iterator[str]:
        """The body of a loop. What no later round reads, such as the energy on a trajectory, waits for the last one."""
        items = self._storage.items[loop.block]
        read = within(loop, (loop.after[i] for i in carried))
        each = [i for i in carried if loop.carried[i] in read]
        if len(each) == len(carried) or any(isinstance(item, Loop) for item in items):
            yield from self._whole_round(loop, carried)
            return
        needed = within(loop, (loop.after[i] for i in each))
        if any(isinstance(item, Stretch) for item in items):
            yield from self._last_or_short(loop, carried, each, needed, is_last)
            return
        values = [item for item in items if isinstance(item, Value)]
        yield from self._values(value for value in values if value in needed)
        yield f"if ({is_last}) {{"
        yield from indented(self._values(value for value in values if value not in needed))
        yield from indented(self.assign(loop, [i for i in carried if i not in each]))
        yield "}"
        yield from self.assign(loop, each)

    def _last_or_short(
        self, loop: Loop, carried: list[int], each: list[int], needed: Collection[Value], is_last: str
    ) -> Iterator[str]:
        """A body with loops over long axes, printed whole for the last round and short for all others."""
        items = [item for item in self._storage.items[loop.block] if not isinstance(item, Loop)]
        for item in items:
            if isinstance(item, Stretch):
                yield from self._room(item)
        passing = self._only_carried(loop, carried, each, needed)
        for condition, wanted, dropped, assigned in (
            (f"if ({is_last})", None, (), carried),
            ("else", needed, passing, each),
        ):
            yield f"{condition} {{"
            for item in items:
                if isinstance(item, Stretch):
                    yield from indented(self._along(item, wanted, dropped))
                elif wanted is None or item in wanted:
                    yield from indented(self._values([item]))
            yield from indented(self.assign(loop, assigned))
            yield "}"

    def _only_carried(
        self, loop: Loop, carried: list[int], each: list[int], needed: Collection[Value]
    ) -> Collection[Operand]:
        """What a round stores for nobody but those after the loop, such as the gradient on a trajectory."""
        home = self._storage.stretches.get
        read = {operand for value in needed for operand in read_by(value) if home(operand) is not home(value)}
        return {loop.after[i] for i in carried if i not in each} - {loop.after[i] for i in each} - read

    # --- Long axes ---------------------------------------------------------------------------------------------------

    def _room(self, stretch: Stretch) -> Iterator[str]:
        """Arrays for what another loop needs."""
        for value in stretch.values:
            if value in self._storage.stored and value not in self._expressions.arrays:
                yield self._expressions.new_array(value, stretch.axis)

    def _along(
        self, stretch: Stretch, wanted: Collection[Value] | None = None, dropped: Collection[Operand] = ()
    ) -> Iterator[str]:
        """The loop over a long axis.

        Args:
            stretch: What it computes.
            wanted: What of that; None: all.
            dropped: What of that need not be stored, although it has an array.
        """
        values = [value for value in stretch.values if wanted is None or value in wanted]
        if not values:
            return
        for value in values:
            if value.op in REDUCTIONS:
                yield f"{TYPES[value.kind]} v{self._numbers[value]} = {self._name(_NEUTRAL[value.op], value.kind)};"
        products = [value for value in values if value.op == "product"]
        together = _TOGETHER_OF_COLUMNS if products else _TOGETHER if len(values) <= _FEW_VALUES else 1
        once = _COLUMNS if products else together
        whole = stretch.axis - stretch.axis % once
        if products:
            yield f"for (int64_t c = 0; c < {whole}; c += {_COLUMNS}) {{"
            for value in products:
                yield from indented(self._columns(stretch, value))
            yield from indented(self._rounds(stretch, values, ("c", f"c + {_COLUMNS}"), together, dropped))
            yield "}"
        else:
            yield from self._rounds(stretch, values, ("0", str(whole)), together, dropped)
        if whole < stretch.axis:
            yield f"for (int64_t a = {whole}; a < {stretch.axis}; ++a) {{"
            yield from indented(self._entries(stretch, values, [None], dropped))
            yield "}"
        yield from self._values(value for value in stretch.waiting if wanted is None or value in wanted)

    def _rounds(
        self,
        stretch: Stretch,
        values: Sequence[Value],
        bounds: tuple[str, str],
        together: int,
        dropped: Collection[Operand],
    ) -> Iterator[str]:
        """A loop over entries, several in one round."""
        first, end = bounds
        yield f"for (int64_t a = {first}; a < {end}; a += {together}) {{"
        yield from indented(self._entries(stretch, values, range(together), dropped))
        yield "}"

    def _entries(
        self,
        stretch: Stretch,
        values: Iterable[Value],
        entries: Sequence[int | None],
        dropped: Collection[Operand],
    ) -> Iterator[str]:
        """Statement by statement, for several entries side by side."""
        for value in values:
            for ahead in entries:
                with self._expressions.along(stretch, ahead):
                    yield from self._entry(value, ahead, is_kept=value not in dropped)

    def _columns(self, stretch: Stretch, value: Value) -> Iterator[str]:
        """Several entries of a product with a matrix, each in a register: what they are made of is read once."""
        kind, number, names = TYPES[value.kind], self._numbers[value], []
        yield f"{kind} columns{number}[{_COLUMNS}];"
        added = []
        for ahead in range(_COLUMNS):
            with self._expressions.along(stretch, ahead, "c"):
                name, row, factor = self._expressions.factors(value)
            names.append(name)
            yield f"{kind} {name} = full<{kind}>(0);"
            added.append(f"{name} = fma({row}, {factor}, {name});")
        yield f"for (int64_t b = 0; b < {value.operands[0].axis}; ++b) {{"
        yield from indented(added)
        yield "}"
        yield from (f"columns{number}[{i}] = {name};" for i, name in enumerate(names))

    def _product(self, value: Value, ahead: int | None) -> Iterator[str]:
        """An entry of a product with a matrix."""
        name, row, factor = self._expressions.factors(value)
        kind, number = TYPES[value.kind], self._numbers[value]
        if ahead is not None:
            yield f"const {kind} {name} = columns{number}[a - c + {ahead}];"
            return
        yield f"{kind} {name} = full<{kind}>(0);"
        yield f"for (int64_t b = 0; b < {value.operands[0].axis}; ++b) {name} = fma({row}, {factor}, {name});"

    def _entry(self, value: Value, ahead: int | None, *, is_kept: bool) -> Iterator[str]:
        if value.op in REDUCTIONS:
            yield self._reduction(value)
            return
        yield from self._product(value, ahead) if value.op == "product" else self._values([value])
        if is_kept and value in self._storage.stored:
            yield self._expressions.storing(value)

    def _reduction(self, value: Value) -> str:
        (entry,) = value.operands
        name, op = f"v{self._numbers[value]}", value.op.removeprefix("over_")
        if op == "add" and entry.op == "mul" and entry.kind in FLOATS:
            factors = ", ".join(self._name(arg, entry.kind) for arg in entry.args)  # type: ignore[arg-type]
            return f"{name} = fma({factors}, {name});"
        term = self._name(entry, entry.kind)
        return f"{name} = {name} {INFIX[op]} {term};" if op in INFIX else f"{name} = {CALLS[op]}({name}, {term});"


def indented(lines: Iterable[str], depth: int = 1) -> Iterator[str]:
    """Lines, further to the right."""
    yield from (depth * "    " + line for line in lines)
