"""What a data set is once it is read: scaled images, split into training and test rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from ..errors import DataError

SPLIT_SEED = 20230618
"""Seed of the `torch.Generator` behind every split that no publisher made; another makes other data sets."""

SHUFFLED = f"shuffled by seed {SPLIT_SEED}"
"""The rule of data whose files are sorted: whoever wants few rows takes the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set of labelled images, split into training and test rows.

    Attributes:
        name: What `load` was asked for.
        train: Training images, float32 (N, C, H, W), scaled so that the raw range becomes [-1, 1]; N is 0 for sets
            that are for testing alone, as outliers. C is 1 (bright ink on black) or 3 (red, green, blue).
        train_labels: Their classes, int64 (N,).
        test: Test images, float32 (M, C, H, W), scaled as `train`.
        test_labels: Their classes, int64 (M,).
        num_levels: Levels of the raw data, equally spaced over [-1, 1].
        checksum: SHA-256, in hex, of the raw bytes that were read, unpacked and in a fixed order.
        source: Where they were read: a folder, or a package with its version.
        rule: How the rows were made from what was read, where they are not the published ones.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_levels: int
    checksum: str
    source: str
    rule: str = ""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.test.shape[1:])

    def check_trainable(self) -> None:
        """Raise DataError unless there are training images."""
        if not len(self.train):
            raise DataError(
                f"{self.name} has test images alone: it serves as outliers, as in `lamina evaluate RUN --outliers "
                f"{self.name}`. Train on another data set."
            )

    def check_outliers(self, other: ImageData) -> None:
        """Raise ParameterError unless `other` can serve as outliers to this one: another set of the same shape."""
        if other.name == self.name:
            raise ParameterError(f"{other.name!r} is what the model was trained on; name other data sets as outliers.")
        if other.image_shape != self.image_shape:
            raise ParameterError(
                f"outliers must have the shape of the run's images, {self.image_shape}; those of {other.name!r} have "
                f"{other.image_shape}."
            )

    def outliers(self, num: int) -> Tensor:
        """Up to `num` images to tell from those of another set: test images, and then those for training.

        A model of another set has seen neither, so that a set which is split here for want of a published split serves
        as a whole.
        """
        return self.test[:num] if num <= len(self.test) else torch.cat([self.test, self.train[: num - len(self.test)]])

    @property
    def provenance(self) -> dict[str, str]:
        """Name, checksum, source and rule, for reports."""
        return {"name": self.name, "checksum": self.checksum, "source": self.source, "rule": self.rule}


def plain_name(name: str) -> str:
    """The name of a data set as part of a file's name: itself where it can be, and other names give others."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return name if plain == name else f"{plain}-{crc32(name.encode()):08x}"


def scaled(name: str, arrays: Mapping[str, npt.NDArray[Any]], *, white: int = 255, **about: str) -> ImageData:
    """Scale raw images from [0, white] to [-1, 1], and give everything its final shape and type.

    Args:
        name: Of the data set.
        arrays: "test", images (N, H, W) or (N, C, H, W), and "test_labels", (N,); "train" and "train_labels" alike,
            or left out where there are none.
        white: The largest value; the levels are 0, ..., white.
        about: `checksum`, `source` and `rule` of the data.
    """

    def images(field: str) -> Tensor:
        pixels = torch.from_numpy(arrays[field].astype(np.float32))
        return (pixels.unsqueeze(1) if pixels.ndim == 3 else pixels).div_(white / 2).sub_(1)

    def labels(field: str) -> Tensor:
        return torch.from_numpy(arrays[field].astype(np.int64))

    test, test_labels = images("test"), labels("test_labels")
    has_train = "train" in arrays
    return ImageData(
        name=name,
        train=images("train") if has_train else test[:0],
        train_labels=labels("train_labels") if has_train else test_labels[:0],
        test=test,
        test_labels=test_labels,
        num_levels=white + 1,
        **about,
    )


def shuffled_split(num_rows: int, num_train: int) -> tuple[Tensor, Tensor]:
    """Training and test rows of a set that is published in one piece: the same ones everywhere."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[:num_train], order[num_train:]
