"""Bounds on log Z and log p(x), held to quadrature and to the closed form of linear Gaussian models.

Bounds hold on average over runs, so they are tested as means: within 4.4 standard errors of the side they err on, which
a sound bound leaves once in 50,000 times or less, and near enough to the truth to be of use.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lamina.models import (
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    LayerEnergies,
    LinearGaussian,
    MLPGenerator,
    QuadraticEnergy,
    seeded_init,
)
from lamina.samplers import ParameterError
from lamina.trainers.evaluation import (
    annealed_evidence,
    importance_weights,
    log_normalizer_bounds,
    reverse_log_normalizer,
)
from lamina.trainers.evaluation.likelihood import log_mean_exp, noise_log_normalizer

Z_LIMIT = 4.4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 3) -> Tensor:
    return torch.randn((num, 1, 1, 2), generator=seeded(9), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ closed form


def linear_model() -> LatentEBM:
    with seeded_init(0):
        base = GaussianHierarchy((1,), [LinearGaussian(1, (1,))])
        energies = LayerEnergies([QuadraticEnergy((1,)), QuadraticEnergy((1,))])
        model = LatentEBM(
            JointEBMPrior(base, energies), GaussianLikelihood(MLPGenerator((1,), (1, 1, 2), [], squash=False), 0.7)
        )
    model.double().requires_grad_(False)
    for network, (curvature, tilt) in zip(energies.networks, [(0.8, 0.5), (-0.2, -0.4)], strict=True):
        network.curvature.fill_(curvature)
        network.tilt.fill_(tilt)
    return model


def closed_forms(model: LatentEBM, x: Tensor) -> tuple[float, Tensor, MultivariateNormal]:
    """log Z and log p(x) by completing squares over (z_1, z_2), and the law of the prior."""
    conditional = model.prior.base.conditionals[0]
    weight, offset, scale = conditional.linear.weight[0, 0], conditional.linear.bias[0], conditional.log_scale.exp()[0]
    covariance = torch.stack([torch.stack([weight**2 + scale**2, weight]), torch.stack([weight, torch.ones(())])])
    base = MultivariateNormal(torch.stack([offset, 0 * offset]), covariance.double())
    networks = model.prior.energies.networks
    curvature, tilt = torch.diag(torch.cat([n.curvature for n in networks])), torch.cat([n.tilt for n in networks])
    precision = base.precision_matrix + curvature
    mean = torch.linalg.solve(precision, base.precision_matrix @ base.mean + tilt)
    squares = mean @ precision @ mean - base.mean @ base.precision_matrix @ base.mean
    log_z = 0.5 * float(squares + torch.logdet(base.precision_matrix) - torch.logdet(precision))
    prior = MultivariateNormal(mean, precision_matrix=precision)
    linear = model.likelihood.generator.net[0]
    noise = 0.49 * torch.eye(2, dtype=torch.float64)
    seen = prior.covariance_matrix[0, 0] * linear.weight @ linear.weight.T
    marginal = MultivariateNormal(linear.weight @ mean[:1] + linear.bias, seen + noise)
    return log_z, marginal.log_prob(x.flatten(1)), prior


def test_bounds_meet_the_closed_form() -> None:
    model, x = linear_model(), images()
    log_z, log_p, prior = closed_forms(model, x)
    bounds = log_normalizer_bounds(model.prior, generator=seeded(), num_chains=600, num_stops=5)
    assert abs(bounds.lower - log_z) < Z_LIMIT * bounds.lower_error < 0.1
    assert abs(bounds.upper - log_z) < Z_LIMIT * bounds.upper_error < 0.1
    draws = _exact(prior, 600)
    reverse = reverse_log_normalizer(model.prior, draws, draws_are_exact=True, generator=seeded(1), num_stops=5)
    assert reverse.is_bound
    value = float(reverse.log_normalizer) - noise_log_normalizer(model.prior)
    assert abs(value - log_z) < Z_LIMIT * float(reverse.standard_error) < 0.1
    evidence = annealed_evidence(model, x, generator=seeded(2), num_chains=100, num_stops=15)
    assert torch.all((evidence - log_z - log_p).abs() < 0.4)


def _exact(law: MultivariateNormal, num: int) -> tuple[Tensor, Tensor]:
    white = torch.randn((num, 2), generator=seeded(3), dtype=torch.float64)
    z = law.mean + white @ torch.linalg.cholesky(law.covariance_matrix).T
    return z[:, :1], z[:, 1:]


# ------------------------------------------------------------------------------------------------ quadrature


def test_log_z_lies_between_its_bounds_on_average(toy: Any) -> None:
    """Over 60 runs of few draws of the base prior, where bounds are loose."""
    truth = toy.log_normalizer()
    generator = seeded(1)
    runs = [log_normalizer_bounds(toy.model.prior, generator=generator, num_chains=8, num_stops=1) for _ in range(60)]
    lower, upper = (torch.tensor([getattr(run, side) for run in runs]) for side in ("lower", "upper"))
    assert lower.mean() - truth < Z_LIMIT * lower.std() / math.sqrt(len(runs))
    assert truth - upper.mean() < Z_LIMIT * upper.std() / math.sqrt(len(runs))
    assert torch.all(upper >= lower)
    assert lower.mean() < upper.mean() - 0.001


def test_annealing_meets_quadrature(toy: Any) -> None:
    truth = toy.log_normalizer()
    bounds = log_normalizer_bounds(toy.model.prior, generator=seeded(), num_chains=400, num_stops=5)
    assert abs(bounds.lower - truth) < Z_LIMIT * bounds.lower_error < 0.2
    assert abs(bounds.upper - truth) < Z_LIMIT * bounds.upper_error < 0.2
    assert bounds.ess > 100


def test_the_upper_bound_holds_for_any_tangent(toy: Any) -> None:
    """The formula itself, at draws of the base prior: b - 1 + exp(-b) mean exp f is above log Z, also far from it."""
    z = toy.model.prior.base.sample(20_000, generator=seeded(5))
    weights = torch.exp(-toy.model.prior.energies(z))
    truth = toy.log_normalizer()
    for tangent in (truth - 1, truth, truth + 1):
        values = tangent - 1 + math.exp(-tangent) * weights
        excess = math.exp(truth - tangent) - 1 - (truth - tangent)  # what the tangent costs, exactly
        assert abs(float(values.mean()) - truth - excess) < Z_LIMIT * float(values.std()) / math.sqrt(len(z))
        assert excess >= 0


def test_importance_weights_bound_the_evidence_from_below(toy: Any) -> None:
    x = images()
    truth = toy.log_evidence(x)
    weights = importance_weights(toy.model, x, 4000, generator=seeded(6))
    elbo, tight = weights.mean(1), log_mean_exp(weights)
    error = (weights - tight.unsqueeze(1)).exp().std(1) / math.sqrt(weights.shape[1])
    assert torch.all((tight - truth).abs() < Z_LIMIT * error)
    assert torch.all(error < 0.2)
    assert torch.all(elbo < truth - 0.05)
    loose = log_mean_exp(weights.reshape(len(x), -1, 5)).mean(1)
    assert torch.all(elbo < loose)
    assert torch.all(loose < truth + Z_LIMIT * error)


def test_importance_weights_without_energies_are_of_the_base_prior(toy: Any) -> None:
    x = images()
    base = GaussianLikelihood.log_prob
    weights = importance_weights(toy.model, x, 3, generator=seeded(7), with_energies=False)
    generator = seeded(7)
    for column in weights.T:
        z, log_q = toy.model.inference(x, generator=generator)
        expected = base(toy.model.likelihood, x, z) + toy.model.prior.base.log_prob(z) - log_q
        torch.testing.assert_close(column, expected)


def test_annealed_evidence_meets_quadrature_from_both_sides(toy: Any) -> None:
    """Exact posterior draws: the latents that made the data, themselves exact draws of the prior on the grid."""
    weights = torch.softmax(-toy.model.prior.energy_z(toy.z), 0)
    rows = torch.multinomial(weights, 40, replacement=True, generator=seeded(8))
    z = tuple(part[rows] for part in toy.z)
    noise = torch.randn((40, 1, 1, 2), generator=seeded(9), dtype=torch.float64)
    x = toy.model.likelihood.mean(z) + toy.model.likelihood.sigma * noise
    truth = toy.log_evidence(x)
    settings: dict[str, Any] = {"generator": seeded(10), "num_stops": 10}
    forward = annealed_evidence(toy.model, x, num_chains=10, **settings) - truth
    backward = annealed_evidence(toy.model, x, num_chains=10, draws=z, draws_are_exact=True, **settings) - truth
    assert forward.mean() < Z_LIMIT * forward.std() / math.sqrt(40)
    assert -backward.mean() < Z_LIMIT * backward.std() / math.sqrt(40)
    assert -0.3 < forward.mean() < backward.mean() < 0.8


# ------------------------------------------------------------------------------------------------ what is said


def test_draws_that_are_not_exact_give_no_bound(toy: Any) -> None:
    z = toy.model.prior.base.sample(10, generator=seeded())
    report = reverse_log_normalizer(toy.model.prior, z, draws_are_exact=False, generator=seeded(), num_stops=2)
    assert not report.is_bound
    assert "no bound" in str(report)


def test_without_energies_log_z_is_zero(toy: Any) -> None:
    base = toy.model.prior.base
    energies = LayerEnergies([QuadraticEnergy((1,)), QuadraticEnergy((1,))]).double().requires_grad_(False)
    bounds = log_normalizer_bounds(JointEBMPrior(base, energies), generator=seeded(), num_chains=5, num_stops=3)
    assert bounds.lower == pytest.approx(0, abs=1e-12)
    assert bounds.upper == pytest.approx(0, abs=1e-12)


def test_importance_weights_need_an_inference_model() -> None:
    with pytest.raises(ParameterError, match=r"need q\(z\|x\)"):
        importance_weights(linear_model(), images(), 2, generator=seeded())
