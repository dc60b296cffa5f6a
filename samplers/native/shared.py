"""What the chains that are still in a loop have in common: how many rounds they have gone.

Chains leave a `while_any` for good, so that those inside have counted the same rounds. A counter, which is carried from
a literal on and is one more after each round, is one number for all of them, and so is what depends on counters alone:
it is computed once instead of in every lane, and what hangs on it stands behind a branch. In the lanes of chains that
have left, whatever comes out is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .program import Block, Loop, Operand, Value

_OPS = frozenset(
    ("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "shift_left", "shift_right")
)
"""Of integers and truths, which mean the same for one number as for a lane."""


def loops_in(block: Block) -> Iterator[Loop]:
    """The loops of a block and of their bodies, outer ones first."""
    for item in block.items:
        if isinstance(item, Loop):
            yield item
            yield from loops_in(item.block)


def release(root: Block, live: Collection[Value]) -> None:
    """Let go of what chains that have left a loop carry, where nothing reads it after the loop."""
    for loop in loops_in(root):
        for i, result in enumerate(loop.results):
            if i > 0 and result not in live:
                loop.after[i] = _if_going(loop, i)


def _if_going(loop: Loop, i: int) -> Operand:
    """What becomes of a carried value as long as its chain goes on."""
    after = loop.after[i]
    is_held = (
        loop.kind == "while"
        and loop.num_going == 1
        and isinstance(after, Value)
        and after.op == "where"
        and after.args[0] is loop.carried[0]
        and after.args[2] is loop.carried[i]
    )
    return after.args[1] if is_held else after  # type: ignore[union-attr, return-value]


@dataclass
class Shared:
    """What is one number for all chains that are in a loop.

    Attributes:
        counters: Carried values that count rounds, and what they start from.
        values: What depends on counters alone.
        users: What each value is read by; None stands for loops and outputs.
    """

    counters: dict[Value, int] = field(default_factory=dict)
    values: set[Value] = field(default_factory=set)
    users: dict[Value, set[Value | None]] = field(default_factory=dict)

    @staticmethod
    def of(root: Block, live: Collection[Value], outputs: Iterable[Operand]) -> Shared:
        """Look through a program."""
        shared = Shared()
        loops = list(loops_in(root))
        for loop in loops:
            shared.counters.update(_counters(loop))
        for value in sorted(live, key=lambda value: value.number):
            if value.op in _OPS and value.kind in ("int", "bool") and all(map(shared._has, value.operands)):
                shared.values.add(value)
            shared._read(value.operands, value)
        shared._read([operand for loop in loops for operand in (*loop.before, *loop.after)], None)
        shared._read(outputs, None)
        return shared

    def _has(self, value: Value) -> bool:
        return value in self.values or value in self.counters

    def _read(self, operands: Iterable[Operand], user: Value | None) -> None:
        for operand in operands:
            if isinstance(operand, Value):
                self.users.setdefault(operand, set()).add(user)

    def guards(self, items: Sequence[object]) -> dict[Value, list[Value]]:
        """Conjunctions of a shared truth and another, each with what serves the other alone, in order."""
        found: dict[Value, list[Value]] = {}
        behind: set[Value] = set()
        values = [item for item in items if isinstance(item, Value) and item not in self.values]
        for guard in reversed(values):
            if guard.op != "and" or guard in behind or not self.values.intersection(guard.operands):
                continue
            cone = {guard}
            for value in reversed(values[: values.index(guard)]):
                if value not in behind and self.users.get(value, {None}) <= cone:
                    cone.add(value)
            behind |= cone
            found[guard] = [value for value in values if value in cone and value is not guard]
        return found

    def in_place(self, loop: Loop) -> Mapping[Value, Value]:
        """Shared choices between something new and what is carried, which they take the place of."""
        return {
            after: carried
            for carried, after in zip(loop.carried, loop.after, strict=True)
            if isinstance(after, Value)
            and after.op == "where"
            and after.args[0] in self.values
            and after.args[2] is carried
            and self.users.get(carried) == {after}
            and not carried.axis
        }


def _counters(loop: Loop) -> Iterator[tuple[Value, int]]:
    if loop.kind != "while" or loop.num_going != 1:
        return
    for i, (carried, before) in enumerate(zip(loop.carried, loop.before, strict=True)):
        after = _if_going(loop, i)
        is_counted = isinstance(after, Value) and after.op == "add" and carried in after.args and 1 in after.args
        if is_counted and carried.kind == "int" and not isinstance(before, Value):
            yield carried, int(before)
