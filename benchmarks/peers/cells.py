"""What is measured: cells of an algorithm, a problem and a number of chains, and how long a call of each is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

from lamina.samplers import UnknownNameError

from .contenders import BFLOAT16, BY_HAND, COMPILE, EAGER, GRADIENT, LAMINA, PEERS, PRODUCTS, TWO_THREADS
from .problems import PROBLEMS
from .protocol import NUM_LEAPFROG_STEPS, Case

Kind = Literal["speed", "first", "threads", "memory"]

COMPILED_SECONDS = 0.4
"""A call of the fastest contender lasts about as long, so that the costs of a call matter to nobody."""

LOOPED_SECONDS = 1.0
"""A call of a library that loops over steps in Python lasts about as long."""

OVERHEAD_CHAINS = 15
"""As many chains as would cost what a step costs besides them: a block takes as long for one chain."""

STREAMED_DRAWS = 500
BIAS_STEPS, BIAS_EVERY = 2_000, 20
"""Of the runs that tell the bias of bfloat16, and from one look at the chains to the next."""

FIRST_STEPS = 100
"""Of the call whose result is the first that a new process gives."""

PLANE = ("gauss2", "banana", "ring8")
SMALL = ("gauss2", "banana", "funnel10", "ring8")
_LARGE = 100_000

_GRADIENT: Mapping[str, tuple[float, float]] = {
    "gauss2": (0.25, 40),
    "banana": (0.25, 40),
    "funnel10": (1, 120),
    "ring8": (7, 500),
    "gauss100": (20, 400),
    "logistic": (2_300, 8_000),
    "mlp": (2_600, 3_000),
    "decoder": (8_000, 10_000),
}
"""Rough nanoseconds of a gradient for one chain: in the fastest program, and in ordinary torch. All these figures set
lengths of calls alone."""

_BESIDES: Mapping[str, float] = {"hmc": 2.5, "mala": 2.5, "ula": 1, "barker": 5, "ghmc": 2.5, "nuts": 75}
"""Nanoseconds that a step takes in the fastest program besides its gradients, for one coordinate of one chain."""

_LOOPED_OVERHEAD = 100e-6
"""Seconds that a gradient in ordinary torch costs besides its chains."""

_GRADIENTS: Mapping[str, int] = {"hmc": NUM_LEAPFROG_STEPS, "nuts": 30}
"""Of a step, roughly; 1 for the others."""


@dataclass(frozen=True)
class Cell:
    """One line of the results.

    Attributes:
        kind: What is measured: CPU time of a step, the first result of a new process, the gain from a second thread,
            or memory.
        case: What is sampled.
        contenders: Names of those that may take part.
    """

    kind: Kind
    case: Case
    contenders: tuple[str, ...]

    def __str__(self) -> str:
        name = f"{self.case.algorithm}/{self.case.problem}/{self.case.num_chains}"
        return name if self.kind == "speed" else f"{self.kind}/{name}"


def cells(patterns: Sequence[str] = ("*",), scale: float = 1.0) -> list[Cell]:
    """The cells whose names match any pattern, such as "hmc/gauss2/*".

    Args:
        patterns: As in file names.
        scale: Calls are as much longer, for trials.

    Raises:
        UnknownNameError: If a pattern matches none.
    """
    everything = {str(cell): cell for cell in _all(scale)}
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in everything):
            raise UnknownNameError("cell", pattern, list(everything))
    return [cell for name, cell in everything.items() if any(fnmatch(name, pattern) for pattern in patterns)]


def make_case(algorithm: str, problem: str, num_chains: int, scale: float = 1.0) -> Case:
    """A case with calls as long as they should be."""
    num_gradients = _GRADIENTS.get(algorithm, 1)
    fast, slow = _GRADIENT[problem]
    per_chain = 1e-9 * (num_gradients * fast + _BESIDES[algorithm] * PROBLEMS[problem].dim)
    step = per_chain * (num_chains + OVERHEAD_CHAINS)
    looped = num_gradients * (_LOOPED_OVERHEAD + 1e-9 * slow * num_chains)
    num_steps = _round(scale * COMPILED_SECONDS / step)
    return Case(
        algorithm=algorithm,
        problem=problem,
        num_chains=num_chains,
        num_steps=num_steps,
        num_looped_steps=min(num_steps, _round(scale * LOOPED_SECONDS / looped)),
    )


def _all(scale: float) -> list[Cell]:
    return [
        *(_speed(*names, scale) for names in _speed_names()),
        *(_first(problem) for problem in PLANE),
        *(_threads(*names, scale) for names in itertools.product(("hmc", "mala", "ula"), PLANE)),
        Cell("memory", make_case("hmc", "gauss2", _LARGE, scale), (LAMINA,)),
    ]


def _speed_names() -> list[tuple[str, str, int]]:
    hmc = [("hmc", problem, n) for problem in SMALL for n in (1, 100, 1_000, 10_000, _LARGE)]
    return [
        *(name for name in hmc if name[1] != "ring8" or name[2] >= 1_000),
        *((kind, p, n) for kind in ("mala", "ula") for p in SMALL for n in (100, 1_000, 10_000, _LARGE)),
        *((kind, "gauss2", 1) for kind in ("mala", "ula")),  # what the eager engine costs besides its chains
        *((kind, problem, n) for kind in ("barker", "ghmc") for problem in SMALL for n in (1_000, 10_000)),
        *(("hmc", "gauss100", n) for n in (100, 1_000, 10_000)),
        ("hmc", "logistic", 1_000),
        *(("nuts", problem, 1_000) for problem in SMALL),
        ("ula", "mlp", 512),
        ("ula", "decoder", 128),
    ]


def _speed(algorithm: str, problem: str, num_chains: int, scale: float) -> Cell:
    is_network = problem in ("mlp", "decoder")
    is_eager = is_network or algorithm in ("barker", "ghmc") or num_chains in (1, 10_000)
    extra = {
        EAGER: is_eager,
        GRADIENT: problem == "gauss2" and num_chains in (1, 10_000) and algorithm == "hmc",
        **dict.fromkeys((COMPILE, BFLOAT16, PRODUCTS), is_network),
        BY_HAND: problem in PLANE and num_chains >= 1_000,
    }
    names = (LAMINA, *(name for name, takes_part in extra.items() if takes_part), *PEERS)
    return Cell("speed", make_case(algorithm, problem, num_chains, scale), names)


def _first(problem: str) -> Cell:
    case = replace(make_case("hmc", problem, 1_000), num_steps=FIRST_STEPS, num_looped_steps=FIRST_STEPS)
    return Cell("first", case, (LAMINA, *PEERS))


def _threads(algorithm: str, problem: str, scale: float) -> Cell:
    return Cell("threads", make_case(algorithm, problem, _LARGE, scale), (LAMINA, TWO_THREADS))


def _round(number: float) -> int:
    """A whole number with one digit that is not zero, and at least 2."""
    return max(2, int(float(f"{number:.0e}")))
