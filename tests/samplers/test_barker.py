"""The Barker proposal satisfies detailed balance, and is not thrown by large gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from lamina.samplers import GeneratorNoise, Layout, Target
from lamina.samplers.kernels.barker import Barker

DIM = 3
COVARIANCE = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.8, 0.0], [0.1, 0.0, 0.3]], dtype=torch.float64)
MASSES = {"identity": None, "diagonal": COVARIANCE.diagonal(), "dense": COVARIANCE}


def energy(x: Tensor) -> Tensor:
    """Skewed, and not separable."""
    return (x.exp() - x).sum(1) + 0.5 * (x[:, 0] * x[:, 1]).square()


def normals(seed: int) -> Tensor:
    return torch.randn(200, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(mass: Tensor | None, v: Tensor) -> Tensor:
    """L^-1 v for every row."""
    covariance = torch.eye(DIM).double() if mass is None else mass if mass.ndim == 2 else torch.diag(mass)
    whitened: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), v.T, upper=False).T
    return whitened


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_detailed_balance(mass: Tensor | None) -> None:
    """log alpha(x -> y) + log pi(x) + log q(x -> y) is symmetric, q being a product of skewed normal densities.

    In whitened coordinates v = L^-1 x the density of a move w is 2 N(w; 0, s^2) sigmoid(w d log pi / dv).
    """
    s, x = 0.7, normals(0)
    y = x + 0.7 * normals(1)

    def log_accept(start: Tensor, end: Tensor) -> Tensor:
        kernel, target = Barker(step_size=s), Target(energy, Layout.of(start), len(start))
        params = kernel.init_params(start, inverse_mass=mass)
        noise = {
            "xi": white(mass, end - start) / s,
            "sign": torch.full_like(start, 1e-300),
            "u": torch.full((len(start), 1), 1e-300, dtype=torch.float64),
        }
        after, info = kernel.step(target, kernel.init(target, start, params), noise, params)
        torch.testing.assert_close(after.position, end, rtol=1e-12, atol=1e-12)
        return info.energy_error.neg().clamp(max=0).squeeze(1)

    def log_flow(start: Tensor, end: Tensor) -> Tensor:
        origin = white(mass, start).requires_grad_()
        unwhiten = white(mass, torch.eye(DIM).double()).T.inverse()  # rows of L: x = L v
        (slope,) = torch.autograd.grad(-energy(origin @ unwhiten.T).sum(), origin)
        w = white(mass, end - start)
        log_normal: Tensor = Normal(0, s).log_prob(w)  # type: ignore[no-untyped-call]
        log_q = (math.log(2) + log_normal - torch.log1p(torch.exp(-w * slope))).sum(1)
        return log_accept(start, end) - energy(start) + log_q

    torch.testing.assert_close(log_flow(x, y), log_flow(y, x), rtol=1e-11, atol=1e-11)
    assert 20 < int((log_accept(x, y) < -0.1).sum()) < 180  # both branches of the minimum occur


def test_signs_follow_the_gradient() -> None:
    """P(keep z) = sigmoid(-z g), coordinate by coordinate; false alarms at most 1e-6."""
    num, kernel = 100_000, Barker(step_size=1.0)
    x = torch.tensor([0.9, -1.2, 0.4], dtype=torch.float64).expand(num, DIM)
    target, xi = Target(energy, Layout.of(x), num), torch.tensor([0.5, -0.4, -1.0]).double().expand(num, DIM)
    params = kernel.init_params(x)
    state = kernel.init(target, x, params)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    always = torch.full((num, 1), 1e-300, dtype=torch.float64)

    after, _ = kernel.step(target, state, {**noise, "xi": xi, "u": always}, params)

    kept = ((after.position - x) * xi > 0).double().mean(dim=0)
    expected = torch.sigmoid(-xi * state.grad)[0]
    z = (kept - expected) / (expected * (1 - expected) / num).sqrt()
    assert (z.abs() < 5.1).all(), z  # three coordinates, 3.4e-7 each
    assert ((expected - 0.5).abs() > 0.03).all()


def test_large_gradients_turn_moves_round_and_no_more() -> None:
    """Where a Langevin move would go 10^5 times too far, each coordinate still moves by s |xi|, downhill."""
    x, kernel = normals(0), Barker(step_size=0.5)
    target = Target(lambda x: 1e6 * x.square().sum(1), Layout.of(x), len(x))
    params = kernel.init_params(x)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    noise["u"] = torch.zeros(len(x), 1, dtype=torch.float64)

    after, info = kernel.step(target, kernel.init(target, x, params), noise, params)

    move = after.position - x
    torch.testing.assert_close(move.abs(), 0.5 * noise["xi"].abs(), rtol=1e-12, atol=1e-12)
    assert (move * x < 0).double().mean() > 0.99
    assert torch.isfinite(info.energy_error).all()
