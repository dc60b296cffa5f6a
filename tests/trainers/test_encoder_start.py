"""Posterior chains that an inference model starts, under joint-mle: their start, what teaches it, and what it learns.

In a model with linear layers, a linear generator and quadratic energies everything has a closed form, written down here
from the raw parameters, and the ladder's q(z|x) can be the posterior itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from lamina.models import (
    BottomUpInference,
    GaussianHierarchy,
    GaussianLikelihood,
    Inference,
    JointEBMPrior,
    LadderInference,
    LatentEBM,
    Latents,
    LayerEnergies,
    LinearGaussian,
    MLPGenerator,
    QuadraticEnergy,
    contrastive_loss,
    reconstruction_loss,
    seeded_init,
)
from lamina.samplers import HMC, ULA, Run
from lamina.trainers import ChainConfig, ImageData, ModelConfig, TrainConfig, Training, build_model
from lamina.trainers.chains import TrainingChains
from lamina.trainers.evaluation.layers import has_inference
from lamina.trainers.schemes import JointMLEPhase, Workbench
from lamina.trainers.schemes.joint_mle import start_loss

Make = Callable[..., TrainConfig]
SIGMA, NUM_PIXELS = 0.7, 3
STILL = ULA(step_size=1e-14)
INFERENCE = pytest.mark.parametrize("kind", ["bottom-up", "ladder"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoded(kernel: Any, **settings: Any) -> ChainConfig:
    return ChainConfig(kernel=kernel, start="encoder", **settings)


# ------------------------------------------------------------------------------------------- start and teaching


@pytest.mark.parametrize("space", ["u", "z"])
def test_chains_start_at_the_inference_models_draw(
    make_config: Make, data: ImageData, monkeypatch: pytest.MonkeyPatch, space: Any
) -> None:
    """Chains that do not move end where q drew them."""
    config = make_config(scheme="joint-mle", posterior=encoded(STILL, space=space))
    bench = bench_of(config, data)
    ends: list[Latents] = []
    run = TrainingChains.posterior

    def recording(chains: TrainingChains, x: Tensor, rows: Tensor) -> tuple[Latents, Run]:
        z, result = run(chains, x, rows)
        ends.append(z)
        return z, result

    monkeypatch.setattr(TrainingChains, "posterior", recording)
    phase, x, rows = JointMLEPhase(bench, 10), data.train[:8], torch.arange(8)
    twin = torch.Generator().set_state(bench.generator.get_state())
    assert bench.model.inference is not None
    with torch.no_grad():
        drawn, _ = bench.model.inference(x, generator=twin)
    phase.step(x, rows, 0)
    torch.testing.assert_close(ends[0], drawn, atol=1e-5, rtol=1e-5)


def bench_of(config: TrainConfig, data: ImageData) -> Workbench:
    """A model away from its start, ready for a phase."""
    model = build_model(config.model, data.image_shape, seed=0)
    generator = seeded(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return Workbench(model, config, len(data.train), generator)


@INFERENCE
def test_the_ends_teach_q_and_q_teaches_nobody(
    make_config: Make, data: ImageData, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """q's gradient is that of minus its log-density at the ends; all others are those of the scheme without it."""
    networks = ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,), inference=kind)
    chains = HMC(step_size=0.1, num_leapfrog_steps=2)
    bench = bench_of(make_config(scheme="joint-mle", model=networks, posterior=encoded(chains)), data)
    recorded: dict[str, Latents] = {}
    for name in ("prior", "posterior"):
        run = getattr(TrainingChains, name)

        def recording(*arguments: Any, run: Any = run, name: str = name) -> tuple[Latents, Run]:
            recorded[name], result = run(*arguments)
            return recorded[name], result

        monkeypatch.setattr(TrainingChains, name, recording)
    model, x = copy.deepcopy(bench.model), data.train[:8]
    figures = JointMLEPhase(bench, 10).step(x, torch.arange(8), 0)
    assert model.inference is not None
    own = -model.inference.log_prob(recorded["posterior"], x).mean()
    rest = contrastive_loss(model.prior, recorded["posterior"], recorded["prior"]) + reconstruction_loss(
        model, x, recorded["posterior"]
    )
    torch.testing.assert_close(figures["start"], own.detach())
    torch.testing.assert_close(figures["loss"], (own + rest).detach())
    for name, ours in bench.model.named_parameters():
        loss = own if name.startswith("inference.") else rest
        (theirs,) = torch.autograd.grad(loss, model.get_parameter(name), retain_graph=True)
        torch.testing.assert_close(ours.grad, theirs, msg=lambda text, name=name: f"{name}: {text}")
    assert all(weight.requires_grad for weight in bench.model.parameters())


@pytest.mark.parametrize("start", ["noise", "persistent", "encoder"])
def test_the_inference_model_is_trained_where_it_starts_chains(make_config: Make, data: ImageData, start: Any) -> None:
    """Then it counts as one for measures too, and else it stays as it was initialised."""
    config = make_config(scheme="joint-mle", posterior=ChainConfig(kernel=HMC(step_size=0.1), start=start))
    training = Training(config, data, torch.device("cpu"))
    assert training.model.inference is not None
    before = [weight.clone() for weight in training.model.inference.parameters()]
    training.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, training.model.inference.parameters(), strict=True)]
    assert all(moved) if start == "encoder" else not any(moved)
    assert has_inference(training.model, config) == (start == "encoder")


# ------------------------------------------------------------------------------------------- the linear model


class LinearEvidence(nn.Module):
    """A network of a ladder: the pixels as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def linear_model(kind: str) -> LatentEBM:
    """Two layers of one number under three pixels, parameters away from their special values."""
    with seeded_init(0):
        base = GaussianHierarchy((1,), [LinearGaussian(1, (1,))])
        inference: Inference = (
            LadderInference(
                base, [LinearEvidence(), nn.Identity()], [LinearGaussian(NUM_PIXELS, (1,)) for _ in range(2)]
            )
            if kind == "ladder"
            else BottomUpInference(LinearGaussian(NUM_PIXELS, (1,)), [LinearGaussian(1, (1,))])
        )
        prior = JointEBMPrior(base, LayerEnergies([QuadraticEnergy((1,)), QuadraticEnergy((1,))]))
        generator = MLPGenerator((1,), (1, 1, NUM_PIXELS), [], squash=False)
        model = LatentEBM(prior, GaussianLikelihood(generator, SIGMA), inference)
    weights = seeded(6)
    for name, parameter in model.double().named_parameters():
        if not name.startswith("inference."):
            torch.nn.init.normal_(parameter, std=0.5, generator=weights)
    for network, curvature in zip(prior.energies.networks, (0.8, 0.5), strict=True):
        nn.init.constant_(network.curvature, curvature)
    return model


def prior_law(model: LatentEBM) -> MultivariateNormal:
    """p(z_1, z_2): precisions of base and energies add."""
    conditional = model.prior.base.conditionals[0]
    weight, offset = conditional.linear.weight[0, 0], conditional.linear.bias[0]
    scale = conditional.log_scale.exp()[0]
    one, zero = torch.ones_like(weight), torch.zeros_like(weight)
    mean = torch.stack([offset, zero])
    covariance = torch.stack([torch.stack([weight**2 + scale**2, weight]), torch.stack([weight, one])])
    energies = model.prior.energies.networks
    precision = torch.linalg.inv(covariance) + torch.diag(torch.cat([net.curvature for net in energies]))
    tilted = torch.linalg.solve(covariance, mean) + torch.cat([net.tilt for net in energies])
    return MultivariateNormal(torch.linalg.solve(precision, tilted), precision_matrix=precision)


def decoder(model: LatentEBM) -> tuple[Tensor, Tensor]:
    """The generator as a matrix on (z_1, z_2), and its offset."""
    linear = model._likelihood.generator.net[0]
    return torch.cat([linear.weight, torch.zeros_like(linear.weight)], dim=1), linear.bias


def minus_log_likelihood(model: LatentEBM, x: Tensor) -> Tensor:
    prior, (weight, offset) = prior_law(model), decoder(model)
    covariance = weight @ prior.covariance_matrix @ weight.T + SIGMA**2 * torch.eye(NUM_PIXELS, dtype=x.dtype)
    return -MultivariateNormal(weight @ prior.mean + offset, covariance).log_prob(x.flatten(1)).mean()


def posterior_law(model: LatentEBM, x: Tensor) -> MultivariateNormal:
    prior, (weight, offset) = prior_law(model), decoder(model)
    precision = prior.precision_matrix + weight.T @ weight / SIGMA**2
    pull = prior.precision_matrix @ prior.mean + (x.flatten(1) - offset) @ weight / SIGMA**2
    return MultivariateNormal(torch.linalg.solve(precision, pull.T).T, precision_matrix=precision)


def inference_law(model: LatentEBM, x: Tensor) -> MultivariateNormal:
    """q(z_1, z_2|x) as one Gaussian, from the mean of the first factor and how it moves the second."""
    assert model.inference is not None
    order = [1, 0] if isinstance(model.inference, LadderInference) else [0, 1]

    def place(shift: float) -> list[Any]:
        return model.inference.visit(  # type: ignore[union-attr]
            x, lambda layer, gaussian: gaussian.mean + shift if layer == order[0] else gaussian.mean
        )

    first, second = (place(0.0)[layer] for layer in order)
    slope = (place(1.0)[order[1]].mean - second.mean)[:, 0]
    at = [first.mean[:, 0], second.mean[:, 0]]
    variance, noise = first.scale[:, 0] ** 2, second.scale[:, 0] ** 2
    blocks = {(0, 0): variance, (0, 1): slope * variance, (1, 1): slope**2 * variance + noise}
    covariance = torch.stack(
        [torch.stack([blocks[tuple(sorted((order.index(a), order.index(b))))] for b in (0, 1)], -1) for a in (0, 1)], -2
    )
    return MultivariateNormal(torch.stack([at[order.index(layer)] for layer in (0, 1)], -1), covariance)


def images(num: int) -> Tensor:
    return torch.randn((num, 1, 1, NUM_PIXELS), generator=seeded(9), dtype=torch.float64)


def linear_bench(make_config: Make, kind: str, chains: ChainConfig, num: int, **settings: Any) -> Workbench:
    prior = ChainConfig(kernel=HMC(step_size=0.6, num_leapfrog_steps=4, jitter=0.3), num_steps=30, start="noise")
    config = make_config(scheme="joint-mle", prior=prior, posterior=chains, batch_size=num, **settings)
    return Workbench(linear_model(kind), config, num, seeded(2))


@INFERENCE
def test_gradients_are_those_of_maximum_likelihood(make_config: Make, kind: str) -> None:
    """With chains from q's draws, within 4.4 standard errors of the closed form over 30 independent steps."""
    chains = encoded(HMC(step_size=0.3, num_leapfrog_steps=4, jitter=0.3), num_steps=20)
    bench = linear_bench(make_config, kind, chains, 400, learning_rate=1e-12, energy_learning_rate=1e-12)
    x = images(4).repeat_interleave(100, 0)
    phase = JointMLEPhase(bench, 10)
    names = [name for name, _ in bench.model.named_parameters() if not name.startswith("inference.")]
    exact = torch.autograd.grad(minus_log_likelihood(bench.model, x), [bench.model.get_parameter(n) for n in names])
    found = []
    for _ in range(30):
        phase.step(x, torch.arange(400), 0)
        grads = [bench.model.get_parameter(name).grad for name in names]
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    steps = torch.stack(found)
    errors = (steps.mean(0) - torch.cat([grad.flatten() for grad in exact])) / (steps.std(0) / math.sqrt(len(steps)))
    assert errors.abs().max() < 4.4


@INFERENCE
def test_training_makes_q_the_posterior(make_config: Make, kind: str) -> None:
    """KL(posterior || q) falls to a twentieth, while generator and prior stand still and chains are short."""
    chains = encoded(HMC(step_size=0.3, num_leapfrog_steps=3, jitter=0.3), num_steps=1)
    settings = {"learning_rate": 0.03, "energy_learning_rate": 1e-12}
    bench = linear_bench(make_config, kind, chains, 200, **settings)
    bench = replace(bench, config=replace(bench.config, prior=replace(bench.config.prior, num_steps=1)))
    x = images(200)
    phase = StartAlone(bench, 300)
    before = kl_divergence(posterior_law(bench.model, x), inference_law(bench.model, x)).mean()
    for done in range(300):
        phase.step(x, torch.arange(200), done)
    after = kl_divergence(posterior_law(bench.model, x), inference_law(bench.model, x)).mean()
    assert after < 0.05 * before
    assert before > 0.3


class StartAlone(JointMLEPhase):
    """Teaches the inference model, and holds the model whose posterior it is."""

    def groups(self) -> Any:
        """The last group alone."""
        return list(super().groups())[-1:]


def test_where_q_is_the_law_of_the_ends_it_stands_still(make_config: Make) -> None:
    """The gradient has mean zero at draws of q itself, within 4.4 standard errors."""
    model, x = linear_model("ladder"), images(1).repeat_interleave(500, 0)
    assert model.inference is not None
    found = []
    for seed in range(30):
        with torch.no_grad():
            z, _ = model.inference(x, generator=seeded(seed))
        grads = torch.autograd.grad(start_loss(model, x, z), list(model.inference.parameters()), materialize_grads=True)
        found.append(torch.cat([grad.flatten() for grad in grads]))
    steps = torch.stack(found)
    assert (steps.mean(0) / (steps.std(0) / math.sqrt(len(steps)))).abs().max() < 4.4
