"""New tensors like others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..symbolic import KINDS, Symbolic, Tracer, as_array, is_long
from .rules import RULES, rule


def _filled(tracer: Tracer, shape: Sequence[int], value: Any, dtype: torch.dtype) -> Symbolic:
    fill = as_array(tracer.array(value, tracer.kind(dtype)))[()]
    one_each = np.full([1 if is_long(size) else size for size in shape], fill, dtype=object)
    return tracer.tensor(tracer.spread(one_each, tuple(shape)), dtype)


def _like(name: str, value: float) -> None:
    @rule(f"{name}_like")
    def like(tracer: Tracer, x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
        return _filled(tracer, x.shape, value, dtype or x.dtype)

    @rule(f"new_{name}")
    def new(tracer: Tracer, x: Tensor, shape: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
        return _filled(tracer, shape, value, dtype or x.dtype)


_like("zeros", 0)
_like("ones", 1)
_like("empty", 0)
RULES["new_empty_strided"] = lambda tracer, x, shape, stride, **_: _filled(tracer, shape, 0, x.dtype)


@rule("full_like")
def _full_like(tracer: Tracer, x: Tensor, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Symbolic:
    return _filled(tracer, x.shape, value, dtype or x.dtype)


@rule("new_full")
def _new_full(
    tracer: Tracer, x: Tensor, shape: Sequence[int], value: Any, *, dtype: torch.dtype | None = None, **_: Any
) -> Symbolic:
    return _filled(tracer, shape, value, dtype or x.dtype)


@rule("fill")
def _fill(tracer: Tracer, x: Tensor, value: Any) -> Symbolic:
    return _filled(tracer, x.shape, value, x.dtype)


@rule("copy")
def _copy(tracer: Tracer, x: Tensor, source: Tensor, non_blocking: bool = False) -> Symbolic:
    kind = KINDS[x.dtype]
    return tracer.tensor(np.broadcast_to(tracer.array(source, kind), tuple(x.shape)).copy(), x.dtype)
