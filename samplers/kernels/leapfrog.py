"""The leapfrog (velocity Verlet) integrator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..energy import Target
from ..kernel import State
from ..loops import repeat
from ..metric import from_white, to_white


def leapfrog(
    target: Target, state: State, momentum: Tensor, step_size: Tensor, factor: Tensor, num_steps: int
) -> tuple[State, Tensor, Tensor]:
    """Integrate Hamilton's equations for `num_steps` steps, from whitened momentum to whitened momentum.

    Second order, reversible, volume preserving; one gradient per step. Inside the loop kicks are whole (two
    halves of neighbouring steps joined); the half too much is given back after it.

    Args:
        target: Energy and gradient.
        state: Where to start, with its cached gradient.
        momentum: Whitened momentum r, (C, D); the momentum itself is L^-T r.
        step_size: Time step, 0-d or a column (C, 1).
        factor: L with inverse mass L L^T.
        num_steps: At least 1.

    Returns:
        The end state (NaN where a trajectory diverged; the caller rejects it), the whitened momentum there,
        and the number of gradients spent, a column.

    Source: Neal (2011), Handbook of MCMC, chapter 5, equations 5.18 to 5.20, in whitened momenta.
    """

    def body(x: Tensor, r: Tensor, energy: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = torch.addcmul(x, step_size, from_white(factor, r))
        energy, grad = target(x)
        return x, torch.addcmul(r, step_size, to_white(factor, grad), value=-1), energy, grad

    r = torch.addcmul(momentum, step_size, to_white(factor, state.grad), value=-0.5)
    x, r, energy, grad = repeat(num_steps, body, (state.position, r, state.energy, state.grad))
    end = torch.addcmul(r, step_size, to_white(factor, grad), value=0.5)
    return State(x, energy, grad), end, torch.full_like(energy, num_steps)
