"""Windows are Stan's, masses are covariances, and what comes out of an adapted run is right.

False alarms of the statistical tests: at most 1e-6 for the whole file if all seeds were drawn afresh.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from lamina.benchmarks.densities import Banana, Gaussian
from lamina.samplers import HMC, MALA, Adaptation, Chains, DualAveraging, Kernel, ParameterError, sample
from lamina.samplers.adaptation.chees import ChEES
from lamina.samplers.adaptation.welford import Mass, Moments, add_draws, mass_factor, no_moments, regularised_covariance
from lamina.samplers.adaptation.windows import Windows, stan_windows
from lamina.samplers.kernels.randomised_hmc import RandomisedHMC

FALSE_ALARM = 1e-6 / 4  # for each of the four statistical tests


# --- Schedule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "bounds"),
    [
        (1000, (75, 100, 150, 250, 450, 950)),
        (900, (75, 100, 150, 250, 450, 850)),
        (160, (75, 100, 110)),
        (150, (75, 100)),
        (149, (22, 135)),
        (100, (15, 90)),
        (20, (3, 18)),
        (19, ()),
    ],
)
def test_windows_are_those_of_stan(num_steps: int, bounds: tuple[int, ...]) -> None:
    assert stan_windows(num_steps) == bounds


def test_schedule_follows_the_counters_of_the_source() -> None:
    """Stan's own bookkeeping, step by step: `windowed_adaptation.hpp`, with its defaults."""
    for num_steps in range(150, 1200, 7):
        window_size, next_window, ends = 25, 75 + 25 - 1, []
        for counter in range(num_steps):
            if counter != next_window:
                continue
            ends.append(counter + 1)
            if next_window == num_steps - 50 - 1:
                continue
            window_size *= 2
            next_window = counter + window_size
            if next_window != num_steps - 50 - 1 and next_window + 2 * window_size >= num_steps - 50:
                next_window = num_steps - 50 - 1
        assert stan_windows(num_steps) == (75, *ends)


# --- Moments -------------------------------------------------------------------------------------------------


def draws(num_steps: int, num_chains: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Independent draws (steps, C, 3) of a normal law far from the origin, and its covariance."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.tensor([[1.0, 0.0, 0.0], [3.0, 2.0, 0.0], [-1.0, 0.5, 0.1]], dtype=torch.float64)
    normal = torch.randn(num_steps, num_chains, 3, generator=generator, dtype=torch.float64)
    return normal @ root.T + 1e4, root @ root.T


def moments_of(x: Tensor, mass: Mass, *, pooled: bool) -> Moments:
    moments = no_moments(x[0], mass, pooled=pooled)
    for position in x:
        moments = add_draws(moments, position)
    return moments


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "per-chain"])
def test_running_moments_are_those_of_all_draws_at_once(mass: Mass, pooled: bool) -> None:
    x, _ = draws(12, 5)
    moments = moments_of(x, mass, pooled=pooled)
    groups = x.reshape(1, -1, 3) if pooled else x.transpose(0, 1)
    covariance = torch.stack([group.T.cov() for group in groups])
    n = groups.shape[1]
    shrunk = n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * torch.eye(3, dtype=torch.float64)
    expected = shrunk if mass == "dense" else shrunk.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(moments.mean, groups.mean(dim=1))
    torch.testing.assert_close(regularised_covariance(moments), expected, rtol=1e-6, atol=1e-9)

    factor = mass_factor(moments, pooled=pooled)
    shapes = {("diagonal", True): (3,), ("dense", True): (3, 3), ("diagonal", False): (5, 1, 3)}
    assert factor.shape == shapes.get((mass, pooled), (5, 3, 3))
    square = factor @ factor.mT if mass == "dense" else factor.square().reshape(-1, 3)
    torch.testing.assert_close(square.reshape(expected.shape), expected, rtol=1e-6, atol=1e-9)


def test_moments_are_float64_whatever_the_chains_are() -> None:
    x, _ = draws(30, 10)
    moments = moments_of(x.float(), "dense", pooled=True)
    assert {field.dtype for field in moments} == {torch.float64}
    torch.testing.assert_close(moments, moments_of(x.float().double(), "dense", pooled=True), rtol=0, atol=0)


def test_covariance_of_a_gaussian_is_recovered_within_its_standard_error() -> None:
    """Entries of a Wishart matrix of n degrees of freedom have variance (S_ij^2 + S_ii S_jj) / n."""
    x, covariance = draws(500, 100)
    moments = moments_of(x, "dense", pooled=True)
    estimate = moments.scatter[0] / (moments.num_draws - 1)
    diagonal = covariance.diagonal()
    error = ((covariance.square() + diagonal.outer(diagonal)) / (500 * 100 - 1)).sqrt()
    z = ((estimate - covariance) / error)[*torch.tril_indices(3, 3)]
    assert z.abs().max() < stats.norm.isf(FALSE_ALARM / 12), z


# --- Adapted runs --------------------------------------------------------------------------------------------

RUNS: list[Any] = [
    pytest.param(MALA(), Windows(mass="dense"), id="mala-dense"),
    pytest.param(HMC(num_leapfrog_steps=5, jitter=0.2), Windows(), id="hmc-diagonal"),
    pytest.param(HMC(num_leapfrog_steps=5, jitter=0.2), Windows(mass="dense"), id="hmc-dense"),
    pytest.param(
        HMC(num_leapfrog_steps=5, jitter=0.2),
        Windows(mass="dense", pooled=False, step_size=DualAveraging(pooled=False)),
        id="hmc-dense-per-chain",
    ),
    pytest.param(RandomisedHMC(), ChEES(), id="chees"),
    pytest.param(RandomisedHMC(), Windows(mass="dense", step_size=ChEES()), id="chees-dense"),
]
TARGETS = [Gaussian.stiff(dim=5, condition_number=100.0), Banana()]


@pytest.mark.parametrize(("kernel", "adaptation"), RUNS)
def test_adapted_runs_have_the_right_moments(kernel: Kernel[Any], adaptation: Adaptation) -> None:
    """First and second moments of every coordinate, by t-tests over 100 chains, as their means are independent.

    Chains start from points that are not of the target. That they share adapted parameters and trajectory lengths
    makes them dependent, but not given those.
    """
    num_tests = len(RUNS) * sum(2 * density.dim for density in TARGETS)
    limit = stats.t.isf(FALSE_ALARM / 2 / num_tests, df=99)
    for density in TARGETS:
        x = torch.randn(100, density.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        result = sample(density, kernel, x, num_samples=60, num_warmup=200, adaptation=adaptation, noise=1)
        assert isinstance(result.draws, Tensor)
        for power, truth in ((1, density.mean), (2, density.second_moment)):
            of_chains = result.draws.pow(power).mean(dim=1)
            t = (of_chains.mean(dim=0) - truth) / (of_chains.std(dim=0) / 10)
            assert t.abs().max() < limit, (density.name, power, t)
        # Chains that hardly move would have wide errors, and pass.
        assert 0.4 < float(result.accept_prob.mean()) < 0.995, (density.name, result.accept_prob.mean())


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_pooled_mass_is_the_covariance(mass: Mass) -> None:
    """The last window of 50 chains has 160 steps each; a tenth of them is assumed to be worth an independent draw.

    Relative errors are compared where the truth is the identity, in whitened coordinates; entries then have variance 1,
    or 2 on the diagonal, over the number of draws.
    """
    density = Gaussian.stiff(dim=5, condition_number=100.0)
    covariance = torch.tensor(density.covariance, dtype=torch.float64)
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = sample(
        density,
        HMC(num_leapfrog_steps=6, jitter=0.2),
        x,
        num_samples=1,
        num_warmup=400,
        adaptation=Windows(mass=mass),
        noise=0,
    )
    factor = result.chains.params.factor
    if mass == "dense":
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), factor, upper=False)
        error = white @ white.T - torch.eye(5, dtype=torch.float64)
    else:
        error = factor.square() / covariance.diagonal() - 1
    limit = stats.norm.isf(FALSE_ALARM / 2 / 20) * (2 / (50 * 160 / 10)) ** 0.5
    assert error.abs().max() < limit, error


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * (x / scale.unsqueeze(1)).square().sum(1)


def test_each_chain_learns_the_mass_of_its_own_target() -> None:
    """Scales 0.1, 1 and 10, as context: factors follow them, and one step size then does for all."""
    context = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64).repeat(4)
    x = context.unsqueeze(1) * torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = sample(
        scaled,
        HMC(num_leapfrog_steps=5, jitter=0.2),
        x,
        num_samples=50,
        num_warmup=600,
        context=context,
        adaptation=Windows(pooled=False, step_size=DualAveraging(pooled=False)),
        noise=0,
    )
    factor = result.chains.params.factor
    assert factor.shape == (12, 1, 3)
    # The last window has 240 steps; if correlation halves their worth, log factors have standard error 1 / sqrt(240).
    ratio = (factor.squeeze(1) / context.unsqueeze(1)).log()
    assert ratio.abs().max() < stats.norm.isf(FALSE_ALARM / 2 / 36) / 240**0.5, ratio
    assert result.warmup is not None
    step_size = result.warmup.step_size.reshape(4, 3).log().mean(dim=0)
    assert float(step_size.max() - step_size.min()) < 0.5


# --- Choices, notes, resuming --------------------------------------------------------------------------------


def warmed_up(num_chains: int, num_warmup: int, adaptation: Windows, dtype: torch.dtype = torch.float64) -> Any:
    x = torch.randn(num_chains, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ones = torch.ones(num_chains, dtype=dtype)
    return sample(scaled, MALA(), x, num_samples=2, num_warmup=num_warmup, context=ones, adaptation=adaptation, noise=0)


@pytest.mark.parametrize(("num_chains", "shape"), [(19, (19, 1, 3)), (20, (3,))])
def test_many_chains_are_pooled(num_chains: int, shape: tuple[int, ...]) -> None:
    result = warmed_up(num_chains, 40, Windows())
    assert result.chains.params.factor.shape == shape


def test_report_tells_of_the_mass() -> None:
    notes = warmed_up(20, 200, Windows(mass="dense", pooled=False)).warmup.notes
    assert notes[0] == "A dense mass for each chain was learnt in 2 windows."


def test_warm_up_too_short_for_a_window_adapts_the_step_size_alone() -> None:
    result = warmed_up(20, 15, Windows())
    assert result.chains.params.factor.shape == ()
    assert result.warmup.notes[0] == "A diagonal mass shared by all chains was learnt in 0 windows."


def test_float32_chains_get_float32_parameters() -> None:
    params = warmed_up(20, 40, Windows(mass="dense"), torch.float32).chains.params
    assert (params.factor.dtype, params.step_size.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "per-chain"])
@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_resumed_run_is_the_uninterrupted_one(mass: Mass, pooled: bool, tmp_path: Path) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    context = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    kernel = RandomisedHMC()
    adaptation = Windows(mass=mass, pooled=pooled, step_size=ChEES())
    short, long = (
        sample(scaled, kernel, x, num_samples=n, num_warmup=30, context=context, adaptation=adaptation, noise=1)
        for n in (2, 6)
    )
    short.chains.save(tmp_path / "chains")
    chains = Chains.load(tmp_path / "chains", kernel)
    resumed = sample(scaled, kernel, chains, num_samples=4, context=context, chain_batch_size=3)
    assert torch.equal(resumed.chains.matrix, long.chains.matrix)


def test_options_are_checked() -> None:
    with pytest.raises(ParameterError, match='"diagonal" or "dense"; got \'sparse\''):
        Windows(mass="sparse")  # type: ignore[arg-type]
