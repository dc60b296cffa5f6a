"""The loops that kernels may use inside a step, so that every engine can see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

CarryT = TypeVar("CarryT", bound=tuple[Any, ...])
StructureT = TypeVar("StructureT")


def repeat(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry), `num` times."""
    for _ in range(num):
        carry = body(*carry)
    return carry


def while_any(body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry) for the chains that go on, as long as there are any.

    Args:
        body: Maps the carry to the next one.
        carry: Tensors, or NamedTuples of tensors, with a row for each chain. The first is a column of booleans:
            which chains go on; the others stay as they are.
    """
    while num_going := int(carry[0].sum()):
        is_everyone = num_going == carry[0].numel()
        carry = body(*carry) if is_everyone else select(carry[0], body(*carry), carry)
    return carry


def select(condition: Tensor, one: StructureT, other: StructureT) -> StructureT:
    """The rows of one NamedTuple of tensors, nested or not, where the condition (C, 1) holds, else of the other."""
    chosen: StructureT = _select(condition, one, other)
    return chosen


def _select(condition: Tensor, one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return torch.where(condition, one, other)
    fields = [_select(condition, new, old) for new, old in zip(one, other, strict=True)]
    return type(one)(*fields) if hasattr(one, "_fields") else type(one)(fields)
