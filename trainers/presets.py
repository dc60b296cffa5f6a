"""Settings to start from: one per data set, and the published recipe to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lamina.samplers import HMC, ULA, UnknownNameError, step_size_from_noise_scale

from .config import ChainConfig, ModelConfig, TrainConfig

_DIGITS = TrainConfig(
    data="digits",
    model=ModelConfig(latents=(16, 8), sigma=0.1),
    prior=ChainConfig(kernel=HMC(step_size=0.2, num_leapfrog_steps=3, jitter=0.2), num_steps=2),
    posterior=ChainConfig(
        kernel=HMC(step_size=0.05, num_leapfrog_steps=3, jitter=0.2), num_steps=2, restart_fraction=0.0
    ),
    num_steps=5000,
    first_stage=0.7,
    baseline_steps=10500,
    energy_learning_rate=1e-3,
)

_MNIST = replace(
    _DIGITS,
    data="mnist",
    model=ModelConfig(latents=(32, 16), hidden=(256, 256), energy_hidden=(256, 256), images="conv", sigma=0.3),
    num_steps=12000,
    baseline_steps=14000,
    num_threads=2,
)

_DATA: Mapping[str, TrainConfig] = {
    "digits": _DIGITS,
    "mnist": _MNIST,
    "fashion-mnist": replace(_MNIST, data="fashion-mnist"),
}


def _published(config: TrainConfig) -> TrainConfig:
    """The published joint recipe: unadjusted chains of 60 and 40 steps from noise, in z.

    Source: the authors' code for CIFAR-10 with L = 2: s = 0.4 and 0.1, which is h = s^2 / 2; learning rates 2e-5
    and 1e-4; sigma 0.3; no averaging.
    """

    def chains(scale: float, num_steps: int) -> ChainConfig:
        kernel = ULA(step_size=step_size_from_noise_scale(scale))
        return ChainConfig(kernel=kernel, num_steps=num_steps, space="z", start="noise", restart_fraction=0.0)

    return replace(
        config,
        scheme="joint-mle",
        model=replace(config.model, sigma=0.3),
        prior=chains(0.4, 60),
        posterior=chains(0.1, 40),
        learning_rate=1e-4,
        energy_learning_rate=2e-5,
        averaging=0.0,
        sample_steps=60,
    )


RECIPES: Mapping[str, Callable[[TrainConfig], TrainConfig]] = {
    "adjusted": lambda config: config,
    "published": _published,
}


def preset(data: str, recipe: str = "adjusted") -> TrainConfig:
    """Settings for a data set.

    Args:
        data: Name of a data set.
        recipe: "adjusted" (two-stage, Metropolis-adjusted adaptive chains) or "published".
    """
    if data not in _DATA:
        raise UnknownNameError("data set", data, _DATA)
    if recipe not in RECIPES:
        raise UnknownNameError("recipe", recipe, RECIPES)
    return RECIPES[recipe](_DATA[data])
