"""What README and docs say of committed results is what the results say, and goals once reached stay reached."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lamina.benchmarks.exactness import cases
from lamina.benchmarks.paper.command import STUDIES
from lamina.benchmarks.paper.report import write_report
from lamina.benchmarks.peers.report import markdown_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MATRICES = ["exactness.json", *sorted(path.name for path in RESULTS.glob("exactness-*.json"))]
"""One for each engine whose results are committed."""


def summary(name: str) -> dict[str, float]:
    content: dict[str, float] = json.loads((RESULTS / name).read_text())["summary"]
    return content


@pytest.mark.parametrize("name", ["digits.json", *MATRICES, "samplers.json", *(f"{name}.json" for name in STUDIES)])
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


def test_generation_in_readme_is_that_of_the_results() -> None:
    figures = summary("generation.json")
    rows = re.findall(r"^\| `([a-z]+)`: [^|]*\| ([\d.]+) ± ([\d.]+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) == 4
    for group, *cells in rows:
        key = f"frechet/mnist/{group}"
        assert cells == [f"{figures[key]:.1f}", f"{figures[f'{key}/sd']:.1f}"]


def test_mala_learns_better_than_hmc_in_both_roles_at_equal_time_as_the_docs_recommend() -> None:
    figures = summary("swap.json")
    for role in ("prior", "posterior"):
        assert figures[f"ahead_of_hmc/{role}/mala"] == 3
        assert figures[f"cpu_seconds/{role}/mala"] == pytest.approx(figures[f"cpu_seconds/{role}/hmc"], rel=0.02)
        assert [figures[f"lost/{role}/{sampler}"] for sampler in ("mala", "hmc")] == [0, 0]


def test_times_in_readme_are_those_of_the_results() -> None:
    figures, text = summary("speed.json"), (ROOT / "README.md").read_text().replace("\n", " ")
    sentence = re.search(
        r"training images after (\d+) CPU seconds, .* after (\d+); .* come to neither in (\d+)\.", text
    )
    assert sentence is not None
    levels = ["level-20", "level-5"]
    ours = [figures[f"seconds/mnist/default/{level}"] for level in levels]
    whole = figures["cpu_seconds/mnist/published"]
    assert list(sentence.groups()) == [f"{seconds:.0f}" for seconds in (*ours, whole)]
    assert all(figures[f"reached/mnist/published/{level}"] == 0 for level in levels)
    assert all(
        figures[f"speed_up_at_least/mnist/{level}"] == whole / time for level, time in zip(levels, ours, strict=True)
    )


def test_the_ebm_prior_wins() -> None:
    """Better on each of three seeds in each measure, and by more than two standard errors."""
    figures = summary("digits.json")
    errors = {key: value for key, value in figures.items() if key.endswith("-ebm/standard_errors")}
    assert len(errors) >= 8
    assert min(errors.values()) > 2
    assert all(figures[key.replace("standard_errors", "wins")] == 3 for key in errors)


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist"])
def test_the_joint_prior_is_ahead_by_what_is_its_goal(data: str) -> None:
    """It cuts the rivals' mean Frechet distance by at least so much, in half of the published procedure's time."""
    figures = summary("generation.json")
    assert figures[f"cut/{data}/gaussian"] >= 0.4
    assert figures[f"cut/{data}/single"] >= 0.1
    assert figures[f"cut/{data}/published"] > 0
    assert figures[f"share/{data}/published"] <= 0.5


def test_other_data_sets_are_told_apart_as_well_as_is_the_goal() -> None:
    """On MNIST at least as well as the best published figure."""
    figures = {key: value for key, value in summary("ood.json").items() if re.fullmatch("auroc/[a-z-]+", key)}
    assert figures.keys() == {f"auroc/fmnist-{other}" for other in ("mnist", "kmnist", "notmnist", "omniglot")}
    assert figures.pop("auroc/fmnist-mnist") >= 0.984
    assert min(figures.values()) >= 0.9


def test_held_out_digits_are_found_better_than_by_the_paper_but_for_one() -> None:
    """On average; of two seeds 7 is found as well as by the paper."""
    figures = summary("anomaly.json")
    ahead = {key.rpartition("/")[2] for key, value in figures.items() if key.startswith("ahead_of_jebm/") and value}
    assert ahead >= {"1", "4", "7", "9"}
    assert figures["auprc/5/mean"] > 0.96


def test_chains_stay_in_the_law_that_noise_contrast_teaches_and_leave_what_short_chains_do() -> None:
    figures = summary("prior.json")
    data = figures["frechet/mnist/joint/data"]
    assert figures["frechet_after_2500/mnist/joint-nce"] < 1.5 * data < figures["frechet_after_2500/mnist/joint"] / 3
    assert figures["reference_rhat/mnist/joint-nce"] < 1.1 < figures["reference_rhat/mnist/joint"]
    priors = [figures[f"two_sample_joint/mnist/{group}"] for group in ("joint-nce/ebm", "joint-nce/base", "joint/ebm")]
    assert priors == sorted(priors)


def test_an_image_is_best_heard_in_all_layers_of_a_ladder() -> None:
    figures = {key: value for key, value in summary("ladder.json").items() if re.fullmatch("auroc/.*>[0-9]", key)}
    for group in {key.split("/")[1] for key in figures}:
        best = max((key for key in figures if key.split("/")[1] == group), key=lambda key: figures[key])
        assert best.endswith(("bound>0", "joint>0"))


@pytest.mark.parametrize("name", MATRICES)
def test_every_case_of_the_exactness_matrix_passed(name: str) -> None:
    content = json.loads((RESULTS / name).read_text())
    figures, engine = content["summary"], content["settings"].get("engine", "eager")
    refused = figures.get("num_refused", 0)
    assert figures["num_passed"] + refused == figures["num_cases"] == len(cases(engine=engine))
    assert refused <= (0 if engine == "eager" else len(cases()) / 8)
    assert name == ("exactness.json" if engine == "eager" else f"exactness-{engine}.json")


def test_page_of_peers_is_what_its_figures_say() -> None:
    content = json.loads((RESULTS / "peers.json").read_text())
    assert markdown_report(content["rows"], content["versions"]) == (RESULTS / "peers.md").read_text()


def test_products_in_bfloat16_were_measured_as_the_docs_say() -> None:
    rows = json.loads((RESULTS / "peers.json").read_text())["rows"]
    ran = [
        row["contenders"]["lamina-bfloat16"]["engine"]
        for row in rows.values()
        if "lamina-bfloat16" in row["contenders"]
    ]
    assert len(ran) == 2
    assert {engine.partition(":")[0] for engine in ran} == {"compile"}


def test_docs_have_a_row_for_every_study_and_a_link_to_every_result() -> None:
    text = (ROOT / "docs" / "paper.md").read_text()
    first, second = re.findall(r"^\| study \|.*\n((?:\|.*\n)+)", text, re.M)
    assert re.findall(r"^\| `(\w+)` \|", first, re.M) == list(STUDIES)
    assert re.findall(r"\]\(\.\./benchmarks/results/(\w+)\.json\)", second) == list(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_summary_and_differences_of_a_study_are_those_of_its_code(name: str) -> None:
    content = json.loads((RESULTS / f"{name}.json").read_text())
    rows = {cell: row["figures"] for cell, row in content["rows"].items()}
    assert content["summary"] == STUDIES[name].summary(rows)
    assert content["differences"] == list(STUDIES[name].differences)


@pytest.mark.parametrize("name", STUDIES)
def test_page_of_a_study_is_what_its_figures_say(name: str, tmp_path: Path) -> None:
    content = json.loads((RESULTS / f"{name}.json").read_text())
    write_report(STUDIES[name], content, tmp_path)
    assert (tmp_path / f"{name}.md").read_text() == (RESULTS / f"{name}.md").read_text()
    for section in ("What the papers had", "What we had", "What differs from the papers"):
        assert (tmp_path / f"{name}.md").read_text().count(f"\n## {section}\n\n- ") == 1
    assert content["settings"]["preset"] == "cpu"
    assert {picture.name for picture in (tmp_path / "pictures").iterdir()} == {
        picture.name for picture in (RESULTS / "pictures").glob(f"{name}-*")
    }
