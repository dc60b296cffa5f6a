"""Checks of numbers that people pass, each in one place."""

from __future__ import annotations

import math
import operator
from numbers import Real

import torch
from torch import Tensor

from .errors import ParameterError


def check_count(name: str, value: int, minimum: int) -> int:
    """Raise unless `value` is an integer of at least `minimum`; NumPy's integers count."""
    try:
        count = operator.index(value)
    except TypeError:
        count = minimum - 1
    if isinstance(value, bool) or count < minimum:
        raise ParameterError(f"{name} must be an integer of at least {minimum}; got {value!r}.")
    return count


def check_positive(name: str, value: float | Tensor) -> None:
    """Raise unless a number, or every entry of a tensor, is positive and finite."""
    ok = (
        bool(((value > 0) & torch.isfinite(value)).all())
        if isinstance(value, Tensor)
        else isinstance(value, Real) and 0 < float(value) < math.inf
    )
    if not ok:
        raise ParameterError(f"{name} must be positive and finite; got {value!r}.")


def check_fraction(name: str, value: float) -> None:
    """Raise unless 0 < value < 1."""
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ParameterError(f"{name} must lie strictly between 0 and 1; got {value!r}.")
