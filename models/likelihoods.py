"""Likelihoods p_{beta0}(x|z): what a generator's output means for the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lamina.samplers import ParameterError
from lamina.samplers.checks import check_count

from .hierarchy import Latents
from .nets import flat_sum


class GaussianLikelihood(nn.Module):
    """p(x|z) = N(x; g(z), sigma^2 I).

    Args:
        generator: g, from latents to an image.
        sigma: Standard deviation of a pixel, > 0; where it starts, if it is learnt.
        learns_sigma: Learn sigma, one for all pixels, through its logarithm: at the optimum it is the root mean
            squared error (Rybkin, Daniilidis and Levine 2021, arXiv 2006.13202). Otherwise it is fixed.
    """

    def __init__(self, generator: nn.Module, sigma: float, *, learns_sigma: bool = False) -> None:
        super().__init__()
        self.generator = generator
        if not 0 < sigma < math.inf:
            raise ParameterError(f"sigma is the standard deviation of a pixel, > 0 and finite; got {sigma}.")
        self._log_sigma = nn.Parameter(torch.tensor(math.log(sigma))) if learns_sigma else math.log(sigma)

    @property
    def sigma(self) -> Tensor | float:
        """Standard deviation of a pixel: a number, or 0-d where it is learnt."""
        return self._log_sigma.exp() if isinstance(self._log_sigma, Tensor) else math.exp(self._log_sigma)

    def mean(self, z: Latents) -> Tensor:
        """E[x|z], (C, *image)."""
        image: Tensor = self.generator(z)
        return image

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """Log-density of x given z, (C,) in nats."""
        mean = self.mean(z)
        _check_image(x, mean.shape)
        constant = math.prod(x.shape[1:]) * (self._log_sigma + 0.5 * math.log(2 * math.pi))
        return -0.5 * flat_sum(((x - mean) / self.sigma).square()) - constant


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod Bernoulli(b; sigmoid(g(z))), with b = (x + 1) / 2 for data x in [-1, 1].

    Grey values count as probabilities, as is usual for MNIST: then this is no density, but a cross entropy.

    Args:
        generator: g, from latents to an image of logits (no squashing at its end).
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def mean(self, z: Latents) -> Tensor:
        """E[x|z] on the scale of the data, (C, *image) in [-1, 1]."""
        logits: Tensor = self.generator(z)
        return 2 * torch.sigmoid(logits) - 1

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """Log-probability of x given z, (C,) in nats."""
        logits: Tensor = self.generator(z)
        _check_image(x, logits.shape)
        return -flat_sum(functional.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none"))


class LogisticMixtureLikelihood(nn.Module):
    """p(x|z): every pixel a mixture of logistic laws, discretised to the data's grey levels; a probability.

    The law of a level is the mass between the midpoints to its neighbours; the lowest and the highest level get
    their tails, so that masses add up to one. The channels of a pixel share the choice of the component; within
    one, the mean of channel c is mu_c + sum_{d<c} a_cd x_d, with the a_cd made by the generator.

    Args:
        generator: g, from latents to an image of (`parameters`, height, width), without squashing.
        channels: Of the data.
        components: Logistic laws in each mixture.
        levels: Grey levels of the data, evenly spaced from -1 to 1, at least 2.

    Source: Salimans et al. (ICLR 2017), PixelCNN++, arXiv 1701.05517, equations 1 to 3. Differs: the difference of
    two distribution functions is computed by its exact logarithm everywhere, where the published code falls back
    on the density; a_cd are not squashed; the midpoints for any number of levels.
    """

    smallest_log_scale = -7.0  # as published

    def __init__(self, generator: nn.Module, channels: int, *, components: int = 5, levels: int = 256) -> None:
        super().__init__()
        self.generator = generator
        self.channels = check_count("channels", channels, 1)
        self.components = check_count("components", components, 1)
        self.levels = check_count("levels", levels, 2)

    @staticmethod
    def parameters_per_pixel(channels: int, components: int) -> int:
        """Channels that the generator has to make: 3 for each component in grey, 10 in colour."""
        return components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def mean(self, z: Latents) -> Tensor:
        """E[x|z], (C, *image), of the mixture clipped to [-1, 1]: rounding to levels is left out.

        In colour, the channels that a mean depends on enter by their own means.
        """
        weights, means, scales, slopes = self._mixture(z)
        made: list[Tensor] = []  # for every component, (C, components, height, width)
        for channel in range(self.channels):
            center, scale = _shifted(channel, means, slopes, made), scales[:, channel]
            rise = functional.softplus((center + 1) / scale) - functional.softplus((center - 1) / scale)
            made.append(scale * rise - 1)
        return (weights.exp().unsqueeze(1) * torch.stack(made, dim=1)).sum(2)

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """Log-probability of x given z, (C,) in nats; x is taken to lie on the levels."""
        weights, means, scales, slopes = self._mixture(z)
        _check_image(x, torch.Size([len(weights), self.channels, *weights.shape[2:]]))
        levels = [channel.unsqueeze(1) for channel in x.unbind(1)]
        log_mass = weights
        for channel, level in enumerate(levels):
            center = _shifted(channel, means, slopes, levels)
            log_mass = log_mass + self._log_mass(level, center, scales[:, channel])
        return flat_sum(torch.logsumexp(log_mass, dim=1))

    def _log_mass(self, x: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """log[F(x + w) - F(x - w)] with half a level w: F(b) - F(a) = F(b) (1 - F(a)) (1 - e^(a - b)), standardised."""
        half = 1 / (self.levels - 1)
        below, above = (x - half - center) / scale, (x + half - center) / scale
        up_to, from_on = functional.logsigmoid(above), functional.logsigmoid(-below)
        inside = up_to + from_on + torch.log(-torch.expm1(-2 * half / scale))
        return torch.where(x < half - 1, up_to, torch.where(x > 1 - half, from_on, inside))

    def _mixture(self, z: Latents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights (C, components, height, width); means, scales, slopes (C, channels or pairs, components, ...)."""
        made: Tensor = self.generator(z)
        count = self.parameters_per_pixel(self.channels, self.components) // self.components
        if made.ndim != 4 or made.shape[1] != count * self.components:
            raise ParameterError(
                f"for {self.components} components and {self.channels} channels the generator makes images of "
                f"{count * self.components} channels; got {tuple(made.shape[1:])}."
            )
        grouped = made.reshape(-1, count, self.components, *made.shape[2:])
        sizes = [1, self.channels, self.channels, count - 1 - 2 * self.channels]
        logits, means, log_scales, slopes = torch.split(grouped, sizes, dim=1)
        scales = log_scales.clamp(min=self.smallest_log_scale).exp()
        return torch.log_softmax(logits.squeeze(1), dim=1), means, scales, slopes


def _shifted(channel: int, means: Tensor, slopes: Tensor, before: list[Tensor]) -> Tensor:
    """Means of a channel's components, moved by the channels before it."""
    first = channel * (channel - 1) // 2
    center = means[:, channel]
    for index in range(channel):
        center = center + slopes[:, first + index] * before[index]
    return center


def _check_image(x: Tensor, made: torch.Size) -> None:
    if x.shape != made:
        raise ParameterError(
            f"data and latents go row by row: the generator makes {tuple(made)} of these latents; "
            f"got data {tuple(x.shape)}."
        )
