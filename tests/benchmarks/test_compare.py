"""Comparing two results: what counts as a change, and what cannot be judged."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.benchmarks import results
from lamina.benchmarks.cli import main
from lamina.benchmarks.compare import BETTER, compare
from lamina.benchmarks.samplers import SUMMARISED

FIGURES = ("ess_per_gradient", "final_error", "accept", "seconds_per_gradient")
MACHINE = {"platform": "linux", "device": "cpu", "cpu": "one", "num_threads": 1}


def report(
    values: dict[str, float] | None = None, *, standard_error: float = 0.01, degrees: float = 7
) -> dict[str, Any]:
    summary = {f"{figure}/banana/hmc": 1.0 for figure in FIGURES} | (values or {})
    one = {"standard_error": standard_error, "degrees_of_freedom": degrees}
    spread = {name.partition("/")[0]: one for name in summary}
    return {
        "settings": {"num_chains": 64, "seed": 0},
        "rows": {"banana/hmc": {"options": "HMC()", "spread": spread}},
        "summary": summary,
        "provenance": dict(MACHINE),
    }


def spread_of(content: dict[str, Any]) -> dict[str, Any]:
    spread: dict[str, Any] = content["rows"]["banana/hmc"]["spread"]
    return spread


def changed(figure: str, value: float) -> dict[str, Any]:
    return report({f"{figure}/banana/hmc": value})


def test_figures_that_are_compared_exist() -> None:
    assert set(BETTER) <= set(SUMMARISED)


def test_nothing_changes_between_equals() -> None:
    found = compare(report(), report())
    assert (found.changes, found.num_compared, found.num_unclear, found.notes) == ((), len(FIGURES), 0, ())


@pytest.mark.parametrize(
    ("figure", "value", "is_worse"),
    [
        ("ess_per_gradient", 0.5, True),
        ("ess_per_gradient", 2.0, False),
        ("final_error", 2.0, True),
        ("final_error", 0.5, False),
        ("seconds_per_gradient", 2.0, True),
        ("accept", 0.5, False),
        ("accept", 2.0, False),
    ],
)
def test_a_large_change_is_judged_by_which_way_is_better(figure: str, value: float, is_worse: bool) -> None:
    (change,) = compare(report(), changed(figure, value)).changes
    assert (change.name, change.old, change.new) == (f"{figure}/banana/hmc", 1.0, value)
    assert change.is_worse == is_worse
    assert change.standard_errors == pytest.approx((value - 1) / (0.01 * math.sqrt(2)))


def test_changes_that_do_not_matter_are_no_changes() -> None:
    exact, nearly = report(standard_error=1e-9), report({"accept/banana/hmc": 1.04}, standard_error=1e-9)
    assert compare(exact, nearly).changes == ()
    assert len(compare(exact, nearly, tolerance=0.03).changes) == 1


@pytest.mark.parametrize(("units", "is_change"), [(4.95, False), (5.05, True)])
def test_the_limit_is_that_of_welch(units: float, is_change: bool) -> None:
    """Standard errors 3 and 4 of 4 and 9 degrees: 5 with 25^2 / (81 / 4 + 256 / 9) = 12.84 degrees of freedom.

    Student's t is beyond 5.006 there with probability 0.001 / 4, the share of one of four figures, on both sides.
    """
    old, new = (report(standard_error=error, degrees=degrees) for error, degrees in ((3, 4), (4, 9)))
    new["summary"]["accept/banana/hmc"] = 1 + 5 * units
    assert bool(compare(old, new).changes) == is_change


def test_errors_of_chains_that_left_for_infinity_are_compared() -> None:
    name, huge = "final_error/banana/hmc", 1e200
    old, new = (report({name: 2 * value}, standard_error=huge) for value in (huge, 1.5 * huge))
    assert compare(old, new).changes == ()
    old, new = (report({name: value}, standard_error=1e-3 * huge) for value in (huge, 2 * huge))
    (change,) = compare(old, new).changes
    assert change.is_worse
    assert change.standard_errors == pytest.approx(1e3 / math.sqrt(2))


def test_false_alarms_are_as_rare_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal figures with standard errors from 8 groups, at a rate of 5 % so that 1,000 comparisons show it.

    Bonferroni's bound keeps alarms below 50 in expectation, and Welch's t not far: 18 to 85 has a
    probability above 1 - 1e-4 for a binomial count with 40 to 49 expected.
    """
    monkeypatch.setattr("lamina.benchmarks.compare.FALSE_ALARM", 0.05)
    groups = np.random.default_rng(0).normal(size=(1000, 2, len(FIGURES), 8))
    means, errors = groups.mean(axis=-1), groups.std(axis=-1, ddof=1) / math.sqrt(8)
    alarms = 0
    for mean, error in zip(means, errors, strict=True):
        sides = [report(), report()]
        for which, content in enumerate(sides):
            content["summary"] = dict(zip(content["summary"], mean[which].tolist(), strict=True))
            content["rows"]["banana/hmc"]["spread"] = {
                figure: {"standard_error": one, "degrees_of_freedom": 7}
                for figure, one in zip(FIGURES, error[which].tolist(), strict=True)
            }
        alarms += bool(compare(*sides, tolerance=0).changes)
    assert 18 <= alarms <= 85


def test_a_figure_that_is_gone_is_worse_if_it_could_be_judged() -> None:
    new = report()
    del new["summary"]["ess_per_gradient/banana/hmc"], spread_of(new)["ess_per_gradient"]
    (change,) = compare(report(), new).changes
    assert change.is_worse
    assert math.isnan(change.new)
    unclear = report()
    del spread_of(unclear)["ess_per_gradient"]
    assert compare(unclear, new).changes == ()
    assert compare(unclear, report()).num_unclear == 1


def test_a_budget_that_no_longer_suffices_proves_nothing() -> None:
    old, new = report(), report()
    figure = "gradients_to_low_error"
    old["summary"][f"{figure}/banana/hmc"] = 1500.0
    spread_of(old)[figure] = {"standard_error": 50.0, "degrees_of_freedom": 7}
    found = compare(old, new)
    assert found.changes == ()
    assert any("the budget did not suffice" in note for note in found.notes)


def test_cells_that_are_missing_or_run_otherwise_are_noted() -> None:
    new = report()
    new["rows"]["banana/hmc"]["options"] = "HMC(jitter=0.5)"
    assert compare(report(), new).notes == ("banana/hmc ran as HMC(), and runs as HMC(jitter=0.5).",)
    other = {**report(), "rows": {}, "summary": {}}
    found = compare(report(), other)
    assert found.notes == ("banana/hmc is missing in NEW.",)
    assert (found.changes, found.num_compared) == ((), 0)


def test_times_of_another_machine_are_not_compared() -> None:
    new = changed("seconds_per_gradient", 5.0)
    new["provenance"]["cpu"] = "another"
    found = compare(report(), new)
    assert (found.changes, found.num_compared) == ((), len(FIGURES) - 1)
    assert "times are not compared" in found.notes[0]


def test_other_settings_and_foreign_files_are_refused() -> None:
    other = copy.deepcopy(report())
    other["settings"] |= {"num_chains": 128, "seed": 1}
    with pytest.raises(results.ResultsError, match="num_chains 64 and 128"):
        compare(report(), other)
    with pytest.raises(results.ResultsError, match="NEW has no figures with standard errors"):
        compare(report(), {"summary": {}})
    exactness = {**report(), "rows": {"banana/hmc/float32/identity": {"passed": True}}}
    digits = {**report(), "rows": [{"measure": "kl"}]}
    for foreign in (exactness, digits):
        with pytest.raises(results.ResultsError, match="OLD has no figures with standard errors"):
            compare(foreign, report())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, better = (str(tmp_path / f"{name}.json") for name in ("old", "new", "better"))
    results.write(report(), Path(old))
    results.write(changed("ess_per_gradient", 0.5), Path(new))
    results.write(changed("ess_per_gradient", 2.0), Path(better))
    assert main(["compare", old, new]) == 0
    printed = capsys.readouterr().out
    assert "-50%" in printed
    assert "worse" in printed
    assert "4 figures compared: 1 changed, 1 for the worse" in printed
    assert main(["compare", old, new, "--fail-on-regression"]) == 1
    assert main(["compare", old, better, "--fail-on-regression"]) == 0
    assert main(["compare", old, new, "--fail-on-regression", "--tolerance", "0.6"]) == 0
    capsys.readouterr()
    assert main(["compare", old, str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
