"""The inference model q_omega(z|x): bottom-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError

from .gaussian import Gaussian
from .hierarchy import Latents
from .nets import quarter_size


class BottomUpInference(nn.Module):
    """q(z|x) = q(z_1|x) prod_i q(z_{i+1}|z_i), diagonal Gaussians.

    Args:
        encoder: From an image to a `Gaussian` over z_1.
        conditionals: From z_i to a `Gaussian` over z_{i+1}, q(z_2|z_1) first; empty for L = 1.
    """

    def __init__(self, encoder: nn.Module, conditionals: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.conditionals = nn.ModuleList(conditionals)

    def forward(self, x: Tensor, *, generator: torch.Generator) -> tuple[Latents, Tensor]:
        """Reparameterised draws z given x, and their log-density log q(z|x), (C,) in nats."""
        z: Latents = ()
        log_prob = x.new_zeros(len(x))
        for layer in range(len(self.conditionals) + 1):
            gaussian = self._given(layer, x, z)
            noise = torch.randn(gaussian.mean.shape, generator=generator, dtype=x.dtype, device=x.device)
            z = (*z, gaussian.transform(noise))
            log_prob = log_prob + gaussian.log_prob(z[-1])
        return z, log_prob

    def log_prob(self, z: Latents, x: Tensor) -> Tensor:
        """log q(z|x), (C,) in nats."""
        if len(z) != len(self.conditionals) + 1:
            raise ParameterError(f"q(z|x) is over {len(self.conditionals) + 1} layers; got latents of {len(z)}.")
        terms = [self._given(layer, x, z[:layer]).log_prob(part) for layer, part in enumerate(z)]
        return torch.stack(terms).sum(0)

    def mean(self, x: Tensor) -> Latents:
        """The means along the way up, each layer given the mean of the one below."""
        z: Latents = ()
        for layer in range(len(self.conditionals) + 1):
            z = (*z, self._given(layer, x, z).mean)
        return z

    def _given(self, layer: int, x: Tensor, below: Latents) -> Gaussian:
        gaussian: Gaussian = self.conditionals[layer - 1](below[-1]) if layer else self.encoder(x)
        return gaussian


class ConvGaussian(nn.Module):
    """x -> N(mu(x), diag(sigma(x)^2)) by two halving convolutions and a linear layer.

    Args:
        image: (channels, height, width), height and width multiples of 4.
        event: Shape of the latent.
        channels: Channels at half and at a quarter of the size.
        floor: Smallest scale.
    """

    def __init__(
        self, image: Sequence[int], event: Sequence[int], channels: tuple[int, int] = (32, 64), *, floor: float = 0.01
    ) -> None:
        super().__init__()
        height, width = quarter_size(image)
        half, quarter = channels
        self.event = torch.Size(event)
        self.floor = floor
        self.net = nn.Sequential(
            nn.Conv2d(image[0], half, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(quarter * height * width, 2 * math.prod(event)),
        )

    def forward(self, x: Tensor) -> Gaussian:
        """Condition on images x (C, *image)."""
        mean, log_scale = self.net(x).chunk(2, dim=1)
        scale = torch.exp(log_scale) + self.floor
        return Gaussian(mean.reshape(-1, *self.event), scale.reshape(-1, *self.event))
