"""Images of trained priors, and how images compare with held-out ones."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lamina.models import Latents
from lamina.trainers import ChainConfig, Features, ImageData, draw_prior
from lamina.trainers.evaluation import features_of
from lamina.trainers.evaluation.generation import image_figures
from lamina.trainers.evaluation.measures import frechet_distance
from lamina.trainers.evaluation.networks import stated
from lamina.trainers.sampling import images

from .study import Place
from .training import Trained

FLOOR = "training-images"
"""As many images of the training split as there are held-out ones: what samples without any fault would come to."""

_SEED = 3_000_017
_SHORT = {
    "frechet_distance": "frechet",
    "kernel_distance": "kernel",
    "kernel_distance_deviation": "kernel_deviation",
    "two_sample_accuracy": "two_sample",
}


class Yardstick:
    """Held-out images on the features of their data set, which go into the results.

    Args:
        data: The data set.
        place: Where to compute.
        num: Held-out images, at most; as many are to be compared with them.
        features: See `features_of`.
    """

    def __init__(self, data: ImageData, place: Place, num: int, features: str | None = None) -> None:
        self._features = _features(data, features, place.device, place.show_progress)
        place.features[data.name] = stated(self._features)
        held_out = data.test[:num].to(place.device)
        self.num = len(held_out)
        self._reference = self._features(held_out)

    def figures(self, images: Tensor) -> dict[str, float]:
        """All measures of images, see `lamina.trainers.evaluation.generation`, by short names."""
        found = image_figures(self._features, images, self._reference)
        named = {name.removeprefix(f"{self._features.name}_"): value for name, value in found.items()}
        return {_SHORT.get(name, name): value for name, value in named.items()}

    def frechet(self, images: Tensor) -> float:
        """Their Frechet distance alone."""
        return frechet_distance(self._features(images), self._reference)


def training_images(data: ImageData, place: Place, num: int, seed: int) -> Tensor:
    """Training images, drawn without replacement."""
    generator = torch.Generator().manual_seed(seed + _SEED)
    return data.train[torch.randperm(len(data.train), generator=generator)[:num]].to(place.device)


def base_images(trained: Trained, num: int) -> Tensor:
    """Images of the base prior."""
    return _images(trained, trained.model.prior.base.sample(num, generator=_generator(trained)))


def prior_images(trained: Trained, num: int, chains: ChainConfig | None = None, num_steps: int | None = None) -> Tensor:
    """Images of the EBM prior, by chains; before the energies have begun to learn, of the base prior.

    Args:
        trained: The model.
        num: Chains.
        chains: Kernel and space, whose step size adapts; None takes the model's own at the step size of training.
        num_steps: Of each chain; None takes those of the configuration.
    """
    config = trained.config
    if num_steps == 0 or not trained.has_energies:
        return base_images(trained, num)
    z, _ = draw_prior(
        trained.model,
        chains or config.prior,
        num,
        num_steps=num_steps or config.sample_steps,
        generator=_generator(trained),
        step_size=None if chains else trained.step_size,
    )
    return _images(trained, z)


def _images(trained: Trained, z: Latents) -> Tensor:
    return images(trained.model, z, trained.data.num_levels)


@lru_cache(maxsize=1)  # an ImageData is equal to itself alone, and a place loads each data set once
def _features(data: ImageData, place: str | None, device: torch.device, show_progress: bool | None) -> Features:
    return features_of(data, place, device=device, show_progress=show_progress)


def _generator(trained: Trained) -> torch.Generator:
    return torch.Generator(trained.place.device).manual_seed(trained.config.seed + _SEED)
