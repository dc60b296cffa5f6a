"""Training that is lost goes back to its last checkpoint, and on from there with more care."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.models import clip_spectral_norms
from lamina.samplers import HMC, MALA, MCLMC, ULA, Blocks, Clipped, Kernel, UnderdampedLangevin
from lamina.trainers import (
    ChainConfig,
    ImageData,
    ModelConfig,
    TrainConfig,
    Training,
    TrainingError,
    draw_posterior,
    draw_prior,
    loop,
    read_checkpoint,
)
from lamina.trainers.loop import METRICS, load_training, read_metrics, trained_config

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
    """A learning rate that drives the weights beyond the finite, with as many rollbacks as there are by default."""
    chains = ChainConfig(kernel=ULA(step_size=0.3), num_steps=5, space="z", start="noise")
    rates = {"learning_rate": 64.0, "energy_learning_rate": 64.0}
    config = make_config(scheme=scheme, prior=chains, posterior=chains, num_steps=30, **rates, checkpoint_every=5)
    training = prepare(config, data, tmp_path / "run")
    training.run(tmp_path / "run", label="run", show_progress=False)
    assert 0 < training.rollbacks <= TrainConfig().max_rollbacks == 5
    state = read_checkpoint(tmp_path / "run")
    assert (state["done"], state["rollbacks"]) == (30, training.rollbacks)
    assert all(bool(weight.isfinite().all()) for weight in training.model.parameters())
    records = read_metrics(tmp_path / "run" / METRICS)
    assert [record["step"] for record in records] == list(range(1, 31)), "lost steps are not told twice"
    counts = [record["rollbacks"] for record in records]
    assert counts == sorted(counts)
    assert counts[-1] == training.rollbacks
    assert all(math.isfinite(value) for record in records for value in record.values())


@pytest.mark.parametrize("start", ["persistent", "noise"])
@pytest.mark.parametrize(
    ("scheme", "part", "kernel"),
    [
        ("two-stage", "prior", ULA(step_size=3.0)),
        ("joint-variational", "prior", ULA(step_size=3.0)),
        ("joint-mle", "prior", ULA(step_size=3.0)),
        ("joint-mle", "prior", UnderdampedLangevin(step_size=5.0)),
        ("joint-mle", "posterior", ULA(step_size=0.5)),
    ],
)
def test_a_run_whose_unadjusted_steps_are_far_too_large_finishes(
    make_config: Make, data: ImageData, tmp_path: Path, scheme: Any, part: str, kernel: Kernel[Any], start: Any
) -> None:
    """In the default rollbacks, for the steps shrink too; what draws afterwards takes the step that they came to."""
    networks = ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,), sigma=0.05)
    chains = ChainConfig(kernel=kernel, num_steps=30, start=start)
    config = make_config(scheme=scheme, model=networks, num_steps=40, checkpoint_every=10, **{part: chains})
    training = prepare(config, data, tmp_path / "run")
    training.run(tmp_path / "run", label="run", show_progress=False)
    assert training.rollbacks > 0
    records = read_metrics(tmp_path / "run" / METRICS)
    assert all(math.isfinite(value) for record in records for value in record.values())
    state = read_checkpoint(tmp_path / "run")
    calmed = trained_config(state)
    assert calmed == config.calmed(state["step_factor"])
    assert getattr(calmed, part) == chains.calmed(state["step_factor"])
    params = getattr(calmed, part).kernel.init_params(training.model.prior.base.noise(1, generator=torch.Generator()))
    assert torch.equal(state["phase"][part]["step_size"], params.step_size)
    assert state["phase"][part]["step_size"] < 0.3 * kernel.init_params(torch.zeros(1, 2)).step_size
    generator = torch.Generator().manual_seed(0)
    drawn = draw_prior(training.averages.model, calmed.prior, 20, num_steps=30, generator=generator)[0]
    if part == "posterior":
        drawn += draw_posterior(training.averages.model, calmed.posterior, data.test, num_steps=30, generator=generator)
    assert all(bool(z.isfinite().all()) for z in drawn)
    assert max(float(z.abs().max()) for z in drawn) < 100


def test_unadjusted_steps_shrink_wherever_they_are_and_others_stay() -> None:
    """Also inside of other kernels; what is adjusted or follows an acceptance is left alone."""
    ula, mala = ULA(step_size=0.4), MALA(step_size=0.4)
    for kernel, expected in (
        (ula, ULA(step_size=0.1)),
        (MCLMC(step_size=0.4), MCLMC(step_size=0.1)),
        (Clipped(kernel=ula, max_norm=2.0), Clipped(kernel=ULA(step_size=0.1), max_norm=2.0)),
        (Blocks(kernels={0: ula, 1: mala}), Blocks(kernels={0: ULA(step_size=0.1), 1: mala})),
        (mala, mala),
        (Clipped(kernel=mala, max_norm=2.0), Clipped(kernel=mala, max_norm=2.0)),
        (HMC(step_size=0.4), HMC(step_size=0.4)),
    ):
        chains = ChainConfig(kernel=kernel, num_steps=7)
        assert chains.calmed(0.25) == ChainConfig(kernel=expected, num_steps=7)
        assert chains.calmed(1.0) == chains


@pytest.mark.parametrize("kernel", [ULA(step_size=0.1), HMC(step_size=0.1)])
def test_chains_of_unadjusted_kernels_start_anew(
    make_config: Make, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel[Any]
) -> None:
    """All of them, and by randomness that comes after the checkpoint's; adjusted ones go on from where they were."""
    break_step(monkeypatch, {8: 1}, DAMAGE["a loss"])
    chains = ChainConfig(kernel=kernel, restart_fraction=0.0)
    training = prepare(make_config(scheme="joint-mle", prior=chains, posterior=chains), data, tmp_path / "run")
    before: dict[str, Any] = {}
    load = Training.load_state_dict

    def loading(self: Training, state: dict[str, Any]) -> None:
        load(self, state)
        before.update(copy.deepcopy(state))

    monkeypatch.setattr(Training, "load_state_dict", loading)
    monkeypatch.setattr(training, "_run_until", stop_after_rollback(training))
    with pytest.raises(KeyboardInterrupt):
        training.run(tmp_path / "run", label="run", show_progress=False)
    after = read_checkpoint(tmp_path / "run")
    assert (after["done"], after["rollbacks"]) == (6, 1)
    for part in ("prior", "posterior"):
        pairs = zip(before["phase"][part]["memory"], after["phase"][part]["memory"], strict=True)
        is_same = [bool((old == new).any()) for old, new in pairs]
        assert is_same == [kernel.is_exact] * 2
    assert torch.equal(before["generator"], after["generator"]) == kernel.is_exact


def stop_after_rollback(training: Training) -> Callable[..., None]:
    """In place of a run until some step: one that is broken off once it has gone back."""
    go_on = training._run_until

    def run(*arguments: Any) -> None:
        if training.rollbacks:
            raise KeyboardInterrupt
        go_on(*arguments)

    return run


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
    other.rollbacks, other.rate_factor, other.step_factor = 1, 0.5, 0.25
    for _ in range(6):
        other.step()
    assert_same(other.state_dict(), training.state_dict())
    straight = Training(config, data, CPU)
    for _ in range(12):
        straight.step()
    assert any(
        not torch.equal(a, b) for a, b in zip(straight.model.parameters(), training.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "kernel",
    [HMC(step_size=0.2, num_leapfrog_steps=2, jitter=0.2), ULA(step_size=0.05)],
    ids=["adjusted", "unadjusted"],
)
def test_a_run_interrupted_after_a_rollback_resumes_to_the_same_bits(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    kernel: Kernel[Any],
) -> None:
    """With the steps that rollbacks shrank, and with chains that started anew."""
    chains = ChainConfig(kernel=kernel)
    config = make_config(scheme="joint-mle", prior=chains, posterior=chains)

    def stop(_: Training) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        break_step(patch, {8: 1}, DAMAGE["a loss"])
        whole = prepare(config, data, tmp_path / "whole")
        whole.run(tmp_path / "whole", label="whole", show_progress=False)
    broken = prepare(config, data, tmp_path / "broken")
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
    ("breaks", "rollbacks", "degrees"),
    [
        pytest.param({2: 2}, 2, 2 + 3, id="before the first checkpoint, where there is no phase yet, and once more"),
        pytest.param({8: 3}, 3, 1 + 2 + 4, id="lost twice more after going back to step 6: a checkpoint beyond help"),
        pytest.param({2: 1, 8: 1}, 2, 2 + 2, id="before the first checkpoint, and once after it"),
    ],
)
def test_it_takes_more_care_where_it_is_lost_again(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: dict[int, int],
    rollbacks: int,
    degrees: int,
) -> None:
    """One degree more each time, and one more from the start."""
    break_step(monkeypatch, breaks, DAMAGE["a loss"])
    training = prepare(make_config(), data, tmp_path / "run")
    training.run(tmp_path / "run", label="run", show_progress=False)
    assert training.rollbacks == rollbacks
    assert (training.rate_factor, training.step_factor) == (0.5**degrees, 0.25**degrees)
    assert read_metrics(tmp_path / "run" / METRICS)[-1]["rate_factor"] == 0.5**degrees


@pytest.mark.parametrize(("breaks", "rollbacks", "degrees"), [({2: 2}, 2, 5), ({8: 3}, 3, 7)])
def test_it_starts_anew_at_smaller_rates(
    make_config: Make,
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
    breaks: dict[int, int],
    rollbacks: int,
    degrees: int,
) -> None:
    with monkeypatch.context() as patch:
        break_step(patch, breaks, DAMAGE["a loss"])
        training = prepare(make_config(), data, tmp_path / "run")
        training.run(tmp_path / "run", label="run", show_progress=False)
    other = Training(make_config(), data, CPU)
    other.rollbacks, other.rate_factor, other.step_factor = rollbacks, 0.5**degrees, 0.25**degrees
    for _ in range(12):
        other.step()
    assert_same(other.state_dict(), training.state_dict())


def test_a_checkpoint_from_before_steps_shrank_goes_on_as_it_did(make_config: Make, data: ImageData) -> None:
    """Half of the rates for each rollback, and the steps of its configuration."""
    training = Training(make_config(prior=ChainConfig(kernel=ULA(step_size=0.05))), data, CPU)
    for _ in range(8):
        training.step()
    state = training.state_dict() | {"rollbacks": 2}
    del state["rate_factor"], state["step_factor"]
    training.load_state_dict(state)
    assert (training.rate_factor, training.step_factor) == (0.25, 1.0)
    assert trained_config(state) == training.config


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
