"""How close to the truth each kernel comes on each toy density, at what cost, and how fast it forgets its start.

A cell is one kernel on one density. Its chains warm up from afar: in groups of `CHAINS_PER_START` from points that are
twice as far from the mean as exact draws are. With the parameters that they settle on, two runs of the same length
follow:

- *From afar*: the same chains go on. Errors fall as they collect draws, which shows the cost of a low error; groups
  that share a start make nested R-hat meaningful.
- *From truth*: new chains start from exact draws. An exact kernel then has nothing to forget: whatever error it shows
  beyond a few Monte Carlo standard errors is a fault of the kernel, and an unadjusted one shows its bias. ESS, R-hat,
  acceptance and times are of this run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lamina.samplers import MALA, Chains, Energy, GeneratorNoise, Kernel, ParameterError, progress, sample
from lamina.samplers.checks import check_count, check_positive
from lamina.samplers.diagnostics import RHAT_LIMIT, DiagnosticWarning, ess_bulk, nested_rhat, rhat
from lamina.samplers.eager import Eager, Record
from lamina.samplers.engines import EngineName, resolve, start_engine
from lamina.samplers.noise import noise_from_state
from lamina.samplers.totals import Totals

from .accuracy import draws_to_low_error, error, error_curve, squares_of
from .contenders import unadjusted_step_size
from .densities import Density
from .memory import PeakMemory
from .tables import aligned, markdown

CHAINS_PER_START = 8
"""Chains that warm up from the same point: a superchain of nested R-hat."""

OVERDISPERSION = 2.0
"""Starts of warm-up are exact draws stretched by this factor about the mean, where the energy is finite there."""

NUM_PIECES = 10
"""Pieces of the run from truth that are timed one by one; speeds are their median."""

NUM_GROUPS = 8
"""Groups of chains, at most, from whose differences the standard errors of figures come."""

MIN_DRAWS = 8
"""Fewest draws per chain: both runs have diagnostics, in the later half as well."""

MAX_NUMBERS = 2**20
"""Numbers that each run keeps at most, over chains, draws and coordinates, unless draws are asked for by their number:
runs that would have more are thinned, which lowers the ESS of those kernels only that forget within a few steps."""

_NUM_PILOT_STEPS = 20
_PILOT_SHARE = 0.1

Budget = Literal["gradients", "draws", "seconds"]


class Length(NamedTuple):
    """Of a run: draws of each chain, and steps for each draw."""

    num_draws: int
    thinning: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long every kernel runs on every density.

    Attributes:
        num_chains: Chains of each run, a multiple of 8, >= 16.
        budget: What each run is given: gradients or draws of each chain, or seconds for all of them. Gradients cost
            every kernel alike; only seconds make figures depend on the machine.
        amount: How much of it; every run has 8 draws at least.
        num_warmup: Steps of warm-up, >= 1, timed and counted apart.
        seed: Seeds everything; each pair of density and kernel has its own stream, whatever else runs.
        dtype: Of the chains.
        device: Where they run.
        engine: What moves them, see `lamina.samplers.sample`.
    """

    num_chains: int = 128
    budget: Budget = "gradients"
    amount: float = 5000
    num_warmup: int = 300
    seed: int = 0
    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        check_count("the number of chains", self.num_chains, 2 * CHAINS_PER_START)
        if self.num_chains % CHAINS_PER_START:
            raise ParameterError(
                f"the number of chains must be a multiple of {CHAINS_PER_START}, as so many share a start; got "
                f"{self.num_chains}. Take {self.num_chains // CHAINS_PER_START * CHAINS_PER_START + CHAINS_PER_START}."
            )
        if self.budget == "draws":
            check_count("the number of draws", int(self.amount), MIN_DRAWS)
        check_positive(f"the number of {self.budget}", self.amount)
        check_count("the number of warm-up steps", self.num_warmup, 1)
        check_count("the seed", self.seed, 0)
        check_device(self.device)
        resolve(self.engine)  # raises where there is none of that name

    @property
    def num_starts(self) -> int:
        """Starting points of runs from afar."""
        return self.num_chains // CHAINS_PER_START

    def length(self, gradients_per_step: float, seconds_per_step: float, dim: int) -> Length:
        """The run that the budget pays for in D = dim dimensions."""
        if self.budget == "draws":
            return Length(int(self.amount), 1)
        num_steps = int(self.amount / (gradients_per_step if self.budget == "gradients" else seconds_per_step))
        thinning = max(math.ceil(num_steps * self.num_chains * dim / MAX_NUMBERS), 1)
        return Length(max(num_steps // thinning, MIN_DRAWS), thinning)

    def as_json(self) -> dict[str, Any]:
        """Everything that figures depend on, in plain values; for engine "auto" that which it stands for."""
        plain = {"dtype": str(self.dtype).removeprefix("torch."), "engine": resolve(self.engine)}
        return {**dataclasses.asdict(self), **plain}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel on one density. Figures that do not exist are NaN.

    Attributes:
        density: Name of the density.
        kernel: Name of the kernel.
        mean_error_mcse: Distance between mean of the draws and exact mean in Monte Carlo standard errors, the
            largest over coordinates.
        mean_error: The same in exact standard deviations.
        second_moment_error_mcse: Likewise of the squared draws, over coordinates whose squares have no heavy tail.
        second_moment_error: The same as a share of the exact second moment.
        num_heavy_tailed: Coordinates left out there.
        ess: Bulk effective sample size, the smallest over coordinates.
        ess_per_gradient: The same per gradient of one chain; a step without gradients counts as one.
        ess_per_second: The same per second of sampling.
        rhat: Rank-normalised split R-hat, the largest over coordinates.
        nested_rhat: Nested R-hat of the later half of the run from afar, the largest over coordinates.
        gradients_to_low_error: Gradients of `CHAINS_PER_START` chains together, after warm-up from afar, until their
            error of E[x^2] is `LOW_ERROR` on average over coordinates, see `error_curve`; NaN where it is not within
            the budget.
        gradients_to_low_error_worst: The same for the worst coordinate.
        final_error: That error, on average over coordinates, at the end of the budget.
        accept: Mean acceptance probability; of an unadjusted kernel that which MALA would have had.
        divergences: Divergent steps of one chain, on average.
        step_size: In the kernel's own convention; the mean of several.
        num_draws: Draws of each chain, in each run.
        thinning: Steps for each draw.
        gradients_per_draw: Of one chain; a step without gradients counts as one.
        seconds: Of sampling from truth, all chains, without warm-up and without starting the engine.
        seconds_per_gradient: Of one gradient of all chains at once, the median over pieces of the run.
        warmup_seconds: Of warm-up, and of starting the engine for the run from truth, which traces the energy.
        peak_memory: Of warm-up and sampling from truth with all draws kept, in MiB; see `PeakMemory`.
        options: The kernel, as one would write it.
        remarks: What is biased or unreliable.
        curve: Errors of the run from afar, "average" and "worst", after so many "gradients" of `CHAINS_PER_START`
            chains together.
        spread: For figures that have one, "standard_error" and its "degrees_of_freedom".
    """

    density: str
    kernel: str
    mean_error_mcse: float
    mean_error: float
    second_moment_error_mcse: float
    second_moment_error: float
    num_heavy_tailed: int
    ess: float
    ess_per_gradient: float
    ess_per_second: float
    rhat: float
    nested_rhat: float
    gradients_to_low_error: float
    gradients_to_low_error_worst: float
    final_error: float
    accept: float
    divergences: float
    step_size: float
    num_draws: int
    thinning: int
    gradients_per_draw: float
    seconds: float
    seconds_per_gradient: float
    warmup_seconds: float
    peak_memory: float
    options: str
    remarks: tuple[str, ...]
    curve: Mapping[str, Sequence[float]]
    spread: Mapping[str, Mapping[str, float]]

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Row:
        """The row that `dataclasses.asdict` made a mapping of, after JSON, which knows neither NaN nor tuples."""
        figures = {name: _or_nan(value) for name, value in stored.items()}
        curve = {name: [_or_nan(value) for value in values] for name, values in stored["curve"].items()}
        return Row(**(figures | {"remarks": tuple(stored["remarks"]), "curve": curve}))


SUMMARISED = (
    "mean_error_mcse",
    "mean_error",
    "second_moment_error_mcse",
    "second_moment_error",
    "ess_per_gradient",
    "ess_per_second",
    "rhat",
    "nested_rhat",
    "gradients_to_low_error",
    "gradients_to_low_error_worst",
    "final_error",
    "accept",
    "divergences",
    "seconds_per_gradient",
    "warmup_seconds",
    "peak_memory",
)


class Draws(NamedTuple):
    """Draws of the two runs of a cell, (C, N, D) each.

    Attributes:
        from_truth: Started from exact draws.
        from_afar: Warmed up from afar, `CHAINS_PER_START` neighbouring chains from each point.
    """

    from_truth: Tensor
    from_afar: Tensor


def cell_name(density: str, kernel: str) -> str:
    """What the cell of a kernel on a density is called."""
    return f"{density}/{kernel}"


def benchmark(
    densities: Sequence[Density],
    kernels: Mapping[str, Kernel[Any]],
    settings: Settings,
    *,
    done: Mapping[str, Row] | None = None,
    on_cell: Callable[[Mapping[str, Row], str, Draws], None] = lambda rows, name, draws: None,
    on_density: Callable[[Density, Mapping[str, Row]], None] = lambda density, rows: None,
    show_progress: bool | None = None,
) -> dict[str, Row]:
    """Run every kernel on every density.

    Args:
        densities: The densities.
        kernels: The kernels, by the names that they have in rows; see `make_contender`.
        settings: How long.
        done: Rows measured before, by `cell_name`; they are kept, and not measured again.
        on_cell: Called after each cell with all rows so far, the cell's name and its draws.
        on_density: Called after each density with all rows so far.
        show_progress: None shows a bar where standard error is a terminal.

    Returns:
        All rows, by `cell_name`.
    """
    rows = dict(done or {})
    todo = {density: [name for name in kernels if cell_name(density.name, name) not in rows] for density in densities}
    with progress(sum(map(len, todo.values())), "samplers", enabled=show_progress) as bar:
        for density, names in todo.items():
            for name in names:
                row, draws = measure(density, name, kernels[name], settings)
                rows[cell_name(density.name, name)] = row
                bar.advance({"density": row.density, "kernel": row.kernel})
                on_cell(rows, cell_name(density.name, name), draws)
            on_density(density, rows)
    return rows


def measure(
    density: Density, name: str, kernel: Kernel[Any], settings: Settings, *, energy: Energy | None = None
) -> tuple[Row, Draws]:
    """Run one kernel on one density and compare its draws with the truth.

    Args:
        density: Where chains start, and the truth.
        name: Of the kernel, for the row.
        kernel: The kernel; its warm-up adapts its parameters, or it takes a share of MALA's step size, see
            `unadjusted_step_size`.
        settings: How long.
        energy: What the kernel samples instead of the density, to see what a wrong energy looks like.

    Returns:
        The figures, and the draws.
    """
    target = density if energy is None else energy
    with PeakMemory(torch.device(settings.device)) as memory:
        warm = _warm_up(target, density, name, kernel, settings)
        pilot = _pilot(target, kernel, warm.chains, settings)
        num_steps = pilot.draws.shape[1] * pilot.thinning
        length = settings.length(float(pilot.gradients.mean()) / num_steps, pilot.seconds / num_steps, density.dim)
        exact = _exact_chains(density, name, warm.chains, settings)
        run = _run(target, kernel, exact, length, settings.engine, num_pieces=NUM_PIECES)
    afar = _run(target, kernel, pilot.chains, length, settings.engine, num_pieces=1)
    draws = Draws(run.draws, afar.draws)
    return _row(density, name, kernel, run, draws, warm.seconds + run.start_seconds, memory.mib), draws


def starts_afar(target: Energy, density: Density, settings: Settings, name: str) -> Tensor:
    """Where warm-up starts: (C, D), `CHAINS_PER_START` neighbours alike."""
    points = density.sample(settings.num_starts, generator=_host_generator(settings, density.name, name, "starts"))
    stretched = density.mean + OVERDISPERSION * (points - density.mean)
    points, stretched = (x.to(settings.device, settings.dtype) for x in (points, stretched))
    is_inside = target(stretched).isfinite().unsqueeze(1)
    return torch.where(is_inside, stretched, points).repeat_interleave(CHAINS_PER_START, dim=0)


def caption(settings: Settings) -> str:
    """What the rows of a table have in common, in a line."""
    plain = settings.as_json()
    return (
        f"{settings.num_chains} chains, {settings.amount:g} {settings.budget}, {settings.num_warmup} steps of warm-up, "
        f"seed {settings.seed}, {plain['dtype']} on {settings.device}, engine {plain['engine']}"
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    return aligned(_HEADER, [_cells(row) for row in rows], _SIDES)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    return markdown(_HEADER, [_cells(row) for row in rows], _SIDES)


def summary(rows: Mapping[str, Row]) -> dict[str, float]:
    """The finite figures by name, such as `ess_per_second/banana/hmc`."""
    figures = {f"{figure}/{name}": getattr(row, figure) for figure in SUMMARISED for name, row in rows.items()}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def report(rows: Mapping[str, Row], settings: Settings) -> dict[str, Any]:
    """Everything for JSON, without provenance."""
    return {
        "benchmark": "samplers",
        "settings": settings.as_json(),
        "rows": {name: dataclasses.asdict(row) for name, row in rows.items()},
        "summary": summary(rows),
    }


class _Warm(NamedTuple):
    chains: Chains
    seconds: float


@dataclass(frozen=True)
class _Run:
    """A run in pieces.

    Attributes:
        draws: (C, N, D).
        accept: Mean acceptance of each chain, (C,).
        divergences: Of each chain, (C,).
        thinning: Steps for each draw.
        gradients: Of each chain, (C,); at least one a step.
        start_seconds: Of starting the engine: tracing, building, energies of the start.
        seconds: Of all pieces.
        piece_seconds: Of one draw of all chains, for each piece.
        chains: Where it stands.
    """

    draws: Tensor
    thinning: int
    accept: Tensor
    divergences: Tensor
    gradients: Tensor
    start_seconds: float
    seconds: float
    piece_seconds: tuple[float, ...]
    chains: Chains

    @property
    def gradients_per_draw(self) -> float:
        return float(self.gradients.mean()) / self.draws.shape[1]


def _warm_up(target: Energy, density: Density, name: str, kernel: Kernel[Any], settings: Settings) -> _Warm:
    """Warm up from afar; one more step is made, and thrown away."""
    start = starts_afar(target, density, settings, name)
    params = None
    if kernel.target_accept is None:
        step_size = unadjusted_step_size(kernel, _mala_step_size(target, density, settings), density.dim)
        params = kernel.init_params(start, step_size=step_size)
    started = now(settings.device)
    warm = sample(
        target,
        kernel,
        start,
        num_samples=1,
        num_warmup=settings.num_warmup,
        params=params,
        generator=_generator(settings, density.name, name, "from afar"),
        engine=settings.engine,
        show_progress=False,
    )
    return _Warm(warm.chains, now(settings.device) - started)


def _exact_chains(density: Density, name: str, warm: Chains, settings: Settings) -> Chains:
    """Chains that start from exact draws with the parameters of those that have warmed up, and noise of their own."""
    start = density.sample(
        settings.num_chains,
        generator=_host_generator(settings, density.name, name, "exact"),
        dtype=settings.dtype,
        device=settings.device,
    )
    noise = GeneratorNoise(_generator(settings, density.name, name, "from truth"))
    return Chains(start, warm.layout, warm.params, noise.state_dict(), 0)


def _mala_step_size(target: Energy, density: Density, settings: Settings) -> float:
    """What MALA settles on."""
    return float(_warm_up(target, density, "guide", MALA(), settings).chains.params.step_size)


def _pilot(target: Energy, kernel: Kernel[Any], chains: Chains, settings: Settings) -> _Run:
    """A few steps, which tell what a step costs; where seconds are given, more, so that they are enough to tell."""
    thinning = 1
    while True:
        pilot = _run(target, kernel, chains, Length(_NUM_PILOT_STEPS, thinning), settings.engine, num_pieces=1)
        if settings.budget != "seconds" or pilot.seconds > _PILOT_SHARE * settings.amount:
            return pilot
        thinning *= 4


def _run(
    target: Energy, kernel: Kernel[Any], chains: Chains, length: Length, engine: EngineName, *, num_pieces: int
) -> _Run:
    """Continue chains on one engine, whose start is timed, and then every piece."""
    device, (num_draws, thinning) = str(chains.matrix.device), length
    times = [now(device)]
    noise = noise_from_state(chains.noise_state, chains.matrix.device)
    runner, state = start_engine(
        engine,
        Eager(target, kernel, chains, noise, context=None, temperature=1.0, chain_batch_size=None),
        num_steps=num_draws * thinning,
        new_record=functools.partial(Record.of_all, kernel),
    )
    draws, totals = runner.new_draws(num_draws), Totals(kernel, state)
    times.append(now(device))
    pieces = [piece for piece in draws.tensor_split(num_pieces) if len(piece)]
    for piece in pieces:
        state, _ = runner.advance(state, len(piece), Record(totals, thinning, piece))
        times.append(now(device))
    start_seconds, *seconds = (end - begin for begin, end in itertools.pairwise(times))
    return _Run(
        draws=draws.transpose(0, 1),
        thinning=thinning,
        accept=_per_chain(totals.accept_prob).cpu(),
        divergences=totals.num_divergent.double().cpu(),
        gradients=totals.num_grad_evals.double().cpu().clamp(min=num_draws * thinning),
        start_seconds=start_seconds,
        seconds=sum(seconds),
        piece_seconds=tuple(time / len(piece) for time, piece in zip(seconds, pieces, strict=True)),
        chains=runner.chains(state),
    )


def _row(
    density: Density,
    name: str,
    kernel: Kernel[Any],
    run: _Run,
    draws: Draws,
    warmup_seconds: float,
    peak_memory: float,
) -> Row:
    draws = Draws(*(values.double().cpu() for values in draws))
    facts = squares_of(density)
    light = ~facts.is_heavy_tailed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)  # NaN in the row says the same, with a remark
        mean_error = error(draws.from_truth, density.mean, density.variance.sqrt())
        truth = density.second_moment[light]
        square_error = error(draws.from_truth[..., light].square(), truth, truth)
        figures, spread = _figures_with_spread(density, run, draws)
        ess = float(ess_bulk(draws.from_truth).amin())
    curve = error_curve(draws.from_afar, density, CHAINS_PER_START)
    speed, speed_error = _median([seconds / run.gradients_per_draw for seconds in run.piece_seconds])
    num_draws = draws.from_truth.shape[1]
    ess_per_second = ess / (speed * run.gradients_per_draw * num_draws)
    spread |= {
        "mean_error": _spread(mean_error.relative_mcse, ess),
        "second_moment_error": _spread(square_error.relative_mcse, ess),
        "seconds_per_gradient": _spread(speed_error, len(run.piece_seconds) - 1),
    }
    return Row(
        density=density.name,
        kernel=name,
        mean_error_mcse=mean_error.mcse,
        mean_error=mean_error.relative,
        second_moment_error_mcse=square_error.mcse,
        second_moment_error=square_error.relative,
        num_heavy_tailed=int(facts.is_heavy_tailed.sum()),
        ess=ess,
        ess_per_second=ess_per_second,
        step_size=float(run.chains.params.step_size.mean()),
        num_draws=num_draws,
        thinning=run.thinning,
        gradients_per_draw=run.gradients_per_draw,
        seconds=run.seconds,
        seconds_per_gradient=speed,
        warmup_seconds=warmup_seconds,
        peak_memory=peak_memory,
        options=repr(kernel),
        remarks=_remarks(kernel, figures["rhat"], facts.is_heavy_tailed),
        curve={
            "gradients": _rounded(curve.num_draws * CHAINS_PER_START * run.gradients_per_draw),
            "average": _rounded(curve.average),
            "worst": _rounded(curve.worst),
        },
        spread={figure: one for figure, one in spread.items() if all(map(math.isfinite, one.values()))},
        **figures,
    )


def _figures_with_spread(
    density: Density, run: _Run, draws: Draws
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures over all chains, and their standard errors from those of groups of chains, which are independent."""
    num_starts = len(draws.from_afar) // CHAINS_PER_START
    groups = torch.arange(num_starts).tensor_split(min(NUM_GROUPS, num_starts // 2))
    ends = [0, *itertools.accumulate(CHAINS_PER_START * len(group) for group in groups)]
    parts = [_figures(density, run, draws, slice(*limits)) for limits in itertools.pairwise(ends)]
    figures = _figures(density, run, draws, slice(None))
    if len(parts) == 1:
        return figures, {}
    return figures, {
        name: _spread(statistics.stdev(part[name] for part in parts) / math.sqrt(len(parts)), len(parts) - 1)
        for name in figures
        if all(math.isfinite(part[name]) for part in parts)
    }


def _figures(density: Density, run: _Run, draws: Draws, chains: slice) -> dict[str, float]:
    """Figures of some of the chains that do not depend on how many they are."""
    from_truth, from_afar = draws.from_truth[chains], draws.from_afar[chains]
    num_chains, num_draws = from_truth.shape[:2]
    gradients_per_draw = CHAINS_PER_START * float(run.gradients[chains].mean()) / num_draws
    curve = error_curve(from_afar, density, CHAINS_PER_START)
    return {
        "ess_per_gradient": float(ess_bulk(from_truth).amin()) / float(run.gradients[chains].sum()),
        "rhat": float(rhat(from_truth).amax()),
        "nested_rhat": float(nested_rhat(from_afar[:, num_draws // 2 :], num_chains // CHAINS_PER_START).amax()),
        "gradients_to_low_error": gradients_per_draw * draws_to_low_error(curve.num_draws, curve.average),
        "gradients_to_low_error_worst": gradients_per_draw * draws_to_low_error(curve.num_draws, curve.worst),
        "final_error": _rounded(curve.average)[-1],
        "accept": float(run.accept[chains].mean()),
        "divergences": float(run.divergences[chains].mean()),
    }


def _rounded(curve: Tensor) -> list[float]:
    """To six digits, which is more than anybody sees, and a third of the room in a file."""
    return [float(f"{value:.6g}") for value in curve.tolist()]


def _spread(standard_error: float, degrees_of_freedom: float) -> dict[str, float]:
    return {"standard_error": standard_error, "degrees_of_freedom": degrees_of_freedom}


def _median(values: Sequence[float]) -> tuple[float, float]:
    """Median, and its standard error as it is for normal values."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.median(values), math.sqrt(math.pi / 2 / len(values)) * deviation


def _remarks(kernel: Kernel[Any], worst_rhat: float, is_heavy: Tensor) -> tuple[str, ...]:
    remarks = []
    if not kernel.is_exact:
        remarks.append("biased: unadjusted")
    if math.isnan(worst_rhat):
        remarks.append("draws constant or not finite")
    elif worst_rhat > RHAT_LIMIT:
        remarks.append(f"R-hat > {RHAT_LIMIT}: not mixed, errors unreliable")
    if is_heavy.any():
        remarks.append(f"x^2 heavy-tailed in {int(is_heavy.sum())} of {len(is_heavy)} coordinates, left out")
    return tuple(remarks)


_HEADER = (
    "density",
    "kernel",
    "mean err",
    "x^2 err",
    "x^2 rel",
    "ESS/s",
    "ESS/grad",
    "to 10 %",
    "worst",
    "R-hat",
    "nested",
    "accept",
    "diverg.",
    "warm-up s",
    "s",
    "MiB",
    "remark",
)
_SIDES = "llrrrrrrrrrrrrrrl"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.density,
        row.kernel,
        f"{row.mean_error_mcse:.1f}",
        f"{row.second_moment_error_mcse:.1f}",
        f"{row.second_moment_error:.2g}",
        f"{row.ess_per_second:.0f}",
        f"{row.ess_per_gradient:.2g}",
        _or_dash(row.gradients_to_low_error),
        _or_dash(row.gradients_to_low_error_worst),
        f"{row.rhat:.3f}",
        f"{row.nested_rhat:{'.2f' if row.nested_rhat < 1000 else '.2g'}}",  # beyond all bounds without randomness
        f"{row.accept:.2f}",
        f"{row.divergences:.3g}",
        f"{row.warmup_seconds:.2f}",
        f"{row.seconds:.2f}",
        f"{row.peak_memory:.0f}",
        "; ".join(row.remarks),
    )


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _or_dash(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _generator(settings: Settings, *names: str) -> torch.Generator:
    return torch.Generator(settings.device).manual_seed(_seed(settings.seed, *names))


def _host_generator(settings: Settings, *names: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(settings.seed, *names))


def _seed(seed: int, *names: str) -> int:
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:7])


def now(device: str) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def check_device(name: str) -> None:
    """Raise a `ParameterError` unless there is such a device."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as problem:
        first = str(problem).splitlines()[0]
        raise ParameterError(
            f"there is no device {name!r} here: {first}. Take cpu, or cuda on a machine with one."
        ) from problem


def _per_chain(accept: Tensor) -> Tensor:
    """Mean acceptance of each chain, also of a kernel of parts: (C,) or (C, B) to (C,)."""
    return accept.reshape(len(accept), -1).mean(dim=1)
