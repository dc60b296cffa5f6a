"""Kolmogorov distances between samples and laws, and bands for them that hold at every sample size, for every law.

Sources: Massart (1990), Annals of Probability 18, for the constant 2 of one sample; Wei and Dudley (2012), Statistics
and Probability Letters 82, theorem 1, for two samples of equal size; Hoeffding (1963), JASA 58, theorem 1, for power.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..checks import check_fraction

CDF: TypeAlias = Callable[[Tensor], Tensor]
"""A cumulative distribution function, from values of any shape to probabilities."""


def dkw_half_width(num: int, false_alarm: float, *, num_other: int | None = None) -> float:
    """Kolmogorov distance that independent draws from the right law exceed with probability at most `false_alarm`.

    Args:
        num: Number of draws.
        false_alarm: In (0, 1).
        num_other: Size of the second sample, where draws are compared with draws; None: with an exact CDF. Unequal
            samples get a band of half the rate each, which is wider than need be.
    """
    check_fraction("false_alarm", false_alarm)
    if num_other is None:
        return math.sqrt(math.log(2 / false_alarm) / (2 * num))
    if num_other == num:
        return math.sqrt((1 - math.log(false_alarm)) / num)  # constant e, good for every size
    return dkw_half_width(num, false_alarm / 2) + dkw_half_width(num_other, false_alarm / 2)


def detectable_shift(num: int, false_alarm: float, *, num_other: int | None = None, power: float = 0.99) -> float:
    """Kolmogorov distance between the wrong law and the right one from which on a band finds it.

    At the point where the two laws are furthest apart, draws fall short of that distance by more than s with
    probability at most exp(-2 n s^2), n being the size of one sample, or nm / (n + m) of two.

    Args:
        num: Number of draws.
        false_alarm: Of the band, in (0, 1).
        num_other: As in `dkw_half_width`.
        power: Probability of finding the shift, in (0, 1).
    """
    check_fraction("power", power)
    size = num if num_other is None else num * num_other / (num + num_other)
    half_width = dkw_half_width(num, false_alarm, num_other=num_other)
    return half_width + math.sqrt(-math.log1p(-power) / (2 * size))


def ks_one_sample(values: Tensor, cdf: CDF) -> float:
    """Kolmogorov distance between draws (N,) and a continuous law. NaN counts as plus infinity."""
    ordered = _ordered(values)
    # A CDF made of exponentials or quadratures may not know infinity.
    probability = torch.where(ordered == torch.inf, 1.0, cdf(ordered).double())
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64, device=ordered.device) / len(ordered)
    return float(torch.maximum(steps[1:] - probability, probability - steps[:-1]).max())


def ks_two_sample(values: Tensor, others: Tensor) -> float:
    """Kolmogorov distance between draws (N,) and draws (M,). NaN counts as plus infinity."""
    first, second = _ordered(values), _ordered(others)
    everything = torch.cat((first, second))
    below = [torch.searchsorted(part, everything, right=True).double() / len(part) for part in (first, second)]
    return float((below[0] - below[1]).abs().max())


def _ordered(values: Tensor) -> Tensor:
    return torch.where(torch.isnan(values), torch.inf, values).double().sort().values
