"""Ladders of inverse temperatures: where to place the rungs, beforehand or from the swaps that are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_count
from ..errors import ParameterError
from ..kernel import Kernel, StateLike
from .base import Adaptation
from .dual_averaging import DualAveraging


def geometric_ladder(num_temperatures: int, hottest: float) -> tuple[float, ...]:
    """Inverse temperatures from 1 down to `hottest`, each the same fraction of the one before.

    Where energies are quadratic, neighbours then swap equally often; elsewhere it is where `LadderAdaptation` starts.

    Args:
        num_temperatures: K >= 2.
        hottest: In (0, 1). The hottest chains should cross every barrier: about 1 / (its height in nats).

    Raises:
        ParameterError: If a number is out of range.
    """
    check_count("num_temperatures", num_temperatures, 2)
    if not isinstance(hottest, Real) or not 0 < float(hottest) < 1:
        raise ParameterError(f"hottest is an inverse temperature strictly between 0 and 1; got {hottest!r}.")
    return tuple(float(hottest) ** (rung / (num_temperatures - 1)) for rung in range(num_temperatures))


def check_ladder(inverse_temperatures: tuple[float, ...]) -> None:
    """Raise unless inverse temperatures fall from 1 and stay above 0."""
    numbers = inverse_temperatures
    if (
        not isinstance(numbers, tuple)
        or len(numbers) < 2
        or not all(isinstance(number, Real) for number in numbers)
        or numbers[0] != 1
        or not all(first > second > 0 for first, second in pairwise(numbers))
    ):
        raise ParameterError(
            "inverse_temperatures is a tuple of two or more numbers that fall from 1 and stay above 0, such as "
            f"geometric_ladder(8, hottest=0.05); got {numbers!r}."
        )


def spread_evenly(points: Tensor, costs: Tensor, num_points: int | None = None) -> Tensor:
    """Place points so that every interval between neighbours costs the same, ends kept.

    The cumulative cost is interpolated linearly between the old points.

    Args:
        points: Rising or falling, (K,).
        costs: Of the K - 1 intervals, >= 0. Where all are zero, the points come out evenly spaced along the old ones.
        num_points: How many to place; default K.

    Returns:
        The new points, (num_points,), float64.
    """
    points = points.double()
    # The floor keeps cumulative costs strictly rising, so that every place on them is one place among the points.
    costs = costs.double().clamp(min=0.0) + max(float(costs.sum()), math.ulp(1.0)) * 1e-9
    total = torch.cat((costs.new_zeros(1), costs.cumsum(0)))
    wanted = torch.linspace(0.0, 1.0, num_points or len(points), dtype=torch.float64, device=points.device) * total[-1]
    right = torch.searchsorted(total, wanted).clamp(1, len(total) - 1)
    fraction = (wanted - total[right - 1]) / (total[right] - total[right - 1])
    placed = torch.lerp(points[right - 1], points[right], fraction)
    placed[0], placed[-1] = points[0], points[-1]  # whatever the rounding
    return placed


class LadderState(NamedTuple):
    """Where the adaptation of a ladder stands.

    Attributes:
        steps: What the adaptation of step sizes knows.
        rejected: Sum of 1 - swap probability over the steps of this round, (K - 1,).
        round_start: Steps before this round.
        round_end: Steps when it is over.
        num_updates: Steps so far.
        num_steps: Steps of warm-up in all.
        rates: Swap rates of the last round that is over, (K - 1,); None before.
    """

    steps: Any
    rejected: Tensor
    round_start: int
    round_end: int
    num_updates: int
    num_steps: int
    rates: Tensor | None


@dataclass(frozen=True, kw_only=True)
class LadderAdaptation(Adaptation):
    """Places the rungs of parallel tempering so that all neighbours swap equally often; both ends stay.

    Rounds end after 10, 20, 40 steps and so on, up to half of warm-up. After each, the rungs are placed at even steps
    of the cumulative rate of rejected swaps (the communication barrier), between old rungs by linear interpolation in
    log beta. Even rates make for the most round trips at a given number of rungs. Step sizes are adapted all the
    while, afresh for every new ladder.

    Attributes:
        steps: How to adapt the step sizes of the rungs.
        first_round: Length of the first round, in steps.

    Source: Syed, Bouchard-Cote, Deligiannidis and Doucet (2022), JRSS-B 84(2), algorithm 4. Differs: linear
    interpolation instead of a monotone cubic one; the last half of warm-up keeps its ladder, for the step sizes.
    """

    steps: Adaptation = field(default_factory=DualAveraging)
    first_round: int = 10

    def __post_init__(self) -> None:
        check_count("first_round", self.first_round, 1)

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """See `Adaptation.aim`."""
        return self.steps.aim(kernel)

    def acceptance(self, accept_prob: Tensor) -> Tensor:
        """See `Adaptation.acceptance`."""
        return self.steps.acceptance(accept_prob)

    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> LadderState:
        """See `Adaptation.init`."""
        if not hasattr(params, "inverse_temperatures"):
            raise ParameterError(f"{type(kernel).__name__} has no ladder to adapt. Use ParallelTempering.")
        num_pairs = len(params.inverse_temperatures) - 1
        rejected = torch.zeros(num_pairs, dtype=torch.float64, device=state.position.device)
        steps = self.steps.init(kernel, params, state, num_steps)
        return LadderState(steps, rejected, 0, self.first_round, 0, num_steps, None)

    def update(
        self, adapted: LadderState, kernel: Kernel[Any], params: Any, state: StateLike, info: Any
    ) -> tuple[LadderState, Any]:
        """See `Adaptation.update`."""
        steps, params = self.steps.update(adapted.steps, kernel, params, state, info)
        now = adapted.num_updates + 1
        rejected = adapted.rejected + (1 - info.swap_prob).mean(dim=0)
        if now < adapted.round_end or 2 * now > adapted.num_steps:
            return adapted._replace(steps=steps, rejected=rejected, num_updates=now), params
        betas = params.inverse_temperatures
        params = params._replace(inverse_temperatures=spread_evenly(betas.double().log(), rejected).exp().to(betas))
        return LadderState(
            steps=self.steps.init(kernel, params, state, adapted.num_steps - now),
            rejected=torch.zeros_like(rejected),
            round_start=now,
            round_end=2 * now,
            num_updates=now,
            num_steps=adapted.num_steps,
            rates=1 - rejected / (now - adapted.round_start),
        ), params

    def final(self, adapted: LadderState, kernel: Kernel[Any], params: Any) -> Any:
        """See `Adaptation.final`."""
        return self.steps.final(adapted.steps, kernel, params)

    def notes(self, adapted: LadderState) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        if adapted.rates is None:
            return (f"Warm-up was too short to place the rungs: it takes {2 * self.first_round} steps or more.",)
        rates = ", ".join(f"{rate:.2f}" for rate in adapted.rates.tolist())
        return (f"The rungs were last placed by swap rates {rates}.", *self.steps.notes(adapted.steps))
