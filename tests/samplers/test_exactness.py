"""MALA and HMC leave the toy densities invariant, with every kind of inverse mass.

40,000 chains start from exact draws and take a few steps. False alarms: at most 1e-6 for the whole file if all seeds
were drawn afresh. Power: a Kolmogorov distance of 0.035 from the exact law is found with probability 0.99, of 0.025
where the exact CDF is known; a normal law a tenth of a standard deviation off is 0.04 away. `test_battery` has all
kernels on targets of its own, `test_planted_bugs` what such checks find.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.benchmarks import exactness
from lamina.benchmarks.densities import Banana, Density, Funnel, GaussianMixture, LogGamma
from lamina.samplers import HMC, MALA, GeneratorNoise, Kernel
from lamina.samplers.testing import InvarianceReport, check_invariance

NUM_CHAINS = 40_000
NUM_STEPS = 4
NUM_CHECKS = 40  # upper bound on the checks below that an exact kernel has to pass
FALSE_ALARM = 1e-6 / NUM_CHECKS

TARGETS: dict[str, tuple[Density, float, float]] = {  # with step sizes for MALA and HMC
    "skewed": (LogGamma(dim=8), 0.2, 0.35),
    "bimodal": (GaussianMixture.unequal(), 0.4, 0.6),
    "funnel": (Funnel(dim=4, scale=1.0), 0.2, 0.35),
    "banana": (Banana(), 0.4, 0.5),
}


def make_kernel(name: str, mala_step: float, hmc_step: float) -> Kernel[Any]:
    if name == "mala":
        return MALA(step_size=mala_step)
    return HMC(step_size=hmc_step, num_leapfrog_steps=4, jitter=0.5 if name == "hmc-jitter" else 0.0)


@functools.cache
def exact_draws(density: Density, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Starts, and fresh draws to compare the ends with."""
    generator = torch.Generator().manual_seed(0)
    start = density.sample(NUM_CHAINS, generator=generator, dtype=dtype)
    return start, density.sample(NUM_CHAINS, generator=generator, dtype=dtype)


def check(
    kernel: Kernel[Any],
    density: Density,
    mass: str = "identity",
    *,
    dtype: torch.dtype = torch.float64,
) -> InvarianceReport:
    start, fresh = exact_draws(density, dtype)
    return check_invariance(
        kernel,
        density,
        start,
        fresh,
        noise=GeneratorNoise(torch.Generator().manual_seed(1)),
        cdfs=[density.marginal_cdf(d) for d in range(density.dim)],
        num_steps=NUM_STEPS,
        params=kernel.init_params(start, inverse_mass=exactness.inverse_mass(mass, density.dim)),
        false_alarm=FALSE_ALARM,
    )


def assert_exact(report: InvarianceReport) -> None:
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.999, str(report)  # else nothing, or only one branch, was tested
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.035, str(report)


@pytest.mark.parametrize("mass", exactness.MASSES)
@pytest.mark.parametrize("name", ["mala", "hmc", "hmc-jitter"])
@pytest.mark.parametrize("target", TARGETS)
def test_kernel_leaves_its_target_invariant(target: str, name: str, mass: str) -> None:
    density, *step_sizes = TARGETS[target]
    assert_exact(check(make_kernel(name, *step_sizes), density, mass))


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_kernel_is_exact_in_float32(name: str) -> None:
    density, *step_sizes = TARGETS["skewed"]
    assert_exact(check(make_kernel(name, *step_sizes), density, "dense", dtype=torch.float32))


# --- The full matrix, minutes long: pytest -m matrix, or lamina-bench exactness ------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("case", exactness.cases(), ids=str)
def test_matrix(case: exactness.Case) -> None:
    report = exactness.check(case)
    assert report.passed, str(report)
