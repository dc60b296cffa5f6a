"""Pictures: draws over the density that they should have, and errors that fall as gradients are spent."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lamina.samplers.diagnostics.figures import new_figure

from .accuracy import LOW_ERROR
from .densities import Density

CONTOUR_MASSES = (0.99, 0.9, 0.5)
"""Probability inside each contour, from the outermost on."""

_NUM_CELLS = 150
_NUM_EXACT_DRAWS = 400_000
_MAX_POINTS = 500
_MAX_COLUMNS = 5
_LINES = ("solid", "dashed", "dotted")

_figure = functools.partial(new_figure, dpi=100, extra="bench", purpose="drawing pictures")


def draws_over_density(density: Density, points: Mapping[str, Tensor], path: Path) -> None:
    """Draw the first two coordinates of each kernel's draws over contours of the density, side by side.

    Args:
        density: The truth.
        points: Some draws of each kernel, (K, 2), by its name; see `some_points`.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    grid = heights(density)
    levels = contour_levels(density, grid)
    x, y = (_centers(*limits) for limits in density.plot_box)
    columns = min(len(points), _MAX_COLUMNS)
    rows = math.ceil(len(points) / columns)
    figure = _figure(max(2.6 * columns, 4.0), 2.5 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, drawn) in zip(panels, points.items(), strict=False):
        axes.contour(x, y, grid.T, levels=levels, colors="0.55", linewidths=0.8)
        axes.plot(drawn[:, 0], drawn[:, 1], ".", markersize=1.5, color="tab:blue", alpha=0.6)
        axes.set_xlim(*density.plot_box[0])
        axes.set_ylim(*density.plot_box[1])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(points) :]:
        axes.set_axis_off()
    figure.suptitle(f"{density.name}: at most {_MAX_POINTS} draws each; contours hold 50, 90 and 99 %", fontsize=9)
    figure.savefig(path)


_SHOWN_ERRORS = (1e-4, 1e2)
"""Limits of the picture: chains that leave for infinity, as unadjusted ones may, must not squeeze all others."""


def error_against_gradients(title: str, curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw how each kernel's error falls, on logarithmic axes, with a line where it counts as low.

    Args:
        title: Of the picture.
        curves: `Row.curve` of each kernel, by its name.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure = _figure(6.0, 3.8)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        gradients, errors = (np.array(curve[key], dtype=float) for key in ("gradients", "average"))
        axes.plot(gradients, errors, color=f"C{index % 10}", linestyle=_LINES[index // 10 % len(_LINES)], label=name)
    axes.axhline(LOW_ERROR, color="0.55", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(*_SHOWN_ERRORS)
    axes.set_xlabel("gradients after warm-up, eight chains together", fontsize=8)
    axes.set_ylabel("squared error of E[x^2] over Var[x^2]", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def some_points(draws: Tensor) -> Tensor:
    """The first two coordinates of draws (C, N, D), spread evenly over all chains and times, (K, 2) float32.

    A density in one dimension has zeros for the second.
    """
    flat = draws[..., :2].flatten(0, 1)
    index = torch.linspace(0, len(flat) - 1, min(_MAX_POINTS, len(flat)), dtype=torch.float64).long()
    points = flat[index.to(flat.device)].float().cpu()
    return torch.nn.functional.pad(points, (0, 2 - points.shape[1]))


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


@functools.lru_cache(maxsize=1)
def _exact(density: Density) -> Tensor:
    """The first two coordinates of many exact draws, kept for as long as one density is drawn."""
    return density.sample(_NUM_EXACT_DRAWS, generator=torch.Generator().manual_seed(0))[:, :2].clone()


def _cells(density: Density, x: Tensor) -> Tensor:
    """Index, in a flat grid, of the cell of each point (N, 2) that lies in the box."""
    low, high = torch.tensor(density.plot_box, dtype=torch.float64).T
    cells = ((x - low) / (high - low) * _NUM_CELLS).floor().long()
    inside = cells[((cells >= 0) & (cells < _NUM_CELLS)).all(dim=1)]
    index: Tensor = inside[:, 0] * _NUM_CELLS + inside[:, 1]
    return index


def _centers(low: float, high: float) -> Tensor:
    return low + (high - low) * (torch.arange(_NUM_CELLS, dtype=torch.float64) + 0.5) / _NUM_CELLS
