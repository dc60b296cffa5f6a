"""The kernels that the benchmark of samplers compares, and what each runs with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lamina.samplers import MCLMC, ULA, Kernel, NoiseFreeLangevin, UnderdampedLangevin, make_kernel

OPTIONS: Mapping[str, Mapping[str, Any]] = {"hmc": {"num_leapfrog_steps": 10, "jitter": 0.3}}
"""Options that differ from a kernel's own defaults, by its name; step sizes are adapted."""

UNADJUSTED_SHARE = 0.3
"""Step size of a kernel that has no acceptance to adapt to, as a share of what MALA settles on at the same density.

A compromise: a smaller share lowers the bias, and the speed with it."""

FROM_LANGEVIN: Mapping[type[Kernel[Any]], Callable[[float, int], float]] = {
    ULA: lambda step, dim: step,
    NoiseFreeLangevin: lambda step, dim: step,
    UnderdampedLangevin: lambda step, dim: math.sqrt(2 * step),
    MCLMC: lambda step, dim: math.sqrt(2 * step * dim),
}
"""The step size of an unadjusted kernel that moves as far as ULA's with step size h in D dimensions.

A time step t moves by t times the velocity, as sqrt(2 h) does with ULA's noise; the velocity of MCLMC has length 1 in
place of about sqrt(D). An unadjusted kernel that is not here runs at its own step size."""


def make_contender(name: str) -> Kernel[Any]:
    """Make a kernel by name, with the options of the benchmark.

    Raises:
        UnknownNameError: If there is no such kernel; the message shows the nearest names.
    """
    return make_kernel(name, **OPTIONS.get(name, {}))


def unadjusted_step_size(kernel: Any, langevin_step: float, dim: int) -> float:
    """The step size that an unadjusted kernel runs with.

    Args:
        kernel: The kernel.
        langevin_step: What MALA settled on.
        dim: D.
    """
    convert = FROM_LANGEVIN.get(type(kernel))
    return convert(UNADJUSTED_SHARE * langevin_step, dim) if convert else float(kernel.step_size)
