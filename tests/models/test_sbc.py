"""Simulation-based calibration of posterior samplers, on two layers of Gaussians under quadratic energies.

Every replicate has its own truth, its own data and its own chain. False alarms: at most 1e-6 for the whole file if all
seeds were drawn afresh. Power: a rank distribution that is 0.046 from uniform is found with probability 0.99.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.models import (
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    Latents,
    LayerEnergies,
    LinearGaussian,
    MLPGenerator,
    QuadraticEnergy,
    seeded_init,
)
from lamina.samplers import GHMC, HMC, MALA, ULA, Info, Kernel, ParameterError, State, Target
from lamina.samplers.accept import accept, log_ratio
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.blocks import Blocks
from lamina.samplers.kernels.langevin import LangevinParams, propose
from lamina.samplers.testing.calibration import CalibrationReport, check_calibration, sbc_ranks

D1, D2, IMAGE, SIGMA = 2, 2, (1, 1, 3), 0.3
NUM_REPLICATES = 10_000
NUM_CHECKS = 8  # upper bound on the checks below that an exact sampler has to pass
FALSE_ALARM = 1e-6 / NUM_CHECKS

MALA_STEP, HMC_STEP = 0.07, 0.25
SWEEP = Blocks({1: MALA(step_size=0.15), 0: HMC(step_size=0.25, num_leapfrog_steps=3)})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(sigma: float = SIGMA) -> LatentEBM:
    with seeded_init(0):
        base = GaussianHierarchy((D2,), [LinearGaussian(D2, (D1,))])
        energies = LayerEnergies([QuadraticEnergy((D1,)), QuadraticEnergy((D2,))])
        likelihood = GaussianLikelihood(MLPGenerator((D1,), IMAGE, [], squash=False), sigma)
    model = LatentEBM(JointEBMPrior(base, energies), likelihood).double()
    weights = seeded(6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=weights)
    for network, curvature in zip(energies.networks, ([0.8, -0.3], [0.5, 1.2]), strict=True):
        network.curvature.data = torch.tensor(curvature, dtype=torch.float64)
    return model


@functools.cache
@torch.no_grad()
def simulated() -> tuple[Latents, Tensor]:
    """Latents from the prior, whose energy is quadratic and so has its whole law in its derivatives at 0; and data."""
    model, generator = make_model(), seeded(0)

    def energy(z: Tensor) -> Tensor:
        return model.prior.energy_z((z[None, :D1], z[None, D1:])).squeeze()

    origin = torch.zeros(D1 + D2, dtype=torch.float64)
    precision = torch.autograd.functional.hessian(energy, origin)
    mean = torch.linalg.solve(precision, -torch.autograd.functional.jacobian(energy, origin))
    noise = torch.randn(NUM_REPLICATES, D1 + D2, generator=generator, dtype=torch.float64)
    z = mean + torch.linalg.solve_triangular(torch.linalg.cholesky(precision).T, noise.T, upper=True).T
    latents = (z[:, :D1].contiguous(), z[:, D1:].contiguous())
    image = model.likelihood.mean(latents)
    return latents, image + SIGMA * torch.randn(image.shape, generator=generator, dtype=torch.float64)


def check(kernel: Kernel[Any], *, sigma: float = SIGMA, num_draws: int = 3, **options: Any) -> CalibrationReport:
    truth, x = simulated()
    return check_calibration(
        kernel,
        make_model(sigma).posterior_energy("z"),
        truth,
        context=x,
        generator=seeded(1),
        num_draws=num_draws,
        thinning=4,
        false_alarm=FALSE_ALARM,
        **options,
    )


@pytest.mark.parametrize(
    ("kernel", "backward"),
    [
        (MALA(step_size=MALA_STEP), None),
        (HMC(step_size=HMC_STEP, num_leapfrog_steps=4, jitter=0.3), None),
        (SWEEP, SWEEP.reversed()),
    ],
    ids=["mala", "hmc", "blocks"],
)
def test_posterior_samplers_are_calibrated(kernel: Kernel[Any], backward: Kernel[Any] | None) -> None:
    report = check(kernel, backward=backward)
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.99, str(report)
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.046, str(report)


# --- Controls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5 * SIGMA, 0.7 * SIGMA])
@pytest.mark.parametrize("kernel", [HMC(step_size=HMC_STEP, num_leapfrog_steps=4), SWEEP], ids=["hmc", "blocks"])
def test_a_wrong_likelihood_scale_is_found(kernel: Kernel[Any], sigma: float) -> None:
    report = check(kernel, sigma=sigma)
    assert report.failures, str(report)


class WithoutCorrection(MALA):
    """Forgets the proposal densities."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_ratio(state.energy, proposed.energy, torch.zeros_like(proposed.energy))
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


@pytest.mark.parametrize("kernel", [ULA(step_size=MALA_STEP), WithoutCorrection(step_size=MALA_STEP)], ids=str)
def test_a_biased_sampler_is_found(kernel: Kernel[Any]) -> None:
    report = check(kernel)
    assert report.failures, str(report)
    assert "NOT CALIBRATED" in str(report)


# --- Ranks ---------------------------------------------------------------------------------------------------------


def test_ranks_count_the_draws_below() -> None:
    truth = torch.tensor([[0.5, 2.0], [-1.0, 2.0]])
    draws = torch.tensor([[[0.0, 3.0], [1.0, 1.0], [0.4, torch.nan]], [[0.0, 0.0], [0.0, 1.0], [0.0, 1.5]]])
    assert sbc_ranks(truth, draws, generator=seeded(0)).tolist() == [[2, 1], [0, 3]]


def test_ties_are_broken_evenly() -> None:
    """A chain that never moves: ranks uniform on 0, ..., L; a chi-square statistic beyond its 1e-9 quantile fails."""
    num, num_draws = 40_000, 4
    ranks = sbc_ranks(torch.zeros(num), torch.zeros(num, num_draws), generator=seeded(2))
    counts = torch.bincount(ranks, minlength=num_draws + 1)
    assert len(counts) == num_draws + 1
    expected = num / (num_draws + 1)
    assert float(((counts - expected).square() / expected).sum()) < 48.0  # chi-square with 4 degrees, isf(1e-9) = 47.9


def test_draws_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"got \(3, 5\) for \(3, 2\)"):
        sbc_ranks(torch.zeros(3, 2), torch.zeros(3, 5), generator=seeded(0))
    with pytest.raises(ParameterError, match="num_draws"):
        check(MALA(), num_draws=0)


def test_chains_that_remember_are_refused() -> None:
    truth = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ParameterError, match="chains of GHMC remember is_fresh, momentum"):
        check_calibration(GHMC(), lambda x: x.square().sum(1), truth, generator=torch.Generator().manual_seed(1))
