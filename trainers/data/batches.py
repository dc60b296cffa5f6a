"""The shuffled order in which the rows of a data set are visited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from ..errors import CheckpointError


class BatchStream:
    """An endless stream of row numbers: a fresh shuffle each epoch, cut into batches of one size.

    The rows of a batch are distinct, and so are those of an epoch's batches; persistent chains, one per row,
    rely on it. The price: the `num_rows % batch_size` rows left at the end of an epoch, others each time, sit
    that epoch out.

    Args:
        num_rows: Rows of the data set, >= 1.
        batch_size: Rows per batch, from 1 to `num_rows`.
        generator: Draws the shuffles, on its own device. The stream saves and restores its state, so it
            should belong to the stream alone.

    Raises:
        ParameterError: If `batch_size` or `num_rows` is out of range.
    """

    def __init__(self, num_rows: int, batch_size: int, generator: torch.Generator) -> None:
        if not 1 <= batch_size <= num_rows:
            raise ParameterError(
                f"batch_size must lie between 1 and the number of rows, {num_rows}; got {batch_size}. "
                "Take another batch size or more data."
            )
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._generator = generator
        self._order = torch.arange(0)  # exhausted, so that the first call shuffles
        self._cursor = 0

    def next(self) -> Tensor:
        """Return the next batch of row numbers, int64 (batch_size,), on the generator's device."""
        if self._cursor + self._batch_size > len(self._order):
            device = self._generator.device
            self._order = torch.randperm(self._num_rows, generator=self._generator, device=device)
            self._cursor = 0
        start, self._cursor = self._cursor, self._cursor + self._batch_size
        return self._order[start : self._cursor].clone()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that the next batches depend on, as plain numbers and tensors."""
        return {
            "num_rows": self._num_rows,
            "batch_size": self._batch_size,
            "order": self._order.clone(),
            "cursor": self._cursor,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, where the stream that gave `state` stood.

        Args:
            state: What `state_dict` returned, from a stream of the same sizes. It is copied.

        Raises:
            CheckpointError: If `state` is damaged or belongs to a stream of other sizes; the stream and its
                generator are then as before.
        """
        self._check_sizes(state)
        order, cursor = state["order"], state["cursor"]
        if not self._is_place(order, cursor):
            raise CheckpointError(
                f"batch order: wanted a shuffle of {self._num_rows} rows and a place between its batches; "
                "got something else. The checkpoint is damaged: resume from another one."
            )
        try:
            self._generator.set_state(state["generator"])
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"batch order: wanted the state of a generator on {self._generator.device}; the stored one "
                f"was refused: {error}. Resume on the kind of device where the checkpoint was written."
            ) from error
        self._order = order.to(self._generator.device, copy=True)
        self._cursor = cursor

    def _check_sizes(self, state: Mapping[str, Any]) -> None:
        wanted = self.state_dict()
        if state.keys() != wanted.keys():
            raise CheckpointError(
                f"batch order: wanted the entries {', '.join(wanted)}; got {', '.join(map(str, state))}. "
                "Resume from a checkpoint that is whole."
            )
        for key in ("num_rows", "batch_size"):
            if type(state[key]) is not int or state[key] != wanted[key]:
                raise CheckpointError(
                    f"batch order: this run has {key} {wanted[key]}; the checkpoint's is {state[key]!r}. "
                    "Resume with the data and batch size of the checkpoint, or start a new run."
                )

    def _is_place(self, order: object, cursor: object) -> bool:
        """Whether `order` is a shuffle of all rows, or still empty, and `cursor` lies between batches."""
        if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.ndim != 1:
            return False
        rows = torch.arange(self._num_rows if len(order) else 0, device=order.device)
        if not torch.equal(order.sort().values, rows):
            return False
        return type(cursor) is int and cursor in range(0, len(order) + 1, self._batch_size)
