"""Programs on CUDA devices: the text that processors run, compiled by NVRTC, with a thread for each chain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BuildError
from .cpp import Printed, runtime
from .processor import Arguments

_KERNEL = """
// Moves each chain from first_step to last_step; see `run`. sizes: the numbers of that which are not tables.
extern "C" __global__ void move(
    const void* const* in, void* const* out, void* const* draws, const float* floats, const double* doubles,
    const int64_t* counts, const void* const* arrays, const uint32_t* keys, const int64_t* sizes) {
    const int64_t chain = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, chains = sizes[0];
    if (chain < chains) {
        chains::run(
            in, out, draws, floats, doubles, counts, arrays, keys, chains, chain, chain + 1, sizes[1], sizes[2],
            sizes[3], sizes[4]);
    }
}
"""

OPTIONS = ("--fmad=false",)  # every fused multiply-add is written as one
_THREADS = 128  # in a block


def scalar_source(printed: Printed) -> str:
    """A program for one chain at a time, complete, in C++ that NVRTC takes, and other compilers do as well."""
    return f"{runtime('scalar.hpp')}\n{printed.text}\n}}  // namespace chains\n"


def source(printed: Printed) -> str:
    """The same with a kernel that gives each thread a chain."""
    return scalar_source(printed) + _KERNEL


class OnCUDA:
    """A program that can be run on a device.

    Args:
        printed: Its text.
        device: The device.

    Attributes:
        was_cached: Whether this process had compiled it before.

    Raises:
        BuildError: If it cannot be compiled.
    """

    def __init__(self, printed: Printed, device: torch.device) -> None:
        self._device = device
        hits = _load.cache_info().hits
        self._kernel = _load(source(printed), device)
        self.was_cached = _load.cache_info().hits > hits

    def __call__(self, given: Arguments) -> None:
        """Run it on the current stream."""
        sizes = (given.num_chains, given.first_chain, *given.steps, given.thinning)
        arguments = [
            *(self._pointers(tensors) for tensors in (given.inputs, given.outputs, given.draws)),
            self._table(given.floats, torch.float32),
            self._table(given.doubles, torch.float64),
            self._table(given.counts, torch.int64),
            self._pointers(given.arrays),
            self._table([word - (word >> 31 << 32) for word in given.keys], torch.int32),  # the same bits
            self._table(sizes, torch.int64),
        ]
        with torch.cuda.device(self._device):
            blocks = -(-given.num_chains // _THREADS)
            self._kernel(grid=(blocks, 1, 1), block=(_THREADS, 1, 1), args=arguments)

    def _table(self, numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor([*numbers, 0], dtype=dtype, device=self._device)  # which is never empty

    def _pointers(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._table([0 if tensor is None else tensor.data_ptr() for tensor in tensors], torch.int64)


@lru_cache(maxsize=256)
def _load(text: str, device: torch.device) -> Any:
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)  # it has no public name yet
    if compile_kernel is None:
        raise BuildError("this version of PyTorch does not compile CUDA programs")
    try:
        with torch.cuda.device(device):
            return compile_kernel(text, "move", nvcc_options=list(OPTIONS))
    except (RuntimeError, OSError) as error:
        raise BuildError(f"NVRTC could not compile the program: {error}") from error
