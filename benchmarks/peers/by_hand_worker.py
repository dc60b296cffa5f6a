"""Not a library: programs written by hand for a few densities in the plane, around the native engine's generator."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lamina.samplers.native import build

from .problems import PROBLEMS, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, PERSISTENCE, Case, Sampler, UnsupportedError, serve

ALGORITHMS = ("hmc", "mala", "ula", "barker", "ghmc", "nuts")
DENSITIES: Mapping[str, str] = {"gauss2": "Gaussian", "banana": "Banana", "ring8": "Ring"}
"""Names in `by_hand.cpp` of the problems."""

_SEED = 5
_KEYS = tuple(word for kind in range(3) for word in (_SEED, kind))
_MOST_LANES = 32


def main(options: Sequence[str]) -> None:
    """Serve."""
    serve(make, {"lamina": version("lamina")})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    if case.algorithm not in ALGORITHMS or case.problem not in DENSITIES:
        raise UnsupportedError(f"no {case.algorithm} on {case.problem} has been written by hand")
    return _ByHand(case)


def source(case: Case) -> str:
    """The whole program of a case: two vectors of the widest kind for every variable, and the generator before it."""
    return "\n".join(
        (
            "#define LANES (2 * WIDEST / 4)",
            f"#define ALGORITHM {case.algorithm}",
            f"#define DENSITY {DENSITIES[case.problem]}",
            f"#define NUM_LEAPFROG_STEPS {NUM_LEAPFROG_STEPS}",
            f"#define MAX_TREE_DEPTH {MAX_TREE_DEPTH}",
            f"#define PERSISTENCE {PERSISTENCE}f",
            resources.files("lamina.samplers.native").joinpath("runtime.hpp").read_text(),
            Path(__file__).with_name("by_hand.cpp").read_text(encoding="utf-8"),
        )
    )


class _ByHand:
    """See `protocol.Sampler`."""

    def __init__(self, case: Case) -> None:
        self.num_steps, self.engine = case.num_steps, "a program written by hand"
        problem = PROBLEMS[case.problem]
        has_momentum = case.algorithm in ("hmc", "ghmc", "nuts")
        self._step_size = problem.leapfrog_step if has_momentum else problem.langevin(case.algorithm)
        self._num_chains, self._steps = case.num_chains, 0
        spare = -case.num_chains % _MOST_LANES
        momenta = np.random.default_rng(_SEED).standard_normal((2, case.num_chains), dtype=np.float32)
        self._columns = np.pad([*starts(case.problem, case.num_chains).T, *momenta], ((0, 0), (0, spare)), mode="edge")
        self._function = build.load(source(case)).run
        self._function.restype = None

    def run(self) -> float | None:
        """See `protocol.Sampler`."""
        return self._advance(self.num_steps)

    def _advance(self, num_steps: int) -> float:
        moves = np.zeros(self._columns.shape[1], dtype=np.int32)
        self._function(
            *(ctypes.c_void_p(array.ctypes.data) for array in (self._columns, moves)),
            (ctypes.c_uint32 * len(_KEYS))(*_KEYS),
            *map(ctypes.c_int64, (len(moves), self._steps, self._steps + num_steps)),
            ctypes.c_float(self._step_size),
        )
        self._steps += num_steps
        return math.fsum(moves[: self._num_chains] / (num_steps * self._num_chains))

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.ascontiguousarray(self._columns[:2, : self._num_chains].T)

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        kept = np.empty((num_draws, self._num_chains, 2), dtype=np.float32)
        for index in range(num_draws):
            self._advance(1)
            kept[index] = self.position()
        return kept
