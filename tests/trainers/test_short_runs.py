"""Short runs against long ones, on priors of which everything is known in closed form or by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.models import GaussianHierarchy, JointEBMPrior, LatentEBM, LayerEnergies, Space
from lamina.samplers import (
    HMC,
    MALA,
    MCLMC,
    NUTS,
    RWM,
    ULA,
    Barker,
    Blocks,
    Clipped,
    Kernel,
    NoiseFreeLangevin,
    UnderdampedLangevin,
    run,
)
from lamina.trainers import Budget, ChainConfig, ImageData, ModelConfig, TrainConfig, build_model
from lamina.trainers.evaluation import Subject
from lamina.trainers.evaluation.chains import chain_figures
from lamina.trainers.evaluation.latents import distances_to
from lamina.trainers.evaluation.short_runs import (
    displacements,
    langevin_step_size,
    long_run,
    mala_acceptance,
    marks,
    reference_draws,
    relaxation_times,
    short_run,
)

PULL, CENTRE = 3.0, 2.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Pull(nn.Module):
    """E(z) = PULL |z - CENTRE|^2 / 2: over N(0, I) the prior is normal with variance 1 / (1 + PULL)."""

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * PULL * (z - CENTRE).square().sum(-1)


def pulled() -> LatentEBM:
    """One layer of two numbers, normal with mean 1.5 and variance 0.25, under no image to speak of."""
    prior = JointEBMPrior(GaussianHierarchy((2,)), LayerEnergies([Pull()]))
    return LatentEBM(prior, nn.Identity()).double()


def unpulled(**settings: Any) -> LatentEBM:
    """Two layers at energies of zero, as models begin."""
    config = ModelConfig(latents=(4, 3), hidden=(6,), energy_hidden=(5,), **settings)
    return build_model(config, (1, 4, 4), seed=0).double().requires_grad_(False)


# -------------------------------------------------------------------------------- how far chains go, and how well


@pytest.mark.parametrize("space", ["u", "z"])
@pytest.mark.parametrize("kernel", [ULA(step_size=0.01), HMC(step_size=0.05, num_leapfrog_steps=3)])
def test_relaxation_times_are_k_h_where_energies_are_zero(kernel: Kernel[Any], space: Space) -> None:
    """On N(0, I) the variance is 1, and the displacement is one minus the autocorrelation, exp(-time).

    Figures of 4,000 chains and 20,000 draws vary by 1.3 %, and exp(-time) is off by 1 %: 6 % is more than 4 deviations.
    """
    model = unpulled(base="independent")
    config = ChainConfig(kernel=kernel, num_steps=20, space=space, start="ancestral")
    short = short_run(model, config, 4000, generator=seeded())
    stationary = model.prior.base.noise(20_000, generator=seeded(1))
    expected = 20 * {"ULA": 0.01, "HMC": 9 * 0.05**2 / 2}[type(kernel).__name__]
    assert short.time == pytest.approx(expected)
    assert short.time is not None
    for slowest, median in relaxation_times(short.time, stationary):
        assert slowest == pytest.approx(expected, rel=0.06)
        assert median == pytest.approx(expected, rel=0.06)
        assert slowest <= median
    for value in displacements(short.start, short.end, stationary):
        assert value == pytest.approx(1 - math.exp(-expected), rel=0.06)


def test_wide_coordinates_are_the_slow_ones() -> None:
    wide = torch.randn((20_000, 3), generator=seeded(), dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0])
    ((slowest, median),) = relaxation_times(0.5, (wide,))
    assert slowest == pytest.approx(0.5 / 9, rel=0.06)
    assert median == pytest.approx(0.5 / 4, rel=0.06)


def test_displacement_is_zero_for_chains_that_stand_and_one_for_strangers() -> None:
    start, end = (torch.randn((20_000, 2, 2), generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))
    assert displacements((start,), (start,), (end,)) == [0]
    assert displacements((start,), (end,), (end,))[0] == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("start", [None, 2.0])
def test_acceptance_of_the_probe_is_that_of_quadrature(start: float | None) -> None:
    """On N(0, 1) the log ratio is h / 4 (x^2 - x'^2), with x' = (1 - h) x + sqrt(2 h) xi; from its law, or from 2."""
    step_size, prior = 1.2, JointEBMPrior(GaussianHierarchy((1,)), LayerEnergies([_Nothing()])).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    x, mass = (nodes, weights) if start is None else (np.array([start]), np.ones(1))
    proposed = (1 - step_size) * x[:, None] + math.sqrt(2 * step_size) * nodes
    accept = np.minimum(1, np.exp(step_size / 4 * (x[:, None] ** 2 - proposed**2)))
    mean = float(mass @ accept @ weights)
    deviation = math.sqrt(float(mass @ accept**2 @ weights) - mean**2)
    assert 0.3 < mean < 0.9
    noise = torch.randn((20_000, 1), generator=seeded(), dtype=torch.float64)
    position = noise if start is None else torch.full_like(noise, start)
    found = mala_acceptance(prior.energy("u"), (position,), step_size, generator=seeded(1))
    assert abs(found - mean) < 4.4 * deviation / math.sqrt(20_000) + 2e-3  # a kink costs quadrature some digits


class _Nothing(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 0 * z.sum(-1)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (ULA(), 0.2),
        (MALA(), 0.2),
        (NoiseFreeLangevin(), 0.2),
        (Clipped(kernel=ULA(), max_norm=1.0), 0.2),
        (HMC(), 0.02),
        (NUTS(), 0.02),
        (UnderdampedLangevin(), 0.02),
        (RWM(), 0.02),
        (Barker(), 0.02),
        (MCLMC(), 0.004),
        (Blocks({"a": MALA()}), None),
    ],
)
def test_every_convention_of_step_sizes_has_its_langevin_step(kernel: Kernel[Any], expected: float | None) -> None:
    found = langevin_step_size(kernel, 0.2, 5)
    assert found == (None if expected is None else pytest.approx(expected))


# --------------------------------------------------------------------------------------------------- long runs


def test_what_did_not_move_is_told_from_what_arrived(quick_evaluation: None) -> None:
    """Chains of one tiny step stay with the base prior; 300 steps on, and the adjusted ones, are where they should be.

    Means over 400 chains are held to 4.4 standard errors, variances likewise.
    """
    model, num = pulled(), 400
    prior = model.prior
    config = ChainConfig(kernel=MALA(step_size=1e-4), num_steps=1, space="z", start="noise")
    short = short_run(model, config, num, generator=seeded(), step_size=torch.tensor(1e-4))
    reference = reference_draws(prior, num, num_gradients=2500, generator=seeded(1))
    assert reference.rhat < 1.02
    assert 0.6 < reference.accept_prob < 0.95
    steps = marks(300)
    chains = replace(short.result.chains, params=MALA().init_params(short.end, step_size=0.1))
    stops = dict(long_run(prior.energy("z"), config.kernel, chains, steps, generator=seeded(2)))
    assert list(stops) == steps
    for z in (reference.z, stops[300]):
        assert abs(float(z[0].mean()) - 1.5) < 4.4 * 0.5 / math.sqrt(2 * num)
        assert abs(float(z[0].var()) / 0.25 - 1) < 4.4 * math.sqrt(2 / (2 * num))
    assert displacements(short.start, short.end, reference.z)[0] < 0.01
    assert short.time is not None
    ((slowest, _),) = relaxation_times(short.time, reference.z)
    assert slowest == pytest.approx(4 * 1e-4, rel=0.4)
    found = distances_to(reference.z, {"short": short.end, "long": stops[300]})["layer1"]
    assert found["kernel_distance"]["short"] > 0.3
    assert found["kernel_distance"]["long"] < 0.02
    assert found["two_sample_accuracy"]["short"] > 0.85
    assert found["two_sample_accuracy"]["long"] < 0.6


def test_stops_do_not_change_a_long_run() -> None:
    model, kernel = unpulled(), HMC(step_size=0.3, num_leapfrog_steps=2)
    start = model.prior.base.noise(5, generator=seeded())
    begun = run(model.prior.energy("u"), kernel, start, num_steps=1, generator=seeded(1)).chains
    ours = dict(long_run(model.prior.energy("u"), kernel, begun, [0, 7, 230], generator=seeded(2)))
    theirs = run(model.prior.energy("u"), kernel, begun, num_steps=230, generator=seeded(2)).position
    assert all(torch.equal(a, b) for a, b in zip(ours[0], begun.position, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours[230], theirs, strict=True))


def test_marks_ascend_to_the_end() -> None:
    assert marks(2500)[:4] == [0, 1, 2, 4]
    for num in (1, 80, 2500, 10_000):
        found = marks(num)
        assert found == sorted(set(found))
        assert (found[0], found[-1]) == (0, num)
    assert len(marks(2500)) == 13


def test_persistent_chains_go_on_where_training_left_them() -> None:
    model = unpulled()
    positions = model.prior.base.noise(30, generator=seeded())
    before = [part.clone() for part in positions]
    config = ChainConfig(kernel=MALA(step_size=0.1), num_steps=2, restart_fraction=0)
    step_size = torch.tensor(0.3, dtype=torch.float64)
    short = short_run(model, config, 20, generator=seeded(1), step_size=step_size, positions=positions)
    assert (short.step_size, short.langevin) == (pytest.approx(0.3), pytest.approx(0.3))
    assert all(torch.equal(a, b[:20]) for a, b in zip(short.start, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(positions, before, strict=True))
    assert not torch.equal(short.start[0], short.end[0])
    assert len(short_run(model, config, 50, generator=seeded(1), step_size=step_size).start[0]) == 50


# ------------------------------------------------------------------------------------------------ of whole models


@pytest.fixture
def make_subject(
    make_config: Callable[..., TrainConfig], data: ImageData, tmp_path: Path, quick_evaluation: None
) -> Callable[..., Subject]:
    """Make something to measure of an untrained model: rows and one map, by chains in z, unless told otherwise."""

    def make(**changes: Any) -> Subject:
        model = ModelConfig(latents=((2, 2, 2), 3), hidden=(6,), energy_hidden=(5,), width=2, images="ladder")
        prior = ChainConfig(kernel=ULA(step_size=0.01), num_steps=3, space="z", start="noise")
        config = make_config(model=model, prior=prior)
        settings: dict[str, Any] = {
            "model": build_model(model, data.image_shape, seed=0).requires_grad_(False),
            "baseline": None,
            "config": config,
            "data": data,
            "device": torch.device("cpu"),
            "step_size": torch.tensor(0.01),
            "positions": None,
            "outliers": {},
            "features": None,
            "budget": Budget(num_samples=20, num_long_steps=80, num_long_chains=20),
            "cache": tmp_path,
            "show_progress": False,
        }
        return Subject(**{**settings, **changes})

    return make


def test_maps_and_chains_in_z_are_measured_and_seeded(make_subject: Callable[..., Subject]) -> None:
    first, second = (chain_figures(make_subject()) for _ in range(2))
    assert first.report == second.report
    assert all(math.isfinite(value) for value in first.report["summary"].values())
    assert first.report["short_run"]["langevin_time"] == pytest.approx(0.03)
    assert [tuple(part.shape) for part in first.sets["long"]] == [(20, 2, 2, 2), (20, 3)]


def test_what_is_not_finite_has_no_figures(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    positions = subject.model.prior.base.noise(20, generator=seeded())
    positions[0][3] = math.inf
    persistent = replace(subject.config.prior, start="persistent", restart_fraction=0.0)
    subject = replace(subject, config=replace(subject.config, prior=persistent), positions=positions)
    report = chain_figures(subject).report
    summary = report["summary"]
    assert report["not_finite"] == ["start", "short", "long"]
    assert not any(key.startswith("kernel_distance/joint/short") for key in summary)
    assert math.isfinite(summary["kernel_distance/joint/drawn"])
    assert math.isnan(summary["mlp_frechet_distance/short"])
    assert math.isfinite(summary["mlp_frechet_distance/reference"])
