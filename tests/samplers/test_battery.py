"""All our kernels go through the battery: exact where they say so, and true to the contract.

False alarms: at most 1e-6 for the whole file if all seeds were drawn afresh. Power: a Kolmogorov distance of 0.035 from
the exact law (0.05 for NUTS and tempering, on fewer chains) is found with probability 0.99.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import HMC, KERNELS, MALA, NUTS, ULA, Kernel, Position, State, Target
from lamina.samplers.kernels.barker import Barker
from lamina.samplers.kernels.blocks import Blocks
from lamina.samplers.kernels.clipped import Clipped
from lamina.samplers.kernels.ghmc import GHMC
from lamina.samplers.kernels.leapfrog import leapfrog
from lamina.samplers.kernels.malt import MALT
from lamina.samplers.kernels.mams import MAMS
from lamina.samplers.kernels.mclmc import MCLMC
from lamina.samplers.kernels.noise_free import NoiseFreeLangevin
from lamina.samplers.kernels.randomised_hmc import RandomisedHMC
from lamina.samplers.kernels.rwm import RWM
from lamina.samplers.kernels.tempering import ParallelTempering
from lamina.samplers.kernels.underdamped import UnderdampedLangevin
from lamina.samplers.metric import factorise
from lamina.samplers.position import Layout
from lamina.samplers.registry import COMPOUND_KERNELS
from lamina.samplers.testing import CDF, TARGETS, Report, Skewed, SmallTarget, check_integrator, check_kernel
from lamina.samplers.testing.contract import MASSES

SIMPLE: Mapping[str, Kernel[Any]] = {
    "ula": ULA(step_size=0.1),
    "noise-free": NoiseFreeLangevin(step_size=0.1),
    "underdamped": UnderdampedLangevin(step_size=0.2),
    "rwm": RWM(),
    "barker": Barker(),
    "mala": MALA(),
    "clipped-ula": Clipped(kernel=ULA(step_size=0.1), max_norm=2.0),
    "clipped-mala": Clipped(kernel=MALA(), max_norm=2.0),
    "hmc": HMC(num_leapfrog_steps=4),
    "hmc-jitter": HMC(num_leapfrog_steps=4, jitter=0.5),
    "randomised-hmc": RandomisedHMC(),
    "ghmc": GHMC(),
    "ghmc-of-steps": GHMC(num_leapfrog_steps=3, persistence=0.5, target_accept=0.7),
    "malt": MALT(num_leapfrog_steps=4),
}
"""Kernels that need nothing but a position. Step sizes of those with a target acceptance come from a warm-up."""

PLANE = tuple(target for target in TARGETS.values() if target.dim > 1)

NUM_CASES = 24  # upper bound on the reports below
FALSE_ALARM = 1e-6 / NUM_CASES


def assert_exact(report: Report) -> None:
    """The report passes, and both branches of the decision were met."""
    report.assert_passed()
    for one in report.invariance:
        assert 0.1 < one.accept_prob < 0.999, str(one)


@pytest.mark.parametrize("name", SIMPLE)
def test_kernel(name: str) -> None:
    assert_exact(check_kernel(SIMPLE[name], false_alarm=FALSE_ALARM))


@pytest.mark.parametrize("kernel", [MAMS(), MCLMC(step_size=0.2)], ids=["mams", "mclmc"])
def test_kernel_of_constant_speed(kernel: Kernel[Any]) -> None:
    """There are no directions to choose from in one dimension."""
    assert_exact(check_kernel(kernel, targets=PLANE, false_alarm=FALSE_ALARM))


def test_nuts() -> None:
    """Chains that grow trees in step are slow: fewer of them, and fewer steps."""
    report = check_kernel(
        NUTS(max_tree_depth=3),
        targets=[TARGETS["skewed"], TARGETS["bimodal"], TARGETS["half-line"]],
        num_chains=20_000,
        num_steps=2,
        false_alarm=FALSE_ALARM,
        max_shift=0.05,
    )
    assert_exact(report)


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_kernel_in_float32(name: str) -> None:
    assert_exact(check_kernel(SIMPLE[name], targets=[Skewed()], dtype=torch.float32, false_alarm=FALSE_ALARM))


# --- Kernels made of others --------------------------------------------------------------------------------------

LADDER = (1.0, 0.5, 0.2)


def exact_replicas(target: SmallTarget, start: Position, generator: torch.Generator) -> dict[str, Tensor]:
    """Replicas of the hotter rungs, each from its own law."""
    assert isinstance(start, Tensor)
    num = len(start)
    hotter = [target.sample(num, generator=generator, dtype=start.dtype, temperature=1 / beta) for beta in LADDER[1:]]
    return {
        "replicas": torch.cat(hotter, dim=1),
        "evaluated_at": start.new_tensor(LADDER).expand(num, -1),
        "trips": torch.zeros(num, len(LADDER), dtype=torch.int64),
        "num_sweeps": torch.zeros(num, 1, dtype=torch.int64),
    }


@pytest.mark.parametrize(
    ("inner", "names"),
    [(MALA(), tuple(TARGETS)), (HMC(num_leapfrog_steps=3), ("skewed", "bimodal"))],
    ids=["mala", "hmc"],
)
def test_parallel_tempering(inner: Kernel[Any], names: tuple[str, ...]) -> None:
    report = check_kernel(
        ParallelTempering(inner=inner, inverse_temperatures=LADDER),
        targets=[TARGETS[name] for name in names],
        memory=exact_replicas,
        num_chains=20_000,
        false_alarm=FALSE_ALARM,
        max_shift=0.05,
    )
    assert_exact(report)


@pytest.mark.parametrize(
    "kernel",
    [
        ParallelTempering(inner=Clipped(kernel=MALA(), max_norm=0.5), inverse_temperatures=LADDER),
        Clipped(kernel=ParallelTempering(inner=MALA(), inverse_temperatures=LADDER), max_norm=0.5),
    ],
    ids=["clipped-inside", "clipped-outside"],
)
def test_clipping_and_tempering_agree(kernel: Kernel[Any]) -> None:
    """Replicas carry gradients from one temperature to another: those must be the clipped ones of their new place."""
    report = check_kernel(
        kernel,
        targets=[TARGETS["skewed"]],
        memory=exact_replicas,
        num_chains=20_000,
        false_alarm=FALSE_ALARM,
        max_shift=0.05,
    )
    assert_exact(report)


@dataclass(frozen=True)
class InTwo:
    """A target whose position has two parts: its first coordinate, and the others."""

    whole: SmallTarget

    @property
    def name(self) -> str:
        return f"{self.whole.name} in two"

    def __call__(self, position: Mapping[str, Tensor], /) -> Tensor:
        return self.whole(torch.cat((position["first"].unsqueeze(1), position["others"]), dim=1))

    def sample(self, num: int, *, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
        x = self.whole.sample(num, generator=generator, dtype=dtype)
        return {"first": x[:, 0], "others": x[:, 1:]}

    def marginal_cdf(self, d: int) -> CDF | None:
        return self.whole.marginal_cdf(d)


def test_blocks() -> None:
    targets = [InTwo(TARGETS[name]) for name in ("skewed", "bimodal", "banana", "funnel")]
    kernels: dict[str, Kernel[Any]] = {"others": HMC(num_leapfrog_steps=3), "first": MALA()}
    assert_exact(check_kernel(Blocks(kernels), targets=targets, false_alarm=FALSE_ALARM))


def test_every_registered_kernel_is_here() -> None:
    here = {type(kernel) for kernel in SIMPLE.values()} | {NUTS, MAMS, MCLMC, ParallelTempering, Blocks}
    assert {*KERNELS.values(), *COMPOUND_KERNELS.values()} <= here


# --- The integrator that they share ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mass", MASSES)
def test_leapfrog_is_reversible_and_keeps_volume(mass: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = Skewed().sample(50, generator=generator, dtype=dtype)
    factor, step_size = factorise(MASSES[mass](3), x), torch.tensor(0.15, dtype=dtype)

    def integrate(position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        target = Target(Skewed(), Layout.of(position), len(position))
        end, turned, _ = leapfrog(target, State(position, *target(position)), momentum, step_size, factor, 7)
        return end.position, turned

    report = check_integrator(integrate, x, torch.randn(50, 3, generator=generator, dtype=dtype))
    assert report.passed, str(report)
