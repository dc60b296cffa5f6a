"""Step sizes: their two conventions in Langevin papers, and how they become parameters.

Lamina writes x' = x - h grad + sqrt(2 h) xi. Most papers on latent energy-based models write
x' = x - (s^2 / 2) grad + s xi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_positive
from .errors import ParameterError


def step_size_from_noise_scale(s: float) -> float:
    """H = s^2 / 2, for papers that write x' = x - (s^2 / 2) grad + s xi."""
    check_positive("the noise scale", s)
    return s * s / 2


def noise_scale_from_step_size(step_size: float) -> float:
    """S = sqrt(2 h), the inverse of `step_size_from_noise_scale`."""
    check_positive("step_size", step_size)
    return math.sqrt(2 * step_size)


def step_size_tensor(step_size: float | Tensor, like: Tensor) -> Tensor:
    """A step size as a kernel parameter: 0-d, or a column (C, 1) where one per chain, (C,), is given."""
    check_positive("step_size", step_size)
    tensor = torch.as_tensor(step_size, dtype=like.dtype, device=like.device).detach()
    if tensor.ndim > 2 or (tensor.ndim == 2 and tensor.shape[1] != 1):
        raise ParameterError(f"step_size is one number or one per chain, (C,); got shape {tuple(tensor.shape)}.")
    return tensor.reshape(-1, 1) if tensor.ndim else tensor


def step_sizes_of_parts(step_size: float | Tensor, num_parts: int, parts: str, like: Tensor) -> Tensor:
    """Step sizes of a compound kernel as a parameter, (B,) or (C, B); `parts` is the word for what it is made of."""
    check_positive("step_size", step_size)
    tensor = torch.as_tensor(step_size, dtype=like.dtype, device=like.device).detach()
    if tensor.ndim == 0:
        return tensor.expand(num_parts).clone()
    if tensor.ndim > 2 or tensor.shape[-1] != num_parts:
        raise ParameterError(
            f"step_size is one number, or one for each of {num_parts} {parts}, ({num_parts},) or (C, {num_parts}); "
            f"got shape {tuple(tensor.shape)}."
        )
    return tensor
