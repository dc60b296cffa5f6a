"""Trainings of studies: begun, or continued from what an interrupted run left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lamina.models import LatentEBM
from lamina.trainers import ImageData, TrainConfig, Training, averaged_model, read_checkpoint
from lamina.trainers.config import from_dict, to_dict
from lamina.trainers.evaluation import Budget, Subject
from lamina.trainers.loop import (
    CHECKPOINT,
    METRICS,
    load_training,
    read_metrics,
    trained_config,
    trained_positions,
    trained_step_size,
)
from lamina.trainers.schemes import GaussianPhase, plan

from .study import Place

_TIMES = "times.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that is over, or stands still.

    Attributes:
        data: What it was trained on.
        folder: Holds its checkpoint and metrics.
        place: Of the cell.
    """

    data: ImageData
    folder: Path
    place: Place

    @cached_property
    def _state(self) -> dict[str, Any]:
        return read_checkpoint(self.folder)

    @cached_property
    def config(self) -> TrainConfig:
        """The run, with the step sizes of chains that rollbacks have left."""
        return trained_config(self._state)

    @cached_property
    def model(self) -> LatentEBM:
        """With averaged weights, on the device."""
        return averaged_model(self._state, self.data.image_shape, self.place.device)

    @property
    def step_size(self) -> Tensor | None:
        """What the prior chains arrived at; None before they ran."""
        return trained_step_size(self._state)

    @property
    def has_energies(self) -> bool:
        """Whether they have begun to learn; until then they are zero, and the prior is its base."""
        maker, _ = plan(self.config)[self._state["phase_index"]]
        return maker is not GaussianPhase

    def subject(self, budget: Budget) -> Subject:
        """What `lamina evaluate` would measure of it, on the usual features and without outliers."""
        return Subject(
            model=self.model,
            baseline=None,
            config=self.config,
            data=self.data,
            device=self.place.device,
            step_size=self.step_size,
            positions=trained_positions(self._state),
            outliers={},
            features=None,
            budget=budget,
            cache=self.folder,
            show_progress=self.place.show_progress,
        )

    def costs(self) -> dict[str, float]:
        """What training took: seconds, those of the CPU's among them, steps, and rollbacks on the way.

        Where training was interrupted, CPU seconds are estimated from the stretches that ended in order.
        """
        seconds = self._state["seconds"]
        times = _read_times(self.folder)
        return {
            "seconds": seconds,
            "cpu_seconds": seconds * times["cpu"] / times["wall"],
            "steps": self._state["done"],
            "rollbacks": self._state["rollbacks"],
        }

    def metrics(self) -> list[dict[str, Any]]:
        """The records of the training, in order."""
        return read_metrics(self.folder / METRICS)


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """A run as settings of cells: all but its seed."""
    settings = to_dict(config)
    del settings["seed"]
    return settings


def config_of(settings: Mapping[str, Any], seed: int) -> TrainConfig:
    """The run that `settings_of` had, with a seed."""
    return from_dict({**settings, "seed": seed})


def completed(settings: Any) -> Any:
    """Settings in which trainings, at whatever depth, have all that they have today: what is new as it always was."""
    if isinstance(settings, list):
        return [completed(part) for part in settings]
    if not isinstance(settings, Mapping):
        return settings
    if "scheme" in settings:
        return settings_of(config_of(settings, seed=0))
    return {name: completed(part) for name, part in settings.items()}


def train(config: TrainConfig, place: Place) -> Trained:
    """Train from where the folder's checkpoint stands, or from the start, to the end; see `stretches`."""
    (trained,) = stretches(config, place, [config.num_steps])
    return trained


def stretches(config: TrainConfig, place: Place, stops: Sequence[int]) -> Iterator[Trained]:
    """Train from where the folder's checkpoint stands, or from the start, and hand over what has been learnt by stops.

    Args:
        config: The run. Its baseline is not trained, and its number of threads is the caller's business.
        place: Where; the folder's checkpoint, if there is one, is of the same run.
        stops: Numbers of steps, ascending, none before the checkpoint's.

    Yields:
        The training as it stands at each stop, to be looked at before the next. The clock stands still meanwhile.

    Raises:
        TrainingError: If training is lost more often than it may be.
        CheckpointError: If the checkpoint is damaged.
        DataError: If the data are not found.
    """
    data = place.load(config.data)
    if not (place.folder / CHECKPOINT).exists():
        Training(config, data, place.device).save(place.folder)
    training = load_training(place.folder, data, place.device)
    label = f"{config.scheme} on {config.data}"
    for stop in stops:
        with _timed(place.folder):
            training.run(place.folder, label=label, until=stop, show_progress=place.show_progress)
        yield Trained(data=data, folder=place.folder, place=place)


@contextmanager
def _timed(folder: Path) -> Iterator[None]:
    """Add to the folder's account of wall and CPU seconds, also where the stretch is interrupted."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        before = _read_times(folder)
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        (folder / _TIMES).write_text(json.dumps({name: before[name] + spent[name] for name in spent}))


def _read_times(folder: Path) -> dict[str, float]:
    path = folder / _TIMES
    times: dict[str, float] = json.loads(path.read_text()) if path.exists() else {"wall": 0.0, "cpu": 0.0}
    return times
