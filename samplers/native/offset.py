"""The additive constant of an energy, which a program leaves out: it decides nothing, and costs digits.

A constant is what is the same for all chains and steps: literals, and what captured tensors and parameters make. It is
looked for through sums and differences, products and quotients with constants, sums over axes, and choices whose other
side is infinite, as that of a support is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .program import Operand, Program, Value, identity, is_uniform

_MAX_DEPTH = 100
"""Of an expression, beyond which constants stay: recurrences in Python are deeper than Python's own stack."""

_Parts = tuple[Operand, Operand]
"""A value without its constant, and that, in float64."""


def split_off(program: Program, energy: Operand) -> _Parts:
    """An energy without its constant, and that, in float64; the energy itself where it has none."""
    return (energy, 0.0) if is_uniform(energy) else _Splitting(program).split(energy, 0)


class _Splitting:
    """One look through an energy, which may use a value several times."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[Value, _Parts] = {}

    def split(self, value: Operand, depth: int) -> _Parts:
        """The parts of a value that lies so deep in the energy."""
        if is_uniform(value):
            return 0.0, self._program.op("cast", "f64", value)
        assert isinstance(value, Value)
        if value not in self._known:
            self._known[value] = self._parts(value, depth + 1) if depth < _MAX_DEPTH else (value, 0.0)
        return self._known[value]

    def _parts(self, value: Value, depth: int) -> _Parts:
        args: Any = value.args
        inner = {i: self.split(args[i], depth) for i in _bearers(value)}
        constants = {i: constant for i, (_, constant) in inner.items()}
        if not any(map(_is_there, constants.values())):
            return value, 0.0  # and nothing new is written down
        rests = [inner[i][0] if i in inner else arg for i, arg in enumerate(args)]
        op, kind = self._program.op, value.kind
        match value.op:
            case "cast":
                return op("cast", kind, *rests), constants[0]
            case "neg" | "add" | "sub":
                return op(value.op, kind, *rests), op(value.op, "f64", *constants.values())
            case "mul" | "div":
                return op(value.op, kind, *rests), self._scaled(value.op, args, constants)
            case "fma":
                rest = op("add", kind, op("mul", kind, *rests[:2]), rests[2])
                scaled = self._scaled("mul", args[:2], constants) if len(constants) == 2 else 0.0
                return rest, op("add", "f64", scaled, constants[2])
            case "over_add":
                over, axis = self._program.over, args[0].axis
                return over("add", kind, rests, axis), over("add", "f64", [constants[0]], axis)
        assert value.op == "where"
        shared = {identity(constant): constant for constant in constants.values()}
        return (op("where", kind, *rests), *shared.values()) if len(shared) == 1 else (value, 0.0)  # type: ignore[return-value]

    def _scaled(self, op: str, args: Sequence[Operand], constants: Mapping[int, Operand]) -> Operand:
        """The constant of one of two arguments, times or over the other, in float64."""
        make = self._program.op
        return make(op, "f64", *(constants[i] if i in constants else make("cast", "f64", args[i]) for i in (0, 1)))


def _bearers(value: Value) -> Sequence[int]:
    """Which arguments may bring a constant."""
    args: Any = value.args
    match value.op:
        case "neg" | "cast" | "over_add":
            return [0]
        case "add" | "sub":
            return [0, 1]
        case "mul" | "fma":
            factor = [1] if is_uniform(args[0]) else [0] if is_uniform(args[1]) else []
            return [*factor, *range(2, len(args))]
        case "div":
            return [0] if is_uniform(args[1]) else []
        case "where":
            return [i for i in (1, 2) if not _is_infinite(args[i])]
    return []


def _is_there(constant: Operand) -> bool:
    return isinstance(constant, Value) or constant != 0


def _is_infinite(side: Operand) -> bool:
    """Whether it is a literal that no constant changes."""
    return not isinstance(side, Value) and side - side != 0
