"""Settings to start from: one per data set, and the published recipe to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lamina.samplers import HMC, ULA, UnknownNameError, step_size_from_noise_scale

from .config import ChainConfig, ModelConfig, Scheme, TrainConfig
from .data import FOLDER, held_out, split_pose

_DIGITS = TrainConfig(
    data="digits",
    model=ModelConfig(latents=(16, 8), sigma=0.1, levels=17),
    prior=ChainConfig(kernel=HMC(step_size=0.2, num_leapfrog_steps=3, jitter=0.2), num_steps=2),
    posterior=ChainConfig(
        kernel=HMC(step_size=0.05, num_leapfrog_steps=3, jitter=0.2), num_steps=2, restart_fraction=0.0
    ),
    num_steps=5000,
    first_stage=0.7,
    baseline_steps=12000,
    energy_learning_rate=1e-3,
)

_MNIST = replace(
    _DIGITS,
    model=ModelConfig(latents=(32, 16), hidden=(500, 500), energy_hidden=(200, 200), sigma=0.2),
    num_steps=12000,
    baseline_steps=20000,
)

PAPER_NETWORKS = ModelConfig(
    latents=(128, 100),
    hidden=(200, 200, 200, 200),
    energy_hidden=((200, 200, 200), (100, 100)),
    width=256,
    smooth=False,
    images="conv",
    sigma=0.3,
)
"""The two-layer networks of the authors' code for 32x32 images, at 28x28 as well: a generator of 1024, 512 and 256
channels with 18.9 million weights, 0.19 million in p(z_1|z_2), 0.127 million in the energies. Differs: the first
layer of the generator, which is linear here, has a bias for every entry of its map instead of every channel."""

_COLOUR = replace(
    _MNIST,
    model=ModelConfig(
        latents=(128, 64), hidden=(500, 500), energy_hidden=(200, 200), width=64, images="conv", sigma=0.2
    ),
)
"""A start for pictures of any size; tuned on none, and meant for a GPU."""

_DATA: Mapping[str, TrainConfig] = {
    "digits": _DIGITS,
    **dict.fromkeys(("mnist", "fashion-mnist", "kmnist", "notmnist", "omniglot"), _MNIST),
    **dict.fromkeys(("cifar10", "svhn", "mnist-colour"), _COLOUR),
}


def _published(config: TrainConfig) -> TrainConfig:
    """The published joint recipe: unadjusted chains of 60 and 40 steps from noise, in z.

    Source: the authors' code of joint training for CIFAR-10 with L = 2: s = 0.4 and 0.1, which is h = s^2 / 2; learning
    rates 2e-5 and 1e-4, which stay; Adam's default betas for all; LeakyReLU(0.2) in all networks; batches of 100;
    sigma 0.3; no averaging; samples by 60 steps from noise. Differs: energies start at zero; the scale of the top
    layer is 1 and not 1.01; training that is lost goes back to a checkpoint instead of ending.
    """

    def chains(scale: float, num_steps: int) -> ChainConfig:
        kernel = ULA(step_size=step_size_from_noise_scale(scale))
        return ChainConfig(kernel=kernel, num_steps=num_steps, space="z", start="noise", restart_fraction=0.0)

    return replace(
        config,
        scheme="joint-mle",
        model=replace(config.model, sigma=0.3, smooth=False),
        prior=chains(0.4, 60),
        posterior=chains(0.1, 40),
        learning_rate=1e-4,
        energy_learning_rate=2e-5,
        final_rate=1.0,
        energy_betas=(0.9, 0.999),
        batch_size=100,
        averaging=0.0,
        sample_steps=60,
        baseline_steps=30 * config.baseline_steps,
    )


def _adjusted(config: TrainConfig) -> TrainConfig:
    """Metropolis-adjusted, adaptive, persistent chains.

    In the joint schemes the energies learn at a tenth of the two-stage rate: data and prior phase move at once
    there, and at the full rate training left the finite numbers within 600 steps on digits. Their steps take longer,
    and the Gaussian-prior rival gets as many more.
    """
    match config.scheme:
        case "two-stage":
            return config
        case "gaussian":
            return replace(config, baseline_steps=0)  # it would be its own rival
        case scheme:
            rival_steps = {"joint-variational": 3, "joint-mle": 5}[scheme] * config.baseline_steps
            energy_rate = config.energy_learning_rate / 10
            return replace(config, energy_learning_rate=energy_rate, baseline_steps=rival_steps)


def _paper(config: TrainConfig) -> TrainConfig:
    """The published recipe on the published networks: heavy, meant for a GPU."""
    return replace(_published(config), model=replace(PAPER_NETWORKS, levels=config.model.levels))


RECIPES: Mapping[str, Callable[[TrainConfig], TrainConfig]] = {
    "adjusted": _adjusted,
    "published": _published,
    "paper": _paper,
}


def preset(data: str, recipe: str = "adjusted", scheme: Scheme | None = None) -> TrainConfig:
    """Settings for a data set.

    Args:
        data: Name of a data set; with a class held out or in a standard pose, the settings are those of the whole.
        recipe: "adjusted" (Metropolis-adjusted, adaptive, persistent chains); "published", the published one on the
            same networks; or "paper", on the published networks.
        scheme: How to learn; None takes the recipe's own: "two-stage", and "joint-mle" for the published ones.

    Raises:
        UnknownNameError: If there is no such data set, recipe or scheme.
    """
    if recipe not in RECIPES:
        raise UnknownNameError("recipe", recipe, RECIPES)
    config = replace(_of_data(data), data=data)
    if scheme is None:
        return RECIPES[recipe](config)
    return replace(RECIPES[recipe](replace(config, scheme=scheme)), scheme=scheme)


def _of_data(name: str) -> TrainConfig:
    _, name = split_pose(name)
    if name.startswith(FOLDER):
        return _COLOUR
    rule = held_out(name)
    whole = rule.base if rule else name
    if whole not in _DATA:
        raise UnknownNameError("data set", whole, _DATA)
    return _DATA[whole]
