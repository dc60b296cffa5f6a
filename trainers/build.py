"""Models from their configuration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from lamina.models import (
    BernoulliLikelihood,
    BottomUpInference,
    ConvGaussian,
    ConvGenerator,
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    LayerEnergies,
    MLPEnergy,
    MLPGaussian,
    MLPGenerator,
    seeded_init,
)

from .config import ModelConfig


def build_model(config: ModelConfig, image: Sequence[int], *, seed: int) -> LatentEBM:
    """Build and initialise a model for images of a shape (channels, height, width); the energies start at zero."""
    with seeded_init(seed):
        layers = list(itertools.pairwise(config.latents))
        base = GaussianHierarchy(
            [config.latents[-1]], [MLPGaussian(above, [size], config.hidden) for size, above in layers]
        )
        energies = LayerEnergies(MLPEnergy([size], config.energy_hidden) for size in config.latents)
        inference = BottomUpInference(
            _encoder(config, image), [MLPGaussian(below, [size], config.hidden) for below, size in layers]
        )
        return LatentEBM(JointEBMPrior(base, energies), _likelihood(config, image), inference)


def _encoder(config: ModelConfig, image: Sequence[int]) -> nn.Module:
    lowest = [config.latents[0]]
    if config.images == "conv":
        return ConvGaussian(image, lowest)
    return MLPGaussian(math.prod(image), lowest, config.hidden)


def _likelihood(config: ModelConfig, image: Sequence[int]) -> nn.Module:
    squash = config.likelihood == "gaussian"
    lowest = [config.latents[0]]
    generator: nn.Module = (
        ConvGenerator(lowest, image, squash=squash)
        if config.images == "conv"
        else MLPGenerator(lowest, image, config.hidden, squash=squash)
    )
    return GaussianLikelihood(generator, config.sigma) if squash else BernoulliLikelihood(generator)
