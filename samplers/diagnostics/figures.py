"""Figures of matplotlib without pyplot and its global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, dpi: int, extra: str, purpose: str) -> Figure:
    """Return an empty figure that can be saved as a picture.

    Args:
        width: In inches.
        height: In inches.
        dpi: Pixels per inch.
        extra: Of Lamina, which brings matplotlib to whoever draws here.
        purpose: What matplotlib is needed for, such as "drawing".

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra, purpose) from error
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
