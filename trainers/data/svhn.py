"""Street View House Numbers: 73,257 + 26,032 colour pictures of 32x32, in Matlab's files.

Source: Netzer et al. (2011), Reading digits in natural images with unsupervised feature learning.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.io

from .files import FileSet, read_files
from .images import ImageData, scaled

SVHN = FileSet(
    name="svhn",
    folder="svhn",
    digests={
        "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
    },
    install="train_32x32.mat and test_32x32.mat of http://ufldl.stanford.edu/housenumbers",
)
"""The cropped digits, without the extra ones."""


def load_svhn(roots: Sequence[Path], *, form: FileSet = SVHN) -> ImageData:
    """Load the pictures, (height, width, channel, row) in the files, and the digits, which call 0 ten.

    Raises:
        DataError: As `read_files`.
    """
    found = read_files([form], roots)
    arrays = {}
    for split, content in zip(("train", "test"), found.contents.values(), strict=True):
        file: Any = io.BytesIO(content)  # SciPy takes files, its type stubs take paths alone
        variables = scipy.io.loadmat(file, variable_names=("X", "y"))
        arrays[split] = variables["X"].transpose(3, 2, 0, 1)
        arrays[f"{split}_labels"] = variables["y"].squeeze(1) % 10
    return scaled(form.name, arrays, checksum=found.checksum, source=str(found.folder))
