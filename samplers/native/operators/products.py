"""Products of matrices, and triangular matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import NotTraceableError
from ..program import Kind, Operand, Value
from ..symbolic import Array, Symbolic, Tracer, collapsed, is_long, matrix_leaf, object_array
from .rules import result_type, rule


def _dot(tracer: Tracer, kind: Kind, x: Array, y: Array, axis: int) -> Operand:
    """Sum of products, each fused with the sum so far, over the long axis along which they lie, if any."""
    total: Operand = tracer.program.op("mul", kind, x[0], y[0])
    for one, other in zip(x[1:], y[1:], strict=True):
        total = tracer.program.op("add", kind, tracer.program.op("mul", kind, one, other), total)
    return tracer.program.over("add", kind, [total], axis)


def _by_long_matrix(tracer: Tracer, x: Tensor, y: Tensor) -> Symbolic:
    """Rows along a long axis, (1, C, K), times a matrix of which both axes are long, (1, K, N)."""
    if x.dtype != y.dtype or not y.is_floating_point():
        raise NotTraceableError(f"a product of {x.dtype} and {y.dtype} along long axes")
    rows, matrix = collapsed(tracer.array(x, tracer.kind(x.dtype))), tracer.long_matrix(y)
    if not all(isinstance(value, Value) and value.axis == x.shape[2] for value in rows.flat):
        raise NotTraceableError("a product of a long axis whose entries are the same")
    columns = y.shape[2]
    made = np.frompyfunc(lambda value: tracer.program.product(value, matrix, columns), 1, 1)(rows)
    return tracer.tensor(tracer.spread(made, (1, x.shape[1], columns)), x.dtype)


def _is_long_matrix(y: Tensor) -> bool:
    is_there = not isinstance(y, Symbolic) or matrix_leaf(y.numbers) is not None
    return is_there and len(y) == 1 and all(map(is_long, y.shape[1:]))


@rule("bmm")
def _bmm(tracer: Tracer, x: Tensor, y: Tensor) -> Symbolic:
    if _is_long_matrix(y):
        return _by_long_matrix(tracer, x, y)
    if _is_long_matrix(x):
        return _bmm(tracer, y.mT, x.mT).mT  # type: ignore[return-value]
    dtype = result_type(x, y)
    kind = tracer.kind(dtype)
    num_products = math.prod(1 if is_long(size) else size for size in (*x.shape, y.shape[2]))
    tracer.program.expect(num_products)  # networks are too large, and need not be written down first
    left, right = collapsed(tracer.array(x, kind)), collapsed(tracer.array(y, kind))
    axis = x.shape[2] if is_long(x.shape[2]) else 0
    shape = (left.shape[0], left.shape[1], right.shape[2])
    values = [_dot(tracer, kind, left[b, i], right[b, :, j], axis) for b, i, j in np.ndindex(*shape)]
    full = (x.shape[0], x.shape[1], y.shape[2])
    return tracer.tensor(tracer.spread(object_array(values, shape), full), dtype)


@rule("mm")
def _mm(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return torch.bmm(x.unsqueeze(0), y.unsqueeze(0)).squeeze(0)


@rule("mv")
def _mv(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return torch.bmm(x.unsqueeze(0), y.unsqueeze(0).unsqueeze(2)).squeeze(2).squeeze(0)


@rule("dot", "vdot")
def _vdot(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return (x * y).sum()


@rule("addmm")
def _addmm(tracer: Tracer, bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = torch.mm(x, y)
    if alpha != 1:
        product = product * alpha
    return product if beta == 0 else (bias if beta == 1 else bias * beta) + product


@rule("linalg_solve_triangular")
def _solve_triangular(
    tracer: Tracer, a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    if not left:
        return torch.linalg.solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    dtype = result_type(a, b)
    kind = tracer.kind(dtype)
    matrix, right, size = tracer.array(a, kind), tracer.array(b, kind), a.shape[-1]
    rows: dict[int, Array] = {}
    for i in reversed(range(size)) if upper else range(size):
        row = right[..., i, :]
        for j, known in rows.items():
            row = tracer.each("sub", kind, row, tracer.each("mul", kind, matrix[..., i, j, None], known))
        rows[i] = row if unitriangular else tracer.each("div", kind, row, matrix[..., i, i, None])
    return tracer.tensor(np.stack([rows[i] for i in range(size)], axis=-2), dtype)


@rule("linalg_cholesky_ex")
def _cholesky(tracer: Tracer, x: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """NaN where there is none: the factor of such a matrix has the root of a negative number in it."""
    if upper:
        return NotImplemented
    kind = tracer.kind(x.dtype)
    matrix = tracer.array(x, kind)
    factor = np.full(matrix.shape, 0.0, dtype=object)
    for j in range(x.shape[-1]):
        for i in range(j, x.shape[-1]):
            value: Any = matrix[..., i, j]
            for k in range(j):
                value = tracer.each("sub", kind, value, tracer.each("mul", kind, factor[..., i, k], factor[..., j, k]))
            is_diagonal = i == j
            factor[..., i, j] = (
                tracer.each("sqrt", kind, value) if is_diagonal else tracer.each("div", kind, value, factor[..., j, j])
            )
    return tracer.tensor(factor, x.dtype), x.new_zeros(x.shape[:-2], dtype=torch.int32)


@rule("_cdist_forward")
def _cdist(tracer: Tracer, x: Tensor, y: Tensor, p: float, mode: int | None) -> Any:
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), dim=-1) if p == 2 else NotImplemented


@rule("_cdist_backward")
def _cdist_backward(tracer: Tracer, grad: Tensor, x: Tensor, y: Tensor, p: float, distance: Tensor) -> Any:
    share = torch.where(distance == 0, 0.0, grad / distance)
    return (share.unsqueeze(-1) * (x.unsqueeze(-2) - y.unsqueeze(-3))).sum(-2)
