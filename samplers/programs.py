"""Programs that are kept from one call of `run` to the next."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Programs:
    """What the native engine made of one energy, for as long as this object lives; see `run`.

    Without it every call traces the energy anew, to see what has changed in it, which takes some tens of milliseconds.
    Whoever passes it promises that nothing changes between calls but the values of tensors that the energy reads, each
    in its own memory, as optimisers change weights; and passes it with no other energy.

    What would miss such a change is refused: an energy that works something out from captured tensors alone, before
    positions or context come in (the exponential of a scale, a normalised weight), takes integers from them, or asks
    for a value (`item`, `float`; lists and arrays made of tensors go unseen). What was refused once is refused without
    a look from then on, so that `engine="auto"` costs nothing with energies that cannot be traced.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._refused: dict[Hashable, tuple[type[Exception], str]] = {}

    def found(self, situation: Hashable) -> Any:
        """What was kept for a situation; None: nothing.

        Raises:
            NotTraceableError: If that was refused.
            BuildError: Likewise.
        """
        if situation in self._refused:
            kind, message = self._refused[situation]
            raise kind(message)
        return self._kept.get(situation)

    def keep(self, situation: Hashable, what: Any) -> None:
        """Keep something for a situation."""
        self._kept[situation] = what

    def refuse(self, situation: Hashable, error: Exception) -> None:
        """Remember what stands in the way of anything for a situation."""
        self._refused[situation] = type(error), str(error)
