"""The testing toolbox: distances agree with SciPy, bands have the rates and the power they state, reports say so."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from lamina.samplers import HMC, MALA, ULA, GeneratorNoise, ParameterError, PositionError
from lamina.samplers.testing import (
    TARGETS,
    Integrate,
    Skewed,
    check_integrator,
    check_invariance,
    check_kernel,
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


# --- Targets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", TARGETS)
def test_draws_of_targets_are_exact(name: str, temperature: float) -> None:
    """An exact kernel leaves them as they are, at any temperature; false alarms at most 1e-6 a case."""
    target, generator = TARGETS[name], torch.Generator().manual_seed(0)
    start, fresh = (target.sample(20_000, generator=generator, temperature=temperature) for _ in range(2))
    report = check_invariance(
        HMC(step_size=0.4, num_leapfrog_steps=4),
        lambda x: target(x) / temperature,
        start,
        fresh,
        noise=GeneratorNoise(generator),
        cdfs=[target.marginal_cdf(d) for d in range(target.dim)] if temperature == 1 else (),
        min_movement=0.2,
    )
    assert report.passed, str(report)


def test_a_target_drawn_at_a_wrong_temperature_is_found() -> None:
    target, generator = Skewed(), torch.Generator().manual_seed(0)
    start, fresh = (target.sample(20_000, generator=generator, temperature=1.2) for _ in range(2))
    report = check_invariance(HMC(step_size=0.4), target, start, fresh, noise=GeneratorNoise(generator))
    assert report.failures, str(report)


def test_a_temperature_is_positive() -> None:
    with pytest.raises(ParameterError, match="temperature must be positive and finite; got 0"):
        Skewed().sample(3, generator=torch.Generator(), temperature=0.0)


# --- The battery's report ----------------------------------------------------------------------------------------


def test_a_report_has_a_line_for_every_check_and_says_what_was_not_tested() -> None:
    report = check_kernel(MALA(), num_chains=2000, max_shift=0.2)
    lines = str(report).splitlines()
    assert "every check passed; false alarms at most 1.0e-06" in lines[0]
    assert len(lines) == 1 + len(report.checks) + len(report.not_tested)
    assert {f"invariance, {name}" for name in TARGETS} <= {check.name for check in report.checks}
    assert report.not_tested == ("reversibility of a trajectory, as the kernel shows none (see HasTrajectory)",)
    report.assert_passed()


def test_too_few_chains_are_a_failure() -> None:
    report = check_kernel(MALA(), targets=[Skewed()], num_chains=2000)
    assert [check.name for check in report.failures] == ["power"]
    with pytest.raises(AssertionError, match=r"FAILED power .* wanted 0\.0350\n *-> Take more chains"):
        report.assert_passed()


def test_kernels_that_are_not_exact_are_checked_for_all_else() -> None:
    report = check_kernel(ULA(step_size=0.1), targets=[Skewed()])
    assert report.passed, str(report)
    assert not report.invariance
    assert "not tested: exactness, as is_exact is False" in str(report)


def test_reports_repeat() -> None:
    first, second = (str(check_kernel(MALA(), targets=[Skewed()], num_chains=500)) for _ in range(2))
    assert first == second


def test_bad_input_to_the_battery() -> None:
    for options, message in (
        ({"targets": []}, "on one target at least; got none"),
        ({"num_chains": 10}, "num_chains must be an integer of at least 128; got 10"),
        ({"num_warmup": -1}, "num_warmup must be an integer of at least 0; got -1"),
        ({"false_alarm": 1.0}, "false_alarm must lie strictly between 0 and 1; got 1.0"),
        ({"max_shift": 0.0}, "max_shift must be positive and finite; got 0.0"),
    ):
        with pytest.raises(ParameterError, match=message):
            check_kernel(MALA(), **options)


# --- Integrators -------------------------------------------------------------------------------------------------


def quarter_turn(*, shrink: float = 1.0, twist: float = 0.0) -> Integrate:
    """A quarter of the harmonic oscillator's period, exactly; or shrunk, or off by a twist."""
    return lambda x, r: (shrink * r + twist, -x)


def test_integrators_fail_by_what_they_do_wrong() -> None:
    x, r = normals(2, 50, 2)
    right, shrinking, twisted = (
        check_integrator(integrate, x, r)
        for integrate in (quarter_turn(), quarter_turn(shrink=0.9), quarter_turn(twist=0.1))
    )
    assert right.passed, str(right)
    assert not shrinking.keeps_volume
    assert not shrinking.is_reversible
    assert twisted.keeps_volume
    assert not twisted.is_reversible


def test_an_integrator_that_stays_where_it_is_has_not_been_tested() -> None:
    x, r = normals(2, 50, 2)
    assert not check_integrator(lambda x, r: (x, r), x, r).is_reversible
