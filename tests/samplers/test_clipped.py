"""Clipping shortens long gradients and nothing else, and integrators stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import (
    HMC,
    MALA,
    ULA,
    ChEES,
    GeneratorNoise,
    Layout,
    ParameterError,
    RandomisedHMC,
    State,
    Target,
    sample,
)
from lamina.samplers.kernels.clipped import Clipped, ClippedTarget
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.leapfrog import leapfrog
from lamina.samplers.kernels.rwm import RWM

DIM = 3


def energy(x: Tensor) -> Tensor:
    """Skewed, and not separable."""
    return (x.exp() - x).sum(1) + 0.5 * (x[:, 0] * x[:, 1]).square()


def normals(num: int, seed: int) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target_of(x: Tensor, max_norm: float) -> Target:
    return ClippedTarget(Target(energy, Layout.of(x), len(x)), max_norm)


def test_long_gradients_keep_their_direction_and_short_ones_their_length() -> None:
    x = normals(500, 0)
    plain, clipped = target_of(x, 1e300)(x), target_of(x, 1.5)(x)
    norm = plain[1].norm(dim=1, keepdim=True)
    is_long = (norm > 1.5).squeeze(1)
    assert 100 < int(is_long.sum()) < 400
    assert torch.equal(clipped[0], plain[0])
    assert torch.equal(clipped[1][~is_long], plain[1][~is_long])
    torch.testing.assert_close(clipped[1][is_long], (1.5 * plain[1] / norm)[is_long])
    assert torch.equal(target_of(x, 1.5).energy(x), plain[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_gradients(dtype: torch.dtype) -> None:
    """Zero stays zero, huge ones do not overflow into zero, and NaN is not hidden."""
    x = torch.tensor([[0.0, 0.0], [3e30, 4e30], [torch.nan, 1.0]], dtype=dtype)
    target = Target(lambda x: 0.5 * x.square().sum(1), Layout.of(x), 3)
    grad = ClippedTarget(target, 10.0)(x)[1]
    torch.testing.assert_close(grad[:2], torch.tensor([[0.0, 0.0], [6.0, 8.0]], dtype=dtype))
    assert grad[2].isnan().all()
    assert grad.dtype == dtype


def test_parts_and_copies_of_a_target_are_clipped_too() -> None:
    """Copies before their own temperatures: their gradients are those of the chain, times an inverse temperature."""
    x = normals(60, 0)
    target, part = target_of(x, 1.5), slice(10, 30)
    assert torch.equal(target.rows(part)(x[part])[1], target(x)[1][part])
    beta = torch.tensor([1.0, 0.1], dtype=torch.float64).expand(60, 2)
    copies = target.replicated(beta)(x.repeat_interleave(2, dim=0))[1].reshape(60, 2, DIM)
    torch.testing.assert_close(copies, torch.stack((target(x)[1], 0.1 * target(x)[1]), dim=1))


def test_clipped_leapfrog_is_reversible() -> None:
    x, r = normals(50, 0), normals(50, 1)
    end, momentum = integrate(x, r)
    back, turned = integrate(end, -momentum)
    assert (end - x).abs().max() > 0.5
    torch.testing.assert_close(back, x, rtol=0, atol=1e-11)
    torch.testing.assert_close(-turned, r, rtol=0, atol=1e-11)


def test_clipped_leapfrog_keeps_volume() -> None:
    """The Jacobians at 20 points by central differences, with all perturbed starts as chains of one batch."""
    eps = 1e-5
    points = torch.cat((normals(20, 0), normals(20, 1)), dim=1)
    shifts = eps * torch.cat((torch.eye(2 * DIM), -torch.eye(2 * DIM))).double()
    starts = (points.unsqueeze(1) + shifts).flatten(0, 1)
    ends = torch.cat(integrate(starts[:, :DIM], starts[:, DIM:]), dim=1).reshape(20, 4 * DIM, 2 * DIM)
    jacobian = (ends[:, : 2 * DIM] - ends[:, 2 * DIM :]) / (2 * eps)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(20).double(), rtol=0, atol=1e-7)


def integrate(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Seven steps among gradients of which many, but not all, are clipped."""
    target = target_of(x, 2.0)
    energies, grad = target(x)
    is_clipped = grad.norm(dim=1) > 2.0 - 1e-9
    assert is_clipped.any()
    assert not is_clipped.all()
    end, momentum, _ = leapfrog(
        target, State(x, energies, grad), r, torch.tensor(0.3).double(), torch.ones(()).double(), 7
    )
    return end.position, momentum


@pytest.mark.parametrize("inner", [ULA(), MALA(), HMC(), GHMC(), RWM()], ids=["ula", "mala", "hmc", "ghmc", "rwm"])
def test_a_clip_that_never_bites_changes_nothing(inner: Any) -> None:
    x, outer = normals(100, 0), Clipped(kernel=inner, max_norm=1e300)
    assert outer.sites == inner.sites
    assert (outer.is_exact, outer.target_accept) == (inner.is_exact, inner.target_accept)
    assert (outer.info_fields, outer.counted) == (inner.info_fields, inner.counted)
    ends: list[tuple[Tensor, ...]] = []
    for kernel in (inner, outer):
        target, params = Target(energy, Layout.of(x), len(x)), kernel.init_params(x, step_size=0.3)
        noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
        state, info = kernel.step(target, kernel.init(target, x, params), noise, params)
        ends.append((*state, *info))  # type: ignore[misc]
    for ours, theirs in zip(ends[0], ends[1], strict=True):
        assert torch.equal(ours, theirs)


def test_wrong_options() -> None:
    with pytest.raises(ParameterError, match=r"kernel must be a Kernel, such as MALA\(step_size=0\.1\); got 'mala'"):
        Clipped(kernel="mala", max_norm=1.0)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="max_norm must be positive and finite; got 0"):
        Clipped(kernel=MALA(), max_norm=0)


def test_adaptations_find_the_kernel_inside() -> None:
    kernel = Clipped(kernel=RandomisedHMC(), max_norm=1.0)
    assert kernel.default_adaptation() == ChEES()
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    result = sample(lambda x: x.square().sum(1), kernel, x, num_samples=2, num_warmup=30, noise=0)
    assert float(result.chains.params.trajectory_length) != RandomisedHMC().trajectory_length
