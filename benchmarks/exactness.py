"""The full exactness matrix: every exact kernel on every toy density, in both dtypes, on the engine asked for.

Each case starts many chains from exact draws, takes a few steps, and compares where they end with the exact law; see
`lamina.samplers.testing.check_invariance`. Step sizes come from a warm-up apart, as adaptation is no part of what is
tested. Masses take turns, so that every kernel and every density meets each kind several times. `Blocks` sees every
position in two parts, the first coordinate and the rest.

Parallel tempering is not here: it starts exactly only where the laws of all its temperatures can be drawn from, and
has tests of its own on such densities.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.samplers import (
    GHMC,
    HMC,
    MALA,
    MALT,
    MAMS,
    NUTS,
    RWM,
    Barker,
    Blocks,
    Clipped,
    DualAveraging,
    Energy,
    GeneratorNoise,
    Kernel,
    NotTraceableError,
    Position,
    RandomisedHMC,
    UnknownNameError,
    kernel_names,
    make_kernel,
    progress,
    sample,
)
from lamina.samplers import KERNELS as REGISTERED
from lamina.samplers.engines import EngineName
from lamina.samplers.testing import InvarianceReport, check_invariance

from .densities import DENSITIES, Density, density_names, make_density
from .tables import aligned

KERNELS: Mapping[str, Kernel[Any]] = {
    "rwm": RWM(step_size=0.5),
    "mala": MALA(step_size=0.1),
    "mala-clipped": Clipped(kernel=MALA(step_size=0.1), max_norm=1.0),
    "barker": Barker(step_size=0.5),
    "hmc": HMC(step_size=0.1, num_leapfrog_steps=4),
    "hmc-jitter": HMC(step_size=0.1, num_leapfrog_steps=4, jitter=0.5),
    "randomised-hmc": RandomisedHMC(step_size=0.1, trajectory_length=1.0),
    "ghmc": GHMC(step_size=0.1, num_leapfrog_steps=2, persistence=0.7),
    "malt": MALT(step_size=0.1, num_leapfrog_steps=4),
    "nuts": NUTS(step_size=0.1, max_tree_depth=3),
    "mams": MAMS(step_size=0.1, trajectory_length=1.0),
    "blocks": Blocks(((0, MALA(step_size=0.1)), (1, HMC(step_size=0.1, num_leapfrog_steps=4)))),
}
"""The exact kernels; those of the toolkit that are not have no place here."""

MASSES = ("identity", "diagonal", "dense")
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
NUM_NUMBERS = 2_000_000
"""Coordinates of all chains together: 100,000 chains in up to 20 dimensions, fewer in more."""

MAX_CHAINS = 100_000

SHARES: Mapping[str, float] = {"nuts": 0.2}
"""Of the chains, for kernels that are slow in large batches: the trees of all chains grow as long as the deepest."""
NUM_STEPS = 4
FAMILYWISE_FALSE_ALARM = 1e-6
"""Probability, at most, that any case of the whole matrix fails although all kernels are exact."""

MIN_MOVEMENT = 0.002
"""A few steps are few where one step size serves many scales: less is asked for than by default, enough to tell that
chains moved at all. How far they got stands in every row."""


@dataclass(frozen=True, order=True)
class Case:
    """One kernel on one density.

    Attributes:
        density: Name in `DENSITIES`.
        kernel: Name in `KERNELS`.
        dtype: "float32" or "float64".
        mass: "identity", "diagonal" or "dense".
        engine: What moves the chains, see `lamina.samplers.sample`; a name without an engine means "eager".
    """

    density: str
    kernel: str
    dtype: str
    mass: str
    engine: EngineName = "eager"

    def __str__(self) -> str:
        name = f"{self.density}/{self.kernel}/{self.dtype}/{self.mass}"
        return name if self.engine == "eager" else f"{name}/{self.engine}"


def exact_kernels() -> dict[str, Kernel[Any]]:
    """The kernels of the matrix, and exact ones that other distributions announce, with their defaults."""
    announced = {name: make_kernel(name) for name in kernel_names() if name not in REGISTERED}
    return {**KERNELS, **{name: kernel for name, kernel in announced.items() if kernel.is_exact}}


def cases(
    densities: Sequence[str] = tuple(DENSITIES),
    kernels: Sequence[str] = tuple(KERNELS),
    engine: EngineName = "eager",
) -> list[Case]:
    """All cases of some densities and kernels, those of other distributions included.

    Raises:
        UnknownNameError: If there is no such density or kernel.
    """
    known = {"density": density_names(), "exact kernel": list(exact_kernels())}
    for (kind, known_names), names in zip(known.items(), (densities, kernels), strict=True):
        for name in names:
            if name not in known_names:
                raise UnknownNameError(kind, name, known_names)

    def mass(*names: str) -> str:
        """The kind whose turn it is."""
        places = zip((*known.values(), list(DTYPES)), names, strict=True)
        return MASSES[sum(everything.index(name) for everything, name in places) % len(MASSES)]

    return [Case(*names, mass(*names), engine) for names in itertools.product(densities, kernels, DTYPES)]


def inverse_mass(kind: str, dim: int) -> Tensor | None:
    """An inverse mass unlike the covariance of any density here, so that a wrong use of it shows."""
    diagonal = torch.linspace(0.4, 1.6, dim, dtype=torch.float64)
    if kind == "identity":
        return None
    return diagonal if kind == "diagonal" else torch.diag(diagonal) + 0.5 / dim


def check(case: Case) -> InvarianceReport:
    """Check one case; its share of the false-alarm rate is that of the whole matrix over the number of cases."""
    density, kernel = make_density(case.density), exact_kernels()[case.kernel]
    exact = _exact_draws(case.density, case.dtype)
    draws = [x[: int(len(x) * SHARES.get(case.kernel, 1.0))] for x in exact]
    draws.append(density.sample(200, generator=torch.Generator().manual_seed(3), dtype=DTYPES[case.dtype]))
    energy, (start, fresh, apart) = _as_seen_by(kernel, density, draws)
    params = kernel.init_params(start, inverse_mass=inverse_mass(case.mass, density.dim))
    warm = sample(
        energy,
        kernel,
        apart,
        num_samples=1,
        num_warmup=300,
        params=params,
        noise=2,
        adaptation=DualAveraging(),
        engine="eager",  # step sizes are the same, whatever engine is checked with them
    )
    return check_invariance(
        kernel,
        energy,
        start,
        fresh,
        noise=GeneratorNoise(torch.Generator().manual_seed(1)),
        cdfs=[density.marginal_cdf(d) for d in range(density.dim)],
        num_steps=NUM_STEPS,
        params=warm.chains.params,
        false_alarm=FAMILYWISE_FALSE_ALARM / len(cases()),
        min_movement=MIN_MOVEMENT,
        engine=case.engine,
    )


def run(
    wanted: Sequence[Case],
    done: Mapping[str, Mapping[str, Any]],
    *,
    on_row: Callable[[Mapping[str, Mapping[str, Any]]], None],
    show_progress: bool | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Check all cases that are not done yet.

    Args:
        wanted: The cases.
        done: Rows of cases checked before, by name; they are kept.
        on_row: Called with all rows after each case, to store them.
        show_progress: None shows a bar where standard error is a terminal.
    """
    rows = dict(done)
    todo = [case for case in wanted if str(case) not in rows]
    with progress(len(todo), "exactness", enabled=show_progress) as bar:
        for case in todo:
            try:
                rows[str(case)] = row(check(case)) | {"engine": case.engine}
            except NotTraceableError as error:
                rows[str(case)] = {"engine": case.engine, "refused": str(error)}
            bar.advance({"case": str(case)})
            on_row(rows)
    return rows


def row(report: InvarianceReport) -> dict[str, Any]:
    """What is kept of a report."""
    worst = max(report.comparisons, key=lambda comparison: comparison.distance / comparison.half_width)
    return {
        "passed": report.passed,
        "worst": worst.name,
        "distance": worst.distance,
        "allowed": worst.half_width,
        "detectable_shift": max(comparison.detectable_shift for comparison in report.comparisons),
        "accept": report.accept_prob,
        "movement": report.movement,
        "divergent": report.num_divergent,
    }


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Numbers by name: how many passed, and for each case its worst distance as a share of what is allowed.

    Cases that the engine refuses, such as a dense mass of a hundred dimensions, count as such and no more.
    """
    num_cases, rows = len(rows), {name: row for name, row in rows.items() if "refused" not in row}
    shares = {f"share_of_allowed/{name}": row["distance"] / row["allowed"] for name, row in rows.items()}
    return {
        "num_cases": num_cases,
        "num_refused": num_cases - len(rows),
        "num_passed": sum(row["passed"] for row in rows.values()),
        "largest_share_of_allowed": max(shares.values(), default=0.0),
        "largest_detectable_shift": max((row["detectable_shift"] for row in rows.values()), default=0.0),
        **shares,
    }


def settings(engine: EngineName = "eager") -> dict[str, Any]:
    """What rows must share to stand in one file."""
    return {
        "engine": engine,
        "max_chains": MAX_CHAINS,
        "num_numbers": NUM_NUMBERS,
        "shares": dict(SHARES),
        "num_steps": NUM_STEPS,
        "familywise_false_alarm": FAMILYWISE_FALSE_ALARM,
        "min_movement": MIN_MOVEMENT,
        "kernels": {name: repr(kernel) for name, kernel in KERNELS.items()},
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each density and kernel: the worst over dtypes and masses."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for name, one in rows.items():
        if "refused" in one:
            continue
        groups.setdefault(tuple(name.split("/")[:2]), []).append(one)
    cells = [
        (
            *group,
            f"{sum(one['passed'] for one in members)}/{len(members)}",
            f"{max(one['distance'] / one['allowed'] for one in members):.2f}",
            f"{min(one['accept'] for one in members):.2f}",
            f"{min(one['movement'] for one in members):.2f}",
        )
        for group, members in groups.items()
    ]
    return aligned(("density", "kernel", "passed", "distance/allowed", "accept", "movement"), cells, "llrrrr")


def _as_seen_by(
    kernel: Kernel[Any], density: Density, positions: Sequence[Tensor]
) -> tuple[Energy, Sequence[Position]]:
    """The energy and some positions; in two parts, the first coordinate and the rest, where the kernel is of blocks."""
    if not isinstance(kernel, Blocks):
        return density, positions
    return (lambda parts: density(torch.cat(parts, dim=1))), [(x[:, :1], x[:, 1:]) for x in positions]


@functools.lru_cache(maxsize=2)
def _exact_draws(density: str, dtype: str) -> tuple[Tensor, Tensor]:
    """Starts, and fresh draws to compare the ends with."""
    generator = torch.Generator().manual_seed(0)
    truth = make_density(density)
    num_chains = min(MAX_CHAINS, NUM_NUMBERS // truth.dim)
    draw = functools.partial(truth.sample, num_chains, generator=generator, dtype=DTYPES[dtype])
    return draw(), draw()
