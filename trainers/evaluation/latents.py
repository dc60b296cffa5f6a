"""The prior itself: draws of it against the aggregate posterior, layer by layer and jointly.

The aggregate posterior is what the prior has to look like: the law of z over held-out data. Beside the EBM prior and
its Gaussian base stands what the aggregate posterior becomes where a dependence is broken:

- within a layer, every coordinate shuffled over the rows on its own: a prior that comes nearer captures relations
  inside the layer;
- jointly, every layer shuffled on its own: a prior that comes nearer captures relations between layers.

What is shuffled is one half of the posterior draws; all are compared with the other half, at equal numbers. Rows that
are shuffled keep each of their numbers: compared with themselves, they would look nearer than draws of their own law
ever do, and a forest would tell them apart less often than by guessing.

Every coordinate is in units of the posterior's spread. The kernel distance is unbiased and may fall below zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

from lamina.models import Latents

from .measures import Array, kernel_distance, two_sample_accuracy

BROKEN = "shuffled"


Places: TypeAlias = Mapping[str, Array]
"""Rows of numbers by place: "joint", where there are several layers, "layer1", ..."""


def latent_figures(priors: Mapping[str, Latents], posterior: Latents) -> dict[str, dict[str, dict[str, float]]]:
    """Kernel distance and two-sample accuracy by place ("joint", "layer1", ...), measure and prior.

    Args:
        priors: Draws of each prior, (N, *event_i) per layer, by name; N is `num_compared(M)` or more, and no more are
            used.
        posterior: One draw of z for every held-out image, (M, *event_i) per layer.
    """
    rng = np.random.default_rng(0)
    num = num_compared(len(posterior[0]))
    drawn = _in_units_of(posterior, posterior)
    order = rng.permutation(len(drawn[0]))  # held-out images may be in the order of their classes
    theirs, others = ([layer[half] for layer in drawn] for half in (order[:num], order[num : 2 * num]))
    sets = {name: _places([layer[:num] for layer in _in_units_of(posterior, z)]) for name, z in priors.items()}
    return _figures({**sets, BROKEN: _broken(others, rng)}, _places(theirs))


def num_compared(num_posterior: int) -> int:
    """Rows on either side of every comparison: half of the posterior draws, as the other half is shuffled."""
    return num_posterior // 2


def distances_to(reference: Latents, sets: Mapping[str, Latents]) -> dict[str, dict[str, dict[str, float]]]:
    """The same figures of sets of latents (N, *event_i) against a reference's (M, *event_i), with nothing broken."""
    return _figures(
        {name: _places(_in_units_of(reference, z)) for name, z in sets.items()},
        _places(_in_units_of(reference, reference)),
    )


def _in_units_of(reference: Latents, z: Latents) -> list[Array]:
    """Rows of each layer, every coordinate in units of the reference's spread."""
    return [rows(part) / np.maximum(rows(own).std(0), 1e-6) for own, part in zip(reference, z, strict=True)]


def _places(layers: Sequence[Array]) -> Places:
    single = {f"layer{number + 1}": layer for number, layer in enumerate(layers)}
    return single if len(layers) == 1 else {"joint": np.concatenate(layers, axis=1), **single}


def _broken(layers: Sequence[Array], rng: np.random.Generator) -> Places:
    """Coordinates shuffled one by one within each layer; jointly, layers one by one."""
    by_column = [np.stack([rng.permutation(column) for column in layer.T], axis=1) for layer in layers]
    by_layer = [rng.permutation(layer) for layer in layers]
    return {**_places(by_column), "joint": np.concatenate(by_layer, axis=1)}


def flat_figures(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The figures by one name each, "kernel_distance/layer1/ebm", for a summary."""
    return {
        f"{measure}/{place}/{name}": value
        for place, measures in figures.items()
        for measure, row in measures.items()
        for name, value in row.items()
    }


def rows(part: Tensor) -> Array:
    """A layer as rows of numbers, (N, D)."""
    flat: Array = part.flatten(1).cpu().double().numpy()
    return flat


def _figures(sets: Mapping[str, Places], theirs: Places) -> dict[str, dict[str, dict[str, float]]]:
    return {
        place: {
            "kernel_distance": {name: kernel_distance(ours[place], reference) for name, ours in sets.items()},
            "two_sample_accuracy": {name: two_sample_accuracy(ours[place], reference) for name, ours in sets.items()},
        }
        for place, reference in theirs.items()
    }
