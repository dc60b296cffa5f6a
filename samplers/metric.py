"""The inverse mass matrix, as one factor L with inverse mass = L L^T.

Kernels work with whitened momenta r ~ N(0, I): the momentum is p = L^-T r, the velocity L r, the kinetic energy
|r|^2 / 2. So the momentum's scale and the kinetic energy cannot disagree (a bug seen in the wild), nothing is
ever solved, and one formula serves every kind of mass. L is

- a 0-d one: the identity;
- (D,): a diagonal, L = sqrt(inverse mass);
- (D, D): dense, L = the lower Cholesky factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_positive
from .errors import ParameterError
from .position import Layout, Position


def factorise(inverse_mass: Position | None, position: Position) -> Tensor:
    """The factor L of an inverse mass, in dtype and device of the position.

    Args:
        inverse_mass: None for the identity; a tensor (D,) or (D, D); or a diagonal in the structure of the
            position without its chain axis.
        position: Any position of the chains.

    Raises:
        ParameterError: If the shape does not fit, or the matrix is not symmetric positive definite.
    """
    layout = Layout.of(position)
    like = layout.ravel(position)
    if inverse_mass is None:
        return like.new_ones(())
    matrix = isinstance(inverse_mass, Tensor) and inverse_mass.shape in ((layout.dim,), (layout.dim,) * 2)
    mass = inverse_mass if matrix and isinstance(inverse_mass, Tensor) else layout.ravel(inverse_mass)
    mass = mass.detach().to(like.device, torch.float64)
    if mass.shape == (layout.dim,):
        check_positive("every entry of a diagonal inverse mass", mass)
        return mass.sqrt().to(like.dtype)
    if mass.shape != (layout.dim, layout.dim):
        raise ParameterError(
            f"an inverse mass has shape ({layout.dim},) or ({layout.dim}, {layout.dim}); got {tuple(mass.shape)}."
        )
    if not torch.allclose(mass, mass.T):
        raise ParameterError("a dense inverse mass must be symmetric; use (m + m.T) / 2.")
    factor, failed = torch.linalg.cholesky_ex(mass)
    if int(failed):
        raise ParameterError("a dense inverse mass must be positive definite; its Cholesky factorisation failed.")
    lower: Tensor = factor
    return lower.to(like.dtype)


def from_white(factor: Tensor, v: Tensor) -> Tensor:
    """L v for every row of v (C, D): whitened momentum to velocity."""
    return v @ factor.T if factor.ndim == 2 else factor * v


def to_white(factor: Tensor, g: Tensor) -> Tensor:
    """L^T g for every row of g (C, D): gradient to whitened gradient."""
    return g @ factor if factor.ndim == 2 else factor * g
