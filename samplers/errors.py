"""The errors of Lamina: each says what was wanted, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LaminaError(Exception):
    """Base of every error that Lamina raises on purpose."""


class EnergyError(LaminaError, ValueError):
    """An energy does not keep its contract: `(C, *event) -> (C,)`, floating point, finite at the start."""


class PositionError(LaminaError, ValueError):
    """A position is not a tensor, tuple or dict of tensors that share chains, dtype and device."""


class ParameterError(LaminaError, ValueError):
    """A step size, count, temperature, mass or option is out of range."""


class UnknownNameError(LaminaError, ValueError):
    """A name is in no registry; the message shows the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


class StateError(LaminaError, ValueError):
    """A stored chain state is damaged, or does not fit the run that is to continue it."""


class MissingExtraError(LaminaError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it, and what does without."""

    def __init__(self, package: str, extra: str, purpose: str, *, otherwise: str = "") -> None:
        message = f"{purpose} needs {package}. Install it with: pip install 'lamina[{extra}]'"
        super().__init__(f"{message} {otherwise}".rstrip())


class BuildError(LaminaError, RuntimeError):
    """A native program cannot be compiled, kept in the cache or loaded; the message quotes the compiler."""


class NoCompilerError(BuildError):
    """There is no C++ compiler; the message says how to name one, and what works without."""


class NotTraceableError(LaminaError):
    """A kernel or an energy cannot be turned into a program; the message says why."""


class NumericalWarning(UserWarning):
    """Rounding is large enough to bias acceptance decisions."""
