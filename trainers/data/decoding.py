"""Pictures in JPEG, PNG and other formats, by Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lamina.samplers.errors import MissingExtraError

from ..errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def pillow() -> ModuleType:
    """Pillow's `Image`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow", "train", "reading pictures") from error
    return Image


def open_picture(content: bytes, *, path: Path) -> Image:
    """Decode a picture in full.

    Raises:
        DataError: If it is cut, damaged, or none.
        MissingExtraError: Without Pillow.
    """
    image = pillow()
    try:
        picture: Image = image.open(io.BytesIO(content))
        picture.load()
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path}: wanted a picture that can be read to its end; got {error!r}. Replace it.") from error
    return picture


def middle_square(picture: Image, size: int) -> Image:
    """The middle square of a picture, in colour, at size x size pixels."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    square = picture.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((size, size), resample=pillow().Resampling.BICUBIC)


def channels_first(picture: Image) -> npt.NDArray[np.uint8]:
    """Red, green and blue, (3, H, W)."""
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def compressed(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """What JPEG leaves of red, green and blue, (3, H, W)."""
    file = io.BytesIO()
    pillow().fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "JPEG", quality=quality)
    return channels_first(open_picture(file.getvalue(), path=Path("made.jpg")))
