"""Features of images: the last hidden layer of a network that is stated with every figure.

Grey images have a stored LeNet of the data's own training split, colour images a network of ImageNet, and images of
less than 12 pixels a side (the digits) an MLP that is trained on the spot.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lamina.samplers import MissingExtraError, ParameterError

from ..data import ImageData
from .imagenet import IMAGENET, imagenet_features, installed_packages
from .lenet import SMALLEST, lenet_features
from .measures import Array
from .networks import Features, imported_features
from .turns import with_classes

_MAX_ROWS = 10_000
LENET = "lenet"
"""What chooses the data set's LeNet by name."""


@dataclass(frozen=True)
class ImageFeatures:
    """A classifier's last hidden layer, standardised on the training images; units that are silent there are left out.

    Attributes:
        weights: Matrices of the hidden layers.
        biases: Their biases.
        is_live: Which units vary over training images.
        mean: Of the features over training images, (D,).
        scale: Their standard deviations, (D,).
        accuracy: Of the classifier on the test images.
        description: What it is, for reports.
    """

    weights: list[Array]
    biases: list[Array]
    is_live: npt.NDArray[np.bool_]
    mean: Array
    scale: Array
    accuracy: float
    description: str
    name: ClassVar[str] = "mlp"

    @property
    def checksum(self) -> str:
        """SHA-256, in hex, of all its numbers."""
        arrays = (*self.weights, *self.biases, self.is_live, self.mean, self.scale)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def __call__(self, images: Tensor) -> Array:
        """Standardised features (N, D) of images (N, *image) in [-1, 1]."""
        hidden = _hidden(self.weights, self.biases, images)[:, self.is_live]
        return (hidden - self.mean) / self.scale


def features_of(
    data: ImageData,
    place: str | None = None,
    *,
    device: torch.device | None = None,
    show_progress: bool | None = None,
) -> Features:
    """The features that samples of a data set are compared on.

    Args:
        data: The data set.
        place: "lenet", the data set's LeNet from the user's cache folder (trained and stored there the first time);
            "imagenet", see `imagenet_features`; a file of `lamina features`; or `package.module:name` of your own, see
            `NetworkFeatures`. None takes the network of ImageNet for colour images and the LeNet for grey ones, but an
            MLP for images too small for a LeNet.
        device: Where the network of ImageNet computes, which is large; None takes the CPU, where the others are.
        show_progress: None shows a bar where standard error is a terminal.

    Raises:
        MissingExtraError: If a package is not installed.
        ParameterError: If there is nothing at the place, or the network does not fit the images.
    """
    place = _place(data, place)
    if place is None:
        return train_features(data)
    if place == IMAGENET:
        return imagenet_features(device)
    if ":" in place:
        return imported_features(place)
    return lenet_features(data, None if place == LENET else Path(place), show_progress=show_progress)


def check_features(data: ImageData, place: str | None = None) -> None:
    """Raise what `features_of` would raise for want of a package or a module: before hours of training, not after."""
    place = _place(data, place)
    if place == IMAGENET:
        installed_packages()
    elif place is not None and ":" in place:
        imported_features(place)


def _place(data: ImageData, place: str | None) -> str | None:
    """The place that was asked for, or the usual one of such images; None is that of an MLP."""
    channels, *sides = data.image_shape
    if place == IMAGENET and channels != 3:
        raise ParameterError(
            f"a network of ImageNet wants colour images, of 3 channels; those of {data.name!r} have {channels}. "
            "Leave --features out, and they are compared on a network of the data set."
        )
    if place is not None:
        return place
    if min(sides) < SMALLEST:
        return None
    return IMAGENET if channels == 3 else LENET


def train_features(data: ImageData) -> ImageFeatures:
    """Train the classifier on the training images; deterministic.

    Raises:
        MissingExtraError: Without scikit-learn.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "features of images") from error
    data = with_classes(data)
    images, labels = data.train[:_MAX_ROWS], data.train_labels[:_MAX_ROWS]
    network = MLPClassifier((64, 32), max_iter=100, early_stopping=True, alpha=1e-3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(_flat(images), labels.numpy())
    weights, biases = [np.asarray(w, float) for w in network.coefs_[:-1]], network.intercepts_[:-1]
    hidden = _hidden(weights, biases, images)
    is_live = hidden.std(0) > 1e-3 * hidden.std(0).max()
    return ImageFeatures(
        weights,
        biases,
        is_live,
        hidden[:, is_live].mean(0),
        hidden[:, is_live].std(0),
        float(network.score(_flat(data.test), data.test_labels.numpy())),
        f"last hidden layer ({is_live.sum()} units) of an MLP classifier 64-32 of {len(images)} training images",
    )


def _flat(images: Tensor) -> Array:
    flat: Array = images.flatten(1).to("cpu", torch.float64).numpy()
    return flat


def _hidden(weights: list[Array], biases: list[Array], images: Tensor) -> Array:
    hidden = _flat(images)
    for matrix, bias in zip(weights, biases, strict=True):
        hidden = np.maximum(hidden @ matrix + bias, 0)
    return hidden
