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
_NUM_EXACT_DRAWS = 1_000_000
_MAX_POINTS = 1500


def draws_over_density(density: Density, draws: Mapping[str, Tensor], path: Path) -> None:
    """Draw the first two coordinates of each kernel's draws over contours of the density, side by side.

    Args:
        density: The truth.
        draws: (C, N, D) by name of the kernel.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    mass = cell_masses(density)
    x, y = (_centers(*limits) for limits in density.plot_box)
    figure = _figure(2.6 * len(draws), 2.9)
    for axes, (name, values) in zip(figure.subplots(1, len(draws), squeeze=False).flat, draws.items(), strict=True):
        points = _some(values)
        axes.contour(x, y, mass.T, levels=_levels(mass), colors="0.55", linewidths=0.8)
        axes.plot(points[:, 0], points[:, 1], ".", markersize=1.5, color="tab:blue", alpha=0.6)
        axes.set_xlim(*density.plot_box[0])
        axes.set_ylim(*density.plot_box[1])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(f"{density.name}: {len(points)} draws; contours hold 50, 90 and 99 %", fontsize=9)
    figure.savefig(path)


def cell_masses(density: Density) -> Tensor:
    """Probability of the first two coordinates in the cells of a grid over `plot_box`, up to a factor.

    In the plane from the energy; with more coordinates, whose marginal density is not known, by counting exact
    draws and smoothing a little.
    """
    (left, right), (bottom, top) = density.plot_box
    if density.dim == 2:
        grid = torch.cartesian_prod(_centers(left, right), _centers(bottom, top))
        return torch.exp(-density(grid) - density.log_normalizer).reshape(_NUM_CELLS, _NUM_CELLS)
    exact = density.sample(_NUM_EXACT_DRAWS, generator=torch.Generator().manual_seed(0))[:, :2]
    low, high = torch.tensor([left, bottom]).double(), torch.tensor([right, top]).double()
    cells = ((exact - low) / (high - low) * _NUM_CELLS).floor().long()
    inside = ((cells >= 0) & (cells < _NUM_CELLS)).all(dim=1)
    index = cells[inside] @ torch.tensor([_NUM_CELLS, 1])
    counts = torch.bincount(index, minlength=_NUM_CELLS**2).reshape(_NUM_CELLS, _NUM_CELLS)
    return torch.from_numpy(gaussian_filter(counts.double().numpy(), sigma=1.5))


def _levels(mass: Tensor) -> list[float]:
    """Heights above which the cells hold `CONTOUR_MASSES`, increasing."""
    ordered = mass.flatten().sort(descending=True).values
    inside = ordered.cumsum(0) / ordered.sum()
    return [float(ordered[torch.searchsorted(inside, share)]) for share in CONTOUR_MASSES]


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
    figure = Figure(figsize=(max(width, 4.0), height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
