"""A kernel of another distribution, from installing it to training with it: the example package of the documentation.

Nothing is downloaded: the example is built with the installed setuptools into a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.trainers import cli

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "lamina-student-walk"

SCRIPT = """
import importlib
import json
from functools import partial

import pytest
import torch

from lamina.samplers import make_kernel, sample
from lamina.samplers.registry import KERNELS, kernel_names
from lamina.trainers import cli
from lamina.trainers.config import from_dict

print("names:", kernel_names()[len(KERNELS):])

kernel = make_kernel("student-walk", degrees=3)
result = sample(lambda x: 0.5 * x.square().sum(1), kernel, torch.zeros(50, 2), num_samples=50, num_warmup=100, noise=0)
print("sampled:", type(kernel).__module__, tuple(result.draws.shape), bool(0.1 < result.accept_prob.mean() < 0.5))

print("its own tests:", pytest.main(["-q", "-W", "error", "-p", "no:cacheprovider", "source/tests"]).name)

# A few steps are not worth a long evaluation.
comparison = importlib.import_module("lamina.trainers.evaluation.comparison")
comparison.NUM_SAMPLES = comparison.MAX_HELD_OUT = 60
comparison.two_sample_accuracy = partial(comparison.two_sample_accuracy, repeats=1)
flags = "--max-steps 4 --baseline-steps 0 --prior-sampler student-walk --prior-option degrees=3".split()
print("training:", cli.main(["train", "digits", "--out", "run", *flags]))
print("trained:", from_dict(json.load(open("run/config.json"))).prior.kernel)
"""


def _run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Run a command to its end and return what it printed; a failure shows all of that."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command, cwd=folder, env={**variables, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_example_from_installing_to_training(tmp_path: Path) -> None:
    """In one process, as most of its time goes into imports."""
    shutil.copytree(EXAMPLE, tmp_path / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", tmp_path / "site", tmp_path / "source"]
    _run(install, tmp_path)
    lines = _run([sys.executable, "-c", SCRIPT], tmp_path, PYTHONPATH=str(tmp_path / "site")).splitlines()
    for line in (
        "names: ['student-walk']",
        "sampled: lamina_student_walk (50, 50, 2) True",
        "its own tests: OK",
        "training: 0",
        "trained: StudentWalk(step_size=0.1, degrees=3, target_accept=0.234)",
    ):
        assert line in lines, "\n".join(lines)


def test_without_the_distribution_the_name_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits", "--out", str(tmp_path / "run"), "--prior-sampler", "student-walk"]) == 2
    assert "unknown kernel 'student-walk'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments", [["train", "digits", "--out", "x", "--prior-option"], ["sample", "x", "--option"]]
)
@pytest.mark.parametrize("text", ["degrees", "degrees=", "=3"])
def test_an_option_is_a_key_and_a_value(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, text])
    assert ended.value.code == 2
    assert f"{text!r} is not of the form KEY=VALUE" in capsys.readouterr().err


def test_an_option_that_the_kernel_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits", "--out", str(tmp_path / "run"), "--prior-option", "degrees=3"]) == 2
    assert "kernel 'hmc' has options" in capsys.readouterr().err
