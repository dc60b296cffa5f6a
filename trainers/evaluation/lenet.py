"""The feature network of grey images: a LeNet of the data set's training split, trained once and stored.

Its figures compare models of one data set with each other. They are no Inception FID, and no two data sets share a
scale.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.models import seeded_init
from lamina.samplers import ParameterError, StateError, progress, storage

from ..data import BatchStream, ImageData, plain_name
from ..errors import CheckpointError, RunFolderError
from .networks import NetworkFeatures, from_bytes, to_bytes, weights_checksum
from .turns import is_classified, with_classes

SMALLEST = 12
"""Height and width from which on a LeNet fits."""
NUM_EPOCHS = 3
_BATCH = 128
_KIND = "lamina lenet"
_WIDTH = 84


class LeNet(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to standardised features: the last hidden layer of LeNet-5.

    Units that are silent over the training images are zero.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Proceedings of the IEEE 86, section II.B. Differs: ReLU, maximum
    pooling, 16 and 32 channels.

    Args:
        image: (C, H, W).
        num_classes: Of the classifier.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, image: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image
        if min(height, width) < SMALLEST:
            raise ParameterError(f"a LeNet wants images of {SMALLEST} pixels or more a side; got {image}.")
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120),
            nn.ReLU(),
            nn.Linear(120, _WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(_WIDTH, num_classes)
        self.register_buffer("mean", torch.zeros(_WIDTH))
        self.register_buffer("scale", torch.ones(_WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 84)."""
        features: Tensor = (self.body(images) - self.mean) / self.scale
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Scores of the classes, (N, num_classes)."""
        scores: Tensor = self.head(self.body(images))
        return scores


def lenet_features(data: ImageData, path: Path | None = None, *, show_progress: bool | None = None) -> NetworkFeatures:
    """The data set's LeNet: read where it is stored, else trained and stored there.

    Args:
        data: Images of at least 12 pixels a side; those of one class alone are turned, see `with_classes`.
        path: File; None: `lenet_path(data)`, in the user's cache folder.
        show_progress: None shows a bar where standard error is a terminal.

    Raises:
        CheckpointError: If the file is damaged, or of other data.
        RunFolderError: If it cannot be written.
        DataError: If it must be trained, and there are no training images.
    """
    path = lenet_path(data) if path is None else path
    if not path.exists():
        _store(_train(data, show_progress), data, path)
    return _read(path, data)


def lenet_path(data: ImageData) -> Path:
    """Where the data set's LeNet is stored: `lamina/features` in `XDG_CACHE_HOME`, by default `~/.cache`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lamina" / "features" / f"lenet-{plain_name(data.name)}-{data.checksum[:12]}.pt"


def _train(data: ImageData, show_progress: bool | None) -> LeNet:
    """Deterministic but for the number of threads."""
    data.check_trainable()
    data = with_classes(data)
    num_classes = int(data.train_labels.max()) + 1
    with seeded_init(0):
        network = LeNet(data.image_shape, num_classes)
    images = from_bytes(to_bytes(data.train))  # as it will see them
    stream = BatchStream(len(images), min(_BATCH, len(images)), torch.Generator().manual_seed(0))
    num_steps = NUM_EPOCHS * (len(images) // min(_BATCH, len(images)))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=num_steps + 1)
    with progress(num_steps, f"LeNet of {data.name}", enabled=show_progress) as bar:
        for _ in range(num_steps):
            rows = stream.next()
            loss = nn.functional.cross_entropy(network.logits(images[rows]), data.train_labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            bar.advance({"loss": f"{float(loss.detach()):.3f}"} if bar.is_shown else None)
    network.requires_grad_(False)
    _standardise(network, images)
    return network


@torch.no_grad()
def _standardise(network: LeNet, images: Tensor) -> None:
    """Set the scale of the features to that over the training images; silent units become zero."""
    features = torch.cat([network(part) for part in torch.split(images, 500)])
    deviation = features.std(0)
    is_live = deviation > 1e-3 * deviation.max()
    network.mean.copy_(features.mean(0))
    network.scale.copy_(torch.where(is_live, deviation, torch.inf))


@torch.no_grad()
def _accuracy(network: LeNet, data: ImageData) -> float:
    data = with_classes(data)
    images = from_bytes(to_bytes(data.test))
    guesses = torch.cat([network.logits(part).argmax(1) for part in torch.split(images, 500)])
    return float((guesses == data.test_labels).float().mean())


def _store(network: LeNet, data: ImageData, path: Path) -> None:
    state: dict[str, Any] = {
        "data": data.name,
        "data_checksum": data.checksum,
        "image_shape": list(data.image_shape),
        "num_classes": network.head.out_features,
        "num_epochs": NUM_EPOCHS,
        "accuracy": _accuracy(network, data),
        "checksum": weights_checksum(network),
        "weights": dict(network.state_dict()),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.save(state, path, kind=_KIND)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error}. Free some space, or name another cache folder by XDG_CACHE_HOME."
        ) from error


def _read(path: Path, data: ImageData) -> NetworkFeatures:
    try:
        state = storage.load(path, kind=_KIND)
        with seeded_init(0):  # the global generator stays as it is
            network = LeNet(tuple(state["image_shape"]), state["num_classes"])
        network.load_state_dict(state["weights"])
        is_whole = weights_checksum(network) == state["checksum"]
        of_data, accuracy = state["data_checksum"], float(state["accuracy"])
    except (OSError, StateError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no LeNet: {error} Remove it, and it is trained anew.") from error
    if not is_whole:
        raise CheckpointError(f"{path} is damaged: its weights lack their checksum. Remove it, and train it anew.")
    if of_data != data.checksum:
        raise CheckpointError(
            f"{path} is of other data (checksum {of_data[:12]}, those of {data.name!r} have {data.checksum[:12]}). "
            "Use the LeNet of the same data."
        )
    network.requires_grad_(False)
    return NetworkFeatures(
        name="lenet",
        network=network.eval(),
        preprocess=from_bytes,
        description=f"last hidden layer ({int(network.scale.isfinite().sum())} units) of a LeNet of {data.name}'s "
        f"training images{'' if is_classified(data) else ', which tells quarter turns'}; not Inception",
        accuracy=accuracy,
    )
