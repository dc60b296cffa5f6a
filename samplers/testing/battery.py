"""The battery: everything that can be checked of a kernel, in one call."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..checks import check_count, check_fraction, check_positive
from ..driver import sample
from ..engines import EngineName
from ..errors import NumericalWarning, ParameterError
from ..kernel import Kernel, with_step_size
from ..noise import GeneratorNoise
from ..position import Layout, Position
from .contract import MASSES, NUM_CHAINS, Bench, contract_findings
from .integrators import HasTrajectory
from .invariance import InvarianceReport, check_invariance
from .targets import TARGETS, ExactTarget

Memory: TypeAlias = Callable[[Any, Position, torch.Generator], Mapping[str, Tensor]]
"""From a target and exact draws of it to exact draws of what chains remember besides, see `Kernel.memory`."""

_LOOK_FOR_BIAS = (
    "The kernel does not leave this target as it is. Look at the acceptance ratio: the proposal's correction, signs, "
    "clamps, what is rejected to; at the scale of noise against the inverse mass; and at moves made after deciding."
)
_LOOK_FOR_MOVES = "Chains hardly move, so that their law says nothing. Look for what rejects everything."
_TAKE_MORE_CHAINS = "Take more chains: num_chains=."


@dataclass(frozen=True)
class Check:
    """One check of a kernel.

    Attributes:
        name: What was checked, and on what.
        passed: Whether it held.
        found: The numbers.
        advice: What to look for where it did not.
    """

    name: str
    passed: bool
    found: str
    advice: str

    def __str__(self) -> str:
        line = f"{'ok    ' if self.passed else 'FAILED'} {self.name:<28} {self.found}"
        return line if self.passed else f"{line}\n       -> {self.advice}"


@dataclass(frozen=True)
class Report:
    """What `check_kernel` found; print it.

    Attributes:
        kernel: The kernel.
        checks: Everything that was checked.
        not_tested: What was not, and why.
        invariance: Of each target in full.
        false_alarm: Probability, at most, that an exact kernel fails.
    """

    kernel: Kernel[Any]
    checks: tuple[Check, ...]
    not_tested: tuple[str, ...]
    invariance: tuple[InvarianceReport, ...]
    false_alarm: float

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def assert_passed(self) -> None:
        """Raise an AssertionError that says everything unless every check passed: one line in any test suite."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        count = f"{len(self.failures)} of {len(self.checks)} checks failed" if self.failures else "every check passed"
        return "\n".join(
            (
                f"{self.kernel}: {count}; false alarms at most {self.false_alarm:.1e}",
                *map(str, self.checks),
                *(f"not tested: {what}" for what in self.not_tested),
            )
        )


def check_kernel(
    kernel: Kernel[Any],
    *,
    targets: Sequence[ExactTarget] = tuple(TARGETS.values()),
    memory: Memory | None = None,
    num_chains: int = 40_000,
    num_steps: int = 4,
    num_warmup: int = 100,
    dtype: torch.dtype = torch.float64,
    false_alarm: float = 1e-6,
    max_shift: float = 0.035,
    min_movement: float = 0.02,
    seed: int = 0,
    engine: EngineName = "eager",
) -> Report:
    """Check that a kernel is exact, and that it keeps its contract.

    Exactness: many chains start from exact draws of each target, take a few steps, and are compared with the exact
    law, see `check_invariance`; targets take turns with an identity, a diagonal and a dense inverse mass. Contract: on
    the first target, in float64 and, where rounding matters, in float32, see `contract`; and `HasTrajectory` for
    kernels that integrate.

        from lamina.samplers.testing import check_kernel
        check_kernel(MyKernel()).assert_passed()

    Args:
        kernel: The kernel. One that is not exact by its own word goes through all but the tests of exactness.
        targets: What to test on; default: skewed, bimodal, banana, funnel, and a half-line.
        memory: Exact draws of what chains remember; needed where what the kernel itself makes of a position is none.
        num_chains: Independent chains for each target.
        num_steps: Steps that each of them takes.
        num_warmup: Steps of a warm-up apart, on 100 chains, that finds a step size for each target; 0 for the
            kernel's own everywhere. It is no part of what is tested, and kernels without a target acceptance have none.
        dtype: Of the tests of exactness.
        false_alarm: Probability, at most, that an exact kernel fails any of them.
        max_shift: Kolmogorov distance from the exact law that must be found with probability 0.99.
        min_movement: See `InvarianceReport.movement`.
        seed: Of all randomness here; the global generator is neither used nor moved.
        engine: What moves the chains in the tests of exactness, see `sample`; the contract is the kernel's own.

    Returns:
        The report; nothing is raised where a kernel fails, unless the kernel raises it.

    Raises:
        ParameterError: If there is no target, or a number is out of range.
    """
    if not targets:
        raise ParameterError("a kernel is checked on one target at least; got none.")
    check_count("num_chains", num_chains, 2 * NUM_CHAINS)
    check_count("num_warmup", num_warmup, 0)
    check_fraction("false_alarm", false_alarm)
    check_positive("max_shift", max_shift)
    with torch.random.fork_rng(devices=[]):  # a kernel under test may draw from the global generator
        settings = [
            _Setting(kernel, target, mass, num_warmup, seed, engine)
            for target, mass in zip(targets, itertools.cycle(MASSES.values()), strict=False)
        ]
        reports = tuple(
            setting.check_invariance(memory, num_chains, num_steps, dtype, false_alarm / len(targets), min_movement)
            for setting in settings
            if kernel.is_exact
        )
        checks = (*_exactness(targets, reports, max_shift), *_contract(settings[0]))
    not_tested = [] if kernel.is_exact else [f"exactness, as is_exact is False: the kernel samples {kernel.law}"]
    if not isinstance(kernel, HasTrajectory):
        not_tested.append("reversibility of a trajectory, as the kernel shows none (see HasTrajectory)")
    return Report(kernel, checks, tuple(not_tested), reports, false_alarm)


# --- One target ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    """A kernel on a target with an inverse mass."""

    kernel: Kernel[Any]
    target: ExactTarget
    mass: Callable[[int], Tensor | None]
    num_warmup: int
    seed: int
    engine: EngineName

    def start(self, num: int, dtype: torch.dtype, generator: torch.Generator | None = None) -> Position:
        return self.target.sample(num, generator=generator or self._generator(0), dtype=dtype)

    def params(self, like: Position, *, mass: Tensor | None = None) -> Any:
        """Parameters for chains like these, with the step size that the warm-up has found."""
        params = self.kernel.init_params(like, inverse_mass=mass)
        return params if self.step_size is None else with_step_size(params, self.step_size)

    @functools.cached_property
    def step_size(self) -> Tensor | None:
        """What a warm-up finds, in float64; None for the kernel's own."""
        if self.num_warmup == 0 or self.kernel.target_accept is None:
            return None
        few = self.start(100, torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # a wrong kernel may run away, and is tested to say so
            warm = sample(
                self.target,
                self.kernel,
                few,
                num_samples=1,
                num_warmup=self.num_warmup,
                params=self.kernel.init_params(few, inverse_mass=self.mass(Layout.of(few).dim)),
                generator=self._generator(1),
                show_progress=False,
            )
        found: Tensor = warm.chains.params.step_size
        return found

    def check_invariance(
        self,
        memory: Memory | None,
        num_chains: int,
        num_steps: int,
        dtype: torch.dtype,
        false_alarm: float,
        min_movement: float,
    ) -> InvarianceReport:
        generator = self._generator(2)
        start, fresh = (self.start(num_chains, dtype, generator) for _ in range(2))
        return check_invariance(
            self.kernel,
            self.target,
            start,
            fresh,
            noise=GeneratorNoise(self._generator(3)),
            cdfs=[self.target.marginal_cdf(d) for d in range(Layout.of(start).dim)],
            num_steps=num_steps,
            params=self.params(start, mass=self.mass(Layout.of(start).dim)),
            memory=None if memory is None else memory(self.target, start, generator),
            false_alarm=false_alarm,
            min_movement=min_movement,
            engine=self.engine,
        )

    def bench(self, dtype: torch.dtype) -> Bench:
        start = self.start(NUM_CHAINS, dtype)
        return Bench(self.kernel, self.target, start, self.params(start))

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(4 * self.seed + purpose)


# --- Findings as checks ------------------------------------------------------------------------------------------


def _exactness(
    targets: Sequence[ExactTarget], reports: Sequence[InvarianceReport], max_shift: float
) -> Iterator[Check]:
    for target, report in zip(targets, reports, strict=False):
        worst = max(report.comparisons, key=lambda comparison: comparison.distance / comparison.half_width)
        found = (
            f"distance {worst.distance:.4f} of {worst.name}, allowed {worst.half_width:.4f}; "
            f"acceptance {report.accept_prob:.2f}"
        )
        others = [f"{one.name} {one.distance:.4f}" for one in report.failures if one is not worst]
        found += f"; also {', '.join(others)}" if others else ""
        yield Check(f"invariance, {target.name}", not report.failures, found, _LOOK_FOR_BIAS)
        moved = f"mean change of rank {report.movement:.3f}, wanted {report.min_movement:.3f}"
        yield Check(f"movement, {target.name}", report.has_moved, moved, _LOOK_FOR_MOVES)
    if reports:
        shift = max(comparison.detectable_shift for report in reports for comparison in report.comparisons)
        found = f"shifts are found from {shift:.4f} on, wanted {max_shift:.4f}"
        yield Check("power", shift <= max_shift, found, _TAKE_MORE_CHAINS)


def _contract(setting: _Setting) -> Iterator[Check]:
    for dtype in (torch.float64, torch.float32):
        for name, finding, advice in contract_findings(setting.bench(dtype)):
            yield Check(f"{name}, {str(dtype).removeprefix('torch.')}", *finding, advice)
