"""Kernels by name, for flags and configurations."""

from __future__ import annotations

import dataclasses
from typing import Any

from .errors import ParameterError, UnknownNameError
from .hmc import HMC
from .kernel import Kernel
from .mala import MALA
from .ula import ULA

KERNELS: dict[str, type[Kernel[Any]]] = {"ula": ULA, "mala": MALA, "hmc": HMC}


def make_kernel(name: str, **options: Any) -> Kernel[Any]:
    """Make a kernel from its name and options, e.g. `make_kernel("hmc", step_size=0.1)`.

    Raises:
        UnknownNameError: If there is no such kernel; the message shows the nearest names.
        ParameterError: If the kernel has no such option, or its value is out of range.
    """
    if name not in KERNELS:
        raise UnknownNameError("kernel", name, KERNELS)
    known = {field.name for field in dataclasses.fields(KERNELS[name])}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - known):
        raise ParameterError(f"kernel {name!r} has options {', '.join(sorted(known))}; got {', '.join(unknown)}.")
    return KERNELS[name](**options)


def kernel_name(kernel: Kernel[Any]) -> str:
    """The registered name of a kernel."""
    return next(name for name, kind in KERNELS.items() if type(kernel) is kind)
