"""Walks along a path of densities, from one whose normaliser is known to the target.

The path is E_b = (1 - b) E_base + b E for b from 0 to 1. The base gives exact draws and knows its own normaliser.
Chains move along the path, a few steps of an exact kernel at every b. `ais` and `smc` weigh them on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..adaptation.ladder import spread_evenly
from ..adaptation.tracking import Tracking
from ..checks import check_count, check_positive
from ..energy import Energy, Target
from ..errors import EnergyError, ParameterError, PositionError
from ..kernel import Kernel, with_step_size
from ..noise import GeneratorNoise
from ..position import Layout, Position, rows

FIRST_STEPS = 25
"""Steps at the first stop where step sizes are adapted on the way: enough to find the first."""

_STEPS = 3
"""Of a pilot run at every later stop: enough to follow it."""

_PLACEMENTS = 2
"""Pilot runs that place the stops: the second resolves what the first leaves coarse, often the first interval."""


class Base(Protocol):
    """Where a path begins: an energy with exact draws and a known normaliser."""

    @property
    def log_normalizer(self) -> float:
        """Log of the integral of exp(-energy), in nats."""
        ...

    def __call__(self, position: Any, /) -> Tensor:
        """Return the energies (C,)."""
        ...

    def sample(self, num: int, *, generator: torch.Generator) -> Position:
        """Draw independently, on the generator's device; in the dtype that the chains are to have."""
        ...


@dataclass(frozen=True)
class NormalBase:
    """N(0, scale^2 I) as a base, for positions of any structure.

    At scale 1 it is the base of a latent energy-based prior in the space of its noise u: all that the prior's energy
    adds is what the path switches on.

    Attributes:
        layout: Of the positions, see `like`.
        scale: > 0. Wide enough to cover the target: what the base never reaches, weights must make up for.
        dtype: Of the draws.
    """

    layout: Layout
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    @staticmethod
    def like(position: Position, *, scale: float = 1.0) -> NormalBase:
        """The base for positions like this one, of any number of chains."""
        layout = Layout.of(position)
        return NormalBase(layout, scale, layout.ravel(position).dtype)

    @property
    def log_normalizer(self) -> float:
        """D/2 log(2 pi) + D log scale."""
        return self.layout.dim * (0.5 * math.log(2 * math.pi) + math.log(self.scale))

    def __call__(self, position: Any, /) -> Tensor:
        """Return |x|^2 / (2 scale^2) of every chain, (C,)."""
        return (self.layout.ravel(position) / self.scale).square().sum(dim=-1) / 2

    def sample(self, num: int, *, generator: torch.Generator) -> Position:
        """See `Base`."""
        shape = (num, self.layout.dim)
        noise = torch.randn(shape, generator=generator, dtype=self.dtype, device=generator.device)
        return self.layout.unravel(self.scale * noise)


@dataclass(frozen=True)
class Schedule:
    """The stops on a path, and the kernel's step size at each.

    Attributes:
        inverse_temperatures: b of every stop, N + 1 numbers that rise from 0 to 1, float64.
        step_sizes: One for each of them; None: the kernel's own everywhere. `tune` finds them.
    """

    inverse_temperatures: Tensor
    step_sizes: Tensor | None = None

    def __post_init__(self) -> None:
        stops = self.inverse_temperatures
        if stops.ndim != 1 or len(stops) < 2 or stops[0] != 0 or stops[-1] != 1 or not bool((stops.diff() > 0).all()):
            raise ParameterError(f"inverse_temperatures rise from 0 to 1, (N + 1,); got {stops}.")
        if self.step_sizes is not None:
            check_positive("every step size", self.step_sizes)
            if self.step_sizes.shape != stops.shape:
                raise ParameterError(
                    f"step_sizes has one number for each of {len(stops)} inverse temperatures; got shape "
                    f"{tuple(self.step_sizes.shape)}."
                )

    @staticmethod
    def linear(num_intervals: int) -> Schedule:
        """Even spacing."""
        check_count("num_intervals", num_intervals, 1)
        return Schedule(torch.linspace(0, 1, num_intervals + 1, dtype=torch.float64))

    @staticmethod
    def sigmoid(num_intervals: int, *, slope: float = 4.0) -> Schedule:
        """Closer together at both ends: a logistic curve between -slope and slope.

        Source: Grosse, Maddison and Salakhutdinov (2013), NeurIPS, where slope is delta = 4.
        """
        check_count("num_intervals", num_intervals, 1)
        check_positive("slope", slope)
        curve = torch.sigmoid(torch.linspace(-slope, slope, num_intervals + 1, dtype=torch.float64))
        return Schedule((curve - curve[0]) / (curve[-1] - curve[0]))

    def stops(self) -> list[tuple[float, Tensor | None]]:
        """Every inverse temperature with its step size."""
        steps = [None] * len(self.inverse_temperatures) if self.step_sizes is None else list(self.step_sizes)
        return list(zip(self.inverse_temperatures.tolist(), steps, strict=True))


class Walk:
    """Chains on their way along a path.

    Args:
        energy: Of the target; with a context `energy(position, context)`.
        base: The other end.
        kernel: An exact one that makes one decision per step.
        start: Where the chains are.
        context: Structure of tensors with one row for each of G groups of chains, which lie group by group; or None.
        generator: Source of randomness, on the chains' device.

    Raises:
        ParameterError: If the kernel is not exact, or of several parts.
        PositionError: If chains are not equally many for each row of the context.
    """

    def __init__(
        self,
        energy: Energy,
        base: Base,
        kernel: Kernel[Any],
        start: Position,
        context: Any,
        generator: torch.Generator,
    ) -> None:
        if not isinstance(kernel, Kernel) or not kernel.is_exact or isinstance(kernel.target_accept, tuple):
            raise ParameterError(
                f"chains on a path take an exact kernel of one decision per step, such as HMC(); got {kernel!r}."
            )
        self._layout = Layout.of(start)
        self._matrix = self._layout.ravel(start).detach()
        num_chains, self.num_groups = len(self._matrix), num_rows(context)
        if num_chains % self.num_groups:
            raise PositionError(
                f"chains must be equally many for each of {self.num_groups} rows of the context; got {num_chains}."
            )
        if context is not None:
            group = torch.arange(self.num_groups, device=self._matrix.device)
            context = rows(context, group.repeat_interleave(num_chains // self.num_groups))
        self._energy, self._base, self._context = energy, base, context
        self._kernel, self._noise, self._num_steps = kernel, GeneratorNoise(generator), 0
        self._params = kernel.init_params(start)
        self._memory: Mapping[str, Tensor] = {}

    @property
    def position(self) -> Position:
        """Where the chains are."""
        return self._layout.unravel(self._matrix)

    @property
    def step_size(self) -> Tensor:
        """The step size of the last move, at first the kernel's own."""
        step_size: Tensor = self._params.step_size
        return step_size

    def work(self) -> Tensor:
        """E_base - E where the chains are, (C,) in float64: what log weights gain for every unit of b.

        Raises:
            EnergyError: If it is NaN for some chain, or infinite inside the support of neither end.
        """
        ends = (Target(self._base, self._layout, len(self._matrix)), self._target(self._energy))
        work = (ends[0].energy(self._matrix).double() - ends[1].energy(self._matrix).double()).squeeze(1)
        bad = int((torch.isnan(work) | (work == torch.inf)).sum())
        if bad:
            raise EnergyError(
                f"energies must not be NaN or minus infinity on the path; those of {bad} of {len(work)} chains are. "
                "Return plus infinity outside the support."
            )
        return work

    def move(self, inverse_temperature: float, step_size: Tensor | None, num_steps: int) -> Tensor:
        """Take steps at one stop.

        Args:
            inverse_temperature: b.
            step_size: For the kernel; None: as it is.
            num_steps: How many.

        Returns:
            The mean acceptance of each chain, (C,).
        """
        if step_size is not None:
            self._params = with_step_size(self._params, step_size.to(self._matrix.device))
        target = self._target(_Between(self._base, self._energy, inverse_temperature))
        accept_prob = self._matrix.new_zeros(len(self._matrix), dtype=torch.float64)
        with torch.no_grad():
            state = self._kernel.restore(target, self._matrix, self._memory, self._params)
            for _ in range(num_steps):
                noise = self._noise.draw(self._kernel.sites, self._matrix, self._num_steps)
                state, info = self._kernel.step(target, state, noise, self._params)
                accept_prob = accept_prob + info.accept_prob.squeeze(1) / num_steps
                self._num_steps += 1
        self._matrix, self._memory = state.position, self._kernel.memory(state)
        return accept_prob

    def adapt(self, inverse_temperature: float, num_steps: int) -> Tensor:
        """`move`, with the step size brought closer to the kernel's target acceptance, if it has one, every time."""
        target = self._kernel.target_accept
        tracking = Tracking(target_accept=target, gain=1.0) if isinstance(target, float) else None
        accept_prob = self._matrix.new_zeros(len(self._matrix), dtype=torch.float64)
        for _ in range(num_steps):
            accepted = self.move(inverse_temperature, None, 1)
            accept_prob = accept_prob + accepted / num_steps
            if tracking is not None:
                self._params = with_step_size(self._params, tracking.update(self.step_size, accepted))
        return accept_prob

    def resample(self, index: Tensor) -> None:
        """Go on with the chains that are named, (C,), some of them more than once."""
        self._matrix = self._matrix[index]
        self._memory = {name: value[index] for name, value in self._memory.items()}

    def _target(self, energy: Energy) -> Target:
        return Target(energy, self._layout, len(self._matrix), context=self._context)


class _Between:
    """The energy (1 - b) E_base + b E."""

    def __init__(self, base: Base, energy: Energy, inverse_temperature: float) -> None:
        self._base, self._energy, self._inverse_temperature = base, energy, inverse_temperature

    def __call__(self, position: Any, /, *context: Any) -> Tensor:
        b = self._inverse_temperature
        return (1 - b) * self._base(position) + b * self._energy(position, *context)


def num_rows(context: Any) -> int:
    """Rows of a context, G; 1 where there is none."""
    while isinstance(context, dict | tuple | list) and context:
        context = next(iter(context.values())) if isinstance(context, dict) else context[0]
    return len(context) if isinstance(context, Tensor) else 1


def tune(
    schedule: Schedule,
    energy: Energy,
    base: Base,
    kernel: Kernel[Any],
    *,
    num_chains: int,
    generator: torch.Generator,
    context: Any = None,
) -> Schedule:
    """A schedule of as many stops, better placed, with a step size for each, from pilot runs.

    The first runs place the stops so that log weights spread by the same amount in every interval, which is the
    geodesic of Gelman and Meng (1998), Statistical Science 13, for a path of one parameter. The last follows the
    kernel's target acceptance from stop to stop. Pilot runs are apart from the run that is weighed, so that its
    estimate stays unbiased.

    Args:
        schedule: To begin with, such as `Schedule.sigmoid(100)`.
        energy: See `ais`.
        base: See there.
        kernel: See there.
        num_chains: Of the pilot runs, for each row of the context; 100 will do.
        generator: See there.
        context: See there.
    """
    total = check_count("num_chains", num_chains, 2) * num_rows(context)

    def pilot(schedule: Schedule) -> tuple[Tensor, Tensor]:
        start = base.sample(total, generator=generator)
        return _pilot(Walk(energy, base, kernel, start, context, generator), schedule)

    stops = schedule.inverse_temperatures
    for _ in range(_PLACEMENTS):
        _, spreads = pilot(Schedule(stops))
        stops = spread_evenly(stops, (spreads[:-1] + spreads[1:]) * stops.diff())
    step_sizes, _ = pilot(Schedule(stops))
    return Schedule(stops, step_sizes)


def _pilot(walk: Walk, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Step sizes and the spread of the work at every stop, float64 on the CPU."""
    step_sizes, spreads = [], []
    for number, (stop, _) in enumerate(schedule.stops()):
        # Nothing is moved at the base itself: its draws are exact, and the target may be infinite there.
        walk.adapt(stop, (0, FIRST_STEPS)[number] if number < 2 else _STEPS)
        step_sizes.append(walk.step_size)
        spreads.append(_spread(walk.work().reshape(walk.num_groups, -1)))
    return torch.stack(step_sizes).double().cpu(), torch.stack(spreads).cpu()


def _spread(work: Tensor) -> Tensor:
    """Half the distance of the 16 and 84 per cent quantiles of what is finite within groups (G, n), 0-d.

    Not the standard deviation: the tails of the work may have no variance.
    """
    finite = torch.where(torch.isfinite(work), work, torch.nan)
    centred = finite - finite.nanmedian(dim=1, keepdim=True).values
    ends: Tensor = torch.nanquantile(centred.flatten(), centred.new_tensor([0.16, 0.84]))
    return torch.nan_to_num(ends.diff().squeeze() / 2)
