"""The main job: train a model and the Gaussian-prior model it is compared with, then measure and draw.

A run folder holds everything: `config.json`, `checkpoint.pt`, `metrics.jsonl`, `baseline/`, `evaluation.json`
and `pictures/`. Whatever is missing when a run is resumed is made; what is there is kept.
"""

from __future__ import annotations

import json
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
        (folder / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n")
        training.save(folder)  # step zero, so that a run can be resumed from its first moment
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
    torch.set_num_threads(config.num_threads)
    model = averaged_model(state, tuple(state["image_shape"]), device)
    generator = torch.Generator(device).manual_seed(seed)
    num_steps = config.sample_steps if num_steps is None else num_steps
    z, result = draw_prior(model, chains or config.prior, num, num_steps=num_steps, generator=generator)
    return images(model, z, state["num_levels"]).cpu(), float(result.accept_prob.mean())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made or read: {error}. Choose another --out.") from error
    if occupied:
        raise RunFolderError(
            f"{folder} exists and is not empty. Continue it with `lamina resume {folder}`, or choose another --out."
        )


def _load_data(state: dict[str, Any], data_root: Path | None) -> ImageData:
    """The data of a checkpoint: from the given folder, else from where they were, else from the usual places."""
    source = Path(state["data_source"])
    return load(state["config"]["data"], data_root=data_root or (source if source.is_dir() else None))


def _finish(folder: Path, data: ImageData, device: torch.device, show_progress: bool | None) -> Evaluation:
    """Do what is left of the job."""
    training = load_training(folder, data, device)
    config = training.config
    torch.set_num_threads(config.num_threads)
    training.run(folder, label=f"{config.scheme} on {config.data}", show_progress=show_progress)
    if config.baseline_steps:
        if not (folder / BASELINE / CHECKPOINT).exists():
            with reporting_full_disks(folder):
                (folder / BASELINE).mkdir(exist_ok=True)
                Training(config.baseline(), data, device).save(folder / BASELINE)
        baseline = load_training(folder / BASELINE, data, device)
        baseline.run(folder / BASELINE, label="its Gaussian-prior rival", show_progress=show_progress)
    return _evaluate(folder, data, device)


def _evaluate(folder: Path, data: ImageData, device: torch.device) -> Evaluation:
    states = {"model": read_checkpoint(folder)}
    if (folder / BASELINE / CHECKPOINT).exists():
        states["gaussian"] = read_checkpoint(folder / BASELINE)
    models = {name: averaged_model(state, data.image_shape, device) for name, state in states.items()}
    config = from_dict(states["model"]["config"])
    torch.set_num_threads(config.num_threads)
    result = evaluate(models["model"], models.get("gaussian"), config, data, device)
    result.report["data"] = {"name": config.data, "checksum": data.checksum, "source": data.source}
    result.report["seconds"] = {name: round(state["seconds"], 1) for name, state in states.items()}
    result.report["steps"] = {name: state["done"] for name, state in states.items()}
    with reporting_full_disks(folder):
        (folder / EVALUATION).write_text(json.dumps(result.report, indent=2) + "\n")
        _draw_pictures(folder, models["model"], config, data, result, device)
    return result


def _draw_pictures(
    folder: Path, model: LatentEBM, config: TrainConfig, data: ImageData, result: Evaluation, device: torch.device
) -> None:
    target = folder / PICTURES
    target.mkdir(exist_ok=True)
    pictures.sample_grid({**result.samples, "data": data.test[:64]}, target / "samples.png")
    pictures.reconstructions(*result.reconstructions, target / "reconstructions.png")
    pictures.energy_traces(_energies_along_chains(model, config, device), target / "energies.png")
    pictures.training_curves(read_metrics(folder / METRICS), target / "training.png")


def _energies_along_chains(model: LatentEBM, config: TrainConfig, device: torch.device) -> torch.Tensor:
    """Energies of 256 chains of the prior sampler as it stands in the configuration, from ancestral draws."""
    generator = torch.Generator(device).manual_seed(config.seed)
    base: Latents = model.prior.base.sample(256, generator=generator)
    result: Any = run(
        model.prior.energy(config.prior.space),
        config.prior.kernel,
        model.prior.from_latents(base, config.prior.space),
        num_steps=config.sample_steps,
        generator=generator,
        record_energies=True,
    )
    energies: torch.Tensor = result.energies.cpu()
    return energies
