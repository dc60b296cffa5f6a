"""ULA has the bias it is known to have, and knows the acceptance that MALA would have had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lamina.samplers import MALA, ULA, GeneratorNoise, Target
from lamina.samplers.position import Layout
from lamina.samplers.testing import CDF, InvarianceReport, check_invariance

NUM_CHAINS = 100_000
FALSE_ALARM = 1e-8

PRECISION = torch.tensor([[0.5, 0.2, 0.0], [0.2, 1.0, -0.3], [0.0, -0.3, 4.0]], dtype=torch.float64)
MASS = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.8, 0.0], [0.1, 0.0, 0.3]], dtype=torch.float64)


def energy(x: Tensor) -> Tensor:
    return 0.5 * torch.einsum("ci,ij,cj->c", x, PRECISION, x)


def biased_precision(step_size: float, mass: Tensor) -> Tensor:
    """K - h K P K / 2, the inverse of the S that solves S = (I - h P K) S (I - h P K)^T + 2 h P.

    In one dimension the variance is 1 / (k (1 - h k / 2)).
    """
    return PRECISION - step_size / 2 * PRECISION @ mass @ PRECISION


def gaussian(precision: Tensor, seed: int) -> Tensor:
    noise = torch.randn(NUM_CHAINS, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    factor = torch.linalg.cholesky(precision)
    draws: Tensor = torch.linalg.solve_triangular(factor, noise, upper=False, left=False)
    return draws


def marginals(precision: Tensor) -> list[CDF]:
    def cdf(variance: float) -> CDF:
        return lambda x: torch.special.ndtr(x / variance**0.5)

    return [cdf(float(variance)) for variance in torch.linalg.inv(precision).diagonal()]


def check(step_size: float, mass: Tensor, start: Tensor, law: Tensor) -> InvarianceReport:
    kernel = ULA()
    return check_invariance(
        kernel,
        energy,
        gaussian(start, seed=0),
        gaussian(law, seed=1),
        cdfs=marginals(law),
        params=kernel.init_params(gaussian(law, seed=2), step_size=step_size, inverse_mass=mass),
        noise=GeneratorNoise(torch.Generator().manual_seed(3)),
        false_alarm=FALSE_ALARM,
    )


@pytest.mark.parametrize("mass", [torch.eye(3, dtype=torch.float64), MASS], ids=["identity", "dense"])
@pytest.mark.parametrize("step_size", [0.1, 0.3])
def test_stationary_law_is_the_known_biased_one(step_size: float, mass: Tensor) -> None:
    """100,000 chains from exact draws of the biased law keep it, and are told from the target at that."""
    biased = biased_precision(step_size, mass)
    report = check(step_size, mass, start=biased, law=biased)
    assert report.passed, str(report)
    assert check(step_size, mass, start=biased, law=PRECISION).failures


@pytest.mark.parametrize("mass", [None, MASS], ids=["identity", "dense"])
def test_acceptance_is_that_of_mala_on_the_same_noise(mass: Tensor | None) -> None:
    x = gaussian(PRECISION, seed=0)[:1000]
    target = Target(energy, Layout.of(x), len(x))
    ula, mala = ULA(), MALA()
    params = ula.init_params(x, step_size=0.3, inverse_mass=mass)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(mala.sites, x, 0)
    state = ula.init(target, x, params)

    free, adjusted = ula.step(target, state, noise, params)[1], mala.step(target, state, noise, params)[1]

    assert torch.equal(free.accept_prob, adjusted.accept_prob)
    assert torch.equal(free.energy_error, adjusted.energy_error)
    assert free.is_accepted.all()
    assert 0.2 < float(adjusted.is_accepted.double().mean()) < 0.99


@pytest.mark.parametrize(
    ("wall", "is_divergent"), [(torch.nan, True), (torch.inf, False)], ids=["nan", "outside-the-support"]
)
def test_moves_into_nan_or_out_of_the_support_are_refused(wall: float, is_divergent: bool) -> None:
    """A half-normal law whose energy is NaN, or infinite, on the other side."""

    def half_normal(x: Tensor) -> Tensor:
        return torch.where(x > 0, x.square() / 2, wall).sum(1)

    x = gaussian(PRECISION, seed=0)[:1000, :1].abs()
    target, kernel = Target(half_normal, Layout.of(x), len(x)), ULA(step_size=0.3)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)

    after, info = kernel.step(
        target, state, GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0), params
    )

    refused = ~info.is_accepted
    assert 100 < int(refused.sum()) < 900
    assert torch.equal(info.is_divergent, refused & is_divergent)
    assert torch.equal(after.position[refused], x[refused])
    assert (after.position > 0).all()
