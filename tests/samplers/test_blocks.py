"""Sweeps over blocks: exact for the whole, each block by its own kernel, held parts untouched.

False alarms of the statistical tests: at most 1e-6 for the whole file if all seeds were drawn afresh. Power: a
Kolmogorov distance of 0.048 from the right law is found with probability 0.99.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lamina.benchmarks.densities import Banana, Funnel
from lamina.samplers import (
    HMC,
    MALA,
    ULA,
    DualAveraging,
    Kernel,
    Layout,
    ParameterError,
    PositionError,
    State,
    Target,
    UnknownNameError,
    run,
    sample,
)
from lamina.samplers.kernels.barker import Barker
from lamina.samplers.kernels.blocks import Blocks
from lamina.samplers.kernels.clipped import Clipped
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.mams import MAMS
from lamina.samplers.kernels.nuts import NUTS
from lamina.samplers.kernels.rwm import RWM
from lamina.samplers.noise import CounterNoise
from lamina.samplers.testing import check_invariance

NUM_CHAINS = 20_000
NUM_CHECKS = 32  # upper bound on the statistical checks below
FALSE_ALARM = 1e-6 / NUM_CHECKS

COVARIANCE = torch.tensor([[1.0, 0.7, -0.3], [0.7, 2.0, 0.4], [-0.3, 0.4, 0.8]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
MEAN = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)

KERNELS: dict[str, Blocks] = {
    "one kind": Blocks({"a": MALA(step_size=0.5), "b": MALA(step_size=0.4)}),
    "two kinds": Blocks({"b": HMC(step_size=0.6, num_leapfrog_steps=3, jitter=0.3), "a": Barker(step_size=1.0)}),
    "without gradient": Blocks({"a": RWM(step_size=1.5), "b": RWM(step_size=1.0)}),
    "with and without": Blocks({"a": RWM(step_size=1.5), "b": MALA(step_size=0.4)}),
    "clipped": Blocks({"a": MALA(step_size=0.5), "b": Clipped(kernel=MALA(step_size=0.4), max_norm=0.5)}),
    "trees": Blocks({"a": NUTS(step_size=0.9, max_tree_depth=3), "b": NUTS(step_size=0.7, max_tree_depth=3)}),
}


def energy(z: dict[str, Tensor]) -> Tensor:
    """A correlated Gaussian over `a`, one coordinate, and `b`, two."""
    x = torch.cat([z["a"], z["b"]], dim=1) - MEAN.to(z["a"].dtype)
    return 0.5 * ((x @ PRECISION.to(x.dtype)) * x).sum(1)


def parts(x: Tensor) -> dict[str, Tensor]:
    return {"a": x[:, :1].contiguous(), "b": x[:, 1:].contiguous()}


def draw(num: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    xi = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return parts((MEAN + xi @ torch.linalg.cholesky(COVARIANCE).T).to(dtype))


# --- Exactness -------------------------------------------------------------------------------------------------------


def normal_cdf(d: int) -> Any:
    return lambda x: torch.special.ndtr((x.double() - MEAN[d]) / COVARIANCE[d, d].sqrt())


@pytest.mark.parametrize(
    ("name", "mass", "dtype"),
    [(name, None, torch.float64) for name in KERNELS]
    + [("two kinds", "diagonal", torch.float64), ("two kinds", "dense", torch.float64)]
    + [("one kind", "dense", torch.float32)],
)
def test_sweep_leaves_a_correlated_gaussian_invariant(name: str, mass: str | None, dtype: torch.dtype) -> None:
    start, fresh = draw(NUM_CHAINS, 0, dtype), draw(NUM_CHAINS, 1, dtype)
    masses = {"diagonal": COVARIANCE.diagonal(), "dense": COVARIANCE}
    report = check_invariance(
        KERNELS[name],
        energy,
        start,
        fresh,
        noise=2,
        cdfs=[normal_cdf(d) for d in range(3)],
        functions={"b[0] b[1]": lambda z: z["b"].prod(1)},
        num_steps=3,
        params=KERNELS[name].init_params(start, inverse_mass=masses[mass] if mass else None),
        false_alarm=FALSE_ALARM,
    )
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.999, str(report)
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.048, str(report)


@pytest.mark.parametrize("density", [Banana(), Funnel(dim=4, scale=1.0)], ids=["banana", "funnel"])
def test_sweep_leaves_bent_densities_invariant(density: Any) -> None:
    """The first coordinate by one kernel, the rest, which depends on it, by another; as a tuple."""
    generator = torch.Generator().manual_seed(3)
    start, fresh = (density.sample(NUM_CHAINS, generator=generator) for _ in range(2))
    report = check_invariance(
        Blocks({0: MALA(step_size=0.3), 1: HMC(step_size=0.35, num_leapfrog_steps=3)}),
        lambda z: density(torch.cat(z, dim=1)),
        (start[:, :1], start[:, 1:]),
        (fresh[:, :1], fresh[:, 1:]),
        noise=4,
        num_steps=3,
        false_alarm=FALSE_ALARM,
    )
    assert report.passed, str(report)
    assert 0.2 < report.accept_prob < 0.999, str(report)


def test_held_part_stays_and_the_rest_follows_the_conditional_law() -> None:
    """b given a is Gaussian; chains forget where b began, as its start is far from there."""
    held = torch.full((NUM_CHAINS, 1), 1.7, dtype=torch.float64)
    start = {"a": held, "b": torch.zeros(NUM_CHAINS, 2, dtype=torch.float64)}
    kernel = Blocks({"b": HMC(step_size=0.5, num_leapfrog_steps=4, jitter=0.3)})
    end = run(energy, kernel, start, num_steps=25, noise=5).position
    assert isinstance(end, dict)
    assert torch.equal(end["a"], held)
    gain = COVARIANCE[1:, 0] / COVARIANCE[0, 0]
    mean = MEAN[1:] + gain * (1.7 - MEAN[0])
    covariance = COVARIANCE[1:, 1:] - gain[:, None] * COVARIANCE[0, 1:]
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (end["b"] - mean).T, upper=False)
    moments = torch.cat([white.flatten(), white[0] * white[1], white.flatten().square() - 1])
    # Averages of N independent terms of unit variance (two, of squares): z-tests, 5 of them.
    scales = torch.tensor([1.0, 1.0, 1.0, math.sqrt(2), math.sqrt(2)], dtype=torch.float64)
    z = moments.reshape(5, NUM_CHAINS).mean(1) / scales * math.sqrt(NUM_CHAINS)
    limit = torch.special.ndtri(torch.tensor(1 - FALSE_ALARM / 10, dtype=torch.float64))
    assert (z.abs() < limit).all(), z.tolist()


# --- What a sweep costs, keeps and tells -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_cache_is_fresh_after_moves_and_rejections(name: str) -> None:
    kernel, x = KERNELS[name], Layout.of(draw(64, 0)).ravel(draw(64, 0))
    target, noise = Target(energy, Layout.of(draw(64, 0)), 64), CounterNoise(1)
    params = kernel.init_params(draw(64, 0))
    state = kernel.init(target, x, params)
    for step in range(10):
        state, info = kernel.step(target, state, noise.draw(kernel.sites, x, step), params)
        anew = kernel.init(target, state.position, params)
        assert torch.equal(info.energy, state.energy)
        for ours, fresh in zip(state, anew, strict=True):
            torch.testing.assert_close(ours, fresh, rtol=0, atol=0)
        assert info.accept_prob.shape == info.is_accepted.shape == info.energy_error.shape == (64, 2)
        assert info.is_divergent.shape == (64, 2)
        assert info.num_grad_evals.shape == (64, 1)


@pytest.mark.parametrize("name", ["one kind", "two kinds", "with and without"])
def test_sweep_is_one_graph(name: str) -> None:
    """Traced without values, a sweep repeats its results bit for bit on other inputs: it branches on none."""
    kernel, layout = KERNELS[name], Layout.of(draw(32, 0))
    params, target = kernel.init_params(draw(32, 0)), Target(energy, layout, 32)

    def arguments(seed: int) -> list[Tensor]:
        x = layout.ravel(draw(32, seed))
        return [*kernel.init(target, x, params), *CounterNoise(seed).draw(kernel.sites, x, 0).values()]

    def step(*flat: Tensor) -> tuple[Tensor, ...]:
        state, info = kernel.step(target, State(*flat[:3]), dict(zip(kernel.sites, flat[3:], strict=True)), params)
        return (*state, *info)

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments(0))
    for ours, theirs in zip(graph(*arguments(1)), step(*arguments(1)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_sweep_costs_what_its_moves_cost() -> None:
    costs = {"one kind": 2, "two kinds": 4, "without gradient": 0, "with and without": 2, "clipped": 4}
    for name, cost in costs.items():
        result = sample(energy, KERNELS[name], draw(8, 0), num_samples=5, noise=1)
        assert result.num_grad_evals.tolist() == [5 * cost] * 8, name


def test_one_block_of_everything_is_the_kernel_itself() -> None:
    """Bit for bit on the same noise."""
    for kernel in (MALA(step_size=0.4), HMC(step_size=0.4, jitter=0.2), Barker(step_size=0.8)):
        position, blocks = (draw(32, 0)["b"],), Blocks({0: kernel})
        target = Target(lambda z: z[0].square().sum(1) + z[0][:, 0].cos(), Layout.of(position), 32)
        noise = CounterNoise(3).draw(kernel.sites, position[0], 0)
        renamed = dict(zip(blocks.sites, noise.values(), strict=True))
        whole, parts = kernel.init_params(position), blocks.init_params(position)
        ours, info = blocks.step(target, blocks.init(target, position[0], parts), renamed, parts)
        theirs, expected = kernel.step(target, kernel.init(target, position[0], whole), noise, whole)
        for one, other in zip((*ours, *info), (*theirs, *expected[: len(info)]), strict=True):
            assert torch.equal(one, other)


def test_dense_mass_gives_a_block_its_part_of_the_factor() -> None:
    """Moving b is then MALA on b alone, with the covariance of b given a as inverse mass."""
    kernel, start = MALA(step_size=0.3), draw(32, 0)
    blocks = Blocks({"b": kernel})
    gain = COVARIANCE[1:, 0] / COVARIANCE[0, 0]
    given = COVARIANCE[1:, 1:] - gain[:, None] * COVARIANCE[0, 1:]
    target = Target(energy, Layout.of(start), 32)
    alone = Target(lambda b: energy({"a": start["a"], "b": b}), Layout.of(start["b"]), 32)
    x = Layout.of(start).ravel(start)
    noise = CounterNoise(3).draw(blocks.sites, x, 0)
    xi, u = noise.values()
    params = blocks.init_params(start, inverse_mass=COVARIANCE)
    ours, info = blocks.step(target, blocks.init(target, x, params), noise, params)
    params_alone = kernel.init_params(start["b"], inverse_mass=given)
    theirs, expected = kernel.step(
        alone, kernel.init(alone, start["b"], params_alone), {"xi": xi[:, 1:], "u": u}, params_alone
    )
    torch.testing.assert_close(ours.position[:, 1:], theirs.position)
    torch.testing.assert_close(info.energy_error, expected.energy_error)
    assert torch.equal(ours.position[:, :1], start["a"])


@pytest.mark.parametrize("pooled", [True, False])
def test_every_block_reaches_its_own_acceptance(pooled: bool) -> None:
    kernel = Blocks({"a": MALA(step_size=1e-3), "b": MALA(step_size=1.0, target_accept=0.8)})
    assert kernel.target_accept == (0.574, 0.8)
    num_chains = 200 if pooled else 100
    result = sample(
        energy,
        kernel,
        draw(num_chains, 0),
        num_samples=60,
        num_warmup=300,
        noise=1,
        adaptation=DualAveraging(pooled=pooled),
    )
    assert result.accept_prob.shape == (num_chains, 2)
    assert result.chains.params.step_size.shape == ((2,) if pooled else (num_chains, 2))
    torch.testing.assert_close(
        result.accept_prob.mean(0), torch.tensor([0.574, 0.8], dtype=torch.float64), rtol=0, atol=0.05
    )


@pytest.mark.parametrize("name", KERNELS)
def test_continued_and_split_runs_are_whole_runs(name: str) -> None:
    kernel, start = KERNELS[name], draw(12, 0)
    whole = sample(energy, kernel, start, num_samples=8, noise=1).draws
    first = sample(energy, kernel, start, num_samples=5, noise=1)
    second = sample(energy, kernel, first.chains, num_samples=3)
    split = sample(energy, kernel, start, num_samples=8, noise=1, chain_batch_size=5).draws
    assert isinstance(whole, dict)
    assert isinstance(split, dict)
    for key, draws in whole.items():
        assert torch.equal(torch.cat([first.draws[key], second.draws[key]], dim=1), draws)  # type: ignore[index]
        torch.testing.assert_close(split[key], draws, rtol=1e-9, atol=1e-9)  # the energy uses matrix products


def test_step_sizes_per_block_and_chain() -> None:
    kernel, start = KERNELS["one kind"], draw(4, 0)
    assert kernel.init_params(start).step_size.tolist() == [0.5, 0.4]
    assert kernel.init_params(start, step_size=0.1).step_size.tolist() == [0.1, 0.1]
    assert kernel.init_params(start, step_size=torch.tensor([0.25, 0.5])).step_size.tolist() == [0.25, 0.5]
    steps = torch.tensor([[0.1, 1e-9], [1e-9, 0.1], [0.1, 0.1], [1e-9, 1e-9]], dtype=torch.float64)
    result = run(energy, kernel, start, num_steps=1, noise=1, params=kernel.init_params(start, step_size=steps))
    moved = torch.cat(
        [(result.position[key] - start[key]).abs().amax(1, keepdim=True) for key in ("a", "b")],  # type: ignore[index]
        dim=1,
    )
    assert (moved[steps < 1e-3] < 1e-3).all()
    assert (moved[steps > 1e-3] > 1e-3).any()
    for bad, message in [(torch.ones(3), r"\(2,\) or \(C, 2\)"), (-1.0, "positive"), (torch.ones(1, 4, 2), "shape")]:
        with pytest.raises(ParameterError, match=message):
            kernel.init_params(start, step_size=bad)


def test_blocks_are_values() -> None:
    kernel = KERNELS["two kinds"]
    assert kernel == Blocks(kernel.kernels)
    assert hash(kernel) == hash(Blocks(kernel.kernels))
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    assert kernel.reversed() != kernel
    assert kernel.reversed().reversed() == kernel
    assert kernel.is_exact
    unadjusted = Blocks({"a": ULA(), "b": MALA()})
    assert not unadjusted.is_exact
    assert unadjusted.target_accept is None


# --- Refusals --------------------------------------------------------------------------------------------------------


class IgnoresItsMass(MALA):
    """Moves by a unit mass, whatever it was given."""

    def step(self, target: Target, state: Any, noise: Any, params: Any) -> Any:
        return super().step(target, state, noise, params._replace(factor=torch.ones_like(params.factor)))


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ({}, "takes a kernel for each part"),
        (MALA(), "takes a kernel for each part"),
        ((("a", MALA()), ("a", HMC())), "takes a kernel for each part"),
        ({"a": "mala"}, "moved by a Kernel with one decision"),
        ({"a": Blocks({"a": MALA()})}, "moved by a Kernel with one decision"),
        ({"a": GHMC()}, "keeps more than its position"),
        ({"a": IgnoresItsMass(step_size=0.1)}, "moves coordinates whose inverse mass is zero"),
        ({"a": MAMS()}, "counts coordinates whose inverse mass is zero"),
    ],
    ids=["empty", "kernel", "twice", "name", "nested", "momentum", "ignores-mass", "counts"],
)
def test_what_cannot_be_swept_is_refused(kernels: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Blocks(kernels)


@pytest.mark.parametrize(
    ("kernel", "position", "error", "message"),
    [
        (Blocks({"c": MALA()}), draw(4, 0), UnknownNameError, "part of the position 'c'.*Known: a, b"),
        (Blocks({2: MALA()}), tuple(draw(4, 0).values()), UnknownNameError, "part of the position 2.*Known: 0, 1"),
        (Blocks({0: MALA()}), draw(4, 0), UnknownNameError, "part of the position 0"),
        (Blocks({0: MALA()}), draw(4, 0)["a"], PositionError, "single tensor"),
    ],
    ids=["key", "index", "index-of-dict", "tensor"],
)
def test_parts_that_are_not_there(kernel: Kernel[Any], position: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample(lambda z: z, kernel, position, num_samples=1, noise=0)
