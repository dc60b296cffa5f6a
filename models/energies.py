"""Layer-wise energies: one network per latent layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lamina.samplers import ParameterError

from .hierarchy import Latents
from .nets import flat, mlp, zero_last


class LayerEnergies(nn.Module):
    """E_i(z_i) = -f_i(z_i), one network per layer, each of which sees its own layer only.

    They are energies in nats: lower is likelier. The paper's f_i is minus ours.

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

    def forward(self, z: Latents) -> Tensor:
        """Their sum over layers, (C,)."""
        return self.per_layer(z).sum(1)


class MLPEnergy(nn.Module):
    """An energy on one layer by an MLP on its flattened entries.

    Args:
        event: Shape of the layer.
        hidden: Sizes of the hidden layers.
        smooth: See `mlp`.
        start_at_zero: Start as the zero function, so that training begins at the base prior.
    """

    def __init__(
        self, event: Sequence[int], hidden: Sequence[int], *, smooth: bool = True, start_at_zero: bool = True
    ) -> None:
        super().__init__()
        net = mlp([math.prod(event), *hidden, 1], smooth=smooth)
        self.net = zero_last(net) if start_at_zero else net

    def forward(self, z: Tensor) -> Tensor:
        """(C, *event) -> (C,)."""
        energy: Tensor = self.net(flat(z)).squeeze(1)
        return energy


class QuadraticEnergy(nn.Module):
    """E(z) = z^T A z / 2 - b^T z, with A diagonal: the case with closed forms.

    Args:
        event: Shape of the layer.
    """

    def __init__(self, event: Sequence[int]) -> None:
        super().__init__()
        self.curvature = nn.Parameter(torch.zeros(math.prod(event)))
        self.tilt = nn.Parameter(torch.zeros(math.prod(event)))

    def forward(self, z: Tensor) -> Tensor:
        """(C, *event) -> (C,)."""
        entries = flat(z)
        return (0.5 * self.curvature * entries.square() - self.tilt * entries).sum(1)
