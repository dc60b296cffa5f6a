"""MALA and HMC leave their target invariant, and the check that says so finds planted bugs.

100,000 chains start from exact draws and take a few steps. False alarms: at most 1e-6 for the whole file if all seeds
were drawn afresh. Power: a Kolmogorov distance of 0.022 from the exact law is found with
probability 0.99, of 0.016 where the exact CDF is known; a normal law a tenth of a standard deviation off is 0.04 away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.benchmarks import exactness
from lamina.benchmarks.densities import Banana, Density, Funnel, GaussianMixture, LogGamma
from lamina.samplers import HMC, MALA, GeneratorNoise, Info, Kernel, State, Target
from lamina.samplers.accept import accept, half_square, log_ratio
from lamina.samplers.hmc import HMCParams
from lamina.samplers.kernel import Noise
from lamina.samplers.langevin import LangevinParams, propose
from lamina.samplers.leapfrog import leapfrog
from lamina.samplers.testing import CDF, InvarianceReport, check_invariance

NUM_CHAINS = 100_000
NUM_STEPS = 4
NUM_CHECKS = 64  # upper bound on the checks below that an exact kernel has to pass
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
def exact_draws(density: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Starts, and fresh draws to compare the ends with."""
    generator = torch.Generator().manual_seed(0)
    start = density.sample(NUM_CHAINS, generator=generator, dtype=dtype)
    return start, density.sample(NUM_CHAINS, generator=generator, dtype=dtype)


def check(
    kernel: Kernel[Any],
    density: Any,
    mass: str = "identity",
    *,
    energy: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    step_size: float | None = None,
) -> InvarianceReport:
    start, fresh = exact_draws(density, dtype)
    return check_invariance(
        kernel,
        energy or density,
        start,
        fresh,
        noise=GeneratorNoise(torch.Generator().manual_seed(1)),
        cdfs=[density.marginal_cdf(d) for d in range(density.dim)],
        num_steps=NUM_STEPS,
        params=kernel.init_params(start, step_size=step_size, inverse_mass=exactness.inverse_mass(mass, density.dim)),
        false_alarm=FALSE_ALARM,
    )


def assert_exact(report: InvarianceReport) -> None:
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.999, str(report)  # else nothing, or only one branch, was tested
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.022, str(report)


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


# --- Controls: the same check, on kernels with one planted bug each ------------------------------------------


class Rayleigh:
    """Density x exp(-x^2 / 2) on x > 0, whose energy is NaN where x < 0, with the interface that `check` needs."""

    dim = 1

    def __call__(self, x: Tensor) -> Tensor:
        return (x.square() / 2 - x.log()).squeeze(1)

    def sample(self, num: int, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        uniform = 1 - torch.rand(num, 1, generator=generator, dtype=torch.float64)
        return (-2 * uniform.log()).sqrt().to(dtype)

    def marginal_cdf(self, d: int) -> CDF:
        return lambda x: -torch.expm1(-x.square() / 2)


RAYLEIGH = Rayleigh()


class WithoutCorrection(MALA):
    """Forgets the proposal densities."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = propose(target, state, noise["xi"], params)
        ratio = log_ratio(state.energy, proposed.energy, torch.zeros_like(ratio))
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


class CorrectionReversed(MALA):
    """Adds the log ratio of the proposal densities where it should be subtracted."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = propose(target, state, noise["xi"], params)
        ratio = 2 * (state.energy - proposed.energy) - ratio
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


class NaNBecomesZero(MALA):
    """Replaces an undefined log ratio by a number."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = propose(target, state, noise["xi"], params)
        return accept(proposed, state, torch.nan_to_num(ratio), noise["u"], torch.ones_like(ratio))


class MomentumOfWrongScale(HMC):
    """Draws momenta as if the mass were its own square; the kinetic energy knows better."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, Info]:
        return super().step(target, state, {**noise, "momentum": noise["momentum"] / params.factor}, params)


class KineticEnergyReversed(HMC):
    """Has the wrong sign of the kinetic energy in the acceptance rule."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, Info]:
        start = noise["momentum"]
        proposed, end, evals = leapfrog(
            target, state, start, params.step_size, params.factor, params.num_leapfrog_steps
        )
        ratio = log_ratio(state.energy, proposed.energy, half_square(start) - half_square(end))
        return accept(proposed, state, ratio, noise["u"], evals)


class NeverMoves(MALA):
    """Rejects everything."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        ratio = torch.full_like(state.energy, -torch.inf)
        return accept(state, state, ratio, noise["u"], torch.ones_like(ratio))


BUGS = [
    pytest.param(WithoutCorrection, MALA, "skewed", 0.2, "identity", id="no-proposal-correction"),
    pytest.param(CorrectionReversed, MALA, "skewed", 0.2, "identity", id="correction-reversed"),
    pytest.param(NaNBecomesZero, MALA, "rayleigh", 0.3, "identity", id="nan-becomes-zero"),
    pytest.param(MomentumOfWrongScale, HMC, "bimodal", 0.6, "diagonal", id="momentum-of-wrong-scale"),
    pytest.param(KineticEnergyReversed, HMC, "bimodal", 0.6, "identity", id="kinetic-energy-reversed"),
]


@pytest.mark.parametrize(("bug", "honest", "target", "step_size", "mass"), BUGS)
def test_planted_bug_is_found(
    bug: type[Kernel[Any]], honest: type[Kernel[Any]], target: str, step_size: float, mass: str
) -> None:
    density: Any = RAYLEIGH if target == "rayleigh" else TARGETS[target][0]
    assert_exact(check(honest(), density, mass, step_size=step_size))
    report = check(bug(), density, mass, step_size=step_size)
    assert report.failures, str(report)
    assert report.has_moved, str(report)


def test_wrong_target_is_found() -> None:
    density, *step_sizes = TARGETS["skewed"]
    report = check(make_kernel("hmc", *step_sizes), density, energy=lambda x: 1.05 * density(x))
    assert report.failures, str(report)


def test_standing_still_is_found_by_the_movement_alone() -> None:
    report = check(NeverMoves(step_size=0.1), TARGETS["banana"][0])
    assert not report.failures, str(report)
    assert not report.has_moved, str(report)
    assert not report.passed


# --- The full matrix, minutes long: pytest -m matrix, or lamina-bench exactness ------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("case", exactness.cases(), ids=str)
def test_matrix(case: exactness.Case) -> None:
    report = exactness.check(case)
    assert report.passed, str(report)
