"""Eight schools, in two parametrisations."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Box, constant_like
from .reference_target import ReferenceTarget, read_data

_NUM_SCHOOLS = 8


class _EightSchools(ReferenceTarget):
    """y_j ~ N(theta_j, sigma_j^2), theta_j ~ N(mu, tau^2), mu ~ N(0, 5^2), tau ~ half-Cauchy(0, 5).

    The first two coordinates are mu and log tau, so the energy holds the Jacobian of tau = exp(log tau).
    """

    dim: ClassVar[int] = 2 + _NUM_SCHOOLS
    reference_name: ClassVar[str] = "eight_schools"
    parameter_names: ClassVar[tuple[str, ...]] = ("mu", "tau", *(f"theta[{j}]" for j in range(1, _NUM_SCHOOLS + 1)))
    plot_box: ClassVar[Box] = ((-8.0, 17.0), (-3.0, 3.5))

    @abstractmethod
    def _effects(self, x: Tensor) -> Tensor:
        """theta of each school, (C, 8)."""

    @abstractmethod
    def _effects_energy(self, x: Tensor) -> Tensor:
        """Minus the log-density of the last eight coordinates given the first two, up to a constant."""

    @final
    def _parameters(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, 1:2].exp(), self._effects(x)], dim=1)

    @final
    def _energy(self, x: Tensor) -> Tensor:
        mu, log_tau = x[:, 0], x[:, 1]
        y, sigma = (constant_like(column, x) for column in _schools())
        likelihood = 0.5 * ((y - self._effects(x)) / sigma).square().sum(1)
        prior = 0.5 * (mu / 5.0).square() + torch.log1p((log_tau.exp() / 5.0).square())
        return likelihood + self._effects_energy(x) + prior - log_tau


@final
@dataclass(frozen=True, kw_only=True)
class EightSchools(_EightSchools):
    """Eight schools at (mu, log tau, eta_1, ..., eta_8) with theta_j = mu + tau eta_j: the easy coordinates."""

    name: ClassVar[str] = "eight_schools"
    reveals: ClassVar[str] = "whether hierarchical models work at all: a mild funnel with a heavy tail in tau"
    formula: ClassVar[str] = (
        "sum_j ((y_j - mu - tau eta_j) / sigma_j)^2 / 2 + eta_j^2 / 2, "
        "+ (mu / 5)^2 / 2 + log(1 + (tau / 5)^2) - log tau"
    )
    source: ClassVar[str] = (
        "Rubin (1981), Journal of Educational Statistics 6; model and reference draws of posteriordb, "
        "eight_schools_noncentered"
    )

    def _effects(self, x: Tensor) -> Tensor:
        return x[:, :1] + x[:, 1:2].exp() * x[:, 2:]

    def _effects_energy(self, x: Tensor) -> Tensor:
        return 0.5 * x[:, 2:].square().sum(1)


@final
@dataclass(frozen=True, kw_only=True)
class CenteredEightSchools(_EightSchools):
    """Eight schools at (mu, log tau, theta_1, ..., theta_8): the coordinates that most samplers fail on."""

    name: ClassVar[str] = "centered_eight_schools"
    reveals: ClassVar[str] = "a funnel in real life: one step size for two scales misses small tau without a warning"
    formula: ClassVar[str] = (
        "sum_j ((y_j - theta_j) / sigma_j)^2 / 2 + ((theta_j - mu) / tau)^2 / 2 + log tau, "
        "+ (mu / 5)^2 / 2 + log(1 + (tau / 5)^2) - log tau"
    )
    source: ClassVar[str] = (
        "Rubin (1981), Journal of Educational Statistics 6; model of posteriordb, eight_schools_centered, which "
        "refers to the draws of its other parametrisation"
    )

    def _effects(self, x: Tensor) -> Tensor:
        return x[:, 2:]

    def _effects_energy(self, x: Tensor) -> Tensor:
        mu, log_tau = x[:, :1], x[:, 1:2]
        return (0.5 * ((x[:, 2:] - mu) * torch.exp(-log_tau)).square() + log_tau).sum(1)


@cache
def _schools() -> tuple[Tensor, Tensor]:
    """Estimated effects y and their standard errors sigma, (8,) each."""
    data = json.loads(read_data("eight_schools.json"))
    return torch.tensor(data["y"], dtype=torch.float64), torch.tensor(data["sigma"], dtype=torch.float64)
