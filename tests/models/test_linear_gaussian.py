"""Two linear layers, quadratic energies and a linear generator: everything has a closed form.

The closed forms are written down here from the raw parameters. Against them stand, to rounding, the energies (a
pointwise identity each for prior and posterior) and the gradients of the losses that trainers use, with expectations
over points that have exactly the mean and covariance of the law; and, within their standard error, the same gradients
from HMC chains in either space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from lamina.models import (
    BottomUpInference,
    Energies,
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    JointEnergy,
    LadderInference,
    LatentEBM,
    Latents,
    LayerEnergies,
    LinearGaussian,
    MLPGenerator,
    NormalizedEnergies,
    QuadraticEnergy,
    Space,
    base_negative_phase,
    contrastive_loss,
    energy_loss,
    negative_elbo,
    noise_contrastive_loss,
    normalizer_loss,
    reconstruction_loss,
    seeded_init,
    self_normalizing_loss,
)
from lamina.samplers import HMC, ParameterError, sample

D1, D2, IMAGE, SIGMA = 2, 2, (1, 1, 3), 0.7
NUM_DATA = 3
NUM_BLOCKS = 40
FALSE_ALARM = 1e-6
"""Of each statistical test here; shared by the entries of the gradient that it looks at."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(inference: bool = False, form: str = "layers") -> LatentEBM:
    """Every parameter away from its special values; one curvature negative, which the base makes up for."""
    with seeded_init(0):
        base = GaussianHierarchy((D2,), [LinearGaussian(D2, (D1,))])
        energies: Energies = LayerEnergies([QuadraticEnergy((D1,)), QuadraticEnergy((D2,))])
        curvatures = [[0.8, -0.3], [0.5, 1.2]]
        if form == "concatenation":
            energies, curvatures = JointEnergy(QuadraticEnergy((D1 + D2,))), [[0.8, -0.3, 0.5, 1.2]]
        if form == "normalised":
            energies = NormalizedEnergies(energies)
        generator = MLPGenerator((D1,), IMAGE, [], squash=False)
        q = BottomUpInference(LinearGaussian(math.prod(IMAGE), (D1,)), [LinearGaussian(D1, (D2,))])
        likelihood = GaussianLikelihood(generator, SIGMA, learns_sigma=form == "learnt sigma")
        model = LatentEBM(JointEBMPrior(base, energies), likelihood, q if inference else None)
    model.double()
    weights = seeded(6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=weights)
    for network, curvature in zip(networks(model), curvatures, strict=True):
        network.curvature.data = torch.tensor(curvature, dtype=torch.float64)
    return model


FORMS = pytest.mark.parametrize("form", ["layers", "concatenation", "normalised", "learnt sigma"])


def networks(model: LatentEBM) -> torch.nn.ModuleList:
    """The quadratic energies."""
    energies = model.prior.energies
    return (energies.energies if isinstance(energies, NormalizedEnergies) else energies).networks


def data() -> Tensor:
    return torch.randn((NUM_DATA, *IMAGE), generator=seeded(9), dtype=torch.float64)


# --- Closed forms ------------------------------------------------------------------------------------------------


def affine(conditional: LinearGaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix, offset and standard deviations."""
    return conditional.linear.weight, conditional.linear.bias, conditional.log_scale.exp()


def decoder(model: LatentEBM) -> tuple[Tensor, Tensor]:
    """The generator as a matrix on (z_1, z_2), and its offset."""
    linear = model._likelihood.generator.net[0]
    return torch.cat([linear.weight, torch.zeros_like(linear.weight[:, :D2])], dim=1), linear.bias


def joint_of_chain(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (second, first), where first ~ N(m, C) and second = W first + b + s u."""
    (mean, covariance), (weight, bias, scale) = first, second
    cross = weight @ covariance
    own = cross @ weight.T + torch.diag(scale**2)
    return torch.cat([weight @ mean + bias, mean]), torch.cat(
        [torch.cat([own, cross], dim=1), torch.cat([cross.T, covariance], dim=1)]
    )


def base_law(model: LatentEBM) -> MultivariateNormal:
    """The Gaussian hierarchy, over (z_1, z_2)."""
    top = torch.zeros(D2, dtype=torch.float64), torch.eye(D2, dtype=torch.float64)
    return MultivariateNormal(*joint_of_chain(top, affine(model.prior.base.conditionals[0])))


def energy_terms(model: LatentEBM) -> tuple[Tensor, Tensor]:
    """A and b of sum_i E_i(z_i) = z^T A z / 2 - b^T z."""
    return torch.diag(torch.cat([n.curvature for n in networks(model)])), torch.cat([n.tilt for n in networks(model)])


def prior_law(model: LatentEBM) -> MultivariateNormal:
    """p(z) by adding precisions: P = S^-1 + A, mean P^-1 (S^-1 m + b)."""
    base, (curvature, tilt) = base_law(model), energy_terms(model)
    precision = base.precision_matrix + curvature
    mean = torch.linalg.solve(precision, base.precision_matrix @ base.mean + tilt)
    return MultivariateNormal(mean, precision_matrix=precision)


def log_normalizer(model: LatentEBM) -> Tensor:
    """log Z(alpha, beta) = log E_base[exp(-sum_i E_i)], by completing the square."""
    base, prior = base_law(model), prior_law(model)
    squares = prior.mean @ prior.precision_matrix @ prior.mean - base.mean @ base.precision_matrix @ base.mean
    log_dets = torch.logdet(base.precision_matrix) - torch.logdet(prior.precision_matrix)
    return (squares + log_dets) / 2


def marginal(model: LatentEBM) -> MultivariateNormal:
    """p(x), flat images: x = G z + d + sigma noise with z from the prior."""
    prior, (matrix, offset) = prior_law(model), decoder(model)
    noise = model.likelihood.sigma**2 * torch.eye(len(offset), dtype=torch.float64)
    return MultivariateNormal(matrix @ prior.mean + offset, matrix @ prior.covariance_matrix @ matrix.T + noise)


def posterior_law(model: LatentEBM, x: Tensor) -> MultivariateNormal:
    """p(z|x) for rows of x, by conditioning (z, x) on x: no precisions, unlike for the prior."""
    prior, (matrix, _) = prior_law(model), decoder(model)
    evidence = marginal(model)
    gain = prior.covariance_matrix @ matrix.T @ evidence.precision_matrix
    mean = prior.mean + (x.flatten(1) - evidence.mean) @ gain.T
    return MultivariateNormal(mean, prior.covariance_matrix - gain @ matrix @ prior.covariance_matrix)


def minus_log_likelihood(model: LatentEBM, x: Tensor) -> Tensor:
    return -marginal(model).log_prob(x.flatten(1)).mean()


def latents(z: Tensor) -> Latents:
    return z[:, :D1], z[:, D1:]


def balanced(law: MultivariateNormal) -> Tensor:
    """Points m +- sqrt(D) L e_k, whose mean and covariance are those of the law: exact for all quadratics, (K, D)."""
    factor = math.sqrt(law.mean.shape[-1]) * law.scale_tril.mT
    points = torch.cat([law.mean.unsqueeze(-2) + factor, law.mean.unsqueeze(-2) - factor], dim=-2)
    return points.reshape(-1, law.mean.shape[-1]).detach()


def gradients(model: LatentEBM, loss: Tensor) -> dict[str, Tensor]:
    """By parameter; zero where the loss does not depend on it."""
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


# --- Energies against closed forms -------------------------------------------------------------------------------


def scipy_log_density(law: MultivariateNormal, z: Tensor) -> Tensor:
    covariance = np.broadcast_to(law.covariance_matrix.detach().numpy(), (len(z), z.shape[1], z.shape[1]))
    means = np.broadcast_to(law.mean.detach().numpy(), z.shape)
    rows = zip(z.numpy(), means, covariance, strict=True)
    return torch.tensor([stats.multivariate_normal(mean, cov).logpdf(row) for row, mean, cov in rows])


@FORMS
@torch.no_grad()
def test_prior_energy_is_the_closed_form(form: str) -> None:
    """-E_z(z) = log N(z; mean, cov) + log Z at every z: the mean, the covariance and log Z at once."""
    model = make_model(form=form)
    constant = model.prior.energies.log_normalizer if form == "normalised" else 0
    z = torch.randn(30, D1 + D2, generator=seeded(1), dtype=torch.float64)
    expected = scipy_log_density(prior_law(model), z) + log_normalizer(model) - constant
    torch.testing.assert_close(-model.prior.energy_z(latents(z)), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_posterior_energy_is_the_closed_form() -> None:
    """-E(z; x) = log p(z|x) + log p(x) + log Z, and so in u with the Jacobian of T."""
    model, x = make_model(), data()
    z = torch.randn(NUM_DATA, D1 + D2, generator=seeded(1), dtype=torch.float64)
    evidence = marginal(model).log_prob(x.flatten(1)) + log_normalizer(model)
    expected = scipy_log_density(posterior_law(model, x), z) + evidence
    torch.testing.assert_close(-model.posterior_energy("z")(latents(z), x), expected, rtol=1e-10, atol=1e-10)
    u = model.prior.base.inverse(latents(z))
    log_det = model.prior.base.conditionals[0].log_scale.sum()
    normal_constant = (D1 + D2) / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(
        -model.posterior_energy("u")(u, x), expected + log_det + normal_constant, rtol=1e-10, atol=1e-10
    )


@torch.no_grad()
def test_log_normalizer_by_quadrature_in_u() -> None:
    """Z = int exp(-E_u(u)) du / (2 pi)^(D/2), by Gauss-Hermite quadrature on a grid in all four dimensions."""
    model = make_model()
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = torch.tensor(list(itertools.product(nodes, repeat=4)))
    log_weights = torch.tensor(list(itertools.product(np.log(weights), repeat=4))).sum(1)
    integrand = grid.square().sum(1) / 2 - model.prior.energy_u(latents(grid))  # the rule's own weight taken out
    log_z = torch.logsumexp(integrand + log_weights, 0) - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(log_z, log_normalizer(model), rtol=0, atol=1e-6)


# --- Gradients, exactly ------------------------------------------------------------------------------------------


def assert_gradients(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for name, gradient in exact.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@FORMS
def test_maximum_likelihood_gradients(form: str) -> None:
    """alpha, beta>0 and beta0: the two losses have the gradient of -log p(x), log Z included."""
    model, x = make_model(form=form), data()
    positive, negative = balanced(posterior_law(model, x)), balanced(prior_law(model))
    rows = x.repeat_interleave(len(positive) // NUM_DATA, 0)
    loss = contrastive_loss(model.prior, latents(positive), latents(negative))
    loss = loss + reconstruction_loss(model, rows, latents(positive))
    exact = gradients(model, minus_log_likelihood(model, x))
    moving = [gradient for name, gradient in exact.items() if not name.endswith("log_normalizer")]
    assert all(gradient.abs().min() > 0.01 for gradient in moving), "every entry has something to get wrong"
    assert_gradients(gradients(model, loss), exact)


def test_control_the_negative_phase_of_the_base_is_needed() -> None:
    model, x = make_model(), data()
    positive, negative = balanced(posterior_law(model, x)), balanced(prior_law(model))
    loss = energy_loss(model.prior, latents(positive), latents(negative))
    loss = loss - model.prior.base.log_prob(latents(positive)).mean()
    ours, exact = gradients(model, loss), gradients(model, minus_log_likelihood(model, x))
    alpha = {name: exact[name] for name in exact if "energies" in name}
    assert_gradients(ours, alpha)
    for name in (name for name in exact if "base" in name):
        assert (ours[name] - exact[name]).abs().max() > 0.01


def test_losses_leave_the_latents_alone() -> None:
    """Positives and negatives may carry a graph, from an inference model or a chain: no gradient goes there."""
    model, x = make_model(), data()
    z = tuple(torch.ones(NUM_DATA, d, dtype=torch.float64, requires_grad=True) for d in (D1, D2))
    losses = [
        contrastive_loss(model.prior, z, z),
        energy_loss(model.prior, z, z),
        base_negative_phase(model.prior, z),
        reconstruction_loss(model, x, z),
    ]
    for loss in losses:
        assert loss.ndim == 0
        assert torch.autograd.grad(loss, z, allow_unused=True) == (None, None)


# --- Gradients from chains ---------------------------------------------------------------------------------------


def block_gradients(model: LatentEBM, losses: list[Tensor]) -> Tensor:
    """Gradients of the losses of independent blocks, all entries side by side, (block, entry)."""
    return torch.stack([torch.cat([g.flatten() for g in gradients(model, loss).values()]) for loss in losses])


def assert_within_standard_error(blocks: Tensor, exact: Tensor) -> None:
    """Student's t over independent blocks, every entry, familywise `FALSE_ALARM`; constant entries to rounding."""
    deviation, error = blocks.mean(0) - exact, blocks.std(0) / math.sqrt(len(blocks))
    limit = stats.t(len(blocks) - 1).isf(FALSE_ALARM / 2 / blocks.shape[1])
    assert (deviation.abs() <= limit * error + 1e-10).all(), (deviation / error).tolist()


def chain_ends(energy: Callable[..., Tensor], model: LatentEBM, num_chains: int, context: Tensor | None) -> Latents:
    """Ends of independent chains from standard normal starts, long after they forgot them."""
    start = tuple(torch.randn(num_chains, d, generator=seeded(3), dtype=torch.float64) for d in (D1, D2))
    kernel = HMC(step_size=0.3, num_leapfrog_steps=6, jitter=0.3)
    result = sample(
        energy, kernel, start, num_samples=1, num_warmup=50, context=context, generator=seeded(4), show_progress=False
    )
    return tuple(part[:, -1] for part in result.draws)


@pytest.mark.parametrize("space", ["u", "z"])
def test_gradients_from_chains(space: Space) -> None:
    """Prior and posterior chains in u and in z agree with the closed-form gradient of -log p(x)."""
    model, x = make_model(), data()
    rows = x.repeat(600, 1, 1, 1)
    positive = chain_ends(model.posterior_energy(space), model, len(rows), rows)
    negative = chain_ends(model.prior.energy(space), model, len(rows), None)
    positive, negative = (model.prior.to_latents(position, space) for position in (positive, negative))
    losses = []
    for block in torch.arange(len(rows)).chunk(NUM_BLOCKS):
        here_positive, here_negative = (tuple(part[block] for part in z) for z in (positive, negative))
        loss = contrastive_loss(model.prior, here_positive, here_negative)
        losses.append(loss + reconstruction_loss(model, rows[block], here_positive))
    exact = block_gradients(model, [minus_log_likelihood(model, x)])[0]
    assert_within_standard_error(block_gradients(model, losses), exact)


# --- The variational scheme --------------------------------------------------------------------------------------


def inference_law(model: LatentEBM, x: Tensor) -> MultivariateNormal:
    """q(z|x) over (z_1, z_2) for one image x."""
    assert model.inference is not None
    weight, bias, scale = affine(model.inference.encoder)
    first = weight @ x.flatten() + bias, torch.diag(scale**2)
    mean, covariance = joint_of_chain(first, affine(model.inference.conditionals[0]))
    order = [2, 3, 0, 1]  # (z_2, z_1) to (z_1, z_2)
    return MultivariateNormal(mean[order], covariance[order][:, order])


def variational_terms(model: LatentEBM, x: Tensor) -> dict[str, Tensor]:
    """Expected terms of the bound for one image, by Gaussian algebra."""
    q, (matrix, offset), (curvature, tilt) = inference_law(model, x), decoder(model), energy_terms(model)
    residual = x.flatten() - matrix @ q.mean - offset
    square = residual @ residual + torch.trace(matrix @ q.covariance_matrix @ matrix.T)
    return {
        "reconstruction": square / (2 * SIGMA**2) + len(offset) * math.log(SIGMA * math.sqrt(2 * math.pi)),
        "kl": torch.distributions.kl_divergence(q, base_law(model)),
        "energy": (q.mean @ curvature @ q.mean + torch.trace(curvature @ q.covariance_matrix)) / 2 - tilt @ q.mean,
    }


def test_variational_gradients() -> None:
    """omega, beta0, beta>0 and alpha: the three losses have the gradient of the bound, log Z included."""
    model, x = make_model(inference=True), data()[:1]
    negative = latents(balanced(prior_law(model)))
    losses = []
    for block in range(NUM_BLOCKS):
        loss, z, _ = negative_elbo(model, x.expand(500, *IMAGE), generator=seeded(block))
        losses.append(loss + energy_loss(model.prior, z, negative) + base_negative_phase(model.prior, negative))
    bound = sum(variational_terms(model, x[0]).values(), log_normalizer(model))
    assert_within_standard_error(block_gradients(model, losses), block_gradients(model, [bound])[0])


def test_terms_of_the_bound() -> None:
    """Per datum, they add up to the loss, and their means are the closed forms."""
    model, x = make_model(inference=True), data()[:1]
    loss, z, terms = negative_elbo(model, x.expand(20_000, *IMAGE), generator=seeded())
    torch.testing.assert_close(terms.pop("kl_per_layer").sum(1), terms["kl"], rtol=1e-12, atol=1e-12)
    values = torch.stack(list(terms.values()), dim=1)
    torch.testing.assert_close(values.sum(1).mean(), loss.detach(), rtol=1e-12, atol=0)
    assert not any(tensor.requires_grad for tensor in (*z, *terms.values()))
    exact = variational_terms(model, x[0])
    assert list(terms) == list(exact)
    blocks = torch.stack([block.mean(0) for block in values.chunk(NUM_BLOCKS)])
    assert_within_standard_error(blocks, torch.stack(list(exact.values())).detach())


def test_bound_gives_the_energies_no_gradient_but_steers_the_latents() -> None:
    model, x = make_model(inference=True), data()

    def grads() -> dict[str, Tensor]:
        return gradients(model, negative_elbo(model, x, generator=seeded())[0])

    with_energies = grads()
    for name, parameter in model.prior.energies.named_parameters():
        assert not with_energies[f"prior.energies.{name}"].any()
        assert parameter.requires_grad
        parameter.data.zero_()
    without = grads()
    for name in without:
        is_omega = name.startswith("inference")
        assert torch.equal(with_energies[name], without[name]) != is_omega, name


def test_bound_without_energies_is_that_of_zero_energies() -> None:
    model, x = make_model(inference=True), data()
    without = negative_elbo(model, x, generator=seeded(), with_energies=False)
    for parameter in model.prior.energies.parameters():
        parameter.data.zero_()
    zero = negative_elbo(model, x, generator=seeded())
    torch.testing.assert_close(without[0], zero[0], rtol=1e-12, atol=0)
    assert not zero[2].pop("energy").any()
    assert list(without[2]) == list(zero[2])


def test_bound_needs_an_inference_model() -> None:
    with pytest.raises(ParameterError, match=r"needs q\(z\|x\)"):
        negative_elbo(make_model(), data(), generator=seeded())


# --- Losses that know the level of energies ----------------------------------------------------------------------


def draws(law: MultivariateNormal, seed: int, num: int = 40_000) -> Tensor:
    noise = torch.randn(num, len(law.mean), generator=seeded(seed), dtype=torch.float64)
    return (law.mean + noise @ law.scale_tril.mT).detach()


def make_normalised() -> LatentEBM:
    """With b = log Z, and curvatures for which exp(-E) has finite variance under the base."""
    model = make_model(form="normalised")
    for network in networks(model):
        network.curvature.data.abs_()
    model.prior.energies.log_normalizer.data.copy_(log_normalizer(model))
    return model


@pytest.mark.parametrize("loss", [noise_contrastive_loss, self_normalizing_loss])
def test_losses_against_the_base_stand_still_at_the_truth(loss: Callable[..., Tensor]) -> None:
    """With positives of the prior's own law and b = log Z, every entry of the gradient is zero; without, b's is not."""
    model = make_normalised()
    positive, noise = draws(prior_law(model), 1), draws(base_law(model), 2)

    def block_losses() -> list[Tensor]:
        pairs = zip(positive.chunk(NUM_BLOCKS), noise.chunk(NUM_BLOCKS), strict=True)
        return [loss(model.prior, latents(ours), latents(theirs)) for ours, theirs in pairs]

    blocks = block_gradients(model, block_losses())
    assert blocks.abs().max() > 0.01
    assert_within_standard_error(blocks, torch.zeros(blocks.shape[1], dtype=torch.float64))
    for change in (0.3, -0.3):
        model.prior.energies.log_normalizer.data.copy_(log_normalizer(model) + change)
        gradient = gradients(model, torch.stack(block_losses()).mean())["prior.energies.log_normalizer"]
        assert gradient * change > 0.01, "it pulls back towards log Z"


def test_self_normalizing_loss_bounds_the_cross_entropy() -> None:
    """mean E + E_base[exp(-E)] - 1 is mean E + log Z where b = log Z, and more elsewhere."""
    model = make_normalised()
    positive, noise = latents(draws(prior_law(model), 1)), draws(base_law(model), 2)
    exact = (networks(model)[0](positive[0]) + networks(model)[1](positive[1])).mean() + log_normalizer(model)
    blocks = [self_normalizing_loss(model.prior, positive, latents(block)) for block in noise.chunk(NUM_BLOCKS)]
    assert_within_standard_error(torch.stack(blocks).detach().unsqueeze(1), exact.detach().unsqueeze(0))
    for change in (0.5, -0.5):
        model.prior.energies.log_normalizer.data.copy_(log_normalizer(model) + change)
        assert self_normalizing_loss(model.prior, positive, latents(noise)) > exact + 0.05  # e^t - 1 - t > 0.1


def test_normalizer_loss_is_for_the_normaliser_alone() -> None:
    """Its expectation is b + Z exp(-b) - 1, and the gradient for b goes with it; nothing else gets one."""
    model = make_normalised()
    log_z = log_normalizer(model).detach()
    noise = draws(base_law(model), 2)
    for change in (0.0, 0.5):
        model.prior.energies.log_normalizer.data.copy_(log_z + change)
        losses = [normalizer_loss(model.prior, latents(block)) for block in noise.chunk(NUM_BLOCKS)]
        expected = log_z + change + math.exp(-change) - 1
        assert_within_standard_error(torch.stack(losses).detach().unsqueeze(1), expected.unsqueeze(0))
        all_gradients = [gradients(model, loss) for loss in losses]
        own = torch.stack([gradient.pop("prior.energies.log_normalizer") for gradient in all_gradients]).unsqueeze(1)
        assert_within_standard_error(own, own.new_tensor([1 - math.exp(-change)]))
        assert not any(part.any() for gradient in all_gradients for part in gradient.values())
    with pytest.raises(ParameterError, match="NormalizedEnergies"):
        normalizer_loss(make_model().prior, latents(noise))


# --- A bound below which there is nothing: warm-up and free nats -------------------------------------------------


@pytest.mark.parametrize(("weight", "free"), [(0.25, 0.0), (1.0, 0.4), (0.5, 1e6)])
def test_weighted_bound_from_its_terms(weight: float, free: float) -> None:
    model, x = make_model(inference=True), data()
    loss, _, terms = negative_elbo(model, x, generator=seeded(), kl_weight=weight, free_nats=free)
    layers = [max(free, float(kl)) for kl in terms["kl_per_layer"].mean(0)] if free else [float(terms["kl"].mean())]
    expected = terms["reconstruction"].mean() + weight * (sum(layers) + terms["energy"].mean())
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
    if free == 1e6:
        base = [gradient for name, gradient in gradients(model, loss).items() if "base" in name]
        assert not any(gradient.any() for gradient in base), "nothing to gain from layers that are free"


# --- Ladder inference --------------------------------------------------------------------------------------------


def ladder_model() -> LatentEBM:
    """Three layers of one entry each, zero energies, and evidence by its closed form: q(z|x) is the posterior."""
    with seeded_init(1):
        base = GaussianHierarchy((1,), [LinearGaussian(1, (1,)) for _ in range(2)])
        generator = MLPGenerator((1,), IMAGE, [], squash=False)
        evidence = [LinearGaussian(math.prod(IMAGE), (1,)) for _ in range(3)]
        ups = [torch.nn.Flatten(), torch.nn.Identity(), torch.nn.Identity()]
        q = LadderInference(base, ups, evidence)
        energies = LayerEnergies(QuadraticEnergy((1,)) for _ in range(3))
        model = LatentEBM(JointEBMPrior(base, energies), GaussianLikelihood(generator, SIGMA), q).double()
    for conditional in base.conditionals:
        conditional.log_scale.data.fill_(-0.4)
    linear = generator.net[0]
    weight, offset = linear.weight.detach(), linear.bias.detach()
    noise = SIGMA**2 * torch.eye(len(offset), dtype=torch.float64)
    for layer, net in enumerate(evidence):  # x | z_i ~ N(weight z_i + offset, noise)
        information = torch.linalg.solve(noise, weight)
        precision = weight.T @ information
        net.linear.weight.data = torch.linalg.solve(precision, information.T)
        net.linear.bias.data = -net.linear.weight.data @ offset
        net.log_scale.data = -0.5 * precision.log().squeeze(0)
        if layer < 2:
            matrix, bias, scale = (part.detach() for part in affine(base.conditionals[layer]))
            noise = noise + weight @ torch.diag(scale**2) @ weight.T
            weight, offset = weight @ matrix, weight @ bias + offset
    return model


def ladder_evidence(model: LatentEBM, x: Tensor) -> Tensor:
    """log p(x) of `ladder_model`."""
    law = torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    for conditional in reversed(model.prior.base.conditionals):
        matrix, bias, scale = affine(conditional)
        law = matrix @ law[0] + bias, matrix @ law[1] @ matrix.T + torch.diag(scale**2)
    linear = model._likelihood.generator.net[0]
    covariance = linear.weight @ law[1] @ linear.weight.T + SIGMA**2 * torch.eye(len(linear.bias), dtype=torch.float64)
    return MultivariateNormal(linear.weight @ law[0] + linear.bias, covariance).log_prob(x.flatten(1))


@torch.no_grad()
def test_ladder_inference_holds_the_true_posterior() -> None:
    """log q(z|x) = log p(x, z) - log p(x) at every z; so a single draw gives the evidence without error."""
    model, x = ladder_model(), data()
    exact = ladder_evidence(model, x)
    z = tuple(torch.randn(NUM_DATA, 1, generator=seeded(layer), dtype=torch.float64) for layer in range(3))
    posterior = model.likelihood.log_prob(x, z) + model.prior.base.log_prob(z) - exact
    torch.testing.assert_close(model.inference.log_prob(z, x), posterior, rtol=1e-10, atol=1e-10)
    for seed in range(3):
        loss = negative_elbo(model, x, generator=seeded(seed))[0]
        torch.testing.assert_close(loss, -exact.mean(), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_control_the_ladder_needs_the_prior() -> None:
    """The evidence alone, without the way down, is far from the posterior: the weighting is what makes it exact."""
    model, x = ladder_model(), data()
    z = tuple(torch.randn(NUM_DATA, 1, generator=seeded(layer), dtype=torch.float64) for layer in range(3))
    alone = [net(x.flatten(1)).log_prob(part) for net, part in zip(model.inference.evidence, z, strict=True)]
    assert (torch.stack(alone).sum(0) - model.inference.log_prob(z, x)).abs().max() > 0.05
