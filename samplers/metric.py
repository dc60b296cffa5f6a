"""The inverse mass matrix, as one factor L with inverse mass = L L^T.

Kernels work with whitened momenta r ~ N(0, I): the momentum is p = L^-T r, the velocity L r, the kinetic energy
|r|^2 / 2. So the momentum's scale and the kinetic energy cannot disagree (a bug seen in the wild), nothing is
ever solved, and one formula serves every kind of mass. L is

- a 0-d one: the identity;
- (D,): a diagonal, L = sqrt(inverse mass);
- (D, D): dense, L = the lower Cholesky factor;
- (C, 1, D) or (C, D, D): a diagonal or a dense one for each chain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_positive
from .errors import ParameterError, PositionError
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
    mass = _vector_or_matrix(inverse_mass, layout).detach().to(like.device, torch.float64)
    if mass.ndim == 1:
        check_positive("every entry of a diagonal inverse mass", mass)
        return mass.sqrt().to(like.dtype)
    if not torch.allclose(mass, mass.T):
        raise ParameterError("a dense inverse mass must be symmetric; use (m + m.T) / 2.")
    factor, failed = torch.linalg.cholesky_ex(mass)
    if int(failed):
        raise ParameterError("a dense inverse mass must be positive definite; its Cholesky factorisation failed.")
    lower: Tensor = factor
    return lower.to(like.dtype)


def _vector_or_matrix(inverse_mass: Position, layout: Layout) -> Tensor:
    dim = layout.dim
    if isinstance(inverse_mass, Tensor) and inverse_mass.shape in ((dim,), (dim, dim)):
        # One by one, a matrix would look like a column of one number per chain.
        return inverse_mass.flatten() if dim == 1 else inverse_mass
    try:
        mass = layout.ravel(inverse_mass)
    except PositionError as error:
        raise ParameterError(f"{_wanted(dim)}; {error}") from error
    if mass.shape != (dim,):
        raise ParameterError(f"{_wanted(dim)}; got shape {tuple(mass.shape)}.")
    return mass


def _wanted(dim: int) -> str:
    return (
        f"an inverse mass has shape ({dim},) or ({dim}, {dim}), or the structure of the position without its chain axis"
    )


def from_white(factor: Tensor, v: Tensor) -> Tensor:
    """L v for every row of v (C, D): whitened momentum to velocity."""
    if factor.ndim == 3:
        return factor.squeeze(1) * v if factor.shape[1] == 1 else (factor @ v.unsqueeze(-1)).squeeze(-1)
    if factor.ndim == 2:
        return v @ factor.T
    return factor * v if factor.ndim else v


def to_white(factor: Tensor, g: Tensor) -> Tensor:
    """L^T g for every row of g (C, D): gradient to whitened gradient."""
    if factor.ndim == 3:
        return factor.squeeze(1) * g if factor.shape[1] == 1 else (g.unsqueeze(-2) @ factor).squeeze(-2)
    if factor.ndim == 2:
        return g @ factor
    return factor * g if factor.ndim else g
