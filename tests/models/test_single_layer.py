"""With L = 1 the model is the single-layer latent EBM of Pang et al. (NeurIPS 2020): E(z) + |z|^2 / 2 - log p(x|z).

Beside it stands that model written down directly, as plain functions of the same weights.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lamina.models import (
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    LayerEnergies,
    MLPEnergy,
    MLPGenerator,
    contrastive_loss,
    reconstruction_loss,
    seeded_init,
)
from lamina.samplers import HMC, sample

DIM, IMAGE, SIGMA = 3, (1, 2, 2), 0.3
NORMAL_CONSTANT = DIM / 2 * math.log(2 * math.pi)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> LatentEBM:
    with seeded_init(0):
        energies = LayerEnergies([MLPEnergy((DIM,), [16], start_at_zero=False)])
        likelihood = GaussianLikelihood(MLPGenerator((DIM,), IMAGE, [8]), SIGMA)
        return LatentEBM(JointEBMPrior(GaussianHierarchy((DIM,)), energies), likelihood).double()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# --- The model of Pang et al., directly --------------------------------------------------------------------------


def two_layers(weights: dict[str, Tensor], prefix: str, z: Tensor) -> Tensor:
    hidden = z @ weights[f"{prefix}.0.weight"].T + weights[f"{prefix}.0.bias"]
    return hidden * torch.sigmoid(hidden) @ weights[f"{prefix}.2.weight"].T + weights[f"{prefix}.2.bias"]


def direct_energy(weights: dict[str, Tensor], z: Tensor) -> Tensor:
    """E(z) = -f(z), without the prior's |z|^2 / 2."""
    return two_layers(weights, "prior.energies.networks.0.net", z)[:, 0]


def direct_error(weights: dict[str, Tensor], z: Tensor, x: Tensor) -> Tensor:
    """|x - g(z)|^2 / (2 sigma^2)."""
    made = torch.tanh(two_layers(weights, "_likelihood.generator.net", z))
    return (x.flatten(1) - made).square().sum(1) / (2 * SIGMA**2)


def weights_of(model: LatentEBM) -> dict[str, Tensor]:
    return dict(model.named_parameters())


# --- Tests -------------------------------------------------------------------------------------------------------


def test_u_and_z_coincide(model: LatentEBM) -> None:
    prior, z, x = model.prior, normal(20, DIM, seed=1), normal(20, *IMAGE, seed=2)
    assert torch.equal(prior.base.transform((z,))[0], z)
    assert torch.equal(prior.base.inverse((z,))[0], z)
    torch.testing.assert_close(prior.energy_z((z,)) - NORMAL_CONSTANT, prior.energy_u((z,)), rtol=1e-12, atol=1e-12)
    in_z, in_u = (model.posterior_energy(space)((z,), x) for space in ("z", "u"))
    torch.testing.assert_close(in_z - NORMAL_CONSTANT, in_u, rtol=1e-12, atol=1e-12)


def test_chains_in_u_and_z_are_the_same(model: LatentEBM) -> None:
    """A constant in the energy changes no chain: draw by draw to rounding, from the same noise."""
    start = (normal(8, DIM, seed=3),)
    kernel = HMC(step_size=0.2, num_leapfrog_steps=3)
    in_z, in_u = (
        sample(model.prior.energy(space), kernel, start, num_samples=20, generator=seeded(4), show_progress=False)
        for space in ("z", "u")
    )
    torch.testing.assert_close(in_z.draws, in_u.draws, rtol=1e-9, atol=1e-9)


def test_energies_are_those_of_the_direct_model(model: LatentEBM) -> None:
    z, x, weights = normal(20, DIM, seed=1), normal(20, *IMAGE, seed=2), weights_of(model)
    prior = direct_energy(weights, z) + z.square().sum(1) / 2
    torch.testing.assert_close(model.prior.energy_u((z,)), prior, rtol=1e-12, atol=1e-12)
    pixels = math.prod(IMAGE) * math.log(SIGMA * math.sqrt(2 * math.pi))
    posterior = prior + direct_error(weights, z, x) + pixels
    torch.testing.assert_close(model.posterior_energy("u")((z,), x), posterior, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_direct_model(model: LatentEBM) -> None:
    """alpha: mean grad E at posterior draws less that at prior draws; beta: mean grad of the error."""
    positive, negative, x = normal(20, DIM, seed=5), normal(30, DIM, seed=6), normal(20, *IMAGE, seed=2)
    weights = weights_of(model)
    ours = contrastive_loss(model.prior, (positive,), (negative,)) + reconstruction_loss(model, x, (positive,))
    theirs = direct_energy(weights, positive).mean() - direct_energy(weights, negative).mean()
    theirs = theirs + direct_error(weights, positive, x).mean()
    parameters = list(weights.values())
    # The last bias of the energy cancels: its gradient is zero, up to rounding, in both.
    for gradient, direct in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(gradient, direct, rtol=1e-11, atol=1e-12)
