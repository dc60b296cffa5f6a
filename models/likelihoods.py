"""Likelihoods p_{beta0}(x|z): what a generator's output means for the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError

from .hierarchy import Latents
from .nets import flat_sum


class GaussianLikelihood(nn.Module):
    """p(x|z) = N(x; g(z_1), sigma^2 I).

    Args:
        generator: g, from z_1 to an image.
        sigma: Standard deviation of a pixel, > 0; fixed.
    """

    def __init__(self, generator: nn.Module, sigma: float) -> None:
        super().__init__()
        self.generator = generator
        if not sigma > 0:
            raise ParameterError(f"sigma is the standard deviation of a pixel, > 0; got {sigma}.")
        self.sigma = sigma

    def mean(self, z: Latents) -> Tensor:
        """E[x|z], (C, *image)."""
        image: Tensor = self.generator(z[0])
        return image

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """Log-density of x given z, (C,) in nats."""
        mean = self.mean(z)
        _check_image(x, mean)
        constant = math.prod(x.shape[1:]) * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
        return -0.5 * flat_sum(((x - mean) / self.sigma).square()) - constant


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod Bernoulli(b; sigmoid(g(z_1))), with b = (x + 1) / 2 for data x in [-1, 1].

    Grey values count as probabilities, as is usual for MNIST: then this is no density, but a cross entropy.

    Args:
        generator: g, from z_1 to an image of logits (no squashing at its end).
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def mean(self, z: Latents) -> Tensor:
        """E[x|z] on the scale of the data, (C, *image) in [-1, 1]."""
        logits: Tensor = self.generator(z[0])
        return 2 * torch.sigmoid(logits) - 1

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """Log-probability of x given z, (C,) in nats."""
        logits: Tensor = self.generator(z[0])
        _check_image(x, logits)
        return -flat_sum(nn.functional.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none"))


def _check_image(x: Tensor, made: Tensor) -> None:
    if x.shape != made.shape:
        raise ParameterError(
            f"data and latents go row by row: the generator makes {tuple(made.shape)} of these latents; "
            f"got data {tuple(x.shape)}."
        )
