"""The training loop: phases, figures, checkpoints, and resuming bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lamina.models import LatentEBM, Latents, clip_spectral_norms
from lamina.samplers import ParameterError, StateError, progress, storage

from .averages import Averages
from .build import build_model
from .config import TrainConfig, from_dict, to_dict
from .data import BatchStream, ImageData
from .errors import CheckpointError, RunFolderError, TrainingError
from .schemes import Phase, Workbench, plan

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
_KIND = "lamina training"
_LOG_EVERY = 20
_ATTEMPTS = 2
"""From one checkpoint, before training starts anew."""
_RATE_SHARE, _STEP_SHARE = 0.5, 0.25
"""What a degree of caution leaves of learning rates, and of steps of unadjusted chains: these fall faster, as a small
step costs a chain its pace alone. The noise scale of ULA, s with h = s^2 / 2, is halved, as the rates are."""
_ENTRIES = (
    "config",
    "data_checksum",
    "data_source",
    "image_shape",
    "num_levels",
    "done",
    "seconds",
    "model",
    "averages",
    "generator",
    "stream",
    "rollbacks",
    "attempts",
    "phase_index",
    "phase",
)


class Training:
    """One model on its way through the phases of its scheme.

    Everything the next step reads is in `state_dict`: weights and their averages, optimisers, chains, the
    order of the data, and generators. So a resumed run equals an uninterrupted one bit for bit, on the same
    machine, thread count and versions.

    Training that is lost (figures or weights that are not finite, energies beyond a limit) goes back to its last
    checkpoint, which was written after the same checks, and on from there with half of the learning rates, and a
    quarter of the step size of unadjusted chains, which start anew if they persist: the same steps would be lost again.
    Lost a second time, it does that twice, then three times, as the earlier care was too little; and once more wherever
    it goes back to the start, where nothing has shown yet that the settings are nearly right. A checkpoint may be
    finite and beyond help all the same; where several attempts from it were lost, training starts anew, as careful as
    it has become.

    Args:
        config: The run.
        data: Training data on the CPU; it is moved to the device.
        device: Where to train.

    Raises:
        DataError: If there are no training images.
    """

    def __init__(self, config: TrainConfig, data: ImageData, device: torch.device) -> None:
        data.check_trainable()
        self.config = config
        self._source = data
        self._data = data.train.to(device)
        self.model = build_model(config.model, data.image_shape, seed=config.seed).to(device)
        if config.spectral_limit is not None:  # from the start, so that averages keep the limit too
            clip_spectral_norms(self.model.prior.energies, config.spectral_limit)
        self.averages = Averages(self.model, config.averaging)
        generator = torch.Generator(device).manual_seed(config.seed)
        self._stream = BatchStream(len(data.train), config.batch_size, torch.Generator().manual_seed(config.seed))
        self._bench = Workbench(self.model, config, len(data.train), generator)
        self._phases = plan(config)
        self.done = 0
        self.seconds = 0.0
        self.rollbacks = 0
        self.rate_factor = 1.0
        self.step_factor = 1.0  # of unadjusted chains
        self._attempts = 0  # from the last checkpoint, that were lost
        self._phase_index = -1
        self._phase: Phase | None = None

    def run(self, folder: Path, *, label: str, until: int | None = None, show_progress: bool | None = None) -> None:
        """Train from wherever this stands; checkpoints and figures go to the folder.

        The folder holds a checkpoint already, see `save`: it is the first that training can go back to.

        Args:
            folder: The folder.
            label: Of the progress bar.
            until: Steps at which to stop, with a checkpoint; None trains to the end. Going on from there equals never
                having stopped.
            show_progress: None shows a bar where standard error is a terminal.

        Raises:
            TrainingError: If it is lost once more than it may go back; the last checkpoint is from before.
            RunFolderError: If a file cannot be written; the last checkpoint survives.
        """
        metrics = folder / METRICS
        started = time.perf_counter() - self.seconds
        with reporting_full_disks(folder):
            _keep_until(metrics, self.done)
            total = self.config.num_steps if until is None else until
            while self.done < total:
                try:
                    self._run_until(total, folder, metrics, started, label, show_progress)
                except TrainingError:
                    if self.rollbacks == self.config.max_rollbacks:
                        raise
                    self._roll_back(folder, metrics)

    def _run_until(
        self, total: int, folder: Path, metrics: Path, started: float, label: str, show_progress: bool | None
    ) -> None:
        """Step after step, with figures and checkpoints in between."""
        with progress(total - self.done, label, enabled=show_progress) as bar:
            while self.done < total:
                figures = self.step()
                is_checkpoint = self.done % self.config.checkpoint_every == 0 or self.done == total
                shown = None
                if self.done % _LOG_EVERY == 0 or is_checkpoint:  # figures first: they refuse what is not finite
                    self.seconds = time.perf_counter() - started
                    shown = self._log(metrics, figures)
                bar.advance(shown)
                if is_checkpoint:
                    self._check_weights()
                    self._attempts = 0
                    self.save(folder)

    def _roll_back(self, folder: Path, metrics: Path) -> None:
        """To the last checkpoint, or to the start; saved, so that a resumed run is as cautious."""
        rollbacks, attempts = self.rollbacks + 1, self._attempts + 1
        if attempts <= _ATTEMPTS:
            state = read_checkpoint(folder)
        else:
            state, attempts = Training(self.config, self._source, self._data.device).state_dict(), 0
        degrees = rollbacks + (state["done"] == 0)
        caution = {
            "rollbacks": rollbacks,
            "attempts": attempts,
            "rate_factor": self.rate_factor * _RATE_SHARE**degrees,
            "step_factor": self.step_factor * _STEP_SHARE**degrees,
            "seconds": self.seconds,
        }
        self.load_state_dict({**state, **caution})
        if self._phase is not None:
            for chains in self._phase.chains.values():
                chains.start_anew()
        _keep_until(metrics, self.done)
        self.save(folder)

    def step(self) -> dict[str, torch.Tensor]:
        """One gradient step, in whichever phase it falls."""
        phase, done_in_phase = self._current_phase()
        rows = self._stream.next().to(self._data.device)
        figures = phase.step(self._data[rows], rows, done_in_phase, rate_factor=self.rate_factor)
        self.averages.update(self.model)
        self.done += 1
        if self._phase_ends():
            self.model.load_state_dict(self.averages.model.state_dict())  # the next one builds on what is evaluated
        return figures

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        storage.save(self.state_dict(), folder / CHECKPOINT, kind=_KIND)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step reads, in tensors and plain containers."""
        return {
            "config": to_dict(self.config),
            "data_checksum": self._source.checksum,
            "data_source": self._source.source,
            "image_shape": list(self._data.shape[1:]),
            "num_levels": self._source.num_levels,
            "done": self.done,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "attempts": self._attempts,
            "rate_factor": self.rate_factor,
            "step_factor": self.step_factor,
            "model": self.model.state_dict(),
            "averages": self.averages.state_dict(),
            "generator": self._bench.generator.get_state(),
            "stream": self._stream.state_dict(),
            "phase_index": self._phase_index,
            "phase": None if self._phase is None else self._phase.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken.

        Raises:
            CheckpointError: If it belongs to other data or another configuration, or lacks something.
        """
        with _fitting_checkpoints():
            if state["data_checksum"] != self._source.checksum:
                raise CheckpointError(
                    f"the checkpoint was trained on other data of the name {self.config.data!r} (checksum "
                    f"{state['data_checksum'][:12]} there, {self._source.checksum[:12]} here). "
                    "Use the data it was trained on."
                )
            self.model.load_state_dict(state["model"])
            self.averages.load_state_dict(state["averages"])
            self.done, self.seconds = state["done"], state["seconds"]
            self.rollbacks, self._attempts = state["rollbacks"], state["attempts"]
            self.rate_factor, self.step_factor = _factors(state)
            self._bench = replace(self._bench, config=self.config.calmed(self.step_factor))
            self._phase_index, self._phase = -1, None
            if state["phase"] is not None:
                self._enter(state["phase_index"])
                assert self._phase is not None
                self._phase.load_state_dict(state["phase"])
            self._stream.load_state_dict(state["stream"])
            self._bench.generator.set_state(state["generator"].cpu())  # last: making phases draws from it

    def _current_phase(self) -> tuple[Phase, int]:
        first = 0
        for index, (_, steps) in enumerate(self._phases):
            if self.done < first + steps:
                if index != self._phase_index:
                    self._enter(index)
                assert self._phase is not None
                return self._phase, self.done - first
            first += steps
        raise ParameterError(f"training of {self.config.num_steps} steps is complete.")

    def _phase_ends(self) -> bool:
        ends = list(itertools.accumulate(steps for _, steps in self._phases))
        return self.done in ends[:-1]

    def _enter(self, index: int) -> None:
        maker, steps = self._phases[index]
        self._phase_index, self._phase = index, maker(self._bench, steps)

    def _log(self, metrics: Path, figures: dict[str, torch.Tensor]) -> dict[str, str]:
        values = {name: float(value) for name, value in figures.items()}
        self._refuse([name for name, value in values.items() if not math.isfinite(value)], "not finite")
        limit = self.config.energy_limit
        far = [name for name in ("energy_positive", "energy_negative") if abs(values.get(name, 0.0)) > limit]
        self._refuse(far, f"beyond {limit:g} nats")
        record = {
            "step": self.done,
            "phase": self._phase_index,
            **values,
            "rollbacks": self.rollbacks,
            "rate_factor": self.rate_factor,
            "seconds": round(self.seconds, 3),
        }
        with metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return _shown(values, self.done / max(self.seconds, 1e-9))

    def _check_weights(self) -> None:
        """A finite loss may have a gradient that is not; a checkpoint of such weights would be beyond help."""
        names = [name for name, weight in self.model.named_parameters() if not weight.isfinite().all()]
        self._refuse(names, "not finite")

    def _refuse(self, names: Sequence[str], why: str) -> None:
        if names:
            raise TrainingError(
                f"step {self.done}: {', '.join(names)} is {why}, after {self.rollbacks} of {self.config.max_rollbacks} "
                "rollbacks. The last checkpoint is from before. Try a smaller learning rate, a larger energy penalty, "
                "or Metropolis-adjusted chains."
            )


def load_training(folder: Path, data: ImageData, device: torch.device) -> Training:
    """Rebuild a training from its folder's checkpoint.

    Raises:
        CheckpointError: If there is no checkpoint, it is damaged, truncated or foreign, or from other data.
    """
    state = read_checkpoint(folder)
    training = Training(from_dict(state["config"]), data, device)
    training.load_state_dict(state)
    return training


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint of a folder as plain containers.

    Raises:
        CheckpointError: If there is none, or it is damaged, truncated or foreign.
    """
    path = folder / CHECKPOINT
    try:
        state = storage.load(path, kind=_KIND)
        if missing := [name for name in _ENTRIES if name not in state]:
            raise StateError(f"it lacks {', '.join(missing)}.")
        from_dict(state["config"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no {CHECKPOINT}; give the folder of a run of `lamina train`.") from error
    except (OSError, ValueError) as error:  # unreadable; damaged, foreign, or of another version
        raise CheckpointError(
            f"{path} cannot be used: {error} Put back an earlier copy, or train anew into another folder."
        ) from error
    return state


def trained_config(state: dict[str, Any]) -> TrainConfig:
    """The run of a checkpoint, with the step sizes of unadjusted chains as rollbacks left them."""
    return from_dict(state["config"]).calmed(_factors(state)[1])


def _factors(state: dict[str, Any]) -> tuple[float, float]:
    """Of learning rates and of step sizes; stored since rollbacks change more than the rates, by one half each."""
    return state.get("rate_factor", 0.5 ** state["rollbacks"]), state.get("step_factor", 1.0)


def trained_step_size(state: dict[str, Any]) -> torch.Tensor | None:
    """The step size that the prior chains of a checkpoint arrived at; None before they ran."""
    step_size: torch.Tensor | None = ((state["phase"] or {}).get("prior") or {}).get("step_size")
    return step_size


def trained_positions(state: dict[str, Any]) -> Latents | None:
    """Where the persistent prior chains of a checkpoint stand, in their space; None where none persist."""
    memory = ((state["phase"] or {}).get("prior") or {}).get("memory")
    return None if memory is None else tuple(memory)


def averaged_model(state: dict[str, Any], image: tuple[int, ...], device: torch.device) -> LatentEBM:
    """The model with averaged weights of a checkpoint."""
    config = from_dict(state["config"])
    model = build_model(config.model, image, seed=config.seed)
    with _fitting_checkpoints():
        model.load_state_dict(state["averages"]["model"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device)


def _shown(values: dict[str, float], steps_per_second: float) -> dict[str, str]:
    """The figures that matter, for the progress bar."""
    wanted = {"gap": "energy_gap", "rec": "reconstruction", "acc": "prior_accept", "post": "posterior_accept"}
    shown = {label: f"{values[name]:.2f}" for label, name in wanted.items() if name in values}
    return {**shown, "steps/s": f"{steps_per_second:.0f}"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; none where it is missing, and without lines cut short by a kill or damaged."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


def _keep_until(metrics: Path, step: int) -> None:
    """Drop figures of steps after the checkpoint, which are about to be computed again."""
    kept = [record for record in read_metrics(metrics) if record["step"] <= step]
    aside = metrics.with_suffix(".part")
    aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
    aside.replace(metrics)


@contextmanager
def _fitting_checkpoints() -> Iterator[None]:
    """Turn what PyTorch says of weights and states that do not fit into an error that says what to do."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit its own configuration: {error} Put back an earlier copy, or train anew "
            "into another folder."
        ) from error


@contextmanager
def reporting_full_disks(folder: Path) -> Iterator[None]:
    """Turn the system's errors of writing into one that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"writing to {folder} failed: {error}. The last checkpoint there is whole; free some space, or fix the "
            f"folder's permissions, and continue with: lamina resume {folder}"
        ) from error
