"""The `lamina-bench` command: help, exit statuses, default folders, provenance."""

from __future__ import annotations

import platform
from datetime import datetime
from pathlib import Path

import pytest
import torch

from lamina.benchmarks import results
from lamina.benchmarks.cli import main
from lamina.benchmarks.densities import density_names
from lamina.samplers.registry import kernel_names


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    top = help_of([], capsys)
    assert "examples:" in top
    assert "lamina-bench samplers --densities banana" in top
    samplers = help_of(["samplers"], capsys)
    words = (*density_names(), *kernel_names(), "columns:", "examples:", "--gradients", "--export", "--device")
    assert all(word in samplers for word in words)
    assert "benchmarks/results" in " ".join(samplers.split())
    compare = help_of(["compare"], capsys)
    assert all(word in compare for word in ("OLD", "NEW", "--fail-on-regression", "standard error", "examples:"))
    digits = help_of(["digits"], capsys)
    assert all(name in digits for name in ("rivals:", "columns:", "--max-steps", "examples:"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("lamina-bench ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplers", "--densities", "bananna"], "Did you mean 'banana'?"),
        (["samplers", "--kernels", "hcm"], "unknown kernel 'hcm'. Did you mean 'hmc'"),
        (["samplers", "--draws", "3"], "the number of draws must be an integer of at least 8; got 3"),
        (["samplers", "--chains", "30"], "must be a multiple of 8, as so many share a start; got 30. Take 32."),
        (["samplers", "--chains", "4"], "the number of chains must be an integer of at least 16; got 4"),
        (["samplers", "--gradients", "0"], "the number of gradients must be positive"),
        (["samplers", "--seconds", "-1"], "the number of seconds must be positive"),
        (["samplers", "--device", "nowhere"], "there is no device 'nowhere' here"),
        (["samplers", "--seed", "-1"], "the seed must be"),
        (["samplers", "--kernels", "hmc", "hmc"], "--kernels must name each one once"),
        (["digits", "--seeds", "1", "1"], "--seeds must name each one once"),
        (["digits", "--seeds", "-2"], "a seed must be"),
        (["digits", "--max-steps", "0"], "max_steps must be"),
    ],
)
def test_wrong_options_end_with_2_and_say_why(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("lamina-bench: ")
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


def test_no_command_and_unknown_choice_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["samplers", "--dtype", "float16"],
        ["samplers", "--draws", "9", "--seconds", "1"],
        ["digits", "--seeds", "one"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "usage: lamina-bench" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["samplers", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "Choose another --out" in capsys.readouterr().err


def test_default_folder_is_that_of_the_checkout_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert results.default_folder() == Path("results")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert results.default_folder() == Path("benchmarks/results")


def test_provenance_names_code_machine_seeds_and_date() -> None:
    origin = results.provenance([3, 4])
    assert origin["torch"] == torch.__version__
    assert origin["python"] == platform.python_version()
    assert origin["lamina"]
    assert origin["cpu"]
    assert origin["device"] == "cpu"
    assert origin["num_threads"] == torch.get_num_threads()
    assert origin["seeds"] == [3, 4]
    assert datetime.fromisoformat(origin["date"]).utcoffset() is not None
    assert origin["commit"] is None or len(origin["commit"]) == 40
    assert (origin["commit"] is None) == (origin["is_modified"] is None)


def test_commit_is_unknown_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    assert results.provenance([0])["commit"] is None
