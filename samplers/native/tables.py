"""What programs read when they run, so that other numbers compile nothing: literals, captured tensors, parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .program import Kind

TYPES: dict[Kind, str] = {"f32": "F", "f64": "D", "int": "I", "bool": "B"}
"""Of a block of chains, in C++."""

MEMORY: dict[Kind, str] = {"f32": "float", "f64": "double", "int": "int32_t", "bool": "uint8_t"}
"""Of one chain's number in memory, in C++."""

Entry: TypeAlias = tuple[Any, ...]

_PLAIN = {
    "0.0": "0",
    "-0.0": "-0.0",
    "inf": "INFINITE",
    "-inf": "-INFINITE",
    "nan": "UNDEFINED",
}
"""Numbers that are part of a program."""


@dataclass
class Tables:
    """Numbers that all chains share, each entry with its place in a table.

    Attributes:
        floats: Of float32: ("literal", number), ("captured", tensor, i) or ("param", name, i).
        doubles: Likewise of float64.
        arrays: What lies along a long axis: ("captured", tensor) or ("param", name), whole.
        counts: How often the loops of fixed length run.
    """

    floats: dict[Entry, int] = field(default_factory=dict)
    doubles: dict[Entry, int] = field(default_factory=dict)
    arrays: dict[Entry, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)

    def constants(self) -> Iterator[str]:
        """Definitions of all numbers, which are known once the rest of a program is printed."""
        for kind, table, entries in (("F", "floats", self.floats), ("D", "doubles", self.doubles)):
            yield from (f"const {kind} {table}_{i} = full<{kind}>({table}[{i}]);" for i in range(len(entries)))

    def number(self, kind: Kind, entry: Entry) -> str:
        """The name of a number."""
        table, entries = ("floats", self.floats) if kind == "f32" else ("doubles", self.doubles)
        return f"{table}_{entries.setdefault(entry, len(entries))}"

    def element(self, kind: Kind, array: Entry, place: str) -> str:
        """An element of a whole array."""
        number = self.arrays.setdefault(array, len(self.arrays))
        return f"full<{TYPES[kind]}>(((const {MEMORY[kind]}*)arrays[{number}])[{place}])"

    def literal(self, number: float, kind: Kind) -> str:
        """A number that is known already."""
        if kind == "bool":
            return f"full<B>({'true' if number else 'false'})"
        if kind == "int":
            return f"full<I>({int(min(max(number, -(2**31)), 2**31 - 1))})"  # reductions start from infinity
        plain = _PLAIN.get(repr(float(number)))
        return f"full<{TYPES[kind]}>({plain})" if plain else self.number(kind, ("literal", float(number)))

    def new_count(self, count: int) -> int:
        """The place of one more number of rounds."""
        self.counts.append(count)
        return len(self.counts) - 1
