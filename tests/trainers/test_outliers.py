"""Outlier scores against their definitions by quadrature, figures by hand, and the rule that picks a score blind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lamina.samplers import HMC, ParameterError
from lamina.trainers import ModelConfig, TrainConfig, build_model
from lamina.trainers.evaluation import (
    Combination,
    Scorer,
    Typicality,
    choose,
    damaged_sets,
    detection,
    share_without_number,
)
from lamina.trainers.evaluation.layers import LayerSampler, PosteriorSampler
from lamina.trainers.evaluation.outliers import smoothed
from lamina.trainers.evaluation.selection import DAMAGES

NUM = 2500
Z_LIMIT = 4.4
"""Of z-tests here: beyond it once in 90,000 times."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    plain = make_config()
    return replace(plain, prior=replace(plain.prior, kernel=HMC(step_size=0.5, num_leapfrog_steps=3, jitter=0.2)))


def image(first: float, second: float, num: int = NUM) -> Tensor:
    return torch.tensor([first, second], dtype=torch.float64).reshape(1, 1, 1, 2).repeat(num, 1, 1, 1)


# ------------------------------------------------------------------------------------------------- scores


def test_scores_meet_their_definitions(toy: Any, config: TrainConfig) -> None:
    """Means over 2,500 rows of one image, against integrals over the grid of the latents."""
    model, x = toy.model, image(0.4, -0.9)
    scorer = Scorer.fit(model, config, x[:300], generator=seeded(), num_draws=1, num_steps=25)
    found = scorer(x, generator=seeded(1))
    grid = x[:1].expand(len(toy.z[0]), 1, 1, 2)
    log_q, log_p = model.inference.log_prob(toy.z, grid), model.prior.base.log_prob(toy.z)
    log_x = model.likelihood.log_prob(grid, toy.z)
    top_q, top_p = _top_marginal(toy, log_q), _top_marginal(toy, log_p)
    q = toy.area * log_q.exp()
    lower_base = torch.exp(log_p - top_p)
    ebm = -model.prior.energy_z(toy.z)
    lower_ebm = torch.exp(ebm - _top_marginal(toy, ebm))
    heard_base, heard_ebm = (toy.area * lower * top_q.exp() for lower in (lower_base, lower_ebm))
    given = _given_below(toy, model, log_q, grid)
    expected = {
        "bound/0": -(q * (log_x + log_p - log_q)).sum(),
        "bound/1": -(heard_base * (log_x + top_p)).sum() + (q * given).sum(),
        "joint/0": -(q * (log_x + ebm)).sum(),
        "joint/1": -(heard_ebm * (log_x + ebm)).sum(),
    }
    for name, value in expected.items():
        scores = found[name]
        assert abs(float(scores.mean() - value)) < Z_LIMIT * float(scores.std()) / NUM**0.5, name
    torch.testing.assert_close(found["ratio/1"], found["bound/1"] - found["bound/0"])
    torch.testing.assert_close(found["joint-ratio/1"], found["joint/1"] - found["joint/0"])


@pytest.mark.parametrize("inference", ["bottom-up", "ladder"])
def test_every_layer_of_a_deep_hierarchy_has_its_scores(config: TrainConfig, inference: str) -> None:
    """Four layers; those above k are heard of, the others drawn anew, so that scores of different k are different."""
    networks = ModelConfig(latents=(6, 5, 4, 3), hidden=(8,), energy_hidden=(8,), inference=inference)  # type: ignore[arg-type]
    config = replace(config, model=networks)
    model = build_model(networks, (1, 8, 8), seed=0)
    with torch.no_grad():
        for weight in model.prior.energies.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=seeded())
    x = 2 * torch.rand(40, 1, 8, 8, generator=seeded(1)) - 1
    found = Scorer.fit(model, config, x, generator=seeded(), num_draws=2, num_steps=3)(x, generator=seeded(2))
    for name in ("bound", "joint"):
        scores = torch.stack([found[f"{name}/{k}"] for k in range(4)])
        assert scores.isfinite().all()
        assert len(scores.unique(dim=0)) == 4
        ratio = {"bound": "ratio", "joint": "joint-ratio"}[name]
        for k in range(1, 4):
            torch.testing.assert_close(found[f"{ratio}/{k}"], scores[k] - scores[0])
    assert {f"{name}/4" for name in ("bound", "joint", "ratio", "joint-ratio")}.isdisjoint(found)


def _top_marginal(toy: Any, log_density: Tensor) -> Tensor:
    """Log of the density's integral over z_1, at every point of the grid."""
    step = toy.area**0.5
    over = torch.logsumexp(log_density.reshape(281, 281), 0) + np.log(step)
    return over.expand(281, 281).reshape(-1)


def _given_below(toy: Any, model: Any, log_q: Tensor, x: Tensor) -> Tensor:
    """log q(z_2|z_1) at every point of the grid: what a bottom-up model gives the upper layer."""
    return log_q - model.inference.encoder(x.flatten(1)).log_prob(toy.z[0])


def test_posterior_chains_reach_the_posterior(toy: Any, config: TrainConfig) -> None:
    x = image(0.4, -0.9, 2000)
    scorer = Scorer.fit(toy.model, config, x[:300], generator=seeded(), num_draws=1, num_steps=60)
    found = scorer(x, generator=seeded(2))
    grid = x[:1].expand(len(toy.z[0]), 1, 1, 2)
    energy = toy.model.posterior_energy("z")(toy.z, grid)
    weights = torch.softmax(-energy, 0)
    errors = (toy.model.likelihood.mean(toy.z) - grid).square().flatten(1).mean(1)
    expected = {
        "chain-joint": energy,
        "prior": toy.model.prior.energy_z(toy.z),
        "reconstruction": errors,
    }
    for name, values in expected.items():
        scores = found[name]
        assert abs(float(scores.mean() - (weights * values).sum())) < Z_LIMIT * float(scores.std()) / 2000**0.5, name


def test_every_set_meets_the_same_chains(toy: Any, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's score must not depend on the others: outliers adapt nothing."""
    scorer = Scorer.fit(toy.model, config, image(0, 0, 50), generator=seeded(), num_draws=1, num_steps=3)
    monkeypatch.setattr(LayerSampler, "fitted", None)
    far = image(30, -30, 8)
    mixed = far.clone()
    mixed[4:] = 0
    alone, together = (scorer(x, generator=seeded(3)) for x in (far, mixed))
    for name, scores in alone.items():
        torch.testing.assert_close(scores[:4], together[name][:4])
    assert all(scores[:4].isfinite().all() for scores in alone.values())


def test_an_image_without_a_number_is_as_outlying_as_can_be(toy: Any, config: TrainConfig) -> None:
    """So far away that squares leave the range of floats; every rule bears it, and it is counted."""
    scorer = Scorer.fit(toy.model, config, image(0, 0, 50), generator=seeded(), num_draws=1, num_steps=3)
    near, far = image(0.4, -0.9, 60), image(1e200, -1e200, 3)
    fitted, found = ({k: v.numpy() for k, v in scorer(x, generator=seeded(1)).items()} for x in (near, far))
    names = ("joint/0", "bound/0", "chain-joint", "ratio/1", "joint-ratio/1")
    assert all((found[name] == np.inf).all() for name in names)
    assert (share_without_number(fitted), share_without_number(found)) == (0, 1)
    assert not any(np.isnan(values).any() for values in found.values())
    mixed = {name: np.r_[values, found[name]] for name, values in fitted.items()}
    assert (Typicality.fit(mixed)(found) == np.inf).all()
    assert (
        Combination.fit(fitted, ("joint/0",))(found).min() > Combination.fit(fitted, ("joint/0",))(fitted).max() - 1e-9
    )


def test_without_an_inference_model_there_are_no_bounds(toy: Any, config: TrainConfig) -> None:
    joint = replace(config, scheme="joint-mle")
    scorer = Scorer.fit(toy.model, joint, image(0, 0, 50), generator=seeded(), num_draws=2, num_steps=3)
    scores = scorer(image(0, 0, 5), generator=seeded(1))
    assert torch.equal(scores["chain-joint"], scores["joint/0"])  # there is one chain, not another from its end
    names = set(scores)
    of_the_joint = {"joint/0", "joint/1", "joint-ratio/1", "chain-joint", "prior", "energy", "independence"}
    assert names == of_the_joint | {"reconstruction", "unexplained"}


def test_without_steps_there_are_no_chains(toy: Any, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other scores are the same."""
    x = image(0.4, -0.9, 20)
    full = Scorer.fit(toy.model, config, x, generator=seeded(), num_draws=1, num_steps=3)(x, generator=seeded(1))
    for sampler in (LayerSampler, PosteriorSampler):
        monkeypatch.setattr(sampler, "draw", None)
        monkeypatch.setattr(sampler, "fitted", None)
    found = Scorer.fit(toy.model, config, x, generator=seeded(), num_draws=1, num_steps=0)(x, generator=seeded(1))
    assert full.keys() - found.keys() == {"joint/1", "joint-ratio/1", "chain-joint", "prior", "reconstruction"}
    for name in ("energy", "unexplained", "bound/0", "bound/1", "joint/0"):
        torch.testing.assert_close(found[name], full[name])
    with pytest.raises(ParameterError, match="num_steps"):
        Scorer.fit(toy.model, replace(config, scheme="joint-mle"), x, generator=seeded(), num_steps=0)


# ------------------------------------------------------------------------------------------------ figures


def test_detection_by_hand() -> None:
    """Four of five outliers are found once two of five inliers are let through."""
    inliers, outliers = [0.0, 1.0, 4.0, 2.0, 9.9], [3.0, 5.0, 6.0, 2.5, 1.5]
    found = detection(np.array(inliers), np.array(outliers))
    in_order = sum(out > inn for out in outliers for inn in inliers)
    assert found.auroc == pytest.approx(in_order / 25)
    precisions = [1 / 2, 2 / 3, 3 / 5, 4 / 6, 5 / 8]  # at each outlier, from the highest score down
    assert found.auprc == pytest.approx(np.mean(precisions))
    assert found.fpr80 == pytest.approx(2 / 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_detection_takes_equal_numbers_and_infinite_scores(dtype: type[np.floating[Any]]) -> None:
    found = detection(np.array([0.0, 1.0], dtype), np.array([np.inf, np.inf, -5.0, -5.0], dtype))
    assert found == (1.0, 1.0, 0.0)


def test_detection_of_all_rows_has_their_own_share() -> None:
    inliers, outliers = np.zeros(30), np.zeros(10)
    assert detection(inliers, outliers, balanced=False).auprc == pytest.approx(0.25)
    assert detection(inliers, outliers).auprc == pytest.approx(0.5)


def test_what_is_unexplained_is_a_share_of_the_image(toy: Any, config: TrainConfig) -> None:
    """Of an image of one grey too: there all of it, and more."""
    scorer = Scorer.fit(toy.model, config, image(0, 0, 50), generator=seeded(), num_draws=1, num_steps=3)
    x = torch.cat([image(3.0, -3.0, 4), image(-1.0, -1.0, 4)])
    found = scorer(x, generator=seeded(1))["unexplained"]
    assert found.isfinite().all()
    assert found[:4].max() < found[4:].min()


def test_a_stroke_that_is_off_counts_less_than_one_that_is_missing() -> None:
    """Both errors have the same squares; SciPy agrees about the smoothing."""
    off, missing = torch.zeros(2, 1, 16, 12, dtype=torch.float64)[:, None].unbind()
    off[0, 0, :, 5], off[0, 0, :, 6] = 1, -1
    missing[0, 0, :, 5:7] = 1
    error = torch.cat([off, missing])
    found = smoothed(error)
    expected = gaussian_filter(error.numpy(), sigma=(0, 0, 1, 1), mode="constant", radius=(0, 0, 3, 3))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert 8 * found[0].square().sum() < found[1].square().sum()


def test_independence_is_the_prior_against_the_product_of_its_marginals(toy: Any, config: TrainConfig) -> None:
    """Whose moments are those of the draws that the scorer was fitted on."""
    x = image(0.4, -0.9, 4000)
    scorer = Scorer.fit(toy.model, config, x, generator=seeded(), num_draws=1, num_steps=1)
    found = scorer(x[:500], generator=seeded(1))["independence"]
    z, _ = toy.model.inference.draw(x[:500], generator=seeded(1))
    drawn, _ = toy.model.inference.draw(x, generator=seeded())
    expected = toy.model.prior.energy_z(z)
    for layer, entry in zip(z, drawn, strict=True):
        deviation, mean = torch.std_mean(entry, 0)
        expected -= ((layer - mean) ** 2 / (2 * deviation**2) + deviation.log() + np.log(2 * np.pi) / 2).sum(1)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("scores", [[], [np.nan]])
def test_detection_refuses_what_is_no_number(scores: list[float]) -> None:
    with pytest.raises(ParameterError, match="scores must be numbers"):
        detection(np.array(scores), np.array([1.0]))


# -------------------------------------------------------------------------------------------- the blind rule


def test_the_rule_takes_the_best_worst_case() -> None:
    """One score is perfect on one set and blind on the other, one is good on both, one is upside down on one."""
    rng = np.random.default_rng(0)
    inliers = {name: rng.normal(size=500) for name in ("one-sided", "sound", "reversed")}
    shifts = {"one-sided": (9, 0), "sound": (2, 2), "reversed": (9, -9)}
    damaged = {
        kind: {name: rng.normal(size=500) + shift[number] for name, shift in shifts.items()}
        for number, kind in enumerate(("simple", "complex"))
    }
    choice = choose(inliers, damaged)
    assert choice.score == "sound"
    assert 0.85 < choice.worst < 0.97
    assert choice.table["reversed"]["complex"].auroc < 0.01


def test_a_combination_finds_what_either_of_its_scores_finds() -> None:
    """Half of the outliers stand out in one score, half in the other, whose units differ by a million."""
    rng = np.random.default_rng(2)
    clean = {"a": 1e6 * rng.normal(size=3000) + 5, "b": rng.normal(size=3000)}
    away = {"a": np.r_[np.full(150, 6e6), np.zeros(150)], "b": np.r_[np.zeros(150), np.full(150, 6.0)]}
    combination = Combination.fit({name: values[:2000] for name, values in clean.items()}, names=("a", "b"))
    inliers = {name: values[2000:] for name, values in clean.items()}
    found = {name: detection(inliers[name], away[name]).auroc for name in ("a", "b")}
    assert max(found.values()) < 0.8
    assert detection(combination(inliers), combination(away)).auroc > 0.99


def test_a_combination_by_hand() -> None:
    """Shares as high or higher, each value counted into the sample; a score without spread tells nobody apart."""
    constant = {"energy": np.zeros(3), "independence": np.ones(3)}
    found = Combination.fit({**constant, "unexplained": np.array([2.0, 0.0, 1.0])})(
        {"energy": np.zeros(4), "independence": np.ones(4), "unexplained": np.array([-1.0, 0.5, 1.0, 5.0])}
    )
    np.testing.assert_allclose(np.exp(-found), [1, 3 / (2 + 4 / 3), 3 / (2 + 4 / 3), 3 / (2 + 4)])


def test_a_combination_keeps_what_one_score_in_five_finds() -> None:
    """Fisher's does not: of inliers, one in eight is as rare by its five scores together."""
    rng = np.random.default_rng(3)
    names = tuple("abcde")
    clean = {name: rng.normal(size=3000) for name in names}
    away = {name: np.full(300, 6.0 if name == "a" else -3.0) for name in names}
    combination = Combination.fit({name: values[:2000] for name, values in clean.items()}, names=names)
    inliers = {name: values[2000:] for name, values in clean.items()}
    assert detection(combination(inliers), combination(away)).auroc > 0.99


def test_typicality_sees_both_sides_and_broken_relations() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=1500)
    scores = {"a": 100 * common, "b": common + 0.1 * rng.normal(size=1500), "ratio/1": common}
    typicality = Typicality.fit(scores)
    assert typicality.names == ("a", "b")
    inliers = typicality({name: values[:200] for name, values in scores.items()})
    sides = [{"a": np.full(200, sign * 600.0), "b": np.full(200, sign * 6.0)} for sign in (1, -1)]
    broken = {"a": 100 * common[:200], "b": -common[:200] + 0.1 * rng.normal(size=200)}
    assert detection(inliers, typicality(sides[0])).auroc > 0.99
    assert detection(inliers, typicality(sides[1])).auroc > 0.99
    assert detection(inliers, typicality(broken)).auroc > 0.8


def test_damages_leave_the_scale_and_are_what_they_say() -> None:
    x = 2 * torch.rand((50, 2, 9, 8), generator=seeded()) - 1
    damaged = damaged_sets(x, generator=seeded(1))
    assert damaged.keys() == DAMAGES.keys()
    for name, rows in damaged.items():
        assert rows.shape == x.shape, name
        assert rows.abs().max() <= 1, name
        assert not (rows == x).flatten(1).all(1).any(), name
    assert damaged["blurred"].std() < 0.5 * x.std()
    assert 0.1 < (damaged["noisy"] != x).float().mean() < 0.3
    assert torch.equal(damaged["inverted"], -x)
    swapped = damaged["swapped"][..., :8, :]
    assert torch.equal(swapped.flatten(1).sort().values, x[..., :8, :].flatten(1).sort().values)
    halved = damaged["halved"]
    assert torch.equal(halved[..., :4], x[..., :4])
    partner = (halved[0, ..., 4:] == x[..., 4:]).flatten(1).all(1).nonzero().item()
    assert partner != 0
    disc = torch.full((1, 1, 9, 9), -1.0)
    disc[..., 2:7, 2:7] = 1
    outline = DAMAGES["thinned"](disc, seeded())
    assert outline[0, 0, 4, 4] == -1
    assert outline[0, 0, 2, 4] == 1
    assert int((outline > 0).sum()) == 16


def test_synthetic_outliers_of_the_toy_are_found_blind(toy: Any, config: TrainConfig) -> None:
    """Data of the model, damaged sets by hand: pixels exchanged, doubled, or noise; outliers: far along one axis."""
    generator = seeded(5)
    z = LayerSampler(toy.model.prior, config.prior.kernel, (0, 1), 60).draw(
        toy.model.prior.base.sample(450, generator=generator), generator=generator
    )
    mean = toy.model.likelihood.mean(z)
    x = mean + 0.7 * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    scorer = Scorer.fit(toy.model, config, x[:150], generator=generator, num_draws=4, num_steps=10)
    sets = {
        "inliers": x[150:300],
        "held-out": x[300:],
        "wider": 4 * x[150:300],
        "moved": x[150:300] + 4,
        "outliers": x[300:] + torch.tensor([6.0, -6.0]),
    }
    scores = {name: {k: v.numpy() for k, v in scorer(rows, generator=generator).items()} for name, rows in sets.items()}
    choice = choose(scores["inliers"], {kind: scores[kind] for kind in ("wider", "moved")})
    assert choice.worst > 0.7
    assert detection(scores["held-out"][choice.score], scores["outliers"][choice.score]).auroc > 0.95
