"""The prior itself: draws of it against the aggregate posterior, layer by layer and jointly.

The aggregate posterior is what the prior has to look like: the law of z over held-out data. Beside the EBM prior and
its Gaussian base stands what the aggregate posterior becomes where a dependence is broken:

- within a layer, every coordinate shuffled over the rows on its own: a prior that comes nearer captures relations
  inside the layer;
- jointly, every layer shuffled on its own: a prior that comes nearer captures relations between layers.

Every coordinate is in units of the posterior's spread. The kernel distance is unbiased and may fall below zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from lamina.models import Latents

from .measures import Array, kernel_distance, two_sample_accuracy

BROKEN = "shuffled"


def latent_figures(priors: Mapping[str, Latents], posterior: Latents) -> dict[str, dict[str, dict[str, float]]]:
    """Kernel distance and two-sample accuracy by place ("joint", "layer1", ...), measure and prior.

    Args:
        priors: Draws of each prior, (N, *event_i) per layer, by name.
        posterior: One draw of z for every held-out image, (M, *event_i) per layer.
    """
    rng = np.random.default_rng(0)
    scales = [np.maximum(rows(part).std(0), 1e-6) for part in posterior]
    theirs = [rows(part) / scale for part, scale in zip(posterior, scales, strict=True)]
    sets = {name: [rows(part) / scale for part, scale in zip(z, scales, strict=True)] for name, z in priors.items()}
    by_column = [np.stack([rng.permutation(column) for column in layer.T], axis=1) for layer in theirs]
    by_layer = [rng.permutation(layer) for layer in theirs]
    figures = {
        f"layer{number + 1}": _figures({name: z[number] for name, z in {**sets, BROKEN: by_column}.items()}, layer)
        for number, layer in enumerate(theirs)
    }
    if len(theirs) == 1:
        return figures
    joint = {name: np.concatenate(z, axis=1) for name, z in {**sets, BROKEN: by_layer}.items()}
    return {"joint": _figures(joint, np.concatenate(theirs, axis=1)), **figures}


def rows(part: Tensor) -> Array:
    """A layer as rows of numbers, (N, D)."""
    flat: Array = part.flatten(1).cpu().double().numpy()
    return flat


def _figures(sets: Mapping[str, Array], theirs: Array) -> dict[str, dict[str, float]]:
    return {
        "kernel_distance": {name: kernel_distance(ours, theirs) for name, ours in sets.items()},
        "two_sample_accuracy": {name: two_sample_accuracy(ours, theirs) for name, ours in sets.items()},
    }
