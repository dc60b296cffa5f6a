"""ChEES climbs its criterion to the known best trajectory length, and adapted runs are right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import MALA, DualAveraging, ParameterError, sample
from lamina.samplers.adaptation.chees import ChEES, chees_gradient
from lamina.samplers.adaptation.windows import Windows
from lamina.samplers.kernels.randomised_hmc import RandomisedHMC, RandomisedHMCInfo


def oscillators(time: Tensor) -> tuple[Tensor, RandomisedHMCInfo]:
    """Start, and what the exact flow of a standard normal target tells after this time, (50, 1)."""
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    accept = torch.rand(50, 1, generator=generator, dtype=torch.float64)
    cos, sin = torch.cos(time), torch.sin(time)
    blank = torch.zeros_like(time)
    return x, RandomisedHMCInfo(
        accept, blank, blank, blank, blank, blank, blank, time, cos * x + sin * v, cos * v - sin * x
    )


def test_gradient_is_the_derivative_of_the_criterion() -> None:
    """By central differences of 1/4 (|x' - c'|^2 - |x - c|^2)^2, the centre of the proposals held where it was."""
    time = torch.linspace(0.1, 2.0, 50, dtype=torch.float64).unsqueeze(1)
    start, info = oscillators(time)
    weight = info.accept_prob / info.accept_prob.sum()
    center = (weight * info.proposal).sum(dim=0)

    def criterion(log_shift: float) -> float:
        _, shifted = oscillators(time * math.exp(log_shift))
        squares = (shifted.proposal - center).square().sum(1) - (start - start.mean(0)).square().sum(1)
        return float((weight.squeeze(1) * squares.square() / 4).sum())

    difference = (criterion(1e-5) - criterion(-1e-5)) / 2e-5
    assert float(chees_gradient(start, info)) == pytest.approx(difference, rel=1e-6)


def test_diverged_chains_tell_nothing() -> None:
    start, info = oscillators(torch.full((50, 1), 0.5, dtype=torch.float64))
    accept, proposal, velocity = info.accept_prob.clone(), info.proposal.clone(), info.velocity.clone()
    accept[0], proposal[0], velocity[0] = 0.0, torch.nan, torch.inf
    gradient = chees_gradient(start, info._replace(accept_prob=accept, proposal=proposal, velocity=velocity))
    accept[0] = 0.0
    same = chees_gradient(start, info._replace(accept_prob=accept))
    torch.testing.assert_close(gradient, same)
    nothing = chees_gradient(start, info._replace(accept_prob=torch.zeros_like(accept)))
    assert float(nothing) == 0.0


def test_length_for_an_isotropic_normal_is_the_known_one() -> None:
    """The criterion at time t is D sin(t)^2; its mean over t uniform on (0, T] is largest at tan(2 T) = 2 T, T = 2.247.

    Small steps keep acceptance near 1, which the derivation assumes; rounding up to whole steps adds half of one. Of
    eight seeds the results had mean 2.18 and standard deviation 0.07.
    """
    scale = 10.0
    generator = torch.Generator().manual_seed(0)
    start = scale * torch.randn(100, 10, generator=generator, dtype=torch.float64)
    result = sample(
        lambda x: 0.5 * (x / scale).square().sum(-1),
        RandomisedHMC(step_size=0.2 * scale, trajectory_length=0.5 * scale),
        start,
        num_samples=1,
        num_warmup=300,
        adaptation=ChEES(step_size=DualAveraging(target_accept=0.98)),
        noise=0,
    )
    params = result.chains.params
    assert float(params.trajectory_length + params.step_size / 2) / scale == pytest.approx(2.247, abs=0.3)


def test_harmonic_mean_of_acceptance_is_held_to_the_target() -> None:
    """Of 200 steps after 400 of warm-up; rejections of single chains make it a noisy aim, see `WarmupReport`."""
    start = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = sample(
        lambda x: 0.5 * x.square().sum(-1), RandomisedHMC(), start, num_samples=200, num_warmup=400, noise=0
    )
    report = result.warmup
    assert report is not None
    assert report.target_accept == 0.651
    assert report.accept_prob_last == pytest.approx(0.651, abs=0.05)
    assert isinstance(report.accept_prob_averaged, float)
    assert report.accept_prob_averaged < float(result.accept_prob.mean())
    assert any("harmonic mean" in note for note in result.summary().notes)


def test_harmonic_mean_of_a_rejection_is_zero() -> None:
    assert ChEES().acceptance(torch.tensor([[1.0], [0.5]])).tolist() == pytest.approx([2 / 3])
    assert ChEES().acceptance(torch.tensor([[1.0], [0.0]])).tolist() == [0.0]


def test_windows_around_chees_tune_everything() -> None:
    """A target of scales 0.1 to 10: with the learnt mass a trajectory takes a few steps, without it a hundred."""
    scales = torch.logspace(-1, 1, 5, dtype=torch.float64)
    start = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = sample(
        lambda x: 0.5 * (x / scales).square().sum(-1),
        RandomisedHMC(),
        start,
        num_samples=100,
        num_warmup=300,
        adaptation=Windows(step_size=ChEES()),
        noise=0,
    )
    params = result.chains.params
    assert (params.factor / scales).log().abs().max() < 0.25
    assert 1 < float(params.trajectory_length) < 4
    assert float(result.num_grad_evals.double().mean()) / 100 < 10


@pytest.mark.parametrize(
    ("kernel", "chains", "match"),
    [(MALA(), 10, "trajectory length, such as RandomisedHMC; got MALA"), (RandomisedHMC(), 1, "two at least")],
    ids=["mala", "one-chain"],
)
def test_kernels_and_chains_of_no_use_are_refused(kernel: Any, chains: int, match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        sample(
            lambda x: 0.5 * x.square().sum(-1),
            kernel,
            torch.zeros(chains, 2),
            num_samples=1,
            num_warmup=10,
            adaptation=ChEES(),
            noise=0,
        )


def test_options_are_checked() -> None:
    with pytest.raises(ParameterError, match="share a step size"):
        ChEES(step_size=DualAveraging(pooled=False))
    for name in ("learning_rate", "forgetting"):
        with pytest.raises(ParameterError, match=name):
            ChEES(**{name: 0.0})
