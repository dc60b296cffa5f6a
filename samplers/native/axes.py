"""Long axes: which loops a program runs over them.

Values along a long axis are computed entry by entry, as many of them in one loop as depend on none of its sums. So the
forward and the backward pass of a likelihood read its data once. What another loop needs is stored, all else never is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .program import OTHER_PLACES, REDUCTIONS, Block, Loop, Operand, Value


@dataclass
class Stretch:
    """What one loop over a long axis computes.

    Attributes:
        axis: Its entries.
        values: For each entry, in order; reductions among them.
        waiting: Single numbers that wait for the reductions.
    """

    axis: int
    values: list[Value] = field(default_factory=list)
    waiting: list[Value] = field(default_factory=list)

    def makes_late(self, value: Value) -> bool:
        """Whether a value is there only when the loop is over."""
        return value in self.waiting or (value.op in REDUCTIONS and value in self.values)

    def is_over_before(self, value: Value) -> bool:
        """Whether a value reads what is there only when the loop is over."""
        is_late = any(map(self.makes_late, value.operands))
        return is_late or (value.op in OTHER_PLACES and value.operands[0] in self.values)


def stretches(block: Block, live: set[Value]) -> Iterator[Value | Loop | Stretch]:
    """The items of a block that are needed, those along long axes gathered."""
    stretch: Stretch | None = None
    for item in block.items:
        if isinstance(item, Loop):
            if stretch:
                yield stretch
            stretch = None
            yield item
        elif item in live:
            axis = axis_of(item)
            is_late = stretch is not None and stretch.is_over_before(item)
            if axis:
                if stretch and (is_late or stretch.axis != axis):
                    yield stretch
                    stretch = None
                stretch = stretch or Stretch(axis)
                stretch.values.append(item)
            elif stretch and is_late:
                stretch.waiting.append(item)
            else:
                yield item
    if stretch:
        yield stretch


def read_by(value: Value) -> list[Value]:
    """What a statement reads: operands, and the factors themselves of products that are summed up along a long axis."""
    factors = [factor for operand in value.operands for factor in operand.operands] if value.op in REDUCTIONS else []
    return [*value.operands, *factors]


def axis_of(value: Value) -> int:
    """The long axis along which a value is computed, if any."""
    return value.operands[0].axis if value.op in REDUCTIONS else value.axis


@dataclass
class Storage:
    """Where values along long axes are computed, and which of them are kept in memory.

    Attributes:
        items: What each block consists of, see `stretches`.
        stretches: The stretch of each value.
        stored: Those that are needed beyond it.
    """

    items: dict[Block, list[Value | Loop | Stretch]] = field(default_factory=dict)
    stretches: dict[Value, Stretch] = field(default_factory=dict)
    stored: set[Value] = field(default_factory=set)

    @staticmethod
    def of(root: Block, live: set[Value], outputs: Iterable[Operand]) -> Storage:
        """Look through a program."""
        storage = Storage()
        loops: list[Loop] = []
        storage._read(root, live, loops)
        needed = [*outputs, *(operand for loop in loops for operand in (*loop.before, *loop.after))]
        for value in live:
            home = storage.stretches.get(value)
            needed += [read for read in read_by(value) if storage.stretches.get(read) is not home]
        storage.stored = {
            value for value in needed if isinstance(value, Value) and value.axis and value in storage.stretches
        }
        return storage

    def _read(self, block: Block, live: set[Value], loops: list[Loop]) -> None:
        self.items[block] = list(stretches(block, live))
        for item in self.items[block]:
            if isinstance(item, Stretch):
                self.stretches.update(dict.fromkeys(item.values, item))
            elif isinstance(item, Loop):
                loops.append(item)
                self._read(item.block, live, loops)
