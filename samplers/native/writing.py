"""From a kernel and an energy to source text, and the checks that it says what they do."""

from __future__ import annotations

from ..errors import LaminaError, NotTraceableError
from .cpp import MixedChainsError, Printed, print_cpp
from .program import TooLargeError
from .trace import Subject, Trace, trace

_LONG = 32
"""Entries from which on programs loop over an axis; fewer are named one by one, which keeps them in registers."""

_checked: set[object] = set()
"""Programs that came out the same among more chains."""


def write(subject: Subject) -> tuple[Trace, Printed]:
    """Trace and print.

    Raises:
        NotTraceableError: If that cannot be done, or one chain has a say in another.
    """
    try:
        return _write(subject, _LONG)
    except NotTraceableError:
        return _write(subject, None)  # an axis that is cut or mixed: name all its entries, if they are not too many


def _write(subject: Subject, long: int | None) -> tuple[Trace, Printed]:
    written = _print(subject, 2, long)
    text = _text(written[1])
    if text not in _checked:
        if _text(_print(subject, 3, long)[1]) != text:
            raise NotTraceableError("an energy that depends on how many chains there are")
        _checked.add(text)
    return written


def _text(printed: Printed) -> tuple[object, ...]:
    """All that chains could have a say in."""
    return printed.source, tuple(printed.floats), tuple(printed.doubles), tuple(printed.counts)


def _print(subject: Subject, num_chains: int, long: int | None) -> tuple[Trace, Printed]:
    try:
        traced = _traced(subject, num_chains, long)
        return traced, print_cpp(traced, subject.matrix.dtype, subject.matrix.shape[1])
    except MixedChainsError:
        raise NotTraceableError("an energy in which one chain has a say in another's") from None
    except TooLargeError as error:
        raise NotTraceableError(str(error)) from None


def _traced(subject: Subject, num_chains: int, long: int | None) -> Trace:
    try:
        return trace(subject, num_chains, long)
    except (LaminaError, TooLargeError):
        raise
    except Exception as error:
        # Whatever goes wrong on tensors without values, it says no more than that: the energy runs on ordinary ones.
        raise NotTraceableError(f"{type(error).__name__} while tracing: {str(error).splitlines()[0]}") from error
