"""Features of images by any network: batches, eight-bit rounding, and a checksum of its weights.

Generated and real images go the same way: rounded to 0..255, on the data's own scale (no image is stretched to its
own darkest and brightest pixel, which would hide what differs), then to the network.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError
from lamina.samplers.checks import check_count

from .measures import Array


class Features(Protocol):
    """What distances between samples of images are taken on."""

    @property
    def name(self) -> str:
        """Begins the names of the measures, so that no figure passes for that of another network."""
        ...

    @property
    def description(self) -> str:
        """What it is, for reports."""
        ...

    @property
    def accuracy(self) -> float | None:
        """Of the classifier that it is part of, on the data set's test images; None if it is no such."""
        ...

    @property
    def checksum(self) -> str:
        """SHA-256, in hex, of its weights."""
        ...

    def __call__(self, images: Tensor) -> Array:
        """Features (N, D) of images (N, *image) in [-1, 1], which may be on any device."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkFeatures:
    """Features by a PyTorch module, such as an Inception network whose weights you have.

    Images may be on any device: each batch goes to where the network lives, and its features come back to the CPU.

    For a Frechet distance that is the FID of the literature, the module must give the pool features of the weights of
    that literature, and `preprocess` must resize as it did; the distance is then taken on raw features, as there.

    Attributes:
        name: Such as "inception"; begins the names of the measures.
        network: From what `preprocess` makes to features (N, D); an eval-mode module, all of it on one device.
        preprocess: From eight-bit images (N, C, H, W), uint8, on the network's device, to the network's input.
        description: For reports.
        accuracy: See `Features`.
        batch_size: Images that go through the network at once, at most.
    """

    name: str
    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]
    description: str
    accuracy: float | None = None
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size, 1)

    @property
    def checksum(self) -> str:
        """See `Features`."""
        return weights_checksum(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Array:
        """See `Features`; on the CPU in double precision, whatever the network computes in."""
        device = next((part.device for part in (*self.network.parameters(), *self.network.buffers())), images.device)
        parts = [self._rows(part.to(device)) for part in torch.split(images, self.batch_size)]
        features: Array = torch.cat(parts).numpy()
        return features

    def _rows(self, images: Tensor) -> Tensor:
        """Features of one batch, which is where the network lives, on the CPU in double precision."""
        features: Tensor = self.network(self.preprocess(to_bytes(images)))
        if features.ndim != 2:
            raise ParameterError(f"features are one row per image, (N, D); got {tuple(features.shape)}.")
        return features.to("cpu", torch.float64)


def stated(features: Features) -> dict[str, Any]:
    """What every report says of the features that its figures were taken on, for JSON."""
    return {
        "features": features.description,
        "feature_name": features.name,
        "feature_accuracy": features.accuracy,
        "feature_checksum": features.checksum,
    }


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as eight bits: -1 is 0 and 1 is 255, rounded to the nearest; beyond is cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """Eight-bit images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def weights_checksum(network: nn.Module) -> str:
    """SHA-256, in hex, of a network's weights and buffers: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def imported_features(place: str) -> Features:
    """Features from a place in Python, `package.module:name`: an object, or a function that makes it.

    Raises:
        ParameterError: If there is nothing of the kind.
    """
    module, _, attribute = place.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
        features: Features = found if hasattr(found, "checksum") else found()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ParameterError(
            f"{place} names no features: {error}. Give package.module:name of a NetworkFeatures, or of a function "
            "without arguments that makes it."
        ) from error
    if missing := [part for part in ("name", "description", "accuracy", "checksum") if not hasattr(features, part)]:
        raise ParameterError(f"{place} is no Features: it lacks {', '.join(missing)}. Make it a NetworkFeatures.")
    return features
