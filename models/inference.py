"""Inference models q_omega(z|x): bottom-up, and a ladder that goes up with the data and down with the prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError

from .gaussian import Gaussian, standard_normal
from .hierarchy import GaussianHierarchy, Latents

Place = Callable[[int, Gaussian], Tensor]
"""What becomes z_i, given its layer, counted from 0, and its Gaussian."""


class Inference(nn.Module, ABC):
    """q(z|x), a product of diagonal Gaussians, one for each layer, along a way through the layers.

    Args:
        depth: L.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    @abstractmethod
    def visit(self, x: Tensor, place: Place) -> list[Gaussian]:
        """Go through the layers in the order of the factors, each conditioned on what was placed before it.

        Args:
            x: Images, (C, *image).
            place: Called once for each layer; what it returns is z_i for the layers that follow.

        Returns:
            The Gaussians over z_1, ..., z_L.
        """

    def forward(self, x: Tensor, *, generator: torch.Generator) -> tuple[Latents, Tensor]:
        """Reparameterised draws z given x, and their log-density log q(z|x), (C,) in nats."""
        z, log_q = self.draw(x, generator=generator)
        return z, log_q.sum(1)

    def draw(self, x: Tensor, *, generator: torch.Generator) -> tuple[Latents, Tensor]:
        """Reparameterised draws z given x, and the log-density of every layer's factor, (C, L) in nats."""
        z: dict[int, Tensor] = {}

        def place(layer: int, gaussian: Gaussian) -> Tensor:
            noise = torch.randn(gaussian.mean.shape, generator=generator, dtype=x.dtype, device=x.device)
            z[layer] = gaussian.transform(noise)
            return z[layer]

        factors = self.visit(x, place)
        latents = tuple(z[layer] for layer in range(self.depth))
        return latents, _log_probs(factors, latents)

    def log_prob(self, z: Latents, x: Tensor) -> Tensor:
        """log q(z|x), (C,) in nats."""
        if len(z) != self.depth:
            raise ParameterError(f"q(z|x) is over {self.depth} layers; got latents of {len(z)}.")
        return _log_probs(self.visit(x, lambda layer, _: z[layer]), z).sum(1)

    def mean(self, x: Tensor) -> Latents:
        """The means along the way, each layer given the means of those before it."""
        return tuple(factor.mean for factor in self.visit(x, lambda _, gaussian: gaussian.mean))


class BottomUpInference(Inference):
    """q(z|x) = q(z_1|x) prod_i q(z_{i+1}|z_i), diagonal Gaussians.

    Args:
        encoder: From an image to a `Gaussian` over z_1.
        conditionals: From z_i to a `Gaussian` over z_{i+1}, q(z_2|z_1) first; empty for L = 1.
    """

    def __init__(self, encoder: nn.Module, conditionals: Iterable[nn.Module] = ()) -> None:
        modules = list(conditionals)
        super().__init__(len(modules) + 1)
        self.encoder = encoder
        self.conditionals = nn.ModuleList(modules)

    def visit(self, x: Tensor, place: Place) -> list[Gaussian]:
        """See `Inference.visit`; from z_1 up."""
        factors: list[Gaussian] = [self.encoder(x)]
        for layer, conditional in enumerate(self.conditionals):
            factors.append(conditional(place(layer, factors[-1])))
        place(len(factors) - 1, factors[-1])
        return factors


class LadderInference(Inference):
    """q(z|x) = prod_i q(z_i|z_{i+1}, x): evidence of the data on the way up, the base prior on the way down.

    Going up, d_1 = e_1(x) and d_i = e_i(d_{i-1}), and each d_i gives a Gaussian of evidence about z_i. Going down,
    q(z_i|z_{i+1}, x) is the normalised product of that Gaussian and p_{beta>0}(z_i|z_{i+1}): precisions add, and
    means are weighted by them (the precision-weighted form, not the residual one of Vahdat and Kautz, NVAE). Where
    generator and base are linear and Gaussian, the true posterior has this form: its factors are such products.

    Source: Sonderby et al. (NeurIPS 2016), ladder variational autoencoders, arXiv 1602.02282. Differs: the top
    layer is weighted with its prior N(0, I) by the same rule.

    Args:
        base: The base prior, whose weights are used and stay its own: they are no parameters of this module.
        ups: e_1, ..., e_L, networks from the image to d_1, and from d_i to d_{i+1}.
        evidence: From d_i to a `Gaussian` over z_i, for each layer.
    """

    def __init__(self, base: GaussianHierarchy, ups: Iterable[nn.Module], evidence: Iterable[nn.Module]) -> None:
        super().__init__(base.depth)
        self._shared = (base,)  # inside a tuple, so that it is not registered twice in a model
        self.ups = nn.ModuleList(ups)
        self.evidence = nn.ModuleList(evidence)
        if not len(self.ups) == len(self.evidence) == self.depth:
            raise ParameterError(
                f"the base prior has {self.depth} layers; got {len(self.ups)} networks up and evidence for "
                f"{len(self.evidence)} layers. Give one of each for every layer."
            )

    def visit(self, x: Tensor, place: Place) -> list[Gaussian]:
        """See `Inference.visit`; all the way up without draws, then from z_L down."""
        (base,) = self._shared
        features = [self.ups[0](x)]
        for up in self.ups[1:]:
            features.append(up(features[-1]))
        evidence: list[Gaussian] = [net(d) for net, d in zip(self.evidence, features, strict=True)]
        factors = [evidence[-1].times(standard_normal(evidence[-1].mean))]
        for layer in range(self.depth - 2, -1, -1):
            above = place(layer + 1, factors[0])
            factors.insert(0, evidence[layer].times(base.given(layer, above)))
        place(0, factors[0])
        return factors


def _log_probs(factors: list[Gaussian], z: Latents) -> Tensor:
    return torch.stack([factor.log_prob(part) for factor, part in zip(factors, z, strict=True)], dim=1)
