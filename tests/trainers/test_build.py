"""Models from their configuration: the published networks, and every choice built, trained a little, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lamina.models import JointEnergy, LadderInference, LayerEnergies, LogisticMixtureLikelihood, NormalizedEnergies
from lamina.samplers import ParameterError, UnknownNameError
from lamina.trainers import (
    ImageData,
    ModelConfig,
    TrainConfig,
    Training,
    build_model,
    cli,
    draw_posterior,
    draw_prior,
    preset,
)
from lamina.trainers.presets import PAPER_NETWORKS
from lamina.trainers.sampling import images

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
SMALL = ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,), width=2)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(("image", "coarsest"), [((3, 32, 32), 8), ((1, 28, 28), 7)], ids=str)
def test_the_papers_networks_have_the_published_sizes(image: tuple[int, ...], coarsest: int) -> None:
    """Layer by layer; at 32x32 in colour also the totals of the authors' code."""
    with torch.device("meta"):
        model = build_model(PAPER_NETWORKS, image, seed=0)
    channels, pixels = image[0], coarsest**2
    energies = model.prior.energies
    assert isinstance(energies, LayerEnergies)
    assert [count(net) for net in energies.networks] == [106_401, 20_301]
    assert count(model.prior.base) == 192_256
    seed = 128 * 1024 * pixels + 1024 * pixels
    rest = (1024 * 512 + 512 * 256) * 16 + 512 + 256 + 256 * channels * 9 + channels
    assert count(model._likelihood) == seed + rest
    if coarsest == 8:
        assert count(model._likelihood) - 1024 * (pixels - 1) == 18_883_075  # one bias a channel, as published
    encoder = (channels * 256 * 9 + 256) + (256 * 512 + 512 * 1024) * 16 + 512 + 1024 + (1024 * pixels + 1) * 256
    assert model.inference is not None
    assert count(model.inference.encoder) == encoder
    assert not any(isinstance(layer, nn.SiLU) for layer in model.modules()), "LeakyReLU, as published"


def test_the_paper_recipe_is_the_published_one_on_these_networks() -> None:
    config, published = preset("digits", "paper"), preset("digits", "published")
    assert config == replace(published, model=replace(PAPER_NETWORKS, levels=17))


CHOICES: dict[str, dict[str, Any]] = {
    "one layer": {"latents": (4,)},
    "five layers, ladder": {"latents": ((2, 4, 4), (1, 2, 2), 4, 3, 2), "inference": "ladder", "images": "ladder"},
    "maps from the bottom up": {"latents": ((2, 2, 2), 3), "images": "conv"},
    "ladder from an MLP": {"latents": (4, 3, 2), "inference": "ladder"},
    "ICCV 2023": {"latents": (3, 2, 2), "base": "independent", "energies": "concatenation", "images": "ladder"},
    "bernoulli": {"likelihood": "bernoulli", "images": "conv"},
    "logistic mixture": {"likelihood": "logistic-mixture", "components": 2, "levels": 17},
    "learnt scale": {"learns_sigma": True},
    "learnt normaliser": {"learns_normalizer": True},
    "as published": {"smooth": False, "energy_hidden": ((5, 4), (3,))},
}


@pytest.mark.parametrize("scheme", ["two-stage", "joint-variational", "joint-mle"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_trains_and_is_kept(
    make_config: Make, data: ImageData, assert_same: Callable[..., None], choice: str, scheme: Any
) -> None:
    """All parts that learn do; averages and a checkpoint have the same weights; figures are finite."""
    config = make_config(scheme=scheme, model=replace(SMALL, **CHOICES[choice]), num_steps=6)
    levels = (data.train * 8).round() / 8  # what a mixture over 17 levels takes
    training = Training(config, replace(data, train=levels), CPU)
    before = {name: weight.detach().clone() for name, weight in training.model.named_parameters()}
    for _ in range(6):
        figures = training.step()
        assert all(bool(value.isfinite()) for value in figures.values()), figures
    still = {name for name, weight in training.model.named_parameters() if torch.equal(weight, before[name])}
    unused = "inference." if scheme == "joint-mle" else "no such part"
    final_biases = {name for name in still if ".energies." in name and name.endswith("bias")}  # they shift both phases
    assert still == final_biases | {name for name in before if name.startswith(unused)}
    assert len(final_biases) <= len(config.model.latents)
    other = Training(config, replace(data, train=levels), CPU)
    other.load_state_dict(training.state_dict())
    assert_same(other.state_dict(), training.state_dict())


def test_choices_are_what_they_say() -> None:
    def built(**settings: Any) -> Any:
        return build_model(replace(SMALL, **settings), (1, 4, 4), seed=0)

    ladder = built(inference="ladder")
    assert isinstance(ladder.inference, LadderInference)
    assert isinstance(built(energies="concatenation").prior.energies, JointEnergy)
    normalised = built(learns_normalizer=True).prior.energies
    assert isinstance(normalised, NormalizedEnergies)
    assert isinstance(normalised.energies, LayerEnergies)
    assert list(built(base="independent").prior.base.parameters()) == []
    mixture = built(likelihood="logistic-mixture", components=3, levels=17).likelihood
    assert isinstance(mixture, LogisticMixtureLikelihood)
    assert (mixture.components, mixture.levels, mixture.channels) == (3, 17, 1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"latents": 3}, "latents must be a tuple"),
        ({"latents": ((2, 3),)}, "latents"),
        ({"latents": ((2, 0, 3),)}, "latents"),
        ({"energy_hidden": ((5,),)}, "sizes for 1 networks; there are 2"),
        ({"energy_hidden": ((5,), (3,)), "energies": "concatenation"}, "sizes for 2 networks; there are 1"),
        ({"width": 0}, "width"),
        ({"components": 0}, "components"),
        ({"levels": 1}, "levels"),
        ({"smooth": 1}, "smooth must be True or False"),
        *(({name: "ladders"}, name) for name in ("base", "energies", "images", "inference", "likelihood")),
    ],
)
def test_wrong_choices_are_refused_by_name(settings: dict[str, Any], match: str) -> None:
    with pytest.raises((ParameterError, UnknownNameError), match=match):
        SMALL.with_settings(settings)


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match=r"latent.*latents"):
        SMALL.with_settings({"latent": (3,)})


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "latents=8,4,2", "--model", "inference=ladder", "--model", "images=ladder", "--free-nats", "0.1"),
        ("--energy-loss", "noise-contrastive", "--model", "learns_normalizer=True", "--kl-warmup", "0.5"),
        ("--model", "latents=((2,4,4),3)", "--model", "likelihood=logistic-mixture", "--spectral-limit", "1.5"),
    ],
    ids=["ladder", "without chains", "maps and mixture"],
)
def test_choices_come_from_the_command_line(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    """What was asked for is configured, trains, and is drawn from."""
    made: list[TrainConfig] = []
    monkeypatch.setattr(cli, "start", lambda config, *_, **__: made.append(config))
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    assert cli.main(["train", "digits", "--out", str(tmp_path), "--max-steps", "4", *flags]) == 0
    (config,) = made
    if "--free-nats" in flags:
        assert (config.model.latents, config.model.inference, config.free_nats) == ((8, 4, 2), "ladder", 0.1)
    elif "--kl-warmup" in flags:
        assert (config.energy_loss, config.model.learns_normalizer, config.kl_warmup) == (flags[1], True, 0.5)
    else:
        assert (config.model.latents, config.model.levels, config.spectral_limit) == (((2, 4, 4), 3), 17, 1.5)
    training = Training(replace(config, batch_size=8), data, CPU)
    for _ in range(4):
        training.step()
    model, generator = training.averages.model, torch.Generator().manual_seed(0)
    z, _ = draw_prior(model, config.prior, 5, num_steps=4, generator=generator)
    assert images(model, z, data.num_levels).shape == (5, *data.image_shape)
    z = draw_posterior(model, config.posterior, data.test[:5], num_steps=4, generator=generator)
    assert [part.shape[1:] for part in z] == list(model.prior.base.events)
