"""Programs that are kept from one call of `run` to the next."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self

_MOST = 32


class Programs:
    """What the native engine made of one energy, for as long as this object lives; see `run`.

    Without it every call traces the energy anew, to see what has changed in it, which takes some tens of milliseconds.
    Whoever passes it promises that nothing changes between calls but the values of tensors that the energy reads, each
    in its own memory, as optimisers and `load_state_dict` change weights; and passes it with no other energy. What puts
    other memory in a tensor's place breaks the promise, and nobody sees it: `load_state_dict(assign=True)`,
    `vector_to_parameters`, `parametrize.cached()`, `weight.data = ...`.

    What would miss such a change and can be known to is refused: an energy that works something out from captured
    tensors alone, before positions or context come in (the exponential of a scale, a normalised weight), takes integers
    from them, or asks for a value (`item`, `float`; lists and arrays made of tensors go unseen).

    Another kernel, temperature (as a number), number of chains, or shape or dtype of anything has a program of its own;
    the 32 that came last are kept. What was refused once is refused without a look from then on, so that
    `engine="auto"` costs nothing with energies that cannot be traced. A copy is empty.
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
        if situation in self._refused and situation not in self._kept:
            kind, message = self._refused[situation]
            raise kind(message)
        return self._kept.get(situation)

    def keep(self, situation: Hashable, what: Any) -> None:
        """Keep something for a situation."""
        _put(self._kept, situation, what)

    def refuse(self, situation: Hashable, error: Exception) -> None:
        """Remember what stands in the way of anything for a situation."""
        _put(self._refused, situation, (type(error), str(error)))

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Compiled programs belong to the process."""
        return type(self), ()


def _put(store: dict[Hashable, Any], situation: Hashable, what: Any) -> None:
    store[situation] = what
    if len(store) > _MOST:
        del store[next(iter(store))]
