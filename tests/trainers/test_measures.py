"""Distances between samples, held to what is known of them, and the features they are taken on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lamina.trainers import load
from lamina.trainers.evaluation.features import train_features
from lamina.trainers.evaluation.measures import (
    frechet_distance,
    kernel_distance,
    kernel_distance_spread,
    two_sample_accuracy,
)

Array = npt.NDArray[np.float64]


def sample_with_moments(mean: Array, root: Array, num: int = 50, seed: int = 0) -> Array:
    """Rows whose mean is exactly `mean` and whose covariance is exactly `root @ root.T`."""
    raw = np.random.default_rng(seed).normal(size=(num, root.shape[1]))
    white = np.linalg.qr(raw - raw.mean(0))[0] * np.sqrt(num - 1)
    moved: Array = white @ root.T + mean
    return moved


# ------------------------------------------------------------------------------------------- kernel distance


def test_kernel_distance_is_unbiased_where_laws_agree() -> None:
    """Mean over 200 pairs, in standard errors: |t| > 4.4 comes once in 50,000 times.

    The biased form, with the diagonals, is 0.02 to 0.03 too large here: more than 20 standard errors.
    """
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(40, 3)), rng.normal(size=(50, 3))) for _ in range(200)]
    assert abs(np.mean(values)) < 4.4 * np.std(values, ddof=1) / np.sqrt(len(values))
    assert min(values) < 0


def test_kernel_distance_grows_with_the_shift() -> None:
    rng = np.random.default_rng(1)
    sample, reference = rng.normal(size=(400, 3)), rng.normal(size=(300, 3))
    values = [kernel_distance(sample + shift, reference) for shift in (0.0, 0.3, 0.6, 1.2, 2.4)]
    assert np.all(np.diff(values) > 0)
    assert values[0] < 0.01
    assert values[-1] > 0.3


def test_kernel_distance_is_the_formula_by_hand() -> None:
    """Two points a unit apart on each side; the median distance of the reference is 1."""
    sample, reference = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])

    def kernel(distance: float) -> float:
        return float(np.mean([np.exp(-(distance**2) / (2 * scale**2)) for scale in (0.25, 0.5, 1, 2)]))

    expected = 2 * kernel(1) - 2 * (kernel(1) + 2 * kernel(2) + kernel(3)) / 4
    assert kernel_distance(sample, reference) == pytest.approx(expected)


def test_kernel_distance_has_no_unit() -> None:
    rng = np.random.default_rng(2)
    sample, reference = rng.normal(size=(60, 2)) + 0.5, rng.normal(size=(50, 2))
    assert kernel_distance(1e3 * sample, 1e3 * reference) == pytest.approx(kernel_distance(sample, reference))


def test_the_spread_over_subsets_is_that_of_independent_ones() -> None:
    """Subsets of 20 out of 4,000 rows hardly overlap, so their distances spread as those of fresh samples do."""
    rng = np.random.default_rng(9)
    found = kernel_distance_spread(rng.normal(size=(4000, 2)) + 1, rng.normal(size=(4000, 2)), num_subsets=150, rows=20)
    fresh = [kernel_distance(rng.normal(size=(20, 2)) + 1, rng.normal(size=(20, 2))) for _ in range(150)]
    error = np.std(fresh, ddof=1) / np.sqrt(75)  # of the difference of two means
    assert abs(found.mean - np.mean(fresh)) < 4.4 * error
    assert 0.7 < found.deviation / np.std(fresh, ddof=1) < 1.4  # six standard errors of the log of the ratio


def test_subsets_are_at_most_half_of_a_side() -> None:
    rng = np.random.default_rng(10)
    pair = rng.normal(size=(30, 2)), rng.normal(size=(50, 2))
    assert kernel_distance_spread(*pair, rows=500) == kernel_distance_spread(*pair, rows=15)


# ------------------------------------------------------------------------------------------ Frechet distance


def test_frechet_distance_of_diagonal_gaussians() -> None:
    """|m - n|^2 + sum (s - t)^2."""
    means = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]])
    scales = np.array([[1.0, 2.0, 0.3], [0.5, 2.5, 3.0]])
    ours, theirs = (sample_with_moments(means[i], np.diag(scales[i]), seed=i) for i in range(2))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((scales[0] - scales[1]) ** 2)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_where_covariances_do_not_commute() -> None:
    """tr (a b)^(1/2) from the eigenvalues of a b itself."""
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(2, 4, 4))
    a, b = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    expected = np.trace(a + b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    ours, theirs = (sample_with_moments(np.zeros(4), root, seed=i) for i, root in enumerate(roots))
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_singular_covariances() -> None:
    """On lines at a right angle nothing overlaps; on one line it is that of one dimension."""
    along, across = np.array([[3.0], [0.0]]), np.array([[0.0], [2.0]])
    ours, crossing = (sample_with_moments(np.zeros(2), root) for root in (along, across))
    assert frechet_distance(ours, crossing) == pytest.approx(13)
    assert frechet_distance(ours, sample_with_moments(np.zeros(2), along / 3, seed=1)) == pytest.approx(4)


def test_frechet_distance_in_one_dimension() -> None:
    ours = sample_with_moments(np.array([1.0]), np.array([[2.0]]))
    theirs = sample_with_moments(np.array([0.0]), np.array([[0.5]]), seed=1)
    assert frechet_distance(ours, theirs) == pytest.approx(1 + 1.5**2)


def test_frechet_distance_of_a_sample_from_itself_is_zero() -> None:
    ours = np.random.default_rng(4).normal(size=(30, 5))
    assert frechet_distance(ours, ours[::-1]) == pytest.approx(0, abs=1e-10)


# ---------------------------------------------------------------------------------- classifier two-sample test


def test_two_sample_accuracy_of_equal_laws_is_a_half() -> None:
    """Its standard deviation here is 0.024 over pairs of samples (measured on 60), so 0.11 is 4.5 of them."""
    rng = np.random.default_rng(5)
    accuracy = two_sample_accuracy(rng.normal(size=(400, 4)), rng.normal(size=(300, 4)), repeats=2)
    assert abs(accuracy - 0.5) < 0.11


def test_two_sample_accuracy_of_distant_laws_is_near_one() -> None:
    rng = np.random.default_rng(6)
    assert two_sample_accuracy(rng.normal(size=(100, 4)) + 3, rng.normal(size=(150, 4)), repeats=1) > 0.97


def test_two_sample_accuracy_is_balanced() -> None:
    """Guessing the larger side would score 0.9."""
    rng = np.random.default_rng(7)
    assert two_sample_accuracy(rng.normal(size=(900, 3)), rng.normal(size=(100, 3)), repeats=1) < 0.7


def test_two_sample_accuracy_depends_on_its_seed_alone() -> None:
    rng = np.random.default_rng(8)
    pair = rng.normal(size=(80, 3)), rng.normal(size=(60, 3))
    first = two_sample_accuracy(*pair, repeats=1, seed=3)
    assert two_sample_accuracy(*pair, repeats=1, seed=3) == first
    assert len({two_sample_accuracy(*pair, repeats=1, seed=seed) for seed in range(4)}) > 1


# --------------------------------------------------------------------------------------------------- features


def test_features_are_deterministic_standardised_and_of_use() -> None:
    digits = load("digits")
    features, again = train_features(digits), train_features(digits)
    ours = features(digits.train)
    np.testing.assert_array_equal(ours, again(digits.train))
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(ours.std(0), 1, rtol=1e-9)
    assert features.accuracy > 0.9
    assert features.accuracy == again.accuracy
    assert str(ours.shape[1]) in features.description
    noise = torch.rand(digits.test.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    held_out = features(digits.test)
    assert frechet_distance(features(noise), held_out) > 10 * frechet_distance(ours, held_out)
