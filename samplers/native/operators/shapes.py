"""The same numbers in other places and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import NotTraceableError
from ..program import Value
from ..symbolic import Array, Symbolic, Tracer, as_array, collapsed, is_long, matrix_leaf
from .parts import among_zeros, concatenated, cut, reshaped, turned
from .rules import dims_of, moved, rule


@rule("detach", "alias", "contiguous", "lift_fresh", "lift_fresh_copy", "detach_copy", "view_as_real")
def _same(tracer: Tracer, x: Tensor, **_: Any) -> Symbolic:
    return moved(tracer, x, lambda values: values)


@rule("clone")
def _clone(tracer: Tracer, x: Tensor, **_: Any) -> Symbolic:
    return moved(tracer, x, tracer.copied)


@rule("_to_copy")
def _to_copy(tracer: Tracer, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
    dtype = dtype or x.dtype
    return tracer.tensor(tracer.copied(tracer.array(x, tracer.kind(dtype))), dtype)


@rule("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias")
def _view(tracer: Tracer, x: Tensor, shape: Sequence[int], *_: Any) -> Any:
    if isinstance(shape, torch.dtype):
        raise NotTraceableError("a view as another dtype")

    def reshape(values: Array) -> Array:
        made = values.reshape(tuple(shape))
        for axis in {value.axis for value in collapsed(values).flat if isinstance(value, Value)} - {0}:
            if _first_places(values.shape, axis) != _first_places(made.shape, axis):
                cut_or_joined = reshaped(tracer, values, tracer.kind(x.dtype), made.shape)
                if cut_or_joined is None:
                    raise NotTraceableError(f"a long axis of {axis} that is cut or moved by a change of shape")
                return cut_or_joined
        return made

    return moved(tracer, x, reshape)


def _first_places(shape: tuple[int, ...], axis: int) -> int:
    """How many blocks of a long axis lie in memory, row by row; 0 where the shape does not have it."""
    return math.prod(shape[: shape.index(axis)]) if axis in shape else 0


@rule("unsqueeze")
def _unsqueeze(tracer: Tracer, x: Tensor, dim: int) -> Symbolic:
    return moved(tracer, x, lambda values: np.expand_dims(values, dim))


@rule("squeeze")
def _squeeze(tracer: Tracer, x: Tensor, dim: Any = None) -> Symbolic:
    dims = tuple(d for d in dims_of(x, dim) if x.ndim and x.shape[d] == 1)
    return moved(tracer, x, lambda values: values.squeeze(dims))


@rule("expand")
def _expand(tracer: Tracer, x: Tensor, shape: Sequence[int], **_: Any) -> Symbolic:
    lead = len(shape) - x.ndim
    full = [x.shape[i - lead] if size == -1 else size for i, size in enumerate(shape)]
    return moved(tracer, x, lambda values: np.broadcast_to(values, full))


def _matrix_turned(tracer: Tracer, values: Array, dims: Sequence[int]) -> Array:
    """A parameter of which both axes are long, transposed if these have changed places."""
    leaf = matrix_leaf(values)
    if leaf is None:
        return values
    one, other = (dim % len(dims) for dim, size in zip(dims, values.shape, strict=True) if is_long(size))
    name, is_transposed, *shape = leaf.args
    if one > other:
        leaf = tracer.program.leaf("matrix", name, not is_transposed, *shape[::-1], kind=leaf.kind, is_uniform=True)
    return np.broadcast_to(as_array(leaf), values.shape)


@rule("permute")
def _permute(tracer: Tracer, x: Tensor, dims: Sequence[int]) -> Symbolic:
    return moved(tracer, x, lambda values: _matrix_turned(tracer, values.transpose(dims), dims))


@rule("t")
def _t(tracer: Tracer, x: Tensor) -> Symbolic:
    return _permute(tracer, x, range(x.ndim)[::-1])


@rule("transpose")
def _transpose(tracer: Tracer, x: Tensor, one: int, other: int) -> Symbolic:
    dims = list(range(x.ndim))
    dims[one], dims[other] = dims[other], dims[one]
    return _permute(tracer, x, dims)


def _check_short(x: Tensor, dims: Iterable[int]) -> None:
    """Raise where the order of the entries of a long axis would change."""
    if any(is_long(x.shape[dim]) for dim in dims):
        raise NotTraceableError("a long axis in another order")


@rule("flip")
def _flip(tracer: Tracer, x: Tensor, dims: Sequence[int]) -> Symbolic:
    def flipped(values: Array) -> Array:
        for dim in dims_of(x, list(dims)):
            size = values.shape[dim]
            is_looped = is_long(size)
            values = cut(tracer, values, dim, range(size)[::-1]) if is_looped else tracer.copied(np.flip(values, dim))
        return values

    return moved(tracer, x, flipped)


@rule("roll")
def _roll(tracer: Tracer, x: Tensor, shifts: Any, dims: Any = ()) -> Symbolic:
    if not dims:
        _check_short(x, range(x.ndim))
        return moved(tracer, x, lambda values: np.roll(values, tuple(shifts)))
    kind = tracer.kind(x.dtype)

    def rolled(values: Array) -> Array:
        for shift, dim in zip(shifts, dims, strict=True):
            is_looped = is_long(values.shape[dim])
            values = turned(tracer, values, kind, dim, shift) if is_looped else np.roll(values, shift, dim)
        return values

    return moved(tracer, x, rolled)


@rule("repeat")
def _repeat(tracer: Tracer, x: Tensor, times: Sequence[int]) -> Symbolic:
    return moved(tracer, x, lambda values: np.tile(values, tuple(times)))


def _diagonal_of(values: Array, offset: int, dim1: int, dim2: int) -> Array:
    diagonal = values.diagonal(offset, dim1, dim2)
    diagonal.flags.writeable = values.flags.writeable  # NumPy says no by default
    return diagonal


@rule("diagonal")
def _diagonal(tracer: Tracer, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Symbolic:
    return moved(tracer, x, lambda values: _diagonal_of(values, offset, dim1, dim2))


@rule("diagonal_scatter")
def _diagonal_scatter(
    tracer: Tracer, x: Tensor, part: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Symbolic:
    kind = tracer.kind(x.dtype)
    values = tracer.array(x, kind).copy()
    _diagonal_of(values, offset, dim1, dim2)[...] = tracer.array(part, kind)
    return tracer.tensor(values, x.dtype)


@rule("diagonal_backward")
def _diagonal_backward(tracer: Tracer, grad: Tensor, shape: Sequence[int], *where: int) -> Symbolic:
    return _diagonal_scatter(tracer, grad.new_zeros(shape), grad, *where)


def _place(dim: int, ndim: int, where: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % ndim) + (where,)


def _slice_of(start: int | None, end: int | None, step: int) -> slice:
    return slice(start, None if end is None or end >= 1 << 40 else end, step)


def _one_of(size: int, index: int) -> range:
    """The entry of this index, also one that counts from the end, as a part of an axis."""
    first = range(size)[index]
    return range(first, first + 1)


@rule("select")
def _select(tracer: Tracer, x: Tensor, dim: int, index: int) -> Symbolic:
    dim = dim % x.ndim
    if is_long(x.shape[dim]):
        return moved(tracer, x, lambda values: cut(tracer, values, dim, _one_of(x.shape[dim], index)).squeeze(dim))
    return moved(tracer, x, lambda values: values[(*_place(dim, x.ndim, index), ...)])  # a view even of one number


@rule("slice")
def _slice(
    tracer: Tracer, x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Symbolic:
    dim, part = dim % x.ndim, _slice_of(start, end, step)
    if is_long(x.shape[dim]):
        return moved(tracer, x, lambda values: cut(tracer, values, dim, range(x.shape[dim])[part]))
    return moved(tracer, x, lambda values: values[_place(dim, x.ndim, part)])


def _put(tracer: Tracer, base: Array, part: Tensor, dtype: torch.dtype, place: tuple[Any, ...]) -> Symbolic:
    values = base.copy()
    values[place] = tracer.array(part, tracer.kind(dtype))
    return tracer.tensor(values, dtype)


def _zeros(shape: Sequence[int]) -> Array:
    return np.full(tuple(shape), 0.0, dtype=object)


@rule("select_backward")
def _select_backward(tracer: Tracer, grad: Tensor, shape: Sequence[int], dim: int, index: int) -> Symbolic:
    if is_long(shape[dim]):
        kind, dim, where = tracer.kind(grad.dtype), dim % len(shape), _one_of(shape[dim], index)
        row = np.expand_dims(tracer.array(grad, kind), dim)
        return tracer.tensor(among_zeros(tracer, row, kind, dim, where, shape[dim]), grad.dtype)
    return _put(tracer, _zeros(shape), grad, grad.dtype, _place(dim, len(shape), index))


@rule("slice_backward")
def _slice_backward(
    tracer: Tracer, grad: Tensor, shape: Sequence[int], dim: int, start: int, end: int, step: int
) -> Symbolic:
    part = _slice_of(start, end, step)
    if is_long(shape[dim]):
        kind, where = tracer.kind(grad.dtype), range(shape[dim])[part]
        rows = tracer.array(grad, kind)
        return tracer.tensor(among_zeros(tracer, rows, kind, dim % len(shape), where, shape[dim]), grad.dtype)
    return _put(tracer, _zeros(shape), grad, grad.dtype, _place(dim, len(shape), part))


@rule("select_scatter")
def _select_scatter(tracer: Tracer, x: Tensor, part: Tensor, dim: int, index: int) -> Symbolic:
    base = tracer.array(x, tracer.kind(x.dtype))
    return _put(tracer, base, part, x.dtype, _place(dim, x.ndim, index))


@rule("slice_scatter")
def _slice_scatter(
    tracer: Tracer,
    x: Tensor,
    part: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Symbolic:
    base = tracer.array(x, tracer.kind(x.dtype))
    return _put(tracer, base, part, x.dtype, _place(dim, x.ndim, _slice_of(start, end, step)))


@rule("constant_pad_nd")
def _pad(tracer: Tracer, x: Tensor, pad: Sequence[int], value: float = 0) -> Symbolic:
    fill = tracer.array(value, tracer.kind(x.dtype))
    for i in range(0, len(pad), 2):
        x = _padded(tracer, x, x.ndim - 1 - i // 2, pad[i], pad[i + 1], fill)
    return moved(tracer, x, lambda values: values)


def _padded(tracer: Tracer, x: Tensor, dim: int, first: int, last: int, fill: Array) -> Symbolic:
    """With so many more entries before and after those of an axis, or fewer."""
    x = _slice(tracer, x, dim, max(-first, 0), x.shape[dim] - max(-last, 0))

    def ends(num: int) -> Symbolic:
        shape = (*x.shape[:dim], max(num, 0), *x.shape[dim + 1 :])
        return tracer.tensor(np.broadcast_to(fill, shape), x.dtype)

    return _cat(tracer, (ends(first), x, ends(last)), dim)


def _all_arrays(tracer: Tracer, tensors: Sequence[Tensor]) -> tuple[list[Array], torch.dtype]:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tracer.array(tensor, tracer.kind(dtype)) for tensor in tensors], dtype


@rule("cat")
def _cat(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Symbolic:
    arrays, dtype = _all_arrays(tracer, [tensor for tensor in tensors if tensor.shape != (0,)])
    if is_long(sum(array.shape[dim] for array in arrays)):
        return tracer.tensor(concatenated(tracer, arrays, tracer.kind(dtype), dim % arrays[0].ndim), dtype)
    return tracer.tensor(np.concatenate(arrays, axis=dim), dtype)


@rule("stack")
def _stack(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Symbolic:
    arrays, dtype = _all_arrays(tracer, tensors)
    return tracer.tensor(np.stack(arrays, axis=dim), dtype)


@rule("unbind")
def _unbind(tracer: Tracer, x: Tensor, dim: int = 0) -> list[Symbolic]:
    values = np.moveaxis(tracer.array(x, tracer.kind(x.dtype)), dim, 0)
    return [tracer.tensor(as_array(values[i, ...]), x.dtype) for i in range(len(values))]


@rule("split", "split_with_sizes", "split_copy", "unsafe_split")
def _split(tracer: Tracer, x: Tensor, sizes: Any, dim: int = 0) -> list[Any]:
    length = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - first) for first in range(0, length, sizes)]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_slice(tracer, x, dim, first, first + size) for first, size in zip(firsts, sizes, strict=True)]
