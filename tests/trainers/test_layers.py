"""Draws of some layers given the others, held to quadrature, and what each layer is said to be for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from lamina.samplers import HMC, ParameterError
from lamina.trainers.evaluation.hierarchy import chance, kl_per_layer, linear_probes, resampled_layers, traversals
from lamina.trainers.evaluation.latents import BROKEN, latent_figures
from lamina.trainers.evaluation.layers import LayerSampler, redrawn_from_base

NUM = 4000
KERNEL = HMC(step_size=0.5, num_leapfrog_steps=3, jitter=0.2)
FALSE_ALARM = 1e-5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held_at(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.full((NUM, 1), value, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------- conditional draws


@pytest.mark.parametrize(("free", "space"), [((0,), "u"), ((1,), "z"), ((0, 1), "u")])
def test_free_layers_follow_the_prior_given_the_others(toy: Any, free: tuple[int, ...], space: str) -> None:
    """Kolmogorov-Smirnov against the conditional (or marginal) law on a fine axis; the others do not move."""
    z = held_at(0.8)
    sampler = LayerSampler(toy.model.prior, KERNEL, free, 60).fitted(tuple(p[:400] for p in z), generator=seeded())
    assert sampler.space == space
    drawn = sampler.draw(z, generator=seeded(1))
    for layer in {0, 1} - set(free):
        assert torch.equal(drawn[layer], z[layer])
    density = torch.exp(-toy.model.prior.energy_z(toy.z)).reshape(281, 281)
    axis = toy.z[1][:281, 0]
    held = int(torch.argmin((axis - 0.8).abs()))
    assert float(axis[held]) == pytest.approx(0.8)
    marginals = {(0,): [density[:, held]], (1,): [density[held]], (0, 1): [density.sum(1), density.sum(0)]}[free]
    for layer, marginal in zip(free, marginals, strict=True):
        cdf = torch.cumulative_trapezoid(marginal, axis).numpy()
        cdf = np.concatenate([[0], cdf / cdf[-1]])
        law = stats.kstest(drawn[layer][:, 0].numpy(), lambda at, cdf=cdf: np.interp(at, axis.numpy(), cdf))
        assert law.pvalue > FALSE_ALARM


def test_layers_redrawn_from_the_base_follow_it(toy: Any) -> None:
    base, z = toy.model.prior.base, held_at(0.8)
    lower = redrawn_from_base(base, z, (0,), generator=seeded(2))
    assert torch.equal(lower[1], z[1])
    given = base.conditionals[0](z[1])
    assert stats.kstest(given.inverse(lower[0])[:, 0].numpy(), "norm").pvalue > FALSE_ALARM
    upper = redrawn_from_base(base, z, (1,), generator=seeded(3))
    assert torch.equal(upper[0], z[0])
    assert stats.kstest(upper[1][:, 0].numpy(), "norm").pvalue > FALSE_ALARM
    assert redrawn_from_base(base, z, (), generator=seeded()) == z


@pytest.mark.parametrize("free", [(), (1, 0), (0, 0), (2,), (-1,)])
def test_layers_that_are_not_there_cannot_be_drawn(toy: Any, free: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="free layers are"):
        LayerSampler(toy.model.prior, KERNEL, free, 5)


# --------------------------------------------------------------------------------------------------- hierarchy


def test_one_layer_at_a_time_is_drawn_anew(toy: Any) -> None:
    z = toy.model.prior.base.sample(8, generator=seeded())
    first, *others = resampled_layers(toy.model, z, KERNEL, num_steps=5, generator=seeded(1))
    assert first is z
    for layer, drawn in enumerate(others):
        for other in range(2):
            assert torch.equal(drawn[other], z[other]) == (other != layer)


def test_traversals_go_through_one_layer_and_the_rest_follows(toy: Any) -> None:
    base = toy.model.prior.base
    posterior = base.sample(500, generator=seeded())
    ways = traversals(toy.model, posterior, num=5, reach=2)
    for layer, z in enumerate(ways):
        u = base.inverse(z)
        spread = base.inverse(posterior)[layer].std(correction=0)
        steps = u[layer][:, 0].diff()
        torch.testing.assert_close(steps.abs(), spread.expand(4), rtol=1e-6, atol=0)
        torch.testing.assert_close(steps, steps[:1].expand(4))
        other = 1 - layer
        torch.testing.assert_close(u[other], u[other][:1].expand(5, 1))


def test_kl_terms_add_up(toy: Any) -> None:
    x = torch.randn((50, 1, 1, 2), generator=seeded(4), dtype=torch.float64)
    terms = kl_per_layer(toy.model, x, generator=seeded(5))
    z, log_q = toy.model.inference(x, generator=seeded(5))
    assert terms.shape == (2,)
    torch.testing.assert_close(terms.sum(), (log_q - toy.model.prior.base.log_prob(z)).mean())


def test_probes_find_the_layer_that_knows() -> None:
    labels = torch.arange(300) % 3
    knows = torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn((300, 3), generator=seeded())
    other = torch.randn((300, 2, 2), generator=seeded(1))
    ours, theirs = ((other[rows], knows[rows]) for rows in (slice(200), slice(200, 300)))
    accuracies = linear_probes(ours, labels[:200], theirs, labels[200:])
    assert accuracies[1] > 0.98
    assert accuracies[0] < 0.55
    assert chance(labels[200:]) == pytest.approx(0.34)


# ------------------------------------------------------------------------------------------------- the prior


def test_each_dependence_shows_where_it_is(quick_evaluation: None) -> None:
    """Layers copy each other, and the coordinates of the first copy each other."""
    generator = seeded(6)
    noise = torch.randn((600, 1), generator=generator)
    posterior = (noise.expand(600, 2), noise)
    same = torch.randn((600, 1), generator=generator)
    alone = torch.randn((600, 2), generator=generator)
    priors = {"right": (same.expand(600, 2), same), "wrong": (alone, torch.randn((600, 1), generator=generator))}
    figures = latent_figures(priors, posterior)
    assert figures.keys() == {"joint", "layer1", "layer2"}
    for place in ("joint", "layer1"):
        accuracy = figures[place]["two_sample_accuracy"]
        assert accuracy["right"] < 0.6
        assert min(accuracy["wrong"], accuracy[BROKEN]) > 0.8
        distance = figures[place]["kernel_distance"]
        assert distance["right"] < 0.2 * min(distance["wrong"], distance[BROKEN])
    assert max(figures["layer2"]["two_sample_accuracy"].values()) < 0.6


def test_one_layer_has_no_joint_place(quick_evaluation: None) -> None:
    posterior = (torch.randn((60, 2), generator=seeded()),)
    assert latent_figures({"base": posterior}, posterior).keys() == {"layer1"}
