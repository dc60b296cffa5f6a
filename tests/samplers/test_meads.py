"""MEADS: closed forms on Gaussians, moments after it, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lamina.benchmarks.densities import make_density
from lamina.samplers import GHMC, HMC, MEADS, ParameterError, mcse_mean, sample
from lamina.samplers.adaptation.meads import _largest_eigenvalue

SCALES = torch.tensor([0.1, 1.0, 10.0, 3.0], dtype=torch.float64)


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * (x / SCALES).square().sum(1)


@pytest.mark.parametrize("shape", [(40, 200), (3000, 8)])
def test_eigenvalue_estimate(shape: tuple[int, int]) -> None:
    """Of rows with independent entries of variances v: sum v^2 / sum v. Repeated over seeds, within 5 errors."""
    variances = torch.linspace(0.5, 3.0, shape[1], dtype=torch.float64)
    estimates = torch.stack(
        [
            _largest_eigenvalue(
                torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
                * variances.sqrt()
            )
            for seed in range(50)
        ]
    )
    error = estimates.std() / math.sqrt(50)
    assert (estimates.mean() - variances.square().sum() / variances.sum()).abs() < 5 * error + 0.01


def test_parameters_on_a_gaussian() -> None:
    """In the scales of the target it is round: eigenvalues 1, so a step of 1/2 and a friction of 1."""
    x = SCALES * torch.randn(1000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = sample(gaussian, GHMC(), x, num_samples=1, num_warmup=50, noise=0, adaptation=MEADS())
    params = result.chains.params
    torch.testing.assert_close(params.factor, SCALES, rtol=0.12, atol=0)  # 5 errors of 1 / sqrt(2000)
    torch.testing.assert_close(float(params.step_size), 0.5, rtol=0.05, atol=0)
    torch.testing.assert_close(float(params.persistence), math.exp(-0.5), rtol=0.05, atol=0)


def test_moments_after_it_are_right() -> None:
    truth = make_density("correlated_gaussian")
    x = truth.sample(200, generator=torch.Generator().manual_seed(0))
    result = sample(truth, GHMC(), x, num_samples=400, num_warmup=100, noise=1, adaptation=MEADS())
    assert isinstance(result.draws, Tensor)
    for values, moment in ((result.draws, truth.mean), (result.draws.square(), truth.second_moment)):
        z = (values.mean(dim=(0, 1)) - moment) / mcse_mean(values)
        assert (z.abs() < 5).all(), z  # four numbers beyond 5 errors: a false alarm in 400,000


def test_refusals() -> None:
    with pytest.raises(ParameterError, match="MEADS adapts GHMC; got HMC"):
        sample(gaussian, HMC(), torch.zeros(64, 4), num_samples=1, num_warmup=5, noise=0, adaptation=MEADS())
    with pytest.raises(ParameterError, match="needs 32 or more; got 8"):
        sample(gaussian, GHMC(), torch.zeros(8, 4), num_samples=1, num_warmup=5, noise=0, adaptation=MEADS())
