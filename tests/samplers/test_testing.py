"""The statistical toolbox: distances agree with SciPy, bands have the false-alarm rate and the power they state."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from lamina.samplers import MALA, GeneratorNoise, ParameterError, PositionError
from lamina.samplers.testing import (
    check_invariance,
    detectable_shift,
    dkw_half_width,
    ks_one_sample,
    ks_two_sample,
)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def energy(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum(1) / 2


def test_distances_agree_with_scipy() -> None:
    first, second = normals(500), normals(300, seed=1) + 0.1
    second[:50] = first[:50]  # ties
    assert ks_one_sample(first, torch.special.ndtr) == pytest.approx(
        stats.kstest(first.numpy(), "norm").statistic, abs=1e-14
    )
    assert ks_two_sample(first, second) == pytest.approx(
        stats.ks_2samp(first.numpy(), second.numpy()).statistic, abs=1e-14
    )


def test_nan_counts_as_infinity() -> None:
    values = torch.cat((normals(900), torch.full((100,), torch.nan)))
    assert ks_one_sample(values, torch.special.ndtr) > 0.099
    assert ks_two_sample(values, normals(1000)) > 0.099


def test_half_width_of_one_sample() -> None:
    # P(D_n > 1.36 / sqrt(n)) is 5 % in the limit (Smirnov's table), and Massart's bound is sharp there.
    assert dkw_half_width(10_000, 0.05) == pytest.approx(0.0136, abs=5e-5)


@pytest.mark.parametrize("num_other", [None, 200, 400], ids=["one-sample", "equal", "unequal"])
def test_false_alarms_and_power_are_as_stated(num_other: int | None) -> None:
    """At a rate of 10 %: 1,000 repetitions exceed 140 false alarms, or miss 34 of 1 %, with probability below 1e-4."""
    half_width = dkw_half_width(200, 0.1, num_other=num_other)
    shift = detectable_shift(200, 0.1, num_other=num_other, power=0.99)
    offset = 2 * stats.norm.ppf((1 + shift) / 2)  # normal laws that far apart differ by `shift`
    draws, others = normals(1000, 200), normals(1000, num_other or 1, seed=1)

    def distance(row: int, offset: float) -> float:
        values = draws[row] + offset
        return ks_two_sample(values, others[row]) if num_other else ks_one_sample(values, torch.special.ndtr)

    assert sum(distance(row, 0.0) > half_width for row in range(1000)) <= 140
    assert sum(distance(row, offset) <= half_width for row in range(1000)) <= 34


def test_report_is_readable_and_takes_structured_positions() -> None:
    draws = normals(2, 5000, 3)
    report = check_invariance(
        MALA(step_size=0.3),
        lambda z: z["a"].square().sum(1) / 2 + z["b"].square() / 2,
        *({"a": x[:, :2], "b": x[:, 2]} for x in draws),
        noise=GeneratorNoise(torch.Generator().manual_seed(3)),
        cdfs=[torch.special.ndtr],
        functions={"radius": lambda z: z["a"].norm(dim=1)},
    )
    text = str(report)
    assert report.passed
    assert [comparison.name for comparison in report.comparisons] == [
        *("x[0]", "x[1]", "x[2]", "x[0] x[1]", "energy", "radius")
    ]
    assert [comparison.reference for comparison in report.comparisons] == ["exact CDF"] + ["fresh draws"] * 5
    assert text.startswith("invariant: MALA(step_size=0.3")
    assert "5000 chains, 5 steps" in text
    assert "1.0e-06" in text


def test_a_failure_says_so() -> None:
    start, fresh = normals(2, 20_000, 2)
    report = check_invariance(MALA(step_size=0.3), lambda x: 2 * energy(x), start, fresh, noise=0)
    assert not report.passed
    assert str(report).startswith("NOT INVARIANT")
    assert "FAILED x[0]" in str(report)


def test_bad_input() -> None:
    start, fresh = normals(2, 100, 2)
    with pytest.raises(ParameterError, match=r"false_alarm.*between 0 and 1; got 0"):
        dkw_half_width(100, 0.0)
    with pytest.raises(ParameterError, match=r"power.*between 0 and 1; got 1"):
        detectable_shift(100, 0.01, power=1.0)
    with pytest.raises(ParameterError, match="num_steps must be an integer of at least 1; got 0"):
        check_invariance(MALA(), energy, start, fresh, noise=0, num_steps=0)
    with pytest.raises(ParameterError, match="one entry per coordinate, here 2; got 3"):
        check_invariance(MALA(), energy, start, fresh, noise=0, cdfs=[None] * 3)
    with pytest.raises(PositionError, match=r"must end in \(2,\)|must be like"):
        check_invariance(MALA(), energy, start, fresh[:, :1], noise=0)
