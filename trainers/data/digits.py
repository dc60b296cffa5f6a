"""Scikit-learn's digits: 1,797 of 8x8 (UCI, values 0..16)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lamina.samplers.errors import MissingExtraError

from .images import SPLIT_SEED, ImageData, scaled, shuffled_split

NUM_TRAIN = 1297
"""Training rows; the other 500 are for testing."""


def load_digits(_roots: Sequence[Path]) -> ImageData:
    """Load the digits with a fixed split.

    The checksum covers the pixels, then the labels, as unsigned bytes in scikit-learn's order.

    Raises:
        MissingExtraError: Without scikit-learn.
    """
    try:
        import sklearn
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "the data set 'digits'") from error
    bunch = datasets.load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    train, test = (rows.numpy() for rows in shuffled_split(len(labels), NUM_TRAIN))
    return scaled(
        "digits",
        {"train": images[train], "train_labels": labels[train], "test": images[test], "test_labels": labels[test]},
        white=16,
        checksum=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        source=f"scikit-learn {sklearn.__version__}",
        rule=f"split by seed {SPLIT_SEED}",
    )
