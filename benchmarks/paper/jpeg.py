"""What JPEG alone tells: a control for outliers whose pictures went through it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lamina.trainers.data.colour import QUALITY
from lamina.trainers.data.decoding import compressed
from lamina.trainers.evaluation.measures import Array


def residue(x: Tensor) -> Array:
    """How much pictures change when they go through JPEG once more, (N,): mean square in levels.

    Little where they went through it already. A score that tells data sets apart by more than this one does has seen
    more than the traces of how they were stored.

    Args:
        x: Pictures in colour, (N, 3, H, W) in [-1, 1].

    Raises:
        MissingExtraError: Without Pillow.
    """
    pixels = (127.5 * (x + 1)).round().byte().numpy()
    again = np.stack([compressed(picture, QUALITY) for picture in pixels])
    change: Array = np.square(again.astype(float) - pixels).mean(axis=(1, 2, 3))
    return change
