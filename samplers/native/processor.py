"""Programs on processors: compiled by the machine's own C++ compiler, a block of chains in the lanes of its vectors."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import build
from .cpp import Printed

_LONGEST_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a program is called with.

    Attributes:
        inputs: Columns that it reads, (width, C) each.
        outputs: Columns that it leaves, and sums that it goes on with.
        draws: Columns that it stores, draw after draw; None where one is not wanted.
        floats: See `Tables`, and so on.
        doubles: See above.
        counts: See above.
        arrays: See above.
        keys: Two words for each site of noise.
        num_chains: C.
        first_chain: Number of the first one, for its noise.
        steps: The first step's number, and that after the last one's.
        thinning: Steps for each draw.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    draws: Sequence[Tensor | None]
    floats: Sequence[float]
    doubles: Sequence[float]
    counts: Sequence[int]
    arrays: Sequence[Tensor]
    keys: Sequence[int]
    num_chains: int
    first_chain: int
    steps: tuple[int, int]
    thinning: int


class OnProcessor:
    """A program that can be run.

    Args:
        printed: Its text.
        num_chains: Which it is going to move.

    Attributes:
        was_cached: Whether it had been compiled before.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """

    def __init__(self, printed: Printed, num_chains: int) -> None:
        source = printed.source(num_chains)
        self.was_cached = build.is_cached(source)
        self._function = build.load(source).run
        self._function.restype = None
        self._share = printed.share

    def __call__(self, given: Arguments) -> None:
        """Run it, in as many threads as torch has been given and the chains can use."""
        tables = (
            _array(ctypes.c_float, given.floats),
            _array(ctypes.c_double, given.doubles),
            _array(ctypes.c_int64, given.counts),
        )

        def run(begin: int, end: int) -> None:
            # The tensors are held by this function: other threads go on with it where Ctrl-C ends the run.
            self._function(
                *map(_pointers, (given.inputs, given.outputs, given.draws)),
                *tables,
                _pointers(given.arrays),
                _array(ctypes.c_uint32, given.keys),
                *map(
                    ctypes.c_int64,
                    (given.num_chains, begin, end, given.first_chain, *given.steps, given.thinning),
                ),
            )

        _in_threads(run, given.num_chains, self._share)


def _in_threads(run: Callable[[int, int], None], num_chains: int, least: int) -> None:
    """Share chains out over threads, at least so many to each, in multiples of their block."""
    threads = min(torch.get_num_threads(), num_chains // least)
    if threads <= 1:
        run(0, num_chains)
        return
    block = min(least, _LONGEST_BLOCK)
    share = -(-num_chains // threads // block) * block
    bounds = [(begin, min(begin + share, num_chains)) for begin in range(0, num_chains, share)]
    pool = _pool(threads - 1)
    others = [pool.submit(run, *bound) for bound in bounds[1:]]
    run(*bounds[0])
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="lamina")


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool, but none of its threads


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return _array(ctypes.c_void_p, [None if tensor is None else tensor.data_ptr() for tensor in tensors])


def _array(kind: Any, values: Sequence[Any]) -> Any:
    return (kind * max(len(values), 1))(*values)
