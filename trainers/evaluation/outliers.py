"""Outlier scores of a hierarchical model, for every k; higher means more outlying, whatever the score.

For k = 0, ..., L - 1 the layers z_{>k} come from q(z|x) and the k lowest from a prior given them, so that k says from
which layer on the data are heard. With

    L^{>k} = E[log p(x|z) + log p_{beta>0}(z_{>k}) - log q(z_{>k}|x)], z_{<=k} from the base prior,
    J^{>k} = E[log p(x|z) + log p_{beta>0}(z) + sum_i f_i(z_i)],       z_{<=k} from the EBM prior by chains,

| name | score | source |
| --- | --- | --- |
| `bound/k` | -L^{>k} | Havtorn et al. |
| `ratio/k`, k > 0 | LLR^{>k} = L^{>0} - L^{>k} | Havtorn et al. |
| `joint/k` | -J^{>k} | Cui et al., equation 20 |
| `joint-ratio/k`, k > 0 | J^{>0} - J^{>k} | Cui et al. |
| `chain-joint` | minus the un-normalised log p(x, z) where posterior chains from q's draw end | Pang et al. |
| `prior` | minus the un-normalised log-density of that z under the EBM prior alone | |
| `reconstruction` | squared error per pixel at that z | |
| `energy` | -sum_i f_i(z_i) at q's draw: how much less likely the EBM prior finds it than the base prior does | |
| `independence` | the same for a Gaussian whose entries are independent, with the moments of q's draws, as the base | |
| `unexplained` | log of the share of the image's variance that is missed at q's draw, the error smoothed by a pixel | |

Where a score is no number, as far from the data where the scale of q leaves the range of floats, it is +inf: an image
for which the model has no number is as outlying as can be.

log Z would add one constant to all rows, and so changes no order. The energies take no part in `bound` and `ratio`,
which are those of the hierarchical Gaussian model.

Sources: Havtorn, Frellsen, Hauberg and Maaloe (ICML 2021), arXiv 2102.08248; Cui, Wu and Han (CVPR
2023), arXiv 2306.06323; Pang et al. (NeurIPS 2020), arXiv 2006.08205. Differs: expectations are means
over draws, also of the prior-drawn layers (the published code takes their mode); how z_{<=k} is drawn from the EBM
prior is not published, here chains move them with z_{>k} held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from lamina.models import Gaussian, LatentEBM, Latents
from lamina.samplers import MissingExtraError, ParameterError
from lamina.samplers.checks import check_count

from ..config import TrainConfig
from .layers import (
    LayerSampler,
    PosteriorSampler,
    has_inference,
    joint_log_density,
    posterior_draws,
    redrawn_from_base,
)
from .measures import Array

_FLOOR = 0.002**2
"""A thousandth of the width of the grey scale, squared: images of one grey exist."""


class Detection(NamedTuple):
    """How well a score tells outliers (the positives) from inliers.

    Attributes:
        auroc: Area under the ROC curve: the chance that an outlier scores higher than an inlier.
        auprc: Average precision, outliers positive; chance is their share.
        fpr80: False positive rate at the first threshold with a true positive rate of 0.8 or more.
    """

    auroc: float
    auprc: float
    fpr80: float


def detection(inliers: Array, outliers: Array, *, balanced: bool = True) -> Detection:
    """Figures of one score, (N,) and (M,).

    Args:
        inliers: Scores, (N,).
        outliers: Scores, (M,).
        balanced: Take equal numbers of both, the first of the longer side: precision depends on their share.

    Raises:
        ParameterError: If there are no rows, or a score is NaN.
        MissingExtraError: Without scikit-learn.
    """
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "detection of outliers") from error
    num = min(len(inliers), len(outliers))
    if balanced:
        inliers, outliers = inliers[:num], outliers[:num]
    scores = np.concatenate([inliers, outliers]).astype(np.float64)
    if not num or np.isnan(scores).any():
        raise ParameterError(
            f"scores must be numbers, one or more a side; got {num} with {np.isnan(scores).sum()} NaN."
        )
    scores = np.nan_to_num(scores, posinf=np.finfo(float).max, neginf=np.finfo(float).min)  # order is all that counts
    labels = np.repeat([0, 1], [len(inliers), len(outliers)])
    false_positives, true_positives, _ = roc_curve(labels, scores)
    return Detection(
        auroc=float(roc_auc_score(labels, scores)),
        auprc=float(average_precision_score(labels, scores)),
        fpr80=float(false_positives[np.argmax(true_positives >= 0.8)]),
    )


@dataclass(frozen=True)
class Scorer:
    """Scores of images; make it with `Scorer.fit`, so that all images meet the same chains.

    Attributes:
        model: The model.
        config: Of its training: how posteriors are drawn.
        num_draws: Over which expectations are taken.
        num_steps: Of every chain; with none, the scores of posterior chains and `joint/k` for k > 0 are left out.
        lower: Chains for the k lowest layers, for k = 1, ..., L - 1.
        posterior: Chains on the posterior.
        independent: The entries of each layer by themselves, over images of the training distribution.
    """

    model: LatentEBM
    config: TrainConfig
    num_draws: int
    num_steps: int
    lower: tuple[LayerSampler, ...]
    posterior: PosteriorSampler
    independent: tuple[Gaussian, ...]

    @staticmethod
    def fit(
        model: LatentEBM,
        config: TrainConfig,
        x: Tensor,
        *,
        generator: torch.Generator,
        num_draws: int = 4,
        num_steps: int = 30,
    ) -> Scorer:
        """Adapt to images of the training distribution, once: the chains' step sizes, and moments of latents.

        Adapted anew on each set, they would tell the sets apart by themselves.

        Args:
            model: The model.
            config: Of its training.
            x: Images of the training distribution, (C, *image); a few hundred.
            generator: Source of randomness, on the device of x.
            num_draws: See the attribute.
            num_steps: See the attribute.

        Raises:
            ParameterError: If a number is out of range, or there are no steps, and no inference model to do without.
        """
        check_count("num_draws", num_draws, 1)
        check_count("num_steps", num_steps, 0 if has_inference(model, config) else 1)
        z = posterior_draws(model, config, x, generator)
        independent = tuple(Gaussian(layer.mean(0, keepdim=True), layer.std(0, keepdim=True)) for layer in z)
        posterior = PosteriorSampler(model, config.posterior, num_steps)
        if not num_steps:
            return Scorer(model, config, num_draws, num_steps, (), posterior, independent)
        lower = tuple(
            LayerSampler(model.prior, config.prior.kernel, tuple(range(k)), num_steps).fitted(z, generator=generator)
            for k in range(1, model.prior.base.depth)
        )
        posterior = posterior.fitted(z, x, generator=generator)
        return Scorer(model, config, num_draws, num_steps, lower, posterior, independent)

    @torch.no_grad()
    def __call__(self, x: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """All scores of images, by name, each (C,); higher is more outlying.

        Without a trained inference model there are neither bounds nor ratios of them, as there is no q.
        """
        draws = [self._once(x, generator) for _ in range(self.num_draws)]
        means = {name: torch.stack([draw[name] for draw in draws]).double().mean(0) for name in draws[0]}
        ratios = {"bound": "ratio", "joint": "joint-ratio"}
        for name in list(means):
            kind, _, k = name.partition("/")
            if kind in ratios and k != "0":
                whole = means[f"{kind}/0"]
                means[f"{ratios[kind]}/{k}"] = torch.where(whole.isfinite(), means[name] - whole, torch.inf)
        return {name: torch.where(values.isnan(), torch.inf, values) for name, values in means.items()}

    def _once(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The scores at one draw of every layer."""
        model, base = self.model, self.model.prior.base
        scores: dict[str, Tensor] = {}
        is_inferred = has_inference(model, self.config)
        if is_inferred:
            assert model.inference is not None
            z, log_q = model.inference.draw(x, generator=generator)
            for k in range(base.depth):
                heard = redrawn_from_base(base, z, range(k), generator=generator)
                kl = (log_q - base.per_layer(heard))[:, k:].sum(1)
                scores[f"bound/{k}"] = kl - model.likelihood.log_prob(x, heard)
        else:
            z = self.posterior.draw(base.sample(len(x), generator=generator), x, generator=generator)
        scores["energy"] = model.prior.energies(z)
        scores["independence"] = model.prior.energy_z(z) + self._log_prob_if_independent(z)
        scores["unexplained"] = _unexplained(x, model.likelihood.mean(z))
        scores["joint/0"] = -joint_log_density(model, x, z)
        for k, sampler in enumerate(self.lower, start=1):
            scores[f"joint/{k}"] = -joint_log_density(model, x, sampler.draw(z, generator=generator))
        if not self.num_steps:
            return scores
        refined = self.posterior.draw(z, x, generator=generator) if is_inferred else z
        scores["chain-joint"] = -joint_log_density(model, x, refined)
        scores["prior"] = model.prior.energy_z(refined)
        scores["reconstruction"] = (model.likelihood.mean(refined) - x).square().flatten(1).mean(1)
        return scores

    def _log_prob_if_independent(self, z: Latents) -> Tensor:
        """Log-density of latents under the product of their marginals, taken as Gaussian, (C,)."""
        terms = [marginal.log_prob(layer) for marginal, layer in zip(self.independent, z, strict=True)]
        return torch.stack(terms).sum(0)


def share_without_number(scores: Mapping[str, Array]) -> float:
    """Of images, those for which some score is infinite, or was no number."""
    return float(np.mean(~np.isfinite(list(scores.values())).all(axis=0)))


def _unexplained(x: Tensor, mean: Tensor) -> Tensor:
    """Log of the share of an image's variance that its reconstruction leaves, (C,): little ink is little to explain.

    The error is smoothed first: along a stroke that lies a little off it changes its sign, and mostly cancels; where a
    stroke is missing it does not.
    """
    pixels = x.flatten(1)
    error, variance = smoothed(mean - x).square().flatten(1).mean(1), pixels.var(1, correction=0)
    return (error + _FLOOR).log() - (variance + _FLOOR).log()


def smoothed(images: Tensor) -> Tensor:
    """Images (C, channels, H, W) under a Gaussian of one pixel, cut off at three, with zeros around them."""
    reach = 3
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    weights = torch.softmax(-0.5 * offsets.square(), 0)
    channels = images.flatten(0, 1).unsqueeze(1)
    rows = conv2d(channels, weights.reshape(1, 1, 1, -1), padding=(0, reach))
    return conv2d(rows, weights.reshape(1, 1, -1, 1), padding=(reach, 0)).reshape(images.shape)


def detections(inliers: Mapping[str, Array], outliers: Mapping[str, Array]) -> dict[str, Detection]:
    """Figures of every score that both sets have."""
    return {name: detection(values, outliers[name]) for name, values in inliers.items() if name in outliers}
