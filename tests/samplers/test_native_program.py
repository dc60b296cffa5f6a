"""What scalar programs are simplified to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from lamina.samplers.native.program import Operand, Program, Value, live_values

Sums: TypeAlias = Callable[[Callable[..., Operand], list[Value], list[Value]], Operand]
"""Of operations in float32, numbers that change, and numbers that stay the same."""


def written(make: Sums) -> tuple[Operand, list[str]]:
    """What `make` makes, and the operations on numbers that change."""
    program = Program(max_values=100)
    changing = [program.leaf("input", i, kind="f32") for i in range(3)]
    same = [program.leaf("captured", i, kind="f32", is_uniform=True) for i in range(4)]

    def op(name: str, *args: Any) -> Operand:
        return program.op(name, "f32", *args)

    made = make(op, changing, same)
    values = sorted(live_values([made]), key=lambda value: value.number)
    return made, [value.op for value in values if not value.is_uniform and value.op != "input"]


def row(op: Callable[..., Operand], x: Value, y: Value, a: Operand, b: Operand) -> Operand:
    """a x + b y."""
    return op("add", op("mul", x, a), op("mul", y, b))


@pytest.mark.parametrize(
    ("make", "left"),
    [
        pytest.param(
            lambda op, x, a: op("add", row(op, x[0], x[1], a[0], a[1]), row(op, x[0], x[1], a[2], a[3])),
            ["mul", "fma"],
            id="two rows",
        ),
        pytest.param(
            lambda op, x, a: op(
                "add",
                op("mul", 0.5, row(op, x[0], x[1], a[0], a[1])),
                row(op, op("mul", 0.5, x[0]), op("neg", op("mul", 0.5, x[1])), a[2], a[3]),
            ),
            ["mul", "fma"],
            id="a quadratic form",
        ),
        pytest.param(lambda op, x, a: op("add", op("mul", x[0], 0.5), op("mul", x[0], 0.5)), [], id="halves"),
        pytest.param(
            lambda op, x, a: op("add", op("mul", x[0], 0.5), op("mul", x[0], -0.5)), ["mul"], id="NaN at infinity"
        ),
        pytest.param(
            lambda op, x, a: op("add", op("mul", x[0], a[0]), row(op, x[0], x[1], a[1], a[2])),
            ["mul", "fma", "fma"],
            id="other values",
        ),
        pytest.param(
            lambda op, x, a: op("add", op("add", x[0], x[1]), row(op, x[0], x[1], a[0], a[1])),
            ["mul", "fma"],
            id="a sum and a row",
        ),
        pytest.param(
            lambda op, x, a: op("add", op("mul", x[0], x[1]), op("mul", x[0], x[2])),
            ["mul", "fma"],
            id="factors change",
        ),
    ],
)
def test_linear_forms_of_the_same_values_are_collected(make: Sums, left: list[str]) -> None:
    assert written(make)[1] == left


def test_what_is_collected_has_the_sums_of_the_factors() -> None:
    made, _ = written(lambda op, x, a: op("add", op("mul", x[0], a[0]), op("mul", x[0], a[1])))
    assert isinstance(made, Value)
    (factor,) = (arg for arg in made.operands if arg.is_uniform)
    assert factor.op == "add"
    assert [arg.args for arg in factor.operands] == [(0,), (1,)]


def test_no_rule_looks_behind_an_opaque_value_and_later_operations_read_it() -> None:
    program = Program(max_values=100)
    x, y = (program.leaf("input", i, kind="f32") for i in range(2))
    total = program.op("add", "f32", x, program.op("mul", "f32", 0.3, y))
    assert isinstance(total, Value)
    copy = program.opaque("f32", total)
    assert program.opaque("f32", total) is copy
    doubled = program.op("add", "f32", total, program.op("mul", "f32", 0.2, y))
    assert isinstance(doubled, Value)
    assert copy in doubled.operands
    assert total not in doubled.operands


def test_forms_of_forms_are_not_multiplied_out() -> None:
    """Thirty steps of x <- x - a x: there are 2**30 ways through them."""

    def recurrence(op: Callable[..., Operand], x: list[Value], a: list[Value]) -> Operand:
        value: Operand = x[0]
        for _ in range(30):
            value = op("sub", value, op("mul", a[0], value))
        return op("add", op("mul", a[1], value), x[0])

    assert written(recurrence)[1] == 31 * ["fma"]


@pytest.mark.parametrize(
    ("make", "left"),
    [
        pytest.param(lambda op, x, a: op("mul", op("mul", x[0], 0.5), op("mul", 2.0, x[1])), ["mul"], id="cancel"),
        pytest.param(lambda op, x, a: op("mul", op("mul", x[0], 0.5), 2.0), [], id="undone"),
        pytest.param(lambda op, x, a: op("mul", op("mul", x[0], 2.0), 0.3), ["mul"], id="one factor"),
        pytest.param(lambda op, x, a: op("mul", op("mul", x[0], 3.0), 0.3), ["mul", "mul"], id="would be rounded"),
        pytest.param(
            lambda op, x, a: op("mul", a[0], op("mul", x[0], 2.0)), ["mul"], id="one factor that stays the same"
        ),
        pytest.param(
            lambda op, x, a: op("mul", x[0], op("mul", a[0], op("mul", a[1], 2.0))), ["mul"], id="two such factors"
        ),
        pytest.param(
            lambda op, x, a: op("mul", op("mul", x[0], 0.5), op("mul", 4.0, x[1])),
            ["mul", "mul", "mul"],
            id="do not cancel",
        ),
        pytest.param(
            lambda op, x, a: op("add", x[0], op("neg", op("mul", x[1], x[2]))), ["neg", "fma"], id="less a product"
        ),
        pytest.param(lambda op, x, a: op("add", op("neg", x[0]), x[1]), ["sub"], id="less a number"),
    ],
)
def test_factors_and_signs_that_cost_nothing(make: Sums, left: list[str]) -> None:
    """Powers of two meet each other and other literals, and what is added with a minus is taken away."""
    assert written(make)[1] == left


def test_a_power_of_two_changes_no_digit() -> None:
    made, _ = written(lambda op, x, a: op("mul", op("mul", x[0], 0.25), 0.3))
    assert isinstance(made, Value)
    assert np.float32(0.3) * np.float32(0.25) in made.args
