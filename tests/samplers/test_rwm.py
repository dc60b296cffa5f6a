"""Random-walk Metropolis satisfies detailed balance, and asks for no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lamina.samplers import Layout, Target, sample
from lamina.samplers.kernels.rwm import RWM

DIM = 3
COVARIANCE = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.8, 0.0], [0.1, 0.0, 0.3]], dtype=torch.float64)
MASSES = {"identity": None, "diagonal": COVARIANCE.diagonal(), "dense": COVARIANCE}


def energy(x: Tensor) -> Tensor:
    """Skewed, and not separable."""
    return (x.exp() - x).sum(1) + 0.5 * (x[:, 0] * x[:, 1]).square()


def normals(seed: int) -> Tensor:
    return torch.randn(200, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_detailed_balance(mass: Tensor | None) -> None:
    """log alpha(x -> y) + log pi(x) + log q(x -> y) is symmetric, with q from torch.distributions."""
    s, x = 0.7, normals(0)
    y = x + 0.7 * normals(1)
    covariance = torch.eye(DIM).double() if mass is None else mass if mass.ndim == 2 else torch.diag(mass)

    def log_accept(start: Tensor, end: Tensor) -> Tensor:
        kernel, target = RWM(step_size=s), Target(energy, Layout.of(start), len(start))
        params = kernel.init_params(start, inverse_mass=mass)
        xi = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (end - start).T, upper=False).T / s
        noise = {"xi": xi, "u": torch.full((len(start), 1), 1e-300, dtype=torch.float64)}
        after, info = kernel.step(target, kernel.init(target, start, params), noise, params)
        torch.testing.assert_close(after.position, end, rtol=1e-12, atol=1e-12)
        return info.energy_error.neg().clamp(max=0).squeeze(1)

    def log_flow(start: Tensor, end: Tensor) -> Tensor:
        log_q: Tensor = MultivariateNormal(start, s**2 * covariance).log_prob(end)  # type: ignore[no-untyped-call]
        return log_accept(start, end) - energy(start) + log_q

    torch.testing.assert_close(log_flow(x, y), log_flow(y, x), rtol=1e-11, atol=1e-11)
    assert 20 < int((log_accept(x, y) < -0.1).sum()) < 180  # both branches of the minimum occur


def test_energy_needs_no_gradient() -> None:
    """An energy of whole numbers, whose law on them is exact: P(k) proportional to exp(-|k|)."""

    def stairs(x: Tensor) -> Tensor:
        return x.detach().round().abs().sum(1)

    generator = torch.Generator().manual_seed(0)
    law = torch.exp(-torch.arange(-40, 41).abs().double())
    law = law / law.sum()
    start = torch.multinomial(law, 50_000, replacement=True, generator=generator).double() - 40
    start = (start + torch.rand(50_000, generator=generator, dtype=torch.float64) - 0.5).unsqueeze(1)

    result = sample(stairs, RWM(step_size=1.5), start, num_samples=1, thinning=4, noise=1)

    assert isinstance(result.draws, Tensor)
    share = (result.draws.round() == 0).double().mean()
    error = (law[40] * (1 - law[40]) / 50_000).sqrt()
    assert abs(share - law[40]) < 4.9 * error  # false alarms: 1e-6
    assert 0.2 < float(result.accept_prob.mean()) < 0.8
    assert (result.num_grad_evals == 0).all()


def test_target_gives_energies_alone() -> None:
    """The energies of a call, with context and temperature, from however many rows."""
    x, context = normals(0), normals(1)
    temperature = torch.linspace(0.5, 2, len(x), dtype=torch.float64)
    target = Target(lambda x, c: energy(x - c), Layout.of(x), len(x), context=context, temperature=temperature)
    assert torch.equal(target.energy(x), target(x)[0])
    part = slice(10, 20)
    assert torch.equal(target.rows(part).energy(x[part]), target(x)[0][part])
    assert not target.energy(x.clone().requires_grad_()).requires_grad


def test_state_has_an_empty_gradient() -> None:
    x = normals(0)
    kernel, target = RWM(), Target(energy, Layout.of(x), len(x))
    assert kernel.init(target, x, kernel.init_params(x)).grad.shape == (len(x), 0)
