"""Any folder of pictures, such as CelebA: `folder:PATH@SIZE`.

Pictures are searched in PATH and its subfolders; the subfolders right below PATH are the classes, in alphabetical
order. Each picture is cut to its middle square and brought to SIZE x SIZE pixels. There is one channel if all are grey,
and three otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .decoding import channels_first, middle_square, open_picture
from .images import SPLIT_SEED, ImageData, scaled, shuffled_split

PREFIX = "folder:"
"""Begins the names of these data sets."""

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "I;16", "I;16B", "F")


def load_folder(name: str) -> ImageData:
    """Load a folder of pictures, all into memory; 80 % are for training, by a fixed seed.

    The checksum covers what each file is called, and its bytes.

    Args:
        name: `folder:PATH@SIZE`; a relative PATH is seen from the current directory.

    Raises:
        DataError: If the name has another form, or there is no such folder, fewer than two pictures in it, or one
            that cannot be read.
        MissingExtraError: Without Pillow.
    """
    place, _, size = name.removeprefix(PREFIX).rpartition("@")
    if not (place and size.isascii() and size.isdigit() and int(size)):
        raise DataError(f"wanted folder:PATH@SIZE, such as folder:faces@64; got {name!r}.")
    folder = Path(place).expanduser().resolve()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
    if len(paths) < 2:
        raise DataError(
            f"{name}: wanted two pictures or more ({', '.join(_ENDINGS)}) in {folder} or below; got {len(paths)}. "
            "Name the folder that holds them."
        )
    images, checksum = _read(folder, paths, int(size))
    classes = ["/".join(path.relative_to(folder).parts[:-1][:1]) for path in paths]
    labels = np.unique(classes, return_inverse=True)[1]
    train, test = (rows.numpy() for rows in shuffled_split(len(paths), 4 * len(paths) // 5))
    return scaled(
        name,
        {"train": images[train], "train_labels": labels[train], "test": images[test], "test_labels": labels[test]},
        checksum=checksum,
        source=str(folder),
        rule=f"middle squares at {size}x{size}, split 80 to 20 by seed {SPLIT_SEED}",
    )


def _read(folder: Path, paths: Sequence[Path], size: int) -> tuple[npt.NDArray[np.uint8], str]:
    """The pictures, (N, C, size, size), and the checksum."""
    digest, pixels, is_grey = hashlib.sha256(), [], True
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: wanted a picture that can be read; got {error!r}.") from error
        digest.update(f"{path.relative_to(folder).as_posix()}\n{len(content)}\n".encode() + content)
        picture = open_picture(content, path=path)
        if picture.mode in _DEEP_MODES:
            raise DataError(f"{path}: wanted a picture of 8 bits a channel; got the mode {picture.mode}. Convert it.")
        is_grey &= picture.mode in _GREY_MODES
        pixels.append(channels_first(middle_square(picture, size)))
    return np.stack(pixels)[:, : 1 if is_grey else 3], digest.hexdigest()
