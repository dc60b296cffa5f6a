"""The main job: train a model and the Gaussian-prior model it is compared with, then measure and draw.

A run folder holds everything: `config.json`, `checkpoint.pt`, `metrics.jsonl`, `baseline/`, `evaluation.json`
and `pictures/`. Whatever is missing when a run is resumed is made; what is there is kept. `measure_run` adds
`evaluation/`, a file for each part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lamina.models import LatentEBM
from lamina.samplers import UnknownNameError, run

from . import pictures
from .config import ChainConfig, TrainConfig, to_dict
from .data import ImageData, load
from .errors import RunFolderError
from .evaluation import PARTS, Budget, Evaluation, Subject, check_features, evaluate, finite
from .loop import (
    CHECKPOINT,
    METRICS,
    Training,
    averaged_model,
    load_training,
    read_checkpoint,
    read_metrics,
    reporting_full_disks,
    trained_config,
    trained_positions,
    trained_step_size,
)
from .sampling import draw_prior, images, prior_start

CONFIG = "config.json"
EVALUATION = "evaluation.json"
MEASURED = "evaluation"
PICTURES = "pictures"
BASELINE = "baseline"
_ON_FEATURES = frozenset(("generation", "chains"))
"""Parts of the evaluation that compare images."""


def start(
    config: TrainConfig,
    folder: Path,
    *,
    data_root: Path | None,
    device: torch.device,
    show_progress: bool | None,
    features: str | None = None,
) -> Evaluation:
    """Make a run folder and do the whole job; at its end samples are compared on `features`, see `features_of`.

    Raises:
        RunFolderError: If the folder exists and is not empty, or cannot be made.
        DataError: If the data are not found, are not the published ones, or have no training images.
        MissingExtraError: If a package is not installed, that of the features too: nothing is trained in vain.
    """
    data = load(config.data, data_root=data_root)
    check_features(data, features)
    training = Training(config, data, device)  # before the folder: what cannot begin leaves nothing behind
    _make_folder(folder)
    with reporting_full_disks(folder):
        training.save(folder)  # step zero, so that a run can be resumed from its first moment
        (folder / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n")
    return _finish(folder, data, device, show_progress, features)


def resume(
    folder: Path,
    *,
    data_root: Path | None,
    device: torch.device,
    show_progress: bool | None,
    features: str | None = None,
) -> Evaluation:
    """Continue a run from its checkpoints to the end of the job, the comparison on `features` (see `features_of`).

    Raises:
        CheckpointError: If the folder's checkpoint is missing, damaged, truncated or foreign.
        DataError: If the data it was trained on are not found.
        MissingExtraError: As `start`.
    """
    data = _load_data(read_checkpoint(folder), data_root)
    check_features(data, features)
    return _finish(folder, data, device, show_progress, features)


def evaluate_run(
    folder: Path, *, data_root: Path | None, device: torch.device, features: str | None = None
) -> Evaluation:
    """Measure a trained run on `features` (see `features_of`), and write `evaluation.json` and the pictures.

    Raises:
        CheckpointError: As `resume`; likewise DataError and MissingExtraError.
    """
    data = _load_data(read_checkpoint(folder), data_root)
    check_features(data, features)
    return _evaluate(folder, data, device, features)


def measure_run(
    folder: Path,
    parts: Sequence[str] = tuple(PARTS),
    *,
    budget: Budget | None = None,
    outliers: Sequence[str] = (),
    features: str | None = None,
    again: bool = False,
    data_root: Path | None = None,
    device: torch.device | None = None,
    show_progress: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure a trained run part by part: each writes `evaluation/PART.json` and pictures when it is done.

    A part that is there already is kept if it is of the same weights, settings and version. So an interrupted
    evaluation goes on where it stopped when it is called again.

    Args:
        folder: Run folder.
        parts: Keys of `PARTS`, in the order to go.
        budget: How much is spent; None takes the default.
        outliers: Names of data sets whose images, test ones first, are outliers, for the part "outliers".
        features: What samples are compared on, see `features_of`.
        again: Measure parts anew that are there.
        data_root: Folder with the files of data sets.
        device: Where to compute; None takes the CPU.
        show_progress: None shows bars where standard error is a terminal.

    Returns:
        The reports by part.

    Raises:
        CheckpointError: As `resume`; likewise DataError, and MissingExtraError for parts on features.
        UnknownNameError: If there is no such part.
        ParameterError: If outliers are of another shape than the run's images.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise UnknownNameError("part of the evaluation", unknown[0], PARTS)
    states = _states(folder)
    data = _load_data(states["model"], data_root)
    if not _ON_FEATURES.isdisjoint(parts):
        check_features(data, features)
    device, budget = device or torch.device("cpu"), budget or Budget()
    models = {name: averaged_model(state, data.image_shape, device) for name, state in states.items()}
    weights = "".join(_checksum(place / CHECKPOINT) for place in (folder, folder / BASELINE))
    cache = folder / MEASURED / "scores" / _digest(weights, asdict(budget), version("lamina"))
    subject = Subject(
        model=models["model"],
        baseline=models.get("gaussian"),
        config=trained_config(states["model"]),
        data=data,
        device=device,
        step_size=trained_step_size(states["model"]),
        positions=trained_positions(states["model"]),
        outliers={name: _outliers(name, data, budget.num_rows, data_root) for name in outliers if "outliers" in parts},
        features=features,
        budget=budget,
        cache=cache,
        show_progress=show_progress,
    )
    reports = {}
    with reporting_full_disks(folder), _threads(subject.config.num_threads):
        for made in (folder / PICTURES, cache):
            made.mkdir(parents=True, exist_ok=True)
        for name in parts:
            own = sorted(outliers) if name == "outliers" else features if name in _ON_FEATURES else None
            digest = _digest(name, weights, asdict(budget), version("lamina"), own)
            reports[name] = _measured(folder, name, subject, digest, again)
    return reports


def _measured(folder: Path, name: str, subject: Subject, digest: str, again: bool) -> dict[str, Any]:
    """The report of one part: the one that is there, if it fits, else made and written."""
    path = folder / MEASURED / f"{name}.json"
    if not again and (there := _read_report(path)).get("digest") == digest:
        return there
    part = PARTS[name](subject)
    for file, draw in part.pictures.items():
        draw(folder / PICTURES / file)
    report: dict[str, Any] = finite({"part": name, "digest": digest, "data": subject.data.provenance, **part.report})
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(report, indent=2) + "\n")
    aside.replace(path)
    return report


def _read_report(path: Path) -> dict[str, Any]:
    """A report that is there; nothing where it is missing or damaged."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _outliers(name: str, data: ImageData, num: int, data_root: Path | None) -> torch.Tensor:
    found = load(name, data_root=data_root)
    data.check_outliers(found)
    return found.outliers(num)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _digest(*settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def sample_run(
    folder: Path, *, num: int, chains: ChainConfig | None, num_steps: int | None, seed: int, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Draw images from a run folder alone, by its own prior sampler or another; with the mean acceptance."""
    state = read_checkpoint(folder)
    config = trained_config(state)
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


def _finish(
    folder: Path, data: ImageData, device: torch.device, show_progress: bool | None, features: str | None
) -> Evaluation:
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
    return _evaluate(folder, data, device, features)


def _evaluate(folder: Path, data: ImageData, device: torch.device, features: str | None) -> Evaluation:
    states = _states(folder)
    models = {name: averaged_model(state, data.image_shape, device) for name, state in states.items()}
    config = trained_config(states["model"])
    step_size = trained_step_size(states["model"])
    with _threads(config.num_threads):
        result = evaluate(
            models["model"], models.get("gaussian"), config, data, device, step_size=step_size, features=features
        )
    result.report["data"] = data.provenance
    result.report["seconds"] = {name: round(state["seconds"], 1) for name, state in states.items()}
    result.report["steps"] = {name: state["done"] for name, state in states.items()}
    with reporting_full_disks(folder):
        (folder / EVALUATION).write_text(json.dumps(result.report, indent=2) + "\n")
        _draw_pictures(folder, data, result)
        energies = _energies_along_chains(models["model"], config, step_size, device)
        pictures.energy_traces(energies, folder / PICTURES / "energies.png")
    return result


def _states(folder: Path) -> dict[str, dict[str, Any]]:
    """The checkpoints of a run: of the model, and of the Gaussian-prior model where there is one."""
    states = {"model": read_checkpoint(folder)}
    if (folder / BASELINE / CHECKPOINT).exists():
        states["gaussian"] = read_checkpoint(folder / BASELINE)
    return states


def _draw_pictures(folder: Path, data: ImageData, result: Evaluation) -> None:
    target = folder / PICTURES
    target.mkdir(exist_ok=True)
    pictures.sample_grid({**result.samples, "data": data.test[:64]}, target / "samples.png")
    pictures.reconstructions(*result.reconstructions, target / "reconstructions.png")
    pictures.training_curves(read_metrics(folder / METRICS), target / "training.png")


def _energies_along_chains(
    model: LatentEBM, config: TrainConfig, step_size: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """Energies of 256 chains of the prior sampler as training left it, from where it starts."""
    generator = torch.Generator(device).manual_seed(config.seed)
    start = prior_start(model, config.prior, 256, generator=generator)
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
