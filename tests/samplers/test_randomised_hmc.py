"""Randomised HMC is exact at any mass, its trajectories are as long as promised, and no chain waits for nothing.

False alarms: at most 1e-6 for the whole file if all seeds were drawn afresh. Power: a Kolmogorov distance of 0.05 from
the exact law is found with probability 0.99.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.benchmarks import exactness
from lamina.benchmarks.densities import Banana, Funnel, GaussianMixture, LogGamma
from lamina.samplers import GeneratorNoise, Kernel, Layout, ParameterError, State, Target, run, sample
from lamina.samplers.adaptation.chees import ChEES
from lamina.samplers.kernel import Noise, with_factor
from lamina.samplers.kernels.randomised_hmc import RandomisedHMC, RandomisedHMCInfo, RandomisedHMCParams
from lamina.samplers.testing import InvarianceReport, check_invariance

NUM_CHAINS = 20_000
NUM_CHECKS = 24  # upper bound on the checks below that an exact kernel has to pass
FALSE_ALARM = 1e-6 / NUM_CHECKS

TARGETS: dict[str, tuple[Any, float]] = {  # with step sizes
    "skewed": (LogGamma(dim=6), 0.5),
    "bimodal": (GaussianMixture.unequal(), 0.7),
    "funnel": (Funnel(dim=4, scale=1.0), 0.4),
    "banana": (Banana(), 0.5),
}
PER_CHAIN = ["step", "diagonal", "dense"]


def check(
    kernel: Kernel[Any], target: str, mass: str = "identity", per_chain: str = "", dtype: torch.dtype = torch.float64
) -> InvarianceReport:
    density, step_size = TARGETS[target]
    generator = torch.Generator().manual_seed(0)
    start, fresh = (density.sample(NUM_CHAINS, generator=generator, dtype=dtype) for _ in range(2))
    inverse_mass = exactness.inverse_mass(mass, density.dim)
    params = kernel.init_params(start, step_size=step_size, inverse_mass=inverse_mass)
    scale = 0.8 + 0.4 * torch.rand(NUM_CHAINS, 1, generator=generator, dtype=dtype)
    if per_chain == "step":
        params = params._replace(step_size=step_size * scale)
    elif per_chain:
        factor = scale.unsqueeze(2) * params.factor
        params = with_factor(params, factor if per_chain == "dense" else factor[:, :1])
    return check_invariance(
        kernel,
        density,
        start,
        fresh,
        noise=GeneratorNoise(torch.Generator().manual_seed(1)),
        cdfs=[density.marginal_cdf(d) for d in range(density.dim)],
        num_steps=4,
        params=params,
        false_alarm=FALSE_ALARM,
    )


def assert_exact(report: InvarianceReport) -> None:
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.999, str(report)  # else nothing, or only one branch, was tested
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.05, str(report)


@pytest.mark.parametrize("mass", exactness.MASSES)
@pytest.mark.parametrize("target", TARGETS)
def test_target_is_left_invariant(target: str, mass: str) -> None:
    assert_exact(check(RandomisedHMC(trajectory_length=2.0), target, mass))


@pytest.mark.parametrize("per_chain", PER_CHAIN)
def test_chains_with_steps_or_masses_of_their_own_are_exact(per_chain: str) -> None:
    mass = per_chain if per_chain in exactness.MASSES else "identity"
    assert_exact(check(RandomisedHMC(trajectory_length=2.0), "skewed", mass, per_chain))


def test_target_is_left_invariant_in_float32() -> None:
    assert_exact(check(RandomisedHMC(trajectory_length=2.0), "skewed", "dense", dtype=torch.float32))


class LengthFromPosition(RandomisedHMC):
    """Chains go further where the gradient is large: the way back has another length."""

    def step(
        self, target: Target, state: State, noise: Noise, params: RandomisedHMCParams
    ) -> tuple[State, RandomisedHMCInfo]:
        length = params.trajectory_length * state.grad.square().mean(dim=1, keepdim=True)
        return super().step(target, state, noise, params._replace(trajectory_length=length))


def test_length_that_depends_on_the_position_is_found() -> None:
    report = check(LengthFromPosition(trajectory_length=2.0), "skewed")
    assert report.failures, str(report)


# --- Lengths -------------------------------------------------------------------------------------------------


def normal(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1)


def one_step(kernel: RandomisedHMC, u: float, step_size: Tensor | float) -> RandomisedHMCInfo:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    target = Target(normal, Layout.of(x), len(x))
    params = kernel.init_params(x, step_size=step_size)
    noise = GeneratorNoise(generator).draw(kernel.sites, x, 0) | {"length": torch.tensor([[u]], dtype=torch.float64)}
    _, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    return info


@pytest.mark.parametrize(("u", "num_steps"), [(1e-9, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_number_of_steps_is_the_fraction_of_the_length_rounded_up(u: float, num_steps: int) -> None:
    info = one_step(RandomisedHMC(trajectory_length=1.0), u, 0.25)
    assert info.num_grad_evals.tolist() == [[num_steps]] * 3
    assert info.trajectory_length.tolist() == [[num_steps * 0.25]] * 3


def test_chains_with_steps_of_their_own_cover_the_same_time() -> None:
    info = one_step(RandomisedHMC(trajectory_length=1.0), 1.0, torch.tensor([0.5, 0.25, 0.125]))
    assert info.num_grad_evals.flatten().tolist() == [2, 4, 8]
    assert info.trajectory_length.flatten().tolist() == [1, 1, 1]


def test_tiny_steps_are_cut_short() -> None:
    info = one_step(RandomisedHMC(trajectory_length=1.0, max_leapfrog_steps=7), 1.0, 1e-6)
    assert info.num_grad_evals.flatten().tolist() == [7, 7, 7]


def test_small_steps_follow_the_exact_flow() -> None:
    """Rotation of (x, v) by the time of the trajectory, to the second order in the step size."""
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    kernel = RandomisedHMC(step_size=1e-3, trajectory_length=0.7)
    momentum = torch.tensor([[0.5, 1.5]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    target, params = Target(normal, Layout.of(x), 1), kernel.init_params(x)
    _, info = kernel.step(
        target, kernel.init(target, x, params), {"momentum": momentum, "length": one, "u": one}, params
    )
    cos, sin = torch.cos(info.trajectory_length), torch.sin(info.trajectory_length)
    torch.testing.assert_close(info.proposal, cos * x + sin * momentum, rtol=0, atol=1e-6)
    torch.testing.assert_close(info.velocity, cos * momentum - sin * x, rtol=0, atol=1e-6)


def test_run_counts_the_mean_length_and_says_so() -> None:
    x = torch.zeros(10, 2, dtype=torch.float64)
    result = sample(normal, RandomisedHMC(trajectory_length=2.0, step_size=0.1), x, num_samples=200, noise=0)
    mean = float(result.means["trajectory_length"].mean())
    # Uniform on 0.1, 0.2, ..., 2, with a standard error of 0.577 / sqrt(200); five of them.
    assert mean == pytest.approx(1.05, abs=0.21)
    assert f"Mean trajectory length {mean:.3g}." in result.summary().notes


def test_batches_of_chains_share_their_lengths() -> None:
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, parts = (
        run(normal, RandomisedHMC(step_size=0.3), x, num_steps=5, noise=3, chain_batch_size=size) for size in (None, 3)
    )
    assert torch.equal(whole.chains.matrix, parts.chains.matrix)


def test_default_adaptation_is_chees() -> None:
    assert RandomisedHMC().default_adaptation() == ChEES()


@pytest.mark.parametrize("name", ["step_size", "trajectory_length", "max_leapfrog_steps", "target_accept"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ParameterError, match=name):
        dataclasses.replace(RandomisedHMC(), **{name: 0})
