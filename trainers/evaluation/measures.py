"""Distances between two samples: kernel distance with its spread, Frechet distance, classifier two-sample test.

All are symmetric in spirit and zero (or one half) where the two laws agree; the number of samples on both
sides is the caller's to report. They work on features, latents or pixels alike: arrays (N, D).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from lamina.samplers import MissingExtraError

Array = npt.NDArray[np.float64]

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Kernel widths in units of the median distance within the reference: both fine and coarse differences count."""
FOREST_ROWS = 500
"""Rows of each side that a forest sees, at most."""


def kernel_distance(sample: Array, reference: Array) -> float:
    """Squared maximum mean discrepancy, unbiased, with a mean of Gaussian kernels.

    Being unbiased it may fall below zero where the two laws agree.

    Args:
        sample: (N, D).
        reference: (M, D); its median distance sets the widths of the kernels.

    Source: Gretton et al. (2012), JMLR 13, equation 3.
    """
    width = np.median(cdist(reference, reference)[np.triu_indices(len(reference), 1)])

    def kernel(a: Array, b: Array) -> Array:
        squares = cdist(a, b, "sqeuclidean")
        terms = [np.exp(-squares / (2 * (scale * width) ** 2)) for scale in _BANDWIDTHS]
        mean: Array = np.mean(terms, axis=0)
        return mean

    def within(a: Array) -> float:
        matrix = kernel(a, a)
        return float((matrix.sum() - np.trace(matrix)) / (len(a) * (len(a) - 1)))

    return within(sample) + within(reference) - 2 * float(kernel(sample, reference).mean())


class Spread(NamedTuple):
    """A figure over subsets of the rows.

    Attributes:
        mean: Over subsets.
        deviation: Standard deviation over subsets: how far one more subset of that size would be off.
    """

    mean: float
    deviation: float


def kernel_distance_spread(
    sample: Array, reference: Array, *, num_subsets: int = 20, rows: int = 500, seed: int = 0
) -> Spread:
    """`kernel_distance` of random subsets of equal size, at most half of either side, with its spread.

    Source: Binkowski et al. (2018), ICLR, for the subsets. Differs: their kernel is a cubic polynomial,
    this one a mean of Gaussians.
    """
    rng = np.random.default_rng(seed)
    rows = min(rows, len(sample) // 2, len(reference) // 2)
    values = [
        kernel_distance(*(side[rng.choice(len(side), rows, replace=False)] for side in (sample, reference)))
        for _ in range(num_subsets)
    ]
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def frechet_distance(sample: Array, reference: Array) -> float:
    """Squared Frechet distance between the Gaussians with the samples' means and covariances.

    Source: Dowson and Landau (1982); on features of an image network, Heusel et al. (2017). Not an Inception
    FID: the features are whatever the caller passes.
    """
    shift = sample.mean(0) - reference.mean(0)
    a, b = (np.atleast_2d(np.cov(side, rowvar=False)) for side in (sample, reference))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # tr (a b)^(1/2) by a symmetric matrix of the same eigenvalues; those of dead features are zero up to rounding.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * cross)


def two_sample_accuracy(sample: Array, reference: Array, *, repeats: int = 5, seed: int = 0) -> float:
    """How well a random forest tells the two apart: out-of-bag accuracy, 0.5 where it cannot.

    Both sides get equal numbers, at most 500, beyond which forests cost more than they tell. Each repeat draws
    other rows and grows another forest, and the mean over repeats is returned, as one alone is too noisy to rank
    models by.

    Args:
        sample: (N, D).
        reference: (M, D).
        repeats: Forests.
        seed: Of rows and forests.

    Source: Lopez-Paz and Oquab (2017), ICLR, with out-of-bag votes (Breiman 2001) in place of a hold-out.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "the classifier two-sample test") from error
    num = min(len(sample), len(reference), FOREST_ROWS)
    labels = np.repeat([0, 1], num)
    accuracies = []
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        rows = [rng.choice(len(side), num, replace=False) for side in (sample, reference)]
        both = np.concatenate([sample[rows[0]], reference[rows[1]]])
        forest = RandomForestClassifier(
            100, min_samples_leaf=5, oob_score=True, random_state=int(rng.integers(2**31))
        ).fit(both, labels)
        accuracies.append(forest.oob_score_)
    return float(np.mean(accuracies))
