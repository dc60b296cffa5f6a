"""The exactness matrix as a command: what it keeps, what it refuses, and that it fails where a kernel is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina.benchmarks import exactness, results
from lamina.benchmarks.cli import main
from lamina.samplers import KERNELS, MALA, Blocks, Clipped, Info, State, Target
from lamina.samplers.accept import accept, log_ratio
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.langevin import LangevinParams, propose
from lamina.samplers.native import build

ARGUMENTS = ["exactness", "--densities", "log_gamma", "--kernels", "mala"]


class WithoutCorrection(MALA):
    """Forgets the proposal densities."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_ratio(state.energy, proposed.energy, 0 * proposed.energy)
        return accept(proposed, state, ratio, noise["u"], 0 * ratio + 1)


@pytest.fixture(autouse=True)
def few_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "MAX_CHAINS", 20_000)
    exactness._exact_draws.cache_clear()


def test_every_exact_kernel_is_in_the_matrix() -> None:
    checked = {type(kernel) for kernel in exactness.KERNELS.values()}
    assert checked - {Clipped, Blocks} == {kind for kind in KERNELS.values() if kind.is_exact}


def test_every_kernel_and_every_density_meets_every_mass() -> None:
    for by in ("kernel", "density"):
        for name in {getattr(case, by) for case in exactness.cases()}:
            assert {case.mass for case in exactness.cases() if getattr(case, by) == name} == set(exactness.MASSES)


def test_rows_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    assert "2 of 2 cases passed" in capsys.readouterr().out
    content = results.read(tmp_path / "exactness.json")
    assert set(content["rows"]) == {str(case) for case in exactness.cases(["log_gamma"], ["mala"])}
    assert content["summary"]["num_passed"] == content["summary"]["num_cases"] == 2
    assert 0 < content["summary"]["largest_share_of_allowed"] <= 1
    assert all(0.2 < row["accept"] < 0.999 for row in content["rows"].values())


def test_interrupted_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = exactness.check

    def counted(case: exactness.Case) -> Any:
        if len(checked) == 1:
            raise KeyboardInterrupt
        checked.append(str(case))
        return check(case)

    monkeypatch.setattr(exactness, "check", counted)
    monkeypatch.setattr(results, "_git", lambda *arguments: str(results._CHECKOUT))  # one commit, whatever it is
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 130
    assert list(results.read(tmp_path / "exactness.json")["rows"]) == checked
    monkeypatch.setattr(exactness, "check", check)
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    assert list(results.read(tmp_path / "exactness.json")["rows"])[:1] == checked


def test_a_wrong_kernel_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exactness.KERNELS, "mala", WithoutCorrection(step_size=0.1))
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 1
    assert results.read(tmp_path / "exactness.json")["summary"]["num_passed"] < 2


@pytest.mark.parametrize("wrong", [None, 0, 1])
def test_a_wrong_kernel_in_either_block_fails(wrong: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [WithoutCorrection(step_size=0.1) if part == wrong else MALA(step_size=0.1) for part in (0, 1)]
    monkeypatch.setitem(exactness.KERNELS, "blocks", Blocks(dict(enumerate(kernels))))
    report = exactness.check(exactness.Case("log_gamma", "blocks", "float64", "dense"))
    assert report.passed == (wrong is None), str(report)


def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exactness", "--kernels", "ula", "--out", str(tmp_path)]) == 2
    assert "unknown exact kernel 'ula'" in capsys.readouterr().err


@pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")
def test_native_rows_have_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder, or wherever it is wanted; and a wrong kernel fails on this engine too."""
    assert main([*ARGUMENTS, "--engine", "native", "--out", str(tmp_path)]) == 0
    content = results.read(tmp_path / "exactness-native.json")
    assert set(content["rows"]) == {str(case) for case in exactness.cases(["log_gamma"], ["mala"], "native")}
    assert all(name.endswith("/native") and row["engine"] == "native" for name, row in content["rows"].items())
    assert content["settings"]["engine"] == "native"
    monkeypatch.setitem(exactness.KERNELS, "mala", WithoutCorrection(step_size=0.1))
    assert main([*ARGUMENTS, "--engine", "native", "--out", str(tmp_path / "wrong" / "mine.json")]) == 1
    assert results.read(tmp_path / "wrong" / "mine.json")["summary"]["num_passed"] < 2
