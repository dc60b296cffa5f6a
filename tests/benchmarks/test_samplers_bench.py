"""The sampler benchmark: what it measures, what it writes, and that it sees a wrong kernel."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.benchmarks import samplers
from lamina.benchmarks.cli import main
from lamina.benchmarks.densities import DENSITIES, Gaussian, make_density
from lamina.benchmarks.pictures import CONTOUR_MASSES, contour_levels, heights
from lamina.samplers import HMC, KERNELS, MALA, ULA

FIGURES = (
    "mean_error_mcse",
    "second_moment_error_mcse",
    "ess_per_second",
    "ess_per_gradient",
    "rhat",
    "accept",
    "divergences",
)
TINY = ["--densities", "unequal_mixture", "funnel", "--chains", "6", "--draws", "60", "--warmup", "20"]
EASY = samplers.Settings(num_chains=50, num_draws=400, num_warmup=150)

# An average of draws exceeds this many standard errors with probability 1e-5 if it is normal. The error is estimated
# as well, but from thousands of effective draws.
LIMIT = 4.4


@pytest.fixture(scope="module")
def printed_and_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("bench")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["samplers", *TINY, "--out", str(out)]) == 0
    return printed.getvalue(), out


@pytest.fixture
def tiny(printed_and_out: tuple[str, Path]) -> Path:
    return printed_and_out[1]


def test_table_has_a_line_for_each_pair(printed_and_out: tuple[str, Path]) -> None:
    header, *lines, last = printed_and_out[0].splitlines()
    assert header.split()[:2] == ["density", "kernel"]
    assert [line.split()[:2] for line in lines] == [[d, k] for d in ("unequal_mixture", "funnel") for k in KERNELS]
    assert all("biased: unadjusted" in line for line in lines if line.split()[1] == "ula")
    assert all("heavy-tailed in 9 of 10" in line for line in lines if line.startswith("funnel"))
    assert (
        header.index("accept") + len("accept") == lines[0].index(lines[0].split()[7]) + 4
    )  # numbers end where names do
    assert str(printed_and_out[1] / "samplers.json") in last


def test_json_holds_rows_summary_and_provenance(tiny: Path) -> None:
    report = json.loads((tiny / "samplers.json").read_text(), parse_constant=pytest.fail)
    assert set(report) == {"benchmark", "settings", "rows", "summary", "provenance"}
    assert report["settings"] == {
        "num_chains": 6,
        "num_draws": 60,
        "num_warmup": 20,
        "seed": 0,
        "dtype": "float64",
    }
    pairs = [(row["density"], row["kernel"]) for row in report["rows"]]
    assert pairs == [(d, k) for d in ("unequal_mixture", "funnel") for k in KERNELS]
    assert set(report["summary"]) == {f"{figure}/{d}/{k}" for figure in FIGURES for d, k in pairs}
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in report["summary"].values())
    for row in report["rows"]:
        name = f"{row['density']}/{row['kernel']}"
        assert row["ess_per_second"] == pytest.approx(row["ess"] / row["seconds"])
        assert report["summary"][f"ess_per_second/{name}"] == row["ess_per_second"]
        assert row["step_size"] > 0
    gradients = {row["kernel"]: row["ess"] / row["ess_per_gradient"] for row in report["rows"]}
    assert gradients == pytest.approx({"ula": 360, "mala": 360, "hmc": 3600})


def test_pictures_are_small_pngs(tiny: Path) -> None:
    pictures = sorted((tiny / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["funnel.png", "unequal_mixture.png"]
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 100_000


def test_nothing_is_left_aside(tiny: Path) -> None:
    assert {path.name for path in tiny.iterdir()} == {"samplers.json", "pictures"}


def test_same_seed_same_figures_whatever_else_runs(tiny: Path, tmp_path: Path) -> None:
    arguments = [*TINY[:1], "funnel", *TINY[3:], "--kernels", "hmc", "--out", str(tmp_path)]
    assert main(["samplers", *arguments]) == 0
    alone = json.loads((tmp_path / "samplers.json").read_text())["summary"]
    together = json.loads((tiny / "samplers.json").read_text())["summary"]
    timed = "ess_per_second/funnel/hmc"
    assert {name: value for name, value in alone.items() if name != timed} == {
        name: together[name] for name in alone if name != timed
    }


@pytest.mark.parametrize(("name", "kernel"), [("mala", MALA()), ("hmc", HMC(num_leapfrog_steps=5, jitter=0.3))])
def test_an_exact_kernel_is_within_its_error(name: str, kernel: MALA | HMC) -> None:
    row, draws = samplers.measure(make_density("unequal_mixture"), name, kernel, EASY)
    assert row.mean_error_mcse < LIMIT
    assert row.second_moment_error_mcse < LIMIT
    assert row.accept == pytest.approx(kernel.target_accept, abs=0.1)
    assert draws.shape == (50, 400, 2)


def test_a_wrong_energy_shows_as_many_standard_errors() -> None:
    truth = Gaussian.from_covariance([[1.0]])
    kernel = HMC(num_leapfrog_steps=3, jitter=0.3)
    shifted, _ = samplers.measure(truth, "hmc", kernel, EASY, energy=lambda x: 0.5 * (x - 0.3).square().sum(1))
    assert shifted.mean_error_mcse > 10
    wide, _ = samplers.measure(truth, "hmc", kernel, EASY, energy=lambda x: 0.5 * x.square().sum(1) / 1.5)
    assert wide.mean_error_mcse < LIMIT
    assert wide.second_moment_error_mcse > 10


def test_an_unadjusted_kernel_runs_at_its_share_of_malas_step_and_is_called_biased() -> None:
    density = Gaussian.from_covariance([[1.0]])
    row, draws = samplers.measure(density, "ula", ULA(), EASY)
    guide, _ = samplers.measure(density, "mala", MALA(), EASY)
    assert row.remarks[0] == "biased: unadjusted"
    assert row.step_size == pytest.approx(samplers.UNADJUSTED_SHARE * guide.step_size, rel=0.25)
    # ULA's own variance is 1 / (1 - h / 2): the error that is reported must be that excess in standard errors.
    excess = 1 / (1 - row.step_size / 2) - 1
    reported = row.second_moment_error_mcse * float(samplers.mcse_mean(draws.square()))
    assert reported == pytest.approx(excess, abs=LIMIT * float(samplers.mcse_mean(draws.square())))
    assert row.second_moment_error_mcse > LIMIT


def test_stuck_chains_are_remarked() -> None:
    settings = samplers.Settings(num_chains=20, num_draws=100, num_warmup=20)
    row, _ = samplers.measure(make_density("ring_mixture"), "mala", MALA(), settings)
    assert row.rhat > 1.01
    assert any(remark.startswith("R-hat > 1.01") for remark in row.remarks)


def test_figures_that_are_not_finite_stay_out_of_the_summary() -> None:
    settings = samplers.Settings(num_chains=4, num_draws=20, num_warmup=1)
    density = make_density("banana")
    row, _ = samplers.measure(density, "stuck", _Stuck(), settings)
    assert math.isnan(row.rhat)
    assert "draws constant or not finite" in row.remarks
    assert "rhat/banana/stuck" not in samplers.summary([row])
    assert samplers.summary([row])["accept/banana/stuck"] == 0.0


class _Stuck(MALA):
    """Rejects everything, with the same start for all chains."""

    def init(self, target: Any, position: Any, params: Any) -> Any:
        return super().init(target, torch.ones_like(position), params)

    def step(self, target: Any, state: Any, noise: Any, params: Any) -> Any:
        _, info = super().step(target, state, noise, params)
        zero = torch.zeros_like(info.accept_prob)
        return state, info._replace(accept_prob=zero, is_accepted=zero > 1)


def test_heavy_tails_are_found_where_they_are() -> None:
    heavy = {name: samplers.heavy_tailed_squares(make_density(name)).tolist() for name in DENSITIES}
    assert heavy.pop("funnel") == [False] + 9 * [True]
    assert not any(any(flags) for flags in heavy.values())


@pytest.mark.parametrize("name", ["banana", "funnel", "stiff_gaussian"])
def test_contours_hold_their_share_of_exact_draws(name: str) -> None:
    density = make_density(name)
    grid = heights(density)
    x = density.sample(20_000, generator=torch.Generator().manual_seed(1))[:, :2]
    low, high = torch.tensor(density.plot_box, dtype=torch.float64).T
    cell = ((x - low) / (high - low) * len(grid)).floor().long()
    inside = ((cell >= 0) & (cell < len(grid))).all(1)
    drawn = grid[cell[inside, 0], cell[inside, 1]]
    levels = contour_levels(density, grid)
    assert levels == sorted(levels)
    for level, share in zip(levels, CONTOUR_MASSES, strict=True):
        # 4.4 standard errors of a share, false alarms 1e-5 each, and a thousandth for ties between draws of a cell.
        assert (drawn >= level).double().mean() == pytest.approx(share, abs=4.4 * math.sqrt(0.25 / 20_000) + 1e-3)
