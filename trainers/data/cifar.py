"""CIFAR-10: 50,000 + 10,000 colour pictures of 32x32, as published or as a zip of JPEG files.

Source: Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .decoding import channels_first, open_picture
from .files import FileSet, FoundFiles, read_files
from .images import SHUFFLED, ImageData, scaled, shuffled_split
from .pickles import read_pickle

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of the classes 0 to 9."""

PICKLES = FileSet(
    name="cifar10",
    folder="cifar-10-batches-py",
    digests={
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
    install="unpack cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html",
)
"""The published form, lossless."""

JPEGS = FileSet(
    name="cifar10",
    folder="cifar10",
    digests={"cifar10-jpeg.zip": "sha256:0287a3668d9e0d204fc6ffa0e85a171724de09b8aec55d93153b270368489df4"},
    install="the zip has {train,test}/CLASS/NNNN.jpg, JPEG quality 75",
)
"""The same pictures by JPEG, quality 75: lossy, and with its traces."""


def load_cifar10(roots: Sequence[Path], *, pickles: FileSet = PICKLES, jpegs: FileSet = JPEGS) -> ImageData:
    """Load the published form, or the zip where that is not there.

    Raises:
        DataError: As `read_files`.
        MissingExtraError: If the zip is there, and Pillow is not installed.
    """
    found = read_files([pickles, jpegs], roots)
    is_lossless = found.form is pickles
    arrays = _from_pickles(found) if is_lossless else _from_zip(found)
    return scaled(
        found.form.name,
        arrays,
        checksum=found.checksum,
        source=str(found.folder),
        rule="" if is_lossless else f"JPEG quality 75, {SHUFFLED}",
    )


def _from_pickles(found: FoundFiles) -> dict[str, npt.NDArray[Any]]:
    batches = {name: read_pickle(content, path=found.folder / name) for name, content in found.contents.items()}
    splits = {"train": [name for name in batches if name != "test_batch"], "test": ["test_batch"]}
    arrays = {}
    for split, names in splits.items():
        arrays[split] = np.concatenate([batches[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
        arrays[f"{split}_labels"] = np.concatenate([batches[name]["labels"] for name in names])
    return arrays


def _from_zip(found: FoundFiles) -> dict[str, npt.NDArray[Any]]:
    """Pictures and labels, shuffled: the zip is sorted by class."""
    (content,) = found.contents.values()
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for split in ("train", "test"):
            names = sorted(name for name in archive.namelist() if name.startswith(f"{split}/"))
            names = [names[row] for row in shuffled_split(len(names), len(names))[0].tolist()]
            pictures = (open_picture(archive.read(name), path=found.folder / name) for name in names)
            arrays[split] = np.stack([channels_first(picture) for picture in pictures])
            arrays[f"{split}_labels"] = np.array([CLASSES.index(name.split("/")[1]) for name in names])
    return arrays
