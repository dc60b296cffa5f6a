"""What kernels owe whatever their algorithm: an invariant target, and runs that can be split and resumed.

Invariance: 25,000 chains from exact draws, four steps. False alarms: at most 1e-6 for the whole file if all seeds were
drawn afresh. Power: a Kolmogorov distance of 0.045 from the exact law is found with probability 0.99.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.benchmarks.densities import Banana, Density, Funnel, GaussianMixture, LogGamma
from lamina.samplers import HMC, MALA, ULA, Chains, GeneratorNoise, Kernel, StateError, Target, run, sample
from lamina.samplers.accept import accept
from lamina.samplers.engines import EngineName
from lamina.samplers.kernel import Info, Noise, State
from lamina.samplers.kernels.barker import Barker
from lamina.samplers.kernels.clipped import Clipped
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.langevin import LangevinParams
from lamina.samplers.kernels.malt import MALT
from lamina.samplers.kernels.noise_free import NoiseFreeLangevin
from lamina.samplers.kernels.rwm import RWM
from lamina.samplers.kernels.underdamped import UnderdampedLangevin
from lamina.samplers.kernels.walk import WalkParams
from lamina.samplers.testing import InvarianceReport, check_invariance

NUM_CHAINS = 25_000
NUM_STEPS = 4
NUM_CHECKS = 128  # upper bound on the checks below that an exact kernel has to pass
FALSE_ALARM = 1e-6 / NUM_CHECKS

TARGETS: dict[str, tuple[Density, float]] = {  # with a length that suits the target
    "skewed": (LogGamma(dim=4), 0.7),
    "bimodal": (GaussianMixture.unequal(), 1.2),
    "funnel": (Funnel(dim=4, scale=1.0), 0.7),
    "banana": (Banana(), 1.0),
}

EXACT: dict[str, tuple[Kernel[Any], float]] = {  # with a step size in terms of that length; MALA's is about a square
    "rwm": (RWM(), 1.0),
    "barker": (Barker(), 1.2),
    "ghmc": (GHMC(num_leapfrog_steps=2, persistence=0.7), 1.0),
    "malt": (MALT(num_leapfrog_steps=3), 1.0),
    "clipped-mala": (Clipped(kernel=MALA(), max_norm=0.5), 0.4),
    "clipped-hmc": (Clipped(kernel=HMC(num_leapfrog_steps=3), max_norm=0.5), 0.5),
}

OTHERS: dict[str, Kernel[Any]] = {
    "baoab": UnderdampedLangevin(),
    "obabo": UnderdampedLangevin(splitting="obabo"),
    "clipped-baoab": Clipped(kernel=UnderdampedLangevin(), max_norm=0.5),
    "noise-free": NoiseFreeLangevin(),
}

PLAIN: dict[str, Kernel[Any]] = {
    "ula": ULA(),
    "mala": MALA(),
    "hmc": HMC(),
    "clipped-ula": Clipped(kernel=ULA(), max_norm=0.5),
}

KERNELS = {name: kernel for name, (kernel, _) in EXACT.items()} | OTHERS


MASSES = ("identity", "diagonal", "dense")


def inverse_mass(kind: str, dim: int) -> Tensor | None:
    """Unlike the covariance of any target here, so that a wrong use of it shows."""
    diagonal = torch.linspace(0.4, 1.6, dim, dtype=torch.float64)
    if kind == "identity":
        return None
    return diagonal if kind == "diagonal" else torch.diag(diagonal) + 0.5 / dim


@functools.cache
def exact_draws(density: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Starts, and fresh draws to compare the ends with."""
    generator = torch.Generator().manual_seed(0)
    start = density.sample(NUM_CHAINS, generator=generator, dtype=dtype)
    return start, density.sample(NUM_CHAINS, generator=generator, dtype=dtype)


def check(
    kernel: Kernel[Any], target: str, step_size: float, mass: str = "identity", dtype: torch.dtype = torch.float64
) -> InvarianceReport:
    density, length = TARGETS[target]
    start, fresh = exact_draws(density, dtype)
    return check_invariance(
        kernel,
        density,
        start,
        fresh,
        noise=GeneratorNoise(torch.Generator().manual_seed(1)),
        cdfs=[density.marginal_cdf(d) for d in range(density.dim)],
        num_steps=NUM_STEPS,
        params=kernel.init_params(start, step_size=step_size * length, inverse_mass=inverse_mass(mass, density.dim)),
        false_alarm=FALSE_ALARM,
    )


def assert_exact(report: InvarianceReport) -> None:
    assert report.passed, str(report)
    assert 0.1 < report.accept_prob < 0.97, str(report)  # else nothing, or only one branch, was tested
    assert max(comparison.detectable_shift for comparison in report.comparisons) < 0.045, str(report)


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("target", TARGETS)
def test_exact_kernel_leaves_its_target_invariant(target: str, name: str, mass: str) -> None:
    kernel, step_size = EXACT[name]
    assert kernel.is_exact
    assert kernel.law == "the target"
    assert_exact(check(kernel, target, step_size, mass))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("target", TARGETS)
def test_exact_kernel_is_exact_in_float32(target: str, name: str) -> None:
    kernel, step_size = EXACT[name]
    assert_exact(check(kernel, target, step_size, "dense", torch.float32))


# --- Controls: the same check, on kernels with one planted bug each ------------------------------------------


class SignsForFree(Barker):
    """Forgets the probabilities of the signs."""

    def step(self, target: Target, state: State, noise: Noise, params: WalkParams) -> tuple[State, Info]:
        proposed, _ = super().step(target, state, {**noise, "u": torch.zeros_like(noise["u"])}, params)
        return accept(proposed, state, (state.energy - proposed.energy).double(), noise["u"], proposed.energy)


class ForgetsTheWork(MALT):
    """Accepts by the energies at both ends of a trajectory, whatever its leapfrog steps did to the momentum."""

    def step(self, target: Target, state: State, noise: Noise, params: Any) -> tuple[State, Info]:
        proposed, info = super().step(target, state, {**noise, "u": torch.zeros_like(noise["u"])}, params)
        return accept(proposed, state, (state.energy - proposed.energy).double(), noise["u"], info.num_grad_evals)


@pytest.mark.parametrize(
    ("bug", "step_size"),
    [
        (SignsForFree(), 1.2),
        (ForgetsTheWork(num_leapfrog_steps=3), 1.0),
        (Clipped(kernel=ULA(), max_norm=0.5), 0.1),
        (UnderdampedLangevin(splitting="obabo"), 1.0),
    ],
    ids=["signs-for-free", "forgets-the-work", "clipped-ula", "obabo"],
)
def test_inexact_kernel_is_found(bug: Kernel[Any], step_size: float) -> None:
    report = check(bug, "skewed", step_size)
    assert report.failures, str(report)
    assert report.has_moved, str(report)


# --- Engines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_runs_may_be_split_over_chains_and_resumed(kernel: Kernel[Any]) -> None:
    """Bit for bit, through a state on its way to a file, with a step size for each chain."""
    density, _ = TARGETS["skewed"]
    x = exact_draws(density, torch.float64)[0][:7]
    params = kernel.init_params(x, step_size=torch.linspace(0.05, 0.2, 7))
    whole = run(density, kernel, x, num_steps=6, noise=3, params=params)
    first = run(density, kernel, x, num_steps=4, noise=3, params=params, chain_batch_size=3)
    stored = Chains.from_state_dict(first.chains.state_dict(), kernel)
    rest = run(density, kernel, stored, num_steps=2, chain_batch_size=2)
    assert torch.equal(rest.chains.matrix, whole.chains.matrix)
    assert (whole.displacement > 0).all()


@pytest.mark.parametrize("kernel", [*KERNELS.values(), *PLAIN.values()], ids=[*KERNELS, *PLAIN])
@pytest.mark.parametrize("engine", ["eager", "native"])
def test_runs_that_tell_nothing_go_the_same_way(kernel: Kernel[Any], engine: EngineName) -> None:
    """Bit for bit in eager, where steps are those of `Kernel.move`; up to rounding in programs that leave out more."""
    density, _ = TARGETS["banana"]
    x = exact_draws(density, torch.float64)[0][:50]
    told, silent = (
        run(density, kernel, x, num_steps=5, noise=3, engine=engine, chain_batch_size=size, summarise=summarise)
        for summarise, size in ((True, None), (False, 7))
    )
    tolerance = 0 if engine == "eager" else 1e-12
    torch.testing.assert_close(silent.chains.matrix, told.chains.matrix, rtol=tolerance, atol=tolerance)
    assert (silent.displacement > 0).any()
    with pytest.raises(StateError, match="summarise"):
        _ = silent.accept_prob


class Halting(ULA):
    """Stays where it is."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        return state, super().step(target, state, noise, params)[1]


def test_another_step_comes_without_the_move_of_the_old_one() -> None:
    density, _ = TARGETS["banana"]
    x = exact_draws(density, torch.float64)[0][:5]
    assert torch.equal(run(density, Halting(), x, num_steps=3, noise=0, summarise=False).position, x)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_samples_come_with_what_the_kernel_tells(kernel: Kernel[Any]) -> None:
    density, _ = TARGETS["skewed"]
    x = exact_draws(density, torch.float32)[0][:50]
    result = sample(density, kernel, x, num_samples=5, num_warmup=20, noise=0, collect=kernel.info_fields)
    assert result.draws.dtype == torch.float32  # type: ignore[union-attr]
    assert set(result.info) == set(kernel.info_fields)
    num = result.info["num_grad_evals"].sum(dim=1)
    assert torch.equal(num.long(), result.num_grad_evals)
    assert result.warmup is not None
    assert result.warmup.target_accept == kernel.target_accept


def test_kernels_that_are_not_exact_say_what_they_are_instead() -> None:
    laws = {name: kernel.law for name, kernel in OTHERS.items()} | {"ula": ULA().law}
    assert not any(kernel.is_exact for kernel in OTHERS.values())
    assert laws == {
        "baoab": "the target up to a bias of order step_size^2",
        "obabo": "the target up to a bias of order step_size^2",
        "ula": "the target up to a bias of order step_size",
        "clipped-baoab": "a law that is not known: nothing makes up for clipped gradients",
        "noise-free": "no density: it descends the energy",
    }
