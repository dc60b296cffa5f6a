"""The densities by name."""

from __future__ import annotations

from collections.abc import Callable

from lamina.samplers.errors import UnknownNameError

from .banana import Banana
from .base import Density
from .double_well import DoubleWell
from .dual_moon import DualMoon
from .funnel import Funnel
from .gaussian import Gaussian
from .gaussian_mixture import GaussianMixture
from .log_gamma import LogGamma
from .rosenbrock import Rosenbrock

DENSITIES: dict[str, Callable[[], Density]] = {
    "correlated_gaussian": Gaussian.correlated,
    "stiff_gaussian": Gaussian.stiff,
    "ring_mixture": GaussianMixture.ring,
    "unequal_mixture": GaussianMixture.unequal,
    "banana": Banana,
    "rosenbrock": Rosenbrock,
    "funnel": Funnel,
    "double_well": DoubleWell,
    "dual_moon": DualMoon,
    "log_gamma": LogGamma,
}
"""Constructors of the standard densities, each with its default parameters."""


def make_density(name: str) -> Density:
    """Build a standard density.

    Args:
        name: A key of `DENSITIES`.

    Returns:
        The density with its default parameters.

    Raises:
        UnknownNameError: If there is no such density; the message shows the nearest names.
    """
    if name not in DENSITIES:
        raise UnknownNameError("density", name, DENSITIES)
    return DENSITIES[name]()
