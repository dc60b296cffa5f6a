"""How much memory a piece of work needs, on top of what was in use before it."""

from __future__ import annotations

import ctypes
import gc
import math
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_MIB = 2**20
_RESET_PEAK = "5"  # see proc(5), /proc/PID/clear_refs


class PeakMemory:
    """Measures the body of a `with` statement.

    On CUDA it is what torch's allocator handed out at most. On the CPU, where torch keeps no such account, it is how
    far the resident memory of the process grew at its peak, whoever asked for it, after unused memory was given back
    to the system; a smaller peak than about 0.3 MiB drowns in the rounding of the kernel's counters.

    Attributes:
        mib: The peak, in MiB; NaN before the body has ended, and where the system does not tell (only Linux does).

    Args:
        device: Where tensors lie.
    """

    mib: float = math.nan

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device) / _MIB
        else:
            _trim()
            self._before = _resident("VmRSS") if _reset_peak() else math.nan
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) / _MIB if is_cuda else _resident("VmHWM")
        self.mib = max(peak - self._before, 0.0) if math.isfinite(peak - self._before) else math.nan


def _trim() -> None:
    """Give the allocator's free memory back; otherwise the body would use it, and the peak would not move."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _resident(field: str) -> float:
    """A field of /proc/self/status, in MiB; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.nan
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) / 1024 if values else math.nan
