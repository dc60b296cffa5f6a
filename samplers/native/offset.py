"""The additive constant of an energy, which a program leaves out: it decides nothing, and costs digits.

A constant is what is the same for all chains and steps: literals, and what captured tensors and parameters make. It is
looked for through sums and differences, products and quotients with constants, sums over axes, and choices whose other
side is infinite, as that of a support is.
"""

from __future__ import annotations

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
        match value.op:
            case "neg" | "cast":
                parts = self._linear(value, self.split(args[0], depth))
            case "add" | "sub":
                parts = self._sum(value, *(self.split(arg, depth) for arg in args))
            case "fma":
                product = self._program.op("mul", value.kind, *args[:2])
                parts = self._sum(value, self.split(product, depth), self.split(args[2], depth))
            case "mul" if is_uniform(args[0]):
                parts = self._scaled(value, args[0], self.split(args[1], depth))
            case "mul" | "div" if is_uniform(args[1]):
                parts = self._scaled(value, args[1], self.split(args[0], depth))
            case "over_add":
                parts = self._over(value, args[0].axis, self.split(args[0], depth))
            case "where":
                parts = self._choice(value, args[0], args[1:], depth)
            case _:
                parts = value, 0.0
        return parts if _is_there(parts[1]) else (value, 0.0)

    def _linear(self, value: Value, parts: _Parts) -> _Parts:
        rest, constant = parts
        op = self._program.op
        return op(value.op, value.kind, rest), constant if value.op == "cast" else op("neg", "f64", constant)

    def _sum(self, value: Value, one: _Parts, other: _Parts) -> _Parts:
        op = self._program.op
        if value.op == "sub":
            return op("sub", value.kind, one[0], other[0]), op("sub", "f64", one[1], other[1])
        return op("add", value.kind, one[0], other[0]), op("add", "f64", one[1], other[1])

    def _scaled(self, value: Value, factor: Operand, parts: _Parts) -> _Parts:
        rest, constant = parts
        op = self._program.op
        return op(value.op, value.kind, rest, factor), op(value.op, "f64", constant, op("cast", "f64", factor))

    def _over(self, value: Value, axis: int, parts: _Parts) -> _Parts:
        rest, constant = parts
        return self._program.over("add", value.kind, [rest], axis), self._program.over("add", "f64", [constant], axis)

    def _choice(self, value: Value, condition: Operand, sides: tuple[Operand, Operand], depth: int) -> _Parts:
        parts = [(side, None) if _is_infinite(side) else self.split(side, depth) for side in sides]
        constants = {identity(constant): constant for _, constant in parts if constant is not None}
        if len(constants) != 1:
            return value, 0.0
        (constant,) = constants.values()
        return self._program.op("where", value.kind, condition, *(rest for rest, _ in parts)), constant


def _is_there(constant: Operand) -> bool:
    return isinstance(constant, Value) or constant != 0


def _is_infinite(side: Operand) -> bool:
    """Whether it is a literal that no constant changes."""
    return not isinstance(side, Value) and side - side != 0
