"""The densities and posteriors by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from lamina.samplers import PluginError
from lamina.samplers.errors import ParameterError, UnknownNameError

from .banana import Banana
from .base import Density
from .block_rosenbrock import BlockRosenbrock
from .double_well import DoubleWell
from .dual_moon import DualMoon
from .eight_schools import CenteredEightSchools, EightSchools
from .funnel import Funnel
from .gaussian import Gaussian
from .gaussian_mixture import GaussianMixture
from .log_gamma import LogGamma
from .logistic_regression import Vote, Wells
from .many_well import ManyWell
from .network_tilt import NetworkTilt
from .phi4 import Phi4
from .rastrigin import Rastrigin
from .reference_target import ReferenceTarget
from .rosenbrock import Rosenbrock
from .styblinski_tang import StyblinskiTang

DENSITIES: dict[str, Callable[[], Density]] = {
    "correlated_gaussian": Gaussian.correlated,
    "stiff_gaussian": Gaussian.stiff,
    "ill_conditioned_gaussian": Gaussian.ill_conditioned,
    "ring_mixture": GaussianMixture.ring,
    "unequal_mixture": GaussianMixture.unequal,
    "forty_modes": GaussianMixture.forty_modes,
    "banana": Banana,
    "rosenbrock": Rosenbrock,
    "block_rosenbrock": BlockRosenbrock,
    "funnel": Funnel,
    "double_well": DoubleWell,
    "product_double_well": DoubleWell.product,
    "many_well": ManyWell,
    "dual_moon": DualMoon,
    "log_gamma": LogGamma,
    "styblinski_tang": StyblinskiTang,
    "rastrigin": Rastrigin,
    "network_tilt": NetworkTilt,
}
"""Constructors of our own densities, each with its default parameters."""

REFERENCE_TARGETS: dict[str, Callable[[], ReferenceTarget]] = {
    "eight_schools": EightSchools,
    "centered_eight_schools": CenteredEightSchools,
    "vote": Vote,
    "wells": Wells,
    "phi4": Phi4,
    "ordered_phi4": Phi4.ordered,
}
"""Constructors of the posteriors with a reference."""

ENTRY_POINT_GROUP = "lamina.densities"
"""Where other distributions announce densities: name = "package.module:constructor", called without arguments."""


def density_names() -> list[str]:
    """Names that `make_density` takes: our own, then those that installed distributions add, sorted."""
    return [*DENSITIES, *sorted(_plugins().keys() - DENSITIES.keys())]


def make_density(name: str) -> Density:
    """Build one of our densities, or one that an installed distribution adds under `ENTRY_POINT_GROUP`.

    Args:
        name: One of `density_names()`. Our own names cannot be taken over.

    Returns:
        The density with its default parameters.

    Raises:
        UnknownNameError: If there is no such density; the message shows the nearest names.
        PluginError: If what a distribution adds cannot be imported or built.
        ParameterError: If it is no density.
    """
    if name in DENSITIES:
        return DENSITIES[name]()
    plugins = _plugins()
    if name not in plugins:
        raise UnknownNameError("density", name, density_names())
    try:
        density = plugins[name].load()()
    except Exception as error:  # whatever a distribution does when it is imported
        raise PluginError(
            f"density {name!r} ({plugins[name].value}) cannot be built: {type(error).__name__}: {error}. Repair or "
            "uninstall the distribution that announces it."
        ) from error
    if not isinstance(density, Density):
        raise ParameterError(
            f"the entry point {plugins[name].value!r} should build a Density; got a {type(density).__name__}. "
            f"Name a constructor of one in group {ENTRY_POINT_GROUP!r}."
        )
    return density


def make_reference_target(name: str) -> ReferenceTarget:
    """Build a target whose parameters have a reference.

    Args:
        name: A key of `REFERENCE_TARGETS`.

    Returns:
        The target.

    Raises:
        UnknownNameError: If there is no such target; the message shows the nearest names.
    """
    if name not in REFERENCE_TARGETS:
        raise UnknownNameError("reference target", name, REFERENCE_TARGETS)
    return REFERENCE_TARGETS[name]()


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
