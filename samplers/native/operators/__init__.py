"""What PyTorch's operators do to the numbers in a tensor, for the tracer.

An operator without a rule is left to PyTorch's own decomposition into others; one with neither is refused, never
guessed at.
"""

from __future__ import annotations

from . import creation, indices, pointwise, products, reductions, shapes  # noqa: F401  (they fill the table)
from .rules import RULES

__all__ = ["RULES"]
