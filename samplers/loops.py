"""The loops that kernels may use inside a step, so that every engine can see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

CarryT = TypeVar("CarryT", bound=tuple[Any, ...])
StructureT = TypeVar("StructureT")


class Recorder(Protocol):
    """What writes down loops instead of running them, such as the tracer of an engine."""

    def repeat(self, num: int, body: Callable[..., Any], carry: Any) -> Any:
        """See `repeat`."""
        ...

    def while_any(self, body: Callable[..., Any], carry: Any) -> Any:
        """See `while_any`."""
        ...


_MAX_UNROLLED = 2
"""Rounds of a loop that `torch.compile` sees one by one."""

SHORT_ROW = 4
"""Columns that torch is faster at one by one than along their rows, on the CPU."""

_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder of loops", default=None)


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Hand all loops to a recorder."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)


def repeat(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry), `num` times."""
    if torch.compiler.is_dynamo_compiling():
        return _repeat_in_graph(num, body, carry)
    if recorder := _RECORDER.get():
        recorded: CarryT = recorder.repeat(num, body, carry)
        return recorded
    return _unrolled(num, body, carry)


def _unrolled(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    for _ in range(num):
        carry = body(*carry)
    return carry


def _repeat_in_graph(num: int, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """The loop as `torch.compile` takes it: a loop of the graph, since ten gradients in a row compile for minutes."""
    if num <= _MAX_UNROLLED:
        return _unrolled(num, body, carry)
    from torch._higher_order_ops import while_loop

    def one_more(i: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        return i + 1, *(after.clone(memory_format=torch.contiguous_format) for after in body(*carry))

    start = (torch.zeros((), dtype=torch.int64), *(before.contiguous() for before in carry))
    _, *after = while_loop(lambda i, *_: i < num, one_more, start)  # type: ignore[no-untyped-call]
    return tuple(after)  # type: ignore[return-value]


def while_any(body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry) for the chains that go on, as long as there are any.

    Args:
        body: Maps the carry to the next one.
        carry: Tensors, or NamedTuples of tensors, with a row for each chain. The first is a column of booleans:
            which chains go on; the others stay as they are.
    """
    if recorder := _RECORDER.get():
        recorded: CarryT = recorder.while_any(body, carry)
        return recorded
    while num_going := int(carry[0].sum()):
        is_everyone = num_going == carry[0].numel()
        carry = body(*carry) if is_everyone else select(carry[0], body(*carry), carry)
    return carry


def repeat_each(num: Tensor, body: Callable[..., CarryT], carry: CarryT) -> CarryT:
    """Carry = body(*carry), for each chain as many times as its own number says.

    Args:
        num: How many times, (C, 1).
        body: Maps the carry to the next one.
        carry: Tensors, or NamedTuples of tensors, with a row for each chain.
    """

    def one_more(_: Tensor, left: Tensor, carry: CarryT) -> tuple[Tensor, Tensor, CarryT]:
        return left > 1, left - 1, body(*carry)

    return while_any(one_more, (num > 0, num, carry))[2]


def values_are_at_hand(tensor: Tensor) -> bool:
    """Whether Python may look at a tensor's values, as what a step costs less by, not as what it depends on.

    Not where a loop is being recorded or compiled, nor on a device, which it would have to wait for.
    """
    if torch.compiler.is_dynamo_compiling() or type(tensor) is not Tensor:
        return False
    return tensor.is_cpu and _RECORDER.get() is None


def select(condition: Tensor, one: StructureT, other: StructureT) -> StructureT:
    """The rows of one NamedTuple of tensors, nested or not, where the condition (C, 1) holds, else of the other."""
    if condition.numel() == 1 and values_are_at_hand(condition):
        return one if condition else other
    chosen: StructureT = _select(condition, one, other)
    return chosen


def _select(condition: Tensor, one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return _where(condition, one, other)
    fields = [_select(condition, new, old) for new, old in zip(one, other, strict=True)]
    return type(one)(*fields) if hasattr(one, "_fields") else type(one)(fields)


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`torch.where` by a column of conditions, which along short rows it is slow to repeat."""
    if one.ndim > 2:
        condition = condition.unsqueeze(2)
    elif condition.shape[1] < one.shape[1] <= SHORT_ROW and values_are_at_hand(condition):
        condition = torch.cat([condition] * one.shape[1], dim=1)
    return torch.where(condition, one, other)
