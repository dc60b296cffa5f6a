"""Pictures of draws over the density that they should have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lamina.samplers import MissingExtraError

from .densities import Density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTOUR_MASSES = (0.99, 0.9, 0.5)
"""Probability inside each contour, from the outermost on."""

_NUM_CELLS = 150
_NUM_EXACT_DRAWS = 400_000
_MAX_POINTS = 1000


def draws_over_density(density: Density, draws: Mapping[str, Tensor], path: Path) -> None:
    """Draw the first two coordinates of each kernel's draws over contours of the density, side by side.

    Args:
        density: The truth.
        draws: (C, N, D) by name of the kernel.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    grid = heights(density)
    levels = contour_levels(density, grid)
    x, y = (_centers(*limits) for limits in density.plot_box)
    figure = _figure(2.6 * len(draws), 2.9)
    for axes, (name, values) in zip(figure.subplots(1, len(draws), squeeze=False).flat, draws.items(), strict=True):
        points = _some(values)
        axes.contour(x, y, grid.T, levels=levels, colors="0.55", linewidths=0.8)
        axes.plot(points[:, 0], points[:, 1], ".", markersize=1.5, color="tab:blue", alpha=0.6)
        axes.set_xlim(*density.plot_box[0])
        axes.set_ylim(*density.plot_box[1])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(f"{density.name}: {len(points)} draws; contours hold 50, 90 and 99 %", fontsize=9)
    figure.savefig(path)


def heights(density: Density) -> Tensor:
    """Density of the first two coordinates on a grid over `plot_box`, up to a factor, (K, K).

    In the plane from the energy; with more coordinates, whose marginal density is not known, by counting exact
    draws and smoothing a little.
    """
    if density.dim == 2:
        grid = torch.cartesian_prod(*(_centers(*limits) for limits in density.plot_box))
        return torch.exp(-density(grid) - density.log_normalizer).reshape(_NUM_CELLS, _NUM_CELLS)
    counts = torch.bincount(_cells(density, _exact(density)), minlength=_NUM_CELLS**2).double()
    return torch.from_numpy(gaussian_filter(counts.reshape(_NUM_CELLS, _NUM_CELLS).numpy(), sigma=1.5))


def contour_levels(density: Density, grid: Tensor) -> list[float]:
    """Heights above which lie `CONTOUR_MASSES` of the exact draws inside the box, increasing.

    Counting draws rather than adding up cells keeps the shares right where cells are coarser than the density.
    """
    drawn = grid.flatten()[_cells(density, _exact(density))].sort(descending=True).values
    return [float(drawn[int(share * (len(drawn) - 1))]) for share in CONTOUR_MASSES]


def _exact(density: Density) -> Tensor:
    return density.sample(_NUM_EXACT_DRAWS, generator=torch.Generator().manual_seed(0))


def _cells(density: Density, x: Tensor) -> Tensor:
    """Index, in a flat grid, of the cell of each point (N, D) that lies in the box."""
    low, high = torch.tensor(density.plot_box, dtype=torch.float64).T
    cells = ((x[:, :2] - low) / (high - low) * _NUM_CELLS).floor().long()
    inside = cells[((cells >= 0) & (cells < _NUM_CELLS)).all(dim=1)]
    index: Tensor = inside[:, 0] * _NUM_CELLS + inside[:, 1]
    return index


def _centers(low: float, high: float) -> Tensor:
    return low + (high - low) * (torch.arange(_NUM_CELLS, dtype=torch.float64) + 0.5) / _NUM_CELLS


def _some(draws: Tensor) -> Tensor:
    """Draws spread evenly over all chains and times, (K, 2)."""
    flat = draws[..., :2].flatten(0, 1)
    index = torch.linspace(0, len(flat) - 1, min(_MAX_POINTS, len(flat)), dtype=torch.float64).long()
    return flat[index].cpu()


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench", "drawing pictures") from error
    figure = Figure(figsize=(max(width, 4.0), height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
