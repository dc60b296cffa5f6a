"""Values of a program as C++ expressions: their names, their operations, and where long axes are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import NotTraceableError
from .axes import Storage, Stretch
from .program import Kind, Loop, Operand, Value
from .shared import Shared
from .tables import MEMORY, TYPES, Tables

INFIX = {
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
CALLS = {
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

_BYTES: dict[Kind, int] = {"f32": 4, "f64": 8, "int": 4, "bool": 8}  # at most
_WIDEST_BYTES = 64  # of a vector, on any machine
_STACK_BYTES = 2**20
"""Of all that lies along long axes; half of what glibc gives to threads where `ulimit -s` sets no limit."""


class Expressions:
    """What is said of the values of one program.

    Args:
        live: The values that are needed.
        storage: Which of them are kept along long axes.
        shared: Which of them are one number for all chains in a loop.
        sites: Names of the noise's sites, in the order of their keys.
        itemsize: Bytes of a position's number, which the machine's vectors are filled with.

    Attributes:
        tables: What the program reads when it runs.
        storage: Which values are kept along long axes.
        shared: Which values are one number for all chains in a loop.
        numbers: Of the values, in their order; what is not needed has none, so no say in the text.
        arrays: Names of the arrays that hold values along long axes.
        places: Carried values that others take the place of, as soon as they are computed.
    """

    def __init__(
        self, live: Iterable[Value], storage: Storage, shared: Shared, sites: Iterable[str], itemsize: int
    ) -> None:
        self.tables, self.storage, self.shared = Tables(), storage, shared
        self.arrays, self.places = dict[Value, str](), dict[Value, Value]()
        self.numbers = {value: i for i, value in enumerate(sorted(live, key=lambda value: value.number))}
        self._sites, self._itemsize = list(sites), itemsize
        self._stretch: Stretch | None = None
        self._entry, self._suffix = "a", ""
        self._stack_bytes = 0

    @contextmanager
    def along(self, stretch: Stretch, ahead: int | None = None, index: str = "a") -> Iterator[None]:
        """Within it, what the loop over a long axis computes needs no array.

        Args:
            stretch: What it computes.
            ahead: Of several entries in one round of the loop, which one is spoken of; None: there is but one.
            index: What the loop counts by.
        """
        self._stretch = stretch
        if ahead is not None:
            self._entry, self._suffix = f"({index} + {ahead})", f"_{ahead}"
        yield
        self._stretch, self._entry, self._suffix = None, "a", ""

    def definition(self, value: Value) -> str:
        """A statement."""
        if value in self.shared.values:
            return f"const {MEMORY[value.kind]} {self._own_name(value)} = {self._shared_expression(value)};"
        if value in self.places:
            condition, new, _ = value.args
            return f"if ({self.shared_name(condition)}) {self.name(value, value.kind)} = {self.name(new, value.kind)};"  # type: ignore[arg-type]
        return f"const {TYPES[value.kind]} {self._own_name(value)} = {self._expression(value)};"

    def storing(self, value: Value) -> str:
        """A statement that keeps an entry of a value along a long axis."""
        return f"{self.arrays[value]}[{self._entry}] = {self._own_name(value)};"

    def new_array(self, value: Value, length: int) -> str:
        """A statement that makes room for the entries of a value along a long axis."""
        self.reserve(value.kind, length)
        self.arrays[value] = f"a{self.numbers[value]}"
        return f"{TYPES[value.kind]} {self.arrays[value]}[{length}];"

    def reserve(self, kind: Kind, length: int) -> None:
        """Take some of the stack, which ends a process that takes too much."""
        self._stack_bytes += length * _WIDEST_BYTES * _BYTES[kind] // self._itemsize
        if self._stack_bytes > _STACK_BYTES:
            raise NotTraceableError("longer axes than the stack of a thread holds, which calls for whole tensors")

    def name(self, operand: Operand, kind: Kind) -> str:
        """What an operand is called: a value; a literal of some kind."""
        if not isinstance(operand, Value):
            return self.tables.literal(operand, kind)
        operand = _as_carried(operand)
        operand = self.places.get(operand, operand)
        if operand in self.shared.values:
            return f"full<{TYPES[operand.kind]}>({self._own_name(operand)})"
        if operand.op in ("captured", "param"):
            what, offset, stride = operand.args
            if operand.axis:
                return self.tables.element(operand.kind, (operand.op, what), f"{offset} + {self._entry} * {stride}")
            return self.tables.number(operand.kind, (operand.op, what, offset))
        if operand.op == "matrix":
            raise NotTraceableError("a matrix of two long axes that does more than multiply rows")
        is_stored = operand.axis and (self._stretch is None or self.storage.stretches.get(operand) is not self._stretch)
        return f"{self.arrays[operand]}[{self._entry}]" if is_stored else self._own_name(operand)

    def shared_name(self, operand: Operand) -> str:
        """What a number is called that all chains in a loop share: a counter, what depends on it, or a literal."""
        if not isinstance(operand, Value):
            return str(int(operand))
        return f"{'rounds' if operand in self.shared.counters else 'v'}{self.numbers[operand]}"

    def _shared_expression(self, value: Value) -> str:
        names = [self.shared_name(arg) for arg in value.args]  # type: ignore[arg-type]
        return f"!{names[0]}" if value.op == "not" else f"{names[0]} {INFIX[value.op]} {names[1]}"

    def _own_name(self, value: Value) -> str:
        """Of a value itself, or of its entry that is spoken of."""
        return f"v{self.numbers[value]}{self._suffix if value.axis else ''}"

    def _expression(self, value: Value) -> str:
        op, args = value.op, value.args
        if op == "uniform_at":
            _, k, site, i = args
            index = self.shared_name(k) if k in self.shared.values else self.name(k, "int")  # type: ignore[arg-type]
            return f"uniform_at<{i}>(keys + {2 * self._sites.index(site)}, step, {index}, chain)"  # type: ignore[arg-type]
        if op in ("elsewhere", "entry", "placed"):
            return self._elsewhere(value)
        names = self._names_of(value, args)  # type: ignore[arg-type]
        if op == "where" and args[0] in self.shared.values:
            return f"{self.shared_name(args[0])} ? {names[1]} : {names[2]}"
        if op in INFIX:
            return f"{names[0]} {INFIX[op]} {names[1]}"
        if op in CALLS:
            return f"{CALLS[op]}({', '.join(names)})"
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

    def _elsewhere(self, value: Value) -> str:
        """Of another entry of a long axis than the one that is spoken of; zero where there is none."""
        operand: Any = value.args[0]
        if value.op == "entry":
            return self._stored(operand, str(value.args[1]))
        if value.op == "placed":
            _, first, every, count = value.args
            place = f"{self._entry} - {first}"
        else:
            _, first, step, every = value.args
            place, count = f"{first} + {self._entry} * {step}", operand.axis
        is_one = f"(uint64_t)({place}) < {count * every}"  # type: ignore[operator]
        if every != 1:
            is_one, place = f"{is_one} && ({place}) % {every} == 0", f"({place}) / {every}"
        there = self.name(operand, value.kind) if value.op == "placed" else self._stored(operand, place)
        return f"{is_one} ? {there} : full<{TYPES[value.kind]}>(0)"

    def factors(self, value: Value) -> tuple[str, str, str]:
        """The name of an entry of a product with a matrix, and what entry b of the row and of the matrix add to it."""
        row: Any = value.args[0]
        what, where, is_transposed = value.args[1:]
        place = f"({self._entry}) * {row.axis} + b" if is_transposed else f"b * {value.axis} + {self._entry}"
        return self._own_name(value), self._stored(row, "b"), self.tables.element(value.kind, (what, where), place)

    def _stored(self, operand: Value, place: str) -> str:
        """Some entry of a value along a long axis."""
        return f"{self.arrays[_as_carried(operand)]}[{place}]"

    def _names_of(self, value: Value, args: Sequence[Operand]) -> list[str]:
        """Arguments; literals take after the last operand."""
        if value.op == "where":
            return [self.name(args[0], "bool"), *(self.name(arg, value.kind) for arg in args[1:])]
        kind = value.operands[-1].kind if value.operands else value.kind
        return [self.name(arg, kind) for arg in args]


def _as_carried(operand: Value) -> Value:
    """What a loop leaves goes by the name of what it carried."""
    if operand.op != "result":
        return operand
    loop, i = operand.args
    assert isinstance(loop, Loop)
    assert isinstance(i, int)
    return loop.carried[i]
