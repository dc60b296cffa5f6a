"""Images in a standard pose: `POSE:NAME`, so that place, slant and size say nothing any more about what is shown.

The ink of an image, its brightness above black, has a centre and second moments, as a mass has. In a standard pose the
centre is the middle of the image, and ink to the left and right balances at every height on average (no slant). Then

- `upright`: its standard deviation along the height is a fifth of the height, and the width is scaled alike;
- `whitened`: that along the width, what the slant explains taken out, is fixed as well.

An image without ink stays as it is.

Source: Hu (1962), IRE Transactions on Information Theory 8, for moments; LeCun, Bottou, Bengio and Haffner (1998),
section III, for digits whose slant is removed. Differs: sizes are those of the ink's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lamina.samplers import UnknownNameError

from .images import ImageData

SPREAD_Y, SPREAD_X = 5.5 / 28, 4.2 / 28
"""Standard deviations of the ink in a standard pose, as shares of height and width: those of handwritten digits."""

_LEAST_SPREAD = 0.02
"""Share of the side below which ink counts as no narrower: a line is not drawn out to a blot."""

_BATCH = 2000


class Moments(NamedTuple):
    """Of the ink of images, in float64, (N,) each; lengths are shares of half a side, as `affine_grid` has them.

    Attributes:
        x, y: The centre, from the middle of the image.
        slant: How far the ink moves along x for a unit along y.
        spread_x: Standard deviation along x of what the slant leaves.
        spread_y: Standard deviation along y.
        is_inked: Whether there is any ink.
    """

    x: Tensor
    y: Tensor
    slant: Tensor
    spread_x: Tensor
    spread_y: Tensor
    is_inked: Tensor


def _places(size: int, like: Tensor) -> Tensor:
    """Of the middles of pixels along a side, which reaches from -1 to 1."""
    return 2 * (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size - 1


def moments(images: Tensor) -> Moments:
    """Moments of images (N, C, H, W) in [-1, 1], of all channels together."""
    ink = (images.double() + 1).sum(1)
    mass = ink.sum((1, 2))
    ink = ink / mass.clamp(min=torch.finfo(ink.dtype).tiny).reshape(-1, 1, 1)
    along_x, along_y = ink.sum(1), ink.sum(2)
    place_y, place_x = (_places(size, ink) for size in ink.shape[1:])
    x, y = along_x @ place_x, along_y @ place_y
    away_x, away_y = place_x - x.unsqueeze(1), place_y - y.unsqueeze(1)
    xx, yy = (along_x * away_x.square()).sum(1), (along_y * away_y.square()).sum(1)
    xy = torch.einsum("nyx,nx,ny->n", ink, away_x, away_y)
    least = (2 * _LEAST_SPREAD) ** 2
    yy = yy.clamp(min=least)
    slant = xy / yy
    return Moments(x, y, slant, (xx - slant * xy).clamp(min=least).sqrt(), yy.sqrt(), mass > 0)


def upright(found: Moments) -> tuple[Tensor, Tensor]:
    """As much wider as taller."""
    scale = found.spread_y / (2 * SPREAD_Y)
    return scale, scale


def whitened(found: Moments) -> tuple[Tensor, Tensor]:
    """Wider and taller, each by its own measure."""
    return found.spread_x / (2 * SPREAD_X), found.spread_y / (2 * SPREAD_Y)


Sizes: TypeAlias = Callable[[Moments], tuple[Tensor, Tensor]]
"""How much wider and taller originals are than the standard pose, (N,) each."""

POSES: Mapping[str, Sizes] = {"upright": upright, "whitened": whitened}
"""Every standard pose by name."""


def split_pose(name: str) -> tuple[str | None, str]:
    """The pose that a data set's name asks for, if any, and the rest of the name."""
    pose, colon, rest = name.partition(":")
    return (pose, rest) if colon and pose in POSES else (None, name)


def posed(images: Tensor, pose: str | None, num_levels: int) -> Tensor:
    """Images in a standard pose, bilinear between pixels, black outside, rounded to grey levels.

    Args:
        images: (N, C, H, W) in [-1, 1].
        pose: Name of the pose; None leaves images as they are.
        num_levels: Grey levels of the data.

    Raises:
        UnknownNameError: If there is no such pose.
    """
    if pose is None:
        return images
    if pose not in POSES:
        raise UnknownNameError("standard pose", pose, POSES)
    if not len(images):
        return images
    return torch.cat([_posed(batch, POSES[pose], num_levels) for batch in torch.split(images, _BATCH)])


def _posed(images: Tensor, sizes: Sizes, num_levels: int) -> Tensor:
    found = moments(images)
    wider, taller = sizes(found)
    none = torch.zeros_like(wider)
    rows = (wider, found.slant * taller, found.x), (none, taller, found.y)
    maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = affine_grid(maps, list(images.shape), align_corners=False).to(images.dtype)
    ink = grid_sample(images + 1, grid, align_corners=False)  # pads with zeros, which is black
    steps = (num_levels - 1) / 2
    return torch.where(found.is_inked.reshape(-1, 1, 1, 1), (ink * steps).round() / steps - 1, images)


def in_pose(data: ImageData, pose: str, name: str) -> ImageData:
    """A data set with all images in a standard pose."""
    how = f"in the standard pose {pose!r} by moments of the ink"
    return replace(
        data,
        name=name,
        train=posed(data.train, pose, data.num_levels),
        test=posed(data.test, pose, data.num_levels),
        rule="; ".join(filter(None, (data.rule, how))),
    )
