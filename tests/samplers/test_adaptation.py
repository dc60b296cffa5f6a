"""Warm-up reaches the target acceptance at any scale and is frozen afterwards; `Tracking` follows a moving target."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import HMC, MALA, ULA, DualAveraging, Kernel, ParameterError, Tracking, run, sample

NUM_CHAINS, DIM = 50, 5
KERNELS: list[Kernel[Any]] = [MALA(), HMC(num_leapfrog_steps=3)]
ids = ["mala", "hmc"]


def energy(x: Tensor, scale: Tensor) -> Tensor:
    """Gaussian, with one scale per chain as context."""
    return 0.5 * (x / scale.unsqueeze(1)).square().sum(1)


def start(scale: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale.unsqueeze(1) * torch.randn(len(scale), DIM, generator=generator, dtype=torch.float64)


def scales(value: float) -> Tensor:
    return torch.full((NUM_CHAINS,), value, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("kernel", KERNELS, ids=ids)
def test_warm_up_reaches_its_target(kernel: Kernel[Any], scale: float) -> None:
    """Acceptance is measured afterwards, with frozen parameters: 10,000 steps, a standard error below 0.01."""
    context = scales(scale)
    result = sample(energy, kernel, start(context), num_samples=200, num_warmup=300, context=context, noise=1)
    assert kernel.target_accept is not None
    assert result.warmup is not None
    assert result.warmup.target_accept == kernel.target_accept
    assert float(result.accept_prob.mean()) == pytest.approx(kernel.target_accept, abs=0.05)
    assert result.warmup.accept_prob == pytest.approx(kernel.target_accept, abs=0.05)


@pytest.mark.parametrize("kernel", KERNELS, ids=ids)
def test_each_chain_finds_the_step_size_of_its_own_scale(kernel: Kernel[Any]) -> None:
    """One run over chains of three scales: step sizes go with the scale (HMC) or its square (MALA).

    A single chain tells little per step, hence a gain above the published one; with that, HMC's iterates still swing
    across the stability limit after hundreds of steps, and their mean lies too low.
    """
    context = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64).repeat(30)
    adaptation = DualAveraging(pooled=False)
    result = sample(
        energy,
        kernel,
        start(context),
        num_samples=200,
        num_warmup=1000,
        context=context,
        adaptation=adaptation,
        noise=1,
    )
    assert result.warmup is not None
    assert result.warmup.step_size.shape == (90,)
    assert kernel.target_accept is not None
    power = 2 if isinstance(kernel, MALA) else 1
    typical = (result.warmup.step_size / context**power).reshape(30, 3).log().median(dim=0).values
    assert float(typical.max() - typical.min()) < 0.25, typical
    by_scale = result.accept_prob.reshape(30, 3).mean(dim=0)
    assert (by_scale - kernel.target_accept).abs().max() < 0.05, by_scale


def test_target_of_the_adaptation_wins_over_that_of_the_kernel() -> None:
    context = scales(1.0)
    result = sample(
        energy,
        MALA(),
        start(context),
        num_samples=200,
        num_warmup=300,
        context=context,
        adaptation=DualAveraging(target_accept=0.8),
        noise=1,
    )
    assert float(result.accept_prob.mean()) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "per-chain"])
@pytest.mark.parametrize("kernel", KERNELS, ids=ids)
def test_step_size_is_frozen_after_warm_up(kernel: Kernel[Any], pooled: bool) -> None:
    context = scales(1.0)
    adaptation = DualAveraging(pooled=pooled)
    short, long = (
        sample(
            energy,
            kernel,
            start(context),
            num_samples=num_samples,
            num_warmup=50,
            context=context,
            adaptation=adaptation,
            noise=1,
        )
        for num_samples in (1, 50)
    )
    resumed = sample(energy, kernel, short.chains, num_samples=49, context=context)
    assert short.warmup is not None
    for result in (short, long, resumed):
        assert torch.equal(result.chains.params.step_size.flatten(), short.warmup.step_size.flatten())
    assert torch.equal(resumed.chains.matrix, long.chains.matrix)
    assert resumed.warmup is None


def test_ula_has_nothing_to_adapt() -> None:
    context = scales(1.0)
    result = sample(energy, ULA(step_size=0.05), start(context), num_samples=2, num_warmup=50, context=context, noise=1)
    assert result.warmup is not None
    assert result.warmup.target_accept is None
    assert float(result.warmup.step_size) == 0.05
    assert float(result.chains.params.step_size) == 0.05


def test_pooled_dual_averaging_takes_the_mean_over_chains() -> None:
    """A pooled update on many acceptances is the update on their mean; per chain, each has its own."""
    accept = torch.tensor([[0.2], [0.9], [0.4]], dtype=torch.float64)
    step_size = torch.tensor(0.1)
    pooled, single = DualAveraging(gain=0.1), DualAveraging(pooled=False, gain=0.1)
    one = pooled.update(pooled.init(step_size, 3), accept, 0.6)
    same = pooled.update(pooled.init(step_size, 1), accept.mean().reshape(1, 1), 0.6)
    each = single.update(single.init(step_size, 3), accept, 0.6)
    alone = [pooled.update(pooled.init(step_size, 1), row.unsqueeze(1), 0.6) for row in accept]
    assert torch.equal(pooled.current(one), pooled.current(same))
    assert torch.equal(single.current(each).flatten(), torch.stack([pooled.current(state) for state in alone]))
    assert float(each.log_step[0]) < float(each.log_step[2]) < float(each.log_step[1])


def test_tracking_follows_a_change_of_scale() -> None:
    """The scale shrinks tenfold between two runs of a training loop; acceptance comes back."""
    kernel, tracking = MALA(step_size=0.5), Tracking(target_accept=0.6)
    position = start(scales(1.0))
    params = kernel.init_params(position)
    accept: list[float] = []
    for round_ in range(150):
        context = scales(1.0 if round_ < 50 else 0.1)
        result = run(energy, kernel, position, num_steps=5, context=context, params=params, noise=round_)
        position = result.chains.matrix
        params = params._replace(step_size=tracking.update(params.step_size, result.accept_prob))
        accept.append(float(result.accept_prob.mean()))
    assert accept[50] < 0.1
    assert sum(accept[30:50]) / 20 == pytest.approx(0.6, abs=0.05)
    assert sum(accept[130:]) / 20 == pytest.approx(0.6, abs=0.05)


def test_tracking_stays_within_its_limits() -> None:
    tracking = Tracking(target_accept=0.6, gain=5.0, smallest=0.01, largest=1.0)
    step_size = torch.tensor(0.1)
    for accept, limit in ((0.0, 0.01), (1.0, 1.0)):
        for _ in range(10):
            step_size = tracking.update(step_size, torch.full((3,), accept))
        assert float(step_size) == pytest.approx(limit)
        assert step_size.dtype == torch.float32


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.5, float("nan")])
def test_target_acceptance_lies_between_zero_and_one(bad: float) -> None:
    for make in (lambda: DualAveraging(target_accept=bad), lambda: Tracking(target_accept=bad)):
        with pytest.raises(ParameterError, match="target_accept must lie strictly between 0 and 1"):
            make()


def test_adaptation_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DualAveraging().gain = 1.0  # type: ignore[misc]
