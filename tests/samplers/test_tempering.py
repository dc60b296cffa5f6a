"""Parallel tempering: every rung keeps its own density, swaps happen as often as they should, and runs resume.

All statistical checks together fail exact code with probability 1e-6 at most, if all seeds were drawn afresh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lamina.benchmarks.densities import Banana, Funnel, GaussianMixture, LogGamma
from lamina.benchmarks.densities.quadrature import Line
from lamina.samplers import (
    HMC,
    MALA,
    NUTS,
    ULA,
    Chains,
    DualAveraging,
    GeneratorNoise,
    Kernel,
    Layout,
    ParameterError,
    Target,
    run,
    sample,
)
from lamina.samplers.adaptation.ladder import LadderAdaptation, geometric_ladder, spread_evenly
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.rwm import RWM
from lamina.samplers.kernels.tempering import ParallelTempering, TemperingState
from lamina.samplers.testing import CDF, dkw_half_width, ks_one_sample, ks_two_sample

NUM_CHECKS = 128  # upper bound on the statistical comparisons in this file
FALSE_ALARM = 1e-6 / NUM_CHECKS
Z_LIMIT = math.sqrt(2) * float(special.erfcinv(FALSE_ALARM))

BETAS = (1.0, 0.6, 0.3)
NUM_CHAINS = 20_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(num: int, generator: torch.Generator) -> Tensor:
    return torch.randn(num, generator=generator, dtype=torch.float64)


# --- Densities that stay known when they are tempered ---------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A target, exact draws of its powers, and the law of their first coordinate."""

    energy: Callable[[Tensor], Tensor]
    draw: Callable[[int, float, torch.Generator], Tensor]
    cdf: Callable[[float], CDF]


def log_gamma() -> Case:
    """The power beta of a log-gamma density of shape a is one of shape a beta and rate beta."""
    density = LogGamma(dim=2)

    def draw(num: int, beta: float, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(num, 2, generator=generator, dtype=torch.float64).clamp(min=2.0**-54)
        gamma = special.gammaincinv(density.shape * beta, uniform.numpy())
        return (torch.from_numpy(gamma) / beta).log()

    def cdf(beta: float) -> CDF:
        return lambda y: torch.special.gammainc(torch.full_like(y, density.shape * beta), beta * y.exp())

    return Case(density, draw, cdf)


def funnel() -> Case:
    """x given v has its variance over beta; what that takes from the normaliser moves the mean of v."""
    density = Funnel(dim=3, scale=1.0)

    def draw(num: int, beta: float, generator: torch.Generator) -> Tensor:
        v = 1 / beta - 1 + normals(num, generator) / math.sqrt(beta)  # (1 - beta) (D - 1) / 2 times 1 / beta
        x = [torch.exp(v / 2) * normals(num, generator) / math.sqrt(beta) for _ in range(2)]
        return torch.stack((v, *x), dim=1)

    return Case(density, draw, lambda beta: lambda v: torch.special.ndtr(math.sqrt(beta) * (v - 1 / beta + 1)))


def banana() -> Case:
    """Both variances over beta, along the same ridge."""
    density = Banana()

    def draw(num: int, beta: float, generator: torch.Generator) -> Tensor:
        x0 = density.scale * normals(num, generator) / math.sqrt(beta)
        ridge = density.bend * (x0.square() - density.scale**2)
        return torch.stack((x0, ridge + normals(num, generator) / math.sqrt(beta)), dim=1)

    return Case(density, draw, lambda beta: lambda x: torch.special.ndtr(math.sqrt(beta) * x / density.scale))


MIXTURE = GaussianMixture(means=((-2.0,), (2.0,)), scales=(0.6, 1.0), weights=(0.25, 0.75))


def mixture_line(beta: float) -> Line:
    return Line.from_energy(lambda x: beta * MIXTURE(x.unsqueeze(1)), -18.0, 18.0)


def mixture() -> Case:
    """By quadrature."""

    def draw(num: int, beta: float, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(num, 1, generator=generator, dtype=torch.float64)
        return mixture_line(beta).table.quantile(uniform)

    return Case(MIXTURE, draw, lambda beta: mixture_line(beta).table.cdf)


CASES = {"skewed": log_gamma, "funnel": funnel, "banana": banana, "bimodal": mixture}
INNER: dict[str, Kernel[Any]] = {
    "mala": MALA(step_size=0.3),
    "hmc": HMC(step_size=0.4, num_leapfrog_steps=3, jitter=0.5),
    "rwm": RWM(step_size=0.8),
    "nuts": NUTS(step_size=0.4, max_tree_depth=3),
}


def exact_start(
    kernel: ParallelTempering, case: Case, target: Target, generator: torch.Generator, num_chains: int = NUM_CHAINS
) -> tuple[TemperingState, Any]:
    """Every rung at an exact draw of its own density."""
    draws = [case.draw(num_chains, beta, generator) for beta in kernel.inverse_temperatures]
    params = kernel.init_params(draws[0])
    memory = kernel.memory(kernel.init(target, draws[0], params)) | {"replicas": torch.cat(draws[1:], dim=1)}
    return kernel.restore(target, draws[0], memory, params), params


@pytest.mark.parametrize(
    ("name", "inner"), [(name, inner) for name in CASES for inner in INNER if inner != "nuts" or name == "skewed"]
)
def test_every_rung_keeps_its_density(name: str, inner: str) -> None:
    case, generator = CASES[name](), seeded()
    kernel = ParallelTempering(inner=INNER[inner], inverse_temperatures=BETAS)
    dim = case.draw(1, 1.0, generator).shape[1]
    target = Target(case.energy, Layout((), (torch.Size([dim]),)), NUM_CHAINS)
    state, params = exact_start(kernel, case, target, generator)
    start, noise, swaps = state.positions, GeneratorNoise(generator), []
    for step in range(4):
        state, info = kernel.step(target, state, noise.draw(kernel.sites, state.position, step), params)
        swaps.append(info.swap_prob)
        assert 0.1 < info.accept_prob.mean() < 0.999
    assert 0.1 < torch.stack(swaps).mean() < 0.95  # else no swap, or no refusal, was tested
    for rung, (beta, x, old) in enumerate(zip(BETAS, state.positions.split(dim, 1), start.split(dim, 1), strict=True)):
        assert ks_one_sample(x[:, 0], case.cdf(beta)) < dkw_half_width(NUM_CHAINS, FALSE_ALARM), rung
        fresh = case.draw(NUM_CHAINS, beta, generator)
        distance = ks_two_sample(case.energy(x), case.energy(fresh))
        assert distance < dkw_half_width(NUM_CHAINS, FALSE_ALARM, num_other=NUM_CHAINS), rung
        assert (x != old).any(1).double().mean() > 0.5


def test_swap_rates_are_those_of_quadrature() -> None:
    kernel = ParallelTempering(inner=MALA(step_size=0.3), inverse_temperatures=BETAS)
    target = Target(MIXTURE, Layout((), (torch.Size([1]),)), NUM_CHAINS)
    state, params = exact_start(kernel, mixture(), target, seeded())
    noise = GeneratorNoise(seeded(1)).draw(kernel.sites, state.position, 0)
    _, info = kernel.step(target, state, noise, params)
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    energy = MIXTURE(grid.unsqueeze(1))
    for pair, (cold, hot) in enumerate(pairwise(BETAS)):
        weights = torch.softmax(-cold * energy, 0).unsqueeze(1) * torch.softmax(-hot * energy, 0)
        ratio = (cold - hot) * (energy.unsqueeze(1) - energy)
        expected = (weights * ratio.clamp(max=0).exp()).sum()
        band = math.sqrt(math.log(2 / FALSE_ALARM) / (2 * NUM_CHAINS))  # Hoeffding's, for means of numbers in [0, 1]
        assert abs(info.swap_prob[:, pair].mean() - expected) < band


def test_temperature_of_a_run_applies_to_all_rungs() -> None:
    kernel = ParallelTempering(inner=MALA(step_size=0.3), inverse_temperatures=BETAS)
    x = normals(40, seeded()).reshape(20, 2)
    warm = sample(Banana(), kernel, x, num_samples=5, temperature=2.0, noise=0)
    halved = sample(lambda x: Banana()(x) / 2, kernel, x, num_samples=5, noise=0)
    torch.testing.assert_close(warm.draws, halved.draws)


FAR = GaussianMixture(means=((-5.0, 0.0), (5.0, 0.0)), scales=(0.7, 1.0), weights=(0.25, 0.75))


def test_crosses_where_its_inner_kernel_does_not() -> None:
    start = torch.tensor([[5.0, 0.0]], dtype=torch.float64).repeat(120, 1)
    kernel = ParallelTempering(inner=MALA(step_size=0.5), inverse_temperatures=geometric_ladder(5, 0.03))
    result = sample(FAR, kernel, start, num_samples=500, num_warmup=200, generator=seeded())
    in_small_mode = (result.draws[..., 0] < 0).double().mean(1)  # of each chain; chains are independent
    error = in_small_mode.std() / math.sqrt(len(in_small_mode))
    assert error < 0.03
    assert abs(in_small_mode.mean() - 0.25) < Z_LIMIT * error
    alone = sample(FAR, MALA(step_size=0.5), start, num_samples=300, generator=seeded())
    assert (alone.draws[..., 0] > 0).all()
    note = next(note for note in result.summary().notes if "Swap rates" in note)
    assert f"{1000 * result.means['round_trips'].mean():.1f} round trips per chain and 1,000 steps" in note


# --- Bookkeeping ----------------------------------------------------------------------------------------------


def flat(x: Tensor) -> Tensor:
    """No energy differences: uniform noise swaps; a 2, which is none, does not."""
    return 0 * x.sum(1)


@pytest.mark.parametrize("num_rungs", [2, 3, 5])
def test_swaps_and_round_trips_of_a_script(num_rungs: int) -> None:
    num_sweeps = 60
    kernel = ParallelTempering(inner=MALA(step_size=1e-12), inverse_temperatures=geometric_ladder(num_rungs, 0.5))
    script = (torch.rand(num_sweeps, num_rungs - 1, generator=seeded()) < 0.8).tolist()
    x = torch.zeros(1, 1, dtype=torch.float64)
    target, params = Target(flat, Layout.of(x), 1), kernel.init_params(x)
    replicas = torch.arange(1, num_rungs, dtype=torch.float64).unsqueeze(0)
    memory = kernel.memory(kernel.init(target, x, params)) | {"replicas": replicas}
    state = kernel.restore(target, x, memory, params)
    order, trips, expected, counted = list(range(num_rungs)), {0: "out"}, 0, 0
    for sweep, swaps in zip(range(num_sweeps), script, strict=True):
        noise = GeneratorNoise(seeded(sweep)).draw(kernel.sites, x, sweep)
        uniform = [0.5 if swap else 2.0 for swap in swaps]
        state, info = kernel.step(target, state, {**noise, "swap": torch.tensor([uniform]).double()}, params)
        counted += int(info.round_trips)
        for rung in range(sweep % 2, num_rungs - 1, 2):
            if swaps[rung]:
                order[rung], order[rung + 1] = order[rung + 1], order[rung]
        if trips.get(order[-1]) == "out":
            trips[order[-1]] = "back"
        expected += trips.get(order[0]) == "back"
        trips[order[0]] = "out"
        assert state.positions.round().flatten().tolist() == order
    assert counted == expected > 0


def moving_energy(x: Tensor, shift: Tensor) -> Tensor:
    return (x - shift).exp().sum(1) - x.sum(1)


@pytest.mark.parametrize("inner", INNER)
def test_resumes_bit_for_bit_and_in_parts(inner: str) -> None:
    kernel = ParallelTempering(inner=INNER[inner], inverse_temperatures=BETAS)
    x, shift = normals(30, seeded()).reshape(10, 3), normals(10, seeded(1)).unsqueeze(1)
    whole = sample(moving_energy, kernel, x, num_samples=20, context=shift, noise=0)
    parts = sample(moving_energy, kernel, x, num_samples=20, context=shift, noise=0, chain_batch_size=3)
    assert torch.equal(whole.draws, parts.draws)
    first = sample(moving_energy, kernel, x, num_samples=8, context=shift, noise=0)
    stored = Chains.from_state_dict(first.chains.state_dict(), kernel)
    second = sample(moving_energy, kernel, stored, num_samples=12, context=shift)
    assert torch.equal(torch.cat((first.draws, second.draws), dim=1), whole.draws)
    assert whole.means["swap_prob"].shape == (10, len(BETAS) - 1)


@pytest.mark.parametrize("inner", ["mala", "hmc"])
def test_caches_are_fresh(inner: str) -> None:
    kernel = ParallelTempering(inner=INNER[inner], inverse_temperatures=BETAS)
    x, noise = normals(200, seeded()).reshape(100, 2), GeneratorNoise(seeded(1))
    target, params = Target(Banana(), Layout.of(x), len(x), temperature=1.7), kernel.init_params(x)
    state = kernel.init(target, x, params)
    for step in range(20):
        state, info = kernel.step(target, state, noise.draw(kernel.sites, x, step), params)
        energy, grad = target(state.position)
        # A replica that came from a hotter rung has its energy over that rung's temperature, up to rounding.
        torch.testing.assert_close((state.energy, state.grad), (energy, grad), rtol=1e-13, atol=1e-13)
        assert torch.equal(info.energy, state.energy)
    assert (state.evaluated_at != params.inverse_temperatures).any()
    assert torch.equal(info.num_grad_evals, torch.full_like(state.energy, len(BETAS) * (1 if inner == "mala" else 3)))


def test_new_weights_are_noticed() -> None:
    kernel = ParallelTempering(inner=MALA(step_size=0.2), inverse_temperatures=BETAS)
    x = normals(20, seeded()).reshape(10, 2)
    chains = run(Banana(), kernel, x, num_steps=5, noise=0).chains
    result = run(Banana(bend=0.5), kernel, chains, num_steps=0)
    torch.testing.assert_close(result.energy, Banana(bend=0.5)(result.position), rtol=1e-13, atol=1e-13)


def test_float32_structures_and_masses() -> None:
    kernel = ParallelTempering(inner=MALA(step_size=0.2), inverse_temperatures=BETAS)
    x = {"a": torch.zeros(6, 2), "b": torch.zeros(6)}
    params = kernel.init_params(x, step_size=torch.tensor([0.1, 0.2, 0.3]), inverse_mass=torch.tensor([1.0, 2.0, 3.0]))
    result = sample(
        lambda z: z["a"].square().sum(1) + z["b"].square(), kernel, x, num_samples=4, noise=0, params=params
    )
    assert result.draws["a"].dtype == torch.float32
    assert result.draws["b"].shape == (6, 4)
    assert result.accept_prob.shape == (6, 3)
    own = params._replace(step_size=params.step_size.repeat(6, 1), factor=params.factor.repeat(6, 1, 1))
    same = sample(lambda z: z["a"].square().sum(1) + z["b"].square(), kernel, x, num_samples=4, noise=0, params=own)
    assert torch.equal(result.draws["a"], same.draws["a"])


def test_step_is_one_graph() -> None:
    kernel = ParallelTempering(inner=HMC(step_size=0.4, num_leapfrog_steps=2), inverse_temperatures=BETAS)

    def arguments(seed: int) -> list[Tensor]:
        x = normals(128, seeded(seed)).reshape(64, 2)
        target = Target(Banana(), Layout.of(x), 64)
        return [
            *kernel.init(target, x, kernel.init_params(x)),
            *GeneratorNoise(seeded(seed)).draw(kernel.sites, x, 0).values(),
        ]

    traced_on, others = arguments(0), arguments(1)
    target = Target(Banana(), Layout.of(traced_on[0]), 64)
    params = kernel.init_params(traced_on[0])

    def step(*fields: Tensor) -> tuple[Tensor, ...]:
        size = len(TemperingState._fields)
        noise = dict(zip(kernel.sites, fields[size:], strict=True))
        state, info = kernel.step(target, TemperingState(*fields[:size]), noise, params)
        return (*state, *info)

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*traced_on)
    for ours, theirs in zip(graph(*others), step(*others), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "betas", [(1.0,), (0.9, 0.5), (1.0, 0.5, 0.5), (1.0, 0.0), (1.0, math.nan), [1.0, 0.5], (1.0, "0.5")]
)
def test_ladders_that_are_none_are_refused(betas: Any) -> None:
    with pytest.raises(ParameterError, match=r"fall from 1 .* geometric_ladder"):
        ParallelTempering(inner=MALA(), inverse_temperatures=betas)


def test_inner_kernels_that_cannot_be_replicas_are_refused() -> None:
    inner = ParallelTempering(inner=MALA(), inverse_temperatures=BETAS)
    with pytest.raises(ParameterError, match="made of parts"):
        ParallelTempering(inner=inner, inverse_temperatures=BETAS)
    with pytest.raises(ParameterError, match="inner must be a Kernel"):
        ParallelTempering(inner="mala", inverse_temperatures=BETAS)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"for each of 3 rungs"):
        inner.init_params(torch.zeros(4, 2), step_size=torch.ones(4))
    remembers = ParallelTempering(inner=GHMC(), inverse_temperatures=BETAS)
    with pytest.raises(ParameterError, match="remember more than their positions"):
        run(Banana(), remembers, torch.zeros(4, 2), num_steps=1, noise=0)
    assert not ParallelTempering(inner=ULA(), inverse_temperatures=BETAS).is_exact


# --- The ladder -----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.integers(2, 12))
@settings(deadline=None, derandomize=True, max_examples=100, database=None)
def test_spread_evenly_makes_intervals_of_equal_cost(costs: list[float], num_points: int) -> None:
    costs = [cost + 0.01 for cost in costs]
    points = torch.linspace(0, -3, len(costs) + 1, dtype=torch.float64) ** 3
    placed = spread_evenly(points, torch.tensor(costs), num_points)
    assert placed[0] == points[0]
    assert placed[-1] == points[-1]
    assert (placed.diff() < 0).all()

    def cost_up_to(place: float) -> float:
        shares = [(float(left) - place) / float(left - right) for left, right in pairwise(points)]
        return sum(cost * min(max(share, 0.0), 1.0) for cost, share in zip(costs, shares, strict=True))

    each = [cost_up_to(float(right)) - cost_up_to(float(left)) for left, right in pairwise(placed)]
    assert each == pytest.approx([sum(costs) / (num_points - 1)] * (num_points - 1), abs=1e-6)


def test_spread_evenly_without_costs_is_even() -> None:
    assert spread_evenly(torch.tensor([0.0, 1.0, 3.0]), torch.zeros(2)).tolist() == pytest.approx([0.0, 1.0, 3.0])


def test_adaptation_evens_swap_rates_and_step_sizes() -> None:
    """For a Gaussian the even ladder is the geometric one."""
    uneven = (1.0, 0.95, 0.9, 0.85, 0.05)
    kernel = ParallelTempering(inner=MALA(step_size=0.3), inverse_temperatures=uneven)
    start = torch.zeros(100, 4, dtype=torch.float64)
    fixed, result = (
        sample(energy_of_normal, kernel, start, num_samples=100, num_warmup=160, noise=0, adaptation=adaptation)
        for adaptation in (DualAveraging(), None)
    )
    rates = [r.means["swap_prob"].mean(0) for r in (fixed, result)]
    assert rates[0].max() - rates[0].min() > 0.4
    assert rates[1].max() - rates[1].min() < 0.05
    betas = result.chains.params.inverse_temperatures.tolist()
    assert betas == pytest.approx(geometric_ladder(5, 0.05), rel=0.1)
    assert (betas[0], betas[-1]) == (1, pytest.approx(0.05))
    assert (result.accept_prob.mean(0) - 0.574).abs().max() < 0.05
    assert result.warmup is not None
    assert any("rungs were last placed" in note for note in result.warmup.notes)


def energy_of_normal(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2


def test_adaptation_is_refused_or_says_when_it_could_do_nothing() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ParameterError, match="has no ladder"):
        sample(Banana(), MALA(), x, num_samples=1, num_warmup=5, noise=0, adaptation=LadderAdaptation())
    kernel = ParallelTempering(inner=MALA(), inverse_temperatures=BETAS)
    report = sample(Banana(), kernel, x, num_samples=1, num_warmup=9, noise=0).warmup
    assert report is not None
    assert "too short to place the rungs" in report.notes[0]
