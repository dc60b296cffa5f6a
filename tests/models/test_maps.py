"""Feature maps: networks between events, hierarchies and ladders with dense and convolutional latents, energies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from lamina.models import (
    ConvEnergy,
    Event,
    EventGaussian,
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    JointEnergy,
    LadderGenerator,
    LadderInference,
    LatentEBM,
    LayerEnergies,
    MLPEnergy,
    NormalizedEnergies,
    StandardNormal,
    clip_spectral_norms,
    event_net,
    feature_event,
    negative_elbo,
    seeded_init,
)
from lamina.samplers import Layout, ParameterError

IMAGE = (1, 12, 8)
DEEP = [(2, 6, 4), (1, 3, 2), (4,), (3,), (2,)]
"""Five layers: maps that lead to each other by halving, then rows."""
HIDDEN, WIDTH = (8,), 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hierarchy(events: Sequence[Event], dtype: torch.dtype = torch.float64) -> GaussianHierarchy:
    with seeded_init(1):
        below = [EventGaussian(above, event, HIDDEN, width=WIDTH) for event, above in pairwise(events)]
    for conditional in below:
        for weight in conditional.parameters():
            weight.data *= 1.5
    return GaussianHierarchy(events[-1], below).to(dtype)


def ladder(base: GaussianHierarchy, image: Event = IMAGE) -> LadderInference:
    """As deep as the base prior."""
    with seeded_init(2):
        features = [feature_event(event, HIDDEN, WIDTH) for event in base.events]
        ways = pairwise([image, *features])
        ups = [event_net(source, target, HIDDEN, width=WIDTH) for source, target in ways]
        evidence = [
            EventGaussian(source, event, HIDDEN, width=WIDTH)
            for source, event in zip(features, base.events, strict=True)
        ]
        return LadderInference(base, ups, evidence).double()


def ladder_model(events: Sequence[Event] = DEEP) -> LatentEBM:
    base = hierarchy(events)
    with seeded_init(3):
        energies = LayerEnergies(
            ConvEnergy(e, HIDDEN, width=3, start_at_zero=False)
            if len(e) == 3
            else MLPEnergy(e, HIDDEN, start_at_zero=False)
            for e in events
        )
        generator = LadderGenerator(events, IMAGE, HIDDEN, width=WIDTH)
    return LatentEBM(JointEBMPrior(base, energies), GaussianLikelihood(generator, 0.3), ladder(base)).double()


def images(num: int) -> Tensor:
    return 2 * torch.rand((num, *IMAGE), generator=seeded(5), dtype=torch.float64) - 1


# --- Networks between events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [(5,), (2, 7, 7), (3, 14, 14), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("target", [(4,), (1, 7, 7), (2, 14, 14), (3, 28, 28)], ids=str)
def test_event_nets_lead_from_any_event_to_any_other(source: Event, target: Event) -> None:
    with seeded_init(0):
        net = event_net(source, target, HIDDEN, width=2)
    x = torch.randn((3, *source), generator=seeded())
    assert net(x).shape == (3, *target)
    kinds = {type(layer) for layer in net}
    assert (nn.Conv2d in kinds) == (len(source) == 3 or len(target) == 3)
    assert (nn.Flatten in kinds or nn.Unflatten in kinds) == (len(source) != len(target))


def test_maps_lie_with_their_channels_last_and_mean_the_same() -> None:
    with seeded_init(0):
        nets = event_net((5,), (3, 28, 28), (), width=4), ConvEnergy((3, 28, 28), (8,), width=4, start_at_zero=False)
    x = torch.randn(2, 5, generator=seeded())
    image = nets[0](x)
    assert image.is_contiguous(memory_format=torch.channels_last)
    for net, inputs in zip(nets, (x, image), strict=True):
        usual = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
        weights = [weight for weight in net.parameters() if weight.ndim == 4]
        assert len(weights) == sum(weight.ndim == 4 and weight.is_contiguous() for weight in usual.parameters()) > 1
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        torch.testing.assert_close(net(inputs), usual(inputs.contiguous()))


@pytest.mark.parametrize(("image", "channels"), [((3, 32, 32), 1024), ((1, 28, 28), 1024), ((1, 7, 7), 256)], ids=str)
def test_channels_double_with_every_halving(image: Event, channels: int) -> None:
    with seeded_init(0), torch.device("meta"):
        down, up = event_net(image, (9,), (), width=256), event_net((9,), image, (), width=256)
    coarsest = (channels, *(side // (channels // 256) for side in image[1:]))
    assert up[1].unflattened_size == coarsest
    assert down[-1].in_features == coarsest[0] * coarsest[1] * coarsest[2]
    first = down[0]
    assert (first.in_channels, first.out_channels, first.stride) == (image[0], 256, (1, 1))


@pytest.mark.parametrize("target", [(1, 5, 5), (1, 14, 7), (1, 9, 14), (1, 42, 42)], ids=str)
def test_maps_without_a_common_ladder_are_refused(target: Event) -> None:
    for ends in ((1, 14, 14), target), (target, (1, 14, 14)):
        with pytest.raises(ParameterError, match="doubling or halving"):
            event_net(*ends, (), width=2)


# --- Hierarchies -------------------------------------------------------------------------------------------------


def test_density_times_jacobian_with_maps() -> None:
    """p(T(u)) |det dT/du| = N(u; 0, I), by autograd, through maps and rows."""
    base = hierarchy([(2, 2, 2), (1, 1, 1), (3,), (2,)])
    u = base.noise(3, generator=seeded())
    layout = Layout.of(u)

    def transform(flat: Tensor) -> Tensor:
        return layout.ravel(base.transform(layout.unravel(flat.unsqueeze(0)))).squeeze(0)

    flat = layout.ravel(u)
    log_det = torch.stack([torch.linalg.slogdet(torch.func.jacrev(transform)(row)).logabsdet for row in flat])
    assert log_det.std() > 0.1
    normal = Normal(0.0, 1.0).log_prob(flat).sum(1)
    torch.testing.assert_close(base.log_prob(base.transform(u)) + log_det, normal, rtol=1e-11, atol=1e-11)


def test_five_layers_of_maps_and_rows() -> None:
    base = hierarchy(DEEP)
    u = base.noise(4, generator=seeded())
    z = base.transform(u)
    assert [part.shape[1:] for part in z] == list(base.events)
    for back, part in zip(base.inverse(z), u, strict=True):
        torch.testing.assert_close(back, part, rtol=1e-9, atol=1e-9)
    assert base.per_layer(z).shape == (4, 5)
    torch.testing.assert_close(base.per_layer(z).sum(1), base.log_prob(z), rtol=0, atol=0)


def test_independent_layers_are_standard_normal() -> None:
    base = GaussianHierarchy((3,), [StandardNormal((2, 2, 2)), StandardNormal((4,))]).double()
    z = base.noise(5, generator=seeded())
    assert all(torch.equal(part, other) for part, other in zip(base.transform(z), z, strict=True))
    expected = sum(Normal(0.0, 1.0).log_prob(part).flatten(1).sum(1) for part in z)
    torch.testing.assert_close(base.log_prob(z), expected, rtol=1e-12, atol=1e-12)


# --- The ladder --------------------------------------------------------------------------------------------------


def test_every_layer_enters_the_ladder_generator() -> None:
    model = ladder_model()
    z = tuple(part.requires_grad_() for part in model.prior.base.sample(2, generator=seeded()))
    image = model.likelihood.mean(z)
    assert image.shape == (2, *IMAGE)
    assert all(bool(grad.any()) for grad in torch.autograd.grad(image.sum(), z))


def test_ladder_factors_are_products_of_evidence_and_prior() -> None:
    """From the formula of Sonderby et al., written out for each layer of five."""
    model, x = ladder_model(), images(4)
    base, q = model.prior.base, model.inference
    z, log_q = q.draw(x, generator=seeded())
    d, expected = x, []
    for layer in range(5):
        d = q.ups[layer](d)
        mean_hat, scale_hat = q.evidence[layer](d)
        mean, scale = base.conditionals[layer](z[layer + 1]) if layer < 4 else (0 * mean_hat, 0 * scale_hat + 1)
        precision = scale_hat**-2 + scale**-2
        law = Normal((mean_hat * scale_hat**-2 + mean * scale**-2) / precision, precision**-0.5)
        expected.append(law.log_prob(z[layer]).flatten(1).sum(1))
    torch.testing.assert_close(log_q, torch.stack(expected, dim=1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.log_prob(z, x), log_q.sum(1), rtol=1e-10, atol=1e-10)
    again, other = (q.draw(x, generator=seeded(seed))[0] for seed in (0, 1))
    assert torch.equal(again[0], z[0])
    assert not torch.equal(other[0], z[0])


def test_the_ladder_uses_the_base_prior_and_does_not_own_it() -> None:
    """One set of weights, also in copies and checkpoints; and the bound moves it through q as well."""
    model = ladder_model()
    inference = dict(model.inference.named_parameters())
    assert not {id(p) for p in model.prior.base.parameters()} & {id(p) for p in inference.values()}
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    copied = copy.deepcopy(model)
    x = images(3)
    for weight in copied.prior.base.parameters():
        weight.data += 0.1
    z, other = (each.inference.mean(x) for each in (model, copied))
    assert torch.equal(z[-1], other[-1]), "the top layer stands on N(0, I)"
    assert not torch.equal(z[0], other[0])
    log_q = model.inference.draw(x, generator=seeded())[1].sum()
    used = torch.autograd.grad(log_q, list(model.prior.base.parameters()), allow_unused=True)
    assert any(gradient is not None and bool(gradient.any()) for gradient in used)


def test_a_ladder_of_another_depth_is_refused() -> None:
    base = hierarchy([(3,), (2,)])
    with pytest.raises(ParameterError, match="2 layers; got 1 networks up and evidence for 2"):
        LadderInference(base, [nn.Flatten()], [nn.Identity(), nn.Identity()])


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_the_bound_of_a_deep_ladder(depth: int) -> None:
    """Per layer and in all; every weight has a gradient, but for the energies' own."""
    model, x = ladder_model(DEEP[:depth]), images(4)
    loss, z, terms = negative_elbo(model, x, generator=seeded())
    kl = model.inference.log_prob(z, x) - model.prior.base.log_prob(z)
    torch.testing.assert_close(terms["kl"], kl.detach(), rtol=1e-9, atol=1e-9)
    assert terms["kl_per_layer"].shape == (4, depth)
    loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) != ("energies" in name), name
    for space in ("u", "z"):
        position = tuple(part.requires_grad_() for part in model.prior.from_latents(z, space))
        energy = model.posterior_energy(space)(position, x)
        assert energy.shape == (4,)
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(energy.sum(), position))


# --- Energies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 4, 7, 8, 13, 14, 16, 28, 32])
def test_conv_energy_halves_down_to_seven_at_most(side: int) -> None:
    with seeded_init(0):
        zero, other = (ConvEnergy((2, side, side + 1), (5,), width=3, start_at_zero=start) for start in (True, False))
    z = torch.randn((3, 2, side, side + 1), generator=seeded(), requires_grad=True)
    assert torch.equal(zero(z), torch.zeros(3))
    assert other(z).shape == (3,)
    assert other(z).std() > 0
    coarse = other.features[:-1](z).shape[2]
    assert coarse == side if side < 8 else 4 <= coarse <= 7
    (gradient,) = torch.autograd.grad(other(z)[0], z)
    assert bool(gradient[0].any())
    assert not gradient[1:].any(), "a chain's energy is its own"


@pytest.mark.parametrize(("side", "hidden", "count"), [(16, (200, 200), 331_545), (8, (200,), 225_745)])
def test_conv_energy_has_the_published_size(side: int, hidden: tuple[int, ...], count: int) -> None:
    """331.5 thousand weights for a group of 20 x 16 x 16 latents: twice 64 channels, 1024 entries, 2 x 200, 1."""
    with seeded_init(0):
        energy = ConvEnergy((20, side, side), hidden, smooth=False)
    assert sum(weight.numel() for weight in energy.parameters()) == count


def test_joint_energy_sees_relations_between_layers() -> None:
    with seeded_init(0):
        joint = JointEnergy(MLPEnergy((10,), (6,), start_at_zero=False)).double()
    z1, z2 = (torch.randn(shape, generator=seeded(1)).double() for shape in ((4, 2, 2, 2), (4, 2)))
    torch.testing.assert_close(joint((z1, z2)), joint.networks[0](torch.cat([z1.flatten(1), z2], dim=1)))
    assert joint.per_layer((z1, z2)).shape == (4, 1)
    zero1, zero2 = torch.zeros_like(z1), torch.zeros_like(z2)
    mixed = joint((z1, z2)) - joint((z1, zero2)) - joint((zero1, z2)) + joint((zero1, zero2))
    assert mixed.abs().min() > 1e-6, "no sum of energies of single layers"


def test_the_normaliser_shifts_the_sum_and_no_term() -> None:
    with seeded_init(0):
        plain = LayerEnergies([MLPEnergy((3,), (6,), start_at_zero=False)])
    shifted, z = NormalizedEnergies(plain), (torch.randn((4, 3), generator=seeded()),)
    shifted.log_normalizer.data.fill_(2.5)
    torch.testing.assert_close(shifted(z), plain(z) + 2.5)
    assert torch.equal(shifted.per_layer(z), plain.per_layer(z))


# --- Spectral norms ----------------------------------------------------------------------------------------------


def test_spectral_norms_meet_the_limit() -> None:
    with seeded_init(0):
        net = nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten(), nn.Linear(3, 6), nn.Linear(6, 1))
    net[2].weight.data *= 20
    net[3].weight.data.zero_()
    before = copy.deepcopy(net)
    clip_spectral_norms(net, 0.9)
    for old, new in zip(before.parameters(), net.parameters(), strict=True):
        if old.ndim < 2:
            assert torch.equal(old, new)
            continue
        norm = torch.linalg.matrix_norm(old.flatten(1), 2)
        torch.testing.assert_close(new, old * (0.9 / norm).clamp(max=1), msg="scaled as a whole, or left alone")
        assert torch.linalg.matrix_norm(new.flatten(1), 2) <= 0.9 * (1 + 1e-5)
    again = copy.deepcopy(net)
    clip_spectral_norms(again, 0.9 * (1 + 1e-5))
    assert all(torch.equal(old, new) for old, new in zip(net.parameters(), again.parameters(), strict=True))


def test_spectral_limits_bound_the_slope() -> None:
    """With LeakyReLU, slopes of an energy of three weight matrices are below the limit's cube."""
    with seeded_init(0):
        energy = MLPEnergy((4,), (50, 50), smooth=False, start_at_zero=False).double()
    for weight in energy.parameters():
        weight.data *= 5
    z, other = (torch.randn((500, 4), generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))

    def slope() -> Tensor:
        return ((energy(z) - energy(other)).abs() / (z - other).norm(dim=1)).max()

    assert slope() > 0.8**3
    clip_spectral_norms(energy, 0.8)
    assert slope() <= 0.8**3 + 1e-12


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_left_to_others(wrong: float) -> None:
    with seeded_init(0):
        net = nn.Linear(2, 2)
    net.weight.data.fill_(wrong)
    clip_spectral_norms(net, 1.0)
    assert not net.weight.isfinite().any()


def test_spectral_limits_are_positive() -> None:
    with pytest.raises(ParameterError, match="spectral norms"):
        clip_spectral_norms(nn.Identity(), 0.0)
