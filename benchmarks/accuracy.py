"""How far averages of draws are from exact truth, and how many draws it takes to come near."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from lamina.samplers.diagnostics import mcse_mean

from .densities import Density

HEAVY_TAIL = 0.7
"""Tail index beyond which averages of draws are unreliable, as in Vehtari, Simpson, Gelman, Yao and Gabry (2024),
JMLR 25, section 3."""

LOW_ERROR = 0.01
"""Squared error of E[x^2], in units of Var[x^2], that counts as low: 10 % of a standard deviation. Averages of
independent draws come there with 100 of them."""

_NUM_DRAWS = 200_000
_TAIL_SHARE = 1e-3
_CHECKPOINTS_PER_DOUBLING = 3


class Squares(NamedTuple):
    """What is known of the squared coordinates of a density, besides `Density.second_moment`.

    Attributes:
        is_heavy_tailed: Whether averages of the square are unreliable, (D,) of bool.
        variance: Var[x^2], (D,), from 200,000 exact draws; means little where tails are heavy.
    """

    is_heavy_tailed: Tensor
    variance: Tensor


@functools.cache
def squares_of(density: Density) -> Squares:
    """Judge tails and variances of squared coordinates from many exact draws.

    Tails by the Hill estimate of their index from the largest 1 in 1000: formal moments do not tell, as those of the
    funnel all exist and no run ever sees them.

    Source: Hill (1975), Annals of Statistics 3, equation 2.5.
    """
    squares = density.sample(_NUM_DRAWS, generator=torch.Generator().manual_seed(0)).square()
    logs = squares.topk(int(_TAIL_SHARE * _NUM_DRAWS) + 1, dim=0).values.log()
    tail_index = (logs[:-1] - logs[-1]).mean(dim=0)
    return Squares(tail_index > HEAVY_TAIL, squares.square().mean(dim=0) - density.second_moment.square())


class Error(NamedTuple):
    """Error of an average, in the coordinate where it is worst.

    Attributes:
        mcse: In Monte Carlo standard errors.
        relative: As a share of a scale.
        relative_mcse: Standard error of `relative`.
    """

    mcse: float
    relative: float
    relative_mcse: float


def error(values: Tensor, truth: Tensor, scale: Tensor) -> Error:
    """Compare averages over chains and draws with the truth.

    Args:
        values: (C, N, D), float64.
        truth: (D,).
        scale: What relative errors are shares of, (D,).

    Returns:
        The largest over coordinates, of each kind by itself; NaN where there are none.
    """
    if not len(truth):
        return Error(math.nan, math.nan, math.nan)
    distance, mcse = (values.mean(dim=(0, 1)) - truth).abs(), mcse_mean(values)
    relative = distance / scale
    worst = int(relative.argmax())
    return Error(float((distance / mcse).amax()), float(relative[worst]), float((mcse / scale)[worst]))


class ErrorCurve(NamedTuple):
    """Mean squared error of an estimate of E[x^2], in units of Var[x^2], as the chains behind it grow.

    Attributes:
        num_draws: Draws of each chain, increasing, (K,).
        average: Mean over coordinates, (K,).
        worst: Largest over coordinates, (K,).
    """

    num_draws: Tensor
    average: Tensor
    worst: Tensor


def error_curve(draws: Tensor, density: Density, num_together: int) -> ErrorCurve:
    """How the error of estimates of E[x^2] falls, each made by all draws so far of a few chains.

    Coordinates whose squares have heavy tails are left out.

    Args:
        draws: (C, N, D), float64, of chains that did not start from the density's law.
        density: The truth.
        num_together: Neighbouring chains that make one estimate; C is a multiple.

    Source: b^2 of Robnik, De Luca, Silverstein and Seljak (2023), "Microcanonical Hamiltonian Monte Carlo", JMLR 24,
        average and worst coordinate as in the authors' code; Hoffman and Sountsov (2022), "Tuning-free generalized
        Hamiltonian Monte Carlo", AISTATS, for many chains side by side. Differs: a few chains make an estimate; the
        mean over estimates where the authors' code takes their median, so that the average of n independent draws
        has an error of exactly 1 / n.
    """
    facts = squares_of(density)
    light = ~facts.is_heavy_tailed
    counts = _checkpoints(draws.shape[1])
    num_draws = torch.tensor(counts, dtype=torch.float64)
    squares = draws[..., light].square()
    squares = squares.reshape(-1, num_together, *squares.shape[1:]).mean(dim=1)
    sums = torch.stack([squares[:, first:end].sum(dim=1) for first, end in itertools.pairwise([0, *counts])], dim=-1)
    estimates = sums.cumsum(dim=-1) / num_draws
    truth, variance = (fact[light].unsqueeze(1) for fact in (density.second_moment, facts.variance))
    errors = ((estimates - truth).square() / variance).mean(dim=0)
    worst = errors.amax(dim=0) if light.any() else torch.full_like(num_draws, math.nan)
    return ErrorCurve(num_draws, errors.mean(dim=0), worst)


def draws_to_low_error(num_draws: Tensor, errors: Tensor) -> float:
    """Draws from which on the error stays at `LOW_ERROR` or below, between checkpoints along a straight line of logs.

    Args:
        num_draws: (K,), increasing.
        errors: (K,).

    Returns:
        NaN where the error is not low at the end.
    """
    is_high = ~(errors <= LOW_ERROR)
    if is_high[-1]:
        return math.nan
    if not is_high.any():
        return float(num_draws[0])
    last = int(is_high.nonzero()[-1])
    if not errors[last].isfinite():
        return float(num_draws[last + 1])
    (x0, x1), (y0, y1) = num_draws[last : last + 2].log().tolist(), errors[last : last + 2].log().tolist()
    return math.exp(x0 + (x1 - x0) * (y0 - math.log(LOW_ERROR)) / (y0 - y1))


def _checkpoints(num_draws: int) -> list[int]:
    """Numbers of draws, a fixed ratio apart, from 1 on."""
    doublings = math.log2(num_draws)
    count = int(doublings * _CHECKPOINTS_PER_DOUBLING)
    return sorted({round(num_draws * 2 ** (-k / _CHECKPOINTS_PER_DOUBLING)) for k in range(count + 1)})
