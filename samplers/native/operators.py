"""What PyTorch's operators do to the numbers in a tensor, for the tracer.

A rule gets the operator's arguments as PyTorch passes them, and returns the result; `NotImplemented` leaves it to
PyTorch's own decomposition. An operator with neither is refused, never guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NotTraceableError
from .program import FLOATS, Kind, Operand, Value
from .symbolic import KINDS, Array, Symbolic, Tracer, as_array, object_array, scalar_array

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# Numbers, one by one.


def _result_type(x: Any, y: Any) -> torch.dtype:
    """PyTorch's promotion."""
    return torch.result_type(x, y)


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _pointwise(tracer: Tracer, op: str, *operands: Any, dtype: torch.dtype | None = None) -> Symbolic:
    dtype = dtype or _result_type(*operands)
    kind = tracer.kind(dtype)
    return tracer.tensor(tracer.each(op, kind, *(tracer.array(operand, kind) for operand in operands)), dtype)


def _binary(name: str, op: str) -> None:
    @_rule(name)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        return _pointwise(tracer, op, x, y)


def _unary(name: str, op: str | None = None) -> None:
    @_rule(name)
    def apply(tracer: Tracer, x: Tensor) -> Symbolic:
        return _pointwise(tracer, op or name, x, dtype=_floating(x.dtype))


for _name, _op in {"maximum": "max", "minimum": "min"}.items():
    _binary(_name, _op)
for _name in ("exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "sigmoid", "erf", "floor", "ceil", "round"):
    _unary(_name)
_unary("trunc")


@_rule("add")
def _add(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1, name: str = "add") -> Symbolic:
    dtype = _result_type(x, y)
    if alpha != 1:
        y = _pointwise(tracer, "mul", y, alpha, dtype=dtype)
    return _pointwise(tracer, name, x, y, dtype=dtype)


@_rule("sub")
def _sub(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1) -> Symbolic:
    return _add(tracer, x, y, alpha=alpha, name="sub")  # type: ignore[no-any-return]


@_rule("rsub")
def _rsub(tracer: Tracer, x: Any, y: Any, alpha: float = 1) -> Symbolic:
    if alpha != 1:
        x = _pointwise(tracer, "mul", x, alpha)
    return _pointwise(tracer, "sub", y, x, dtype=_result_type(x, y))


@_rule("mul")
def _mul(tracer: Tracer, x: Any, y: Any) -> Symbolic:
    dtype = _result_type(x, y)
    return _pointwise(tracer, "and" if dtype == torch.bool else "mul", x, y, dtype=dtype)


@_rule("div", "true_divide")
def _div(tracer: Tracer, x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise NotTraceableError("a division that rounds")
    return _pointwise(tracer, "div", x, y, dtype=_floating(_result_type(x, y)))


@_rule("reciprocal")
def _reciprocal(tracer: Tracer, x: Tensor) -> Symbolic:
    return _pointwise(tracer, "div", 1.0, x, dtype=_floating(x.dtype))


@_rule("rsqrt")
def _rsqrt(tracer: Tracer, x: Tensor) -> Symbolic:
    return _reciprocal(tracer, _pointwise(tracer, "sqrt", x, dtype=_floating(x.dtype)))  # type: ignore[no-any-return]


@_rule("neg")
def _neg(tracer: Tracer, x: Tensor) -> Symbolic:
    return _pointwise(tracer, "neg", x, dtype=x.dtype)


@_rule("abs")
def _abs(tracer: Tracer, x: Tensor) -> Symbolic:
    if not x.dtype.is_floating_point:
        raise NotTraceableError("the absolute value of an integer")
    return _pointwise(tracer, "abs", x, dtype=x.dtype)


@_rule("sgn", "sign")
def _sign(tracer: Tracer, x: Tensor) -> Symbolic:
    positive, negative = _compare(tracer, "gt", x, 0), _compare(tracer, "lt", x, 0)
    otherwise = _pointwise(tracer, "mul", x, 0.0, dtype=x.dtype)  # zero, and NaN of NaN
    return _where(tracer, positive, 1.0, _where(tracer, negative, -1.0, otherwise))  # type: ignore[no-any-return]


@_rule("pow")
def _pow(tracer: Tracer, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Tensor):
        dtype = _result_type(x, exponent)
        if dtype.is_floating_point:
            return _pointwise(tracer, "pow", x, exponent, dtype=dtype)
        if x != 2:
            raise NotTraceableError("an integer to a power that depends on the chains")
        return _pointwise(tracer, "shift_left", 1, exponent, dtype=dtype)
    dtype = _result_type(x, exponent)
    if exponent in (0.5, -0.5):
        return (_rsqrt if exponent < 0 else RULES["sqrt"])(tracer, x)
    if exponent != int(exponent) or abs(exponent) > 16:
        return _pointwise(tracer, "pow", x, float(exponent), dtype=_floating(dtype))
    kind, values = tracer.kind(dtype), tracer.array(x, tracer.kind(dtype))
    power, square, left = scalar_array(1.0 if kind in FLOATS else 1), values, int(abs(exponent))
    while left:
        power = tracer.each("mul", kind, power, square) if left & 1 else power
        square, left = (tracer.each("mul", kind, square, square), left >> 1) if left > 1 else (square, 0)
    power = np.broadcast_to(power, values.shape)
    return tracer.tensor(tracer.each("div", kind, 1.0, power) if exponent < 0 else power, dtype)


@_rule("atan2", "fmod", "floor_divide")
def _refused(tracer: Tracer, *_: Any, **__: Any) -> Any:
    raise NotTraceableError("an operator that has no rule: atan2, fmod or floor_divide")


@_rule("remainder")
def _remainder(tracer: Tracer, x: Any, divisor: Any) -> Symbolic:
    dtype = _result_type(x, divisor)
    if dtype.is_floating_point or not isinstance(divisor, int) or divisor < 1 or divisor & (divisor - 1):
        raise NotTraceableError("a remainder other than of integers by a power of two")
    return _pointwise(tracer, "and", x, divisor - 1, dtype=dtype)


def _compare(tracer: Tracer, op: str, x: Any, y: Any) -> Symbolic:
    dtype = _result_type(x, y)
    if dtype == torch.bool:
        dtype = torch.int64
    kind = tracer.kind(dtype)
    return tracer.tensor(tracer.each(op, "bool", tracer.array(x, kind), tracer.array(y, kind)), torch.bool)


def _comparison(name: str) -> None:
    @_rule(name)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        return _compare(tracer, name, x, y)


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(_name)


@_rule("isnan")
def _isnan(tracer: Tracer, x: Tensor) -> Symbolic:
    return _compare(tracer, "ne", x, x)


@_rule("isfinite")
def _isfinite(tracer: Tracer, x: Tensor) -> Symbolic:
    return tracer.tensor(tracer.each("is_finite", "bool", tracer.array(x, tracer.kind(x.dtype))), torch.bool)


def _logical(names: Sequence[str], op: str, *, is_bitwise: bool) -> None:
    @_rule(*names)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        dtype = _result_type(x, y) if is_bitwise else torch.bool
        return _pointwise(tracer, op, x, y, dtype=dtype)


_logical(("bitwise_and", "__and__"), "and", is_bitwise=True)
_logical(("bitwise_or", "__or__"), "or", is_bitwise=True)
_logical(("logical_and",), "and", is_bitwise=False)
_logical(("logical_or",), "or", is_bitwise=False)
_logical(("bitwise_left_shift", "__lshift__"), "shift_left", is_bitwise=True)
_logical(("bitwise_right_shift", "__rshift__"), "shift_right", is_bitwise=True)


@_rule("bitwise_xor", "__xor__", "logical_xor")
def _xor(tracer: Tracer, x: Any, y: Any) -> Symbolic:
    if _result_type(x, y) != torch.bool:
        raise NotTraceableError("exclusive or of integers")
    return tracer.tensor(
        tracer.each("where", "bool", tracer.array(x, "bool"), _not(tracer, y).numbers, tracer.array(y, "bool")),
        torch.bool,
    )


@_rule("logical_not", "bitwise_not")
def _not(tracer: Tracer, x: Tensor) -> Symbolic:
    if x.dtype != torch.bool:
        raise NotTraceableError("not of numbers")
    return _pointwise(tracer, "not", x, dtype=torch.bool)


@_rule("where")
def _where(tracer: Tracer, condition: Tensor, x: Any = None, y: Any = None) -> Symbolic:
    if x is None:
        raise NotTraceableError("torch.where with a condition alone, which asks for values")
    dtype = _result_type(x, y)
    kind = tracer.kind(dtype)
    arrays = tracer.array(condition, "bool"), tracer.array(x, kind), tracer.array(y, kind)
    return tracer.tensor(tracer.each("where", kind, *arrays), dtype)


@_rule("masked_fill")
def _masked_fill(tracer: Tracer, x: Tensor, mask: Tensor, value: Any) -> Symbolic:
    kind = tracer.kind(x.dtype)
    arrays = tracer.array(mask, "bool"), tracer.array(value, kind), tracer.array(x, kind)
    return tracer.tensor(tracer.each("where", kind, *arrays), x.dtype)


@_rule("clamp", "clamp_min", "clamp_max")
def _clamp(tracer: Tracer, x: Tensor, min: Any = None, max: Any = None) -> Symbolic:
    for op, bound in (("lt", min), ("gt", max)):
        if bound is not None:
            x = _where(tracer, _compare(tracer, op, x, bound), bound, x)  # NaN passes, as in PyTorch
    return x  # type: ignore[return-value]


RULES["clamp_max"] = lambda tracer, x, bound: _clamp(tracer, x, None, bound)


@_rule("sigmoid_backward")
def _sigmoid_backward(tracer: Tracer, grad: Tensor, y: Tensor) -> Any:
    return grad * (y * (1 - y))


@_rule("tanh_backward")
def _tanh_backward(tracer: Tracer, grad: Tensor, y: Tensor) -> Any:
    return grad * (1 - y * y)


@_rule("log_sigmoid_forward")
def _log_sigmoid(tracer: Tracer, x: Tensor) -> Any:
    return torch.minimum(x, torch.zeros_like(x)) - torch.log1p(torch.exp(-x.abs())), torch.zeros_like(x)


@_rule("log_sigmoid_backward")
def _log_sigmoid_backward(tracer: Tracer, grad: Tensor, x: Tensor, buffer: Tensor) -> Any:
    return grad * torch.sigmoid(-x)


@_rule("softplus")
def _softplus(tracer: Tracer, x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    scaled = x * beta
    return torch.where(scaled > threshold, x, torch.log1p(torch.exp(scaled)) / beta)


@_rule("softplus_backward")
def _softplus_backward(tracer: Tracer, grad: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    scaled = x * beta
    return torch.where(scaled > threshold, grad, grad * torch.sigmoid(scaled))


@_rule("logaddexp")
def _logaddexp(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    larger = torch.maximum(x, y)
    apart = torch.log1p(torch.exp(-(x - y).abs()))
    return torch.where(larger.abs() == math.inf, larger, larger + apart)


# Reductions.


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(x.ndim))
    dims = list(dim) if isinstance(dim, list | tuple) else [dim]
    return sorted({d % max(x.ndim, 1) for d in dims})


def _rows(values: Array, dims: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """The reduced axes flattened into the last, and the shape that is left."""
    if not values.ndim:
        return values.reshape(1, 1), ()
    kept = [d for d in range(values.ndim) if d not in dims]
    shape = tuple(values.shape[d] for d in kept)
    return values.transpose(*kept, *dims).reshape(math.prod(shape), -1), shape


def _reduced(x: Tensor, values: list[Operand], shape: tuple[int, ...], dims: Sequence[int], keepdim: bool) -> Array:
    array = object_array(values, shape)
    return np.expand_dims(array, tuple(dims)) if keepdim and x.ndim else array


def _reduce(
    tracer: Tracer,
    x: Tensor,
    dim: Any,
    keepdim: bool,
    dtype: torch.dtype,
    function: Callable[[Kind, list[Operand]], Operand],
) -> Symbolic:
    kind, dims = tracer.kind(dtype), _dims(x, dim)
    rows, shape = _rows(tracer.array(x, kind), dims)
    return tracer.tensor(_reduced(x, [function(kind, list(row)) for row in rows], shape, dims, keepdim), dtype)


@_rule("sum")
def _sum(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return _reduce(
        tracer,
        x,
        dim,
        keepdim,
        dtype,
        lambda kind, row: tracer.program.tree("add", kind, row) if row else (0.0 if kind in FLOATS else 0),
    )


@_rule("mean")
def _mean(
    tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    total = _sum(tracer, x, dim, keepdim, dtype=dtype)
    return total * (total.numel() / x.numel())


@_rule("amax", "max")
def _amax(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, op: str = "max") -> Any:
    if isinstance(dim, Tensor):
        return _pointwise(tracer, op, x, dim)
    return _reduce(tracer, x, dim, keepdim, x.dtype, lambda kind, row: tracer.program.tree(op, kind, row))


@_rule("amin", "min")
def _amin(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _amax(tracer, x, dim, keepdim, op="min")


def _with_dim(name: str) -> None:
    """`max` and `min` over one axis also tell where, which is not traced."""
    without = RULES[name]

    @_rule(name)
    def apply(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, int):
            raise NotTraceableError(f"{name} over an axis with indices; a{name} does without")
        return without(tracer, x, dim, keepdim)


_with_dim("max")
_with_dim("min")


@_rule("any")
def _any(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, op: str = "or") -> Any:
    return _reduce(tracer, x, dim, keepdim, torch.bool, lambda kind, row: tracer.program.tree(op, kind, row))


@_rule("all")
def _all(tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _any(tracer, x, dim, keepdim, op="and")


@_rule("prod")
def _prod(
    tracer: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    return _reduce(tracer, x, dim, keepdim, dtype or x.dtype, lambda kind, row: tracer.program.tree("mul", kind, row))


@_rule("logsumexp")
def _logsumexp(tracer: Tracer, x: Tensor, dim: Any, keepdim: bool = False) -> Any:
    return _reduce(tracer, x, dim, keepdim, x.dtype, tracer.program.log_sum_exp)


@_rule("_softmax")
def _softmax(tracer: Tracer, x: Tensor, dim: int, half_to_float: bool) -> Any:
    return torch.exp(x - torch.logsumexp(x, dim, keepdim=True))


@_rule("_log_softmax")
def _log_softmax(tracer: Tracer, x: Tensor, dim: int, half_to_float: bool) -> Any:
    return x - torch.logsumexp(x, dim, keepdim=True)


@_rule("_log_softmax_backward_data")
def _log_softmax_backward(tracer: Tracer, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Any:
    return grad - torch.exp(y) * grad.sum(dim, keepdim=True)


@_rule("_softmax_backward_data")
def _softmax_backward(tracer: Tracer, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Any:
    product = grad * y
    return product - y * product.sum(dim, keepdim=True)


@_rule("linalg_vector_norm")
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


@_rule("cumsum", "cumprod")
def _cumsum(tracer: Tracer, x: Tensor, dim: int, *, dtype: torch.dtype | None = None, op: str = "add") -> Symbolic:
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    kind = tracer.kind(dtype)
    parts = list(np.moveaxis(tracer.array(x, kind), dim, 0))
    for i in range(1, len(parts)):
        parts[i] = tracer.each(op, kind, parts[i - 1], parts[i])
    return tracer.tensor(np.stack([as_array(part) for part in parts], axis=dim), dtype)


RULES["cumprod"] = lambda tracer, x, dim, **kwargs: _cumsum(tracer, x, dim, op="mul", **kwargs)


# Products.


def _dot(tracer: Tracer, kind: Kind, x: Array, y: Array) -> Operand:
    """Sum of products, in two chains of fused operations."""
    total: Operand = tracer.program.op("mul", kind, x[0], y[0])
    for one, other in zip(x[1:], y[1:], strict=True):
        total = tracer.program.op("add", kind, tracer.program.op("mul", kind, one, other), total)
    return total


@_rule("bmm")
def _bmm(tracer: Tracer, x: Tensor, y: Tensor) -> Symbolic:
    dtype = _result_type(x, y)
    kind = tracer.kind(dtype)
    left, right = tracer.array(x, kind), tracer.array(y, kind)
    shape = (left.shape[0], left.shape[1], right.shape[2])
    values = [_dot(tracer, kind, left[b, i], right[b, :, j]) for b, i, j in np.ndindex(*shape)]
    return tracer.tensor(object_array(values, shape), dtype)


@_rule("mm")
def _mm(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return torch.bmm(x.unsqueeze(0), y.unsqueeze(0)).squeeze(0)


@_rule("mv")
def _mv(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return torch.bmm(x.unsqueeze(0), y.unsqueeze(0).unsqueeze(2)).squeeze(2).squeeze(0)


@_rule("dot", "vdot")
def _vdot(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    return (x * y).sum()


@_rule("addmm")
def _addmm(tracer: Tracer, bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    return bias * beta + torch.mm(x, y) * alpha


# Shapes.


def _moved(tracer: Tracer, x: Tensor, move: Callable[[Array], Any]) -> Symbolic:
    return tracer.tensor(move(tracer.array(x, tracer.kind(x.dtype))), x.dtype)


@_rule("detach", "alias", "contiguous", "lift_fresh", "lift_fresh_copy", "detach_copy", "view_as_real")
def _same(tracer: Tracer, x: Tensor, **_: Any) -> Symbolic:
    return _moved(tracer, x, lambda values: values)


@_rule("clone")
def _clone(tracer: Tracer, x: Tensor, **_: Any) -> Symbolic:
    return _moved(tracer, x, lambda values: values.copy())


@_rule("_to_copy")
def _to_copy(tracer: Tracer, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
    dtype = dtype or x.dtype
    return tracer.tensor(tracer.array(x, tracer.kind(dtype)).copy(), dtype)


@_rule("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias")
def _view(tracer: Tracer, x: Tensor, shape: Sequence[int], *_: Any) -> Any:
    if isinstance(shape, torch.dtype):
        raise NotTraceableError("a view as another dtype")
    return _moved(tracer, x, lambda values: values.reshape(tuple(shape)))


@_rule("unsqueeze")
def _unsqueeze(tracer: Tracer, x: Tensor, dim: int) -> Symbolic:
    return _moved(tracer, x, lambda values: np.expand_dims(values, dim))


@_rule("squeeze")
def _squeeze(tracer: Tracer, x: Tensor, dim: Any = None) -> Symbolic:
    dims = tuple(d for d in _dims(x, dim) if x.ndim and x.shape[d] == 1)
    return _moved(tracer, x, lambda values: values.squeeze(dims))


@_rule("expand")
def _expand(tracer: Tracer, x: Tensor, shape: Sequence[int], **_: Any) -> Symbolic:
    lead = len(shape) - x.ndim
    full = [x.shape[i - lead] if size == -1 else size for i, size in enumerate(shape)]
    return _moved(tracer, x, lambda values: np.broadcast_to(values, full))


@_rule("permute")
def _permute(tracer: Tracer, x: Tensor, dims: Sequence[int]) -> Symbolic:
    return _moved(tracer, x, lambda values: values.transpose(dims))


@_rule("t")
def _t(tracer: Tracer, x: Tensor) -> Symbolic:
    return _moved(tracer, x, lambda values: values.T)


@_rule("transpose")
def _transpose(tracer: Tracer, x: Tensor, one: int, other: int) -> Symbolic:
    return _moved(tracer, x, lambda values: values.swapaxes(one, other))


@_rule("flip")
def _flip(tracer: Tracer, x: Tensor, dims: Sequence[int]) -> Symbolic:
    return _moved(tracer, x, lambda values: np.flip(values, tuple(dims)))


@_rule("repeat")
def _repeat(tracer: Tracer, x: Tensor, times: Sequence[int]) -> Symbolic:
    return _moved(tracer, x, lambda values: np.tile(values, tuple(times)))


@_rule("diagonal")
def _diagonal(tracer: Tracer, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Symbolic:
    return _moved(tracer, x, lambda values: values.diagonal(offset, dim1, dim2))


def _place(dim: int, ndim: int, where: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % ndim) + (where,)


def _slice_of(start: int | None, end: int | None, step: int) -> slice:
    return slice(start, None if end is None or end >= 1 << 40 else end, step)


@_rule("select")
def _select(tracer: Tracer, x: Tensor, dim: int, index: int) -> Symbolic:
    return _moved(tracer, x, lambda values: as_array(values[_place(dim, x.ndim, index)]))


@_rule("slice")
def _slice(
    tracer: Tracer, x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Symbolic:
    return _moved(tracer, x, lambda values: values[_place(dim, x.ndim, _slice_of(start, end, step))])


def _put(tracer: Tracer, base: Array, part: Tensor, dtype: torch.dtype, place: tuple[Any, ...]) -> Symbolic:
    values = base.copy()
    values[place] = tracer.array(part, tracer.kind(dtype))
    return tracer.tensor(values, dtype)


def _zeros(shape: Sequence[int]) -> Array:
    return np.full(tuple(shape), 0.0, dtype=object)


@_rule("select_backward")
def _select_backward(tracer: Tracer, grad: Tensor, shape: Sequence[int], dim: int, index: int) -> Symbolic:
    return _put(tracer, _zeros(shape), grad, grad.dtype, _place(dim, len(shape), index))


@_rule("slice_backward")
def _slice_backward(
    tracer: Tracer, grad: Tensor, shape: Sequence[int], dim: int, start: int, end: int, step: int
) -> Symbolic:
    return _put(tracer, _zeros(shape), grad, grad.dtype, _place(dim, len(shape), _slice_of(start, end, step)))


@_rule("select_scatter")
def _select_scatter(tracer: Tracer, x: Tensor, part: Tensor, dim: int, index: int) -> Symbolic:
    base = tracer.array(x, tracer.kind(x.dtype))
    return _put(tracer, base, part, x.dtype, _place(dim, x.ndim, index))


@_rule("slice_scatter")
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


@_rule("constant_pad_nd")
def _pad(tracer: Tracer, x: Tensor, pad: Sequence[int], value: float = 0) -> Symbolic:
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    if any(size < 0 for pair in pairs for size in pair):
        raise NotTraceableError("padding that cuts")
    kind = tracer.kind(x.dtype)
    fill = bool(value) if kind == "bool" else float(value) if kind in FLOATS else int(value)
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    return _moved(tracer, x, lambda values: np.pad(values, widths, constant_values=fill))


def _all_arrays(tracer: Tracer, tensors: Sequence[Tensor]) -> tuple[list[Array], torch.dtype]:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tracer.array(tensor, tracer.kind(dtype)) for tensor in tensors], dtype


@_rule("cat")
def _cat(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Symbolic:
    arrays, dtype = _all_arrays(tracer, tensors)
    return tracer.tensor(np.concatenate(arrays, axis=dim), dtype)


@_rule("stack")
def _stack(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Symbolic:
    arrays, dtype = _all_arrays(tracer, tensors)
    return tracer.tensor(np.stack(arrays, axis=dim), dtype)


@_rule("unbind")
def _unbind(tracer: Tracer, x: Tensor, dim: int = 0) -> list[Symbolic]:
    values = np.moveaxis(tracer.array(x, tracer.kind(x.dtype)), dim, 0)
    return [tracer.tensor(as_array(values[i, ...]), x.dtype) for i in range(len(values))]


@_rule("split", "split_with_sizes", "split_copy", "unsafe_split")
def _split(tracer: Tracer, x: Tensor, sizes: Any, dim: int = 0) -> list[Any]:
    length = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - first) for first in range(0, length, sizes)]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_slice(tracer, x, dim, first, first + size) for first, size in zip(firsts, sizes, strict=True)]


# Indices.


def _numbers(index: Tensor) -> Array | None:
    """An index that is known while tracing."""
    if not isinstance(index, Symbolic):
        return np.asarray(index.detach().cpu().numpy())
    if any(isinstance(value, Value) for value in index.numbers.flat):
        return None
    return np.array(index.numbers.tolist(), dtype=bool if index.dtype == torch.bool else np.int64)


@_rule("index")
def _index(tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None]) -> Symbolic:
    known = [None if index is None else _numbers(index) for index in indices]
    if any(index is not None and number is None for index, number in zip(indices, known, strict=True)):
        raise NotTraceableError("an index that depends on the chains; use gather along an axis of a few entries")
    place = tuple(slice(None) if index is None else index for index in known)
    return _moved(tracer, x, lambda values: as_array(values[place]))


@_rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(
    tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None], part: Tensor, accumulate: bool = False, *_: Any
) -> Symbolic:
    known = [None if index is None else _numbers(index) for index in indices]
    if any(index is not None and number is None for index, number in zip(indices, known, strict=True)):
        raise NotTraceableError("a write to an index that depends on the chains")
    kind = tracer.kind(x.dtype)
    values = tracer.array(x, kind).copy()
    # Numbers of the entries that the index names, in its order, with repetitions.
    entries = np.arange(values.size).reshape(values.shape)[tuple(slice(None) if i is None else i for i in known)]
    new = np.broadcast_to(tracer.array(part, kind), entries.shape)
    flat = values.reshape(-1)
    for entry, value in zip(entries.flat, new.flat, strict=True):
        flat[entry] = tracer.program.op("add", kind, flat[entry], value) if accumulate else value
    return tracer.tensor(flat.reshape(values.shape), x.dtype)


@_rule("index_select")
def _index_select(tracer: Tracer, x: Tensor, dim: int, index: Tensor) -> Symbolic:
    picked: Symbolic = _index(tracer, x, [*[None] * (dim % x.ndim), index])
    return picked


@_rule("gather")
def _gather(tracer: Tracer, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Symbolic:
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


@_rule("scatter_add")
def _scatter_add(tracer: Tracer, x: Tensor, dim: int, index: Tensor, part: Tensor) -> Symbolic:
    kind, dim = tracer.kind(x.dtype), dim % x.ndim
    values: Any = tracer.array(x, kind).copy()
    at, new = tracer.array(index, "int"), tracer.array(part, kind)
    for place in np.ndindex(*at.shape):
        for k in range(values.shape[dim]):
            there = (*place[:dim], k, *place[dim + 1 :])
            is_here = tracer.program.op("eq", "bool", at[place], k)
            added = tracer.program.op("where", kind, is_here, new[place], 0.0)
            values[there] = tracer.program.op("add", kind, values[there], added)
    return tracer.tensor(values, x.dtype)


# New tensors like others.


def _filled(tracer: Tracer, shape: Sequence[int], value: Any, dtype: torch.dtype) -> Symbolic:
    fill = as_array(tracer.array(value, tracer.kind(dtype)))[()]
    return tracer.tensor(np.full(tuple(shape), fill, dtype=object), dtype)


def _like(name: str, value: float) -> None:
    @_rule(f"{name}_like")
    def like(tracer: Tracer, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
        return _filled(tracer, x.shape, value, dtype or x.dtype)

    @_rule(f"new_{name}")
    def new(tracer: Tracer, x: Tensor, shape: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
        return _filled(tracer, shape, value, dtype or x.dtype)


_like("zeros", 0)
_like("ones", 1)
_like("empty", 0)
RULES["new_empty_strided"] = lambda tracer, x, shape, stride, **_: _filled(tracer, shape, 0, x.dtype)


@_rule("full_like")
def _full_like(tracer: Tracer, x: Tensor, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
    return _filled(tracer, x.shape, value, dtype or x.dtype)


@_rule("new_full")
def _new_full(
    tracer: Tracer, x: Tensor, shape: Sequence[int], value: Any, *, dtype: torch.dtype | None = None, **_: Any
) -> Symbolic:
    return _filled(tracer, shape, value, dtype or x.dtype)


@_rule("fill")
def _fill(tracer: Tracer, x: Tensor, value: Any) -> Symbolic:
    return _filled(tracer, x.shape, value, x.dtype)


@_rule("copy")
def _copy(tracer: Tracer, x: Tensor, source: Tensor, non_blocking: bool = False) -> Symbolic:
    kind = KINDS[x.dtype]
    return tracer.tensor(np.broadcast_to(tracer.array(source, kind), tuple(x.shape)).copy(), x.dtype)
