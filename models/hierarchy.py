"""The base prior: a top-down Gaussian hierarchy of any depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError

from .gaussian import Gaussian, standard_normal

Latents: TypeAlias = tuple[Tensor, ...]
"""(z_1, ..., z_L), each (C, *event_i): z_L on top, z_1 next to the data."""


def detached(z: Latents) -> Latents:
    """The same latents without a graph."""
    return tuple(part.detach() for part in z)


class GaussianHierarchy(nn.Module):
    """p_{beta>0}(z) = N(z_L; 0, I) prod_{i<L} N(z_i; mu_i(z_{i+1}), diag sigma_i(z_{i+1})^2).

    Args:
        top: Shape of z_L.
        conditionals: One module for each layer below the top, p(z_1|z_2) first, from z_{i+1} to a `Gaussian`
            over z_i; each has an attribute `event`, the shape of z_i. Empty for L = 1.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, section 3. Differs: p(z_L) is exactly N(0, I) (the
    published code has a scale of 1.01).
    """

    _like: Tensor

    def __init__(self, top: Sequence[int], conditionals: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.conditionals = nn.ModuleList(conditionals)
        self.register_buffer("_like", torch.empty(0), persistent=False)  # dtype and device, where L = 1
        self.events: tuple[torch.Size, ...] = (*(torch.Size(c.event) for c in self.conditionals), torch.Size(top))  # type: ignore[arg-type]

    @property
    def depth(self) -> int:
        """L."""
        return len(self.events)

    def log_prob(self, z: Latents) -> Tensor:
        """Log-density of z, (C,) in nats."""
        return self.per_layer(z).sum(1)

    def per_layer(self, z: Latents) -> Tensor:
        """log p(z_i|z_{i+1}) of every layer, log p(z_L) last, (C, L) in nats."""
        self._check(z)
        below = [self.given(layer, z[layer + 1]).log_prob(z[layer]) for layer in range(self.depth - 1)]
        return torch.stack([*below, standard_normal(z[-1]).log_prob(z[-1])], dim=1)

    def given(self, layer: int, above: Tensor) -> Gaussian:
        """p(z_i|z_{i+1}) of a layer below the top, counted from 0 as in a tuple of latents."""
        gaussian: Gaussian = self.conditionals[layer](above)
        return gaussian

    def transform(self, u: Latents) -> Latents:
        """T: independent standard normal noise u to z, top layer first.

        z_L = u_L and z_i = mu_i(z_{i+1}) + sigma_i(z_{i+1}) u_i, so that p_{beta>0}(T(u)) |det dT/du| = N(u; 0, I).
        """
        self._check(u)
        z = u[-1:]
        for layer in self._below_top():
            z = (self.given(layer, z[0]).transform(u[layer]), *z)
        return z

    def inverse(self, z: Latents) -> Latents:
        """T^-1: z to the noise that makes it."""
        self._check(z)
        below = [self.given(layer, z[layer + 1]).inverse(z[layer]) for layer in range(self.depth - 1)]
        return (*below, z[-1])

    def noise(self, num: int, *, generator: torch.Generator) -> Latents:
        """Standard normal noise u for `num` chains, in the dtype and on the device of the module."""
        like = next(self.parameters(), self._like)
        return tuple(
            torch.randn((num, *event), generator=generator, dtype=like.dtype, device=like.device)
            for event in self.events
        )

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator) -> Latents:
        """Ancestral draws."""
        return self.transform(self.noise(num, generator=generator))

    def _below_top(self) -> range:
        return range(self.depth - 2, -1, -1)

    def _check(self, z: Latents) -> None:
        fits = isinstance(z, tuple) and tuple(part.shape[1:] for part in z) == self.events
        if not fits or len({part.shape[:1] for part in z}) > 1:
            came = [tuple(part.shape) for part in z] if isinstance(z, tuple) else type(z).__name__
            wanted = ", ".join(str(("C", *event)).replace("'", "") for event in self.events)
            raise ParameterError(f"latents are a tuple (z_1, ..., z_L), z_L on top, of shapes {wanted}; got {came}.")
