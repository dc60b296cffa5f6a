"""The main job: train a model and the Gaussian-prior model it is compared with, then measure and draw.

A run folder holds everything: `config.json`, `checkpoint.pt`, `metrics.jsonl`, `baseline/`, `evaluation.json`
and `pictures/`. Whatever is missing when a run is resumed is made; what is there is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
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
from .loop import CHECKPOINT, METRICS, Training, averaged_model, load_training, read_checkpoint, reporting_full_disks
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
    """
    data = load(config.data, data_root=data_root)
    _make_folder(folder)
    with reporting_full_disks(folder):
        (folder / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n")
        _prepare(config, data, folder, device)
    return resume(folder, data_root=data_root, device=device, show_progress=show_progress)


def resume(folder: Path, *, data_root: Path | None, device: torch.device, show_progress: bool | None) -> Evaluation:
    """Continue a run from its checkpoints to the end of the job.

    Raises:
        CheckpointError: If the folder's checkpoint is missing, damaged, truncated or foreign.
        DataError: If the data it was trained on are not found.
    """
    load_data = partial(load, data_root=data_root)
    training = _load(folder, load_data, device)
    config = training.config
    training.run(folder, label=f"{config.scheme} on {config.data}", show_progress=show_progress)
    if config.baseline_steps:
        if not (folder / BASELINE / CHECKPOINT).exists():
            (folder / BASELINE).mkdir(exist_ok=True)
            _prepare(config.baseline(), load_data(config.data), folder / BASELINE, device)
        baseline = _load(folder / BASELINE, load_data, device)
        baseline.run(folder / BASELINE, label="the Gaussian-prior model to compare with", show_progress=show_progress)
    return evaluate_run(folder, data_root=data_root, device=device)


def evaluate_run(folder: Path, *, data_root: Path | None, device: torch.device) -> Evaluation:
    """Measure a trained run, and write `evaluation.json` and the pictures."""
    state = read_checkpoint(folder)
    config = from_dict(state["config"])
    torch.set_num_threads(config.num_threads)
    data = load(config.data, data_root=data_root)
    model = averaged_model(state, data.image_shape, device)
    baseline_state = read_checkpoint(folder / BASELINE) if (folder / BASELINE / CHECKPOINT).exists() else None
    baseline = None if baseline_state is None else averaged_model(baseline_state, data.image_shape, device)
    result = evaluate(model, baseline, config, data, device)
    result.report["data"] = {"name": config.data, "checksum": data.checksum, "source": data.source}
    result.report["seconds"] = {
        "model": round(state["seconds"], 1),
        **({} if baseline_state is None else {"gaussian": round(baseline_state["seconds"], 1)}),
    }
    result.report["steps"] = {
        "model": state["done"],
        **({} if baseline_state is None else {"gaussian": baseline_state["done"]}),
    }
    with reporting_full_disks(folder):
        (folder / EVALUATION).write_text(json.dumps(result.report, indent=2) + "\n")
        _draw_pictures(folder, model, config, data, result, device)
    return result


def sample_run(
    folder: Path, *, num: int, chains: ChainConfig | None, num_steps: int | None, seed: int, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Draw images from a run folder alone, by its own prior sampler or another; with the mean acceptance."""
    state = read_checkpoint(folder)
    config = from_dict(state["config"])
    torch.set_num_threads(config.num_threads)
    model = averaged_model(state, tuple(state["image_shape"]), device)
    generator = torch.Generator(device).manual_seed(seed)
    z, result = draw_prior(
        model, chains or config.prior, num, num_steps=num_steps or config.sample_steps, generator=generator
    )
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


def _prepare(config: TrainConfig, data: ImageData, folder: Path, device: torch.device) -> None:
    """Write the checkpoint of step zero, so that a run can be resumed from its first moment."""
    Training(config, data, device).save(folder)


def _load(folder: Path, load_data: Callable[[str], ImageData], device: torch.device) -> Training:
    training = load_training(folder, load_data, device)
    torch.set_num_threads(training.config.num_threads)
    return training


def _draw_pictures(
    folder: Path, model: LatentEBM, config: TrainConfig, data: ImageData, result: Evaluation, device: torch.device
) -> None:
    target = folder / PICTURES
    target.mkdir(exist_ok=True)
    pictures.sample_grid({**result.samples, "data": data.test[:64]}, target / "samples.png")
    x = data.test[:32].to(device)
    if model.inference is not None and config.scheme != "joint-mle":
        with torch.no_grad():
            mean = model.likelihood.mean(model.inference.mean(x))
        pictures.reconstructions(x.cpu(), mean.cpu(), target / "reconstructions.png")
    pictures.energy_traces(_energies_along_chains(model, config, device), target / "energies.png")
    pictures.training_curves(folder / METRICS, target / "training.png")


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
