"""The loop: resumed runs equal uninterrupted ones bit for bit, and what goes wrong leaves a run that can go on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from lamina.models import LatentEBM
from lamina.samplers import HMC, MALA, ULA
from lamina.trainers import (
    ChainConfig,
    ImageData,
    RunFolderError,
    TrainConfig,
    Training,
    TrainingError,
    cli,
    job,
    loop,
    read_checkpoint,
)
from lamina.trainers.config import Scheme
from lamina.trainers.loop import CHECKPOINT, METRICS, load_training, read_metrics

Make = Callable[..., TrainConfig]
Compare = Callable[..., None]
CPU = torch.device("cpu")


class InterruptionError(Exception):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def log_every_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "digits_run" not in request.fixturenames:
        monkeypatch.setattr(loop, "_LOG_EVERY", 1)


def prepare(config: TrainConfig, data: ImageData, folder: Path) -> Training:
    """What `lamina train` does before the first step."""
    folder.mkdir(parents=True)
    training = Training(config, data, CPU)
    training.save(folder)
    return training


def run_whole(config: TrainConfig, data: ImageData, folder: Path) -> Path:
    prepare(config, data, folder).run(folder, label="whole", show_progress=False)
    return folder


def interrupt(training: Training, folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and break off once `after` steps are done, whatever has been written by then."""
    step = Training.step

    def interrupted(self: Training) -> dict[str, torch.Tensor]:
        if self.done == after:
            raise InterruptionError
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", interrupted)
        with pytest.raises(InterruptionError):
            training.run(folder, label="broken off", show_progress=False)


def figures(folder: Path) -> list[dict[str, Any]]:
    """Records of the metrics file, but for the clock."""
    records = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def assert_equal_runs(ours: Path, theirs: Path, assert_same: Compare) -> None:
    assert_same(read_checkpoint(ours), read_checkpoint(theirs))
    assert figures(ours) == figures(theirs)


# --------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("after", [0, 2, 4, 6, 8, 12])
@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_resumed_runs_equal_uninterrupted_ones(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    scheme: Any,
    after: int,
) -> None:
    """Before the first step, within each phase, on the boundary of phases (6), between checkpoints, at the end."""
    config = make_config(scheme=scheme)
    whole = run_whole(config, data, tmp_path / "whole")
    broken = tmp_path / "broken"
    training = prepare(config, data, broken)
    if after < 12:
        interrupt(training, broken, after, monkeypatch)
    else:
        training.run(broken, label="whole", show_progress=False)
    assert read_checkpoint(broken)["done"] == after // 3 * 3
    resumed = load_training(broken, data, CPU)
    resumed.run(broken, label="resumed", show_progress=False)
    assert_equal_runs(broken, whole, assert_same)
    assert [record["step"] for record in figures(whole)] == list(range(1, 13))


@pytest.mark.parametrize(
    "chains",
    [
        ChainConfig(kernel=ULA(step_size=0.01), space="z", start="noise"),
        ChainConfig(kernel=MALA(step_size=0.02), space="z"),
        ChainConfig(kernel=HMC(step_size=0.1, num_leapfrog_steps=2, jitter=0.5), start="ancestral"),
    ],
)
def test_whatever_the_chains_are(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    chains: ChainConfig,
) -> None:
    config = make_config(scheme="joint-mle", prior=chains, posterior=chains, energy_penalty=0.1)
    whole = run_whole(config, data, tmp_path / "whole")
    broken = tmp_path / "broken"
    interrupt(prepare(config, data, broken), broken, 7, monkeypatch)
    load_training(broken, data, CPU).run(broken, label="resumed", show_progress=False)
    assert_equal_runs(broken, whole, assert_same)


def test_two_interruptions_are_as_good_as_none(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Compare
) -> None:
    whole = run_whole(make_config(), data, tmp_path / "whole")
    broken = tmp_path / "broken"
    interrupt(prepare(make_config(), data, broken), broken, 5, monkeypatch)
    interrupt(load_training(broken, data, CPU), broken, 10, monkeypatch)
    load_training(broken, data, CPU).run(broken, label="resumed", show_progress=False)
    assert_equal_runs(broken, whole, assert_same)


def test_runs_that_stop_on_the_way_are_as_good_as_those_that_do_not(
    make_config: Make, data: ImageData, tmp_path: Path, assert_same: Compare
) -> None:
    """Between checkpoints, on the boundary of phases (6), and at a checkpoint; each stop leaves one."""
    whole, stopped = run_whole(make_config(), data, tmp_path / "whole"), tmp_path / "stopped"
    training = prepare(make_config(), data, stopped)
    for stop in (2, 6, 9, 12):
        training.run(stopped, label="stretch", until=stop, show_progress=False)
        assert read_checkpoint(stopped)["done"] == training.done == stop
    assert_equal_runs(stopped, whole, assert_same)


def test_seeds_make_a_difference_and_are_all_that_does(
    make_config: Make, data: ImageData, tmp_path: Path, assert_same: Compare
) -> None:
    first, again = (run_whole(make_config(seed=3), data, tmp_path / name) for name in "ab")
    assert_equal_runs(first, again, assert_same)
    other = run_whole(make_config(seed=4), data, tmp_path / "c")
    assert figures(other) != figures(first)


@pytest.mark.parametrize("end", ['{"step": 5, "pha', '{"step": 5, "phase": 0, "loss": 1.0}', "", "\n"])
def test_a_metrics_file_cut_short_is_mended(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    end: str,
) -> None:
    whole = run_whole(make_config(), data, tmp_path / "whole")
    broken = tmp_path / "broken"
    interrupt(prepare(make_config(), data, broken), broken, 4, monkeypatch)
    with (broken / METRICS).open("a") as file:
        file.write(end)
    assert len(read_metrics(broken / METRICS)) in (4, 5)
    load_training(broken, data, CPU).run(broken, label="resumed", show_progress=False)
    assert_equal_runs(broken, whole, assert_same)
    assert not list(broken.glob("*.part"))


def test_the_second_stage_stands_on_the_averaged_backbone(
    make_config: Make, data: ImageData, assert_same: Compare
) -> None:
    """What is sampled after training is what the energies were trained on."""
    training = Training(make_config(scheme="two-stage", averaging=0.9), data, torch.device("cpu"))
    for _ in range(5):
        training.step()
    assert any(not torch.equal(a, b) for a, b in zip(*backbones(training), strict=True))
    for _ in range(7):
        training.step()
        assert_same(*backbones(training))


def backbones(training: Training) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All weights but the energies', of the model and averaged."""

    def weights(model: LatentEBM) -> list[torch.Tensor]:
        return [weight.detach() for name, weight in model.named_parameters() if "energies" not in name]

    return weights(training.model), weights(training.averages.model)


def test_a_finished_run_has_no_more_steps(make_config: Make, data: ImageData, tmp_path: Path) -> None:
    folder = run_whole(make_config(), data, tmp_path / "whole")
    with pytest.raises(ValueError, match="12 steps is complete"):
        load_training(folder, data, CPU).step()


# ------------------------------------------------------------------------------------------------ a real kill


def train_until_killed(folder: Path, flags: tuple[str, ...], is_time: Callable[[], bool]) -> None:
    """`lamina train` in a process of its own, killed without notice as soon as it has come far enough."""
    command = [sys.executable, "-c", "from lamina.trainers.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "train", "digits", "--out", str(folder), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not is_time():
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("part", [".", "baseline"])
def test_a_killed_command_resumes_to_the_same_bits(
    digits_run: Path, short: tuple[str, ...], tmp_path: Path, assert_same: Compare, part: str
) -> None:
    """`digits_run` is the same command, left in peace. The main model is killed in its second phase."""
    folder = tmp_path / "digits"
    metrics, goal = folder / part / METRICS, 90 if part == "." else 20
    train_until_killed(
        folder, short, lambda: metrics.exists() and any(r["step"] >= goal for r in read_metrics(metrics))
    )
    state = read_checkpoint(folder / part)
    assert state["done"] < state["config"]["num_steps"]
    assert not (folder / job.EVALUATION).exists()
    assert cli.main(["resume", str(folder)]) == 0
    for run in (".", "baseline"):
        assert_equal_runs(folder / run, digits_run / run, assert_same)
    ours, theirs = (json.loads((run / job.EVALUATION).read_text()) for run in (folder, digits_run))
    assert_same(ours, theirs)


# -------------------------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_finite_ends_training_before_the_checkpoint(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Training.step

    def failing(self: Training) -> dict[str, torch.Tensor]:
        return {**step(self), **({"loss": torch.tensor(float("nan"))} if self.done == 9 else {})}

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(TrainingError, match=r"step 9: loss is not finite.*smaller learning rate"):
        run_whole(make_config(), data, tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")["done"] == 6
    assert [record["step"] for record in figures(tmp_path / "run")] == list(range(1, 9))


def test_a_finite_loss_with_other_weights_is_not_saved(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Training.step

    @torch.no_grad()
    def failing(self: Training) -> dict[str, torch.Tensor]:
        with torch.enable_grad():
            result = step(self)
        if self.done == 6:
            next(self.model.prior.base.parameters()).fill_(float("inf"))
        return result

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(TrainingError, match=r"step 6: prior\.base\.\S+ is not finite"):
        run_whole(make_config(), data, tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")["done"] == 3


@pytest.mark.parametrize("scheme", ["gaussian", "joint-variational"])
def test_training_that_blows_up_says_so(make_config: Make, data: ImageData, tmp_path: Path, scheme: Any) -> None:
    config = make_config(scheme=scheme, learning_rate=1e25, num_steps=60)
    with pytest.raises(TrainingError, match="not finite"):
        run_whole(config, data, tmp_path / "run")
    weights = read_checkpoint(tmp_path / "run")["model"].values()
    assert all(bool(weight.isfinite().all()) for weight in weights)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, RuntimeError("PytorchStreamWriter failed writing file data/3")])
def test_a_full_disk_leaves_the_last_checkpoint(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    error: Exception,
) -> None:
    """The third checkpoint is half written when space runs out."""
    whole = run_whole(make_config(), data, tmp_path / "whole")
    folder = tmp_path / "run"
    training = prepare(make_config(), data, folder)
    save, calls = torch.save, []

    def failing(state: Any, file: Any) -> None:
        calls.append(state["state"]["done"])
        if calls[-1] == 9:
            file.write(b"PK\x03\x04 half a file")
            raise error
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", failing)
        with pytest.raises(RunFolderError, match=f"free some space.*lamina resume {folder}"):
            training.run(folder, label="run", show_progress=False)
    assert calls == [3, 6, 9]
    assert read_checkpoint(folder)["done"] == 6
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT, METRICS]
    load_training(folder, data, CPU).run(folder, label="resumed", show_progress=False)
    assert_equal_runs(folder, whole, assert_same)


def fail_writing(patch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """From now on files whose name begins so cannot be opened for writing."""
    opening = Path.open

    def failing(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.name.startswith(name) and mode[0] in "wa":
            raise error
        return opening(self, mode, *arguments, **options)

    patch.setattr(Path, "open", failing)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_figures_that_cannot_be_written(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resumed: bool
) -> None:
    folder = tmp_path / "run"
    training = prepare(make_config(), data, folder)
    if is_resumed:
        interrupt(training, folder, 4, monkeypatch)
        training = load_training(folder, data, CPU)
    with monkeypatch.context() as patch:
        fail_writing(patch, "metrics", FULL)
        with pytest.raises(RunFolderError, match="No space left"):
            training.run(folder, label="run", show_progress=False)
    assert read_checkpoint(folder)["done"] == (3 if is_resumed else 0)


def test_a_baseline_that_cannot_be_written_keeps_the_model(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_evaluation: None
) -> None:
    """A full disk between the two models; the run then goes on where it was."""
    folder = tmp_path / "run"
    config = make_config(baseline_steps=4)
    making = Path.mkdir

    def failing(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name == job.BASELINE:
            raise FULL
        making(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing)
        with pytest.raises(RunFolderError, match="No space left"):
            job.start(config, folder, data_root=None, device=CPU, show_progress=False)
    assert read_checkpoint(folder)["done"] == 12
    job.resume(folder, data_root=None, device=CPU, show_progress=False)
    assert read_checkpoint(folder / job.BASELINE)["done"] == 4
    assert (folder / job.EVALUATION).exists()


def test_a_folder_below_a_file_cannot_be_made(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match=r"cannot be made or read.*another --out"):
            job.start(make_config(), folder, data_root=None, device=CPU, show_progress=False)


def test_a_folder_that_may_not_be_made(make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refusing)
        with pytest.raises(RunFolderError, match="Permission denied"):
            job.start(config, tmp_path / "run", data_root=None, device=CPU, show_progress=False)


def test_a_run_that_cannot_begin_leaves_no_folder(make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        job.start(make_config(batch_size=10**6), tmp_path / "run", data_root=None, device=CPU, show_progress=False)
    assert not (tmp_path / "run").exists()
