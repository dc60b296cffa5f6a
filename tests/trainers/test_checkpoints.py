"""Checkpoints that are damaged, foreign or missing are refused, with what to do, by all that reads them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.samplers import storage
from lamina.trainers import (
    CheckpointError,
    ImageData,
    RunFolderError,
    TrainConfig,
    Training,
    averaged_model,
    job,
    read_checkpoint,
)
from lamina.trainers.loop import CHECKPOINT, load_training

CPU = torch.device("cpu")
KIND = "lamina training"
ADVICE = "Put back an earlier copy, or train anew"


@pytest.fixture(scope="module")
def training(make_config: Callable[..., TrainConfig], data: ImageData) -> Training:
    training = Training(make_config(scheme="joint-mle"), data, CPU)
    for _ in range(3):
        training.step()
    return training


@pytest.fixture
def folder(training: Training, tmp_path: Path) -> Path:
    training.save(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint as nobody should."""
    state = storage.load(folder / CHECKPOINT, kind=KIND)
    change(state)
    storage.save(state, folder / CHECKPOINT, kind=KIND)


def test_a_checkpoint_holds_what_was_saved(training: Training, folder: Path, assert_same: Callable[..., None]) -> None:
    assert_same(read_checkpoint(folder), training.state_dict())


@pytest.mark.parametrize("position", [*range(0, 100, 9), *range(101, 1000, 31)])
def test_truncated(folder: Path, position: int) -> None:
    """At every tenth of a percent in three thousand, and a few bytes from the end."""
    path = folder / CHECKPOINT
    whole = path.read_bytes()
    for length in (position, len(whole) * position // 1000, len(whole) - 1 - position):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=ADVICE):
            read_checkpoint(folder)


def test_damaged_anywhere(folder: Path, assert_same: Callable[..., None]) -> None:
    """A byte is lost: refused, wherever it lies, or else it was padding and the same state is read."""
    path = folder / CHECKPOINT
    whole, state = path.read_bytes(), read_checkpoint(folder)
    refusals, num_same = [], 0
    for position in [*range(0, 1500, 9), *range(1500, len(whole), len(whole) // 150)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert_same(read_checkpoint(folder), state)
            num_same += 1
        except CheckpointError as error:
            refusals.append(str(error))
    assert all(ADVICE in refusal for refusal in refusals)
    assert len(refusals) > num_same


@pytest.mark.parametrize(
    "content",
    [b"", b"step,loss\n1,2\n", b"{}", b"0", b".", b"]", b"c", b"PK\x03\x04", b"\x00" * 300, b"\x80\x02}q", b"(lp0\n"],
)
def test_files_of_other_kinds(folder: Path, content: bytes) -> None:
    (folder / CHECKPOINT).write_bytes(content)
    with pytest.raises(CheckpointError, match=ADVICE):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "stored",
    [
        torch.zeros(3),
        {"weights": torch.zeros(3)},
        [1, 2],
        {"kind": "lamina chains", "state": {}},
        {"kind": KIND, "state": [1]},
        {"kind": KIND, "state": {}},
        {"kind": KIND, "state": {"config": {}}},
    ],
)
def test_files_of_pytorch_with_something_else(folder: Path, stored: object) -> None:
    torch.save(stored, folder / CHECKPOINT)
    with pytest.raises(CheckpointError, match=ADVICE):
        read_checkpoint(folder)


def test_classes_are_not_unpickled(folder: Path) -> None:
    """Neither by the pickle of a class that would act, nor by PyTorch's own format around one."""
    trap = folder / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (trap,)  # type: ignore[return-value]

    (folder / CHECKPOINT).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=ADVICE):
        read_checkpoint(folder)
    for value in (Trap(), Fraction(1, 2)):
        torch.save({"kind": KIND, "state": {"config": value}}, folder / CHECKPOINT)
        with pytest.raises(CheckpointError, match=ADVICE):
            read_checkpoint(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    "name", ["config", "data_checksum", "done", "model", "averages", "generator", "stream", "phase", "num_levels"]
)
def test_an_entry_is_missing(folder: Path, name: str) -> None:
    edit(folder, lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match=f"it lacks {name}.*{ADVICE}"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda config: config.update(scheme="two-phase"), "unknown scheme"),
        (lambda config: config.update(num_steps=-1), "num_steps"),
        (lambda config: config.update(colour="red"), "unknown settings colour"),
        (lambda config: config["prior"]["kernel"].update(name="nutz"), "unknown kernel"),
        (lambda config: config["model"].update(latents=[]), "latents"),
        (lambda config: config.update(model=None), "no training configuration"),
    ],
)
def test_a_configuration_of_another_version(folder: Path, change: Callable[[Any], object], what: str) -> None:
    edit(folder, lambda state: change(state["config"]))
    with pytest.raises(CheckpointError, match=f"{what}.*{ADVICE}"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["config"]["model"].update(latents=[3, 3]),
        lambda state: state["model"].popitem(),
        lambda state: state["phase"]["optimisers"].pop(),
        lambda state: state["phase"]["optimisers"][0]["param_groups"][0].update(params=[0]),
        lambda state: state["phase"].pop("posterior"),
        lambda state: state.update(phase_index=5),
        lambda state: state.update(generator=torch.zeros(3, dtype=torch.uint8)),
        lambda state: state.update(generator=None),
        lambda state: state["stream"].update(cursor=1),
        lambda state: state["averages"].pop("count"),
    ],
)
def test_states_that_do_not_fit_their_configuration(
    folder: Path, data: ImageData, change: Callable[[Any], object]
) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError):
        load_training(folder, data, CPU)


def test_averages_that_do_not_fit(folder: Path, data: ImageData) -> None:
    edit(folder, lambda state: state["averages"]["model"].popitem())
    with pytest.raises(CheckpointError, match=ADVICE):
        averaged_model(read_checkpoint(folder), data.image_shape, CPU)


def test_other_data_are_refused(folder: Path, data: ImageData) -> None:
    with pytest.raises(CheckpointError, match=r"other data.*0123456789ab there, ffff here.*Use the data"):
        load_training(folder, replace(data, checksum="ffff"), CPU)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        for use in (read_checkpoint, resume, evaluate, sample):
            with pytest.raises(CheckpointError, match=r"holds no checkpoint\.pt.*lamina train"):
                use(folder)


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run" / CHECKPOINT).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "run"):
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)


def resume(folder: Path) -> object:
    return job.resume(folder, data_root=None, device=CPU, show_progress=False)


def evaluate(folder: Path) -> object:
    return job.evaluate_run(folder, data_root=None, device=CPU)


def sample(folder: Path) -> object:
    return job.sample_run(folder, num=2, chains=None, num_steps=4, seed=0, device=CPU)


@pytest.mark.parametrize("use", [resume, evaluate, sample])
def test_every_reader_refuses_damage(folder: Path, use: Callable[[Path], object]) -> None:
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=ADVICE):
        use(folder)


def test_an_occupied_folder_is_not_overwritten(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Resuming is suggested where there is something to resume."""
    for name, advice in (("notes.txt", "not empty. Choose another --out"), ("checkpoint.pt", "lamina resume")):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(RunFolderError, match=advice):
            job.start(make_config(), folder, data_root=None, device=CPU, show_progress=False)
        assert [path.name for path in folder.iterdir()] == [name]
