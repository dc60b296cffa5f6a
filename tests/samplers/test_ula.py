"""ULA has the bias it is known to have, and knows the acceptance that MALA would have had."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lamina.samplers import MALA, ULA, Energy, GeneratorNoise, Target
from lamina.samplers.kernels.langevin import LangevinKernel
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


def beyond(wall: float) -> Callable[[Tensor], Tensor]:
    """A half-normal law whose energy is the wall on the other side."""
    return lambda x: torch.where(x > 0, x.square() / 2, wall).sum(1)


def without_gradient(x: Tensor) -> Tensor:
    """A half-normal law whose energy goes on smoothly on the other side, but whose gradient is NaN there."""
    return (x.square() / 2 + 0 * (x * (x > 0)).sqrt()).sum(1)


@pytest.mark.parametrize(
    ("energy", "is_divergent"),
    [(beyond(torch.nan), True), (beyond(torch.inf), False), (beyond(-torch.inf), True), (without_gradient, True)],
    ids=["nan", "outside-the-support", "bottomless", "no-gradient"],
)
@pytest.mark.parametrize("dim", [1, 6])
def test_moves_to_where_no_chain_can_stand_are_refused(energy: Energy, is_divergent: bool, dim: int) -> None:
    """In six dimensions the wall is right across the first; the others are short of it."""
    x = gaussian(PRECISION, seed=0)[: 1000 * dim, :1].abs().reshape(1000, dim)
    x[:, 1:] += 10
    target, kernel = Target(energy, Layout.of(x), len(x)), ULA(step_size=0.3)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)

    after, info = kernel.step(target, state, noise, params)

    refused = ~info.is_accepted
    assert 100 < int(refused.sum()) < 900
    assert torch.equal(info.is_divergent, refused & is_divergent)
    assert torch.equal(after.position[refused.squeeze(1)], x[refused.squeeze(1)])
    assert (after.position > 0).all()
    assert all(map(torch.equal, after, kernel.move(target, state, noise, params)))


def test_a_chain_without_a_gradient_stays_where_it_is() -> None:
    """Its drift is NaN, and so would be its position, which an energy may find perfectly fine."""

    def energy(x: Tensor) -> Tensor:
        near = x.abs() < 10
        return torch.where(near, torch.where(near, x, 1).abs().sqrt(), 50).sum(1)

    x = torch.zeros(4, 1, dtype=torch.float64)
    target, kernel = Target(energy, Layout.of(x), len(x)), ULA(step_size=0.1)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    assert state.grad.isnan().all()
    after, info = kernel.step(target, state, noise, params)
    assert torch.equal(after.position, x)
    assert info.is_divergent.all()
    assert torch.equal(kernel.move(target, state, noise, params).position, x)


@pytest.mark.parametrize("kernel", [ULA(step_size=0.1), MALA(step_size=0.1)], ids=["ula", "mala"])
def test_a_huge_gradient_in_float32_is_an_error_and_not_a_wall(kernel: LangevinKernel) -> None:
    """Its square leaves the range of float32, but not that of the ratio: a divergence, told as such."""
    x = gaussian(PRECISION, seed=0)[:100, :1].float()
    target = Target(lambda x: 1e3 * (1 - torch.cos(1e18 * x)).sum(1), Layout.of(x), len(x))
    params = kernel.init_params(x)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    _, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    assert info.energy_error.isfinite().all()
    assert info.is_divergent.all()


class Counter(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = collections.Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("scale", "num_choices"), [(1.0, 0), (2e37, 3)], ids=["moderate", "sums overflow"])
def test_chains_that_all_can_stand_are_not_chosen_one_by_one(scale: float, num_choices: int) -> None:
    """Choosing takes as long as a cheap energy. Where a number is too large to see at once, it is done nevertheless."""
    x = scale * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    target, kernel = Target(lambda x: x.abs().sum(1), Layout.of(x), len(x)), ULA(step_size=0.3)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    with Counter() as counter:
        after = kernel.move(target, state, noise, params)
    assert counter.counts["where"] == num_choices
    assert all(map(torch.equal, after, kernel.step(target, state, noise, params)[0]))
