"""`lamina-bench regress`: a slow-down is seen, and a machine of its own is not blamed for another's times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamina.benchmarks import regress, results
from lamina.benchmarks.cli import main
from lamina.samplers.native.operators import RULES
from lamina.samplers.native.operators.rules import pointwise
from lamina.samplers.native.symbolic import Tracer

NAMES = ["mala/gauss2", "ula/banana"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regress, "STEPS", {"eager": 2, "native": 20})
    monkeypatch.setattr(regress, "LESS_SPEED", 0.0)  # so few say nothing about speed


def test_counts_are_those_of_the_program() -> None:
    """Ten leapfrog steps cost a few times a single gradient; and ten dimensions more than two."""
    assert regress.count("mala/gauss2") == regress.count("mala/gauss2")
    assert 3 * regress.count("ula/gauss2") < regress.count("hmc/gauss2") < 20 * regress.count("ula/gauss2")
    assert regress.count("ula/funnel10") > 2 * regress.count("ula/gauss2")


MULTIPLY = RULES["mul"]


def roundabout(tracer: Tracer, x: Any, y: Any) -> Any:
    """The same number by two operations more."""
    product = MULTIPLY(tracer, x, y)
    if not product.dtype.is_floating_point:
        return product
    return pointwise(tracer, "sub", pointwise(tracer, "add", product, 1.5), 1.5)


@pytest.mark.parametrize("name", regress.PROGRAMS)
def test_programs_are_as_short_as_the_committed_baseline_has_them(name: str) -> None:
    committed = results.read(results.default_folder() / "baseline.json")["summary"][f"{name}/operations"]
    assert regress.count(name) <= regress.MORE_OPERATIONS * committed


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["regress", "--programs", *NAMES, "--baseline", str(tmp_path / "baseline.json")]
    assert main(arguments) == 2  # there is none
    assert main([*arguments, "--write"]) == 0
    assert main(arguments) == 0
    assert "0 of 2 programs have regressed" in capsys.readouterr().out
    stored = results.read(tmp_path / "baseline.json")
    assert stored["summary"]["mala/gauss2/operations"] == regress.count("mala/gauss2")
    monkeypatch.setitem(RULES, "mul", roundabout)
    assert regress.count("mala/gauss2") > stored["summary"]["mala/gauss2/operations"]
    assert main(arguments) == 1
    assert "more operations" in capsys.readouterr().out


def test_counts_are_compared_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.benchmarks.cli.find_compiler", lambda: None)
    arguments = ["regress", "--programs", *NAMES, "--baseline", str(tmp_path / "baseline.json")]
    assert main([*arguments, "--write"]) == main(arguments) == 0
    assert all(row["speed"] is None for row in results.read(tmp_path / "baseline.json")["rows"].values())


def test_what_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    old = regress.Figures(operations=100, speed=50.0)
    more, slower, without = replace(old, operations=103), replace(old, speed=20.0), replace(old, speed=None)
    assert regress.faults(more, old, is_same_machine=False) == ["more operations"]
    assert regress.faults(slower, old, is_same_machine=True) == ["slower"]
    assert regress.faults(slower, old, is_same_machine=False) == []
    assert regress.faults(without, old, is_same_machine=True) == []
    assert regress.faults(replace(old, operations=102, speed=31.0), old, is_same_machine=True) == []
