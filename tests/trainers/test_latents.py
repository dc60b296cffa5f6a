"""The prior against the aggregate posterior: what `shuffled` says where layers depend on each other, and where not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lamina.models import Latents
from lamina.trainers.evaluation import latents
from lamina.trainers.evaluation.latents import BROKEN, latent_figures, num_compared

PLACES = ("joint", "layer1", "layer2")


def independent(num: int, seed: int) -> Latents:
    """Two layers of independent coordinates, of two and three numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((num, 2), generator=generator), torch.randn((num, 3), generator=generator)


def dependent(num: int, seed: int) -> Latents:
    """Two layers of which the first is a noisy copy of the second, whose coordinates are noisy copies of each other."""
    first, second = independent(num, seed)
    second = second[:, :1] + 0.3 * second
    return second[:, :2] + 0.3 * first, second


@pytest.fixture
def one_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "two_sample_accuracy", partial(latents.two_sample_accuracy, repeats=1))


def without_forests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Replace forests by a list of what they are asked to tell apart."""
    asked: list[tuple[Any, Any]] = []
    monkeypatch.setattr(latents, "two_sample_accuracy", lambda ours, theirs: asked.append((ours, theirs)) or 0.5)
    return asked


def test_a_forest_cannot_tell_shuffled_rows_where_nothing_depends_on_anything(one_forest: None) -> None:
    """The mean of four accuracies, each with a standard deviation of 0.034 (40 pairs were measured): 0.075 is 4.4 of
    the mean's. Compared with the very rows that were shuffled, they come to 0.27 to 0.34.
    """
    found = [latent_figures({}, independent(400, seed)) for seed in range(4)]
    for place in PLACES:
        accuracy = np.mean([figures[place]["two_sample_accuracy"][BROKEN] for figures in found])
        assert abs(accuracy - 0.5) < 0.075, place


def test_the_distance_of_shuffled_rows_is_unbiased_where_nothing_depends_on_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In standard errors of the mean over 60 sets: |t| > 4.4 comes once in 20,000 times.

    Compared with the very rows that were shuffled, it is below zero by over 30 of them.
    """
    without_forests(monkeypatch)
    found = [latent_figures({}, independent(100, seed)) for seed in range(60)]
    for place in PLACES:
        values = [figures[place]["kernel_distance"][BROKEN] for figures in found]
        assert abs(np.mean(values)) < 4.4 * np.std(values, ddof=1) / np.sqrt(len(values)), place


def test_draws_of_the_posterior_itself_come_nearer_than_shuffled_ones_where_there_is_dependence(
    one_forest: None,
) -> None:
    figures = latent_figures({"exact": dependent(300, 1)}, dependent(600, 0))
    for place in PLACES:
        accuracy, distance = figures[place]["two_sample_accuracy"], figures[place]["kernel_distance"]
        assert abs(accuracy["exact"] - 0.5) < 0.15 < accuracy[BROKEN] - 0.5, place
        assert distance["exact"] < 0.01 < 0.03 < distance[BROKEN], place


def test_all_priors_meet_the_same_rows_in_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = without_forests(monkeypatch)
    posterior = independent(41, 0)
    latent_figures({"ebm": independent(41, 1), "base": independent(50, 2)}, posterior)
    assert len(asked) == 9  # three places, three priors
    assert all(len(ours) == len(theirs) == num_compared(41) == 20 for ours, theirs in asked)
    for place in range(3):
        first, *others = (theirs for _, theirs in asked[3 * place : 3 * place + 3])
        assert all(np.array_equal(first, other) for other in others)


def test_no_shuffled_row_is_made_of_rows_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a half the first or the last of the images, which may be in the order of their classes."""
    asked = without_forests(monkeypatch)
    numbers = torch.arange(40.0).reshape(40, 1)
    latent_figures({}, (numbers, numbers))
    scale = float(numbers.std(correction=0))
    for ours, theirs in asked:
        shuffled, reference = ({round(scale * number) for number in side.flatten()} for side in (ours, theirs))
        assert shuffled | reference == set(range(40))
        assert not shuffled & reference
        assert 2 < len(reference & set(range(20))) < 18
