"""A page that shows every density in the plane: its picture, formula, source and facts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lamina.samplers.diagnostics.figures import new_figure

from .densities import DENSITIES, REFERENCE_TARGETS, Density, Target, make_density, make_reference_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "gallery.md"
PICTURES = "gallery"

_NUM_CELLS = 400  # per side; the valley of `rosenbrock` is a few cells wide
_NUM_DRAWS = 200
_DEEPEST = 8.0  # nats below the highest point, where colour ends

_INTRODUCTION = f"""# Gallery

The densities of `lamina.benchmarks.densities`, each with its exact facts, and the targets with a reference.

Colours are the log-density, one shade per nat down to {_DEEPEST:.0f} below the highest point; dots are exact draws.
`lamina.benchmarks.gallery` writes this page from what the densities declare.
"""


def planar_densities() -> list[Density]:
    """Our densities with two coordinates, in the order of the registry."""
    return [density for density in map(make_density, DENSITIES) if density.dim == 2]


def write_gallery(folder: Path) -> list[Path]:
    """Write the page `gallery.md` and the pictures `gallery/NAME.png` into a folder, such as `docs`.

    Returns:
        The files, the page first.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    files = [folder / PAGE]
    files[0].write_text(gallery_page(), encoding="utf-8")
    for density in planar_densities():
        files.append(folder / _picture_of(density))
        _picture(density).savefig(files[-1])
    return files


def gallery_page() -> str:
    """Return the page in Markdown."""
    others = [density for density in map(make_density, DENSITIES) if density.dim != 2]
    targets = [make_reference_target(name) for name in REFERENCE_TARGETS]
    return "\n".join(
        [
            _INTRODUCTION,
            "## In the plane\n",
            *(_entry(density, *_moments(density), picture=_picture_of(density)) for density in planar_densities()),
            "## In more dimensions\n",
            *(_entry(density, f"log Z: {density.log_normalizer:.6f}") for density in others),
            "## With a reference\n",
            "Posteriors and lattices: their parameters have reference moments with errors in place of exact draws.\n",
            *(_entry(target, f"Reference: {target.reference}") for target in targets),
        ]
    )


def _entry(target: Target, *facts: str, picture: str | None = None) -> str:
    """What a target is, and some facts about it, below its picture if it has one."""
    head = [f"### {target.name}\n"]
    if picture is not None:
        head.append(f"![{target.name}]({picture})\n")
    lines = [
        f"Energy: `{target.formula}`" + _values(target),
        f"Dimensions: {target.dim}",
        *facts,
        f"Reveals: {target.reveals}",
        f"Source: {target.source}",
    ]
    return "\n".join([*head, *(f"- {line}" for line in lines), ""])


def _values(target: Target) -> str:
    """The numbers among a target's parameters."""
    names = [field.name for field in dataclasses.fields(target) if field.name != "dim"]  # type: ignore[arg-type]
    values = [f"{name} = {getattr(target, name):g}" for name in names if isinstance(getattr(target, name), float)]
    return f", {', '.join(values)}" if values else ""


def _moments(density: Density) -> list[str]:
    return [
        f"log Z: {density.log_normalizer:.6f}",
        f"Mean: {_numbers(density.mean)}",
        f"Second moment: {_numbers(density.second_moment)}",
    ]


def _picture_of(density: Density) -> str:
    """Where the picture lies, as seen from the page."""
    return f"{PICTURES}/{density.name}.png"


def _numbers(values: Tensor) -> str:
    """Numbers to six digits; those that are zero but for rounding, as zero."""
    return f"({', '.join(f'{value if abs(value) > 1e-9 else 0.0:.6g}' for value in values.tolist())})"


def _picture(density: Density) -> Figure:
    figure = new_figure(4.0, 3.2, dpi=100, extra="bench", purpose="drawing pictures")
    (x_limits, y_limits), axes = density.plot_box, figure.subplots()
    x, y = (torch.linspace(*limits, _NUM_CELLS, dtype=torch.float64) for limits in density.plot_box)
    energy = density(torch.cartesian_prod(x, y)).reshape(_NUM_CELLS, _NUM_CELLS)
    levels = torch.arange(-_DEEPEST, 1.0)
    axes.contourf(x, y, (energy.min() - energy).T, levels=levels, cmap="Blues")
    draws = density.sample(_NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    axes.plot(draws[:, 0], draws[:, 1], ".", markersize=2.5, color="tab:orange")
    axes.set(xlim=x_limits, ylim=y_limits)
    axes.tick_params(labelsize=7)
    return figure
