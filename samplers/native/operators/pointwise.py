"""Numbers, one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import NotTraceableError
from ..program import FLOATS
from ..symbolic import Symbolic, Tracer, scalar_array
from .rules import RULES, floating, pointwise, result_type, rule


def _binary(name: str, op: str) -> None:
    @rule(name)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        return pointwise(tracer, op, x, y)


def _unary(name: str, op: str | None = None) -> None:
    @rule(name)
    def apply(tracer: Tracer, x: Tensor) -> Symbolic:
        return pointwise(tracer, op or name, x, dtype=floating(x.dtype))


for _name, _op in {"maximum": "max", "minimum": "min"}.items():
    _binary(_name, _op)
for _name in ("exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "sigmoid", "erf", "floor", "ceil", "round"):
    _unary(_name)
_unary("trunc")


@rule("add")
def _add(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1, name: str = "add") -> Symbolic:
    dtype = result_type(x, y)
    if alpha != 1:
        y = pointwise(tracer, "mul", y, alpha, dtype=dtype)
    return pointwise(tracer, name, x, y, dtype=dtype)


@rule("sub")
def _sub(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1) -> Symbolic:
    return _add(tracer, x, y, alpha=alpha, name="sub")


@rule("rsub")
def _rsub(tracer: Tracer, x: Any, y: Any, alpha: float = 1) -> Symbolic:
    if alpha != 1:
        x = pointwise(tracer, "mul", x, alpha)
    return pointwise(tracer, "sub", y, x, dtype=result_type(x, y))


@rule("mul")
def _mul(tracer: Tracer, x: Any, y: Any) -> Symbolic:
    dtype = result_type(x, y)
    return pointwise(tracer, "and" if dtype == torch.bool else "mul", x, y, dtype=dtype)


@rule("addcmul")
def _addcmul(tracer: Tracer, x: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Any:
    if value == -1:
        return x - first * second  # not the sum with a negated factor, which is an operation more
    return x + (value * first) * second


@rule("div", "true_divide")
def _div(tracer: Tracer, x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return NotImplemented
    return pointwise(tracer, "div", x, y, dtype=floating(result_type(x, y)))


@rule("reciprocal")
def _reciprocal(tracer: Tracer, x: Tensor) -> Symbolic:
    return pointwise(tracer, "div", 1.0, x, dtype=floating(x.dtype))


@rule("rsqrt")
def _rsqrt(tracer: Tracer, x: Tensor) -> Symbolic:
    return _reciprocal(tracer, pointwise(tracer, "sqrt", x, dtype=floating(x.dtype)))


@rule("neg")
def _neg(tracer: Tracer, x: Tensor) -> Symbolic:
    return pointwise(tracer, "neg", x, dtype=x.dtype)


@rule("abs")
def _abs(tracer: Tracer, x: Tensor) -> Any:
    return pointwise(tracer, "abs", x, dtype=x.dtype) if x.dtype.is_floating_point else NotImplemented


@rule("tan")
def _tan(tracer: Tracer, x: Tensor) -> Any:
    return torch.sin(x) / torch.cos(x)


@rule("sinh")
def _sinh(tracer: Tracer, x: Tensor) -> Any:
    return 0.5 * (torch.expm1(x) - torch.expm1(-x))


@rule("cosh")
def _cosh(tracer: Tracer, x: Tensor) -> Any:
    return 0.5 * (torch.exp(x) + torch.exp(-x))


@rule("atanh")
def _atanh(tracer: Tracer, x: Tensor) -> Any:
    return 0.5 * (torch.log1p(x) - torch.log1p(-x))


@rule("exp2")
def _exp2(tracer: Tracer, x: Tensor) -> Any:
    return torch.pow(2.0, x)


@rule("log2")
def _log2(tracer: Tracer, x: Tensor) -> Any:
    return torch.log(x) / math.log(2)


@rule("log10")
def _log10(tracer: Tracer, x: Tensor) -> Any:
    return torch.log(x) / math.log(10)


@rule("sgn", "sign")
def _sign(tracer: Tracer, x: Tensor) -> Symbolic:
    is_positive, is_negative = _compare(tracer, "gt", x, 0), _compare(tracer, "lt", x, 0)
    otherwise = _where(tracer, is_negative, x.new_full((), -1), x.new_zeros(()))  # of NaN too, as in PyTorch
    return _where(tracer, is_positive, x.new_ones(()), otherwise)


@rule("pow")
def _pow(tracer: Tracer, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Tensor):
        dtype = result_type(x, exponent)
        if dtype.is_floating_point:
            return pointwise(tracer, "pow", x, exponent, dtype=dtype)
        if x != 2:
            return NotImplemented
        return pointwise(tracer, "shift_left", 1, exponent, dtype=dtype)
    dtype = result_type(x, exponent)
    if exponent in (0.5, -0.5):
        return (_rsqrt if exponent < 0 else RULES["sqrt"])(tracer, x)
    if exponent != int(exponent) or abs(exponent) > 16:
        return pointwise(tracer, "pow", x, float(exponent), dtype=floating(dtype))
    kind, values = tracer.kind(dtype), tracer.array(x, tracer.kind(dtype))
    power, square, left = scalar_array(1.0 if kind in FLOATS else 1), values, int(abs(exponent))
    while left:
        power = tracer.each("mul", kind, power, square) if left & 1 else power
        square, left = (tracer.each("mul", kind, square, square), left >> 1) if left > 1 else (square, 0)
    power = np.broadcast_to(power, values.shape)
    return tracer.tensor(tracer.each("div", kind, 1.0, power) if exponent < 0 else power, dtype)


@rule("remainder")
def _remainder(tracer: Tracer, x: Any, divisor: Any) -> Any:
    dtype = result_type(x, divisor)
    if not dtype.is_floating_point:
        is_power_of_two = isinstance(divisor, int) and divisor > 0 and not divisor & (divisor - 1)
        return pointwise(tracer, "and", x, divisor - 1, dtype=dtype) if is_power_of_two else NotImplemented
    quotient = x / divisor
    left = x - torch.floor(quotient) * divisor
    # Where the quotient was rounded to the next integer, this is one divisor off.
    left = torch.where((left != 0) & ((left < 0) != (divisor < 0)), left + divisor, left)
    left = torch.where(abs(left) >= abs(divisor), left - divisor, left)
    return torch.where(abs(quotient) < 1 / torch.finfo(dtype).eps, left, math.nan)  # integers are no longer told apart


def _compare(tracer: Tracer, op: str, x: Any, y: Any) -> Symbolic:
    dtype = result_type(x, y)
    if dtype == torch.bool:
        dtype = torch.int64
    kind = tracer.kind(dtype)
    return tracer.tensor(tracer.each(op, "bool", tracer.array(x, kind), tracer.array(y, kind)), torch.bool)


def _comparison(name: str) -> None:
    @rule(name)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        return _compare(tracer, name, x, y)


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(_name)


@rule("isnan")
def _isnan(tracer: Tracer, x: Tensor) -> Symbolic:
    return _compare(tracer, "ne", x, x)


@rule("isfinite")
def _isfinite(tracer: Tracer, x: Tensor) -> Symbolic:
    return tracer.tensor(tracer.each("is_finite", "bool", tracer.array(x, tracer.kind(x.dtype))), torch.bool)


def _logical(names: Sequence[str], op: str, *, is_bitwise: bool) -> None:
    @rule(*names)
    def apply(tracer: Tracer, x: Any, y: Any) -> Symbolic:
        dtype = result_type(x, y) if is_bitwise else torch.bool
        return pointwise(tracer, op, x, y, dtype=dtype)


_logical(("bitwise_and", "__and__"), "and", is_bitwise=True)
_logical(("bitwise_or", "__or__"), "or", is_bitwise=True)
_logical(("logical_and",), "and", is_bitwise=False)
_logical(("logical_or",), "or", is_bitwise=False)
_logical(("bitwise_left_shift", "__lshift__"), "shift_left", is_bitwise=True)
_logical(("bitwise_right_shift", "__rshift__"), "shift_right", is_bitwise=True)


@rule("bitwise_xor", "__xor__", "logical_xor")
def _xor(tracer: Tracer, x: Any, y: Any) -> Any:
    if result_type(x, y) != torch.bool:
        return NotImplemented
    return tracer.tensor(
        tracer.each("where", "bool", tracer.array(x, "bool"), _not(tracer, y).numbers, tracer.array(y, "bool")),
        torch.bool,
    )


@rule("logical_not", "bitwise_not")
def _not(tracer: Tracer, x: Tensor) -> Any:
    if x.dtype != torch.bool:
        return NotImplemented
    return pointwise(tracer, "not", x, dtype=torch.bool)


@rule("where")
def _where(tracer: Tracer, condition: Tensor, x: Any = None, y: Any = None) -> Symbolic:
    if x is None:
        raise NotTraceableError("torch.where with a condition alone, which asks for values")
    dtype = result_type(x, y)
    kind = tracer.kind(dtype)
    arrays = tracer.array(condition, "bool"), tracer.array(x, kind), tracer.array(y, kind)
    return tracer.tensor(tracer.each("where", kind, *arrays), dtype)


@rule("masked_fill")
def _masked_fill(tracer: Tracer, x: Tensor, mask: Tensor, value: Any) -> Symbolic:
    kind = tracer.kind(x.dtype)
    arrays = tracer.array(mask, "bool"), tracer.array(value, kind), tracer.array(x, kind)
    return tracer.tensor(tracer.each("where", kind, *arrays), x.dtype)


@rule("clamp", "clamp_min", "clamp_max")
def _clamp(tracer: Tracer, x: Tensor, min: Any = None, max: Any = None) -> Symbolic:
    for op, bound in (("lt", min), ("gt", max)):
        if bound is not None:
            x = _where(tracer, _compare(tracer, op, x, bound), bound, x)  # NaN passes, as in PyTorch
    return x  # type: ignore[return-value]


RULES["clamp_max"] = lambda tracer, x, bound: _clamp(tracer, x, None, bound)


@rule("sigmoid_backward")
def _sigmoid_backward(tracer: Tracer, grad: Tensor, y: Tensor) -> Any:
    return grad * (y * (1 - y))


@rule("tanh_backward")
def _tanh_backward(tracer: Tracer, grad: Tensor, y: Tensor) -> Any:
    return grad * (1 - y * y)


@rule("log_sigmoid_forward")
def _log_sigmoid(tracer: Tracer, x: Tensor) -> Any:
    return torch.minimum(x, torch.zeros_like(x)) - torch.log1p(torch.exp(-x.abs())), torch.zeros_like(x)


@rule("log_sigmoid_backward")
def _log_sigmoid_backward(tracer: Tracer, grad: Tensor, x: Tensor, buffer: Tensor) -> Any:
    return grad * torch.sigmoid(-x)


@rule("softplus")
def _softplus(tracer: Tracer, x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    scaled = x * beta
    return torch.where(scaled > threshold, x, torch.log1p(torch.exp(scaled)) / beta)


@rule("softplus_backward")
def _softplus_backward(tracer: Tracer, grad: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    scaled = x * beta
    return torch.where(scaled > threshold, grad, grad * torch.sigmoid(scaled))


@rule("silu")
def _silu(tracer: Tracer, x: Tensor) -> Any:
    return x * torch.sigmoid(x)


@rule("silu_backward")
def _silu_backward(tracer: Tracer, grad: Tensor, x: Tensor) -> Any:
    share = torch.sigmoid(x)
    return grad * (share * (1 + x * (1 - share)))


@rule("gelu")
def _gelu(tracer: Tracer, x: Tensor, *, approximate: str = "none") -> Any:
    return x * _gelu_share(x) if approximate == "none" else NotImplemented


@rule("gelu_backward")
def _gelu_backward(tracer: Tracer, grad: Tensor, x: Tensor, *, approximate: str = "none") -> Any:
    if approximate != "none":
        return NotImplemented
    density = torch.exp(-0.5 * (x * x)) / math.sqrt(2 * math.pi)
    return grad * (_gelu_share(x) + x * density)


def _gelu_share(x: Tensor) -> Tensor:
    """The normal distribution function."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@rule("leaky_relu")
def _leaky_relu(tracer: Tracer, x: Tensor, negative_slope: float = 0.01) -> Any:
    return torch.where(x > 0, x, x * negative_slope)


@rule("leaky_relu_backward")
def _leaky_relu_backward(tracer: Tracer, grad: Tensor, x: Tensor, negative_slope: float, self_is_result: bool) -> Any:
    return torch.where(x > 0, grad, grad * negative_slope)


@rule("logaddexp")
def _logaddexp(tracer: Tracer, x: Tensor, y: Tensor) -> Any:
    larger = torch.maximum(x, y)
    apart = torch.log1p(torch.exp(-(x - y).abs()))
    return torch.where(larger.abs() == math.inf, larger, larger + apart)
