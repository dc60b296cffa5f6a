"""The Gaussian hierarchy: a bijection between noise and latents, and the density that goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal

from lamina.models import GaussianHierarchy, Latents, LinearGaussian, MLPGaussian, seeded_init
from lamina.samplers import Layout, ParameterError
from lamina.samplers.testing import dkw_half_width, ks_one_sample

Events = Sequence[tuple[int, ...]]

EVENTS = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4)
"""Depths 1 to 4, event ranks 0 to 3."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hierarchy(events: Events, dtype: torch.dtype = torch.float64) -> GaussianHierarchy:
    """Conditionals by networks with weights large enough that means and scales vary with the layer above."""
    with seeded_init(1):
        below = [MLPGaussian(math.prod(above), event, [8]) for event, above in pairwise(events)]
    for conditional in below:
        for weight in conditional.parameters():
            weight.data *= 1.5
    return GaussianHierarchy(events[-1], below).to(dtype)


def assert_same(ours: Latents, theirs: Latents, **tolerance: float) -> None:
    for part, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(part, other, **tolerance)


@given(events=EVENTS, num=st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_transform_and_inverse_undo_each_other(events: Events, num: int) -> None:
    base = hierarchy(events)
    assert base.depth == len(events)
    u = base.noise(num, generator=seeded())
    z = base.transform(u)
    assert [part.shape for part in z] == [(num, *event) for event in events]
    assert_same(base.inverse(z), u, rtol=1e-9, atol=1e-9)
    assert_same(base.transform(base.inverse(u)), u, rtol=1e-9, atol=1e-9)


@given(events=EVENTS)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_log_prob_is_the_sum_of_torch_distributions(events: Events) -> None:
    base = hierarchy(events)
    z = base.noise(5, generator=seeded(2))  # any point will do
    expected = torch.zeros(5, dtype=torch.float64)
    for layer, part in enumerate(z):
        mean, scale = base.conditionals[layer](z[layer + 1]) if layer + 1 < len(z) else (0 * part, 1 + 0 * part)
        expected += Independent(Normal(mean, scale), part.ndim - 1).log_prob(part)
    torch.testing.assert_close(base.log_prob(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("events", [[(3,)], [(2,), (3,)], [(2, 2), (1,), (3,)], [(), (2,), (1, 2, 1), (2,)]], ids=str)
def test_density_times_jacobian_is_the_standard_normal(events: Events) -> None:
    """p(T(u)) |det dT/du| = N(u; 0, I), with the determinant of the whole Jacobian by autograd."""
    base = hierarchy(events)
    u = base.noise(4, generator=seeded(3))
    layout = Layout.of(u)

    def transform(flat: Tensor) -> Tensor:
        z = base.transform(layout.unravel(flat.unsqueeze(0)))
        return layout.ravel(z).squeeze(0)

    flat = layout.ravel(u)
    log_det = torch.stack([torch.linalg.slogdet(torch.func.jacrev(transform)(row)).logabsdet for row in flat])
    if len(events) > 1:
        assert log_det.std() > 0.1, "the identity says nothing where the volume does not change"
    normal = Normal(0.0, 1.0).log_prob(flat).sum(1)
    torch.testing.assert_close(base.log_prob(base.transform(u)) + log_det, normal, rtol=1e-11, atol=1e-11)


def linear_hierarchy() -> GaussianHierarchy:
    with seeded_init(4):
        base = GaussianHierarchy((2,), [LinearGaussian(2, (3,)), LinearGaussian(2, (2,))]).double()
    for conditional in base.conditionals:
        torch.nn.init.normal_(conditional.log_scale, std=0.5, generator=seeded(5))
    return base


def exact_moments(base: GaussianHierarchy) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (z_1, ..., z_L) by writing z = m + M u, layer by layer from the top."""
    mean, factor = np.zeros(2), np.eye(2)  # of the layer above, in terms of all noise
    means, factors = [mean], [factor]
    for conditional in reversed(base.conditionals):
        weight, bias = (p.detach().numpy() for p in (conditional.linear.weight, conditional.linear.bias))
        scale = conditional.log_scale.detach().exp().numpy()
        mean, factor = weight @ mean + bias, np.hstack([weight @ factor, np.diag(scale)])
        means.insert(0, mean)
        factors.insert(0, factor)
    stacked = np.vstack([np.pad(f, ((0, 0), (0, factor.shape[1] - f.shape[1]))) for f in factors])
    return np.concatenate(means), stacked @ stacked.T


def test_ancestral_draws_have_the_exact_law() -> None:
    """Coordinates and random projections of all layers together are normal; familywise 1e-6 by DKW bands."""
    base = linear_hierarchy()
    mean, covariance = exact_moments(base)
    draws = torch.cat(base.sample(100_000, generator=seeded(6)), dim=1)
    directions = torch.cat([torch.eye(7), torch.randn(20, 7, generator=seeded(7))]).double()
    band = dkw_half_width(len(draws), 1e-6 / len(directions))
    for direction in directions.numpy():
        law = stats.norm(direction @ mean, math.sqrt(direction @ covariance @ direction))
        values = draws @ torch.from_numpy(direction)
        assert ks_one_sample(values, lambda x, law=law: torch.from_numpy(law.cdf(x))) <= band


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("events", [[(3,)], [(2,), (3,)]], ids=["L=1", "L=2"])
def test_draws_come_from_the_generator_given(events: Events, dtype: torch.dtype) -> None:
    base = hierarchy(events, dtype)
    before = torch.get_rng_state()
    first, again, other = (base.sample(6, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, again, rtol=0, atol=0)
    assert all(part.dtype == dtype and not part.requires_grad for part in first)
    assert not any(torch.equal(part, different) for part, different in zip(first, other, strict=True))


def test_layers_of_noise_are_independent_draws() -> None:
    z1, z2 = hierarchy([(4,), (4,)]).noise(50, generator=seeded())
    assert not torch.equal(z1, z2)


def wrong_latents() -> dict[str, object]:
    z1, z2 = torch.zeros(5, 2), torch.zeros(5, 3)
    return {
        "a list": [z1, z2],
        "a tensor": z1,
        "a layer short": (z1,),
        "a layer too many": (z1, z2, z2),
        "top first": (z2, z1),
        "rows that broadcast": (z1, z2[:1]),
    }


@pytest.mark.parametrize("method", ["log_prob", "transform", "inverse"])
@pytest.mark.parametrize("wrong", wrong_latents())
def test_wrong_latents_are_refused(method: str, wrong: str) -> None:
    base = hierarchy([(2,), (3,)], torch.float32)
    with pytest.raises(ParameterError, match=r"z_L on top, of shapes \(C, 2\), \(C, 3\); got"):
        getattr(base, method)(wrong_latents()[wrong])
