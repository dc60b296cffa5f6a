"""What comes into a diagnostic: checked draws and superchains, and event entries that no formula could take."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..checks import check_count
from ..errors import ParameterError

MIN_DRAWS = 4
"""Fewest draws per chain that have a diagnostic: two in each half."""


class DiagnosticWarning(UserWarning):
    """Some diagnostics are NaN, because their draws are too few or not finite."""


def check_draws(draws: object) -> Tensor:
    """Raise unless `draws` is a floating-point tensor `(C, N, *event)` with at least one chain and one entry."""
    wanted = "draws must be a floating-point tensor of shape (chain, draw, *event)"
    if not isinstance(draws, Tensor):
        raise ParameterError(f"{wanted}; got {type(draws).__name__}. Convert it with torch.as_tensor(draws).")
    if not draws.is_floating_point():
        raise ParameterError(f"{wanted}; got dtype {draws.dtype}. Pass real values, e.g. draws.double().")
    if draws.ndim < 2:
        raise ParameterError(f"{wanted}; got shape {tuple(draws.shape)}. Pass a single chain as draws[None].")
    if draws.shape[0] == 0 or 0 in draws.shape[2:]:
        raise ParameterError(f"{wanted}, none of them empty; got shape {tuple(draws.shape)}. Pass one chain or more.")
    return draws


def per_entry(
    statistic: Callable[[Tensor], Tensor],
    draws: Tensor,
    *,
    min_draws: int = MIN_DRAWS,
    entries: str = "event entries",
) -> Tensor:
    """Evaluate a formula for every event entry, NaN for invalid ones; warns the public function's caller.

    Args:
        statistic: From `(E, C, N)` float64 to `(E, *columns)`.
        draws: As the user passed them.
        min_draws: Fewest draws per chain that the formula is defined for.
        entries: What the warning calls the entries.

    Returns:
        Shape `(*event, *columns)`, float64, no graph.
    """
    num_chains, num_draws, *event = check_draws(draws).shape
    num_entries = math.prod(event)
    values = draws.detach().to(torch.float64).reshape(num_chains, num_draws, num_entries).permute(2, 0, 1)
    if num_draws < min_draws:
        problem = f"they need {min_draws} draws per chain or more; got {num_draws}. Collect more draws."
        values = values.new_zeros(num_entries, num_chains, min_draws)  # stands in: the formula gives the shape
        is_valid = torch.zeros(num_entries, dtype=torch.bool, device=values.device)
    else:
        problem = "they need finite draws. Look for divergent steps, and try a smaller step size first."
        is_valid = values.isfinite().all(dim=-1).all(dim=-1)
    num_invalid = num_entries - int(is_valid.sum())
    if num_invalid:
        counted = f"diagnostics of {num_invalid} of {num_entries} {entries} are NaN: "
        warnings.warn(counted + problem, DiagnosticWarning, stacklevel=3)
    result = statistic(torch.where(is_valid[:, None, None], values, 0.0).contiguous())
    result[~is_valid] = torch.nan
    return result.reshape([*event, *result.shape[1:]])


def superchain_members(superchains: int | Sequence[int] | Tensor, num_chains: int) -> Tensor:
    """Indices of the chains of each superchain, (K, M), from `superchains` as in `nested_rhat`."""
    if isinstance(superchains, int):
        num_superchains = check_count("the number of superchains", superchains, 2)
        if num_chains % num_superchains:
            raise ParameterError(
                f"superchains must be equally large; {num_chains} chains do not divide into {num_superchains}. Run "
                "the same number of chains from every starting point."
            )
        return torch.arange(num_chains).reshape(num_superchains, -1)
    ids = torch.as_tensor(superchains).cpu()
    if ids.shape != (num_chains,) or ids.is_floating_point() or ids.is_complex():
        raise ParameterError(
            f"superchains must give one integer per chain, here {num_chains}; got {ids.dtype} of shape "
            f"{tuple(ids.shape)}. Or pass the number of superchains."
        )
    sizes = list(Counter(ids.tolist()).values())
    if len(sizes) < 2 or len(set(sizes)) > 1:
        raise ParameterError(
            f"superchains must be two or more of the same size; got sizes {sizes}. Run the same number of chains "
            "from every starting point."
        )
    return ids.argsort(stable=True).reshape(len(sizes), -1)
