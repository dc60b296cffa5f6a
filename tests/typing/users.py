"""Code as users write it, which must pass a strict type checker without a cast; `.ci/types` checks it."""

from typing import Any

from lamina.samplers import HMC, MALA, Blocks, Kernel


def blocks_of_kernels_that_differ_in_kind() -> list[Blocks]:
    """By index, by key, as pairs, and as a mapping that a variable holds."""
    alike = {"top": MALA(step_size=0.1), "low": MALA(step_size=0.3)}
    declared: dict[int, Kernel[Any]] = {0: MALA(), 1: HMC()}
    return [
        Blocks({0: MALA(step_size=0.1), 1: HMC(step_size=0.3)}),
        Blocks({"top": MALA(step_size=0.1), "low": HMC(step_size=0.3)}),
        Blocks(((0, MALA()), (1, HMC()))),
        Blocks(alike),
        Blocks(declared),
        Blocks({0: MALA(), 1: 0.1}),  # type: ignore[dict-item]  # unused, and so an error, where anything passes
    ]
