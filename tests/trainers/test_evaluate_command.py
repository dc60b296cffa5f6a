"""`lamina evaluate` part by part: files, pictures, what is kept and what is made anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image as matplotlib_image

from lamina.samplers import ParameterError, UnknownNameError
from lamina.trainers import Budget, ImageData, cli, job, load, measure_run
from lamina.trainers.evaluation import PARTS, finite, parts, summary_table

SMALL = {
    "num_samples": 60,
    "num_rows": 40,
    "num_weights": 3,
    "num_chains": 20,
    "num_stops": 3,
    "num_draws": 1,
    "num_chain_steps": 3,
    "num_long_steps": 80,
    "num_long_chains": 20,
}
FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def measured(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every part but the comparison measured, small, with outliers of the shape of digits."""
    folder = Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("measured") / "digits"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "load", loading_rings)
        assert cli.main(["evaluate", str(folder), "--parts", *PARTS, "--outliers", "rings", *FLAGS]) == 0
    return folder


def loading_rings(name: str, **_: Any) -> ImageData:
    """The digits, and under another name bright rings on grey, of which most are for training."""
    digits = load("digits")
    if name != "rings":
        return digits
    rings = torch.zeros_like(digits.test)
    rings[..., 1, :] = rings[..., -2, :] = 1
    return replace(digits, name="rings", train=rings[30:], test=rings[:30])


def report_of(folder: Path, part: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / job.MEASURED / f"{part}.json").read_text())
    return report


def test_every_part_writes_a_report_with_a_flat_summary(measured: Path) -> None:
    checksum = load("digits").checksum
    for part in PARTS:
        report = report_of(measured, part)
        assert report["part"] == part
        assert report["data"]["checksum"] == checksum
        assert report["summary"]
        assert all(isinstance(value, float) for value in report["summary"].values())


def test_pictures_are_drawn(measured: Path) -> None:
    for name in ("latents", "outliers", "damages", "resampled", "traversals", "chains", "long-run"):
        pixels = matplotlib_image.imread(measured / job.PICTURES / f"{name}.png")
        assert min(pixels.shape[:2]) > 80
        assert float(pixels[..., :3].std()) > 0


def test_generation_names_its_network_and_numbers(measured: Path) -> None:
    report = report_of(measured, "generation")
    names = {key.partition("/")[2] for key in report["summary"]}
    assert names == {"ebm", "base", "gaussian", "data"}
    assert all(key.startswith("mlp_") for key in report["summary"])
    assert report["num_per_side"] == 60
    assert len(report["feature_checksum"]) == 64
    assert report["feature_name"] == "mlp"
    assert report["feature_accuracy"] > 0.9
    assert report["summary"]["mlp_frechet_distance/data"] < report["summary"]["mlp_frechet_distance/base"]


def test_the_prior_is_measured_at_every_place(measured: Path) -> None:
    keys = {
        f"{measure}/{place}/{name}"
        for measure in ("kernel_distance", "two_sample_accuracy")
        for place in ("joint", "layer1", "layer2")
        for name in ("ebm", "base", "shuffled")
    }
    report = report_of(measured, "prior")
    assert report["summary"].keys() == keys
    assert report["num_per_side"] == 30  # of 60 draws of the posterior, half are shuffled


def test_likelihoods_are_ordered_and_labelled(measured: Path) -> None:
    report = report_of(measured, "likelihood")
    summary = report["summary"]
    assert summary["log_normalizer_lower"] <= summary["log_normalizer_upper"]
    assert summary["log_likelihood_lower/ebm"] <= summary["log_likelihood_no_bound/ebm"]
    for name in ("ebm", "base", "gaussian"):
        assert summary[f"elbo/{name}"] <= summary[f"log_likelihood_lower/{name}"]
    assert report["log_normalizer"]["reverse_from_chains"]["is_bound"] is False
    assert report["num_rows"] == 40


def test_outliers_are_scored_for_every_k_and_found_blind(measured: Path) -> None:
    report = report_of(measured, "outliers")
    summary = report["summary"]
    for score in (
        "bound/0",
        "bound/1",
        "ratio/1",
        "joint/0",
        "joint/1",
        "joint-ratio/1",
        "typicality",
        "reconstruction",
    ):
        for measure in ("auroc", "auprc", "fpr80"):
            assert 0 <= summary[f"{measure}/rings/{score}"] <= 1
    assert summary["auroc/rings/chosen"] == summary[f"auroc/rings/{report['chosen']}"]
    assert summary["auroc/rings/chosen"] > 0.95
    assert "rings" not in json.dumps(report["chosen_from"])
    assert report["num_per_side"] == {"rings": 40}


def test_the_hierarchy_has_a_figure_for_each_layer(measured: Path) -> None:
    report = report_of(measured, "hierarchy")
    summary = report["summary"]
    assert summary.keys() == {f"{name}/layer{i}" for name in ("probe_accuracy", "kl") for i in (1, 2)}
    assert report["num_probe_rows"] == 160
    assert 0.1 < report["probe_chance"] < 0.4


def test_chains_are_the_run_s_own_and_compared_with_long_ones(measured: Path) -> None:
    report = report_of(measured, "chains")
    summary = report["summary"]
    short = report["short_run"]
    assert (short["kernel"]["name"], short["num_steps"], short["start"]) == ("hmc", 2, "persistent")
    assert short["langevin_step_size"] == pytest.approx(short["step_size"] ** 2 / 2)
    assert short["langevin_time"] == pytest.approx(2 * 3**2 * short["langevin_step_size"])
    assert report["long_run"]["steps"][0] == 0
    assert report["long_run"]["steps"][-1] == 80
    assert report["long_run"]["energy"][0] == summary["energy/short"]
    assert report["long_run"]["energy"][-1] == summary["energy/long"]
    assert len(report["long_run"]["mlp_frechet_distance"]) == len(report["long_run"]["steps"]) >= 6
    assert report["not_finite"] == []
    sets = ("start", "short", "long", "drawn")
    assert summary.keys() == {
        "accept/short",
        *(f"mala_accept/{name}" for name in ("start", "short", "reference")),
        *(
            f"{figure}/layer{i}"
            for figure in ("displacement", "relaxation_times_slowest", "relaxation_times_median")
            for i in (1, 2)
        ),
        *(f"{figure}/{name}" for figure in ("energy", "norm/layer1", "norm/layer2") for name in (*sets, "reference")),
        *(f"mlp_frechet_distance/{name}" for name in (*sets, "reference", "data")),
        *(
            f"{measure}/{place}/{name}"
            for measure in ("kernel_distance", "two_sample_accuracy")
            for place in ("joint", "layer1", "layer2")
            for name in sets
        ),
        "reference_rhat",
        "reference_accept",
    }


def test_a_prior_without_energies_has_no_chains_to_measure(folder: Path) -> None:
    shutil.copy(folder / job.BASELINE / "checkpoint.pt", folder / "checkpoint.pt")
    report = measure_run(folder, ["chains"], budget=Budget(**SMALL))["chains"]
    assert report["summary"] == {}
    assert "no energies" in report["note"]


# ----------------------------------------------------------------------------------- kept, resumed, made anew


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "digits"))


def test_what_is_there_is_kept_until_something_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    report = parts.Part({"summary": {"figure": 1.0}})
    monkeypatch.setattr(job, "PARTS", {name: lambda _, name=name: made.append(name) or report for name in PARTS})
    budget = Budget(**SMALL)
    before = report_of(folder, "prior")
    assert measure_run(folder, ["prior"], budget=budget)["prior"] == before
    assert made == []
    measure_run(folder, ["prior"], budget=budget, again=True)
    measure_run(folder, ["hierarchy"], budget=replace(budget, num_rows=41))
    assert made == ["prior", "hierarchy"]
    (folder / job.MEASURED / "generation.json").write_text('{"digest": "cut sho')
    measure_run(folder, ["generation"], budget=budget)
    shutil.copy(folder / job.BASELINE / "checkpoint.pt", folder / "checkpoint.pt")
    measure_run(folder, ["prior"], budget=budget)
    assert made == ["prior", "hierarchy", "generation", "prior"]


def test_interrupted_scoring_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are there are read; one that was cut short is computed again, to the same numbers."""
    before = report_of(folder, "outliers")
    monkeypatch.setattr(job, "load", loading_rings)
    files = sorted((folder / job.MEASURED / "scores").rglob("*.pt"))
    assert len(files) == 10
    files[3].write_bytes(files[3].read_bytes()[:100])
    calls = []
    scorer = parts.Scorer.__call__
    monkeypatch.setattr(
        parts.Scorer, "__call__", lambda self, x, **kwargs: calls.append(len(x)) or scorer(self, x, **kwargs)
    )
    after = measure_run(folder, ["outliers"], budget=Budget(**SMALL), outliers=["rings"], again=True)["outliers"]
    assert calls == [40]
    assert after == before


# ------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be_measured_is_refused(digits_run: Path, monkeypatch: pytest.MonkeyPatch, data: ImageData) -> None:
    before = sorted((digits_run / job.MEASURED).rglob("*"))
    with pytest.raises(UnknownNameError, match="generation"):
        measure_run(digits_run, ["generations"])
    with pytest.raises(ParameterError, match="trained on"):
        measure_run(digits_run, ["outliers"], outliers=["digits"])
    digits = load("digits")
    monkeypatch.setattr(job, "load", lambda name, **_: digits if name == "digits" else data)
    with pytest.raises(
        ParameterError, match=r"shape of the run's images, \(1, 8, 8\); those of 'tiny' have \(1, 4, 4\)"
    ):
        measure_run(digits_run, ["outliers"], outliers=["tiny"])
    assert sorted((digits_run / job.MEASURED).rglob("*")) == before, "nothing was to be written"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", 0),
        ("num_rows", 19),
        ("num_chains", 1),
        ("num_draws", 0),
        ("num_long_steps", 79),
        ("num_long_chains", 19),
    ],
)
def test_budgets_of_nothing_are_refused(name: str, value: int) -> None:
    with pytest.raises(ParameterError, match=name):
        Budget(**{name: value})


def test_tables_and_reports_of_odd_numbers() -> None:
    table = summary_table({"auroc/a": 0.5, "auroc/b": 0.25, "alone": 1.0})
    assert [line.split() for line in table.splitlines()] == [
        ["a", "b"],
        ["auroc", "0.5000", "0.2500"],
        ["alone", "1.0000"],
    ]
    assert finite({"x": [float("nan"), 1.0], "y": {"z": float("inf")}}) == {"x": [None, 1.0], "y": {"z": None}}
