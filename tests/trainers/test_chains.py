"""Chains of training: where they start, what they keep, and how their step size follows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lamina.models import LatentEBM, Latents
from lamina.samplers import HMC, MALA, ULA, Kernel, ParameterError, Run, run
from lamina.samplers.engines import DEFAULT_VARIABLE
from lamina.samplers.native.build import find_compiler
from lamina.trainers import ChainConfig, ImageData, TrainConfig, build_model, chains
from lamina.trainers.chains import TrainingChains

SPACES = ("u", "z")


@pytest.fixture(
    autouse=True,
    params=[
        "eager",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler on this machine"),
        ),
    ],
)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that chains leave open."""
    monkeypatch.setenv(DEFAULT_VARIABLE, request.param)


@pytest.fixture
def model(make_config: Callable[..., TrainConfig], data: ImageData) -> LatentEBM:
    """A model whose energies are not zero."""
    model = build_model(make_config().model, data.image_shape, seed=0)
    bend(model)
    return model


def bend(model: LatentEBM, seed: int = 1) -> None:
    """Move all weights a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Latents, Any, Run]]:
    """Start, parameters and result of every run that chains make from here on."""
    recorded: list[tuple[Latents, Any, Run]] = []

    def recording(energy: Any, kernel: Kernel[Any], initial: Latents, **options: Any) -> Run:
        result = run(energy, kernel, initial, record_energies=True, **options)
        recorded.append((tuple(part.clone() for part in initial), options["params"], result))
        return result

    monkeypatch.setattr(chains, "run", recording)
    return recorded


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def configured(kernel: Kernel[Any] | None = None, **settings: Any) -> ChainConfig:
    return ChainConfig(kernel=kernel or MALA(step_size=0.05), **settings)


def twin(generator: torch.Generator) -> torch.Generator:
    """Another generator that will draw the same."""
    return torch.Generator().set_state(generator.get_state())


def equal(ours: Latents, theirs: Latents) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def put(model: LatentEBM, z: Latents, space: str) -> Latents:
    """The position of latents in a space, computed here."""
    with torch.no_grad():
        return model.prior.base.inverse(z) if space == "u" else z


# ----------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("space", SPACES)
def test_noise_is_standard_normal_in_the_chains_own_space(model: LatentEBM, runs: Any, space: Any) -> None:
    generator = seeded()
    prior = TrainingChains(model, configured(space=space, start="noise"), 5, generator)
    expected = model.prior.base.noise(5, generator=twin(generator))
    prior.prior()
    assert equal(runs[0][0], expected)


@pytest.mark.parametrize("space", SPACES)
def test_ancestral_starts_are_draws_of_the_base_prior(model: LatentEBM, runs: Any, space: Any) -> None:
    generator = seeded()
    prior = TrainingChains(model, configured(space=space, start="ancestral"), 5, generator)
    noise = model.prior.base.noise(5, generator=twin(generator))
    prior.prior()
    with torch.no_grad():
        expected = noise if space == "u" else model.prior.base.transform(noise)
    assert equal(runs[0][0], expected)


@pytest.mark.parametrize("space", SPACES)
def test_encoder_starts_are_draws_of_the_inference_model(
    model: LatentEBM, data: ImageData, runs: Any, space: Any
) -> None:
    generator = seeded()
    posterior = TrainingChains(model, configured(space=space, start="encoder"), 4, generator, num_rows=40)
    assert model.inference is not None
    with torch.no_grad():
        z, _ = model.inference(data.train[:4], generator=twin(generator))
    posterior.posterior(data.train[:4], torch.arange(4))
    assert equal(runs[0][0], put(model, z, space))


def test_the_encoder_needs_data_and_an_inference_model(model: LatentEBM, data: ImageData) -> None:
    with pytest.raises(ParameterError, match="only with data"):
        TrainingChains(model, configured(start="encoder"), 4, seeded()).prior()
    model.inference = None
    with pytest.raises(ParameterError, match="an inference model"):
        TrainingChains(model, configured(start="encoder"), 4, seeded(), num_rows=40).posterior(
            data.train[:4], torch.arange(4)
        )


@pytest.mark.parametrize("space", SPACES)
def test_persistent_prior_chains_continue_where_they_were(model: LatentEBM, runs: Any, space: Any) -> None:
    """In their own space: a base prior that has moved meanwhile does not move u."""
    prior = TrainingChains(model, configured(space=space, restart_fraction=0.0), 5, seeded())
    prior.prior()
    bend(model, seed=2)
    prior.prior()
    assert equal(runs[1][0], runs[0][2].position)
    assert not equal(runs[1][0], runs[0][0])


@pytest.mark.parametrize("space", SPACES)
def test_persistent_posterior_chains_follow_their_rows_in_z(
    model: LatentEBM, data: ImageData, runs: Any, space: Any
) -> None:
    """What is kept is z, also where chains run in u and the base prior has moved meanwhile."""
    chains = TrainingChains(model, configured(space=space, restart_fraction=0.0), 3, seeded(), num_rows=40)
    before = [part.clone() for part in chains.state_dict()["memory"]]
    rows = torch.tensor([3, 17, 1])
    z, _ = chains.posterior(data.train[rows], rows)
    after = chains.state_dict()["memory"]
    others = [row for row in range(40) if row not in rows]
    for layer in range(2):
        assert after[layer].shape[0] == 40
        assert torch.equal(after[layer][rows], z[layer])
        assert torch.equal(after[layer][others], before[layer][others])
    bend(model, seed=2)
    rows = torch.tensor([17, 30, 3])
    chains.posterior(data.train[rows], rows)
    kept = tuple(part[[1, 0]] for part in z)
    started = tuple(part[[0, 2]] for part in runs[1][0])
    # A batched matrix product may round its rows otherwise in another batch.
    for ours, theirs in zip(started, put(model, kept, space), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_share_of_chains_that_restart(model: LatentEBM, runs: Any) -> None:
    """A binomial of 4,000, off by more than 4.4 standard deviations once in 100,000 times; so are the moments."""
    num, share = 4000, 0.3
    prior = TrainingChains(model, configured(space="u", restart_fraction=share), num, seeded())
    prior.prior()
    prior.prior()
    is_new = (runs[1][0][0] != runs[0][2].position[0]).any(1)
    assert torch.equal(is_new, (runs[1][0][1] != runs[0][2].position[1]).all(1))
    count = int(is_new.sum())
    assert abs(count - share * num) < 4.4 * (share * (1 - share) * num) ** 0.5
    fresh = torch.cat([part[is_new] for part in runs[1][0]], dim=1).double()
    assert abs(float(fresh.mean()) * fresh.numel() ** 0.5) < 4.4
    assert abs(float(fresh.square().mean() - 1) * (fresh.numel() / 2) ** 0.5) < 4.4


@pytest.mark.parametrize(("share", "is_same"), [(0.0, True), (1.0, False)])
def test_none_or_all_restart(model: LatentEBM, runs: Any, share: float, is_same: bool) -> None:
    prior = TrainingChains(model, configured(restart_fraction=share), 6, seeded())
    prior.prior()
    prior.prior()
    stayed = (runs[1][0][0] == runs[0][2].position[0]).all(1)
    assert bool(stayed.all()) == is_same
    assert bool(stayed.any()) == is_same


# ------------------------------------------------------------------------------------------- runs and results


@pytest.mark.parametrize("space", SPACES)
def test_what_comes_back_is_z_without_a_graph(model: LatentEBM, data: ImageData, runs: Any, space: Any) -> None:
    prior = TrainingChains(model, configured(space=space), 5, seeded())
    posterior = TrainingChains(model, configured(space=space), 4, seeded(), num_rows=40)
    for z, result in (prior.prior(), posterior.posterior(data.train[:4], torch.arange(4))):
        assert not any(part.requires_grad for part in z)
        assert equal(put_back(model, result.position, space), z)


def put_back(model: LatentEBM, position: Any, space: str) -> Latents:
    with torch.no_grad():
        return model.prior.base.transform(position) if space == "u" else position


@pytest.mark.parametrize("space", SPACES)
def test_energies_are_evaluated_anew_after_weights_change(
    model: LatentEBM, data: ImageData, runs: Any, space: Any
) -> None:
    config = configured(space=space, restart_fraction=0.0)
    prior = TrainingChains(model, config, 4, seeded())
    posterior = TrainingChains(model, config, 4, seeded(), num_rows=4)
    x, rows = data.train[:4], torch.arange(4)
    for seed in (2, 3):
        prior.prior()
        posterior.posterior(x, rows)
        with torch.no_grad():
            expected = [
                model.prior.energy(space)(runs[-2][0]),
                model.posterior_energy(space)(runs[-1][0], x),
            ]
        for (_, _, result), energy in zip(runs[-2:], expected, strict=True):
            torch.testing.assert_close(result.energies[:, 0], energy)
        bend(model, seed)


def test_gradients_and_weights_of_the_model_stay(model: LatentEBM, data: ImageData) -> None:
    before = copy.deepcopy(model.state_dict())
    TrainingChains(model, configured(), 4, seeded()).prior()
    TrainingChains(model, configured(start="encoder"), 4, seeded(), num_rows=40).posterior(
        data.train[:4], torch.arange(4)
    )
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_figures_are_those_of_the_run(model: LatentEBM) -> None:
    prior = TrainingChains(model, configured(ULA(step_size=0.02)), 4, seeded())
    _, result = prior.prior()
    figures = prior.figures("prior", result)
    assert {name: float(value) for name, value in figures.items()} == {
        "prior_accept": float(result.accept_prob.mean()),
        "prior_displacement": float(result.displacement.mean()),
        "prior_step_size": pytest.approx(0.02),
        "prior_divergent": 0,
    }


# ------------------------------------------------------------------------------------------------- step sizes


@pytest.mark.parametrize("kernel", [MALA(step_size=0.05), HMC(step_size=0.3, num_leapfrog_steps=2)])
def test_the_step_size_is_constant_in_a_run_and_follows_acceptance_after(
    model: LatentEBM, runs: Any, kernel: Kernel[Any]
) -> None:
    """log step += 0.2 (acceptance - target), once a run."""
    prior = TrainingChains(model, configured(kernel, num_steps=3), 6, seeded())
    for _ in range(4):
        prior.prior()
    assert kernel.target_accept is not None
    step = torch.tensor(kernel.step_size)
    for _, params, result in runs:
        torch.testing.assert_close(params.step_size, step)
        assert torch.equal(result.chains.params.step_size, params.step_size)
        step = step * torch.exp(0.2 * (result.accept_prob.mean() - kernel.target_accept)).float()
    torch.testing.assert_close(prior.params.step_size, step)


@pytest.mark.parametrize("start", [0.002, 5.0])
def test_acceptance_settles_at_its_target(model: LatentEBM, runs: Any, start: float) -> None:
    """To within 0.05 over the last 40 runs of 300 chains, from far below and far above."""
    kernel = MALA(step_size=start)
    prior = TrainingChains(model, configured(kernel, num_steps=1), 300, seeded())
    for _ in range(140):
        prior.prior()
    accepts = torch.stack([result.accept_prob.mean() for _, _, result in runs])
    assert abs(float(accepts[0]) - kernel.target_accept) > 0.25
    assert abs(float(accepts[-40:].mean()) - kernel.target_accept) < 0.05


def test_unadjusted_chains_keep_their_step_size(model: LatentEBM) -> None:
    prior = TrainingChains(model, configured(ULA(step_size=0.07)), 4, seeded())
    for _ in range(3):
        prior.prior()
    assert float(prior.params.step_size) == pytest.approx(0.07)


# ------------------------------------------------------------------------------------------------- continuing


@pytest.mark.parametrize("start", ["noise", "ancestral", "encoder", "persistent"])
@pytest.mark.parametrize("space", SPACES)
def test_stored_chains_continue_bit_for_bit(model: LatentEBM, data: ImageData, space: Any, start: Any) -> None:
    config = configured(HMC(step_size=0.2, num_leapfrog_steps=2, jitter=0.3), space=space, start=start)
    x, rows = data.train[:4], torch.arange(4)
    generator = seeded()
    chains = TrainingChains(model, config, 4, generator, num_rows=40)
    chains.posterior(x, rows)
    state, place = copy.deepcopy(chains.state_dict()), generator.get_state()
    expected = [chains.posterior(x, rows)[0] for _ in range(3)]
    other = seeded(9)
    resumed = TrainingChains(model, config, 4, other, num_rows=40)
    resumed.load_state_dict(state)
    other.set_state(place)
    for z in expected:
        assert equal(resumed.posterior(x, rows)[0], z)
    assert torch.equal(resumed.params.step_size, chains.params.step_size)


def test_loading_copies_the_state(model: LatentEBM) -> None:
    chains = TrainingChains(model, configured(), 4, seeded())
    state = copy.deepcopy(chains.state_dict())
    kept = copy.deepcopy(state)
    chains.load_state_dict(state)
    chains.prior()
    assert equal(tuple(state["memory"]), tuple(kept["memory"]))


def test_chains_of_one_layer(make_config: Callable[..., TrainConfig], data: ImageData) -> None:
    config = make_config()
    single = build_model(replace(config.model, latents=(4,)), data.image_shape, seed=0)
    z, _ = TrainingChains(single, configured(), 5, seeded()).prior()
    assert [part.shape for part in z] == [(5, 4)]
