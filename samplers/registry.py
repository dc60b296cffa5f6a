"""Kernels by name, for flags and configurations: our own, and those that other distributions announce.

A distribution announces a kernel by an entry point in the group `lamina.kernels`: name = "package.module:Class". It is
imported when its name is asked for, and no earlier.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import LaminaError, ParameterError, UnknownNameError
from .kernel import Kernel
from .kernels.barker import Barker
from .kernels.blocks import Blocks
from .kernels.clipped import Clipped
from .kernels.ghmc import GHMC
from .kernels.hmc import HMC
from .kernels.mala import MALA
from .kernels.malt import MALT
from .kernels.mams import MAMS
from .kernels.mclmc import MCLMC
from .kernels.noise_free import NoiseFreeLangevin
from .kernels.nuts import NUTS
from .kernels.randomised_hmc import RandomisedHMC
from .kernels.rwm import RWM
from .kernels.tempering import ParallelTempering
from .kernels.ula import ULA
from .kernels.underdamped import UnderdampedLangevin

KERNELS: dict[str, type[Kernel[Any]]] = {
    "rwm": RWM,
    "ula": ULA,
    "mala": MALA,
    "barker": Barker,
    "hmc": HMC,
    "randomised-hmc": RandomisedHMC,
    "ghmc": GHMC,
    "malt": MALT,
    "underdamped": UnderdampedLangevin,
    "nuts": NUTS,
    "mams": MAMS,
    "mclmc": MCLMC,
    "noise-free": NoiseFreeLangevin,
}
"""Our own kernels that a name and a few numbers can make."""

COMPOUND_KERNELS: dict[str, type[Kernel[Any]]] = {
    "blocks": Blocks,
    "parallel-tempering": ParallelTempering,
    "clipped": Clipped,
}
"""Our own kernels that are made of other kernels. Flags, which name one kernel, do not offer them."""

ENTRY_POINT_GROUP = "lamina.kernels"
"""Where other distributions announce kernels: name = "package.module:Class"."""


class PluginError(LaminaError, ImportError):
    """A kernel that another distribution announces cannot be used."""


class PluginWarning(UserWarning):
    """A kernel that another distribution announces is ignored."""


def kernel_names() -> list[str]:
    """Names of the kernels that flags may offer: our own, then those that other distributions announce, sorted.

    Nothing is imported, so that a broken distribution spoils no list.

    Warns:
        PluginWarning: Where a distribution announces a name that is taken; it is ignored.
    """
    return [*KERNELS, *sorted(_announced())]


def make_kernel(name: str, **options: Any) -> Kernel[Any]:
    """Make a kernel from its name and options, e.g. `make_kernel("hmc", step_size=0.1)`.

    Raises:
        UnknownNameError: If there is no such kernel; the message shows the nearest names.
        ParameterError: If the kernel has no such option, lacks one, or its value is out of range.
        PluginError: If another distribution announces the kernel, and it cannot be used.
    """
    kind = _kind(name)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - fields.keys()):
        raise ParameterError(f"kernel {name!r} has options {', '.join(sorted(fields))}; got {', '.join(unknown)}.")
    if missing := sorted(field for field in fields.keys() - options.keys() if _is_required(fields[field])):
        raise ParameterError(f"kernel {name!r} needs {', '.join(missing)}, which have no default.")
    return kind(**options)


def kernel_name(kernel: Kernel[Any]) -> str:
    """The registered name of a kernel.

    Raises:
        UnknownNameError: If it has none.
    """
    for name, kind in (KERNELS | COMPOUND_KERNELS).items():
        if type(kernel) is kind:
            return name
    package = _package(type(kernel).__module__)  # others need not be imported to tell that it is not theirs
    for name, point in _announced().items():
        if _package(point.module) == package and type(kernel) is _load(point):
            return name
    raise UnknownNameError("kernel", type(kernel).__name__, kernel_names())


def kernel_options(kernel: Kernel[Any]) -> dict[str, Any]:
    """The choices that a kernel was made with: `type(kernel)(**kernel_options(kernel)) == kernel`."""
    return {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel) if field.init}  # type: ignore[arg-type]


def kernel_to_dict(kernel: Kernel[Any]) -> dict[str, Any]:
    """A registered kernel in plain containers, kernels within it too; `kernel_from_dict` is the inverse."""
    return {"name": kernel_name(kernel), **{name: _plain(value) for name, value in kernel_options(kernel).items()}}


def kernel_from_dict(plain: Mapping[str, Any]) -> Kernel[Any]:
    """Rebuild a kernel.

    Raises:
        LaminaError: See `make_kernel`.
    """
    return make_kernel(**{name: _rebuilt(value) for name, value in plain.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Kernel):
        return kernel_to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping):
        return kernel_from_dict(value)
    return tuple(_rebuilt(item) for item in value) if isinstance(value, list) else value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _kind(name: str) -> type[Kernel[Any]]:
    ours = KERNELS | COMPOUND_KERNELS
    if name in ours:
        return ours[name]
    announced = _announced()
    if name not in announced:
        raise UnknownNameError("kernel", name, [*KERNELS, *announced])
    return _load(announced[name])


def _announced() -> dict[str, EntryPoint]:
    """What other distributions announce, by name; whatever is ambiguous is left out, with a warning."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        points.setdefault(point.name, []).append(point)
    usable = {}
    for name, claims in points.items():
        if len(claims) == 1 and name not in KERNELS | COMPOUND_KERNELS:
            usable[name] = claims[0]
        else:
            owners = " and ".join(map(_described, claims))
            taken = "one of Lamina's own names" if len(claims) == 1 else "announced more than once"
            warnings.warn(
                f"kernel {name!r} of {owners} is ignored: the name is {taken}. Rename it, or uninstall one of them.",
                PluginWarning,
                stacklevel=4,
            )
    return usable


def _load(point: EntryPoint) -> type[Kernel[Any]]:
    try:
        kind = point.load()
    except Exception as error:  # whatever a distribution does when it is imported
        raise PluginError(
            f"kernel {point.name!r} of {_described(point)} cannot be imported: {type(error).__name__}: {error}. "
            "Repair or uninstall the distribution."
        ) from error
    is_kernel = inspect.isclass(kind) and issubclass(kind, Kernel) and not inspect.isabstract(kind)
    if not is_kernel or not getattr(vars(kind).get("__dataclass_params__"), "frozen", False):
        raise PluginError(
            f"kernel {point.name!r} of {_described(point)} should be a frozen dataclass that derives from "
            f"lamina.samplers.Kernel and has all of its methods; got {kind!r}."
        )
    loaded: type[Kernel[Any]] = kind
    return loaded


def _described(point: EntryPoint) -> str:
    dist = point.dist
    owner = "an unknown distribution" if dist is None else f"{dist.metadata['Name']} {dist.version}"
    return f"{owner} ({point.value})"


def _package(module: str) -> str:
    return module.partition(".")[0]
