"""Peers side by side: workers, cells, checks, ratios and the command, with a fake worker in everybody's place."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from lamina.benchmarks import results
from lamina.benchmarks.cli import main
from lamina.benchmarks.peers import by_hand_worker, checks, command, environments, launch, measure, problems, report
from lamina.benchmarks.peers.cells import cells, make_case
from lamina.benchmarks.peers.contenders import CONTENDERS, LAMINA, PEERS, Contender
from lamina.benchmarks.peers.environments import PeerEnvironmentError, python_of
from lamina.benchmarks.peers.lamina_worker import bias, make_sampler
from lamina.benchmarks.peers.process import NotOfferedError, Worker, WorkerError
from lamina.benchmarks.peers.protocol import UnsupportedError
from lamina.benchmarks.peers.torch_energies import Gauss2, autocast, make_energy
from lamina.samplers import HMC, ULA, UnknownNameError, run
from lamina.samplers.native import build

FAKE = """
import sys
import time

import numpy as np

from .problems import PROBLEMS, starts
from .protocol import UnsupportedError, serve


class Fake:
    engine = "fake"

    def __init__(self, case, cost, bias):
        self.num_steps, self.case, self.cost, self.bias = case.num_steps, case, cost, bias

    def run(self):
        print("chatter that must not reach the replies")
        end = time.process_time() + self.cost
        while time.process_time() < end:
            pass
        return 0.5

    def position(self):
        return starts(self.case.problem, self.case.num_chains)

    def draws(self, num_draws):
        draw = PROBLEMS[self.case.problem].draw
        rng = np.random.default_rng(7)
        return np.stack([draw(rng, self.case.num_chains) + self.bias for _ in range(num_draws)]).astype(np.float32)


def main(options):
    name, cost, bias = options[0], float(options[1]), float(options[2])

    def make(case):
        if case.problem == "ring8":
            raise UnsupportedError("no rings here")
        if case.problem == "banana":
            raise ArithmeticError("slipped")
        if case.problem == "funnel10":
            print("fell into the funnel", file=sys.stderr, flush=True)
            sys.exit(3)
        if case.problem == "gauss100":
            time.sleep(60)
        return Fake(case, cost, bias)

    serve(make, {name: "1.0"}, {"memory": lambda request: {"mib": 12.5}})
"""

COSTS = {LAMINA: 0.01, "blackjax": 0.05, "numpyro": 0.03, "tfp": 0.02}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the workers with a fake one."""
    home = tmp_path / "peers"
    home.mkdir()
    for name in ("__init__", "launch", "protocol", "problems"):
        source = Path(launch.__file__).with_name(f"{name}.py")
        (home / source.name).write_bytes(source.read_bytes())
    (home / "fake_worker.py").write_text(FAKE, encoding="utf-8")
    return home


def fake_command(folder: Path, name: str = "fake", cost: float = 0.0, bias: float = 0.0) -> list[str]:
    return [
        sys.executable,
        "-P",
        str(folder / "launch.py"),
        "fake_worker",
        "--threads",
        "1",
        name,
        str(cost),
        str(bias),
    ]


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    made = Worker(fake_command(folder))
    yield made
    made.close()


def make_request(problem: str) -> dict[str, Any]:
    return {"do": "make", "case": vars(make_case("hmc", problem, 100))}


# --- workers ---


def test_a_worker_says_what_it_runs_and_what_it_costs(worker: Worker, tmp_path: Path) -> None:
    assert worker.versions == {"fake": "1.0"}
    made = worker.ask(make_request("gauss2"), 30)
    assert made["num_steps"] == make_case("hmc", "gauss2", 100).num_steps
    assert made["engine"] == "fake"
    ran = worker.ask({"do": "run"}, 30)
    assert ran["accept"] == 0.5
    assert ran["cpu"] >= 0
    assert ran["seconds"] > 0
    worker.ask({"do": "ends", "path": str(tmp_path / "ends.npy")}, 30)
    assert np.array_equal(np.load(tmp_path / "ends.npy"), problems.starts("gauss2", 100))


def test_what_a_library_lacks_or_gets_wrong_is_told_apart(worker: Worker) -> None:
    with pytest.raises(NotOfferedError, match="no rings here"):
        worker.ask(make_request("ring8"), 30)
    with pytest.raises(WorkerError, match="ArithmeticError: slipped"):
        worker.ask(make_request("banana"), 30)
    assert worker.is_alive


def test_a_worker_that_dies_leaves_its_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="status 3: fell into the funnel"):
        worker.ask(make_request("funnel10"), 30)
    assert not worker.is_alive
    with pytest.raises(WorkerError, match="status 3"):
        worker.ask({"do": "run"}, 30)


def test_a_worker_that_takes_too_long_is_ended(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"more than 0\.2 s"):
        worker.ask(make_request("gauss100"), 0.2)


def test_our_own_worker_answers(tmp_path: Path) -> None:
    start = measure.EnvironmentStart(tmp_path)
    worker = start(CONTENDERS["lamina-eager"], True, {})
    try:
        case = replace(make_case("hmc", "gauss2", 50), num_looped_steps=3)
        assert worker.ask({"do": "make", "case": vars(case)}, 60)["num_steps"] == 3
        assert 0.5 < worker.ask({"do": "run"}, 60)["accept"] <= 1
        worker.ask({"do": "draws", "case": vars(case), "num_draws": 4, "path": str(tmp_path / "draws.npy")}, 60)
        assert np.load(tmp_path / "draws.npy").shape == (4, 50, 2)
    finally:
        worker.close()


@pytest.mark.skipif(build.find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [
        ("hmc", "gauss2"),
        ("mala", "banana"),
        ("ula", "ring8"),
        ("barker", "banana"),
        ("ghmc", "ring8"),
        ("nuts", "banana"),
    ],
)
def test_programs_written_by_hand_draw_as_ours_do(algorithm: str, problem: str) -> None:
    """By the checks of the measurement, a false alarm in a million each; 90 chains leave lanes to spare."""
    case = replace(make_case(algorithm, problem, 90), num_steps=1)
    found = checks.traits(problem, by_hand_worker.make(case).draws(60))
    ours = checks.traits(problem, make_sampler(case, engine="eager").draws(60))
    assert checks.fault_of_draws(case, found, ours) is None
    by_hand = by_hand_worker.make(case)
    assert by_hand.run() == pytest.approx((by_hand.position() != problems.starts(problem, 90)).any(axis=1).mean())
    with pytest.raises(UnsupportedError, match="by hand"):
        by_hand_worker.make(make_case(algorithm, "gauss100", 90))


def test_bfloat16_rounds_a_little_and_is_told_from_float32() -> None:
    x, energy = torch.from_numpy(problems.starts("mlp", 50)), make_energy("mlp", 50)
    exact, rounded = energy(x), autocast(energy)(x)
    assert 0 < (rounded - exact).abs().max() < 0.05
    case = make_case("ula", "mlp", 50)
    plain, rounding = (partial(make_sampler, engine="eager", in_bfloat16=choice) for choice in (False, True))
    request = {"case": vars(replace(case, num_looped_steps=20, num_steps=20)), "every": 10}
    assert bias(plain, plain, request) == {"bias": 0.0, "bias_error": 0.0}
    found = bias(rounding, plain, request)
    assert 0 < abs(found["bias"]) < 1e-2
    assert 0 < found["bias_error"] < 1e-2


# --- environments ---


def test_an_environment_is_built_once_and_anew_when_its_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("# nothing\n", encoding="utf-8")
    monkeypatch.setattr(environments, "requirements", lambda peer: pins)
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(environments, "_call", lambda *words: called.append(words) or words[-1])

    def build() -> Path:
        (tmp_path / f"blackjax-{environments.digest('blackjax')}").mkdir(exist_ok=True)
        return python_of("blackjax", tmp_path)

    first = build()
    assert [words[1:3] for words in called] == [("-m", "venv"), ("-m", "pip")]
    assert build() == first
    assert len(called) == 2
    pins.write_text("jax==0\n", encoding="utf-8")
    assert build() != first
    assert len(called) == 4


def test_why_an_environment_cannot_be_built_is_said() -> None:
    with pytest.raises(PeerEnvironmentError, match="no such thing"):
        environments._call(sys.executable, "-c", "import sys; sys.exit('ERROR: no such thing')")


def test_every_peer_has_a_worker_and_exact_pins() -> None:
    for name, contender in CONTENDERS.items():
        assert Path(launch.__file__).with_name(f"{contender.module}.py").is_file(), name
    constraints = Path(__file__).parents[2].joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    for peer in PEERS:
        lines = environments.requirements(peer).read_text(encoding="utf-8").splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert {"tfp": "tfp-nightly"}.get(peer, peer) in pins
        assert all(f"torch=={version}" in constraints for name, version in pins.items() if name == "torch")


# --- cells ---


def test_cells_are_those_of_the_patterns() -> None:
    assert [str(cell) for cell in cells(["hmc/gauss2/*"])] == [f"hmc/gauss2/{10**k}" for k in (0, 2, 3, 4, 5)]
    assert len({str(cell) for cell in cells()}) == len(cells())
    with pytest.raises(UnknownNameError, match="hmc/gauss3"):
        cells(["hmc/gauss3/*"])


def test_calls_are_long_enough_to_time_and_as_long_for_all_that_compile() -> None:
    for cell in cells():
        assert cell.case.num_steps >= cell.case.num_looped_steps >= 2
    assert make_case("hmc", "gauss2", 1).num_steps > 10 * make_case("hmc", "gauss2", 10_000).num_steps
    assert make_case("hmc", "gauss2", 1000, 0.01).num_steps < make_case("hmc", "gauss2", 1000).num_steps / 50


@pytest.mark.parametrize("problem", [name for name, p in problems.PROBLEMS.items() if p.standardise])
def test_standardised_starts_have_mean_0_and_second_moment_1_and_follow_the_energy(problem: str) -> None:
    """Mean and second moment by z-tests at 5 standard errors; the law by HMC, which must leave it as it is."""
    definition = problems.PROBLEMS[problem]
    assert definition.standardise is not None
    x = problems.starts(problem, 4000)
    moved = run(
        make_energy(problem, 4000),
        HMC(step_size=definition.leapfrog_step, num_leapfrog_steps=5),
        torch.from_numpy(x),
        num_steps=5,
        noise=0,
    ).position
    assert isinstance(moved, torch.Tensor)
    assert checks.fault_of_ends(make_case("hmc", problem, 4000), x) is None
    assert checks.fault_of_ends(make_case("hmc", problem, 4000), moved.numpy()) is None


@pytest.mark.parametrize("problem", list(problems.PROBLEMS))
def test_energies_are_one_number_per_chain(problem: str) -> None:
    x = torch.from_numpy(problems.starts(problem, 7))
    energy = make_energy(problem, 7)
    assert energy(x).shape == (7,)
    assert run(energy, ULA(step_size=1e-4), x, num_steps=2, noise=0).energy.isfinite().all()


def test_gradient_by_hand_is_the_gradient() -> None:
    x = torch.from_numpy(problems.starts("gauss2", 5)).requires_grad_()
    value, grad = Gauss2().value_and_grad(x)
    torch.testing.assert_close(grad, torch.autograd.grad(value.sum(), x)[0])
    torch.testing.assert_close(value, make_energy("gauss2", 5)(x))


# --- checks ---


def chain_draws(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda x: x) -> checks.Traits:
    rng = np.random.default_rng(0)
    return checks.traits("gauss2", change(np.stack([problems._draw_gauss2(rng, 200) for _ in range(50)])))


def test_right_draws_pass_and_wrong_ones_are_told() -> None:
    case, ours = make_case("hmc", "gauss2", 200), chain_draws()
    assert checks.fault_of_draws(case, ours, ours) is None
    assert 0.5 < ours.ess_per_draw < 1.5
    for said, change in {
        "mean differs from the target's": lambda x: x + 0.1,
        "second moment differs from the target's": lambda x: 1.1 * x,
        "moved differs from Lamina's": lambda x: np.repeat(x[::2], 2, axis=0),
        "not finite": lambda x: np.where(x > 2, np.nan, x),
    }.items():
        fault = checks.fault_of_draws(case, chain_draws(change), ours)
        assert fault is not None
        assert said in fault


def test_a_sampler_that_jumps_too_short_is_wrong_whatever_its_law() -> None:
    def slow(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        y = x.copy()
        for index in range(1, len(x)):
            y[index] = 0.3 * y[index - 1] + math.sqrt(1 - 0.09) * x[index]
        return y

    fault = checks.fault_of_draws(make_case("hmc", "gauss2", 200), chain_draws(slow), chain_draws())
    assert fault is not None
    assert "jump differs" in fault


def test_unadjusted_samplers_are_compared_with_ours_alone() -> None:
    case = make_case("ula", "gauss2", 200)
    biased = chain_draws(lambda x: 1.1 * x)
    assert checks.fault_of_draws(case, biased, biased) is None
    assert checks.fault_of_draws(case, biased, chain_draws()) is not None


# --- measuring and reporting ---


class FakeStart:
    """Starts fake workers in everybody's place, as costly as `COSTS` says."""

    def __init__(self, folder: Path, biases: Mapping[str, float]) -> None:
        self.folder, self.biases, self.started = folder, biases, 0

    def __call__(self, contender: Contender, is_pinned: bool, extra: Mapping[str, str]) -> Worker:
        (name,) = (name for name, one in CONTENDERS.items() if one is contender)
        if name == "ebmkit":
            raise PeerEnvironmentError("cannot be had")
        self.started += 1
        return Worker(fake_command(self.folder, name, COSTS.get(name, 0.04), self.biases.get(name, 0.0)), 1, extra)


@pytest.fixture
def start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStart:
    made = FakeStart(folder, {"tfp": 0.2})
    monkeypatch.setattr(command, "EnvironmentStart", lambda envs: made)
    return made


ARGUMENTS = ["--peers", "blackjax", "numpyro", "tfp", "ebmkit", "--repeats", "2"]


def test_the_command_end_to_end(start: FakeStart, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patterns = ["hmc/gauss2/100", "hmc/ring8/1000", "first/hmc/gauss2/*", "threads/hmc/gauss2/*", "memory/*"]
    arguments = ["peers", "--cells", *patterns, *ARGUMENTS, "--out", str(tmp_path), "--envs", str(tmp_path / "envs")]
    assert main(arguments) == 0
    content = results.read(tmp_path / "peers.json")
    row = content["rows"]["hmc/gauss2/100"]["contenders"]
    assert {name: entry["status"] for name, entry in row.items()} == {
        LAMINA: "ok",
        "blackjax": "ok",
        "numpyro": "ok",
        "tfp": "wrong",
        "ebmkit": "missing",
    }
    assert "mean differs" in row["tfp"]["note"]
    assert row["tfp"]["cpu"] == []
    assert content["rows"]["hmc/ring8/1000"]["contenders"]["blackjax"]["status"] == "unsupported"

    figures = content["summary"]
    costs = {name: median(row[name]["cpu"]) for name in (LAMINA, "blackjax", "numpyro")}
    assert figures["hmc/gauss2/100/us_per_step/blackjax"] == pytest.approx(costs["blackjax"])
    assert figures["hmc/gauss2/100/vs_blackjax"] == pytest.approx(costs["blackjax"] / costs[LAMINA])
    assert figures["hmc/gauss2/100/vs_fastest_jax"] == pytest.approx(costs["numpyro"] / costs[LAMINA])
    assert "hmc/gauss2/100/vs_tfp" not in figures
    assert figures["hmc/gauss2/100/vs_blackjax"] == pytest.approx(5, rel=0.3)  # as the fake workers burn CPU time
    assert figures["memory/hmc/gauss2/100000/mib"] == 12.5
    both = content["rows"]["threads/hmc/gauss2/100000"]["contenders"]
    walls = {name: median(entry["wall"]) for name, entry in both.items()}
    assert figures["threads/hmc/gauss2/100000/speedup"] == pytest.approx(walls[LAMINA] / walls["lamina-2-threads"])
    firsts = content["rows"]["first/hmc/gauss2/1000"]["contenders"]
    seconds = {name: median(firsts[name]["all_seconds"]) for name in (LAMINA, "blackjax")}
    assert figures["first/hmc/gauss2/1000/seconds/lamina"] == pytest.approx(seconds[LAMINA])
    assert figures["first/hmc/gauss2/1000/vs_blackjax"] == pytest.approx(seconds["blackjax"] / seconds[LAMINA])

    assert content["provenance"]["commit"] or content["provenance"]["commit"] is None
    assert content["versions"]["blackjax"] == {"blackjax": "1.0"}
    text = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "tfp on hmc/gauss2/100, wrong: mean differs" in text
    assert "ebmkit is missing: cannot be had" in text
    assert (tmp_path / "pictures" / "peers.png").stat().st_size > 1000
    assert "wrong" in capsys.readouterr().out


def test_interrupted_runs_go_on_and_other_settings_start_anew(start: FakeStart, tmp_path: Path) -> None:
    arguments = ["peers", *ARGUMENTS, "--out", str(tmp_path), "--envs", str(tmp_path / "envs")]
    cell = ["--cells", "memory/*"]
    assert main([*arguments, *cell]) == 0
    assert start.started == 1
    assert main([*arguments, *cell, "first/hmc/gauss2/*"]) == 0
    content = results.read(tmp_path / "peers.json")
    assert list(content["rows"]) == ["first/hmc/gauss2/1000", "memory/hmc/gauss2/100000"], "in the order of the cells"
    started = start.started
    assert main([*arguments, *cell]) == 0
    assert start.started == started
    assert main([*arguments, *cell, "--repeats", "1"]) == 0
    assert start.started == started + 1


def test_rows_of_other_code_are_named_and_measured_anew_when_asked_for(start: FakeStart, tmp_path: Path) -> None:
    arguments = ["peers", *ARGUMENTS, "--out", str(tmp_path), "--envs", str(tmp_path / "envs")]
    path, memory, first = tmp_path / "peers.json", "memory/hmc/gauss2/100000", "first/hmc/gauss2/1000"
    assert main([*arguments, "--cells", memory, first]) == 0
    content = results.read(path)
    for row in content["rows"].values():
        row |= {"code": "0123", "commit": "4567890abcdef"}
    results.write(content, path)
    started = start.started
    assert main([*arguments, "--cells", memory]) == 0
    assert start.started == started + 1
    rows = results.read(path)["rows"]
    assert rows[first]["code"] == "0123", "nobody asked for it"
    assert rows[memory]["code"] == results.provenance([])["code"]
    assert "at commit 4567890; at " in (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert f": {memory}." in (tmp_path / "peers.md").read_text(encoding="utf-8")

    del content["rows"][first]["code"]
    results.write(content, path)
    assert main([*arguments, "--cells", memory]) == 0
    assert list(results.read(path)["rows"]) == [memory], "a row that does not say by which code is nobody's"


def test_wrong_options_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--peers", "stan", "--out", str(tmp_path)]) == 2
    assert "unknown peer 'stan'" in capsys.readouterr().err
    assert main(["peers", "--cells", "hmc/nowhere/*", "--out", str(tmp_path)]) == 2
    assert "unknown cell" in capsys.readouterr().err


def test_a_lost_cell_is_shown_as_lost() -> None:
    row = {
        "kind": "speed",
        "case": {},
        "contenders": {
            LAMINA: {"status": "ok", "cpu_us_per_step": 4.0},
            "blackjax": {"status": "ok", "cpu_us_per_step": 8.0},
            "tfp": {"status": "ok", "cpu_us_per_step": 2.0},
            "torchebm": {"status": "failed", "note": "out of memory"},
        },
    }
    rows = {"hmc/gauss2/100": row}
    assert report.summary(rows) == {
        "hmc/gauss2/100/us_per_step/lamina": 4.0,
        "hmc/gauss2/100/us_per_step/blackjax": 8.0,
        "hmc/gauss2/100/us_per_step/tfp": 2.0,
        "hmc/gauss2/100/vs_blackjax": 2.0,
        "hmc/gauss2/100/vs_tfp": 0.5,
        "hmc/gauss2/100/vs_fastest_jax": 0.5,
    }
    text = report.text_table(rows)
    assert "0.5 (lost)" in text
    assert "failed" in text


def test_networks_show_the_share_of_products_and_what_rounding_does() -> None:
    costs = {LAMINA: 20.0, "lamina-compile": 10.0, "lamina-bfloat16": 5.0, "products": 8.0, "blackjax": 12.0}
    contenders: dict[str, Any] = {name: {"status": "ok", "cpu_us_per_step": cost} for name, cost in costs.items()}
    contenders["lamina-bfloat16"] |= {"bias": 0.003, "bias_error": 0.0002}
    rows = {"ula/mlp/512": {"kind": "speed", "case": {}, "contenders": contenders, "commit": None}}
    figures = report.summary(rows)
    for name, value in {
        "vs_fastest_jax": 0.6,
        "vs_products": 0.4,
        "compile_vs_fastest_jax": 1.2,
        "compile_vs_products": 0.8,
        "bfloat16_vs_fastest_jax": 2.4,
        "bfloat16_bias": 0.003,
        "bfloat16_bias_error": 0.0002,
    }.items():
        assert figures[f"ula/mlp/512/{name}"] == pytest.approx(value)
    text = report.markdown_report(rows, {})
    assert "0.6 (lost)" in text
    assert "0.003" in text


def test_programs_written_by_hand_are_the_limit() -> None:
    contenders = {name: {"status": "ok", "cpu_us_per_step": cost} for name, cost in ((LAMINA, 10.0), ("by-hand", 4.0))}
    rows = {"hmc/gauss2/1000": {"kind": "speed", "case": {}, "contenders": contenders, "commit": None}}
    assert report.summary(rows)["hmc/gauss2/1000/vs_by-hand"] == pytest.approx(0.4)
    assert "| hmc/gauss2/1000 |     10 |       4 |             2.5 |" in report.markdown_report(rows, {})
