"""How the supports of two samples overlap, by balls around nearest neighbours: fidelity and variety apart.

A sample's manifold is the union of balls around its points that reach to their k-th nearest neighbours among
themselves. All four figures are about 1 (coverage somewhat below) where the two laws agree; unlike distances, they say
which side something is missing on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from lamina.samplers import ParameterError

from .measures import Array

_CHUNK = 1000
"""Rows of a distance matrix held at once."""


class Overlap(NamedTuple):
    """Fidelity and variety of a sample, each by two definitions.

    Attributes:
        precision: Share of the sample inside the reference's manifold.
        recall: Share of the reference inside the sample's manifold.
        density: How many of the reference's balls hold a point of the sample, in units of their expected number; may
            exceed 1.
        coverage: Share of the reference's balls that hold a point of the sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(sample: Array, reference: Array, *, neighbours: int = 3, density_neighbours: int = 5) -> Overlap:
    """Precision and recall, density and coverage.

    Args:
        sample: (N, D).
        reference: (M, D).
        neighbours: k of precision and recall; 3 as published.
        density_neighbours: k of density and coverage; 5 as published.

    Raises:
        ParameterError: If a side has too few rows to have such neighbours.

    Sources: Kynkaanniemi et al. (2019), NeurIPS; Naeem et al. (2020), ICML.
    """
    needed = max(neighbours, density_neighbours) + 1
    if min(len(sample), len(reference)) < needed:
        raise ParameterError(f"nearest neighbours need {needed} rows a side; got {len(sample)} and {len(reference)}.")
    wide = _radii(reference, density_neighbours)
    narrow = _radii(reference, neighbours)
    own = _radii(sample, neighbours)
    is_inside, num_balls, nearest, is_recalled = [], 0, np.full(len(reference), np.inf), np.zeros(len(reference), bool)
    for rows, distances in _chunks(sample, reference):
        is_inside.append((distances <= narrow).any(1))
        num_balls += int((distances <= wide).sum())
        nearest = np.minimum(nearest, distances.min(0))
        is_recalled |= (distances <= own[rows, None]).any(0)
    return Overlap(
        precision=float(np.concatenate(is_inside).mean()),
        recall=float(is_recalled.mean()),
        density=num_balls / (density_neighbours * len(sample)),
        coverage=float((nearest <= wide).mean()),
    )


def _radii(points: Array, neighbours: int) -> Array:
    """The distance of every point to its k-th nearest neighbour, itself not counted, (N,)."""
    kth = [np.partition(distances, neighbours, axis=1)[:, neighbours] for _, distances in _chunks(points, points)]
    radii: Array = np.concatenate(kth)
    return radii


def _chunks(a: Array, b: Array) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
    """Rows of a, and their distances to all of b, a part at a time."""
    for first in range(0, len(a), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(a)))
        yield rows, cdist(a[rows], b)
