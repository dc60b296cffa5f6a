"""Coloured digits on textures at 32x32: what SVHN is to CIFAR-10, where SVHN is not to be had.

Each of MNIST's 10,000 test digits lies, in one muted colour, on a field of its own: a gradient and smooth noise at
three scales, whose channels vary partly together. They go through JPEG as those of `cifar.JPEGS` did, so that its
traces alone do not tell the two apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .decoding import compressed
from .idx import MNIST, IdxSpec, load_idx_set
from .images import ImageData, scaled

SEED = 20230619
"""Seed of the `torch.Generator` behind colours and textures."""

QUALITY = 75
"""Of JPEG."""

_SIDE = 32
_OCTAVES = {2: 0.12, 4: 0.08, 8: 0.05, 16: 0.03}
"""Cells a side of a noise field, and its standard deviation there on a scale of 0 to 1; 2 makes gradients."""
_TINT = 0.08
"""Standard deviation of a channel about the grey of a colour."""
_SHARED = 0.7
"""Share of the variance that the channels of a texture have in common."""


def load_mnist_colour(roots: Sequence[Path], *, spec: IdxSpec = MNIST) -> ImageData:
    """Make the set, test images alone, from the digits where they are found; the same for one version of Pillow.

    The checksum is that of the finished images.

    Raises:
        DataError: If the digits are missing, damaged, or not the published ones.
        MissingExtraError: Without Pillow.
    """
    found = load_idx_set(spec, roots)
    images = np.stack([compressed(image, QUALITY) for image in _painted(found.arrays["test"])])
    return scaled(
        "mnist-colour",
        {"test": images, "test_labels": found.arrays["test_labels"]},
        checksum=hashlib.sha256(images.tobytes()).hexdigest(),
        source=str(found.folder),
        rule=f"coloured digits on textures, seed {SEED}, JPEG quality {QUALITY} by Pillow {version('pillow')}",
    )


def _painted(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Digits (N, H, W), bright on dark, in colour on textures, (N, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(SEED)
    num, height, width = digits.shape
    background, ink = _colours(num, generator)
    borders = ((_SIDE - width) // 2, (_SIDE - width + 1) // 2, (_SIDE - height) // 2, (_SIDE - height + 1) // 2)
    cover = pad(torch.from_numpy(digits.astype(np.float32)) / 255, borders).unsqueeze(1)
    ground = (background + _textures(num, generator)).clamp(0, 1)
    painted = ground + cover * (ink - ground)
    pixels: npt.NDArray[np.uint8] = (255 * painted).round().to(torch.uint8).numpy()
    return pixels


def _colours(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Colours (N, 3, 1, 1) in [0, 1] of grounds and of ink: tinted greys, 0.3 or more apart before they are tinted."""
    grey, shift = torch.rand(2, num, 1, 1, 1, generator=generator)
    tints = _TINT * torch.randn(2, num, 3, 1, 1, generator=generator)
    background, ink = (torch.stack([grey, (grey + 0.3 + 0.4 * shift) % 1]) + tints).clamp(0, 1)
    return background, ink


def _textures(num: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields around zero, (N, 3, 32, 32)."""
    fields = torch.zeros(num, 3, _SIDE, _SIDE)
    for cells, deviation in _OCTAVES.items():
        shared, own = (torch.randn(num, channels, cells, cells, generator=generator) for channels in (1, 3))
        noise = deviation * (_SHARED**0.5 * shared + (1 - _SHARED) ** 0.5 * own)
        fields += interpolate(noise, size=(_SIDE, _SIDE), mode="bilinear", align_corners=cells == 2)
    return fields
