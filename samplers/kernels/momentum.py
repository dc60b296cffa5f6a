"""Chains that keep their momentum from step to step: what generalised HMC and underdamped Langevin share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..accept import half_square, log_ratio
from ..energy import Target
from ..kernel import ParamsT, PlainKernel, State
from .leapfrog import leapfrog


class MomentumState(NamedTuple):
    """A state with a momentum; beyond that see `State`.

    Attributes:
        position: (C, D).
        energy: (C, 1).
        grad: (C, D).
        momentum: Whitened momentum r, N(0, I) in equilibrium, (C, D).
        is_fresh: Whether the momentum is yet to be drawn, (C, 1): the first step does that, as `init` has no noise.
    """

    position: Tensor
    energy: Tensor
    grad: Tensor
    momentum: Tensor
    is_fresh: Tensor


class MomentumKernel(PlainKernel[ParamsT]):
    """A kernel whose chains remember their momenta."""

    def init(self, target: Target, position: Tensor, params: ParamsT) -> MomentumState:
        """See `Kernel.init`."""
        energy, grad = target(position)
        return MomentumState(position, energy, grad, torch.zeros_like(position), torch.ones_like(energy).bool())

    def memory(self, state: MomentumState) -> dict[str, Tensor]:
        """See `Kernel.memory`."""
        return {"momentum": state.momentum, "is_fresh": state.is_fresh}

    def restore(self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: ParamsT) -> MomentumState:
        """See `Kernel.restore`."""
        return self.init(target, position, params)._replace(**memory)


def refresh(momentum: Tensor, xi: Tensor, persistence: Tensor) -> Tensor:
    """Partial refreshment r' = a r + sqrt(1 - a^2) xi, which leaves N(0, I) as it is.

    Args:
        momentum: Whitened momentum r, (C, D).
        xi: Standard normal noise, (C, D).
        persistence: a, in [0, 1]; 0-d or a column (C, 1).

    Source: Horowitz (1991), Physics Letters B 268; Neal (2011), Handbook of MCMC, chapter 5, section 5.5.3.
    """
    # (1 - a)(1 + a), since 1 - a^2 would lose the digits that keep the variance of r when a is close to 1.
    return persistence * momentum + torch.sqrt((1 - persistence) * (1 + persistence)) * xi


def propose(
    target: Target,
    state: MomentumState,
    xi: Tensor,
    persistence: Tensor,
    step_size: Tensor,
    factor: Tensor,
    num_leapfrog_steps: int,
) -> tuple[MomentumState, MomentumState, Tensor]:
    """Refresh the momentum in part, then integrate.

    Returns:
        Where that leads; where a chain stays that refuses to go, its refreshed momentum turned round; and the log of
        the Metropolis-Hastings ratio (C, 1), float64.
    """
    start = torch.where(state.is_fresh, xi, refresh(state.momentum, xi, persistence))
    here = State(state.position, state.energy, state.grad)
    there, end, _ = leapfrog(target, here, start, step_size, factor, num_leapfrog_steps)
    ratio = log_ratio(here.energy, there.energy, half_square(end) - half_square(start))
    is_fresh = torch.zeros_like(state.is_fresh)
    return MomentumState(*there, end, is_fresh), MomentumState(*here, -start, is_fresh), ratio
