"""Pictures of chains: traces, ranks, autocorrelation, pairs, energies, draws over contours.

Each function returns a matplotlib `Figure` of its own, which a notebook shows and `figure.savefig("chains.png")`
writes; pyplot and its global state stay out. They need the extra `plots`. Where there are more chains, entries or draws
than a picture has room for, it shows some of them, evenly spread (entries: the first), and says so at its foot.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..energy import Energy
from ..errors import ParameterError
from ..position import Position
from . import formulas
from .convergence import autocorrelation, ebfmi
from .entries import check_draws
from .figures import new_figure
from .summaries import entry_names, named_tensors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CHAINS = 8
"""Most chains drawn as lines of their own."""

MAX_ENTRIES = 6
"""Most event entries drawn."""

MAX_POINTS = 2000
"""Most points in one cloud or line."""

CONTOUR_MASSES = (0.99, 0.9, 0.5)
"""Probability inside each contour of `plot_draws`, from the outermost on."""

_NUM_CELLS = 150
_NUM_RANK_BINS = 20
_NUM_HISTOGRAM_BINS = 40
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
_DIVERGENT = "tab:red"


def plot_trace(draws: Position, names: str | Sequence[str] | None = None) -> Figure:
    """Draw the path of each chain over time, and the histogram of its draws at the side.

    Chains that have mixed cover one band, without trends and without levels of their own.

    Args:
        draws: One tensor (C, N, *event), or a tuple or dict of tensors that share C and N, floating point.
        names: One name per tensor; default as in `summary`.

    Returns:
        A row for each event entry: the traces and, with the same vertical axis, the histograms.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If draws or names do not fit; see `summary`.
    """
    entries, foot = _entries(draws, names)
    num_chains, num_draws = next(iter(entries.values())).shape
    chains, times = _spread(num_chains, MAX_CHAINS), _spread(num_draws, MAX_POINTS)
    figure = _figure(8.0, 1.6 * len(entries))
    grid = figure.subplots(len(entries), 2, squeeze=False, width_ratios=(4, 1), sharey="row")
    for (trace, histogram), (name, values) in zip(grid, entries.items(), strict=True):
        for chain, color in zip(chains, _COLORS, strict=False):
            trace.plot(times, values[chain, times], color=color, linewidth=0.6, alpha=0.8)
            _histogram(histogram, values[chain], color=color, orientation="horizontal")
        histogram.set_xticks([])
        _label(trace, ylabel=name)
    _label(grid[-1, 0], xlabel="draw")
    _write_foot(figure, *foot, _shown(chains, num_chains, "chains"), _shown(times, num_draws, "draws in each trace"))
    return figure


def plot_rank(draws: Position, names: str | Sequence[str] | None = None) -> Figure:
    """Draw, for each chain, the histogram of its draws' ranks among the draws of all chains.

    Chains of one distribution have level histograms (the dashed line); a slope is a shifted chain, a valley one that is
    too wide, a hill one that is too narrow.

    Args:
        draws: One tensor (C, N, *event), or a tuple or dict of tensors that share C and N, floating point.
        names: One name per tensor; default as in `summary`.

    Returns:
        Axes for each event entry, with the chains one above the other.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If draws or names do not fit; see `summary`.

    Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2), section 4, rank plots.
    """
    entries, foot = _entries(draws, names)
    num_chains, num_draws = next(iter(entries.values())).shape
    chains = _spread(num_chains, MAX_CHAINS)
    level = 0.4  # height of a level histogram; one three times as high touches the next chain but one
    figure = _figure(*_grid_size(len(entries), 2.9, 0.6 + 0.32 * len(chains)))
    for axes, (name, values) in zip(_grid(figure, len(entries)), entries.items(), strict=True):
        ranks = formulas.average_ranks(values.flatten()).reshape(values.shape)
        for row, (chain, color) in enumerate(zip(chains, _COLORS, strict=False)):
            counts, edges = torch.histogram(ranks[chain], _NUM_RANK_BINS, range=(0.5, values.numel() + 0.5))
            heights = counts / num_draws * _NUM_RANK_BINS * level
            axes.stairs(row + heights, edges, baseline=row, fill=True, color=color, alpha=0.6)
            axes.axhline(row + level, color="0.3", linewidth=0.6, linestyle="--")
        axes.set_yticks([row + level for row in range(len(chains))], [f"chain {chain}" for chain in chains])
        _label(axes, title=name, xlabel="rank")
    _write_foot(figure, *foot, _shown(chains, num_chains, "chains"))
    return figure


def plot_autocorrelation(draws: Position, names: str | Sequence[str] | None = None, *, max_lag: int = 50) -> Figure:
    """Draw the autocorrelation of each chain, and in black their mean over all chains.

    The grey band holds 95% of the values of chains without memory.

    Args:
        draws: One tensor (C, N, *event), or a tuple or dict of tensors that share C and N, floating point.
        names: One name per tensor; default as in `summary`.
        max_lag: Last lag to draw; N - 1 if chains are shorter.

    Returns:
        Axes for each event entry.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If draws or names do not fit (see `summary`), or `max_lag` is negative.

    Warns:
        DiagnosticWarning: Fewer than 2 draws per chain, or draws that are not finite.
    """
    entries, foot = _entries(draws, names)
    num_chains, num_draws = next(iter(entries.values())).shape
    chains = _spread(num_chains, MAX_CHAINS)
    correlations = autocorrelation(torch.stack(list(entries.values()), dim=-1), min(max_lag, max(num_draws - 1, 0)))
    band = 1.96 / math.sqrt(max(num_draws, 1))
    figure = _figure(*_grid_size(len(entries), 2.9, 2.2))
    for axes, name, values in zip(_grid(figure, len(entries)), entries, correlations.unbind(dim=-1), strict=True):
        axes.axhspan(-band, band, color="0.9")
        for chain, color in zip(chains, _COLORS, strict=False):
            axes.plot(values[chain], color=color, linewidth=0.7, alpha=0.8)
        axes.plot(values.mean(dim=0), color="black", linewidth=1.3)
        _label(axes, title=name, xlabel="lag")
    _write_foot(figure, *foot, _shown(chains, num_chains, "chains"))
    return figure


def plot_pairs(
    draws: Position, names: str | Sequence[str] | None = None, *, is_divergent: Tensor | None = None
) -> Figure:
    """Draw every pair of event entries against each other, and each entry's histogram on the diagonal.

    Divergent draws, in red, point at where the sampler fails: often the neck of a funnel.

    Args:
        draws: One tensor (C, N, *event), or a tuple or dict of tensors that share C and N, floating point.
        names: One name per tensor; default as in `summary`.
        is_divergent: Boolean (C, N), such as `samples.info["is_divergent"]`.

    Returns:
        A lower triangle of axes.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If draws or names do not fit (see `summary`), or `is_divergent` has another shape than (C, N).
    """
    entries, foot = _entries(draws, names)
    columns = torch.stack([values.flatten() for values in entries.values()])
    shape = next(iter(entries.values())).shape
    if is_divergent is not None and is_divergent.shape != shape:
        raise ParameterError(f"is_divergent must have shape (chain, draw), {tuple(shape)}; got {is_divergent.shape}.")
    marked = torch.zeros(columns.shape[1], dtype=torch.bool) if is_divergent is None else is_divergent.flatten().cpu()
    clouds = [(columns[:, ~marked], "tab:blue", "draws"), (columns[:, marked], _DIVERGENT, "divergent draws")]
    figure = _figure(0.6 + 1.7 * len(entries), 0.6 + 1.7 * len(entries))
    grid = figure.subplots(len(entries), len(entries), squeeze=False, sharex="col")
    for row, name in enumerate(entries):
        for column, axes in enumerate(grid[row, :row]):
            for cloud, color, _ in clouds:
                points = cloud[:, _spread(cloud.shape[1], MAX_POINTS)]
                axes.plot(points[column], points[row], ".", color=color, markersize=2, alpha=0.5)
            axes.tick_params(labelsize=7, labelleft=column == 0)
        _histogram(grid[row, row], columns[row], color="tab:blue")
        grid[row, row].set_yticks([])
        for axes in grid[row, row + 1 :]:
            axes.remove()
        _label(grid[row, 0], ylabel=name)
        _label(grid[-1, row], xlabel=name)
    if marked.any():
        figure.suptitle(f"{int(marked.sum())} divergent draws in red", fontsize=8, color=_DIVERGENT)
    shown = (_shown(_spread(cloud.shape[1], MAX_POINTS), cloud.shape[1], what) for cloud, _, what in clouds)
    _write_foot(figure, *foot, *shown)
    return figure


def plot_energy(energies: Tensor) -> Figure:
    """Draw how energies are distributed, and how far one transition moves them, on one axis.

    Where transitions are much narrower, momentum draws explore the energies slowly: E-BFMI is small.

    Args:
        energies: Total energy (the Hamiltonian) at the start of each transition, (C, N); see `ebfmi`.

    Returns:
        One pair of axes, with the smallest E-BFMI of the chains in its title.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If `energies` is not a floating-point tensor (C, N).

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or energies that are not finite.

    Source: Betancourt (2016), arXiv 1604.00695.
    """
    fractions = ebfmi(energies)
    values = energies.detach().cpu().double()
    deviations, steps = _finite(values) - _finite(values).mean(), _finite(values.diff(dim=1))
    low, high = torch.aminmax(torch.cat([deviations, steps]))
    span = (float(low), float(high))
    figure = _figure(5.0, 3.0)
    axes = figure.subplots()
    _histogram(axes, deviations, color="tab:blue", label="energy around its mean", span=span)
    _histogram(axes, steps, color="tab:orange", label="change in one transition", span=span)
    axes.legend(fontsize=7, frameon=False)
    _label(axes, title=f"smallest E-BFMI of {len(fractions)} chains: {fractions.min():.2f}", xlabel="energy (nats)")
    return figure


def plot_draws(
    energy: Energy, draws: Tensor, limits: tuple[tuple[float, float], tuple[float, float]] | None = None
) -> Figure:
    """Draw points in the plane over contours of their energy.

    The contours hold 50, 90 and 99% of the probability inside the picture.

    Args:
        energy: Energy in nats, (K, 2) -> (K,), as for `sample`.
        draws: Shape (C, N, 2), floating point.
        limits: Of both axes, ((x_low, x_high), (y_low, y_high)); default: those of the draws, and a tenth more.

    Returns:
        One pair of axes.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ParameterError: If `draws` has another shape.
    """
    if check_draws(draws).shape[2:] != (2,):
        raise ParameterError(f"draws must have shape (chain, draw, 2); got {tuple(draws.shape)}. Select two columns.")
    points = draws.detach().flatten(0, 1)
    chosen = _spread(len(points), MAX_POINTS)
    x, y = (torch.linspace(*pair, _NUM_CELLS).to(draws) for pair in (limits or _limits(points)))
    with torch.no_grad():
        values = energy(torch.cartesian_prod(x, y)).reshape(_NUM_CELLS, _NUM_CELLS).T.cpu().double()
    figure = _figure(4.2, 4.0)
    axes = figure.subplots()
    axes.plot(*points[chosen].cpu().T, ".", color="tab:blue", markersize=2, alpha=0.5)
    levels = _contour_levels(values)
    axes.contour(x.cpu(), y.cpu(), -values, levels=levels, colors="0.3", linewidths=0.8, linestyles="solid", zorder=3)
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(float(y[0]), float(y[-1]))
    _label(axes)
    _write_foot(figure, _shown(chosen, len(points), "draws"))
    return figure


# --- What is drawn -----------------------------------------------------------------------------------------


def _entries(draws: Position, names: str | Sequence[str] | None) -> tuple[dict[str, Tensor], list[str]]:
    """The first event entries by name, (C, N) each, float64 on the CPU; and what the foot says about the rest."""
    entries: dict[str, Tensor] = {}
    total = 0
    for name, tensor in named_tensors(draws, names).items():
        values = tensor.detach().flatten(2) if tensor.ndim > 2 else tensor.detach()[..., None]
        total += values.shape[-1]
        room = values[..., : MAX_ENTRIES - len(entries)].cpu().double().unbind(dim=-1)
        entries |= zip(entry_names(name, tensor.shape[2:]), room, strict=False)
    return entries, [_shown(entries, total, "entries")]


def _spread(total: int, most: int) -> list[int]:
    """Evenly spread indices below `total`, all of them if they are few enough."""
    indices: list[int] = torch.linspace(0, total - 1, min(most, total), dtype=torch.float64).round().long().tolist()
    return indices


def _finite(values: Tensor) -> Tensor:
    return values[values.isfinite()]


def _limits(points: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    finite = points[points.isfinite().all(dim=1)].double()
    if not len(finite):
        raise ParameterError("no draw is finite, so the picture needs limits; pass limits=((-1.0, 1.0), (-1.0, 1.0)).")
    low, high = torch.aminmax(finite, dim=0)
    margin = 0.1 * (high - low).clamp(min=1e-3)
    (x_low, y_low), (x_high, y_high) = (low - margin).tolist(), (high + margin).tolist()
    return (x_low, x_high), (y_low, y_high)


def _contour_levels(energies: Tensor) -> list[float]:
    """Log-densities above which lie `CONTOUR_MASSES` of the probability of the cells, increasing."""
    ordered = energies.flatten().nan_to_num(nan=math.inf, posinf=math.inf).sort().values
    masses = torch.softmax(-ordered, dim=0).cumsum(dim=0)
    indices = torch.searchsorted(masses, masses.new_tensor(CONTOUR_MASSES)).clamp(max=len(masses) - 1)
    return sorted(set((-ordered[indices]).tolist()))  # one and the same cell may hold more than one mass


# --- How it is drawn ---------------------------------------------------------------------------------------

_figure = functools.partial(new_figure, dpi=110, extra="plots", purpose="drawing")


def _grid_size(count: int, width: float, height: float) -> tuple[float, float]:
    columns = min(count, 3)
    return max(columns * width, 3.5), math.ceil(count / columns) * height


def _grid(figure: Figure, count: int) -> list[Axes]:
    """As many axes as asked for, up to three in a row."""
    columns = min(count, 3)
    grid = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    return grid[:count]


def _histogram(axes: Axes, values: Tensor, *, span: tuple[float, float] | None = None, **style: Any) -> None:
    axes.hist(
        _finite(values), bins=_NUM_HISTOGRAM_BINS, range=span, density=True, histtype="step", linewidth=1.0, **style
    )


def _label(axes: Axes, *, title: str = "", xlabel: str | None = None, ylabel: str | None = None) -> None:
    axes.tick_params(labelsize=7)
    if title:
        axes.set_title(title, fontsize=9)
    if xlabel is not None:
        axes.set_xlabel(xlabel, fontsize=8)
    if ylabel is not None:
        axes.set_ylabel(ylabel, fontsize=8)


def _shown(chosen: Iterable[object], total: int, what: str) -> str:
    count = len(list(chosen))
    return f"{count} of {total} {what}" if count < total else ""


def _write_foot(figure: Figure, *remarks: str) -> None:
    text = "Shown: " + ", ".join(remark for remark in remarks if remark)
    if any(remarks):
        figure.supxlabel(text, x=0.99, ha="right", fontsize=7, color="0.4")
