"""Annealed importance sampling: log Z within its stated error, from below and from above.

All statistical checks together fail exact code with probability 1e-6 at most, if all seeds were drawn afresh and
estimates were normal; budgets are such that they nearly are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import special
from torch import Tensor, nn

from lamina.benchmarks.densities import (
    DENSITIES,
    BlockRosenbrock,
    Density,
    Funnel,
    Gaussian,
    LogGamma,
    Rosenbrock,
    make_density,
)
from lamina.models import GaussianHierarchy, JointEBMPrior, LayerEnergies, MLPGaussian, seeded_init
from lamina.samplers import HMC, MALA, ULA, EnergyError, Kernel, ParameterError, PositionError
from lamina.samplers.annealing.ais import AISReport, Bracket, ais, reverse_ais
from lamina.samplers.annealing.path import Base, NormalBase, Schedule, tune
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.rwm import RWM

NUM_CHECKS = 64  # upper bound on the comparisons in this file
Z_LIMIT = math.sqrt(2) * float(special.erfcinv(1e-6 / NUM_CHECKS))

SMALL = [name for name in DENSITIES if make_density(name).dim <= 20]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal_base(dim: int, scale: float = 1.0) -> NormalBase:
    return NormalBase.like(torch.zeros(1, dim, dtype=torch.float64), scale=scale)


def assert_agrees(report: AISReport, log_normalizer: float | Tensor) -> None:
    z = (report.log_normalizer - log_normalizer) / report.standard_error
    assert (z.abs() < Z_LIMIT).all(), f"{z.abs().max():.1f} standard errors off: {report}"


def base_of(density: Density) -> Base:
    """A normal base, but for five densities that none fits: they start from an easier one of their own kind."""
    match density.name:
        case "funnel":
            return Funnel(scale=2.0)
        case "rosenbrock":
            return Rosenbrock(sharpness=25.0)
        case "block_rosenbrock":
            return BlockRosenbrock(noise=0.4)
        case "stiff_gaussian" | "ill_conditioned_gaussian":
            assert isinstance(density, Gaussian)
            covariance = 2 * torch.tensor(density.covariance, dtype=torch.float64)
            return Gaussian.from_covariance(covariance, density.center)
        case _:
            return normal_base(density.dim, float(density.second_moment.max().sqrt()))


@pytest.mark.parametrize("name", SMALL)
def test_log_z_of_known_densities(name: str) -> None:
    density, generator = make_density(name), seeded(1)
    base, kernel = base_of(density), HMC(step_size=0.1, num_leapfrog_steps=5, jitter=0.3)
    schedule = tune(Schedule.sigmoid(25), density, base, kernel, num_chains=80, generator=generator)
    forward = ais(density, base, kernel, schedule, num_chains=400, generator=generator)
    draws = density.sample(400, generator=generator)
    back = reverse_ais(density, base, kernel, schedule, draws=draws, draws_are_exact=True, generator=generator)
    for report in (forward, back):
        assert report.ess > 10, report
        assert_agrees(report, density.log_normalizer)


@pytest.mark.matrix
@pytest.mark.parametrize("name", sorted(set(DENSITIES) - set(SMALL)))
def test_log_z_in_many_dimensions(name: str) -> None:
    """Half a minute each, with four times the stops and twice the steps."""
    density, generator = make_density(name), seeded(1)
    base, kernel = base_of(density), HMC(step_size=0.1, num_leapfrog_steps=5, jitter=0.3)
    schedule = tune(Schedule.sigmoid(100), density, base, kernel, num_chains=80, generator=generator)
    forward = ais(density, base, kernel, schedule, num_chains=400, num_steps=4, generator=generator)
    assert forward.ess > 10, forward
    assert_agrees(forward, density.log_normalizer)


def test_log_z_is_precise() -> None:
    """So many chains that log weights 5 per cent off would show, twice over."""
    density, base, kernel = Gaussian.from_covariance(torch.eye(2)), normal_base(2, scale=3.0), MALA(step_size=0.5)
    draws, schedule = density.sample(20_000, generator=seeded(1)), Schedule.sigmoid(20)
    forward = ais(density, base, kernel, schedule, num_chains=20_000, generator=seeded())
    back = reverse_ais(density, base, kernel, schedule, draws=draws, draws_are_exact=True, generator=seeded(2))
    assert 0.05 * abs(density.log_normalizer - base.log_normalizer) > 2 * Z_LIMIT * forward.standard_error
    assert_agrees(forward, density.log_normalizer)
    assert_agrees(back, density.log_normalizer)


@pytest.mark.parametrize(
    "kernel", [MALA(step_size=0.3), RWM(step_size=0.7), GHMC(step_size=0.4)], ids=lambda kernel: type(kernel).__name__
)
def test_every_kind_of_kernel(kernel: Kernel[Any]) -> None:
    """Without gradients, and with momenta that go on from stop to stop."""
    density, base = LogGamma(dim=3), normal_base(3)
    report = ais(density, base, kernel, Schedule.linear(10), num_chains=1000, generator=seeded(), num_steps=2)
    assert report.standard_error < 0.1
    assert_agrees(report, density.log_normalizer)


# --- Bounds ---------------------------------------------------------------------------------------------------


def ignoring_context(density: Density) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, context: density(x)


def test_forward_lies_below_and_reverse_above() -> None:
    """2,000 estimates each, from so few chains and stops that the bias is plain to see."""
    density, base, num = LogGamma(dim=2), normal_base(2, scale=2.0), 2000
    energy, kernel, schedule = ignoring_context(density), MALA(step_size=0.3), Schedule.linear(2)
    nothing = torch.zeros(num, 1)
    forward = ais(energy, base, kernel, schedule, num_chains=4, generator=seeded(), context=nothing)
    draws = density.sample(4 * num, generator=seeded(1))
    back = reverse_ais(
        energy, base, kernel, schedule, draws=draws, draws_are_exact=True, generator=seeded(2), context=nothing
    )

    def z(report: AISReport) -> float:
        error = report.log_normalizer.std() / math.sqrt(num)
        return float((report.log_normalizer.mean() - density.log_normalizer) / error)

    assert z(forward) < -Z_LIMIT
    assert z(back) > Z_LIMIT
    for report, log_ratio in (
        (forward, density.log_normalizer - base.log_normalizer),
        (back, base.log_normalizer - density.log_normalizer),
    ):
        weights = torch.exp(report.log_weights - log_ratio).flatten()  # unbiased, whatever the number of stops
        assert abs(weights.mean() - 1) < Z_LIMIT * weights.std() / math.sqrt(len(weights))


def test_reports_say_what_they_are_worth() -> None:
    density, base, kernel, schedule = LogGamma(dim=2), normal_base(2), MALA(step_size=0.3), Schedule.linear(3)
    forward = ais(density, base, kernel, schedule, num_chains=50, generator=seeded())
    draws = density.sample(50, generator=seeded())

    def back(draws_are_exact: bool) -> AISReport:
        return reverse_ais(
            density, base, kernel, schedule, draws=draws, draws_are_exact=draws_are_exact, generator=seeded()
        )

    assert "under-estimates log Z on average" in str(forward)
    assert "50 chains, 4 stops" in str(forward)
    assert "over-estimates log Z on average" in str(back(True))
    assert "no bound, as the draws were not exact" in str(back(False))
    assert "in expectation" in str(Bracket(forward, back(True)))
    assert "if the draws behind the upper number were exact" in str(Bracket(forward, back(False)))
    assert torch.equal(Bracket(forward, back(True)).gap, back(True).log_normalizer - forward.log_normalizer)
    with pytest.raises(ParameterError, match="a forward and a reverse report"):
        Bracket(forward, forward)
    far = ais(density, normal_base(2, scale=30.0), kernel, Schedule.linear(1), num_chains=50, generator=seeded())
    assert "few chains carry the weight" in str(far)
    assert "few chains" not in str(forward)


# --- Clients --------------------------------------------------------------------------------------------------


class Ripple(nn.Module):
    """E(z) = a sin(b z + c) + d sin(e z): bounded, for else a random energy may have no normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(1 + torch.rand(5))

    def forward(self, z: Tensor) -> Tensor:
        a, b, c, d, e = self.weights
        return (a * torch.sin(b * z + c) + d * torch.sin(e * z)).squeeze(1)


def latent_prior(seed: int) -> JointEBMPrior:
    """Two layers of one number each, with random energies of a nat or two on both."""
    with seeded_init(seed):
        base = GaussianHierarchy((1,), [MLPGaussian(1, (1,), [8])])
        return JointEBMPrior(base, LayerEnergies([Ripple(), Ripple()])).double()


@pytest.mark.parametrize("seed", range(3))
def test_log_z_of_latent_priors(seed: int) -> None:
    prior = latent_prior(seed)
    grid = torch.linspace(-9, 9, 361, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        energy = prior.energy_u(points.split(1, dim=1))
    log_z = float(torch.logsumexp(-energy, 0) + 2 * torch.log(grid[1] - grid[0]))
    base = NormalBase.like((torch.zeros(1, 1, dtype=torch.float64),) * 2)
    assert base.log_normalizer == pytest.approx(math.log(2 * math.pi))
    assert abs(log_z - base.log_normalizer) > 0.1  # else there is nothing to estimate
    kernel = HMC(step_size=0.5, num_leapfrog_steps=4)
    report = ais(prior.energy_u, base, kernel, Schedule.linear(10), num_chains=1000, generator=seeded())
    assert report.standard_error < 0.05
    assert_agrees(report, log_z)
    assert all(weight.grad is None for weight in prior.parameters())


def test_marginal_likelihood_of_every_row() -> None:
    """Z ~ N(0, 1) and x given z ~ N(z, 1), with both constants left out: Z(x) = sqrt(pi) exp(-x^2 / 4)."""
    x = torch.tensor([[-3.0], [0.0], [1.5]], dtype=torch.float64)

    def energy(z: Tensor, x: Tensor) -> Tensor:
        return (z.square() / 2 + (x - z).square() / 2).squeeze(1)

    report = ais(
        energy, normal_base(1), MALA(step_size=0.4), Schedule.linear(10), num_chains=500, generator=seeded(), context=x
    )
    exact = 0.5 * math.log(math.pi) - x.squeeze(1).square() / 4
    assert_agrees(report, exact)
    assert "Mean log Z of 3 rows" in str(report)
    draws = x / 2 + math.sqrt(0.5) * torch.randn(3, 500, generator=seeded(1), dtype=torch.float64)
    back = reverse_ais(
        energy,
        normal_base(1),
        MALA(step_size=0.4),
        Schedule.linear(10),
        draws=draws.reshape(-1, 1),
        draws_are_exact=True,
        generator=seeded(2),
        context=x,
    )
    assert_agrees(back, exact)
    with pytest.raises(PositionError, match="equally many for each of 3 rows"):
        reverse_ais(
            energy,
            normal_base(1),
            MALA(),
            Schedule.linear(2),
            draws=draws.reshape(-1, 1)[1:],
            draws_are_exact=True,
            generator=seeded(),
            context=x,
        )


# --- Schedules ------------------------------------------------------------------------------------------------


def test_tuning_places_stops_and_finds_step_sizes() -> None:
    density, base, kernel = make_density("unequal_mixture"), normal_base(2, scale=30.0), MALA(step_size=1e-2)
    linear = Schedule.linear(12)
    tuned = tune(linear, density, base, kernel, num_chains=200, generator=seeded())
    assert len(tuned.inverse_temperatures) == 13
    # The work of a wide base spreads most where the target sets in.
    assert tuned.inverse_temperatures[1] < 0.1 * linear.inverse_temperatures[1]
    reports = [
        ais(density, base, kernel, schedule, num_chains=500, generator=seeded(1))
        for schedule in (Schedule(linear.inverse_temperatures, tuned.step_sizes), tuned)
    ]
    assert reports[1].ess > 2 * reports[0].ess
    assert abs(reports[1].accept_prob.mean() - kernel.target_accept) < 0.1
    assert_agrees(reports[1], density.log_normalizer)


def test_schedules_rise_from_0_to_1() -> None:
    for schedule in (Schedule.linear(5), Schedule.sigmoid(5)):
        assert schedule.inverse_temperatures[0] == 0
        assert schedule.inverse_temperatures[-1] == 1
        symmetric = 1 - schedule.inverse_temperatures.flip(0)
        torch.testing.assert_close(schedule.inverse_temperatures, symmetric)
    gaps = Schedule.sigmoid(5).inverse_temperatures.diff()
    assert gaps.argmax() == 2
    for wrong in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0], [1.0], [0.0, math.nan, 1.0]):
        with pytest.raises(ParameterError, match="rise from 0 to 1"):
            Schedule(torch.tensor(wrong))
    with pytest.raises(ParameterError, match="one number for each of 3"):
        Schedule(torch.tensor([0.0, 0.5, 1.0]), torch.ones(2))
    with pytest.raises(ParameterError, match="must be positive"):
        Schedule(torch.tensor([0.0, 1.0]), torch.tensor([1.0, -1.0]))


# --- Supports, errors, randomness -----------------------------------------------------------------------------


def test_half_of_the_base_outside_the_support() -> None:
    """Z of a half normal is half of the whole; chains that begin outside may come in, but weigh nothing."""

    def energy(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, x.square().sum(1) / 2, torch.inf)

    base = normal_base(1)
    report = ais(energy, base, RWM(step_size=0.5), Schedule.linear(4), num_chains=1000, generator=seeded())
    assert_agrees(report, base.log_normalizer - math.log(2))
    assert (report.log_weights == -torch.inf).double().mean() == pytest.approx(0.5, abs=Z_LIMIT * 0.5 / math.sqrt(1000))
    tune(Schedule.linear(4), energy, base, RWM(), num_chains=50, generator=seeded())


def test_nan_and_unbounded_energies_are_refused() -> None:
    for value in (torch.nan, -torch.inf):
        with pytest.raises(EnergyError, match="NaN or minus infinity on the path; those of 7 of 7"):
            ais(
                lambda x, value=value: x.sum(1) + value,
                normal_base(1),
                MALA(),
                Schedule.linear(2),
                num_chains=7,
                generator=seeded(),
            )


@pytest.mark.parametrize("kernel", [ULA(), "mala"])
def test_kernels_that_are_not_exact_are_refused(kernel: Any) -> None:
    with pytest.raises(ParameterError, match="an exact kernel of one decision"):
        ais(LogGamma(), normal_base(2), kernel, Schedule.linear(2), num_chains=4, generator=seeded())


def test_same_seed_same_bits_and_the_dtype_of_the_base() -> None:
    base = NormalBase.like(torch.zeros(1, 2))
    first, second = (
        ais(LogGamma(), base, MALA(step_size=0.2), Schedule.linear(3), num_chains=20, generator=seeded())
        for _ in range(2)
    )
    assert torch.equal(first.log_weights, second.log_weights)
    assert isinstance(first.position, Tensor)
    assert first.position.dtype == torch.float32
    assert first.log_weights.dtype == torch.float64
