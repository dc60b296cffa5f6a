"""The table of rules, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..symbolic import KINDS, Array, Symbolic, Tracer

Rule: TypeAlias = Callable[..., Any]
"""Gets a tracer and the operator's arguments as PyTorch passes them; `NotImplemented`: there is no rule for these."""

RuleT = TypeVar("RuleT", bound=Rule)

RULES: dict[str, Rule] = {}
"""By the operator's name."""


def rule(*names: str) -> Callable[[RuleT], RuleT]:
    """Make a function the rule of some operators."""

    def register(function: RuleT) -> RuleT:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def result_type(x: Any, y: Any) -> torch.dtype:
    """PyTorch's promotion, asked of stand-ins: asked of what is traced, it would be traced as well."""
    return _promoted(_stand_in(x), _stand_in(y))


_promoted = lru_cache(maxsize=None, typed=True)(torch.result_type)

_STAND_INS = {
    (dtype, has_axes): torch.empty((1,) * has_axes, dtype=dtype, device="meta")
    for dtype in KINDS
    for has_axes in (False, True)
}
"""All that promotion looks at in a tensor."""


def _stand_in(operand: Any) -> Any:
    """A tensor of the same dtype that has axes where the operand does; of a number, one of its type."""
    if not isinstance(operand, Tensor):
        return type(operand)()
    Tracer.kind(operand.dtype)  # raises where programs have no such numbers
    return _STAND_INS[operand.dtype, operand.ndim > 0]


def floating(dtype: torch.dtype) -> torch.dtype:
    """What integers become where results are no integers."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def pointwise(tracer: Tracer, op: str, *operands: Any, dtype: torch.dtype | None = None) -> Symbolic:
    """An operation number by number, with broadcasting."""
    dtype = dtype or result_type(*operands)
    kind = tracer.kind(dtype)
    return tracer.tensor(tracer.each(op, kind, *(tracer.array(operand, kind) for operand in operands)), dtype)


def moved(tracer: Tracer, x: Tensor, move: Callable[[Array], Any]) -> Symbolic:
    """The same numbers in other places."""
    return tracer.tensor(move(tracer.array(x, tracer.kind(x.dtype))), x.dtype)


def dims_of(x: Tensor, dim: Any) -> list[int]:
    """The axes that an operator names, counted from the front; all of them where it names none."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(x.ndim))
    dims = list(dim) if isinstance(dim, list | tuple) else [dim]
    return sorted({d % max(x.ndim, 1) for d in dims})
