"""A rule that picks an outlier score, and its k, without outlier data; and scores of several, which need no pick.

Held-out images of the training distribution are damaged in ways that need no other data set, each of which moves them
away from the distribution by another road: towards less detail, towards more, away from its global structure with the
local one kept, and to other grey values. The score is taken whose *worst* AUROC over these sets is the best:
likelihoods, for one, tell noise from data but call what is simpler than the data likelier, and fail by it.

What the rule sees are figures on these sets alone. It is fixed before any outlier data set is looked at, and what it
picks is applied to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lamina.samplers import MissingExtraError

from .measures import Array
from .outliers import Detection, detections


@dataclass(frozen=True)
class Typicality:
    """How far a row's scores, all at once, are from those of images of the training distribution.

    The squared Mahalanobis distance of the vector of scores. It has two sides: an image that is likelier than data
    are is as suspect as one that is less likely.

    Attributes:
        names: Of the scores it uses: ratios are left out, as differences of others.
        centre: Their mean over these, (S,).
        precision: Inverse of their covariance, shrunk, (S, S).

    Source: Morningstar et al. (AISTATS 2021), arXiv 2006.09273. Differs: one Gaussian in place of kernel density
    estimates of each score.
    """

    names: tuple[str, ...]
    centre: Array
    precision: Array

    @staticmethod
    def fit(scores: Mapping[str, Array]) -> Typicality:
        """From scores of images of the training distribution that nothing else is measured on.

        Raises:
            MissingExtraError: Without scikit-learn.
        """
        try:
            from sklearn.covariance import LedoitWolf
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "train", "the typicality of scores") from error
        names = tuple(name for name in scores if "ratio" not in name)
        table = np.stack([scores[name] for name in names], axis=1)
        table = table[np.isfinite(table).all(axis=1)]
        scale = np.maximum(table.std(0), 1e-9)  # the shrinkage is towards equal variances
        fitted = LedoitWolf().fit(table / scale)
        return Typicality(names, table.mean(0), fitted.precision_ / np.outer(scale, scale))

    def __call__(self, scores: Mapping[str, Array]) -> Array:
        """The score of every row, (N,); higher is more outlying, and infinite where one of its scores is."""
        away = np.stack([scores[name] for name in self.names], axis=1) - self.centre
        is_finite = np.isfinite(away).all(axis=1)
        distance: Array = np.full(len(away), np.inf)
        distance[is_finite] = np.einsum("ni,ij,nj->n", away[is_finite], self.precision, away[is_finite])
        return distance


@dataclass(frozen=True)
class Combination:
    """Scores that fail on different images, by how rare each is among images of the training distribution.

    What decodes badly is told by `unexplained`; what decodes well, from where no training image went, by `energy` and
    `independence`: the EBM prior against two bases. In the joint density the first, a sum over pixels, drowns the
    others; shares of images weigh the same. An image that is rare by one score is nearly as rare by all together,
    whatever the others say: they are measured at the same draw of z, so that they are no independent witnesses, and
    what one of them finds the others miss.

    Attributes:
        ordered: Scores of images of the training distribution, by name, (N,) each, ascending.

    Source: the harmonic mean of p-values, for tests that depend on each other (Good 1958, Journal of the American
    Statistical Association 53; Wilson 2019, PNAS 116).
    """

    ordered: Mapping[str, Array]

    @staticmethod
    def fit(
        scores: Mapping[str, Array], names: Sequence[str] = ("energy", "independence", "unexplained")
    ) -> Combination:
        """From scores of images that nothing else is measured on.

        Args:
            scores: By name, (N,) each.
            names: Which of them to combine.
        """
        return Combination({name: np.sort(scores[name]) for name in names})

    def __call__(self, scores: Mapping[str, Array]) -> Array:
        """The score of every row, (N,): minus the log of the harmonic mean of the shares that score as high, or higher.

        Those of models that fail on different images are rarer together: add them, as Fisher's combination does.
        """
        shares = [_share_above(ordered, scores[name]) for name, ordered in self.ordered.items()]
        rarity: Array = np.log(np.mean(1 / np.stack(shares), axis=0))
        return rarity


def _share_above(ordered: Array, values: Array) -> Array:
    """The share of an ordered sample that is as high as each value or higher, were the value one of the sample."""
    num_above = len(ordered) - np.searchsorted(ordered, values)
    share: Array = (num_above + 1) / (len(ordered) + 1)
    return share


class Choice(NamedTuple):
    """What the rule picks.

    Attributes:
        score: Its name.
        worst: Its lowest AUROC over the damaged sets.
        table: Of every score and damaged set, by score and set.
    """

    score: str
    worst: float
    table: dict[str, dict[str, Detection]]


def choose(inliers: Mapping[str, Array], damaged: Mapping[str, Mapping[str, Array]]) -> Choice:
    """Pick the score with the best worst AUROC over the damaged sets; the first of equals.

    Args:
        inliers: Scores of held-out images, by name.
        damaged: The same for every damaged set.
    """
    by_set = {kind: detections(inliers, scores) for kind, scores in damaged.items()}
    table = {score: {kind: figures[score] for kind, figures in by_set.items()} for score in inliers}
    worst = {score: min(found.auroc for found in row.values()) for score, row in table.items()}
    best = max(worst, key=lambda score: worst[score])
    return Choice(best, worst[best], table)


def damaged_sets(x: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Damaged versions of images (N, C, H, W) in [-1, 1], by name; N of each.

    Args:
        x: Held-out images of the training distribution.
        generator: Source of what is random in them, on the device of x.
    """
    return {name: damage(x, generator) for name, damage in DAMAGES.items()}


def _blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    """Averages over a quarter of the height and width, at every pixel: the same scene with less detail."""
    size = 2 * (min(x.shape[2:]) // 8) + 1
    padded = torch.nn.functional.pad(x, (size // 2,) * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, size, stride=1)


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """One pixel in five replaced by noise: more detail."""
    noise = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1
    is_hit = torch.rand(x.shape, generator=generator, device=x.device) < 0.2
    return torch.where(is_hit, noise, x)


def _swapped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Quarters in another order, a different one for each image: local structure without the global one."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    quarters = torch.stack([x[:, :, i : i + height, j : j + width] for i in (0, height) for j in (0, width)], dim=1)
    shift = torch.randint(1, 4, (len(x),), generator=generator, device=x.device)
    order = (torch.arange(4, device=x.device) + shift.unsqueeze(1)) % 4
    quarters = quarters[torch.arange(len(x), device=x.device).unsqueeze(1), order]
    upper, lower = (torch.cat([quarters[:, i], quarters[:, i + 1]], dim=3) for i in (0, 2))
    swapped = x.clone()
    swapped[:, :, : 2 * height, : 2 * width] = torch.cat([upper, lower], dim=2)
    return swapped


def _halved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The left half of one image beside the right half of another: each half is as it should be."""
    other = x.roll(1 + int(torch.randint(len(x) - 1, (), generator=generator, device=x.device)), dims=0)
    half = x.shape[3] // 2
    return torch.cat([x[..., :half], other[..., half:]], dim=3)


def _thinned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Outlines alone, as bright as the image was: simpler than the image, and sharp."""
    inner = -torch.nn.functional.max_pool2d(torch.nn.functional.pad(-x, (1,) * 4, mode="replicate"), 3, stride=1)
    return (x - inner - 1).clamp(-1, 1)


def _inverted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Dark is bright."""
    return -x


DAMAGES: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blurred": _blurred,
    "noisy": _noisy,
    "swapped": _swapped,
    "halved": _halved,
    "thinned": _thinned,
    "inverted": _inverted,
}
"""Every damage by name."""
