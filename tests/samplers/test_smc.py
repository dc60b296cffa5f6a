"""Sequential Monte Carlo: log Z and draws of known densities, and resampling that keeps what it should.

Populations are independent, so their means are compared with truth by Student's t. All statistical checks together
fail an exact sampler with probability 1e-6 at most if populations are unbiased, which they are but for O(1 / chains).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from lamina.benchmarks.densities import LogGamma, make_density
from lamina.samplers import HMC, MALA, EnergyError, ParameterError
from lamina.samplers.annealing.path import NormalBase
from lamina.samplers.annealing.smc import _next_stop, _systematic, smc

NUM_POPULATIONS = 20
NUM_CHECKS = 16
T_LIMIT = float(stats.t.isf(1e-6 / NUM_CHECKS / 2, NUM_POPULATIONS - 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal_base(dim: int, scale: float = 1.0) -> NormalBase:
    return NormalBase.like(torch.zeros(1, dim, dtype=torch.float64), scale=scale)


@pytest.mark.parametrize("name", ["correlated_gaussian", "ring_mixture", "banana", "log_gamma", "double_well"])
def test_log_z_and_means_of_known_densities(name: str) -> None:
    density = make_density(name)
    kernel = HMC(step_size=0.1, num_leapfrog_steps=5, jitter=0.3)
    report = smc(
        density,
        normal_base(density.dim, scale=6.0),
        kernel,
        num_chains=250,
        num_populations=NUM_POPULATIONS,
        generator=seeded(),
    )
    assert len(report.inverse_temperatures) > 3
    assert (report.inverse_temperatures.diff() > 0).all()
    assert report.standard_error < 0.1
    assert abs(report.log_normalizer - density.log_normalizer) < T_LIMIT * report.standard_error, report
    assert isinstance(report.position, Tensor)
    means = report.position[:, 0].reshape(NUM_POPULATIONS, -1).mean(1)
    error = means.std() / math.sqrt(NUM_POPULATIONS)
    assert abs(means.mean() - density.mean[0]) < T_LIMIT * error
    assert (report.accept_prob > 0.5).all()
    assert f"over {len(report.inverse_temperatures)} stops" in str(report)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=100, database=None)
def test_systematic_resampling_takes_each_chain_as_often_as_its_weight_says(logs: list[float], seed: int) -> None:
    log_weights = torch.tensor([logs, logs[::-1]], dtype=torch.float64)
    chosen = _systematic(log_weights, seeded(seed)).reshape(2, -1)
    for population, (weights, chains) in enumerate(zip(torch.softmax(log_weights, 1), chosen, strict=True)):
        counts = torch.bincount(chains - population * len(logs), minlength=len(logs))
        assert counts.sum() == len(logs)
        assert ((counts - len(logs) * weights).abs() < 1 + 1e-9).all()


def test_resampling_is_unbiased() -> None:
    """Chain 0 has weight 1/8 among four: half a copy on average, over 10,000 uniforms."""
    log_weights = torch.tensor([1.0, 2.0, 2.0, 3.0]).log().double().expand(10_000, 4)
    share = (_systematic(log_weights, seeded()) % 4 == 0).double().mean()
    assert abs(share - 0.125) < T_LIMIT * 0.125 / math.sqrt(10_000)  # a copy or none: sd of the share is 1/8


def test_next_stop_is_where_weights_are_worth_the_fraction() -> None:
    work = torch.randn(1000, generator=seeded(), dtype=torch.float64) * 50
    stop = _next_stop(work, 0.25, 0.7)
    weights = torch.softmax((stop - 0.25) * work, 0)
    assert 0.25 < stop < 1
    assert float(1 / weights.square().sum()) == pytest.approx(700, rel=1e-6)
    assert _next_stop(work / 1e6, 0.25, 0.7) == 1


def test_same_seed_same_bits_in_any_structure() -> None:
    base = NormalBase.like({"a": torch.zeros(1, 2), "b": torch.zeros(1)})
    first, second = (
        smc(
            lambda z: z["a"].square().sum(1) + (z["b"] - 1).square(),
            base,
            MALA(step_size=0.3),
            num_chains=20,
            num_populations=3,
            generator=seeded(),
        )
        for _ in range(2)
    )
    assert isinstance(first.position, dict)
    assert isinstance(second.position, dict)
    assert first.position["a"].shape == (60, 2)
    assert first.position["b"].dtype == torch.float32
    assert torch.equal(first.position["b"], second.position["b"])
    assert torch.equal(first.log_normalizer, second.log_normalizer)


def test_paths_that_cannot_be_walked_are_refused() -> None:
    def nowhere(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 99, x.square().sum(1), torch.inf)

    with pytest.raises(EnergyError, match="stuck at inverse temperature 0"):
        smc(nowhere, normal_base(1), MALA(), num_chains=10, generator=seeded())

    def corner(x: Tensor) -> Tensor:
        """One chain in eight is inside: of 20 populations of 4, some are wholly outside."""
        return torch.where((x > 0).all(1), x.square().sum(1), torch.inf)

    with pytest.raises(EnergyError, match="no chain of a population"):
        smc(
            corner,
            normal_base(3),
            MALA(),
            num_chains=4,
            num_populations=20,
            ess_fraction=0.05,
            generator=seeded(),
        )
    for wrong in ({"num_chains": 1}, {"num_populations": 1}, {"num_steps": 0}, {"ess_fraction": 1.0}):
        with pytest.raises(ParameterError):
            smc(LogGamma(), normal_base(2), MALA(), generator=seeded(), **{"num_chains": 10, **wrong})  # type: ignore[arg-type]
