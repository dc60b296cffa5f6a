"""Running covariances, for the inverse mass: pooled over chains or for each chain, in constant memory."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Mass: TypeAlias = Literal["diagonal", "dense"]
"""Variances alone, or covariances as well."""


class Moments(NamedTuple):
    """Mean and scatter of G groups of draws: one group if pooled over chains, one for each chain if not.

    Attributes:
        num_draws: Draws of each group so far, 0-d.
        mean: Their mean, (G, D), float64 like all of it.
        scatter: Their sum of squared deviations, (G, D), or of products of deviations, (G, D, D).
    """

    num_draws: Tensor
    mean: Tensor
    scatter: Tensor


def no_moments(like: Tensor, mass: Mass, *, pooled: bool) -> Moments:
    """The moments of no draws, for chains like `like` (C, D)."""
    groups, dim = 1 if pooled else like.shape[0], like.shape[1]
    mean = like.new_zeros((groups, dim), dtype=torch.float64)
    scatter = mean if mass == "diagonal" else mean.new_zeros((groups, dim, dim))
    return Moments(mean.new_zeros(()), mean, scatter)


def add_draws(moments: Moments, position: Tensor) -> Moments:
    """Take in one draw of every chain, (C, D).

    Source: Chan, Golub and LeVeque (1983), American Statistician 37, equations 2.1; with one draw at a time the
    algorithm of Welford (1962), Technometrics 4.
    """
    draws = position.double().reshape(moments.mean.shape[0], -1, position.shape[1])
    num_new = draws.shape[1]
    center = draws.mean(dim=1)
    count = moments.num_draws + num_new
    # The distance of the two means makes one more deviation, beside those of the new draws.
    shift = (center - moments.mean).unsqueeze(1)
    deviations = torch.cat((draws - center.unsqueeze(1), shift * (moments.num_draws * num_new / count).sqrt()), dim=1)
    scatter = deviations.square().sum(dim=1) if moments.scatter.ndim == 2 else deviations.mT @ deviations
    return Moments(count, moments.mean + shift.squeeze(1) * (num_new / count), moments.scatter + scatter)


def regularised_covariance(moments: Moments) -> Tensor:
    """Variances (G, D) or covariances (G, D, D), drawn towards a small multiple of the identity.

    n / (n + 5) S + 5 / (n + 5) 1e-3 I for the sample covariance S of n >= 2 draws.

    Source: Stan Development Team, Stan Reference Manual, section "Automatic parameter tuning" of the chapter on MCMC;
    `stan/mcmc/covar_adaptation.hpp` and `var_adaptation.hpp`.
    """
    count, dim = moments.num_draws, moments.mean.shape[1]
    identity = torch.eye(dim, dtype=torch.float64, device=count.device) if moments.scatter.ndim == 3 else 1.0
    return (count * moments.scatter / (count - 1) + 5 * 1e-3 * identity) / (count + 5)


def mass_factor(moments: Moments, *, pooled: bool) -> Tensor:
    """The factor L of the inverse mass that these moments suggest, in a shape that `lamina.samplers.metric` names."""
    covariance = regularised_covariance(moments)
    is_dense = covariance.ndim == 3
    factor: Tensor = torch.linalg.cholesky(covariance) if is_dense else covariance.sqrt()
    if pooled:
        return factor.squeeze(0)
    return factor if is_dense else factor.unsqueeze(1)
