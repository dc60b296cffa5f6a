"""Indices, which are known while tracing or choose among the few entries of an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import NotTraceableError
from ..program import Kind, Operand, Value
from ..symbolic import Array, Symbolic, Tracer, as_array, is_long
from .rules import moved, rule


def _numbers(tracer: Tracer, index: Tensor) -> Array | None:
    """An index that is known while tracing."""
    if not isinstance(index, Symbolic):
        tracer.is_settled = True
        return np.asarray(index.detach().cpu().numpy())
    if any(isinstance(value, Value) for value in index.numbers.flat):
        return None
    return np.array(index.numbers.tolist(), dtype=bool if index.dtype == torch.bool else np.int64)


def _check_short(x: Tensor, dims: Iterable[int]) -> None:
    """Raise where an index would have to tell the entries of a long axis apart."""
    if any(is_long(x.shape[dim]) for dim in dims):
        raise NotTraceableError("an index into a long axis")


@rule("index")
def _index(tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None]) -> Symbolic:
    known = [None if index is None else _numbers(tracer, index) for index in indices]
    if any(index is not None and number is None for index, number in zip(indices, known, strict=True)):
        raise NotTraceableError("an index that depends on the chains; use gather along an axis of a few entries")
    _check_short(x, (dim for dim, index in enumerate(known) if index is not None))
    place = tuple(slice(None) if index is None else index for index in known)
    return moved(tracer, x, lambda values: as_array(values[place]))


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(
    tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None], part: Tensor, accumulate: bool = False, *_: Any
) -> Symbolic:
    known = [None if index is None else _numbers(tracer, index) for index in indices]
    if any(index is not None and number is None for index, number in zip(indices, known, strict=True)):
        raise NotTraceableError("a write to an index that depends on the chains")
    _check_short(x, range(x.ndim))
    kind = tracer.kind(x.dtype)
    values = tracer.array(x, kind).copy()
    # Numbers of the entries that the index names, in its order, with repetitions.
    entries = np.arange(values.size).reshape(values.shape)[tuple(slice(None) if i is None else i for i in known)]
    new = np.broadcast_to(tracer.array(part, kind), entries.shape)
    flat = values.reshape(-1)
    for entry, value in zip(entries.flat, new.flat, strict=True):
        flat[entry] = tracer.program.op("add", kind, flat[entry], value) if accumulate else value
    return tracer.tensor(flat.reshape(values.shape), x.dtype)


@rule("index_select")
def _index_select(tracer: Tracer, x: Tensor, dim: int, index: Tensor) -> Symbolic:
    picked: Symbolic = _index(tracer, x, [*[None] * (dim % x.ndim), index])
    return picked


@rule("gather")
def _gather(tracer: Tracer, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Symbolic:
    _check_short(x, range(x.ndim))
    kind, dim = tracer.kind(x.dtype), dim % x.ndim
    values, at = tracer.array(x, kind), tracer.array(index, "int")
    size = values.shape[dim]
    made = np.empty(at.shape, dtype=object)
    for place in np.ndindex(*at.shape):
        row = [values[(*place[:dim], k, *place[dim + 1 :])] for k in range(size)]
        where = at[place]
        if not isinstance(where, Value):
            made[place] = row[where]
            continue
        chosen = row[-1]
        for k in range(size - 2, -1, -1):
            is_here = tracer.program.op("eq", "bool", where, k)
            chosen = tracer.program.op("where", kind, is_here, row[k], chosen)
        made[place] = chosen
    return tracer.tensor(made, x.dtype)


def _scattered(
    tracer: Tracer, x: Tensor, dim: int, index: Tensor, part: Any, combine: Callable[[Kind, Operand, Operand], Operand]
) -> Symbolic:
    """Numbers put where an index says: every entry along the axis asks whether it is meant."""
    _check_short(x, range(x.ndim))
    kind, dim = tracer.kind(x.dtype), dim % x.ndim
    values: Any = tracer.array(x, kind).copy()
    at: Any = tracer.array(index, "int")
    new: Any = tracer.array(part, kind)
    new = new if new.ndim else np.broadcast_to(new, at.shape)
    for place in np.ndindex(*at.shape):
        for k in range(values.shape[dim]):
            there = (*place[:dim], k, *place[dim + 1 :])
            is_here = tracer.program.op("eq", "bool", at[place], k)
            put = combine(kind, values[there], new[place])
            values[there] = tracer.program.op("where", kind, is_here, put, values[there])
    return tracer.tensor(values, x.dtype)


@rule("scatter")
def _scatter(tracer: Tracer, x: Tensor, dim: int, index: Tensor, part: Any, *, reduce: str | None = None) -> Any:
    if reduce is not None:
        return NotImplemented
    return _scattered(tracer, x, dim, index, part, lambda kind, old, new: new)


@rule("scatter_add")
def _scatter_add(tracer: Tracer, x: Tensor, dim: int, index: Tensor, part: Tensor) -> Symbolic:
    return _scattered(tracer, x, dim, index, part, lambda kind, old, new: tracer.program.op("add", kind, old, new))
