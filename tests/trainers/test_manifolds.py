"""Precision, recall, density and coverage: by hand on a line, and on laws of which it is known what they lack."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.samplers import ParameterError
from lamina.trainers.evaluation import manifolds, overlap

LINE = np.array([[0.0], [1.0], [3.0], [6.0]])


def test_by_hand_on_a_line() -> None:
    """With k = 1 the reference's balls have radii 1, 1, 2 and 3, the sample's 0.5, 0.5 and 8.5."""
    sample = np.array([[1.0], [1.5], [10.0]])
    found = overlap(sample, LINE, neighbours=1, density_neighbours=1)
    assert found.precision == pytest.approx(2 / 3)  # 10 lies in no ball
    assert found.recall == pytest.approx(3 / 4)  # 0 is 1 away from 1, whose ball reaches 0.5
    assert found.density == pytest.approx((3 + 2 + 0) / 3)  # 1 lies in the balls of 0, 1 and 3; 1.5 of 1 and 3
    assert found.coverage == pytest.approx(3 / 4)  # nothing is within 3 of 6


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sample, reference = rng.normal(size=(50, 3)), rng.normal(size=(61, 3))
    whole = overlap(sample, reference)
    monkeypatch.setattr(manifolds, "_CHUNK", 7)
    assert overlap(sample, reference) == whole


def test_equal_laws_overlap() -> None:
    """Expected coverage is 1 - (M - 1) ... (M - k) / ((2M - 1) ... (2M - k)), about 0.969 (Naeem et al. 2020).

    Bands are five standard deviations, measured over 40 pairs.
    """
    rng = np.random.default_rng(1)
    found = overlap(rng.normal(size=(600, 4)), rng.normal(size=(600, 4)))
    assert abs(found.density - 1) < 0.25
    assert abs(found.coverage - 0.969) < 0.05
    assert abs(found.precision - found.recall) < 0.12
    assert found.precision > 0.75


def test_a_missing_mode_costs_variety_and_an_outlying_one_costs_fidelity() -> None:
    rng = np.random.default_rng(2)
    both = np.concatenate([rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + 20])
    one = rng.normal(size=(400, 3))
    missing = overlap(one, both)
    assert missing.precision > 0.8
    assert missing.recall < 0.6
    assert missing.coverage < 0.6
    added = overlap(both, one)
    assert added.precision < 0.6
    assert added.density < 0.7
    assert added.recall > 0.8


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ParameterError, match="6 rows a side; got 5 and 60"):
        overlap(np.zeros((5, 2)), np.zeros((60, 2)))
