"""Without energies the prior is its base: long chains in either space keep every u_i at N(0, I).

Each case runs many independent chains and looks at where they end, mapped to noise u, through statistics whose law
is known exactly. The Dvoretzky-Kiefer-Wolfowitz bands hold at every sample size: an exact sampler fails anything in
this file with probability 1e-6 at most. (Chains from exact draws have the exact law throughout; those from other
starts are long enough that what is left of the start is far below the bands.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lamina.models import Gaussian, GaussianHierarchy, JointEBMPrior, Latents, LayerEnergies, QuadraticEnergy, Space
from lamina.samplers import HMC, MALA, Kernel, sample
from lamina.samplers.testing import dkw_half_width, ks_one_sample

NUM_CHAINS = 4000
NUM_CASES, NUM_STATISTICS = 9, 7
BAND = dkw_half_width(NUM_CHAINS, 1e-6 / (NUM_CASES * NUM_STATISTICS))

KERNELS: dict[str, tuple[Kernel[Any], int]] = {
    "mala": (MALA(step_size=0.2), 250),
    "hmc": (HMC(step_size=0.5, num_leapfrog_steps=5, jitter=0.3), 50),
}
"""Kernels with the number of steps that make a long chain, many times the relaxation time in both spaces."""

SLOPE = 0.5
"""d log sigma_1 / d z_2; with two entries of z_1, the volume of T changes by e for every unit of z_2."""


class ScaledByAbove(nn.Module):
    """z_1 = exp(z_2 / 2) u_1 for both entries of z_1."""

    event = torch.Size([2])

    def forward(self, z: Tensor) -> Gaussian:
        scale = torch.exp(SLOPE * z).expand(-1, 2)
        return Gaussian(torch.zeros_like(scale), scale)


def without_energies() -> JointEBMPrior:
    base = GaussianHierarchy((1,), [ScaledByAbove()])
    return JointEBMPrior(base, LayerEnergies([QuadraticEnergy((2,)), QuadraticEnergy((1,))])).double()


def published_energy(prior: JointEBMPrior) -> Callable[[Latents], Tensor]:
    """The density f + log p_{beta>0}(T(u)) as one in u, which lacks the Jacobian of T (paper.md, section 5.1)."""

    def energy(u: Latents) -> Tensor:
        return prior.energy_z(prior.base.transform(u))

    return energy


def start(prior: JointEBMPrior, exact: bool) -> Latents:
    u = prior.base.noise(NUM_CHAINS, generator=torch.Generator().manual_seed(1))
    return u if exact else tuple(0.3 * part + 1.5 for part in u)


def ends(energy: Callable[[Latents], Tensor], kernel: str, position: Latents) -> Latents:
    """Where long chains end, having moved and having rejected some."""
    method, num_steps = KERNELS[kernel]
    generator = torch.Generator().manual_seed(2)
    result = sample(
        energy, method, position, num_samples=1, thinning=num_steps, generator=generator, show_progress=False
    )
    assert 0.5 < result.accept_prob.mean() < 0.99
    end = tuple(part[:, -1] for part in result.draws)
    for before, after in zip(position, end, strict=True):
        correlation = torch.corrcoef(torch.cat([before, after], dim=1).T)[: before.shape[1], before.shape[1] :]
        assert correlation.abs().max() < 0.25, "chains that remember their start prove nothing"
    return end


def distances(u: Latents, shift: float = 0.0) -> dict[str, float]:
    """Kolmogorov distances from N(0, I) of coordinates, joint projections and the radius; u_2 from N(shift, 1)."""
    matrix = torch.cat([u[0], u[1] - shift], dim=1)
    law, radius = stats.norm, stats.chi2(3)
    directions = {"u1[0]": (1, 0, 0), "u1[1]": (0, 1, 0), "u2": (0, 0, 1)} | {
        str(signs): signs for signs in ((1, 1, 1), (1, -1, 1), (1, 1, -1))
    }
    measured = {}
    for name, direction in directions.items():
        unit = matrix.new_tensor(direction) / math.sqrt(sum(map(abs, direction)))
        measured[name] = ks_one_sample(matrix @ unit, lambda x: torch.from_numpy(law.cdf(x)))
    measured["|u|^2"] = ks_one_sample(matrix.square().sum(1), lambda x: torch.from_numpy(radius.cdf(x)))
    assert len(measured) == NUM_STATISTICS
    return measured


@pytest.mark.parametrize("exact_start", [True, False], ids=["exact start", "off start"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("space", ["u", "z"])
def test_noise_stays_standard_normal(space: Space, kernel: str, exact_start: bool) -> None:
    prior = without_energies()
    position = prior.to_latents(start(prior, exact_start), space)
    u = prior.base.inverse(prior.to_latents(ends(prior.energy(space), kernel, position), space))
    measured = distances(u)
    assert max(measured.values()) <= BAND, measured


def test_control_the_published_energy_drifts() -> None:
    """Without the Jacobian the density is N(u_1; 0, I) N(u_2; -2 slope, 1): the checks object, and find just that."""
    prior = without_energies()
    u = ends(published_energy(prior), "mala", start(prior, exact=True))
    measured = distances(u)
    assert measured["u2"] > 5 * BAND
    assert abs(u[1].mean() + 2 * SLOPE) < stats.norm.isf(0.5e-6) / math.sqrt(NUM_CHAINS)
    assert max(distances(u, shift=-2 * SLOPE).values()) <= BAND
