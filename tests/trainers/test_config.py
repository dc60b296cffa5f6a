"""Configurations: round trips, refusals, and the numbers of the presets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lamina.models import Space
from lamina.samplers import HMC, MALA, ULA, ParameterError, UnknownNameError
from lamina.trainers import ChainConfig, ImageData, ModelConfig, TrainConfig, Training, load, preset
from lamina.trainers.config import Scheme, from_dict, to_dict
from lamina.trainers.sampling import prior_start

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")

positive = st.floats(1e-6, 1e3)
share = st.floats(0, 1, exclude_max=True)
inner = st.floats(0, 1, exclude_min=True, exclude_max=True)
counts = st.integers(1, 10**6)
sizes = st.lists(st.integers(1, 64), min_size=1, max_size=4).map(tuple)
kernels = st.one_of(
    st.builds(ULA, step_size=positive),
    st.builds(MALA, step_size=positive, target_accept=inner),
    st.builds(HMC, step_size=positive, num_leapfrog_steps=st.integers(1, 50), jitter=share, target_accept=inner),
)


def chain_configs(starts: tuple[str, ...]) -> st.SearchStrategy[ChainConfig]:
    return st.builds(
        ChainConfig,
        kernel=kernels,
        num_steps=counts,
        space=st.sampled_from(get_args(Space)),
        start=st.sampled_from(starts),
        restart_fraction=st.floats(0, 1),
    )


models = st.builds(
    ModelConfig,
    latents=st.lists(st.one_of(st.integers(1, 64), st.tuples(*[st.integers(1, 8)] * 3)), min_size=1).map(tuple),
    hidden=sizes,
    energy_hidden=sizes,
    width=st.integers(1, 64),
    smooth=st.booleans(),
    base=st.sampled_from(["conditional", "independent"]),
    energies=st.sampled_from(["layers", "concatenation"]),
    learns_normalizer=st.booleans(),
    images=st.sampled_from(["mlp", "conv", "ladder"]),
    inference=st.sampled_from(["bottom-up", "ladder"]),
    likelihood=st.sampled_from(["gaussian", "bernoulli", "logistic-mixture"]),
    sigma=positive,
    learns_sigma=st.booleans(),
    components=st.integers(1, 20),
    levels=st.integers(2, 256),
)
configs = st.builds(
    TrainConfig,
    data=st.sampled_from(["digits", "mnist"]),
    scheme=st.sampled_from(get_args(Scheme)),
    model=models,
    prior=chain_configs(("noise", "ancestral", "persistent")),
    posterior=chain_configs(("noise", "ancestral", "persistent")),  # encoder: not with joint-mle
    num_steps=counts,
    first_stage=share,
    baseline_steps=st.integers(0, 10**6),
    batch_size=counts,
    learning_rate=positive,
    energy_learning_rate=positive,
    energy_penalty=st.floats(0, 1e3),
    spectral_limit=st.one_of(st.none(), positive),
    kl_warmup=share,
    free_nats=st.floats(0, 1e3),
    energy_limit=positive,
    max_rollbacks=st.integers(0, 100),
    final_rate=st.floats(0, 1, exclude_min=True),
    energy_betas=st.tuples(share, share),
    averaging=share,
    seed=st.integers(0, 2**63 - 1),
)


@given(config=configs)
def test_a_configuration_survives_json(config: TrainConfig) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@given(config=configs, data=st.data())
def test_unknown_settings_are_named(config: TrainConfig, data: st.DataObject) -> None:
    plain = to_dict(config)
    part = data.draw(st.sampled_from([plain, plain["model"], plain["prior"], plain["posterior"]["kernel"]]))
    part["colour"] = 1
    with pytest.raises(ParameterError, match="colour"):
        from_dict(plain)


@pytest.mark.parametrize(
    "plain", [{}, {"model": 3}, {"model": {}, "prior": {}}, {**to_dict(TrainConfig()), "prior": 1}]
)
def test_what_is_no_configuration_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="no training configuration"):
        from_dict(plain)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("num_steps", "batch_size", "sample_steps") for value in (0, 1.5)),
        ("checkpoint_every", 0),
        ("num_threads", 0),
        ("baseline_steps", -1),
        ("max_rollbacks", -1),
        *((name, value) for name in ("spectral_limit", "energy_limit") for value in (0.0, float("nan"))),
        ("seed", -1),
        ("seed", 2**63),
        *((name, value) for name in ("learning_rate", "energy_learning_rate") for value in (0.0, float("nan"))),
        *((name, value) for name in ("first_stage", "averaging", "kl_warmup") for value in (-0.1, 1.0, float("nan"))),
        *(("final_rate", value) for value in (0.0, 1.1, float("nan"))),
        *(("energy_betas", value) for value in ((0.9, 1.0), (float("nan"), 0.9), (0.9,), (), 0.9)),
        *((name, value) for name in ("energy_penalty", "free_nats") for value in (-1.0, float("nan"), float("inf"))),
    ],
)
def test_values_out_of_range_are_refused_by_name(make_config: Make, name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name):
        make_config(**{name: value})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ChainConfig, {"num_steps": 0}),
        (ChainConfig, {"restart_fraction": 1.1}),
        (ChainConfig, {"restart_fraction": float("nan")}),
        (ModelConfig, {"latents": ()}),
        (ModelConfig, {"hidden": (0,)}),
        (ModelConfig, {"energy_hidden": (2.5,)}),
        (ModelConfig, {"sigma": -0.1}),
    ],
)
def test_parts_out_of_range_are_refused_by_name(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(settings))):
        kind(**settings)


@pytest.mark.parametrize("scheme", ["joint-variational", "joint-mle"])
@pytest.mark.parametrize("loss", ["noise-contrastive", "self-normalizing"])
def test_losses_against_the_base_want_a_base_that_stays(make_config: Make, loss: str, scheme: Scheme) -> None:
    with pytest.raises(ParameterError, match=f"{scheme} moves it.*two-stage"):
        make_config(energy_loss=loss, scheme=scheme)
    assert make_config(energy_loss=loss, baseline_steps=3).baseline().energy_loss == loss


def test_prior_chains_have_nothing_to_encode(make_config: Make) -> None:
    with pytest.raises(ParameterError, match="no data row"):
        make_config(prior=ChainConfig(start="encoder"))
    with pytest.raises(ParameterError, match="no inference model"):
        make_config(scheme="joint-mle", posterior=ChainConfig(start="encoder"))


@pytest.mark.parametrize(
    ("make", "near"),
    [
        (lambda: TrainConfig(scheme="two-stages"), "two-stage"),  # type: ignore[arg-type]
        (lambda: TrainConfig(energy_loss="contrast"), "contrastive"),  # type: ignore[arg-type]
        (lambda: ChainConfig(start="persistant"), "persistent"),  # type: ignore[arg-type]
        (lambda: ModelConfig(images="cov"), "conv"),  # type: ignore[arg-type]
        (lambda: ModelConfig(likelihood="gausian"), "gaussian"),  # type: ignore[arg-type]
        (lambda: ChainConfig().with_kernel("malla"), "mala"),
        (lambda: preset("digit"), "digits"),
        (lambda: preset("digits", "publish"), "published"),
        (lambda: preset("digits", scheme="join-mle"), "joint-mle"),  # type: ignore[arg-type]
        (lambda: load("fashion-mnst"), "fashion-mnist"),
    ],
)
def test_unknown_names_show_the_nearest(make: Callable[[], object], near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean .*'{near}'"):
        make()


def test_an_unknown_space_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown space 'x'.*Known: u, z"):
        ChainConfig(space="x")  # type: ignore[arg-type]


def test_with_kernel_keeps_options_of_the_same_kernel_only() -> None:
    chains = ChainConfig(kernel=HMC(step_size=0.3, num_leapfrog_steps=7, jitter=0.4), num_steps=9)
    assert chains.with_kernel(step_size=0.1).kernel == HMC(step_size=0.1, num_leapfrog_steps=7, jitter=0.4)
    assert chains.with_kernel("hmc", jitter=0.0).kernel == HMC(step_size=0.3, num_leapfrog_steps=7, jitter=0.0)
    assert chains.with_kernel("mala").kernel == MALA()
    assert chains.with_kernel("ula", step_size=0.2) == replace(chains, kernel=ULA(step_size=0.2))
    with pytest.raises(ParameterError, match="jitter"):
        chains.with_kernel("mala", jitter=0.1)


def test_capped_shortens_the_baseline_in_proportion(make_config: Make) -> None:
    config = make_config(num_steps=1000, baseline_steps=2000)
    capped = config.capped(100)
    assert (capped.num_steps, capped.baseline_steps) == (100, 200)
    assert replace(capped, num_steps=1000, baseline_steps=2000) == config
    assert config.capped(1000) is config
    assert config.capped(5000) is config
    assert make_config(num_steps=1000, baseline_steps=3).capped(1).baseline_steps == 1
    assert make_config(num_steps=1000, baseline_steps=0).capped(1).baseline_steps == 0
    with pytest.raises(ParameterError, match="max_steps"):
        config.capped(0)


def test_the_baseline_is_the_same_run_without_energies(make_config: Make) -> None:
    config = make_config(baseline_steps=77)
    assert config.baseline() == replace(config, scheme="gaussian", num_steps=77)


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion-mnist"])
def test_the_published_recipe_has_the_published_numbers(data: str) -> None:
    config = preset(data, "published")
    assert config.scheme == "joint-mle"
    assert config.data == data
    assert (config.prior.num_steps, config.posterior.num_steps) == (60, 40)
    assert isinstance(config.prior.kernel, ULA)
    assert isinstance(config.posterior.kernel, ULA)
    assert config.prior.kernel.step_size == pytest.approx(0.08)  # 0.4^2 / 2
    assert config.posterior.kernel.step_size == pytest.approx(0.005)  # 0.1^2 / 2
    for chains in (config.prior, config.posterior):
        assert (chains.space, chains.start, chains.restart_fraction) == ("z", "noise", 0.0)
    assert (config.learning_rate, config.energy_learning_rate) == (1e-4, 2e-5)
    assert config.final_rate == 1.0, "Adam without decay"
    assert config.energy_betas == (0.9, 0.999), "Adam's defaults"
    assert config.batch_size == 100
    assert config.model.sigma == 0.3
    assert config.model.smooth is False, "LeakyReLU(0.2)"
    assert config.averaging == 0.0
    assert (config.energy_penalty, config.spectral_limit) == (0.0, None)
    assert config.sample_steps == 60


@pytest.mark.parametrize("recipe", ["published", "paper"])
def test_the_published_recipe_does_what_it_says(data: ImageData, recipe: str) -> None:
    """Its networks, its optimisers with their rates over a whole phase, and its starts after training."""
    config = preset("digits", recipe)
    training = Training(replace(config, model=replace(config.model, width=2), num_steps=4, batch_size=8), data, CPU)
    slopes = {module.negative_slope for module in training.model.modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.2}
    assert not any(isinstance(module, nn.SiLU) for module in training.model.modules())
    z = training.model.prior.base.sample(3, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        training.step()
        phase = training.state_dict()["phase"]
        groups = [optimiser["param_groups"][0] for optimiser in phase["optimisers"]]
        assert [(group["lr"], group["betas"], group["weight_decay"]) for group in groups] == [
            (2e-5, (0.9, 0.999), 0),
            (1e-4, (0.9, 0.999), 0),
        ]
    generator = torch.Generator().manual_seed(0)
    start = prior_start(training.model, config.prior, 3, generator=generator)
    noise = training.model.prior.base.noise(3, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(start, noise, strict=True))
    assert not torch.equal(start[0], z[0]), "in z, which is not where the base prior draws"


def test_what_was_stored_before_a_setting_existed_is_as_it_was(make_config: Make) -> None:
    """Runs and rows of studies without the newer settings: rates fall to 5 %, energies forget faster."""
    plain = to_dict(make_config())
    del plain["final_rate"], plain["energy_betas"]
    assert from_dict(plain) == make_config()
    assert (make_config().final_rate, make_config().energy_betas) == (0.05, (0.9, 0.99))


@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("recipe", ["adjusted", "published", "paper"])
def test_every_recipe_takes_every_scheme(recipe: str, scheme: Scheme) -> None:
    assert preset("digits", recipe, scheme).scheme == scheme


def test_the_adjusted_recipe_is_adjusted() -> None:
    config = preset("digits")
    assert config.scheme == "two-stage"
    assert config.prior.kernel.is_exact
    assert config.prior.start == "persistent"
