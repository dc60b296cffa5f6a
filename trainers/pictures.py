"""Pictures of a run: sample grids, labelled rows, reconstructions, energies, latents, scores, training curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lamina.models import Latents
from lamina.samplers.diagnostics.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"ebm": "EBM prior", "base": "its Gaussian base prior", "gaussian": "Gaussian-prior model", "data": "data"}

_figure = functools.partial(new_figure, dpi=120, extra="train", purpose="drawing pictures")


def sample_grid(sets: Mapping[str, Tensor], path: Path, *, columns: int = 8) -> None:
    """Draw sets of images (N, channels, H, W) in [-1, 1], one grid each, side by side."""
    figure = _figure(3.2 * len(sets), 3.6)
    for axes, (name, drawn) in zip(_axes(figure, 1, len(sets)), sets.items(), strict=True):
        _show(axes, _tiled(drawn, columns), TITLES.get(name, name))
    figure.savefig(path, format="png")


def reconstructions(x: Tensor, mean: Tensor, path: Path) -> None:
    """Draw data in the upper row of each pair and their reconstructions below."""
    rows = [part[first : first + 16] for first in (0, 16) for part in (x, mean)]
    figure = _figure(6.4, 2.2)
    (axes,) = _axes(figure, 1, 1)
    _show(axes, _tiled(torch.cat(rows), 16), "data above, reconstructions below")
    figure.savefig(path, format="png")


def labelled_rows(rows: Mapping[str, Tensor], path: Path) -> None:
    """Draw rows of images (N, channels, H, W) in [-1, 1], one below the other, each with its name."""
    figure = _figure(7.0, 0.3 + 0.75 * len(rows))
    for axes, (name, drawn) in zip(_axes(figure, len(rows), 1), rows.items(), strict=True):
        _show(axes, _tiled(drawn, len(drawn)), "")
        axes.text(-0.01, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=8)
    figure.savefig(path, format="png")


def latent_clouds(sets: Mapping[str, Latents], path: Path) -> None:
    """Draw each layer of latents on the two main directions of the first set, a panel for each layer and set."""
    first = next(iter(sets.values()))
    figure = _figure(2.2 * len(sets), 2.4 * len(first))
    panels = iter(_axes(figure, len(first), len(sets)))
    for layer, reference in enumerate(first):
        centre, plane = _plane(reference)
        reach = 1.3 * float(((reference.flatten(1) - centre) @ plane).abs().max())
        for name, z in sets.items():
            axes = next(panels)
            across, up = ((z[layer].flatten(1) - centre) @ plane).T.cpu()
            axes.scatter(across, up, s=2, alpha=0.3, linewidths=0)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=())
            axes.set_title(f"{name}, $z_{layer + 1}$", fontsize=8)
    figure.savefig(path, format="png")


def histograms(sets: Mapping[str, npt.NDArray[np.float64]], label: str, path: Path) -> None:
    """Draw the distribution of a number in several sets over each other."""
    figure = _figure(5.0, 3.2)
    (axes,) = _axes(figure, 1, 1)
    edges = np.histogram_bin_edges(np.concatenate(list(sets.values())), 60).tolist()
    for name, values in sets.items():
        axes.hist(values, edges, density=True, alpha=0.5, label=name)
    axes.set_xlabel(label)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def energy_traces(energies: Tensor, path: Path) -> None:
    """Draw energies along prior chains, (C, steps): some chains, and the mean over all."""
    figure = _figure(5.0, 3.2)
    (axes,) = _axes(figure, 1, 1)
    axes.plot(energies[:24].T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(energies.mean(0), color="black", label=f"mean of {len(energies)} chains")
    axes.set_xlabel("step from the base prior")
    axes.set_ylabel("energy (nats)")
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def step_curves(curves: Mapping[str, Mapping[int, float]], levels: Mapping[str, float], label: str, path: Path) -> None:
    """Draw figures by number of steps, a panel and a level to compare with each; the scale is symlog."""
    figure = _figure(3.2 * len(curves), 2.6)
    for axes, (name, values) in zip(_axes(figure, 1, len(curves)), curves.items(), strict=True):
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, linewidth=0.9)
        axes.axhline(levels[name], color="black", linestyle="--", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.set_xlabel(label, fontsize=8)
    figure.savefig(path, format="png")


def training_curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the figures of a metrics file, a record each, over steps; nothing where there are none."""
    names = ["reconstruction", "kl", "energy_gap", "prior_accept", "prior_step_size", "posterior_accept"]
    shown = [name for name in names if any(name in record for record in records)]
    if not shown:
        return
    figure = _figure(3.2 * len(shown), 2.6)
    for axes, name in zip(_axes(figure, 1, len(shown)), shown, strict=True):
        points = [(record["step"], record[name]) for record in records if name in record]
        axes.plot(*zip(*points, strict=True), linewidth=0.9)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.set_xlabel("step")
    figure.savefig(path, format="png")


def _plane(part: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and two main directions of rows, (D,) and (D, 2); the second is zero where D = 1."""
    rows = part.flatten(1)
    centre = rows.mean(0)
    directions = torch.linalg.svd(rows - centre, full_matrices=False)[2][:2]
    return centre, torch.nn.functional.pad(directions, (0, 0, 0, 2 - len(directions))).T


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def _tiled(drawn: Tensor, columns: int) -> Tensor:
    """Images (N, channels, H, W) as one picture (H', W', channels) with a thin border; black where N runs out."""
    missing = -len(drawn) % columns
    bordered = torch.nn.functional.pad(drawn, (1, 1, 1, 1, 0, 0, 0, missing), value=-1.0)
    num, channels, height, width = bordered.shape
    rows = num // columns
    grid = bordered.reshape(rows, columns, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)


def _show(axes: Axes, picture: Tensor, title: str) -> None:
    values = ((picture + 1) / 2).clamp(0, 1).numpy()
    axes.imshow(values.squeeze(-1) if values.shape[-1] == 1 else values, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.axis("off")
