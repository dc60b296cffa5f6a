"""What each layer is for: resampled and traversed layers in pictures, KL divergences, energies and linear probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers import Kernel, MissingExtraError

from .latents import rows
from .layers import LayerSampler, with_layer


def resampled_layers(
    model: LatentEBM, z: Latents, kernel: Kernel[Any], *, num_steps: int, generator: torch.Generator
) -> list[Latents]:
    """z itself, then z with z_1 alone drawn anew from the EBM prior given the rest, then z_2 alone, and so on to z_L.

    Args:
        model: The model.
        z: Draws of the EBM prior, (C, *event_i) per layer.
        kernel: Moves the layer; its step size is fitted.
        num_steps: Of the chains.
        generator: Source of randomness, on the device of z.
    """
    drawn = [z]
    for layer in range(len(z)):
        sampler = LayerSampler(model.prior, kernel, (layer,), num_steps).fitted(z, generator=generator)
        drawn.append(sampler.draw(z, generator=generator))
    return drawn


@torch.no_grad()
def traversals(model: LatentEBM, posterior: Latents, *, num: int = 8, reach: float = 2.5) -> list[Latents]:
    """For each layer, z along the direction in which the aggregate posterior varies most; one row of z per value.

    The way is in u, about the aggregate posterior's mean and in units of its spread there, so that the layers below
    follow through the base prior.

    Args:
        model: The model.
        posterior: One draw of z for every held-out image, (M, *event_i) per layer.
        num: Values on the way.
        reach: How far it goes to either side, in standard deviations.
    """
    base = model.prior.base
    u = base.inverse(posterior)
    centre = tuple(part.mean(0, keepdim=True) for part in u)
    ways = []
    for layer, part in enumerate(u):
        spread = (part - centre[layer]).flatten(1)
        _, scales, directions = torch.linalg.svd(spread, full_matrices=False)
        step = directions[0] * scales[0] / len(spread) ** 0.5
        places = torch.linspace(-reach, reach, num, dtype=part.dtype, device=part.device)
        along = centre[layer] + (places.unsqueeze(1) * step).reshape(num, *part.shape[1:])
        held = tuple(other.expand(num, *other.shape[1:]) for other in centre)
        ways.append(base.transform(with_layer(held, layer, along)))
    return ways


@torch.no_grad()
def kl_per_layer(model: LatentEBM, x: Tensor, *, generator: torch.Generator) -> Tensor:
    """E_q[log q(z_i|...) - log p_{beta>0}(z_i|z_{i+1})] of each layer over data, (L,) in nats.

    Their sum is KL(q(z|x) || p_{beta>0}(z)). Top-down each term is a KL divergence and near zero where the layer is
    not used; bottom-up, single terms may be negative.
    """
    assert model.inference is not None
    z, log_q = model.inference.draw(x, generator=generator)
    return (log_q - model.prior.base.per_layer(z)).mean(0)


def linear_probes(train: Latents, train_labels: Tensor, test: Latents, test_labels: Tensor) -> list[float]:
    """Accuracy of logistic regression from each layer to the class, z_1 first.

    Args:
        train: One draw of z for each training image used, (N, *event_i) per layer.
        train_labels: (N,).
        test: The same for held-out images, (M, *event_i) per layer.
        test_labels: (M,).

    Raises:
        MissingExtraError: Without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "linear probes") from error
    accuracies = []
    for ours, theirs in zip(train, test, strict=True):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        probe.fit(rows(ours), train_labels.cpu().numpy())
        accuracies.append(float(probe.score(rows(theirs), test_labels.cpu().numpy())))
    return accuracies


def chance(labels: Tensor) -> float:
    """The accuracy of always naming the most frequent class."""
    return float(np.bincount(labels.cpu().numpy()).max() / len(labels))
