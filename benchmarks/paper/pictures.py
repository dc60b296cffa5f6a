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


def panels(
    series: Mapping[str, Mapping[str, Mapping[int, float]]], labels: Sequence[str], path: Path, *, num_columns: int
) -> None:
    """Draw lines over whole numbers, a panel for each group, all with the same two axes.

    Args:
        series: Values by whole number, for each line of each panel; lines of one name are alike in all of them.
        labels: Of the two axes.
        path: Picture to write, png.
        num_columns: Panels beside each other.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    num_rows = -(-len(series) // num_columns)
    picture = _figure(1.8 * num_columns + 1.4, 1.7 * num_rows + 0.3)
    grid = picture.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).flat
    names = list(dict.fromkeys(name for lines in series.values() for name in lines))
    handles = {}
    for axes, (title, lines) in zip(grid, series.items(), strict=False):
        for name, values in lines.items():
            style = {"color": f"C{names.index(name)}", "marker": "o", "markersize": 3, "linewidth": 1}
            (handles[name],) = axes.plot(list(values), list(values.values()), **style)
        axes.set_title(title, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=7)
    picture.supxlabel(labels[0], fontsize=8)
    picture.supylabel(labels[1], fontsize=8)
    picture.legend(handles.values(), handles.keys(), fontsize=7, loc="outside right center")
    picture.savefig(path)
