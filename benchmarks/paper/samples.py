"""Images of trained priors, and how they compare with held-out ones."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lamina.models import Latents
from lamina.trainers import ChainConfig, Features, ImageData, draw_prior
from lamina.trainers.evaluation import features_of
from lamina.trainers.evaluation.generation import image_figures
from lamina.trainers.evaluation.measures import frechet_distance
from lamina.trainers.sampling import images

from .training import Trained

_SEED = 3_000_017
_SHORT = {
    "frechet_distance": "frechet",
    "kernel_distance": "kernel",
    "kernel_distance_deviation": "kernel_deviation",
    "two_sample_accuracy": "two_sample",
}


class Yardstick:
    """Held-out images on the features of their data set.

    Args:
        trained: A training on the data set.
        num: Held-out images, at most; as many are to be compared with them.
    """

    def __init__(self, trained: Trained, num: int) -> None:
        self._trained = trained
        self._features = _features(trained.data, trained.place.show_progress)
        held_out = trained.data.test[:num].to(trained.place.device)
        self.num = len(held_out)
        self._reference = self._features(held_out)

    def figures(self, z: Latents) -> dict[str, float]:
        """All measures of the images of latents, see `lamina.trainers.evaluation.generation`, by short names."""
        found = image_figures(self._features, self._images(z), self._reference)
        named = {name.removeprefix(f"{self._features.name}_"): value for name, value in found.items()}
        return {_SHORT.get(name, name): value for name, value in named.items()}

    def frechet(self, z: Latents) -> float:
        """Their Frechet distance alone."""
        return frechet_distance(self._features(self._images(z)), self._reference)

    def _images(self, z: Latents) -> Tensor:
        return images(self._trained.model, z, self._trained.data.num_levels)


def base_draws(trained: Trained, num: int) -> Latents:
    """Latents of the base prior."""
    draws: Latents = trained.model.prior.base.sample(num, generator=_generator(trained))
    return draws


def prior_draws(trained: Trained, num: int, chains: ChainConfig | None = None, num_steps: int | None = None) -> Latents:
    """Latents of the EBM prior, by chains from the base prior; of a Gaussian-prior model, of the base prior.

    Args:
        trained: The model.
        num: Chains.
        chains: Kernel and space, whose step size adapts; None takes the model's own at the step size of training.
        num_steps: Of each chain; None takes those of the configuration.
    """
    config = trained.config
    if config.scheme == "gaussian" or num_steps == 0:
        return base_draws(trained, num)
    z, _ = draw_prior(
        trained.model,
        chains or config.prior,
        num,
        num_steps=num_steps or config.sample_steps,
        generator=_generator(trained),
        step_size=None if chains else trained.step_size,
    )
    return z


@lru_cache(maxsize=1)  # an ImageData is equal to itself alone, and a place loads each data set once
def _features(data: ImageData, show_progress: bool | None) -> Features:
    return features_of(data, show_progress=show_progress)


def _generator(trained: Trained) -> torch.Generator:
    return torch.Generator(trained.place.device).manual_seed(trained.config.seed + _SEED)
