"""Leapfrog is reversible, keeps volume and has order two; MALA satisfies detailed balance, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lamina.samplers import HMC, MALA, State, Target
from lamina.samplers.kernels.leapfrog import leapfrog
from lamina.samplers.metric import factorise
from lamina.samplers.position import Layout

DIM = 3
MASSES = {
    "identity": None,
    "diagonal": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
    "dense": torch.tensor([[0.6, 0.2, 0.0], [0.2, 1.0, -0.3], [0.0, -0.3, 1.5]], dtype=torch.float64),
}


@pytest.fixture(params=MASSES)
def mass(request: pytest.FixtureRequest) -> Tensor | None:
    return MASSES[request.param]


def energy(x: Tensor) -> Tensor:
    """Skewed, curved and coupled: nothing cancels."""
    return x[:, 0].exp() - x[:, 0] + 0.5 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2 + 0.25 * x[:, 2] ** 4 + x[:, 1] * x[:, 2]


def dense(mass: Tensor | None) -> Tensor:
    """The inverse mass as a matrix."""
    if mass is None:
        return torch.eye(DIM, dtype=torch.float64)
    return mass if mass.ndim == 2 else torch.diag(mass)


def normals(num: int, seed: int) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target_of(x: Tensor) -> Target:
    return Target(energy, Layout.of(x), len(x))


def integrate(x: Tensor, r: Tensor, mass: Tensor | None, step_size: float, num_steps: int) -> tuple[Tensor, Tensor]:
    target = target_of(x)
    end, momentum, num_grad_evals = leapfrog(
        target, State(x, *target(x)), r, torch.tensor(step_size, dtype=x.dtype), factorise(mass, x), num_steps
    )
    assert (num_grad_evals == num_steps).all()
    return end.position, momentum


def test_agrees_with_the_textbook(mass: Tensor | None) -> None:
    """Half kick, drift, half kick with momentum p and mass matrix P^-1, where the code has whitened momenta."""
    x, r, h = normals(8, 0), normals(8, 1), 0.1
    factor = torch.linalg.cholesky(dense(mass))
    position, p = x, r @ torch.linalg.inv(factor)  # rows of L^-T r
    for _ in range(5):
        p = p - 0.5 * h * target_of(x)(position)[1]
        position = position + h * p @ dense(mass)
        p = p - 0.5 * h * target_of(x)(position)[1]

    end, momentum = integrate(x, r, mass, h, 5)

    torch.testing.assert_close(end, position, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(momentum, p @ factor, rtol=1e-12, atol=1e-12)


def test_is_reversible(mass: Tensor | None) -> None:
    x, r = normals(50, 0), normals(50, 1)
    end, momentum = integrate(x, r, mass, 0.1, 10)
    back, turned = integrate(end, -momentum, mass, 0.1, 10)
    assert (end - x).abs().max() > 0.5
    torch.testing.assert_close(back, x, rtol=0, atol=1e-11)
    torch.testing.assert_close(-turned, r, rtol=0, atol=1e-11)


def test_keeps_volume(mass: Tensor | None) -> None:
    """The Jacobian by central differences: all perturbed starts are chains of one batch."""
    x, r, eps = normals(1, 0), normals(1, 1), 1e-5
    start = torch.cat((x, r), dim=1)
    shifts = eps * torch.cat((torch.eye(2 * DIM), -torch.eye(2 * DIM))).double()
    starts = start + shifts
    ends = torch.cat(integrate(starts[:, :DIM], starts[:, DIM:], mass, 0.15, 7), dim=1)
    jacobian = (ends[: 2 * DIM] - ends[2 * DIM :]) / (2 * eps)
    assert (jacobian - torch.eye(2 * DIM)).abs().max() > 0.5
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-8)


def test_has_order_two(mass: Tensor | None) -> None:
    """Error over one unit of time at h and h / 2, against h / 64."""
    x, r = 0.5 * normals(50, 0), 0.5 * normals(50, 1)
    exact, _ = integrate(x, r, mass, 1 / 1280, 1280)
    coarse, fine = (float((integrate(x, r, mass, 1 / num, num)[0] - exact).norm()) for num in (20, 40))
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


def test_hmc_accepts_by_the_error_of_the_total_energy(mass: Tensor | None) -> None:
    x, kernel = normals(50, 0), HMC(step_size=0.3, num_leapfrog_steps=3)
    r, p_to_velocity = normals(50, 1), dense(mass)
    target, params = target_of(x), kernel.init_params(x, inverse_mass=mass)
    noise = {"momentum": r, "jitter": torch.full((50, 1), 0.5), "u": torch.full((50, 1), 1e-300).double()}
    state, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    momentum = integrate(x, r, mass, 0.3, 3)[1]

    unwhiten = torch.linalg.inv(torch.linalg.cholesky(p_to_velocity))
    kinetic = [0.5 * torch.einsum("ci,ij,cj->c", p, p_to_velocity, p) for p in (r @ unwhiten, momentum @ unwhiten)]
    change = energy(state.position) + kinetic[1] - energy(x) - kinetic[0]

    assert info.is_accepted.all()
    torch.testing.assert_close(info.energy_error.squeeze(1), change, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(info.accept_prob.squeeze(1), (-change).exp().clamp(max=1), rtol=1e-10, atol=1e-12)


def test_mala_satisfies_detailed_balance(mass: Tensor | None) -> None:
    """log alpha(x -> y) + log pi(x) + log q(x -> y) is symmetric, with q from torch.distributions."""
    h, x = 0.3, normals(200, 0)
    y = x + 0.7 * normals(200, 1)

    forth, back = (_log_flow(a, b, h, mass) for a, b in ((x, y), (y, x)))

    torch.testing.assert_close(forth, back, rtol=1e-11, atol=1e-11)
    ratio = _log_accept(x, y, h, mass)
    assert 20 < int((ratio < -0.1).sum()) < 180  # both branches of the minimum occur


def _log_flow(x: Tensor, y: Tensor, h: float, mass: Tensor | None) -> Tensor:
    cov = dense(mass)
    proposal = MultivariateNormal(x - h * target_of(x)(x)[1] @ cov, covariance_matrix=2 * h * cov)
    log_proposal: Tensor = proposal.log_prob(y)  # type: ignore[no-untyped-call]
    return _log_accept(x, y, h, mass) - energy(x) + log_proposal


def _log_accept(x: Tensor, y: Tensor, h: float, mass: Tensor | None) -> Tensor:
    """Log acceptance probability of the step whose noise leads from x to y."""
    kernel, target = MALA(step_size=h), target_of(x)
    params = kernel.init_params(x, inverse_mass=mass)
    state = kernel.init(target, x, params)
    cov = dense(mass)
    xi = torch.linalg.solve_triangular(
        torch.linalg.cholesky(cov), (y - x + h * state.grad @ cov).T, upper=False
    ).T / math.sqrt(2 * h)
    noise = {"xi": xi, "u": torch.full((len(x), 1), 1e-300, dtype=torch.float64)}
    after, info = kernel.step(target, state, noise, params)
    torch.testing.assert_close(after.position, y, rtol=1e-12, atol=1e-12)
    return info.energy_error.neg().clamp(max=0).squeeze(1)
