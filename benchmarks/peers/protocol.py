"""How a worker talks: one JSON object a line, requests on standard input and replies on standard output.

A worker serves one sampler at a time. It runs in an environment of its own, so that this file needs numpy alone.

requests, by their "do":
  make    make the sampler of a case and call it once: "seconds" and "cpu" of both, "num_steps" of a call, "engine"
  run     call it again, from where the chains stand: "seconds", "cpu", and "accept" where the sampler tells
  ends    save where the chains stand, (C, D), under "path"
  draws   save consecutive draws of a case's sampler, (N, C, D), under "path"
  memory  "mib", the peak memory of streaming draws of a case; of Lamina alone
  bias    "bias" and "bias_error" of the second moment by rounding, see `lamina_worker.bias`; of Lamina alone

A reply has "unsupported" where the library has no such sampler, and "error" where something went wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

NUM_LEAPFROG_STEPS = 10
MAX_TREE_DEPTH = 6
PERSISTENCE = 0.9
"""Of the momentum, in GHMC with one leapfrog step."""


class UnsupportedError(Exception):
    """The library does not offer this."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to sample, and how much of it in a call.

    Attributes:
        algorithm: "hmc", "mala", "ula", "barker", "ghmc" or "nuts".
        problem: Name in `problems.PROBLEMS`.
        num_chains: C.
        num_steps: Steps of a call.
        num_looped_steps: Steps of a call of a sampler that loops over steps in Python: it has no cost of a call to
            spread, and would take too long.
    """

    algorithm: str
    problem: str
    num_chains: int
    num_steps: int
    num_looped_steps: int


class Sampler(Protocol):
    """Chains of one library.

    Attributes:
        num_steps: Steps of a call.
        engine: What runs them, in words.
    """

    num_steps: int
    engine: str

    def run(self) -> float | None:
        """Move the chains `num_steps` steps; returns mean acceptance where the library tells."""

    def position(self) -> NDArray[np.float32]:
        """Where the chains stand, (C, D)."""

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """Positions after each of so many steps, (N, C, D)."""


Make = Callable[[Case], Sampler]
"""Makes the sampler of a case, started at `problems.starts`.

Raises:
    UnsupportedError: If the library has no such sampler.
"""


def serve(
    make: Make,
    versions: Mapping[str, str],
    others: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] | None = None,
) -> None:
    """Answer requests until there are no more.

    Args:
        make: Makes samplers.
        versions: Of the libraries at work; the first line says them.
        others: Further requests by their "do".
    """
    replies = _take_standard_output()
    server = _Server(make)
    known = {"make": server.make, "run": server.run, "ends": server.ends, "draws": server.draws, **(others or {})}
    _say(replies, {"versions": dict(versions)})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = known[request["do"]](request)
        except UnsupportedError as error:
            reply = {"unsupported": str(error)}
        except Exception as error:  # whatever a library raises is its result
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        _say(replies, reply)


class _Server:
    """The sampler at work, and what can be asked of it."""

    _sampler: Sampler

    def __init__(self, make: Make) -> None:
        self._make = make

    def make(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        def first() -> float | None:
            self._sampler = self._make(Case(**request["case"]))
            return self._sampler.run()

        return _timed(first) | {"num_steps": self._sampler.num_steps, "engine": self._sampler.engine}

    def run(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return _timed(self._sampler.run)

    def ends(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        np.save(request["path"], self._sampler.position())
        return {}

    def draws(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        np.save(request["path"], self._make(Case(**request["case"])).draws(request["num_draws"]))
        return {}


def _timed(work: Callable[[], float | None]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    accept = work()
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "accept": accept}


def _take_standard_output() -> TextIO:
    """Standard output, for replies alone: whatever else a library prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _say(stream: TextIO, content: Mapping[str, Any]) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()
