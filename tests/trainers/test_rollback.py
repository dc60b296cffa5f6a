"""Training that is lost goes back to its last checkpoint, and on from there with more care."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.models import clip_spectral_norms
from lamina.samplers import ULA
from lamina.trainers import ChainConfig, ImageData, TrainConfig, Training, TrainingError, loop, read_checkpoint
from lamina.trainers.loop import METRICS, load_training, read_metrics

Make = Callable[..., TrainConfig]
Compare = Callable[..., None]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOG_EVERY", 1)


def prepare(config: TrainConfig, data: ImageData, folder: Path) -> Training:
    folder.mkdir()
    training = Training(config, data, CPU)
    training.save(folder)
    return training


def break_step(monkeypatch: pytest.MonkeyPatch, steps: dict[int, int], damage: Callable[[Training], Any]) -> None:
    """Do damage after a step, so many times at each of the steps named."""
    step = Training.step

    def broken(self: Training) -> dict[str, torch.Tensor]:
        figures = step(self)
        if steps.get(self.done, 0):
            steps[self.done] -= 1
            figures = {**figures, **(damage(self) or {})}
        return figures

    monkeypatch.setattr(Training, "step", broken)


def spoil_weights(training: Training) -> None:
    with torch.no_grad():
        next(training.model.prior.base.parameters()).fill_(float("nan"))


DAMAGE: dict[str, Callable[[Training], Any]] = {
    "a loss": lambda _: {"loss": torch.tensor(float("nan"))},
    "weights": spoil_weights,
    "energies": lambda _: {"energy_negative": torch.tensor(-2e6)},
}


@pytest.mark.parametrize("scheme", ["two-stage", "joint-variational", "joint-mle"])
def test_a_run_that_blows_up_goes_back_and_finishes(
    make_config: Make, data: ImageData, tmp_path: Path, scheme: Any
) -> None:
    """A learning rate that drives the weights beyond the finite: halved often enough, it does so no more."""
    chains = ChainConfig(kernel=ULA(step_size=0.3), num_steps=5, space="z", start="noise")
    rates = {"learning_rate": 64.0, "energy_learning_rate": 64.0}
    config = make_config(
        scheme=scheme, prior=chains, posterior=chains, num_steps=30, **rates, max_rollbacks=20, checkpoint_every=5
    )
    training = prepare(config, data, tmp_path / "run")
    training.run(tmp_path / "run", label="run", show_progress=False)
    assert training.rollbacks > 0
    state = read_checkpoint(tmp_path / "run")
    assert (state["done"], state["rollbacks"]) == (30, training.rollbacks)
    assert all(bool(weight.isfinite().all()) for weight in training.model.parameters())
    records = read_metrics(tmp_path / "run" / METRICS)
    assert [record["step"] for record in records] == list(range(1, 31)), "lost steps are not told twice"
    counts = [record["rollbacks"] for record in records]
    assert counts == sorted(counts)
    assert counts[-1] == training.rollbacks


@pytest.mark.parametrize("damage", DAMAGE)
def test_it_goes_back_to_the_last_checkpoint_with_half_the_rates(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    damage: str,
) -> None:
    """As if the run had been taken up from that checkpoint with one rollback on its account."""
    config = make_config(scheme="joint-variational", averaging=0.9)
    with monkeypatch.context() as patch:
        break_step(patch, {9: 1}, DAMAGE[damage])
        training = prepare(config, data, tmp_path / "run")
        training.run(tmp_path / "run", label="run", show_progress=False)
    assert training.rollbacks == 1
    other = Training(config, data, CPU)
    for _ in range(6):
        other.step()
    other.rollbacks = 1
    for _ in range(6):
        other.step()
    assert_same(other.state_dict(), training.state_dict())
    straight = Training(config, data, CPU)
    for _ in range(12):
        straight.step()
    assert any(
        not torch.equal(a, b) for a, b in zip(straight.model.parameters(), training.model.parameters(), strict=True)
    )


def test_a_run_interrupted_after_a_rollback_resumes_to_the_same_bits(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Compare
) -> None:
    def stop(_: Training) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        break_step(patch, {8: 1}, DAMAGE["a loss"])
        whole = prepare(make_config(), data, tmp_path / "whole")
        whole.run(tmp_path / "whole", label="whole", show_progress=False)
    broken = prepare(make_config(), data, tmp_path / "broken")
    with monkeypatch.context() as patch:
        break_step(patch, {7: 1}, stop)
        break_step(patch, {8: 1}, DAMAGE["a loss"])
        with pytest.raises(KeyboardInterrupt):
            broken.run(tmp_path / "broken", label="broken", show_progress=False)
    resumed = load_training(tmp_path / "broken", data, CPU)
    assert resumed.rollbacks == 0, "the interruption came first"
    with monkeypatch.context() as patch:
        break_step(patch, {8: 1}, DAMAGE["a loss"])
        break_step(patch, {10: 1}, stop)
        with pytest.raises(KeyboardInterrupt):
            resumed.run(tmp_path / "broken", label="broken", show_progress=False)
    again = load_training(tmp_path / "broken", data, CPU)
    assert again.rollbacks == 1
    again.run(tmp_path / "broken", label="resumed", show_progress=False)
    assert_same(again.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("breaks", "rollbacks"),
    [
        pytest.param({2: 2}, 2, id="before the first checkpoint, where there is no phase yet, and once more"),
        pytest.param({8: 3}, 3, id="lost twice more after going back to step 6: a checkpoint beyond help"),
    ],
)
def test_it_starts_anew_at_smaller_rates(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    breaks: dict[int, int],
    rollbacks: int,
) -> None:
    with monkeypatch.context() as patch:
        break_step(patch, breaks, DAMAGE["a loss"])
        training = prepare(make_config(), data, tmp_path / "run")
        training.run(tmp_path / "run", label="run", show_progress=False)
    other = Training(make_config(), data, CPU)
    other.rollbacks = rollbacks
    for _ in range(12):
        other.step()
    assert_same(other.state_dict(), training.state_dict())


@pytest.mark.parametrize("most", [0, 2])
def test_it_gives_up_after_so_many(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    break_step(monkeypatch, {8: 9}, DAMAGE["energies"])
    training = prepare(make_config(max_rollbacks=most), data, tmp_path / "run")
    match = rf"step 8: energy_negative is beyond 1e\+06 nats, after {most} of {most} rollbacks"
    with pytest.raises(TrainingError, match=match):
        training.run(tmp_path / "run", label="run", show_progress=False)
    state = read_checkpoint(tmp_path / "run")
    assert (state["done"], state["rollbacks"]) == (6, most)


def test_spectral_limits_hold_while_energies_learn_and_not_before(make_config: Make, data: ImageData) -> None:
    """The first stage leaves the energies alone; in the second, no weight exceeds the limit."""
    training = Training(make_config(spectral_limit=0.2, energy_learning_rate=0.1), data, CPU)
    energies = training.model.prior.energies
    before = [weight.clone() for weight in energies.parameters()]
    for _ in range(6):
        training.step()
    assert all(torch.equal(old, new) for old, new in zip(before, energies.parameters(), strict=True))
    for _ in range(6):
        training.step()
        norms = [torch.linalg.matrix_norm(w, 2) for w in energies.parameters() if w.ndim == 2]
        assert max(norms) <= 0.2 * (1 + 1e-5)
    assert max(norms) > 0.19, "the limit is felt"
    averaged = training.averages.model.prior.energies
    before = [weight.clone() for weight in averaged.parameters()]
    clip_spectral_norms(averaged, 0.2 * (1 + 1e-5))
    assert all(torch.equal(old, new) for old, new in zip(before, averaged.parameters(), strict=True))
