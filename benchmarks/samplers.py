"""How close to the truth each kernel comes on each toy density, and how fast.

Chains start from exact draws, one each. So an exact kernel has nothing to forget: whatever error it shows beyond
a few Monte Carlo standard errors is a fault of the kernel, and an unadjusted one shows its bias. How well chains
mix is told apart from that by R-hat, which compares chains that started all over the density, and by the ESS.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.samplers import MALA, Energy, Kernel, Samples, make_kernel, progress, sample
from lamina.samplers.checks import check_count
from lamina.samplers.diagnostics import RHAT_LIMIT, DiagnosticWarning, ess_bulk, mcse_mean, rhat

from .densities import Density
from .tables import aligned

OPTIONS: Mapping[str, Mapping[str, Any]] = {"hmc": {"num_leapfrog_steps": 10, "jitter": 0.3}}
"""Options of kernels that differ from their own defaults; step sizes are adapted."""

UNADJUSTED_SHARE = 0.3
"""Step size of a kernel that has no acceptance to adapt to, as a share of what MALA settles on at the same density.

A compromise: a smaller share lowers the bias, and the speed with it."""

HEAVY_TAIL = 0.7
"""Tail index beyond which averages of draws are unreliable, as in Vehtari, Simpson, Gelman, Yao and Gabry (2024),
JMLR 25, section 3."""

_NUM_TAIL_DRAWS = 200_000
_TAIL_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long every kernel runs on every density.

    Attributes:
        num_chains: Chains, >= 2.
        num_draws: Draws of each chain, >= 4.
        num_warmup: Steps of warm-up, >= 1, which adapt the step size and are neither timed nor counted.
        seed: Seeds everything; each pair of density and kernel has its own stream, whatever else runs.
        dtype: Of the chains.
    """

    num_chains: int = 100
    num_draws: int = 2000
    num_warmup: int = 500
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        check_count("the number of chains", self.num_chains, 2)
        check_count("the number of draws", self.num_draws, 4)
        check_count("the number of warm-up steps", self.num_warmup, 1)
        check_count("the seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel on one density.

    Attributes:
        density: Name of the density.
        kernel: Name of the kernel.
        mean_error_mcse: Distance between mean of the draws and exact mean in Monte Carlo standard errors, the
            largest over coordinates.
        second_moment_error_mcse: Likewise of the squared draws, over coordinates whose squares have no heavy tail.
        num_heavy_tailed: Coordinates left out there.
        ess: Bulk effective sample size, the smallest over coordinates.
        ess_per_second: The same per second of sampling.
        ess_per_gradient: The same per gradient of one chain.
        rhat: Rank-normalised split R-hat, the largest over coordinates.
        accept: Mean acceptance probability; of an unadjusted kernel that which MALA would have had.
        divergences: Divergent steps, over all chains.
        step_size: In the kernel's own convention.
        seconds: Of sampling, without warm-up.
        options: The kernel, as one would write it.
        remarks: What is biased or unreliable.
    """

    density: str
    kernel: str
    mean_error_mcse: float
    second_moment_error_mcse: float
    num_heavy_tailed: int
    ess: float
    ess_per_second: float
    ess_per_gradient: float
    rhat: float
    accept: float
    divergences: int
    step_size: float
    seconds: float
    options: str
    remarks: tuple[str, ...]


_SUMMARISED = (
    "mean_error_mcse",
    "second_moment_error_mcse",
    "ess_per_second",
    "ess_per_gradient",
    "rhat",
    "accept",
    "divergences",
)


def benchmark(
    densities: Sequence[Density],
    kernels: Mapping[str, Kernel[Any]],
    settings: Settings,
    *,
    on_density: Callable[[Density, Mapping[str, Tensor]], None] = lambda density, draws: None,
    show_progress: bool | None = None,
) -> list[Row]:
    """Run every kernel on every density.

    Args:
        densities: The densities.
        kernels: The kernels, by the names that they have in rows; see `make_contender`.
        settings: How long.
        on_density: Called after each density with the draws (C, N, D) of each kernel, by name.
        show_progress: None shows a bar where standard error is a terminal.
    """
    rows = []
    with progress(len(densities) * len(kernels), "samplers", enabled=show_progress) as bar:
        for density in densities:
            draws = {}
            for name, kernel in kernels.items():
                row, draws[name] = measure(density, name, kernel, settings)
                rows.append(row)
                bar.advance({"density": row.density, "kernel": row.kernel})
            on_density(density, draws)
    return rows


def make_contender(name: str) -> Kernel[Any]:
    """Make a kernel by name, with the options of the benchmark.

    Raises:
        UnknownNameError: If there is no such kernel; the message shows the nearest names.
    """
    return make_kernel(name, **OPTIONS.get(name, {}))


def measure(
    density: Density, name: str, kernel: Kernel[Any], settings: Settings, *, energy: Energy | None = None
) -> tuple[Row, Tensor]:
    """Run one kernel on one density and compare its draws with the truth.

    Args:
        density: Where chains start, and the truth.
        name: Of the kernel, for the row.
        kernel: The kernel; its warm-up adapts its step size, or that is a share of MALA's, `UNADJUSTED_SHARE`.
        settings: How long.
        energy: What the kernel samples instead of the density, to see what a wrong energy looks like.

    Returns:
        The figures, and the draws (C, N, D).
    """
    target = density if energy is None else energy
    generator = _generator(settings.seed, density.name, name)
    warm = _warm_up(target, density, kernel, settings, generator)
    started = time.perf_counter()
    result = sample(target, kernel, warm.chains, num_samples=settings.num_draws, show_progress=False)
    seconds = time.perf_counter() - started
    assert isinstance(result.draws, Tensor)
    return _row(density, name, result, seconds), result.draws


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    header = (
        "density",
        "kernel",
        "mean err",
        "x^2 err",
        "ESS/s",
        "ESS/grad",
        "R-hat",
        "accept",
        "diverg.",
        "remark",
    )
    cells = [
        (
            row.density,
            row.kernel,
            f"{row.mean_error_mcse:.1f}",
            f"{row.second_moment_error_mcse:.1f}",
            f"{row.ess_per_second:.0f}",
            f"{row.ess_per_gradient:.2g}",
            f"{row.rhat:.3f}",
            f"{row.accept:.2f}",
            str(row.divergences),
            "; ".join(row.remarks),
        )
        for row in rows
    ]
    return aligned(header, cells, "llrrrrrrrl")


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The finite figures by name, such as `ess_per_second/banana/hmc`."""
    figures = {f"{figure}/{row.density}/{row.kernel}": getattr(row, figure) for figure in _SUMMARISED for row in rows}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def report(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Everything for JSON, without provenance."""
    return {
        "benchmark": "samplers",
        "settings": {**dataclasses.asdict(settings), "dtype": str(settings.dtype).removeprefix("torch.")},
        "rows": [dataclasses.asdict(row) for row in rows],
        "summary": summary(rows),
    }


@functools.cache
def heavy_tailed_squares(density: Density) -> Tensor:
    """Which coordinates have squares of such heavy tails that their averages are unreliable, (D,) of bool.

    Judged by the Hill estimate of the tail index from the largest 1 in 1000 of many exact draws: formal moments do
    not tell, as those of the funnel all exist and no run ever sees them.

    Source: Hill (1975), Annals of Statistics 3, equation 2.5.
    """
    squares = density.sample(_NUM_TAIL_DRAWS, generator=_generator(0, density.name, "tails")).square()
    logs = squares.topk(int(_TAIL_SHARE * _NUM_TAIL_DRAWS) + 1, dim=0).values.log()
    return (logs[:-1] - logs[-1]).mean(dim=0) > HEAVY_TAIL


def _generator(seed: int, *names: str) -> torch.Generator:
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _warm_up(
    target: Energy, density: Density, kernel: Kernel[Any], settings: Settings, generator: torch.Generator
) -> Samples:
    """Run the warm-up from exact draws; one more step is made, and thrown away."""
    start = density.sample(settings.num_chains, generator=generator, dtype=settings.dtype)
    params = None
    if kernel.target_accept is None:
        guide = _warm_up(target, density, MALA(), settings, generator)
        params = kernel.init_params(start, step_size=UNADJUSTED_SHARE * float(guide.chains.params.step_size))
    return sample(
        target,
        kernel,
        start,
        num_samples=1,
        num_warmup=settings.num_warmup,
        params=params,
        generator=generator,
        show_progress=False,
    )


def _row(density: Density, name: str, result: Samples, seconds: float) -> Row:
    assert isinstance(result.draws, Tensor)
    draws = result.draws.double()
    heavy = heavy_tailed_squares(density)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)  # NaN in the row says the same, with a remark
        mean_error = _error(draws, density.mean).amax()
        second_moment_error = _error(draws.square(), density.second_moment)[~heavy].amax()
        ess, worst_rhat = float(ess_bulk(draws).amin()), float(rhat(draws).amax())
    return Row(
        density=density.name,
        kernel=name,
        mean_error_mcse=float(mean_error),
        second_moment_error_mcse=float(second_moment_error),
        num_heavy_tailed=int(heavy.sum()),
        ess=ess,
        ess_per_second=ess / seconds,
        ess_per_gradient=ess / int(result.num_grad_evals.sum()),
        rhat=worst_rhat,
        accept=float(result.accept_prob.mean()),
        divergences=int(result.num_divergent.sum()),
        step_size=float(result.chains.params.step_size),
        seconds=seconds,
        options=repr(result.kernel),
        remarks=_remarks(result.kernel, worst_rhat, heavy),
    )


def _error(values: Tensor, truth: Tensor) -> Tensor:
    """Distance of means over chains and draws from the truth, in Monte Carlo standard errors, (D,)."""
    return (values.mean(dim=(0, 1)) - truth).abs() / mcse_mean(values)


def _remarks(kernel: Kernel[Any], worst_rhat: float, heavy: Tensor) -> tuple[str, ...]:
    remarks = []
    if not kernel.is_exact:
        remarks.append("biased: unadjusted")
    if math.isnan(worst_rhat):
        remarks.append("draws constant or not finite")
    elif worst_rhat > RHAT_LIMIT:
        remarks.append(f"R-hat > {RHAT_LIMIT}: not mixed, errors unreliable")
    if heavy.any():
        remarks.append(f"x^2 heavy-tailed in {int(heavy.sum())} of {len(heavy)} coordinates, left out")
    return tuple(remarks)
