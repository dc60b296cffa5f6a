"""From a kernel and an energy to source text, and the checks that it says what they do."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from ..errors import NotTraceableError
from .cpp import MixedChainsError, Printed, print_cpp
from .program import TooLargeError
from .trace import Subject, Trace, trace

_LONG = 32
"""Entries from which on programs loop over an axis; fewer are named one by one, which keeps them in registers."""

_LESS_LONG = 12
"""The same where there would be too many names."""

_MAX_CHECKED = 10_000
_checked: set[bytes] = set()
"""Programs that came out the same among more chains; forgotten when they are many."""


def write(subject: Subject) -> tuple[Trace, Printed]:
    """Trace and print.

    Raises:
        NotTraceableError: If that cannot be done, or one chain has a say in another.
    """
    try:
        return _write(subject, _LONG)
    except NotTraceableError as error:
        refusal = error
    if not _has_too_many_names(refusal):
        try:
            return _write(subject, None)  # an axis that is cut or mixed: name all its entries, if they are not too many
        except NotTraceableError as named:
            if str(named) == str(refusal):
                raise
            refusal = NotTraceableError(f"{refusal}; and with every entry named, {named}")
            if not _has_too_many_names(named):
                raise refusal from None
    with suppress(NotTraceableError):
        return _write(subject, _LESS_LONG)
    raise refusal


def _has_too_many_names(refusal: NotTraceableError) -> bool:
    return isinstance(refusal.__cause__, TooLargeError)


def _write(subject: Subject, long: int | None) -> tuple[Trace, Printed]:
    written = _print(subject, 2, long)
    digest = _digest(written[1])
    if digest not in _checked:
        if _digest(_print(subject, 3, long)[1]) != digest:
            is_steady = _digest(_print(subject, 2, long)[1]) == digest
            what = "depends on how many chains there are" if is_steady else "changes from call to call"
            raise NotTraceableError(f"an energy that {what}")
        if len(_checked) >= _MAX_CHECKED:
            _checked.clear()
        _checked.add(digest)
    return written


def _digest(printed: Printed) -> bytes:
    """Of all that chains could have a say in."""
    return hashlib.sha256(repr(printed).encode()).digest()


def _print(subject: Subject, num_chains: int, long: int | None) -> tuple[Trace, Printed]:
    try:
        traced = trace(subject, num_chains, long)
        return traced, print_cpp(traced, subject.matrix.dtype, subject.matrix.shape[1])
    except MixedChainsError:
        raise NotTraceableError("an energy in which one chain has a say in another's") from None
    except TooLargeError as error:
        raise NotTraceableError(str(error)) from error
    except NotTraceableError:
        raise
    except Exception as error:
        # Whatever goes wrong on tensors without values, it says no more than that: the energy runs on ordinary ones.
        what = str(error).partition("\n")[0]
        raise NotTraceableError(f"{type(error).__name__} while tracing{f': {what}' if what else ''}") from error
