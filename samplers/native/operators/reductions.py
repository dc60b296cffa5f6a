"""Sums and other reductions of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NotTraceableError
from ..program import FLOATS, Kind, Operand
from ..symbolic import Array, Symbolic, Tracer, as_array, collapsed, is_long, object_array
from .rules import RULES, dims_of, rule


def _rows(values: Array, dims: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """The reduced axes flattened into the last, and the shape that is left."""
    if not values.ndim:
        return values.reshape(1, 1), ()
    kept = [d for d in range(values.ndim) if d not in dims]
    shape = tuple(values.shape[d] for d in kept)
    return values.transpose(*kept, *dims).reshape(math.prod(shape), -1), shape


def _reduce(
    tracer: Tracer,
    x: Tensor,
    dim: Any,
    keepdim: bool,
    dtype: torch.dtype,
    function: Callable[[Kind, list[Operand], int], Operand],
    result: torch.dtype | None = None,
) -> Symbolic:
    """Reduce axes by a function of a kind, the numbers of a row, and the length of the long axis along which they lie.

    It is 0 where they lie along none.
    """
    kind, dims = tracer.kind(dtype), dims_of(x, dim)
    long = [x.shape[d] for d in dims if x.ndim and is_long(x.shape[d])]
    if len(long) > 1:
        raise NotTraceableError(f"a reduction of two long axes, of {long[0]} and {long[1]}, at once")
    rows, shape = _rows(collapsed(tracer.array(x, kind)), dims)
    array = object_array([function(kind, list(row), sum(long)) for row in rows], shape)
    kept = tuple(1 if d in dims else size for d, size in enumerate(x.shape))
    array = tracer.spread(np.expand_dims(array, tuple(dims)) if x.ndim else array, kept)
    return tracer.tensor(array if keepdim or not x.ndim else array.squeeze(tuple(dims)), result or dtype)


def _by(tracer: Tracer, op: str) -> Callable[[Kind, list[Operand], int], Operand]:
    return lambda kind, row, axis: tracer.program.over(op, kind, row, axis)


@rule("sum")
def _sum(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return _reduce(
        tracer,
        x,
        dim,
        keepdim,
        dtype,
        lambda kind, row, axis: tracer.program.over("add", kind, row or [0.0 if kind in FLOATS else 0], axis),
    )


@rule("mean")
def _mean(
    tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    total = _sum(tracer, x, dim, keepdim, dtype=dtype)
    return total * (total.numel() / x.numel())


@rule("var")
def _var(
    tracer: Tracer,
    x: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    deviation = x - _mean(tracer, x, dim, keepdim=True)
    total = _sum(tracer, deviation * deviation, dim, keepdim)
    freedom = x.numel() / max(total.numel(), 1) - (int(unbiased) if correction is None else correction)
    return total * (1 / freedom if freedom > 0 else math.inf)


@rule("var_mean")
def _var_mean(
    tracer: Tracer,
    x: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    return _var(tracer, x, dim, unbiased, keepdim, correction=correction), _mean(tracer, x, dim, keepdim)


@rule("amax")
def _amax(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    if x.dtype == torch.bool:
        return _any(tracer, x, dim, keepdim)
    return _reduce(tracer, x, dim, keepdim, x.dtype, _by(tracer, "max"))


@rule("amin")
def _amin(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    if x.dtype == torch.bool:
        return _all(tracer, x, dim, keepdim)
    return _reduce(tracer, x, dim, keepdim, x.dtype, _by(tracer, "min"))


@rule("argmax")
def _argmax(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False, *, better: str = "gt") -> Any:
    def first_best(kind: Kind, row: list[Operand], axis: int) -> Operand:
        if axis:
            raise NotTraceableError("the place of the largest along a long axis")
        best, place = row[0], cast(Operand, 0)
        for k, value in enumerate(row[1:], 1):
            is_better = op("or", "bool", op(better, "bool", value, best), op("ne", "bool", value, value))  # NaN is best
            is_better = op("and", "bool", is_better, op("eq", "bool", best, best))
            best, place = op("where", kind, is_better, value, best), op("where", "int", is_better, k, place)
        return place

    op, dtype = tracer.program.op, torch.int64 if x.dtype == torch.bool else x.dtype
    return _reduce(tracer, x, dim, keepdim, dtype, first_best, torch.int64)


@rule("argmin")
def _argmin(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    return _argmax(tracer, x, dim, keepdim, better="lt")


@rule("max")
def _max(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    largest = _amax(tracer, x, dim, keepdim)
    return largest if dim is None else (largest, _argmax(tracer, x, dim, keepdim))


@rule("min")
def _min(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    least = _amin(tracer, x, dim, keepdim)
    return least if dim is None else (least, _argmin(tracer, x, dim, keepdim))


@rule("any")
def _any(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, op: str = "or") -> Any:
    return _reduce(tracer, x, dim, keepdim, torch.bool, _by(tracer, op))


@rule("all")
def _all(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _any(tracer, x, dim, keepdim, op="and")


@rule("_is_all_true")
def _is_all_true(tracer: Tracer, x: Tensor) -> Symbolic:
    """What `torch.distributions` demands: nobody can raise, so the energy of a chain that breaks it is NaN."""
    tracer.demands.append(tracer.array(x, "bool"))
    return tracer.tensor(True, torch.bool)


@rule("prod")
def _prod(
    tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    return _reduce(tracer, x, dim, keepdim, dtype or x.dtype, _by(tracer, "mul"))


@rule("logsumexp")
def _logsumexp(tracer: Tracer, x: Tensor, dim: Any, keepdim: bool = False) -> Any:
    return _reduce(tracer, x, dim, keepdim, x.dtype, tracer.program.log_sum_exp)


@rule("_softmax")
def _softmax(tracer: Tracer, x: Tensor, dim: int, half_to_float: bool) -> Any:
    return torch.exp(_log_softmax(tracer, x, dim, half_to_float))


@rule("_log_softmax")
def _log_softmax(tracer: Tracer, x: Tensor, dim: int, half_to_float: bool) -> Any:
    return x - _reduce(tracer, x, dim, True, x.dtype, partial(tracer.program.log_sum_exp, is_extended=False))


@rule("_log_softmax_backward_data")
def _log_softmax_backward(tracer: Tracer, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Any:
    return grad - torch.exp(y) * grad.sum(dim, keepdim=True)


@rule("_softmax_backward_data")
def _softmax_backward(tracer: Tracer, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Any:
    product = grad * y
    return product - y * product.sum(dim, keepdim=True)


@rule("linalg_vector_norm")
def _vector_norm(
    tracer: Tracer,
    x: Tensor,
    ord: float = 2,
    dim: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> Any:
    if ord != 2:
        return NotImplemented
    return torch.sqrt(_sum(tracer, x * x, dim, keepdim))


@rule("cumsum", "cumprod")
def _cumsum(tracer: Tracer, x: Tensor, dim: int, *, dtype: torch.dtype | None = None, op: str = "add") -> Symbolic:
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    kind = tracer.kind(dtype)
    if x.ndim and is_long(x.shape[dim]):
        raise NotTraceableError("running sums along a long axis")
    parts = list(np.moveaxis(tracer.array(x, kind), dim, 0))
    for i in range(1, len(parts)):
        parts[i] = tracer.each(op, kind, parts[i - 1], parts[i])
    return tracer.tensor(np.stack([as_array(part) for part in parts], axis=dim), dtype)


RULES["cumprod"] = lambda tracer, x, dim, **kwargs: _cumsum(tracer, x, dim, op="mul", **kwargs)
