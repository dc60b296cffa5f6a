"""The loops that kernels may use inside a step, so that every engine can see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

CarryT = TypeVar("CarryT", bound=tuple[object, ...])


def repeat(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry), `num` times."""
    for _ in range(num):
        carry = body(*carry)
    return carry


def while_any(body: Callable[..., tuple[Any, ...]], carry: tuple[Any, ...]) -> tuple[Any, ...]:
    """Carry = body(*carry) for the chains that go on, as long as there are any.

    Args:
        body: Maps the carry to the next one.
        carry: Tensors with a row for each chain, or a single one for all. The first is a column of booleans: which
            chains go on; the others stay as they are.
    """
    while bool(carry[0].any()):
        carry = tuple(torch.where(carry[0], new, old) for new, old in zip(body(*carry), carry, strict=True))
    return carry
