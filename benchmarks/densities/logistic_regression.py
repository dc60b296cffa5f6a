"""Logistic regressions on published data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .base import Box, constant_like
from .reference_target import ReferenceTarget, read_data


class _LogisticRegression(ReferenceTarget):
    """logit P(outcome = 1) = alpha + sum_k beta_k covariate_k, with flat priors on alpha and beta.

    Rows of data with equal covariates are one row with a number of trials n and of successes s. The name is that of
    the file in `data`.
    """

    formula: ClassVar[str] = "sum_i n_i log(1 + exp(eta_i)) - s_i eta_i, eta_i = alpha + sum_k beta_k covariate_ik"

    @property
    def dim(self) -> int:
        """One intercept, and one slope per covariate."""
        return _table(self.name).design.shape[1]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The coordinates themselves: alpha, beta[1], ..."""
        return ("alpha", *(f"beta[{k}]" for k in range(1, self.dim)))

    @property
    def reference_name(self) -> str:
        """The name of the data."""
        return self.name

    @property
    def plot_box(self) -> Box:
        """Four standard deviations around the mean."""
        reach = 4.0 * (self.second_moment - self.mean**2).sqrt()
        lows, highs = (self.mean - reach).tolist(), (self.mean + reach).tolist()
        return (lows[0], highs[0]), (lows[1], highs[1])

    def _parameters(self, x: Tensor) -> Tensor:
        return x

    def _energy(self, x: Tensor) -> Tensor:
        table = _table(self.name)
        logits = x @ constant_like(table.design, x).T
        return functional.softplus(logits) @ constant_like(table.trials, x) - x @ constant_like(table.evidence, x)


@final
@dataclass(frozen=True, kw_only=True)
class Vote(_LogisticRegression):
    """The choice for president in 1992 (Bush 1, Clinton 0) given the family's income on a scale from 1 to 5."""

    name: ClassVar[str] = "vote"
    reveals: ClassVar[str] = "a narrow, correlated ridge in the plane, as any covariate makes that is not centred"
    source: ClassVar[str] = (
        "National Election Study 1992 in Gelman & Hill (2006), section 5.1; data and model of posteriordb, "
        "nes_logit_data-nes_logit_model"
    )


@final
@dataclass(frozen=True, kw_only=True)
class Wells(_LogisticRegression):
    """The switch to another well given its distance in units of 100 m and the arsenic in the present one."""

    name: ClassVar[str] = "wells"
    reveals: ClassVar[str] = "the cost of a real likelihood: 3020 households of data for three coordinates"
    source: ClassVar[str] = (
        "wells in Bangladesh in Gelman & Hill (2006), section 5.4; data and model of posteriordb, "
        "wells_data-wells_dist100ars_model"
    )


class _Table(NamedTuple):
    """Data of N rows: design (N, D) with a leading column of ones, trials (N,), and design' successes (D,)."""

    design: Tensor
    trials: Tensor
    evidence: Tensor


@cache
def _table(name: str) -> _Table:
    """The data of a file whose last two columns are the numbers of trials and of successes."""
    rows = np.loadtxt(read_data(f"{name}.csv").splitlines(), delimiter=",", skiprows=1)
    columns = torch.from_numpy(rows)
    design = torch.cat([torch.ones(len(columns), 1, dtype=torch.float64), columns[:, :-2]], dim=1)
    return _Table(design, columns[:, -2], columns[:, -1] @ design)
