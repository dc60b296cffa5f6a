"""What a feature network learns where the data have no classes: which way up an image is."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, arange

from ..data import ImageData

NUM_TURNS = 4


def is_classified(data: ImageData) -> bool:
    """Whether the training images are of more than one class."""
    return bool((data.train_labels != data.train_labels[:1]).any())


def with_classes(data: ImageData) -> ImageData:
    """The data as they are; where there is but one class, turned by 0 to 3 quarters, which are then the classes.

    Source: Gidaris, Singh and Komodakis (ICLR 2018), arXiv 1803.07728. Differs: each image is seen in one turn alone.
    """
    if is_classified(data):
        return data
    (train, train_labels), (test, test_labels) = _turned(data.train), _turned(data.test)
    return replace(data, train=train, train_labels=train_labels, test=test, test_labels=test_labels)


def _turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square images (N, C, H, H), each turned by its row's number modulo 4, and that number."""
    turned = images.clone()
    for turn in range(1, NUM_TURNS):
        turned[turn::NUM_TURNS] = turned[turn::NUM_TURNS].rot90(turn, (2, 3))
    return turned, arange(len(images)) % NUM_TURNS
