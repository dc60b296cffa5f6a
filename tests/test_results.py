"""What README says of committed results is what the results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lamina.benchmarks.exactness import cases

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def summary(name: str) -> dict[str, float]:
    content: dict[str, float] = json.loads((RESULTS / name).read_text())["summary"]
    return content


@pytest.mark.parametrize("name", ["digits.json", "exactness.json", "samplers.json"])
def test_results_have_a_flat_summary_and_an_origin(name: str) -> None:
    assert all(isinstance(value, int | float) for value in summary(name).values())
    origin = json.loads((RESULTS / name).read_text())["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert origin["is_modified"] is False


def test_table_of_readme_is_that_of_the_results() -> None:
    figures = summary("digits.json")
    rows = re.findall(r"^\| `(\w+)`: [^|]*\| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert {row[0] for row in rows} == {key.split("/")[0] for key in figures if key.endswith("/ebm/mean")}
    for measure, ours, *rivals in rows:
        assert ours == f"{figures[f'{measure}/ebm/mean']:.4f}"
        for rival, cell in zip(("base", "gaussian"), rivals, strict=True):
            if cell != "-":
                errors = figures[f"{measure}/{rival}-ebm/standard_errors"]
                assert cell == f"{figures[f'{measure}/{rival}/mean']:.4f} ({errors:.1f})"


def test_the_ebm_prior_wins() -> None:
    """Better on each of three seeds in each measure, and by more than two standard errors."""
    figures = summary("digits.json")
    errors = {key: value for key, value in figures.items() if key.endswith("-ebm/standard_errors")}
    assert len(errors) >= 8
    assert min(errors.values()) > 2
    assert all(figures[key.replace("standard_errors", "wins")] == 3 for key in errors)


def test_every_case_of_the_exactness_matrix_passed() -> None:
    figures = summary("exactness.json")
    assert figures["num_passed"] == figures["num_cases"] == len(cases())
