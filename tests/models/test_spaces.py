"""Chains in u and in z have one law of z, with energies on both layers and scales that depend on the layer above.

The energies are bounded, so that rejection from the base gives exact draws to compare with. Bands are two-sample
Dvoretzky-Kiefer-Wolfowitz; exact samplers fail anything in this file with probability 1e-6 at most.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.models import Gaussian, GaussianHierarchy, JointEBMPrior, Latents, LayerEnergies, Space
from lamina.samplers import HMC, MALA, Kernel, run, sample
from lamina.samplers.testing import dkw_half_width, ks_two_sample

NUM_CHAINS = 8000
NUM_CASES, NUM_STATISTICS = 5, 7
BAND = dkw_half_width(NUM_CHAINS, 1e-6 / (NUM_CASES * NUM_STATISTICS), num_other=NUM_CHAINS)

KERNELS: dict[str, tuple[Kernel[Any], int]] = {
    "mala": (MALA(step_size=0.15), 150),
    "hmc": (HMC(step_size=0.4, num_leapfrog_steps=5, jitter=0.3), 30),
}
"""Kernels with the number of steps that make a long chain."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Ripple(nn.Module):
    """E(z) = height (sin(sum z) + cos(2 z_0)) / 2, between plus and minus the height."""

    height = 1.2

    def forward(self, z: Tensor) -> Tensor:
        return self.height / 2 * (torch.sin(z.sum(1)) + torch.cos(2 * z[:, 0]))


class MovedAndScaledByAbove(nn.Module):
    """z_1 = z_2 / 2 + exp(0.4 z_2) u_1, entry by entry."""

    event = torch.Size([2])

    def forward(self, z: Tensor) -> Gaussian:
        return Gaussian(z / 2, torch.exp(0.4 * z))


@functools.cache
def prior() -> JointEBMPrior:
    base = GaussianHierarchy((2,), [MovedAndScaledByAbove()])
    return JointEBMPrior(base, LayerEnergies([Ripple(), Ripple()])).double()


@torch.no_grad()
def exact_draws(seed: int) -> Latents:
    """Base draws z, kept with probability exp(-E(z) - 2 height)."""
    generator = seeded(seed)
    z = prior().base.sample(40 * NUM_CHAINS, generator=generator)
    uniform = torch.rand(len(z[0]), generator=generator, dtype=torch.float64)
    kept = torch.log(uniform) < -prior().energies(z) - 2 * Ripple.height
    assert kept.sum() >= NUM_CHAINS
    return tuple(part[kept][:NUM_CHAINS] for part in z)


@torch.no_grad()
def distances(first: Latents, second: Latents) -> dict[str, float]:
    """Kolmogorov distances of coordinates, a product across layers, the energy, and the noise behind z_1."""

    def statistics(z: Latents) -> dict[str, Tensor]:
        z1, z2 = z
        return {
            **{f"z1[{d}]": z1[:, d] for d in range(2)},
            **{f"z2[{d}]": z2[:, d] for d in range(2)},
            "z1[0] z2[0]": z1[:, 0] * z2[:, 0],
            "energy": prior().energy_z(z),
            "|u1|": prior().base.inverse(z)[0].norm(dim=1),
        }

    ours, theirs = statistics(first), statistics(second)
    assert len(ours) == NUM_STATISTICS
    return {name: ks_two_sample(ours[name], theirs[name]) for name in ours}


@functools.cache
def chain_draws(space: Space, kernel: str) -> Latents:
    """Ends of long chains from ancestral draws, which have the law of the base only."""
    method, num_steps = KERNELS[kernel]
    z = prior().base.sample(NUM_CHAINS, generator=seeded(1))
    result = sample(
        prior().energy(space),
        method,
        prior().from_latents(z, space),
        num_samples=1,
        thinning=num_steps,
        generator=seeded(2 if space == "u" else 3),
        show_progress=False,
    )
    assert 0.5 < result.accept_prob.mean() < 0.99
    return prior().to_latents(tuple(part[:, -1] for part in result.draws), space)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("space", ["u", "z"])
def test_chains_have_the_law_of_exact_draws(space: Space, kernel: str) -> None:
    measured = distances(chain_draws(space, kernel), exact_draws(4))
    assert max(measured.values()) <= BAND, measured


def test_both_spaces_have_one_law() -> None:
    measured = distances(chain_draws("u", "hmc"), chain_draws("z", "hmc"))
    assert max(measured.values()) <= BAND, measured


@torch.no_grad()
def test_control_the_energies_matter() -> None:
    """The same comparison tells the joint prior from its base, where every chain started."""
    assert max(distances(prior().base.sample(NUM_CHAINS, generator=seeded(1)), exact_draws(4)).values()) > 2 * BAND


def test_control_the_jacobian_matters() -> None:
    """And it finds E_z(T(u)) as an energy in u, the published form, which lacks the Jacobian of T."""

    def published(u: Latents) -> Tensor:
        return prior().energy_z(prior().base.transform(u))

    start = prior().base.noise(NUM_CHAINS, generator=seeded(1))
    u = run(published, MALA(step_size=0.15), start, num_steps=150, generator=seeded(2)).position
    assert max(distances(prior().to_latents(u, "u"), exact_draws(4)).values()) > 2 * BAND
