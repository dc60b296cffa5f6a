"""Whether a kernel leaves its target invariant.

A chain that starts from an exact draw is still one after any number of steps of an exact kernel: no burn-in, no
effective sample size, no asymptotics. `check_invariance` starts many independent chains that way, takes a few steps
and compares where they end with the exact law.

Thresholds are Dvoretzky-Kiefer-Wolfowitz bands (`bands`). So a failure says that the kernel is wrong, up to the stated
rate; and `detectable_shift` says how wrong it must be to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..chains import Chains
from ..checks import check_count
from ..driver import run
from ..energy import Energy
from ..engines import EngineName
from ..errors import ParameterError, PositionError
from ..kernel import Kernel, Params
from ..noise import CounterNoise, NoiseSource
from ..position import Layout, Position
from .bands import CDF, detectable_shift, dkw_half_width, ks_one_sample, ks_two_sample


@dataclass(frozen=True)
class Comparison:
    """One function of the position, compared with its exact law.

    Attributes:
        name: Of the function.
        distance: Kolmogorov distance that was measured.
        half_width: What it may be.
        detectable_shift: True distance that is found with probability 0.99.
        reference: What it was compared with.
    """

    name: str
    distance: float
    half_width: float
    detectable_shift: float
    reference: str

    @property
    def passed(self) -> bool:
        """Whether the distance lies within the band."""
        return self.distance <= self.half_width

    def __str__(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        return (
            f"{verdict} {self.name:<12} distance {self.distance:.4f}, allowed {self.half_width:.4f}, "
            f"found from {self.detectable_shift:.4f} on ({self.reference})"
        )


@dataclass(frozen=True)
class InvarianceReport:
    """What `check_invariance` found; print it.

    Attributes:
        kernel: The kernel.
        num_chains: Number of independent chains.
        num_steps: Steps that each of them took.
        false_alarm: Probability, at most, that an exact kernel fails any of the comparisons.
        comparisons: One for each function of the position.
        accept_prob: Mean acceptance.
        num_divergent: Divergent steps, over all chains.
        movement: How far chains got in the coordinate that moved least: mean change of rank, 0 for chains that
            stand still, 1 for independent draws.
        min_movement: What it must be at least: a kernel that does nothing leaves everything invariant.
    """

    kernel: Kernel[Any]
    num_chains: int
    num_steps: int
    false_alarm: float
    comparisons: tuple[Comparison, ...]
    accept_prob: float
    num_divergent: int
    movement: float
    min_movement: float

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that failed."""
        return tuple(comparison for comparison in self.comparisons if not comparison.passed)

    @property
    def has_moved(self) -> bool:
        """Whether the chains got far enough for the comparisons to mean anything."""
        return self.movement >= self.min_movement

    @property
    def passed(self) -> bool:
        """Whether the chains moved and every comparison passed."""
        return self.has_moved and not self.failures

    def __str__(self) -> str:
        moved = "ok    " if self.has_moved else "FAILED"
        return "\n".join(
            (
                f"{'invariant' if self.passed else 'NOT INVARIANT'}: {self.kernel}",
                f"{self.num_chains} chains, {self.num_steps} steps, acceptance {self.accept_prob:.3f}, "
                f"{self.num_divergent} divergent steps, false alarms at most {self.false_alarm:.1e}",
                f"{moved} {'movement':<12} {self.movement:.3f}, wanted {self.min_movement:.3f} "
                "(0 stands still, 1 is independent)",
                *map(str, self.comparisons),
            )
        )


def check_invariance(
    kernel: Kernel[Any],
    energy: Energy,
    exact_draws: Position,
    fresh_draws: Position,
    *,
    noise: NoiseSource | int,
    cdfs: Sequence[CDF | None] = (),
    functions: Mapping[str, Callable[[Any], Tensor]] | None = None,
    num_steps: int = 5,
    params: Params | None = None,
    memory: Mapping[str, Tensor] | None = None,
    false_alarm: float = 1e-6,
    min_movement: float = 0.05,
    engine: EngineName = "eager",
) -> InvarianceReport:
    """Check that a kernel with fixed parameters leaves its target invariant.

    Compared are every coordinate, the energy, the product of the first two coordinates, and the functions given.
    Each is compared with its exact CDF where there is one, else with the fresh draws.

    Args:
        kernel: The kernel.
        energy: The target, `(C, *event) -> (C,)`.
        exact_draws: Independent exact draws, one for each chain to start from.
        fresh_draws: As many again, independent of the first: what the ends of the chains are compared with.
        noise: Noise source, or a seed for counter-based noise.
        cdfs: Exact CDF of coordinate 0, 1, ... of the position as a matrix (C, D); None where it is not known.
        functions: More functions of the position, `(C, *event) -> (C,)`, by name.
        num_steps: Steps of each chain, >= 1.
        params: Parameters from `kernel.init_params(...)`; default: the kernel's own.
        memory: What chains remember besides their positions, drawn from its exact law given the positions; default:
            what the kernel makes of a position alone. Parallel tempering needs it: other replicas have other laws.
        false_alarm: Probability, at most, that an exact kernel fails any comparison; split evenly over them.
        min_movement: See `InvarianceReport.movement`.
        engine: What moves the chains, see `sample`.

    Returns:
        The report; nothing is raised where a kernel fails.

    Raises:
        ParameterError: If a count or rate is out of range, or there are more CDFs than coordinates.
        PositionError: If fresh and exact draws differ in layout.
    """
    check_count("num_steps", num_steps, 1)
    layout = Layout.of(exact_draws)
    start, fresh = layout.ravel(exact_draws), layout.ravel(fresh_draws)
    if fresh.shape[1:] != start.shape[1:]:
        raise PositionError(f"fresh draws must be like the exact draws {tuple(start.shape)}; got {tuple(fresh.shape)}.")
    if len(cdfs) > layout.dim:
        raise ParameterError(f"cdfs has one entry per coordinate, here {layout.dim}; got {len(cdfs)}.")
    source = CounterNoise(noise) if isinstance(noise, int) else noise
    params = kernel.init_params(exact_draws) if params is None else params
    chains = Chains(start.detach(), layout, params, source.state_dict(), 0, memory or {})
    result = run(energy, kernel, chains, num_steps=num_steps, noise=source, engine=engine)
    end = layout.ravel(result.position)

    exact = dict(zip(_names(layout.dim), cdfs, strict=False))
    ends = _values(energy, functions, layout, end)
    freshes = _values(energy, functions, layout, fresh)
    rate = false_alarm / len(ends)
    return InvarianceReport(
        kernel=kernel,
        num_chains=len(start),
        num_steps=num_steps,
        false_alarm=false_alarm,
        comparisons=tuple(_compare(name, ends[name], freshes[name], exact.get(name), rate) for name in ends),
        accept_prob=float(result.accept_prob.mean()),
        num_divergent=int(result.num_divergent.sum()),
        movement=_movement(start, end),
        min_movement=min_movement,
    )


def _names(dim: int) -> list[str]:
    return [f"x[{d}]" for d in range(dim)]


def _values(
    energy: Energy, functions: Mapping[str, Callable[[Any], Tensor]] | None, layout: Layout, x: Tensor
) -> dict[str, Tensor]:
    """Every compared function at the positions (C, D), (C,) each."""
    values = dict(zip(_names(layout.dim), x.unbind(1), strict=True))
    if layout.dim > 1:
        values["x[0] x[1]"] = x[:, 0] * x[:, 1]
    position = layout.unravel(x)
    with torch.no_grad():
        return values | {name: f(position) for name, f in {"energy": energy, **(functions or {})}.items()}


def _compare(name: str, values: Tensor, fresh: Tensor, cdf: CDF | None, rate: float) -> Comparison:
    num, num_other = len(values), None if cdf else len(fresh)
    return Comparison(
        name=name,
        distance=ks_one_sample(values, cdf) if cdf else ks_two_sample(values, fresh),
        half_width=dkw_half_width(num, rate, num_other=num_other),
        detectable_shift=detectable_shift(num, rate, num_other=num_other),
        reference="exact CDF" if cdf else "fresh draws",
    )


def _movement(start: Tensor, end: Tensor) -> float:
    """Mean change of rank in the coordinate that moved least; independent ranks differ by a third on average."""
    ordered = start.T.contiguous().sort(dim=1).values
    before, after = (torch.searchsorted(ordered, x.T.contiguous()) for x in (start, end))
    return float(3 * (after - before).abs().double().mean(dim=1).min() / len(start))
