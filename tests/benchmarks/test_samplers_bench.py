"""The sampler benchmark: what it measures, what it writes, that it goes on, and that it sees a wrong kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pytest
import torch
from torch import Tensor

from lamina.benchmarks import accuracy, cli, compare, results, samplers
from lamina.benchmarks.cli import main
from lamina.benchmarks.contenders import unadjusted_step_size
from lamina.benchmarks.densities import DENSITIES, Density, Gaussian, make_density
from lamina.benchmarks.memory import PeakMemory
from lamina.benchmarks.pictures import CONTOUR_MASSES, contour_levels, heights, some_points
from lamina.benchmarks.samplers import CHAINS_PER_START, Settings
from lamina.samplers import HMC, MALA, MCLMC, RWM, ULA, UnderdampedLangevin, UnknownNameError, driver, mcse_mean
from lamina.samplers.engines import DEFAULT_VARIABLE, EngineName

DENSITY_NAMES, KERNEL_NAMES = ("unequal_mixture", "funnel"), ("ula", "mala", "hmc")
TINY = ["--chains", "32", "--gradients", "200", "--warmup", "20"]
CELLS = ["--densities", *DENSITY_NAMES, "--kernels", *KERNEL_NAMES]
EASY = Settings(num_chains=64, budget="draws", amount=250, num_warmup=100)
LINE = Gaussian.from_covariance([[1.0]])

# An average of draws exceeds this many standard errors with probability 1e-5 if it is normal. The error is estimated
# as well, but from thousands of effective draws.
LIMIT = 4.4


@dataclasses.dataclass(frozen=True)
class Made:
    printed: str
    out: Path
    exported: Path

    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "samplers.json").read_text(), parse_constant=pytest.fail)
        return content


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out, exported = tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("exported")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["samplers", *CELLS, *TINY, "--out", str(out), "--export", str(exported)]) == 0
    return Made(printed.getvalue(), out, exported)


def names() -> list[str]:
    return [samplers.cell_name(d, k) for d in DENSITY_NAMES for k in KERNEL_NAMES]


# --- What it writes ---------------------------------------------------------------------------------------------


def test_table_has_a_line_for_each_pair(made: Made) -> None:
    header, *lines, common, last = made.printed.splitlines()
    assert header.split()[:2] == ["density", "kernel"]
    assert ["/".join(line.split()[:2]) for line in lines] == names()
    assert all("biased: unadjusted" in line for line in lines if line.split()[1] == "ula")
    assert all("heavy-tailed in 9 of 10" in line for line in lines if line.startswith("funnel"))
    assert all(line[header.index("R-hat") : header.index("R-hat") + 5].replace(".", "").isdigit() for line in lines)
    assert common == "32 chains, 200 gradients, 20 steps of warm-up, seed 0, float64 on cpu, engine eager"
    assert str(made.out / "samplers.json") in last


def test_markdown_has_the_same_cells(made: Made) -> None:
    header, rule, *lines, empty, common = (made.out / "samplers.md").read_text().splitlines()
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    assert set(rule) == set("| -:")
    printed = made.printed.splitlines()[1:-1]
    assert [line.replace("|", "").split() for line in lines] == [line.split() for line in printed[:-1]]
    assert (empty, common) == ("", printed[-1])


def test_json_holds_rows_summary_and_provenance(made: Made) -> None:
    report = made.report()
    assert set(report) == {"benchmark", "settings", "rows", "summary", "provenance"}
    assert report["settings"] == {
        "num_chains": 32,
        "budget": "gradients",
        "amount": 200,
        "num_warmup": 20,
        "seed": 0,
        "dtype": "float64",
        "device": "cpu",
        "engine": "eager",
    }
    assert list(report["rows"]) == names()
    always = set(samplers.SUMMARISED) - {"gradients_to_low_error", "gradients_to_low_error_worst"}
    assert set(report["summary"]) >= {f"{figure}/{name}" for figure in always for name in names()}
    assert all(math.isfinite(value) for value in report["summary"].values())
    for name, row in report["rows"].items():
        assert {f"{figure}/{name}" for figure in row["spread"]} <= set(report["summary"])
        assert report["summary"][f"ess_per_second/{name}"] == row["ess_per_second"]
        speed = row["gradients_per_draw"] * row["num_draws"] * row["seconds_per_gradient"]
        assert row["ess_per_second"] == pytest.approx(row["ess"] / speed)
        assert row["ess_per_gradient"] == pytest.approx(row["ess"] / (32 * 200))
        assert row["step_size"] > 0
        assert row["warmup_seconds"] > 0
        assert row["curve"]["gradients"][-1] == CHAINS_PER_START * 200
        assert row["curve"]["average"][-1] == row["final_error"] <= row["curve"]["worst"][-1]
    draws = {row["kernel"]: row["num_draws"] for row in report["rows"].values()}
    assert draws == {"ula": 200, "mala": 200, "hmc": 20}


def test_pictures_are_small_pngs(made: Made) -> None:
    pictures = {picture.name: picture for picture in (made.out / "pictures").glob("*.png")}
    assert set(pictures) == {f"{name}{kind}.png" for name in DENSITY_NAMES for kind in ("", "-error")}
    for picture in pictures.values():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 100_000


def test_nothing_is_left_aside(made: Made) -> None:
    assert {path.name for path in made.out.iterdir()} == {"samplers.json", "samplers.md", "pictures"}
    points = {path.name for path in (made.out / "pictures" / "points").iterdir()}
    assert points == {f"{name.replace('/', '-')}.npy" for name in names()}


@pytest.mark.parametrize("name", names())
def test_an_outside_library_finds_the_same_diagnostics_in_exported_draws(made: Made, name: str) -> None:
    row = made.report()["rows"][name]
    with np.load(made.exported / f"{name.replace('/', '-')}.npz") as stored:
        draws, afar = stored["from_truth"], stored["from_afar"]
    assert draws.shape == afar.shape == (32, row["num_draws"], make_density(row["density"]).dim)
    columns = [draws[..., d] for d in range(draws.shape[-1])]
    ess = min(float(arviz_stats.base.array_stats.ess(column, method="bulk")) for column in columns)
    rhat = max(float(arviz_stats.base.array_stats.rhat(column)) for column in columns)
    assert row["ess"] == pytest.approx(ess, rel=1e-8)
    assert row["rhat"] == pytest.approx(rhat, rel=1e-8)


# --- Resuming ---------------------------------------------------------------------------------------------------


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else that such small runs do."""
    monkeypatch.setattr(cli, "draws_over_density", lambda *arguments: None)
    monkeypatch.setattr(cli, "error_against_gradients", lambda *arguments: None)


def timeless(summary: dict[str, float]) -> dict[str, float]:
    measured = ("ess_per_second", "seconds_per_gradient", "warmup_seconds", "peak_memory")
    return {name: value for name, value in summary.items() if not name.startswith(measured)}


@pytest.mark.usefixtures("without_pictures")
def test_same_seed_same_figures_whatever_else_runs(made: Made, tmp_path: Path) -> None:
    assert main(["samplers", "--densities", "funnel", "--kernels", "hmc", *TINY, "--out", str(tmp_path)]) == 0
    alone = timeless(json.loads((tmp_path / "samplers.json").read_text())["summary"])
    assert len(alone) > 8
    assert alone.items() <= timeless(made.report()["summary"]).items()


@pytest.mark.usefixtures("without_pictures")
def test_a_killed_run_goes_on(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [samplers.cell_name("unequal_mixture", kernel) for kernel in KERNEL_NAMES]
    command = ["samplers", "--densities", "unequal_mixture", *CELLS[3:], *TINY, "--out", str(tmp_path)]
    path = tmp_path / "samplers.json"
    script = "import sys; from lamina.benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", script, *command], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept, code_of_child = results.read(path)["rows"], results.read(path)["provenance"]["code"]
    monkeypatch.setattr(results, "_code_digest", lambda: code_of_child)  # one code, whoever edits it meanwhile
    assert 1 <= len(kept) < len(wanted)
    assert main(command) == 0
    report = results.read(path)
    assert list(report["rows"]) == wanted
    assert {name: report["rows"][name] for name in kept} == kept  # times too: these were not measured again
    uninterrupted = timeless(made.report()["summary"])
    assert timeless(report["summary"]) == {name: uninterrupted[name] for name in uninterrupted if "unequal" in name}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("change", [["--seed", "1"], ["--fresh"], ["--export", "exported"], ["--engine", "native"]])
def test_rows_are_measured_again_where_they_must_be(
    change: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured: list[str] = []
    measure = samplers.measure

    def counted(density: Density, name: str, *others: Any) -> Any:
        measured.append(name)
        return measure(density, name, *others)

    monkeypatch.setattr(samplers, "measure", counted)
    command = ["samplers", "--densities", "unequal_mixture", "--kernels", "mala", *TINY, "--out", "."]
    for arguments, times in (([], 1), ([], 1), (change, 2)):
        assert main([*command, *arguments]) == 0
        assert len(measured) == times


def test_other_code_keeps_no_rows(made: Made) -> None:
    path, settings, origin = made.out / "samplers.json", made.report()["settings"], made.report()["provenance"]
    assert list(results.kept_rows(path, settings, origin)) == names()
    assert results.kept_rows(path, settings, origin | {"code": "0123"}) == {}
    assert results.kept_rows(path, settings | {"amount": 201}, origin) == {}


def test_the_engine_is_that_of_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for module in (driver, samplers):

        def noted(name: str, *arguments: Any, start_engine: Any = module.start_engine, **options: Any) -> Any:
            names.append(name)
            return start_engine(name, *arguments, **options)

        monkeypatch.setattr(module, "start_engine", noted)
    settings = Settings(num_chains=16, amount=20, num_warmup=5, engine="native")
    samplers.measure(LINE, "mala", MALA(), settings)
    assert names == ["native"] * 4  # warm-up, pilot, from truth, from afar


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_a_run_starts_its_engine_once_and_times_that_apart(engine: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks where the energy is called from Python."""
    calls = []

    def energy(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return LINE(x)

    monkeypatch.setattr(samplers, "now", lambda device: len(calls))
    settings = Settings(num_chains=16, budget="draws", amount=30, num_warmup=1)
    chains = samplers._exact_chains(LINE, "mala", _warm(settings), settings)
    run = samplers._run(energy, MALA(), chains, samplers.Length(30, 2), engine, num_pieces=samplers.NUM_PIECES)
    assert run.start_seconds > 0
    assert run.piece_seconds == ((2.0 if engine == "eager" else 0.0),) * samplers.NUM_PIECES
    assert run.seconds == (60 if engine == "eager" else 0)


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_pieces_are_those_of_one_run(engine: EngineName) -> None:
    settings = Settings(num_chains=16, budget="draws", amount=30, num_warmup=1)
    chains = samplers._exact_chains(LINE, "mala", _warm(settings), settings)
    run = samplers._run(LINE, MALA(), chains, samplers.Length(30, 2), engine, num_pieces=samplers.NUM_PIECES)
    whole = samplers.sample(LINE, MALA(), chains, num_samples=30, thinning=2, engine=engine, show_progress=False)
    assert torch.equal(run.draws, whole.draws)
    assert torch.equal(run.accept, whole.accept_prob)
    assert torch.equal(run.gradients, whole.num_grad_evals.double())
    assert torch.equal(run.chains.matrix, whole.chains.matrix)
    assert run.chains.noise_state.keys() == whole.chains.noise_state.keys()


def test_settings_say_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().as_json()["engine"] == "eager"
    monkeypatch.delenv(DEFAULT_VARIABLE)
    assert Settings().as_json()["engine"] == "auto"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="nativ"):
        Settings(engine="nativ")  # type: ignore[arg-type]


def test_results_of_two_engines_are_not_compared(made: Made) -> None:
    old = made.report()
    with pytest.raises(results.ResultsError, match="engine 'eager' and 'native'"):
        compare.compare(old, old | {"settings": old["settings"] | {"engine": "native"}})


# --- Budgets ----------------------------------------------------------------------------------------------------


def test_budgets_become_lengths() -> None:
    gradients = Settings(num_chains=16, amount=1000)
    assert gradients.length(10, 1e-3, 2) == (100, 1)
    assert gradients.length(500, 1e-3, 2) == (samplers.MIN_DRAWS, 1)
    assert Settings(num_chains=16, budget="seconds", amount=2).length(10, 1e-3, 2) == (2000, 1)
    assert Settings(num_chains=16, budget="draws", amount=77).length(10, 1e-3, 10_000_000) == (77, 1)


def test_long_runs_are_thinned_to_what_fits() -> None:
    settings = Settings(num_chains=64, amount=10_000)
    num_draws, thinning = settings.length(1, 1e-3, 100)
    assert thinning > 1
    assert num_draws * 64 * 100 <= samplers.MAX_NUMBERS
    assert 10_000 - thinning < num_draws * thinning <= 10_000


def test_a_thinned_run_counts_all_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "MAX_NUMBERS", 16 * 50)
    settings = Settings(num_chains=16, amount=200, num_warmup=20)
    row, draws = samplers.measure(LINE, "mala", MALA(), settings)
    assert (row.num_draws, row.thinning, row.gradients_per_draw) == (50, 4, 4.0)
    assert draws.from_truth.shape == draws.from_afar.shape == (16, 50, 1)
    assert row.ess_per_gradient == pytest.approx(row.ess / (16 * 200))


def test_seconds_bound_the_run() -> None:
    row, _ = samplers.measure(LINE, "mala", MALA(), Settings(num_chains=16, budget="seconds", amount=0.3, num_warmup=5))
    assert 0.03 < row.seconds < 3  # a pilot of 20 steps foretells the speed, on a machine with other work to do


def test_float32_chains_are_measured_in_float64() -> None:
    settings = dataclasses.replace(EASY, amount=50, num_warmup=20, dtype=torch.float32)
    row, draws = samplers.measure(LINE, "mala", MALA(), settings)
    assert draws.from_truth.dtype == torch.float32
    assert row.mean_error_mcse < LIMIT


# --- What it measures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kernel"), [("mala", MALA()), ("hmc", HMC(num_leapfrog_steps=5, jitter=0.3))])
def test_an_exact_kernel_is_within_its_error(name: str, kernel: MALA | HMC) -> None:
    row, draws = samplers.measure(make_density("unequal_mixture"), name, kernel, EASY)
    assert row.mean_error_mcse < LIMIT
    assert row.second_moment_error_mcse < LIMIT
    assert row.accept == pytest.approx(kernel.target_accept, abs=0.1)
    assert draws.from_truth.shape == (64, 250, 2)


def test_a_wrong_energy_shows_as_many_standard_errors() -> None:
    kernel = HMC(num_leapfrog_steps=3, jitter=0.3)
    shifted, _ = samplers.measure(LINE, "hmc", kernel, EASY, energy=lambda x: 0.5 * (x - 0.3).square().sum(1))
    assert shifted.mean_error_mcse > 10
    assert shifted.mean_error == pytest.approx(0.3, abs=LIMIT * shifted.spread["mean_error"]["standard_error"])
    wide, _ = samplers.measure(LINE, "hmc", kernel, EASY, energy=lambda x: 0.5 * x.square().sum(1) / 1.5)
    assert wide.mean_error_mcse < LIMIT
    assert wide.second_moment_error_mcse > 10
    assert wide.second_moment_error == pytest.approx(
        0.5, abs=LIMIT * wide.spread["second_moment_error"]["standard_error"]
    )
    assert math.isnan(wide.gradients_to_low_error)  # its error ends at 0.5^2 / 2, not at 0


def test_an_unadjusted_kernel_runs_at_its_share_of_malas_step_and_is_called_biased() -> None:
    row, draws = samplers.measure(LINE, "ula", ULA(), EASY)
    guide, _ = samplers.measure(LINE, "mala", MALA(), EASY)
    assert row.remarks[0] == "biased: unadjusted"
    assert row.step_size == pytest.approx(0.3 * guide.step_size, rel=0.25)
    # ULA's own variance is 1 / (1 - h / 2): the error that is reported must be that excess in standard errors.
    mcse = float(mcse_mean(draws.from_truth.square()))
    excess = 1 / (1 - row.step_size / 2) - 1
    assert row.second_moment_error == pytest.approx(excess, abs=LIMIT * mcse)
    assert row.second_moment_error_mcse > LIMIT


def test_a_kernel_without_randomness_widens_no_column(made: Made) -> None:
    row = samplers.Row.from_json(made.report()["rows"][names()[0]])
    for nested_rhat, cell in ((1.234, "1.23"), (1.5e99, "1.5e+99"), (math.inf, "inf")):
        assert cell in samplers.table([dataclasses.replace(row, nested_rhat=nested_rhat)]).split()


def test_an_unadjusted_kernel_of_unknown_convention_keeps_its_step_size() -> None:
    class Mine(ULA):
        pass

    settings = Settings(num_chains=16, amount=20, num_warmup=1)
    row, _ = samplers.measure(LINE, "mine", Mine(step_size=0.123), settings)
    assert row.step_size == 0.123


def test_kernels_of_another_convention_move_as_far_as_ula() -> None:
    assert unadjusted_step_size(ULA(), 0.5, 9) == pytest.approx(0.15)
    assert unadjusted_step_size(UnderdampedLangevin(), 0.5, 9) == pytest.approx(math.sqrt(0.3))
    assert unadjusted_step_size(MCLMC(), 0.5, 9) == pytest.approx(3 * math.sqrt(0.3))


def test_a_step_without_gradients_counts_as_one() -> None:
    row, _ = samplers.measure(LINE, "rwm", RWM(), Settings(num_chains=16, amount=50, num_warmup=20))
    assert (row.num_draws, row.gradients_per_draw) == (50, 1.0)


def test_stuck_chains_are_remarked() -> None:
    settings = Settings(num_chains=32, amount=100, num_warmup=20)
    row, _ = samplers.measure(make_density("ring_mixture"), "mala", MALA(), settings)
    assert row.rhat > 1.01
    assert row.nested_rhat > 1.5  # groups of chains stay in the mode where they started together
    assert any(remark.startswith("R-hat > 1.01") for remark in row.remarks)


def test_figures_that_are_not_finite_stay_out_of_the_summary() -> None:
    settings = Settings(num_chains=16, budget="draws", amount=20, num_warmup=1)
    row, _ = samplers.measure(make_density("banana"), "stuck", _Stuck(), settings)
    assert math.isnan(row.rhat)
    assert "draws constant or not finite" in row.remarks
    figures = samplers.summary({"banana/stuck": row})
    assert "rhat/banana/stuck" not in figures
    assert figures["accept/banana/stuck"] == 0.0


@pytest.mark.parametrize("figure", [1.5, math.inf, -math.inf, math.nan])
def test_a_row_reads_in_the_table_as_it_was_written(figure: float, made: Made, tmp_path: Path) -> None:
    name, path = names()[0], tmp_path / "samplers.json"
    curve = {"gradients": [1.0, 2.0], "average": [0.5, figure], "worst": [figure, 0.5]}
    finite = samplers.Row.from_json(made.report()["rows"][name])
    row = dataclasses.replace(finite, nested_rhat=figure, gradients_to_low_error=figure, curve=curve)
    results.write(samplers.report({name: row}, Settings()), path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # as others read it
    restored = samplers.Row.from_json(results.read(path)["rows"][name])
    assert repr(restored) == repr(row)  # NaN has an equal representation, though it is no equal
    assert samplers.table([restored]) == samplers.table([row])


class _Stuck(MALA):
    """Rejects everything, with the same start for all chains."""

    def init(self, target: Any, position: Any, params: Any) -> Any:
        return super().init(target, torch.ones_like(position), params)

    def step(self, target: Any, state: Any, noise: Any, params: Any) -> Any:
        _, info = super().step(target, state, noise, params)
        zero = torch.zeros_like(info.accept_prob)
        return state, info._replace(accept_prob=zero, is_accepted=zero > 1)


def test_starts_afar_are_shared_and_twice_as_wide() -> None:
    settings = Settings(num_chains=40_000)
    starts = samplers.starts_afar(LINE, LINE, settings, "mala").reshape(-1, CHAINS_PER_START)
    assert (starts == starts[:, :1]).all()
    # Of 5,000 independent normal draws: 4.4 standard errors of their variance, sqrt(2 / 5,000) each.
    assert starts[:, 0].var() == pytest.approx(4, rel=LIMIT * math.sqrt(2 / 5_000))


def test_starts_afar_stay_where_the_energy_is_finite() -> None:
    def inside(x: Tensor) -> Tensor:
        return torch.where(x.abs().sum(1) < 3, LINE(x), torch.inf)

    starts = samplers.starts_afar(inside, LINE, Settings(num_chains=400), "mala")
    assert (starts.abs() < 4.5).all()
    assert (starts.abs() > 2).any()


def test_peak_memory_is_that_of_the_body() -> None:
    with PeakMemory(torch.device("cpu")) as small:
        torch.zeros(10, dtype=torch.float64)
    with PeakMemory(torch.device("cpu")) as large:
        torch.zeros(2**22, dtype=torch.float64)  # 32 MiB, in use for a moment only
    assert small.mib < 8
    assert 31 <= large.mib < 40


# --- Errors against gradients -----------------------------------------------------------------------------------


def test_independent_draws_have_an_error_of_one_over_their_number() -> None:
    """In D = 1 the error of n draws is Var[x^2] / n / Var[x^2]; over 500 estimates its mean has an error known too."""
    draws = LINE.sample(500 * 4 * 64, generator=torch.Generator().manual_seed(0)).reshape(2000, 64, 1)
    curve = accuracy.error_curve(draws, LINE, 4)
    wanted = 1 / (4 * curve.num_draws)
    # An estimate's squared error is like chi-squared of one degree, heavier for few draws: excess kurtosis 12 of x^2.
    deviation = wanted * ((2 + 12 / (4 * curve.num_draws)) / 500).sqrt()
    assert ((curve.average - wanted).abs() < 5 * deviation).all()
    assert torch.equal(curve.average, curve.worst)
    assert curve.num_draws[-1] == 64
    reached = accuracy.draws_to_low_error(curve.num_draws, curve.average)
    assert reached == pytest.approx(25, rel=5 * math.sqrt(2 / 500))


def test_a_shift_shows_as_its_square() -> None:
    """Draws from N(1, 1) in place of N(0, 1): E[x^2] is off by 1, and Var[x^2] is 2."""
    draws = 1 + LINE.sample(400_000, generator=torch.Generator().manual_seed(0)).reshape(4, 100_000, 1)
    assert float(accuracy.error_curve(draws, LINE, 4).average[-1]) == pytest.approx(0.5, rel=0.05)
    assert accuracy.error(draws, LINE.mean, LINE.variance.sqrt()).relative == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ([1.0, 0.1, 0.02, 0.005], 4 * 2**0.5),
        ([0.001, 0.1, 0.02, 0.001], None),
        ([0.01, 0.001, 0.001, 0.001], 1.0),
        ([1.0, 0.001, 0.001, 0.1], math.nan),
        ([1.0, 0.1, 0.1, math.nan], math.nan),
        ([math.nan, math.inf, 0.005, 0.001], 4.0),
    ],
)
def test_low_error_counts_from_where_it_stays_low(errors: list[float], wanted: float | None) -> None:
    num_draws = torch.tensor([1.0, 2.0, 4.0, 8.0])
    reached = accuracy.draws_to_low_error(num_draws, torch.tensor(errors))
    if wanted is None:
        assert 4 < reached < 8
    else:
        assert reached == pytest.approx(wanted, nan_ok=True)


def test_heavy_tails_are_found_where_they_are() -> None:
    heavy = {
        name: accuracy.squares_of(make_density(name)).is_heavy_tailed.tolist()
        for name in DENSITIES
        if make_density(name).dim <= 16
    }
    assert heavy.pop("funnel") == [False] + 9 * [True]
    assert not any(any(flags) for flags in heavy.values())


def test_an_error_over_no_coordinates_is_unknown() -> None:
    none = torch.empty(0, dtype=torch.float64)
    assert all(math.isnan(value) for value in accuracy.error(torch.zeros(4, 8, 0).double(), none, none))


def test_spread_is_that_of_repeated_runs() -> None:
    """The standard error of acceptance, from groups of one run, against the deviation over 40 runs of it.

    The ratio of the two variances is like F with 39 and 40 x 7 degrees of freedom, and stays between 0.25 and 2.8 with
    a probability above 1 - 1e-4.
    """
    values, claimed = [], []
    for seed in range(40):
        settings = Settings(num_chains=128, budget="draws", amount=20, num_warmup=1, seed=seed)
        run = samplers._run(
            LINE,
            MALA(),
            samplers._exact_chains(LINE, "mala", _warm(settings), settings),
            samplers.Length(20, 1),
            "eager",
            num_pieces=1,
        )
        figures, spread = samplers._figures_with_spread(LINE, run, samplers.Draws(run.draws, run.draws))
        values.append(figures["accept"])
        claimed.append(spread["accept"]["standard_error"])
        assert spread["accept"]["degrees_of_freedom"] == 7
    assert 0.25 < np.var(values, ddof=1) / np.mean(np.square(claimed)) < 2.8


def _warm(settings: Settings) -> Any:
    """Chains whose parameters are the same in every run."""
    kernel = MALA(step_size=0.9)
    start = torch.zeros(settings.num_chains, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return samplers.sample(LINE, kernel, start, num_samples=1, generator=generator).chains


# --- Pictures ---------------------------------------------------------------------------------------------------


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


def test_points_come_from_all_chains_and_times() -> None:
    draws = torch.arange(2000.0).reshape(20, 100, 1)
    points = some_points(draws)
    assert points.shape == (500, 2)
    assert (points[0, 0], points[-1, 0]) == (0, 1999)
    assert (points[:, 1] == 0).all()


# --- Comparing two results, on figures that were measured -------------------------------------------------------


def test_a_changed_kernel_shows_in_a_comparison_and_another_seed_does_not(tmp_path: Path) -> None:
    kernel = HMC(num_leapfrog_steps=3, jitter=0.3)
    reports = []
    for used, seed in ((kernel, 0), (kernel, 1), (dataclasses.replace(kernel, target_accept=0.99), 0)):
        settings = Settings(num_chains=128, budget="draws", amount=100, num_warmup=100, seed=seed)
        row, _ = samplers.measure(make_density("correlated_gaussian"), "hmc", used, settings)
        report = samplers.report({"correlated_gaussian/hmc": row}, settings)
        results.write(report | {"provenance": results.provenance([seed])}, tmp_path / "report.json")
        reports.append(results.read(tmp_path / "report.json"))
    first, again, cautious = reports
    assert [change for change in compare.compare(first, again).changes if "seconds" not in change.name] == []
    changed = {change.name.partition("/")[0]: change for change in compare.compare(first, cautious).changes}
    assert changed["accept"].new > changed["accept"].old
    assert changed["ess_per_gradient"].is_worse
