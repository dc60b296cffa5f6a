"""Likelihoods, generators, inference models and the small print of networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from lamina.models import (
    BernoulliLikelihood,
    BottomUpInference,
    ConvGenerator,
    EventGaussian,
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    LayerEnergies,
    LinearGaussian,
    MLPEnergy,
    MLPGaussian,
    MLPGenerator,
    QuadraticEnergy,
    check_space,
    mlp,
    negative_elbo,
    seeded_init,
)
from lamina.samplers import ParameterError, UnknownNameError

IMAGE = (1, 8, 12)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole_model(seed: int = 0) -> LatentEBM:
    """One of everything: two layers, the lower with an event of rank 2."""
    with seeded_init(seed):
        base = GaussianHierarchy((3,), [MLPGaussian(3, (2, 2), [8])])
        energies = LayerEnergies([MLPEnergy((2, 2), [8]), MLPEnergy((3,), [8])])
        inference = BottomUpInference(EventGaussian(IMAGE, (2, 2), width=4), [MLPGaussian(4, (3,), [8])])
        likelihood = GaussianLikelihood(ConvGenerator((2, 2), IMAGE, width=4), 0.3)
        return LatentEBM(JointEBMPrior(base, energies), likelihood, inference)


def images(num: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.rand((num, *IMAGE), generator=seeded(5), dtype=dtype) - 1


# --- Likelihoods -------------------------------------------------------------------------------------------------


def dense_generator(squash: bool) -> MLPGenerator:
    with seeded_init(0):
        return MLPGenerator((3,), IMAGE, [8], squash=squash).double()


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_gaussian_likelihood(sigma: float) -> None:
    z, x, generator = torch.randn(5, 3, generator=seeded()).double(), images(5), dense_generator(squash=True)
    likelihood = GaussianLikelihood(generator, sigma)
    expected = Independent(Normal(generator((z,)), sigma), len(IMAGE)).log_prob(x)
    torch.testing.assert_close(likelihood.log_prob(x, (z,)), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(likelihood.mean((z,)), generator((z,)))


def test_bernoulli_likelihood() -> None:
    z, generator = torch.randn(5, 3, generator=seeded()).double(), dense_generator(squash=False)
    bits = (images(5) > 0).double()
    likelihood, law = BernoulliLikelihood(generator), Independent(Bernoulli(logits=generator((z,))), len(IMAGE))
    x = 2 * bits - 1
    torch.testing.assert_close(likelihood.log_prob(x, (z,)), law.log_prob(bits), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(likelihood.mean((z,)), 2 * law.mean - 1, rtol=1e-12, atol=1e-12)


def test_bernoulli_likelihood_is_linear_in_grey_values() -> None:
    z, x = torch.randn(5, 3, generator=seeded()).double(), images(5)
    likelihood = BernoulliLikelihood(dense_generator(squash=False))
    black, white, grey = (likelihood.log_prob(image, (z,)) for image in (0 * x - 1, 0 * x + 1, 0 * x))
    torch.testing.assert_close(grey, (black + white) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", [lambda g: GaussianLikelihood(g, 0.3), BernoulliLikelihood])
def test_data_that_do_not_fit_the_latents_are_refused(likelihood: Callable[[nn.Module], nn.Module]) -> None:
    """A missing channel axis or a single row would broadcast in silence."""
    log_prob = likelihood(dense_generator(squash=False)).log_prob
    z = torch.zeros(5, 3, dtype=torch.float64)
    for wrong in (images(1), images(5)[:, 0], images(5)[..., :4], images(4)):
        with pytest.raises(ParameterError, match=r"row by row.*\(5, 1, 8, 12\)"):
            log_prob(wrong, (z,))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_is_positive(sigma: float) -> None:
    with pytest.raises(ParameterError, match="sigma"):
        GaussianLikelihood(dense_generator(squash=True), sigma)


# --- Generators and encoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [(6,), (2, 3), (), (2, 4, 8), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_generators_make_images(kind: str, latent: tuple[int, ...]) -> None:
    def make(squash: bool) -> nn.Module:
        with seeded_init(0):
            if kind == "mlp":
                return MLPGenerator(latent, (3, 4, 8), [16], squash=squash)
            return ConvGenerator(latent, (3, 4, 8), width=4, squash=squash)

    z = 5 * torch.randn((7, *latent), generator=seeded())
    squashed, logits = make(squash=True)((z,)), make(squash=False)((z,))
    assert squashed.shape == (7, 3, 4, 8)
    torch.testing.assert_close(squashed, torch.tanh(logits))


@pytest.mark.parametrize("event", [(5,), (2, 3), (3, 4, 6), (2, 8, 12)], ids=str)
def test_event_gaussian_gives_positive_scales(event: tuple[int, ...]) -> None:
    with seeded_init(0):
        encoder = EventGaussian(IMAGE, event, width=4, floor=0.2)
    gaussian = encoder(images(6, torch.float32))
    assert gaussian.mean.shape == gaussian.scale.shape == (6, *event)
    assert (gaussian.scale > 0.2).all()


# --- The inference model -----------------------------------------------------------------------------------------


def test_inference_gives_the_density_of_its_draws() -> None:
    inference = whole_model().double().inference
    assert inference is not None
    x = images(6)
    z, log_q = inference(x, generator=seeded(1))
    assert [part.shape for part in z] == [(6, 2, 2), (6, 3)]
    torch.testing.assert_close(inference.log_prob(z, x), log_q, rtol=1e-12, atol=1e-12)
    expected = torch.zeros(6, dtype=torch.float64)
    for part, (mean, scale) in zip(z, (inference.encoder(x), inference.conditionals[0](z[0])), strict=True):
        expected += Independent(Normal(mean, scale), part.ndim - 1).log_prob(part)
    torch.testing.assert_close(log_q, expected, rtol=1e-12, atol=1e-12)
    again, other = (inference(x, generator=seeded(seed))[0] for seed in (1, 2))
    assert torch.equal(z[1], again[1])
    assert not torch.equal(z[1], other[1])


@torch.no_grad()
def test_inference_normalises() -> None:
    """The integral of q(z_1, z_2|x) by the trapezoid rule, far beyond where it decays."""
    with seeded_init(0):
        inference = BottomUpInference(LinearGaussian(96, (1,)), [MLPGaussian(1, (1,), [8])]).double()
    axis = torch.linspace(-15, 15, 600, dtype=torch.float64)
    z1, z2 = torch.cartesian_prod(axis, axis).split(1, dim=1)
    log_q = inference.log_prob((z1, z2), images(1).expand(len(z1), *IMAGE))
    density = log_q.exp().reshape(600, 600)
    total = torch.trapezoid(torch.trapezoid(density, axis), axis)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-8)


def test_inference_mean_goes_up_by_means() -> None:
    inference = whole_model().inference
    assert inference is not None
    x = images(6, torch.float32)
    below, above = inference.mean(x)
    assert torch.equal(below, inference.encoder(x).mean)
    assert torch.equal(above, inference.conditionals[0](below).mean)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_inference_refuses_another_depth(num_layers: int) -> None:
    inference = whole_model().inference
    assert inference is not None
    z = (torch.zeros(2, 2, 2), torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ParameterError, match=f"over 2 layers; got latents of {num_layers}"):
        inference.log_prob(z[:num_layers], images(2, torch.float32))


# --- Energies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("smooth", [True, False])
def test_mlp_energy_starts_at_zero(event: tuple[int, ...], smooth: bool) -> None:
    z = torch.randn((5, *event), generator=seeded(), requires_grad=True)
    with seeded_init(0):
        zero, other = (MLPEnergy(event, [8], smooth=smooth, start_at_zero=start) for start in (True, False))
    assert torch.equal(zero(z), torch.zeros(5))
    assert not torch.autograd.grad(zero(z).sum(), z)[0].any()
    assert any(grad.any() for grad in torch.autograd.grad(zero(z).sum(), list(zero.parameters())))
    assert other(z).shape == (5,)
    assert other(z).std() > 0


def test_quadratic_energy() -> None:
    energy = QuadraticEnergy((2,))
    energy.curvature.data, energy.tilt.data = torch.tensor([1.0, 3.0]), torch.tensor([0.5, -1.0])
    torch.testing.assert_close(energy(torch.tensor([[2.0, 1.0], [0.0, -2.0]])), torch.tensor([3.5, 4.0]))


def test_energies_add_up_over_layers() -> None:
    with seeded_init(0):
        energies = LayerEnergies([MLPEnergy((2,), [8], start_at_zero=False), QuadraticEnergy((3,))])
    z = torch.randn(4, 2, generator=seeded()), torch.randn(4, 3, generator=seeded())
    assert energies.per_layer(z).shape == (4, 2)
    assert torch.equal(energies.per_layer(z)[:, 0], energies.networks[0](z[0]))
    torch.testing.assert_close(energies(z), energies.per_layer(z).sum(1))
    with pytest.raises(ParameterError, match="energies for 2 layers; got latents of 1"):
        energies(z[:1])


# --- Networks ----------------------------------------------------------------------------------------------------


def test_mlp_activations() -> None:
    with seeded_init(0):
        smooth, rough = mlp([2, 3, 4, 1]), mlp([2, 3, 1], smooth=False)
    assert [type(layer) for layer in smooth] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert isinstance(rough[1], nn.LeakyReLU)
    assert rough[1].negative_slope == 0.2


def test_seeded_init_is_reproducible_and_leaves_global_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(seed: int) -> Tensor:
        with seeded_init(seed):
            return nn.Linear(3, 3).weight

    def refuse(*_: object) -> None:
        raise AssertionError("reseeds the generators of accelerators")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    before = torch.get_rng_state()
    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- The whole model ---------------------------------------------------------------------------------------------


@DTYPES
def test_dtypes_pass_through(dtype: torch.dtype) -> None:
    model = whole_model().to(dtype)
    x, prior = images(4, dtype), model.prior
    u = prior.base.noise(4, generator=seeded())
    z, log_q = model.inference(x, generator=seeded())
    loss, _, terms = negative_elbo(model, x, generator=seeded())
    values = [*u, *z, log_q, loss, *terms.values(), model.likelihood.mean(z)]
    values += [prior.energy(space)(u) for space in ("u", "z")]
    values += [model.posterior_energy(space)(u, x) for space in ("u", "z")]
    assert {value.dtype for value in values} == {dtype}


def test_spaces_are_checked() -> None:
    model = whole_model()
    assert check_space("u") == "u"
    for use in (check_space, model.prior.energy, model.posterior_energy):
        with pytest.raises(UnknownNameError, match="unknown space 'x'"):
            use("x")


def test_latents_and_positions_convert() -> None:
    prior = whole_model().double().prior
    u = prior.base.noise(4, generator=seeded())
    z = prior.to_latents(u, "u")
    assert torch.equal(z[0], prior.base.transform(u)[0])
    torch.testing.assert_close(prior.from_latents(z, "u"), u, rtol=1e-10, atol=1e-10)
    assert prior.to_latents(z, "z") is z
    assert prior.from_latents(z, "z") is z


def test_state_dict_round_trip() -> None:
    model, other = whole_model(0), whole_model(1)
    x = images(3, torch.float32)

    def loss(of: LatentEBM) -> Tensor:
        return negative_elbo(of, x, generator=seeded())[0]

    assert not torch.equal(loss(model), loss(other))
    state = copy.deepcopy(model.state_dict())
    assert set(state) == {name for name, _ in model.named_parameters()}, "all of the state is parameters"
    other.load_state_dict(state)
    assert torch.equal(loss(model), loss(other))
