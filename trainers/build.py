"""Models from their configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lamina.models import (
    BernoulliLikelihood,
    BottomUpInference,
    ConvEnergy,
    ConvGenerator,
    Energies,
    Event,
    EventGaussian,
    GaussianHierarchy,
    GaussianLikelihood,
    Inference,
    JointEBMPrior,
    JointEnergy,
    LadderGenerator,
    LadderInference,
    LatentEBM,
    LayerEnergies,
    LogisticMixtureLikelihood,
    MLPEnergy,
    MLPGaussian,
    MLPGenerator,
    NormalizedEnergies,
    StandardNormal,
    event_net,
    feature_event,
    seeded_init,
)

from .config import ModelConfig


def build_model(config: ModelConfig, image: Sequence[int], *, seed: int) -> LatentEBM:
    """Build and initialise a model for images of a shape (channels, height, width); the energies start at zero."""
    with seeded_init(seed):
        base = _base(config)
        prior = JointEBMPrior(base, _energies(config))
        inference = _ladder(config, base, image) if config.inference == "ladder" else _bottom_up(config, image)
        return LatentEBM(prior, _likelihood(config, image), inference)


def _gaussian(config: ModelConfig, source: Event, target: Event) -> EventGaussian:
    return EventGaussian(source, target, config.hidden, width=config.width, smooth=config.smooth)


def _base(config: ModelConfig) -> GaussianHierarchy:
    if config.base == "independent":
        return GaussianHierarchy(config.events[-1], [StandardNormal(event) for event in config.events[:-1]])
    return GaussianHierarchy(
        config.events[-1], [_gaussian(config, above, event) for event, above in pairwise(config.events)]
    )


def _energies(config: ModelConfig) -> Energies:
    hidden = config.hidden_of_energies()
    energies: Energies
    if config.energies == "layers":
        energies = LayerEnergies(
            _energy(config, event, sizes) for event, sizes in zip(config.events, hidden, strict=True)
        )
    else:
        energies = JointEnergy(_energy(config, (sum(map(math.prod, config.events)),), hidden[0]))
    return NormalizedEnergies(energies) if config.learns_normalizer else energies


def _energy(config: ModelConfig, event: Event, hidden: Sequence[int]) -> nn.Module:
    if len(event) == 3:
        return ConvEnergy(event, hidden, width=config.width, smooth=config.smooth)
    return MLPEnergy(event, hidden, smooth=config.smooth)


def _bottom_up(config: ModelConfig, image: Event) -> Inference:
    lowest, *_ = config.events
    encoder: nn.Module = (
        MLPGaussian(math.prod(image), lowest, config.hidden, smooth=config.smooth)
        if config.images == "mlp"
        else _gaussian(config, image, lowest)
    )
    return BottomUpInference(encoder, [_gaussian(config, below, event) for below, event in pairwise(config.events)])


def _ladder(config: ModelConfig, base: GaussianHierarchy, image: Event) -> Inference:
    features = [feature_event(event, config.hidden, config.width) for event in config.events]

    def net(source: Event, target: Event) -> nn.Sequential:
        return event_net(source, target, config.hidden, width=config.width, smooth=config.smooth)

    first = net(image, features[0])
    if config.images == "mlp" and len(features[0]) == 1:
        first = nn.Sequential(nn.Flatten(), net((math.prod(image),), features[0]))
    evidence = [_gaussian(config, source, event) for source, event in zip(features, config.events, strict=True)]
    return LadderInference(base, [first, *(net(below, above) for below, above in pairwise(features))], evidence)


def _likelihood(config: ModelConfig, image: Event) -> nn.Module:
    match config.likelihood:
        case "gaussian":
            generator = _generator(config, image, squash=True)
            return GaussianLikelihood(generator, config.sigma, learns_sigma=config.learns_sigma)
        case "bernoulli":
            return BernoulliLikelihood(_generator(config, image, squash=False))
        case "logistic-mixture":
            made = LogisticMixtureLikelihood.parameters_per_pixel(image[0], config.components)
            generator = _generator(config, (made, *image[1:]), squash=False)
            return LogisticMixtureLikelihood(generator, image[0], components=config.components, levels=config.levels)


def _generator(config: ModelConfig, image: Event, *, squash: bool) -> nn.Module:
    if config.images == "mlp":
        return MLPGenerator(config.events[0], image, config.hidden, squash=squash, smooth=config.smooth)
    if config.images == "conv":
        return ConvGenerator(config.events[0], image, width=config.width, squash=squash, smooth=config.smooth)
    return LadderGenerator(config.events, image, config.hidden, width=config.width, squash=squash, smooth=config.smooth)
