"""Held-out classes, for anomaly detection: `NAME-without-CLASS` to train on, `NAME-only-CLASS` as anomalies.

Training and test images of NAME are pooled. Without the class, 80 % of the rest are for training and 20 % for testing;
of the class, all are for testing. So the anomalies are all images of the class, and the inliers a fifth of the others.

Source: the protocol behind Table 4 of Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, as the published code of Yu et al.
(NeurIPS 2023), arXiv 2310.03218, has it. Differs: the shuffle, which is that of another generator.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .images import SPLIT_SEED, ImageData, shuffled_split


class HeldOut(NamedTuple):
    """A data set of which one class is left out, or alone is left."""

    base: str
    keep: Literal["without", "only"]
    label: int


def held_out(name: str) -> HeldOut | None:
    """What a name such as `mnist-without-4` or `mnist-only-4` means; None for any other."""
    if found := re.fullmatch(r"(.+)-(without|only)-(\d{1,9})", name):
        base, keep, label = found.groups()
        return HeldOut(base, "only" if keep == "only" else "without", int(label))
    return None


def divided(data: ImageData, rule: HeldOut, name: str) -> ImageData:
    """Pool a data set, and leave a class out, or leave it alone.

    Raises:
        DataError: If the set has no such class, or no other one.
    """
    images, labels = torch.cat([data.train, data.test]), torch.cat([data.train_labels, data.test_labels])
    is_held_out = labels == rule.label
    if not is_held_out.any() or is_held_out.all():
        classes = ", ".join(map(str, sorted(set(labels.tolist()))))
        raise DataError(f"{name}: {rule.base} has the classes {classes}; got {rule.label}. Name one of several.")
    if rule.keep == "only":
        train, test = torch.arange(0), is_held_out.nonzero().squeeze(1)
        how = f"all of class {rule.label}, training and test pooled"
    else:
        rest = (~is_held_out).nonzero().squeeze(1)
        train, test = (rest[part] for part in shuffled_split(len(rest), 4 * len(rest) // 5))
        how = f"training and test pooled, without class {rule.label}, split 80 to 20 by seed {SPLIT_SEED}"

    def rows(part: Tensor) -> tuple[Tensor, Tensor]:
        return images[part], labels[part]

    (train_images, train_labels), (test_images, test_labels) = rows(train), rows(test)
    return replace(
        data,
        name=name,
        train=train_images,
        train_labels=train_labels,
        test=test_images,
        test_labels=test_labels,
        rule="; ".join(filter(None, (data.rule, how))),
    )
