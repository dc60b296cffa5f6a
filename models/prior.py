"""The joint EBM prior over all layers, in z-space and in u-space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lamina.samplers import UnknownNameError

from .energies import Energies
from .hierarchy import GaussianHierarchy, Latents
from .nets import flat_sum

Space: TypeAlias = Literal["u", "z"]
"""Where chains move: in the base prior's noise u, or in the latents z themselves."""


def check_space(space: str) -> Space:
    """Raise UnknownNameError unless the space is "u" or "z"."""
    if space not in get_args(Space):
        raise UnknownNameError("space", space, get_args(Space))
    return space  # type: ignore[return-value]


class JointEBMPrior(nn.Module):
    """p(z) = exp(-sum_i E_i(z_i)) p_{beta>0}(z) / Z, with E_i = -f_i of the paper.

    Each energy sees its own layer only; layers are coupled by the base prior, and corrected jointly. Other `Energies`
    have other terms, such as one on all layers together.

    As an energy for chains:
    - in z: E_z(z) = sum_i E_i(z_i) - log p_{beta>0}(z);
    - in u, with z = T(u): E_u(u) = sum_i E_i(T(u)_i) + |u|^2 / 2. There is no log-sigma term, because the base
      density of T(u) times the Jacobian of T is exactly N(u; 0, I).

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, section 3. Differs: the published u-space sampler
    lacks the Jacobian, and so targets another density.

    Args:
        base: The Gaussian hierarchy.
        energies: Layer-wise energies, or others.
    """

    def __init__(self, base: GaussianHierarchy, energies: Energies) -> None:
        super().__init__()
        self.base = base
        self.energies = energies

    def energy(self, space: Space) -> Callable[[Latents], Tensor]:
        """The energy for prior chains in a space: positions (C, *event_i) per layer -> (C,) in nats."""
        return self.energy_u if check_space(space) == "u" else self.energy_z

    def energy_z(self, z: Latents) -> Tensor:
        """E_z(z), (C,): minus the log of the un-normalised prior density of z."""
        total: Tensor = self.energies(z)
        return total - self.base.log_prob(z)

    def energy_u(self, u: Latents) -> Tensor:
        """E_u(u), (C,): minus the log of the un-normalised density of u = T^-1(z), up to a constant."""
        total: Tensor = self.energies(self.base.transform(u))
        return total + 0.5 * torch.stack([flat_sum(part.square()) for part in u]).sum(0)

    def to_latents(self, position: Latents, space: Space) -> Latents:
        """z of a position in a space."""
        return self.base.transform(position) if check_space(space) == "u" else position

    def from_latents(self, z: Latents, space: Space) -> Latents:
        """The position in a space of latents z."""
        return self.base.inverse(z) if check_space(space) == "u" else z
