"""The loop that kernels may use inside a step, so that every engine can see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

CarryT = TypeVar("CarryT", bound=tuple[object, ...])


def repeat(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry), `num` times."""
    for _ in range(num):
        carry = body(*carry)
    return carry
