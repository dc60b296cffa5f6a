"""The comparison of priors over seeds: its arithmetic, and what it refuses to read. Nothing is trained here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.benchmarks import digits, results
from lamina.benchmarks.cli import main
from lamina.benchmarks.results import ResultsError
from lamina.trainers.job import EVALUATION
from lamina.trainers.loop import Training

FIGURES = {
    0: {"kernel_distance/ebm": 1.0, "kernel_distance/base": 2.0, "kernel_distance/gaussian": 0.5},
    1: {"kernel_distance/ebm": 2.0, "kernel_distance/base": 4.0, "kernel_distance/gaussian": 2.5},
    2: {"kernel_distance/ebm": 3.0, "kernel_distance/base": 6.0, "kernel_distance/gaussian": 3.0},
}


def evaluation(seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "num_samples": 2000,
        "num_held_out": 500,
        "features": "an MLP",
        "steps": {"model": 40, "gaussian": 80},
        "data": {"name": "digits", "checksum": "abc", "source": "scikit-learn"},
        "seconds": {"model": 10.0 + seed, "gaussian": 20.0},
        "summary": {**FIGURES[seed], "latent_accuracy/ebm": 0.5, "latent_accuracy/base": 0.75},
        **changes,
    }


def write(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVALUATION
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[digits.Evaluation]:
    return [digits.read_evaluation(write(tmp_path / str(seed), evaluation(seed))) for seed in FIGURES]


# --- arithmetic ---


def test_rows_are_paired_by_seed(three: list[digits.Evaluation]) -> None:
    base, gaussian, latent = digits.compare(three)
    assert [(row.measure, row.rival) for row in (base, gaussian, latent)] == [
        ("kernel_distance", "base"),
        ("kernel_distance", "gaussian"),
        ("latent_accuracy", "base"),
    ]
    assert (base.ours, base.theirs, base.wins) == ((1.0, 2.0, 3.0), (2.0, 4.0, 6.0), 3)
    assert base.mean_difference == 2.0  # of 1, 2, 3
    assert base.standard_error == pytest.approx(1 / math.sqrt(3))
    assert base.standard_errors == pytest.approx(2 * math.sqrt(3))
    assert base.ratio == 0.5
    assert (gaussian.wins, gaussian.mean_difference, gaussian.ratio) == (1, 0.0, 1.0)  # of -0.5, 0.5, and a draw
    assert gaussian.standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_summary_is_flat_and_finite(three: list[digits.Evaluation]) -> None:
    summary = digits.summary(digits.compare(three), three)
    assert summary["kernel_distance/ebm/mean"] == 2.0
    assert summary["kernel_distance/base/mean"] == 4.0
    assert summary["kernel_distance/base-ebm/mean"] == 2.0
    assert summary["kernel_distance/base-ebm/standard_errors"] == pytest.approx(2 * math.sqrt(3))
    assert summary["kernel_distance/gaussian-ebm/wins"] == 1
    assert summary["training_seconds/model/mean"] == 11.0
    assert (summary["num_seeds"], summary["num_samples"], summary["num_held_out"]) == (3, 2000, 500)
    # All seeds differ by the same: no spread, so no number of standard errors.
    assert summary["latent_accuracy/base-ebm/standard_error"] == 0.0
    assert "latent_accuracy/base-ebm/standard_errors" not in summary


def test_one_seed_has_no_standard_error(three: list[digits.Evaluation]) -> None:
    rows = digits.compare(three[:1])
    summary = digits.summary(rows, three[:1])
    assert summary["kernel_distance/base-ebm/mean"] == 1.0
    assert not any("standard_error" in name for name in summary)
    assert " - " in digits.table(rows)


def test_table_has_a_line_for_each_measure_and_rival(three: list[digits.Evaluation]) -> None:
    header, *lines = digits.table(digits.compare(three)).splitlines()
    assert header.startswith("measure")
    assert lines[0].split() == ["kernel_distance", "base", "2.00000", "4.00000", "3/3", "+2.00000", "0.57735", "0.500"]
    assert len(lines) == 3


# --- damage ---


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps(evaluation(0))[:200], "wanted a JSON object"),
        ("", "wanted a JSON object"),
        ("[1, 2]", "got list"),
        (json.dumps({**evaluation(0), "seconds": {"model": math.nan}}), "NaN"),
        ({"summary": {}}, "lacks seconds"),
        (evaluation(0, summary={"kernel_distance/ebm": "small"}), "'summary' must give a number"),
        (evaluation(0, summary=[1.0]), "'summary' must give a number"),
        (evaluation(0, data="digits"), "no checksum"),
    ],
)
def test_a_damaged_evaluation_is_refused(tmp_path: Path, content: Any, what: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ResultsError, match=what) as caught:
        digits.read_evaluation(path)
    assert str(path) in str(caught.value)
    assert f"lamina evaluate {tmp_path}" in str(caught.value)


def test_a_missing_evaluation_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read"):
        digits.read_evaluation(tmp_path / EVALUATION)
    (tmp_path / EVALUATION).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="cannot be read"):
        digits.read_evaluation(tmp_path / EVALUATION)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": {"checksum": "other"}}, "data"),
        ({"num_samples": 3}, "num_samples"),
        ({"summary": {"kernel_distance/ebm": 1.0}}, "measures"),
    ],
)
def test_seeds_of_different_experiments_are_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    both = [write(tmp_path / "a", evaluation(0)), write(tmp_path / "b", evaluation(1, **changes))]
    with pytest.raises(ResultsError, match=f"differ in {what}"):
        digits.compare([digits.read_evaluation(path) for path in both])


def test_an_evaluation_without_rivals_is_refused(tmp_path: Path) -> None:
    alone = digits.read_evaluation(write(tmp_path, evaluation(0, summary={"kernel_distance/ebm": 1.0})))
    with pytest.raises(ResultsError, match="compares nothing"):
        digits.compare([alone])


# --- the command, on finished runs ---


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Three runs as the main job leaves them, with checkpoints of step zero and evaluations made up."""
    for seed in FIGURES:
        config = digits.configuration(seed, 40)
        run = tmp_path / digits.RUNS / f"digits-40-steps-seed-{seed}"
        write(run, evaluation(seed))
        Training(config, digits_data(), torch.device("cpu")).save(run)
    return tmp_path


def digits_data() -> Any:
    from lamina.trainers.data import load

    return load("digits")


def command(out: Path, *more: str) -> list[str]:
    return ["digits", "--max-steps", "40", "--out", str(out), *more]


def test_finished_runs_are_used_as_they_are(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished)) == 0
    assert "kernel_distance" in capsys.readouterr().out
    report = json.loads((finished / "digits.json").read_text(), parse_constant=pytest.fail)
    assert report["data"]["checksum"] == "abc"
    assert report["settings"]["num_steps"] == 40
    assert "seed" not in report["settings"]
    assert report["provenance"]["seeds"] == [0, 1, 2]
    assert [seconds["model"] for seconds in report["training_seconds"]] == [10.0, 11.0, 12.0]
    assert report["summary"]["kernel_distance/base-ebm/wins"] == 3
    assert report["rows"][2]["standard_errors"] is None


def test_missing_evaluations_are_resumed_and_missing_runs_started(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    def job(name: str, seed: int) -> Any:
        def do(*arguments: Any, **options: Any) -> None:
            folder = arguments[-1]
            calls.append((name, folder.name))
            write(folder, evaluation(seed))

        return do

    runs = finished / digits.RUNS
    (runs / "digits-40-steps-seed-1" / EVALUATION).unlink()
    (runs / "digits-40-steps-seed-2").rename(finished / "away")
    monkeypatch.setattr(digits, "resume", job("resume", 1))
    monkeypatch.setattr(digits, "start", job("start", 2))
    assert main(command(finished)) == 0
    assert calls == [("resume", "digits-40-steps-seed-1"), ("start", "digits-40-steps-seed-2")]


def test_a_run_of_another_configuration_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = finished / digits.RUNS
    (runs / "digits-40-steps-seed-0").rename(runs / "digits-41-steps-seed-0")
    assert main(["digits", "--max-steps", "41", "--seeds", "0", "--out", str(finished)]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_damage_ends_the_command_with_a_message(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(finished / digits.RUNS / "digits-40-steps-seed-1", "{")
    assert main(command(finished)) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (finished / "digits.json").exists()


def test_results_are_laid_out_for_people(tmp_path: Path) -> None:
    """A line for each figure of the summary, for each flat dict below, and for each list of numbers."""
    rows = {"a/b": {"passed": True, "distance": 0.5}, "c": {"curve": [1.0, math.inf], "spread": {}}}
    content = {"rows": rows, "summary": {"x": 1, "y": 2.0}, "seeds": [0, 1], "parts": [{"u": "ü"}, [None]]}
    results.write(content, tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text().splitlines() == [
        "{",
        '  "rows": {',
        '    "a/b": {"passed": true, "distance": 0.5},',
        '    "c": {',
        '      "curve": [1.0, "inf"],',
        '      "spread": {}',
        "    }",
        "  },",
        '  "summary": {',
        '    "x": 1,',
        '    "y": 2.0',
        "  },",
        '  "seeds": [0, 1],',
        '  "parts": [',
        '    {"u": "\\u00fc"},',
        "    [null]",
        "  ]",
        "}",
    ]


def test_results_keep_an_earlier_file_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    results.write({"value": math.inf, "other": [1, math.nan]}, path)
    assert json.loads(path.read_text()) == {"value": "inf", "other": [1, None]}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left"):
        results.write({"value": 1}, path)
    assert json.loads(path.read_text())["value"] == "inf"
    assert [left.name for left in tmp_path.iterdir()] == ["x.json"]
