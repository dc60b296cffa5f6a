"""Pictures of studies: a figure by group, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from lamina.samplers.diagnostics.figures import new_figure

_figure = partial(new_figure, dpi=100, extra="bench", purpose="drawing pictures")


def bars(summary: Mapping[str, float], figure: str, path: Path) -> None:
    """Draw one figure of every group, with the standard deviation over seeds.

    Args:
        summary: Keys `FIGURE/GROUP` and `FIGURE/GROUP/sd`.
        figure: Its name.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    keys = [key for key in summary if key.startswith(f"{figure}/") and not key.endswith("/sd")][::-1]
    picture = _figure(6.0, 0.28 * len(keys) + 0.7)
    axes = picture.subplots()
    names, values = [key.removeprefix(f"{figure}/") for key in keys], [summary[key] for key in keys]
    axes.barh(names, values, xerr=[summary.get(f"{key}/sd", 0.0) for key in keys], color="tab:blue", ecolor="0.4")
    axes.set_xlabel(figure, fontsize=8)
    axes.tick_params(labelsize=7)
    picture.savefig(path)


def curves(series: Mapping[str, Mapping[float, float]], labels: Sequence[str], path: Path) -> None:
    """Draw curves over steps or seconds, both axes logarithmic; where there is a value for zero, linearly up to ten.

    Args:
        series: Values by number of steps or seconds, for each curve.
        labels: Of the two axes.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    picture = _figure(6.5, 3.8)
    axes = picture.subplots()
    for name, values in series.items():
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, linewidth=1, label=name)
    if any(0 in values for values in series.values()):
        axes.set_xscale("symlog", linthresh=10)
    else:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(labels[0], fontsize=8)
    axes.set_ylabel(labels[1], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture.savefig(path)
