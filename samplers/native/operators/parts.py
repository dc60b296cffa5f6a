"""Parts of long axes: cut out, put among zeros, joined."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import NotTraceableError
from ..program import Kind, Operand, Value
from ..symbolic import Array, Tracer, as_array, collapsed, is_long, matrix_leaf


def cut(tracer: Tracer, values: Array, dim: int, part: range) -> Array:
    """Some entries of a long axis."""
    size, length, program = values.shape[dim], len(part), tracer.program
    shape = (*values.shape[:dim], length, *values.shape[dim + 1 :])
    if part == range(size):
        return values
    if not length:
        return np.empty(shape, dtype=object)
    if is_long(length):
        elsewhere = functools.partial(program.elsewhere, first=part.start, step=part.step, axis=length)
        return tracer.view(values, _each(values, size, elsewhere), shape)
    entries = [_each(values, size, functools.partial(program.entry, index=index)) for index in part]
    return tracer.view(values, np.concatenate(entries, axis=dim), shape)


def among_zeros(tracer: Tracer, values: Array, kind: Kind, dim: int, part: range, length: int) -> Array:
    """A long axis of this length that is zero but for a part, which values lie along."""
    size, program = values.shape[dim], tracer.program
    shape = (*values.shape[:dim], length, *values.shape[dim + 1 :])

    def placed(value: Operand, where: range) -> Operand:
        if isinstance(value, Value) and value.axis:
            raise NotTraceableError("entries of one long axis along another")
        return program.placed(kind, value, where, length)

    if not size:
        return np.broadcast_to(tracer.array(0, kind), shape)
    if is_long(size):
        elsewhere = functools.partial(program.elsewhere, first=-part.start, every=part.step, axis=length)
        return tracer.spread(_each(values, size, elsewhere, functools.partial(placed, where=part)), shape)
    entries = np.split(collapsed(values), size, axis=dim)
    alone = [_each(one, 0, _same, functools.partial(placed, where=part[i : i + 1])) for i, one in enumerate(entries)]
    return tracer.spread(_joined(tracer, kind, alone), shape)


def concatenated(tracer: Tracer, arrays: Sequence[Array], kind: Kind, dim: int) -> Array:
    """Arrays one after the other along what becomes a long axis."""
    arrays = [array for array in arrays if array.shape[dim]]
    if len(arrays) == 1:
        return tracer.copied(arrays[0])
    ends = np.cumsum([array.shape[dim] for array in arrays]).tolist()
    parts = [
        among_zeros(tracer, array, kind, dim, range(end - array.shape[dim], end), ends[-1])
        for array, end in zip(arrays, ends, strict=True)
    ]
    return _joined(tracer, kind, parts)


def turned(tracer: Tracer, values: Array, kind: Kind, dim: int, shift: int) -> Array:
    """Rolled along a long axis."""
    size, program, op = values.shape[dim], tracer.program, _sum_of(kind)

    def of(value: Value) -> Operand:
        ahead, around = (program.elsewhere(value, first - shift % size, size) for first in (0, size))
        return program.op(op, kind, ahead, around)

    return tracer.spread(_each(values, size, of), values.shape)


def reshaped(tracer: Tracer, values: Array, kind: Kind, shape: tuple[int, ...]) -> Array | None:
    """A long axis as two, one of them long, or two as one; None where that is not what a change of shape does."""
    dim = _num_shared(values.shape, shape)
    num_last = _num_shared(values.shape[:dim:-1], shape[:dim:-1])
    old, new = (sizes[dim : len(sizes) - num_last] for sizes in (values.shape, shape))
    if len(old) == 1 and len(new) == 2:
        parts, axis = _split(dim, *new)
        cuts = [collapsed(cut(tracer, values, dim, part)) for part in parts]
        return tracer.view(values, np.stack(cuts, axis), shape) if is_long(new[0]) != is_long(new[1]) else None
    if len(old) == 2 and len(new) == 1 and is_long(old[0]) != is_long(old[1]):
        parts, axis = _split(dim, *old)
        rows = np.moveaxis(values, axis, 0)
        spread = [among_zeros(tracer, row, kind, dim, part, *new) for row, part in zip(rows, parts, strict=True)]
        return tracer.view(values, collapsed(_joined(tracer, kind, spread)), shape)
    return None


def _split(dim: int, num_rows: int, num_columns: int) -> tuple[list[range], int]:
    """Entries of a long axis that are rows or columns of a matrix, whichever are long; the axis that counts these."""
    num = num_rows * num_columns
    if is_long(num_columns):
        return [range(first, first + num_columns) for first in range(0, num, num_columns)], dim
    return [range(first, num, num_columns) for first in range(num_columns)], dim + 1


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many sizes two shapes begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (size, wanted) in enumerate(pairs) if size != wanted), min(len(one), len(other)))


def _joined(tracer: Tracer, kind: Kind, parts: Sequence[Array]) -> Array:
    """The sum of arrays of which all but one are zero, entry by entry."""
    return functools.reduce(lambda one, other: tracer.each(_sum_of(kind), kind, one, other), parts)


def _sum_of(kind: Kind) -> str:
    return "or" if kind == "bool" else "add"


def _same(value: Operand) -> Operand:
    return value


def _each(
    values: Array, size: int, along: Callable[[Value], Operand], constant: Callable[[Operand], Operand] = _same
) -> Array:
    """A function of every value along an axis of this size, and another of those that are the same for all of it."""
    if matrix_leaf(values):
        raise NotTraceableError("parts of a parameter of which both axes are long")

    def of(value: Operand) -> Operand:
        return along(value) if size and isinstance(value, Value) and value.axis == size else constant(value)

    return as_array(np.frompyfunc(of, 1, 1)(collapsed(values)))
