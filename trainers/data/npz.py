"""Sets of test images in numpy's npz files: KMNIST and Omniglot, to tell from those that a model was trained on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .files import FileSet, read_files
from .images import SHUFFLED, ImageData, scaled, shuffled_split

KMNIST = FileSet(
    name="kmnist",
    folder="kmnist",
    digests={"kmnist-test.npz": "sha256:4d4d7ffc8c8e2df9684c09fcc2eba731372821941b159a8216b7a80aa8481da8"},
    install="it holds `images` and `labels` of the test set, doi:10.20676/00000341",
)
"""Cursive Japanese characters of ten classes, 10,000 test images of 28x28 (Clanuwat et al. 2018, arXiv 1812.01718)."""

OMNIGLOT = FileSet(
    name="omniglot",
    folder="omniglot",
    digests={"omniglot-28x28-subset.npz": "sha256:0bfbab3e7dc7ce22b626c2f15eafa31e01a33247edfafb1cfa2aab4da971803f"},
    install="it holds `images` and `labels` of drawings of https://github.com/brendenlake/omniglot, reduced to 28x28",
)
"""Drawn characters of many alphabets, 4,840 of 242 classes, reduced to 28x28 (Lake et al. 2015)."""

NPZ_SETS = (KMNIST, OMNIGLOT)
"""Every set of this form that is known."""


def load_npz(form: FileSet, roots: Sequence[Path]) -> ImageData:
    """Load `images`, uint8 (N, H, W), and `labels`, (N,), as test images.

    Raises:
        DataError: As `read_files`.
    """
    found = read_files([form], roots)
    (content,) = found.contents.values()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        (name,) = found.contents
        raise DataError(f"{found.folder / name}: wanted arrays `images` and `labels`; got {error!r}.") from error
    order = shuffled_split(len(labels), len(labels))[0].numpy()
    arrays = {"test": images[order], "test_labels": labels[order]}
    return scaled(form.name, arrays, checksum=found.checksum, source=str(found.folder), rule=SHUFFLED)
