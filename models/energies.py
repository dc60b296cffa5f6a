"""Energies on latents: one network per layer, or one on all layers together; and their log-normaliser."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError
from lamina.samplers.checks import check_positive

from .hierarchy import Latents
from .nets import Event, activation, flat, map_net, mlp, zero_last


class Energies(nn.Module, ABC):
    """A sum of terms in nats, lower is likelier; the paper's f is minus it."""

    @abstractmethod
    def per_layer(self, z: Latents) -> Tensor:
        """The terms, (C, K): one for each network."""

    def forward(self, z: Latents) -> Tensor:
        """Their sum, (C,)."""
        return self.per_layer(z).sum(1)


class LayerEnergies(Energies):
    """E_i(z_i) = -f_i(z_i), one network per layer, each of which sees its own layer only.

    Args:
        networks: One for each layer, z_1 first, (C, *event_i) -> (C,).
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def per_layer(self, z: Latents) -> Tensor:
        """Energies of every layer, (C, L)."""
        if len(z) != len(self.networks):
            raise ParameterError(f"there are energies for {len(self.networks)} layers; got latents of {len(z)}.")
        return torch.stack([net(part) for net, part in zip(self.networks, z, strict=True)], dim=1)


class JointEnergy(Energies):
    """E(z_1, ..., z_L) by one network on all layers, flattened and side by side: it sees relations between layers.

    Source: Cui, Wu and Han (ICCV 2023), arXiv 2310.09604, there over independent layers (`StandardNormal`).

    Args:
        network: (C, D) -> (C,), where D is the number of entries of all layers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList([network])

    def per_layer(self, z: Latents) -> Tensor:
        """The one energy, (C, 1)."""
        energy: Tensor = self.networks[0](torch.cat([flat(part) for part in z], dim=1))
        return energy.unsqueeze(1)


class NormalizedEnergies(Energies):
    """Energies and a learnt constant b: sum_i E_i(z_i) + b, where b = log Z makes exp(-(.)) p_{beta>0} a density.

    The constant changes no chain and cancels in a difference of energies; it learns by `normalizer_loss`, or by a
    loss that knows the level of energies: `noise_contrastive_loss`, `self_normalizing_loss`.

    Args:
        energies: The energies proper.
    """

    def __init__(self, energies: Energies) -> None:
        super().__init__()
        self.energies = energies
        self.log_normalizer = nn.Parameter(torch.zeros(()))

    def per_layer(self, z: Latents) -> Tensor:
        """Terms of the energies proper, (C, K), without b."""
        return self.energies.per_layer(z)

    def forward(self, z: Latents) -> Tensor:
        """Their sum with b, (C,)."""
        return super().forward(z) + self.log_normalizer


class MLPEnergy(nn.Module):
    """An energy on one layer by an MLP on its flattened entries.

    Args:
        event: Shape of the layer.
        hidden: Sizes of the hidden layers.
        smooth: See `mlp`.
        start_at_zero: Start as the zero function, so that training begins at the base prior.
    """

    def __init__(self, event: Event, hidden: Sequence[int], *, smooth: bool = True, start_at_zero: bool = True) -> None:
        super().__init__()
        net = mlp([math.prod(event), *hidden, 1], smooth=smooth)
        self.net = zero_last(net) if start_at_zero else net

    def forward(self, z: Tensor) -> Tensor:
        """(C, *event) -> (C,)."""
        energy: Tensor = self.net(flat(z)).squeeze(1)
        return energy


class ConvEnergy(nn.Module):
    """An energy on one feature map: convolutions that halve it down to 4 to 7 pixels a side, then an MLP.

    A map that is smaller than 8 already gets one convolution that keeps its size.

    Args:
        event: (channels, height, width).
        hidden: Sizes of the MLP's hidden layers; the paper has one of 200 for each convolution.
        width: Channels of the convolutions.
        smooth: See `mlp`.
        start_at_zero: See `MLPEnergy`.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the energies on a backbone's latents: width 64,
    LeakyReLU(0.2), from maps whose sides are powers of two.
    """

    def __init__(
        self,
        event: Event,
        hidden: Sequence[int],
        *,
        width: int = 64,
        smooth: bool = True,
        start_at_zero: bool = True,
    ) -> None:
        super().__init__()
        channels, height, size = event
        halvings = max(0, min(height, size).bit_length() - 3)
        layers: list[nn.Module] = []
        for source, target in pairwise([channels, *[width] * max(1, halvings)]):
            layers += [_energy_conv(source, target, halves=halvings > 0), activation(smooth)]
        entries = width * (height >> halvings) * (size >> halvings)
        head = mlp([entries, *hidden, 1], smooth=smooth)
        self.features = map_net(*layers, nn.Flatten())
        self.net = zero_last(head) if start_at_zero else head

    def forward(self, z: Tensor) -> Tensor:
        """(C, *event) -> (C,)."""
        energy: Tensor = self.net(self.features(z)).squeeze(1)
        return energy


def _energy_conv(source: int, target: int, *, halves: bool) -> nn.Conv2d:
    """Half of the size, rounded down; or the same size."""
    return nn.Conv2d(source, target, 4 if halves else 3, stride=2 if halves else 1, padding=1)


class QuadraticEnergy(nn.Module):
    """E(z) = z^T A z / 2 - b^T z, with A diagonal: the case with closed forms.

    Args:
        event: Shape of the layer.
    """

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.curvature = nn.Parameter(torch.zeros(math.prod(event)))
        self.tilt = nn.Parameter(torch.zeros(math.prod(event)))

    def forward(self, z: Tensor) -> Tensor:
        """(C, *event) -> (C,)."""
        entries = flat(z)
        return (0.5 * self.curvature * entries.square() - self.tilt * entries).sum(1)


@torch.no_grad()
def clip_spectral_norms(module: nn.Module, limit: float) -> None:
    """Scale down every weight matrix whose largest singular value exceeds a limit, so that it meets it.

    Kernels of convolutions count as matrices (out, rest), as in Miyato et al. (2018). Between optimiser steps, this
    is projected gradient descent on a convex set: averages of such weights are such weights, and all of an energy
    is in its weights, so that chains see one and the same energy.

    Args:
        module: Changed in place.
        limit: Largest singular value allowed, > 0.

    Source: Gouk et al. (Machine Learning 2021), arXiv 1804.04368, algorithm 1. Differs: exact singular values.
    Unlike the normalisation of Miyato et al. (ICLR 2018), arXiv 1802.05957, weights below the limit stay as they
    are, zero among them.
    """
    check_positive("limit of spectral norms", limit)
    for weight in module.parameters():
        frobenius = torch.linalg.vector_norm(weight)  # never smaller than the spectral norm
        if weight.ndim >= 2 and limit < frobenius < math.inf:  # weights beyond the finite are for others to find
            norm = torch.linalg.matrix_norm(weight.flatten(1), ord=2)
            weight.mul_((limit / norm).clamp(max=1))
