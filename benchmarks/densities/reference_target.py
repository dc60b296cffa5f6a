"""The contract of a target without exact draws: an energy whose parameters have a published or converged reference."""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import cache
from importlib import resources
from typing import Any, Literal, final

import torch
from torch import Tensor

from .base import Target

_Moment = Literal["mean", "mean_error", "second_moment", "second_moment_error"]


class ReferenceTarget(Target):
    """A posterior or lattice without exact draws, in unconstrained coordinates, with a reference for its parameters.

    Facts are about the *parameters*, functions of the position in the terms in which the model was published, so
    that all parametrisations of one model share one reference. Compare a sampler's averages of `parameters(x)` with
    them, and add up the standard errors of both.

    Concrete ones fill in `parameter_names`, `reference_name`, `_parameters` and `_energy`.
    """

    @property
    @abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the columns of `parameters`, as published."""

    @property
    @abstractmethod
    def reference_name(self) -> str:
        """Key in `data/references.json`, which `make_references` writes."""

    @abstractmethod
    def _parameters(self, x: Tensor) -> Tensor:
        """Parameters of checked chains: (C, D) -> (C, K)."""

    @final
    def parameters(self, x: Tensor) -> Tensor:
        """Return the parameters of the model at positions.

        Args:
            x: Chains, (C, D), of any floating dtype and device, which the result follows.

        Returns:
            Parameters in the order of `parameter_names`, (C, K).

        Raises:
            PositionError: If x is not a floating-point matrix with D columns.
        """
        self._check(x)
        return self._parameters(x)

    @property
    def mean(self) -> Tensor:
        """Reference for the mean of each parameter, (K,)."""
        return self._reference("mean")

    @property
    def second_moment(self) -> Tensor:
        """Reference for the mean square of each parameter, (K,)."""
        return self._reference("second_moment")

    @property
    def mean_error(self) -> Tensor:
        """Standard error of `mean`, or a bound on its error where it comes from quadrature, (K,)."""
        return self._reference("mean_error")

    @property
    def second_moment_error(self) -> Tensor:
        """Standard error of `second_moment`, or a bound on its error where it comes from quadrature, (K,)."""
        return self._reference("second_moment_error")

    @property
    def reference(self) -> str:
        """How the reference was made."""
        return str(_references()[self.reference_name]["method"])

    def _reference(self, moment: _Moment) -> Tensor:
        rows = _references()[self.reference_name]["parameters"]
        return torch.tensor([rows[name][moment] for name in self.parameter_names], dtype=torch.float64)


def read_data(name: str) -> str:
    """Return the text of a file in `data`."""
    return resources.files(f"{__package__}.data").joinpath(name).read_text(encoding="utf-8")


@cache
def _references() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read_data("references.json"))["posteriors"]
    return content
