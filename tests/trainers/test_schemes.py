"""Schemes: which parts of a model each changes, and that a step's gradients are those of its objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.models import (
    LatentEBM,
    Latents,
    base_negative_phase,
    contrastive_loss,
    energy_loss,
    negative_elbo,
    noise_contrastive_loss,
    reconstruction_loss,
    self_normalizing_loss,
)
from lamina.samplers import HMC, MALA, ULA, Kernel, Run
from lamina.trainers import ChainConfig, ImageData, ModelConfig, TrainConfig, Training, build_model
from lamina.trainers.chains import TrainingChains
from lamina.trainers.schemes import (
    EnergyPhase,
    GaussianPhase,
    JointMLEPhase,
    JointVariationalPhase,
    Phase,
    RatioPhase,
    Workbench,
    plan,
)
from lamina.trainers.schemes.base import learning_rate_factor

Make = Callable[..., TrainConfig]
PARTS = {
    "energies": "prior.energies.",
    "base": "prior.base.",
    "generator": "_likelihood.",
    "inference": "inference.",
}
CPU = torch.device("cpu")
ALL_BUT_FINAL_BIASES = 0.75
"""Of the energies: the bias of a last layer shifts both phases alike, so nothing moves it."""


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed_parts(before: dict[str, Tensor], model: nn.Module) -> dict[str, float]:
    """The share of each part's weights (tensors of them) that changed."""
    now = weights(model)
    shares = {}
    for part, start in PARTS.items():
        names = [name for name in now if name.startswith(start)]
        assert names, part
        shares[part] = sum(not torch.equal(now[name], before[name]) for name in names) / len(names)
    return shares


def trained(config: TrainConfig, data: ImageData, num_steps: int) -> Training:
    training = Training(config, data, CPU)
    for _ in range(num_steps):
        training.step()
    return training


def test_every_weight_belongs_to_a_part(make_config: Make, data: ImageData) -> None:
    model = build_model(make_config().model, data.image_shape, seed=0)
    assert all(name.startswith(tuple(PARTS.values())) for name, _ in model.named_parameters())


# ---------------------------------------------------------------------------------------------- what changes


def test_the_second_stage_changes_every_energy_and_no_bit_of_the_backbone(make_config: Make, data: ImageData) -> None:
    training = trained(make_config(), data, 6)
    before = weights(training.model)
    assert not any(before[name].any() for name in before if name.startswith("prior.energies.") and ".net.2." in name)
    for _ in range(6):
        training.step()
    expected = {"energies": ALL_BUT_FINAL_BIASES, "base": 0, "generator": 0, "inference": 0}
    assert changed_parts(before, training.model) == expected
    z = training.model.prior.base.sample(7, generator=torch.Generator().manual_seed(0))
    assert training.model.prior.energies.per_layer(z).abs().min() > 0


def test_the_first_stage_and_gaussian_leave_the_energies_at_zero(make_config: Make, data: ImageData) -> None:
    for scheme in ("two-stage", "gaussian"):
        fresh = weights(Training(make_config(scheme=scheme), data, CPU).model)
        training = trained(make_config(scheme=scheme), data, 6)
        assert changed_parts(fresh, training.model) == {"energies": 0, "base": 1, "generator": 1, "inference": 1}
        z = training.model.prior.base.sample(7, generator=torch.Generator().manual_seed(0))
        assert not training.model.prior.energies(z).any()


@pytest.mark.parametrize(("scheme", "inference"), [("joint-variational", 1), ("joint-mle", 0)])
def test_joint_schemes_change_all_that_they_use(
    make_config: Make, data: ImageData, scheme: Any, inference: int
) -> None:
    fresh = weights(Training(make_config(scheme=scheme), data, CPU).model)
    training = trained(make_config(scheme=scheme), data, 4)
    expected = {"energies": ALL_BUT_FINAL_BIASES, "base": 1, "generator": 1, "inference": inference}
    assert changed_parts(fresh, training.model) == expected


def test_the_averages_follow_and_never_learn(make_config: Make, data: ImageData) -> None:
    """Decay (1 + t) / (10 + t) at first; with averaging 0 they are the weights themselves."""
    training = Training(make_config(), data, CPU)
    start = weights(training.model)
    training.step()
    after = weights(training.model)
    for name, average in training.averages.model.named_parameters():
        assert not average.requires_grad
        torch.testing.assert_close(average, 0.1 * start[name] + 0.9 * after[name])
    plain = trained(make_config(averaging=0.0), data, 3)
    assert changed_parts(weights(plain.model), plain.averages.model) == dict.fromkeys(PARTS, 0)


# ------------------------------------------------------------------------------------------------ phase plan


@pytest.mark.parametrize(
    ("scheme", "settings", "expected"),
    [
        ("gaussian", {}, [(GaussianPhase, 12)]),
        ("joint-mle", {}, [(JointMLEPhase, 12)]),
        ("joint-variational", {}, [(JointVariationalPhase, 12)]),
        ("two-stage", {}, [(GaussianPhase, 6), (EnergyPhase, 6)]),
        ("two-stage", {"first_stage": 0.7, "num_steps": 10}, [(GaussianPhase, 7), (EnergyPhase, 3)]),
        ("two-stage", {"first_stage": 0.0}, [(EnergyPhase, 12)]),
        *(
            ("two-stage", {"energy_loss": loss}, [(GaussianPhase, 6), (RatioPhase, 6)])
            for loss in ("noise-contrastive", "self-normalizing")
        ),
        ("two-stage", {"first_stage": 0.7, "num_steps": 1}, [(GaussianPhase, 1)]),
    ],
)
def test_plans(make_config: Make, scheme: Any, settings: dict[str, Any], expected: list[tuple[object, int]]) -> None:
    assert plan(make_config(scheme=scheme, **settings)) == expected


# ------------------------------------------------------------------------------------------------- gradients


class Draws:
    """What prior and posterior chains returned, as they returned it."""

    prior: Latents
    posterior: Latents


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    recorded = Draws()
    for name in ("prior", "posterior"):
        monkeypatch.setattr(TrainingChains, name, recording(getattr(TrainingChains, name), recorded, name))
    return recorded


def recording(method: Callable[..., tuple[Latents, Run]], recorded: Draws, name: str) -> Callable[..., object]:
    def call(*arguments: Any) -> tuple[Latents, Run]:
        z, result = method(*arguments)
        setattr(recorded, name, z)
        return z, result

    return call


def bench_of(config: TrainConfig, data: ImageData) -> Workbench:
    """A model whose energies are not zero, ready for a phase."""
    model = build_model(config.model, data.image_shape, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return Workbench(model, config, len(data.train), generator)


def penalty(model: LatentEBM, weight: float, sets: Iterable[Latents]) -> Tensor:
    """weight * sum over both phases of the mean of E_i(z_i)^2, layer by layer."""
    total = torch.zeros(())
    for z in sets:
        for net, part in zip(model.prior.energies.networks, z, strict=True):
            total = total + net(part).square().mean() / len(z)
    return weight * total


def expected_loss(
    phase: Phase, model: LatentEBM, x: Tensor, draws: Draws, generator: torch.Generator, weight: float
) -> Tensor:
    """The objective of a phase, from its formula and the draws that it used."""
    prior = model.prior
    if isinstance(phase, JointMLEPhase):
        squares = penalty(model, weight, (draws.posterior, draws.prior))
        return (
            contrastive_loss(prior, draws.posterior, draws.prior)
            + reconstruction_loss(model, x, draws.posterior)
            + squares
        )
    if isinstance(phase, GaussianPhase):
        return negative_elbo(model, x, generator=generator, with_energies=False)[0]
    if isinstance(phase, EnergyPhase):
        assert model.inference is not None
        with torch.no_grad():
            z, _ = model.inference(x, generator=generator)
        return energy_loss(prior, z, draws.prior) + penalty(model, weight, (z, draws.prior))
    bound, z, _ = negative_elbo(model, x, generator=generator)
    log_z = prior.base.log_prob(draws.prior).mean()  # the negative phase for beta>0
    return bound + energy_loss(prior, z, draws.prior) + log_z + penalty(model, weight, (z, draws.prior))


@pytest.mark.parametrize("space", ["u", "z"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("make", [GaussianPhase, EnergyPhase, JointVariationalPhase, JointMLEPhase])
def test_a_steps_gradients_are_those_of_the_objective(
    make_config: Make, data: ImageData, draws: Draws, make: type[Phase], weight: float, space: Any
) -> None:
    chains = ChainConfig(kernel=MALA(step_size=0.05), space=space)
    bench = bench_of(make_config(energy_penalty=weight, prior=chains, posterior=chains), data)
    phase = make(bench, 10)
    model = copy.deepcopy(bench.model)
    generator = torch.Generator().set_state(bench.generator.get_state())
    rows = torch.tensor([4, 0, 9, 33, 2, 11, 39, 5])
    x = data.train[rows]
    figures = phase.step(x, rows, 0)
    loss = expected_loss(phase, model, x, draws, generator, weight)
    torch.testing.assert_close(figures["loss"], loss.detach())
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    learning = {id(p) for parameters, _, _ in phase.groups() for p in parameters}
    learnt = [id(p) in learning for p in bench.model.parameters()]
    assert any(learnt)
    for name, ours, theirs, learns in zip(names, bench.model.parameters(), gradients, learnt, strict=True):
        if learns:
            assert theirs is not None, name
            torch.testing.assert_close(ours.grad, theirs, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert ours.grad is None or not ours.grad.any(), name


@pytest.mark.parametrize("make", [JointVariationalPhase, JointMLEPhase])
def test_the_base_prior_moves_by_its_negative_phase_too(
    make_config: Make, data: ImageData, draws: Draws, make: type[Phase]
) -> None:
    """Prior chains among the gradient's terms: without them it would be another, by far."""
    bench = bench_of(make_config(), data)
    phase = make(bench, 10)
    model = copy.deepcopy(bench.model)
    generator = torch.Generator().set_state(bench.generator.get_state())
    rows = torch.arange(8)
    phase.step(data.train[rows], rows, 0)
    base = list(model.prior.base.parameters())
    loss = expected_loss(phase, model, data.train[rows], draws, generator, 0.0)
    negative = torch.autograd.grad(model.prior.base.log_prob(draws.prior).mean(), base)
    whole = torch.autograd.grad(loss, base)
    for ours, full, part in zip(bench.model.prior.base.parameters(), whole, negative, strict=True):
        torch.testing.assert_close(ours.grad, full)
        assert part.norm() > 0.05 * full.norm()


def test_the_energy_penalty_by_hand(make_config: Make, data: ImageData) -> None:
    bench = bench_of(make_config(energy_penalty=0.25), data)
    phase = EnergyPhase(bench, 10)
    generator = torch.Generator().manual_seed(3)
    pair = [bench.model.prior.base.sample(5, generator=generator) for _ in range(2)]
    squares = [bench.model.prior.energies.per_layer(z).square().mean() for z in pair]
    torch.testing.assert_close(phase.energy_penalty(pair[0], pair[1]), 0.25 * (squares[0] + squares[1]))
    without = EnergyPhase(replace(bench, config=replace(bench.config, energy_penalty=0.0)), 10)
    assert float(without.energy_penalty(pair[0], pair[1])) == 0


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("name", ["noise-contrastive", "self-normalizing"])
def test_a_stage_without_chains_learns_from_the_base(
    make_config: Make, data: ImageData, name: Any, weight: float
) -> None:
    """The loss of q's draws against the base's; nothing but the energies and their normaliser has a gradient."""
    settings = ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,), learns_normalizer=True)
    bench = bench_of(make_config(model=settings, energy_loss=name, energy_penalty=weight), data)
    phase = RatioPhase(bench, 10)
    model, prior = bench.model, bench.model.prior
    generator = torch.Generator().set_state(bench.generator.get_state())
    rows = torch.arange(8)
    z, _ = model.inference(data.train[rows], generator=generator)
    noise = prior.base.sample(8, generator=generator)
    loss = noise_contrastive_loss if name == "noise-contrastive" else self_normalizing_loss
    squares = [prior.energies.per_layer(part).square().mean() for part in (z, noise)]
    expected = loss(prior, z, noise) + weight * sum(squares)
    figures = phase.step(data.train[rows], rows, 0)
    torch.testing.assert_close(figures["loss"], expected.detach())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if name.startswith("prior.energies.")
    }
    assert prior.energies.log_normalizer.grad.abs() > 0


@pytest.mark.parametrize("make", [EnergyPhase, JointVariationalPhase, JointMLEPhase])
def test_the_normaliser_learns_from_base_draws(make_config: Make, data: ImageData, make: type[Phase]) -> None:
    """Next to chains, b has the gradient 1 - exp(-b) mean exp(-E) at draws of the base, and no other."""
    settings = ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,), learns_normalizer=True)
    bench = bench_of(make_config(model=settings), data)
    phase, prior = make(bench, 10), bench.model.prior
    drawn: list[Latents] = []
    sample = phase.base_draws
    phase.base_draws = lambda: drawn.append(sample()) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    rows = torch.arange(8)
    energies = copy.deepcopy(prior.energies)
    figures = phase.step(data.train[rows], rows, 0)
    assert len(drawn) == 1
    # The base moved in this step, but its draws are those of before.
    expected = 1 - torch.exp(-energies(drawn[0])).mean()
    torch.testing.assert_close(prior.energies.log_normalizer.grad, expected.detach())
    torch.testing.assert_close(figures["log_normalizer"], energies.log_normalizer.detach())


@pytest.mark.parametrize("make", [GaussianPhase, JointVariationalPhase])
def test_the_divergence_warms_up(make_config: Make, data: ImageData, draws: Draws, make: type[Phase]) -> None:
    """Its weight is the share of the warm-up that is done, then one; both phases of the base prior have it."""
    for done, weight in ((0, 0.0), (2, 0.5), (4, 1.0), (9, 1.0)):
        bench = bench_of(make_config(kl_warmup=0.4, free_nats=0.1), data)
        phase, model = make(bench, 10), copy.deepcopy(bench.model)
        generator = torch.Generator().set_state(bench.generator.get_state())
        x, rows = data.train[:8], torch.arange(8)
        loss = phase.step(x, rows, done)["loss"]
        is_joint = make is JointVariationalPhase
        expected, z, _ = negative_elbo(
            model, x, generator=generator, with_energies=is_joint, kl_weight=weight, free_nats=0.1
        )
        if is_joint:
            base = weight * base_negative_phase(model.prior, draws.prior)
            expected = expected + energy_loss(model.prior, z, draws.prior) + base
        torch.testing.assert_close(loss, expected.detach())


def test_figures_watch_gradients_energies_and_layers(make_config: Make, data: ImageData) -> None:
    bench = bench_of(make_config(), data)
    phase = JointVariationalPhase(bench, 10)
    figures = phase.step(data.train[:8], torch.arange(8), 0)
    grads = [p.grad for p in bench.model.parameters() if p.grad is not None]
    torch.testing.assert_close(figures["gradient_norm"], torch.cat([grad.flatten() for grad in grads]).norm())
    torch.testing.assert_close(figures["energy_gap"], figures["energy_positive"] - figures["energy_negative"])
    torch.testing.assert_close(figures["kl"], figures["kl_1"] + figures["kl_2"])


# ---------------------------------------------------------------------------------------------- learning rate


def test_the_learning_rate_is_constant_and_then_falls_to_a_twentieth() -> None:
    assert [learning_rate_factor(progress, 0.05) for progress in (0.0, 0.3, 0.599)] == [1, 1, 1]
    assert learning_rate_factor(0.6, 0.05) == pytest.approx(1)
    assert learning_rate_factor(0.8, 0.05) == pytest.approx(0.525)
    assert learning_rate_factor(1.0, 0.05) == pytest.approx(0.05)
    assert {learning_rate_factor(progress, 1.0) for progress in (0.0, 0.6, 0.8, 1.0)} == {1.0}


@pytest.mark.parametrize("make", [GaussianPhase, EnergyPhase, JointVariationalPhase, JointMLEPhase])
def test_a_steps_length_follows_the_learning_rate(make_config: Make, data: ImageData, make: type[Phase]) -> None:
    """Adam's first step is the rate times the gradient's sign, up to its epsilon."""
    config = make_config(learning_rate=1e-2, energy_learning_rate=1e-3)
    lengths = {}
    for done in (0, 8):
        bench = bench_of(config, data)
        phase = make(bench, 10)
        before = weights(bench.model)
        phase.step(data.train[:8], torch.arange(8), done)
        moves = {name: float((w - before[name]).abs().max()) for name, w in weights(bench.model).items()}
        for part, start in PARTS.items():
            lengths[part, done] = max(move for name, move in moves.items() if name.startswith(start))
    learning = {part for part in PARTS if lengths[part, 0]}
    assert learning
    for part in learning:
        rate = config.energy_learning_rate if part == "energies" else config.learning_rate
        assert lengths[part, 0] == pytest.approx(rate, rel=1e-2)
        assert lengths[part, 8] == pytest.approx(0.525 * rate, rel=1e-2)


# ------------------------------------------------------------------------------- every kernel in every scheme


@pytest.mark.parametrize("space", ["u", "z"])
@pytest.mark.parametrize("scheme", ["two-stage", "joint-variational", "joint-mle"])
@pytest.mark.parametrize(
    "kernel", [ULA(step_size=0.01), MALA(step_size=0.01), HMC(step_size=0.1, num_leapfrog_steps=2, jitter=0.1)]
)
def test_every_kernel_serves_every_scheme_in_every_space(
    make_config: Make, data: ImageData, kernel: Kernel[Any], scheme: Any, space: Any
) -> None:
    chains = ChainConfig(kernel=kernel, space=space)
    training = Training(make_config(scheme=scheme, prior=chains, posterior=chains), data, CPU)
    names: set[str] = set()
    for _ in range(8):
        figures = training.step()
        names |= figures.keys()
        assert all(value.ndim == 0 and bool(torch.isfinite(value)) for value in figures.values())
    assert "prior_accept" in names
    assert ("posterior_accept" in names) == (scheme == "joint-mle")
    assert all(bool(weight.isfinite().all()) for weight in training.model.parameters())
