"""Underdamped Langevin has the biases it is known to have, and MALT corrects them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lamina.benchmarks.densities import LogGamma
from lamina.samplers import HMC, MALA, GeneratorNoise, Layout, ParameterError, Target, UnknownNameError, sample
from lamina.samplers.accept import accept
from lamina.samplers.kernel import Info, Noise
from lamina.samplers.kernels.malt import MALT
from lamina.samplers.kernels.momentum import MomentumState
from lamina.samplers.kernels.noise_free import NoiseFreeLangevin
from lamina.samplers.kernels.underdamped import FrictionParams, UnderdampedLangevin
from lamina.samplers.testing import check_invariance

DIM = 3
PRECISION = torch.tensor([[0.5, 0.2, 0.0], [0.2, 1.0, -0.3], [0.0, -0.3, 4.0]], dtype=torch.float64)
MASS = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.8, 0.0], [0.1, 0.0, 0.3]], dtype=torch.float64)
FACTOR = torch.linalg.cholesky(MASS)
SPLITTINGS = ("baoab", "obabo")


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * torch.einsum("ci,ij,cj->c", x, PRECISION, x)


def skewed(x: Tensor) -> Tensor:
    return (x.exp() - x).sum(1) + 0.5 * (x[:, 0] * x[:, 1]).square()


def normals(num: int, seed: int) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target_of(energy: Any, x: Tensor) -> Target:
    return Target(energy, Layout.of(x), len(x))


def moving(kernel: UnderdampedLangevin, target: Target, x: Tensor, momentum: Tensor, params: Any) -> MomentumState:
    """A state in the midst of a run."""
    is_fresh = torch.zeros(len(x), 1, dtype=torch.bool)
    return kernel.init(target, x, params)._replace(momentum=momentum, is_fresh=is_fresh)


# --- Gaussian targets: the step is an affine map, and its stationary law an equation ---------------------------


def stationary_covariance(splitting: Any, h: float, friction: float) -> Tensor:
    """Of (x, r), from S = A S A^T + B B^T, where A and B are read off the kernel's own steps on unit vectors."""
    unit = torch.eye(3 * DIM, dtype=torch.float64)
    x, r, xi = unit[:, :DIM], unit[:, DIM : 2 * DIM], unit[:, 2 * DIM :]
    kernel, target = UnderdampedLangevin(step_size=h, friction=friction, splitting=splitting), target_of(gaussian, x)
    params = kernel.init_params(x, inverse_mass=MASS)
    after, info = kernel.step(target, moving(kernel, target, x, r, params), {"xi": xi}, params)
    assert info.is_accepted.all()
    columns = torch.cat((after.position, after.momentum), dim=1).T
    linear, noise = columns[:, : 2 * DIM], columns[:, 2 * DIM :]
    equation = torch.eye(4 * DIM**2, dtype=torch.float64) - torch.kron(linear, linear)
    covariance: Tensor = torch.linalg.solve(equation, (noise @ noise.T).flatten())
    return covariance.reshape(2 * DIM, 2 * DIM)


def side_by_side(positions: Tensor, momenta: Tensor) -> Tensor:
    """The joint covariance of independent positions and momenta."""
    joint: Tensor = torch.block_diag(positions, momenta)  # type: ignore[no-untyped-call]
    return joint


@pytest.mark.parametrize("friction", [0.3, 4.0])
@pytest.mark.parametrize("h", [0.2, 0.8])
def test_baoab_has_the_positions_of_a_gaussian_exactly(h: float, friction: float) -> None:
    """Momenta are off: their covariance is I - h^2 L^T K L / 4, apart from the positions."""
    covariance = stationary_covariance("baoab", h, friction)
    momentum = torch.eye(DIM).double() - h**2 / 4 * FACTOR.T @ PRECISION @ FACTOR
    expected = side_by_side(PRECISION.inverse(), momentum)
    torch.testing.assert_close(covariance, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("friction", [0.3, 4.0])
@pytest.mark.parametrize("h", [0.2, 0.8])
def test_obabo_has_the_known_bias_on_a_gaussian(h: float, friction: float) -> None:
    """The leapfrog step keeps a shadow energy with precision K - h^2 K P K / 4, and O keeps N(0, I)."""
    covariance = stationary_covariance("obabo", h, friction)[:DIM, :DIM]
    expected = (PRECISION - h**2 / 4 * PRECISION @ MASS @ PRECISION).inverse()
    torch.testing.assert_close(covariance, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_bias_is_of_order_two(splitting: Any) -> None:
    """Halving the step divides by four what is off anywhere in the joint law of position and momentum."""
    exact = side_by_side(PRECISION.inverse(), torch.eye(DIM).double())
    coarse, fine = (float((stationary_covariance(splitting, h, 1.0) - exact).norm()) for h in (0.1, 0.05))
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.05)


# --- Other targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_order_two_on_a_skewed_target(splitting: Any) -> None:
    """One step from the exact law changes expectations by O(h^3): here that of x r, by quadrature over x, r and xi."""

    def energy(x: Tensor) -> Tensor:
        return (x.exp() - 2 * x).sum(1)

    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(24))
    line = torch.linspace(-14, 3.5, 160, dtype=torch.float64)  # the trapezoidal rule, of exponential accuracy here
    grid = torch.cartesian_prod(line, nodes, nodes)
    x, r, xi = (column.unsqueeze(1) for column in grid.unbind(1))
    weight = torch.cartesian_prod(torch.exp(-energy(line.unsqueeze(1))), weights, weights).prod(dim=1, keepdim=True)
    weight = weight / weight.sum()
    target = target_of(energy, x)

    def change(h: float) -> float:
        kernel = UnderdampedLangevin(step_size=h, splitting=splitting)
        params = kernel.init_params(x)
        after, _ = kernel.step(target, moving(kernel, target, x, r, params), {"xi": xi}, params)
        return float((weight * (after.position * after.momentum - x * r)).sum())

    assert math.log2(change(0.04) / change(0.02)) == pytest.approx(3.0, abs=0.1)


def test_baoab_agrees_with_the_textbook() -> None:
    """With momentum p = L^-T r and mass matrix P^-1, where the code has whitened momenta."""
    h, friction, x, r, xi = 0.3, 0.7, normals(50, 0), normals(50, 1), normals(50, 2)
    kernel, target = UnderdampedLangevin(step_size=h, friction=friction), target_of(skewed, x)
    params = kernel.init_params(x, inverse_mass=MASS)

    after, info = kernel.step(target, moving(kernel, target, x, r, params), {"xi": xi}, params)

    unwhiten, keep = FACTOR.inverse(), math.exp(-friction * h)
    p = r @ unwhiten - h / 2 * target(x)[1]
    position = x + h / 2 * p @ MASS
    p = keep * p + math.sqrt(1 - keep**2) * xi @ unwhiten
    position = position + h / 2 * p @ MASS
    p = p - h / 2 * target(position)[1]
    torch.testing.assert_close(after.position, position, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.momentum, p @ FACTOR, rtol=1e-12, atol=1e-12)
    assert info.is_accepted.all()


class Corrected(UnderdampedLangevin):
    """Takes the acceptance that BAOAB tells about at its word."""

    def step(
        self, target: Target, state: MomentumState, noise: Noise, params: FrictionParams
    ) -> tuple[MomentumState, Info]:
        there, info = super().step(target, state, noise, params)
        start = torch.where(state.is_fresh, noise["xi"], state.momentum)
        here = state._replace(momentum=-start, is_fresh=there.is_fresh)
        return accept(there, here, -info.energy_error, noise["u"], info.num_grad_evals)


def test_energy_error_of_baoab_is_what_a_correction_needs() -> None:
    """Accepted or rejected by it, BAOAB is exact; left alone, it is not. False alarms: at most 1e-8."""
    density = LogGamma(dim=2)
    generator = torch.Generator().manual_seed(0)
    start, fresh = (density.sample(50_000, generator=generator, dtype=torch.float64) for _ in range(2))
    u = GeneratorNoise(torch.Generator().manual_seed(1))

    class Noisy(GeneratorNoise):
        def draw(self, sites: Any, position: Tensor, step: int) -> dict[str, Any]:
            return super().draw(sites, position, step) | u.draw(MALA.sites, position, step)

    for kernel, is_exact in ((Corrected(step_size=1.2), True), (UnderdampedLangevin(step_size=1.2), False)):
        report = check_invariance(
            kernel,
            density,
            start,
            fresh,
            cdfs=[density.marginal_cdf(d) for d in range(2)],
            noise=Noisy(torch.Generator().manual_seed(2)),
            false_alarm=1e-8,
        )
        assert report.has_moved, str(report)
        assert (not report.failures) == is_exact, str(report)


@pytest.mark.parametrize("splitting", SPLITTINGS)
@pytest.mark.parametrize(
    ("wall", "is_divergent"), [(torch.nan, True), (torch.inf, False)], ids=["nan", "outside-the-support"]
)
def test_a_chain_turns_round_before_nan_and_the_end_of_the_support(
    splitting: Any, wall: float, is_divergent: bool
) -> None:
    def half_normal(x: Tensor) -> Tensor:
        return torch.where(x > 0, x.square() / 2, wall).sum(1)

    x, r = normals(1000, 0)[:, :1].abs(), normals(1000, 1)[:, :1]
    kernel, target = UnderdampedLangevin(step_size=0.5, splitting=splitting), target_of(half_normal, x)
    params = kernel.init_params(x)

    xi = torch.zeros_like(x)
    after, info = kernel.step(target, moving(kernel, target, x, r, params), {"xi": xi}, params)

    refused = ~info.is_accepted
    assert 50 < int(refused.sum()) < 900
    assert torch.equal(info.is_divergent, refused & is_divergent)
    assert torch.equal(after.position[refused], x[refused])
    assert (after.position > 0).all()
    assert (after.momentum[refused] * r[refused] < 0).all()


# --- MALT, and the noise-free limit ----------------------------------------------------------------------------


def stepped(kernel: Any, x: Tensor, noise: dict[str, Tensor], step_size: float) -> tuple[Tensor, Tensor]:
    """Position and energy error after one step on the skewed target."""
    target, params = target_of(skewed, x), kernel.init_params(x, step_size=step_size, inverse_mass=MASS)
    state, info = kernel.step(target, kernel.init(target, x, params), noise, params)
    assert 0 < int(info.is_accepted.sum()) < len(x)
    return state.position, info.energy_error


def test_malt_without_friction_is_hmc() -> None:
    x, xi, u = normals(200, 0), normals(800, 1).reshape(200, 4 * DIM), torch.full((200, 1), 0.9, dtype=torch.float64)
    ours = stepped(MALT(num_leapfrog_steps=4, friction=1e-20), x, {"xi": xi, "u": u}, 0.5)
    hmc_noise = {"momentum": xi[:, :DIM], "jitter": u, "u": u}
    theirs = stepped(HMC(num_leapfrog_steps=4), x, hmc_noise, 0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_malt_of_one_step_is_mala() -> None:
    """With step sizes that fit: h of MALA is half the square of a time step."""
    x, noise = normals(200, 0), {"xi": normals(200, 1), "u": torch.full((200, 1), 0.9, dtype=torch.float64)}
    ours = stepped(MALT(num_leapfrog_steps=1), x, noise, 0.6)
    theirs = stepped(MALA(), x, noise, 0.6**2 / 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_noise_free_langevin_descends_to_the_minimum() -> None:
    """At the rate of gradient descent in the metric of the mass; energies never rise, and all chains meet."""
    x, kernel = normals(50, 0), NoiseFreeLangevin(step_size=0.8)
    params = kernel.init_params(x, inverse_mass=MASS)
    one = sample(gaussian, kernel, x, num_samples=1, params=params, noise=0)
    assert isinstance(one.draws, Tensor)
    expected = x - 0.8 * target_of(gaussian, x)(x)[1] @ MASS
    torch.testing.assert_close(one.draws[:, 0], expected, rtol=1e-12, atol=1e-12)

    many = sample(gaussian, kernel, x, num_samples=100, params=params, noise=0, collect=("energy", "accept_prob"))
    assert isinstance(many.draws, Tensor)
    assert (many.info["accept_prob"] == 1).all()
    assert (many.info["energy"].diff(dim=1) <= 0).all()
    torch.testing.assert_close(many.draws[:, -1], torch.zeros_like(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [UnderdampedLangevin, MALT])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, "1"])
def test_friction_out_of_range(kind: Any, bad: Any) -> None:
    with pytest.raises(ParameterError, match="friction must be positive and finite; got"):
        kind(friction=bad)


def test_unknown_splitting() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown splitting 'aboba'.*Known: baoab, obabo"):
        UnderdampedLangevin(splitting="aboba")  # type: ignore[arg-type]
