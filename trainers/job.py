"""The main job: train a model and the Gaussian-prior model it is compared with, then measure and draw.

A run folder holds everything: `config.json`, `checkpoint.pt`, `metrics.jsonl`, `baseline/`, `evaluation.json`
and `pictures/`. Whatever is missing when a run is resumed is made; what is there is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lamina.models import LatentEBM, Latents
from lamina.samplers import run

from . import pictures
from .config import ChainConfig, TrainConfig, from_dict, to_dict
from .data import ImageData, load
from .errors import RunFolderError
from .evaluate import Evaluation, evaluate
from .loop import (
    CHECKPOINT,
    METRICS,
    Training,
    averaged_model,
    load_training,
    read_checkpoint,
    read_metrics,
    reporting_full_disks,
    trained_step_size,
)
from .sampling import draw_prior, images

CONFIG = "config.json"
EVALUATION = "evaluation.json"
PICTURES = "pictures"
BASELINE = "baseline"


def start(
    config: TrainConfig, folder: Path, *, data_root: Path | None, device: torch.device, show_progress: bool | None
) -> Evaluation:
    """Make a run folder and do the whole job.

    Raises:
        RunFolderError: If the folder exists and is not empty, or cannot be made.
        DataError: If the data are not found, or are not the published ones.
    """
    data = load(config.data, data_root=data_root)
    training = Training(config, data, device)  # before the folder: what cannot begin leaves nothing behind
    _make_folder(folder)
    with reporting_full_disks(folder):
        training.save(folder)  # step zero, so that a run can be resumed from its first moment
        (folder / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n")
    return _finish(folder, data, device, show_progress)


def resume(folder: Path, *, data_root: Path | None, device: torch.device, show_progress: bool | None) -> Evaluation:
    """Continue a run from its checkpoints to the end of the job.

    Raises:
        CheckpointError: If the folder's checkpoint is missing, damaged, truncated or foreign.
        DataError: If the data it was trained on are not found.
    """
    return _finish(folder, _load_data(read_checkpoint(folder), data_root), device, show_progress)


def evaluate_run(folder: Path, *, data_root: Path | None, device: torch.device) -> Evaluation:
    """Measure a trained run, and write `evaluation.json` and the pictures.

    Raises:
        CheckpointError: As `resume`; likewise DataError.
    """
    return _evaluate(folder, _load_data(read_checkpoint(folder), data_root), device)


def sample_run(
    folder: Path, *, num: int, chains: ChainConfig | None, num_steps: int | None, seed: int, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Draw images from a run folder alone, by its own prior sampler or another; with the mean acceptance."""
    state = read_checkpoint(folder)
    config = from_dict(state["config"])
    model = averaged_model(state, tuple(state["image_shape"]), device)
    generator = torch.Generator(device).manual_seed(seed)
    is_own = chains is None or chains == config.prior
    with _threads(config.num_threads):
        z, result = draw_prior(
            model,
            chains or config.prior,
            num,
            num_steps=config.sample_steps if num_steps is None else num_steps,
            generator=generator,
            step_size=trained_step_size(state) if is_own else None,
        )
        return images(model, z, state["num_levels"]).cpu(), float(result.accept_prob.mean())


@contextmanager
def _threads(num: int) -> Iterator[None]:
    """Run with so many threads of PyTorch, and set them back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made or read: {error}. Choose another --out.") from error
    if occupied:
        way_out = (
            f"Continue it with `lamina resume {folder}`, or choose" if (folder / CHECKPOINT).exists() else "Choose"
        )
        raise RunFolderError(f"{folder} exists and is not empty. {way_out} another --out.")


def _load_data(state: dict[str, Any], data_root: Path | None) -> ImageData:
    """The data of a checkpoint: from the given folder, else from where they were, else from the usual places."""
    source = Path(state["data_source"])
    return load(state["config"]["data"], data_root=data_root or (source if source.is_dir() else None))


def _finish(folder: Path, data: ImageData, device: torch.device, show_progress: bool | None) -> Evaluation:
    """Do what is left of the job."""
    training = load_training(folder, data, device)
    config = training.config
    with _threads(config.num_threads):
        training.run(folder, label=f"{config.scheme} on {config.data}", show_progress=show_progress)
    if config.baseline_steps:
        if not (folder / BASELINE / CHECKPOINT).exists():
            with reporting_full_disks(folder):
                (folder / BASELINE).mkdir(exist_ok=True)
                Training(config.baseline(), data, device).save(folder / BASELINE)
        baseline = load_training(folder / BASELINE, data, device)
        with _threads(config.num_threads):
            baseline.run(folder / BASELINE, label="its Gaussian-prior rival", show_progress=show_progress)
    return _evaluate(folder, data, device)


def _evaluate(folder: Path, data: ImageData, device: torch.device) -> Evaluation:
    states = {"model": read_checkpoint(folder)}
    if (folder / BASELINE / CHECKPOINT).exists():
        states["gaussian"] = read_checkpoint(folder / BASELINE)
    models = {name: averaged_model(state, data.image_shape, device) for name, state in states.items()}
    config = from_dict(states["model"]["config"])
    step_size = trained_step_size(states["model"])
    with _threads(config.num_threads):
        result = evaluate(models["model"], models.get("gaussian"), config, data, device, step_size=step_size)
    result.report["data"] = {"name": config.data, "checksum": data.checksum, "source": data.source}
    result.report["seconds"] = {name: round(state["seconds"], 1) for name, state in states.items()}
    result.report["steps"] = {name: state["done"] for name, state in states.items()}
    with reporting_full_disks(folder):
        (folder / EVALUATION).write_text(json.dumps(result.report, indent=2) + "\n")
        _draw_pictures(folder, data, result)
        energies = _energies_along_chains(models["model"], config, step_size, device)
        pictures.energy_traces(energies, folder / PICTURES / "energies.png")
    return result


def _draw_pictures(folder: Path, data: ImageData, result: Evaluation) -> None:
    target = folder / PICTURES
    target.mkdir(exist_ok=True)
    pictures.sample_grid({**result.samples, "data": data.test[:64]}, target / "samples.png")
    pictures.reconstructions(*result.reconstructions, target / "reconstructions.png")
    pictures.training_curves(read_metrics(folder / METRICS), target / "training.png")


def _energies_along_chains(
    model: LatentEBM, config: TrainConfig, step_size: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """Energies of 256 chains of the prior sampler as training left it, from ancestral draws."""
    generator = torch.Generator(device).manual_seed(config.seed)
    base: Latents = model.prior.base.sample(256, generator=generator)
    start = model.prior.from_latents(base, config.prior.space)
    result = run(
        model.prior.energy(config.prior.space),
        config.prior.kernel,
        start,
        params=config.prior.kernel.init_params(start, step_size=step_size),
        num_steps=config.sample_steps,
        generator=generator,
        record_energies=True,
    )
    assert result.energies is not None
    return result.energies.cpu()
