"""The isokinetic integrator: motion at constant speed, whose direction turns down the gradient.

Directions are unit vectors u in whitened coordinates, so that the velocity is L u. With g the whitened gradient,

    dx/dt = L u,    du/dt = -(I - u u^T) g / (D - 1),

and the energy plus (D - 1) times the log of the change of volume is conserved. Each half of the equations is solved
exactly; a step is half a kick, a drift, half a kick: second order and reversible.

Source: Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311), section 3; the closed form of the kick: ver Steeg
and Galstyan (2021), NeurIPS 34, appendix A.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..energy import Target
from ..errors import PositionError
from ..kernel import State
from ..metric import from_white, to_white


def check_dim(kernel: str, dim: int) -> None:
    """Raise unless there are directions to turn to: two dimensions."""
    if dim < 2:
        raise PositionError(f"{kernel} moves at constant speed and needs D >= 2; got D = {dim}. Use HMC instead.")


def unit(v: Tensor) -> Tensor:
    """Rows of v (C, D) at length one."""
    of_length_one: Tensor = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return of_length_one


def isokinetic_step(
    target: Target, state: State, direction: Tensor, step_size: Tensor, factor: Tensor
) -> tuple[State, Tensor, Tensor]:
    """One step of the integrator.

    Args:
        target: Energy and gradient.
        state: Where to start, with its cached gradient.
        direction: Unit vectors u, (C, D).
        step_size: Time step, in units of the position (at unit mass); 0-d or a column (C, 1).
        factor: L with inverse mass L L^T.

    Returns:
        The state after the step, the direction there, and the change of the kinetic energy: minus the log of the
        change of volume, a column (C, 1) in float64. Energy error is the change of energy plus this.
    """
    direction, first = _kick(direction, to_white(factor, state.grad), 0.5 * step_size)
    position = state.position + step_size * from_white(factor, direction)
    energy, grad = target(position)
    direction, second = _kick(direction, to_white(factor, grad), 0.5 * step_size)
    return State(position, energy, grad), direction, first + second


def _kick(u: Tensor, gradient: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Turn u down the gradient for some time; with z = exp(-delta), nothing here overflows."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    downhill = torch.where(norm > 0, -gradient / norm, 0)
    delta = time * norm / (u.shape[1] - 1)
    z = torch.exp(-delta)
    along = (u * downhill).sum(dim=1, keepdim=True)
    turned = downhill * ((1 - z) * (1 + z + along * (1 - z))) + 2 * z * u
    along, delta, z = along.double(), delta.double(), z.double()
    growth = delta - math.log(2) + torch.log(1 + along + (1 - along) * z.square())
    return unit(turned), (u.shape[1] - 1) * growth
