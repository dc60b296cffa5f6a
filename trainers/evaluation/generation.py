"""Samples against held-out images on the features of a network, n on both sides.

Names of measures begin with the network's: `lenet_frechet_distance` is no Inception FID, and compares with other runs
on the same data, network and n alone. The row `data` is of as many training images: what a perfect model would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..sampling import images
from .features import features_of
from .manifolds import overlap
from .measures import Array, frechet_distance, kernel_distance_spread, two_sample_accuracy
from .networks import Features, stated
from .subject import Subject


def generation(subject: Subject) -> dict[str, Any]:
    """The report of samples of every prior."""
    features = features_of(subject.data, subject.features, device=subject.device, show_progress=subject.show_progress)
    held_out = subject.held_out(subject.budget.num_samples)
    sets = sample_sets(subject, len(held_out))
    reference = features(held_out)
    figures = {name: image_figures(features, drawn, reference) for name, drawn in sets.items()}
    return {
        **stated(features),
        "reference": "first test images",
        "num_per_side": len(held_out),
        "rounding": f"{subject.data.num_levels} grey levels over the data's range, no stretching of single images",
        "summary": {f"{measure}/{name}": value for name, row in figures.items() for measure, value in row.items()},
    }


def sample_sets(subject: Subject, num: int) -> dict[str, Tensor]:
    """Images of every prior, and training images, `num` of each."""
    generator = subject.generator(1)
    levels = subject.data.num_levels
    sets = {name: images(subject.model, z, levels) for name, z in subject.priors(num, generator).items()}
    if subject.baseline is not None:
        z = subject.baseline.prior.base.sample(num, generator=generator)
        sets["gaussian"] = images(subject.baseline, z, levels)
    return {**sets, "data": subject.training_images(num)}


def image_figures(features: Features, drawn: Tensor, reference: Array) -> Mapping[str, float]:
    """All measures of one set of images against the reference's features."""
    ours = features(drawn)
    spread = kernel_distance_spread(ours, reference)
    found = {
        "frechet_distance": frechet_distance(ours, reference),
        "kernel_distance": spread.mean,
        "kernel_distance_deviation": spread.deviation,
        **overlap(ours, reference)._asdict(),
        "two_sample_accuracy": two_sample_accuracy(ours, reference),
    }
    return {f"{features.name}_{measure}": value for measure, value in found.items()}
