"""Structured positions: one tensor, or a tuple or dict of tensors, as one matrix (C, D) and back.

Kernels see matrices only; people see the structure they passed. This file is the only place that knows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .errors import PositionError

Position: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""One tensor `(C, *event)`, or a tuple or dict of tensors that share the chain axis, the dtype and the device."""


@dataclass(frozen=True)
class Layout:
    """How the parts of a position lie side by side in one matrix (C, D).

    Attributes:
        keys: Names of the parts of a dict; `None` for a tuple; an empty tuple for a single tensor.
        events: Shape of each part without its chain axis, in order.
    """

    keys: tuple[str, ...] | None
    events: tuple[torch.Size, ...]

    @staticmethod
    def of(position: Position) -> Layout:
        """Read the layout off a position and check that its parts agree.

        Raises:
            PositionError: If the position has another type, is empty, holds integers, or if its parts differ
                in number of chains, dtype or device.
        """
        keys, parts = _take_apart(position)
        for name, part in parts.items():
            if not part.is_floating_point():
                raise PositionError(f"{name} must hold floating-point numbers; got {part.dtype}. Use .float().")
            if part.ndim == 0 or part.numel() == 0:
                raise PositionError(
                    f"{name} must have shape (chains, *event) with at least one chain and one entry; "
                    f"got {tuple(part.shape)}. One chain of shape (D,) is x.unsqueeze(0)."
                )
        _check_shared(parts, "number of chains", lambda part: part.shape[0])
        _check_shared(parts, "dtype", lambda part: part.dtype)
        _check_shared(parts, "device", lambda part: part.device)
        return Layout(keys, tuple(part.shape[1:] for part in parts.values()))

    @property
    def sizes(self) -> list[int]:
        """Number of columns that each part takes."""
        return [math.prod(event) for event in self.events]

    @property
    def dim(self) -> int:
        """D, the number of columns of the matrix."""
        return sum(self.sizes)

    def _is_as_it_is(self, matrix: Tensor) -> bool:
        """Whether a position is a matrix already: the usual case, met twice in every gradient."""
        return self.keys == () and len(self.events) == 1 and matrix.shape[-1:] == self.events[0]

    def ravel(self, position: Position) -> Tensor:
        """Lay a position, `(*lead, *event)` per part, out as one matrix `(*lead, D)`."""
        if isinstance(position, Tensor) and self._is_as_it_is(position):
            return position
        if self.keys and isinstance(position, dict) and set(position) == set(self.keys):
            position = {key: position[key] for key in self.keys}  # a dict's own order says nothing
        keys, parts = _take_apart(position)
        if keys != self.keys or len(parts) != len(self.events):
            raise PositionError(f"expected a position with parts {self._names()}; got {list(parts)}.")
        flat = []
        for (name, part), event in zip(parts.items(), self.events, strict=True):
            lead = part.shape[: part.ndim - len(event)]
            if part.shape[len(lead) :] != event:
                raise PositionError(f"{name} must end in {tuple(event)}; got shape {tuple(part.shape)}.")
            flat.append(part if len(event) == 1 else part.reshape(*lead, math.prod(event)))
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)

    def unravel(self, matrix: Tensor) -> Position:
        """Take a matrix `(*lead, D)` apart into views `(*lead, *event)`, in the structure of the position."""
        if self._is_as_it_is(matrix):
            return matrix
        lead = matrix.shape[:-1]
        flat = [matrix] if len(self.events) == 1 else list(torch.split(matrix, self.sizes, dim=-1))
        events = zip(flat, self.events, strict=True)
        parts = [part if part.shape[-1:] == event else part.reshape(*lead, *event) for part, event in events]
        if self.keys is None:
            return tuple(parts)
        return dict(zip(self.keys, parts, strict=True)) if self.keys else parts[0]

    def _names(self) -> list[str]:
        return [f"part {i}" for i in range(len(self.events))] if self.keys is None else list(self.keys)


def rows(structure: Any, index: slice | Tensor) -> Any:
    """Take rows of every tensor in a (nested) tuple, list or dict, such as the context of some of the chains."""
    return map_tensors(lambda tensor: tensor[index], structure)


def for_autograd(structure: Any) -> Any:
    """Copy the tensors that were made in inference mode, which autograd refuses; keep all others as they are."""
    with torch.inference_mode(False):
        return map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, structure)


def map_tensors(function: Callable[[Tensor], Any], structure: Any) -> Any:
    """Apply a function to every tensor in a (nested) tuple, list or dict."""
    if isinstance(structure, Tensor):
        return function(structure)
    if isinstance(structure, dict):
        return {key: map_tensors(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [map_tensors(function, value) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    raise PositionError(
        f"a context is a tensor, or a tuple, list or dict of tensors, one row per chain; "
        f"got {type(structure).__name__}. Values that are the same for all chains belong in the energy itself."
    )


def check_rows(structure: Any, num_chains: int) -> None:
    """Raise unless every tensor of a context has one row per chain."""
    if isinstance(structure, Tensor):
        if structure.ndim == 0 or structure.shape[0] != num_chains:
            raise PositionError(
                f"a context has one row per chain, here {num_chains}; got shape {tuple(structure.shape)}. "
                f"Repeat the rows (x.repeat_interleave(k, 0)), or put shared data into the energy itself."
            )
    elif isinstance(structure, dict | tuple | list):
        for value in structure.values() if isinstance(structure, dict) else structure:
            check_rows(value, num_chains)
    else:
        rows(structure, slice(0, 0))


def _take_apart(position: Position) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """Split a position into its keys (see `Layout.keys`) and its named tensors."""
    if isinstance(position, Tensor):
        return (), {"the position": position}
    if isinstance(position, dict) and position:
        keys, parts = tuple(position), {f"position[{key!r}]": part for key, part in position.items()}
    elif isinstance(position, tuple) and position:
        keys, parts = None, {f"position[{i}]": part for i, part in enumerate(position)}
    else:
        what = f"an empty {type(position).__name__}" if isinstance(position, dict | tuple) else type(position).__name__
        raise PositionError(f"a position is a tensor, or a non-empty tuple or dict of tensors; got {what}.")
    for name, part in parts.items():
        if not isinstance(part, Tensor):
            raise PositionError(f"{name} must be a tensor; got {type(part).__name__}.")
    return keys, parts


def _check_shared(parts: dict[str, Tensor], what: str, read: Callable[[Tensor], object]) -> None:
    if len({read(part) for part in parts.values()}) > 1:
        seen = ", ".join(f"{name}: {read(part)}" for name, part in parts.items())
        raise PositionError(f"all parts of a position share one {what}; got {seen}.")
