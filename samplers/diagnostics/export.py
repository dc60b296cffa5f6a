"""Draws in the form of other libraries: ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..driver import Samples
from ..errors import MissingExtraError
from ..position import Position
from .summaries import named_tensors

if TYPE_CHECKING:
    from xarray import DataTree  # type: ignore[import-not-found, unused-ignore]

ARVIZ_NAMES = {
    "accept_prob": "acceptance_rate",
    "is_accepted": "accepted",
    "is_divergent": "diverging",
    "energy_error": "energy_error",
    "num_grad_evals": "n_steps",
    "total_energy": "energy",
    "tree_depth": "tree_depth",
    "is_cut": "reached_max_treedepth",
}
"""What ArviZ calls the fields of `Info` that mean the same. It has no name for the others, which keep theirs, except
`energy`: ArviZ's is the Hamiltonian, ours the potential, whose negative is its `lp`."""


def to_arviz(samples: Samples, names: str | Sequence[str] | None = None) -> DataTree:
    """Hand draws to ArviZ: `arviz.plot_trace(to_arviz(samples))`.

    Args:
        samples: What `sample` returned.
        names: One name per tensor of the draws. Default, as in `summary`: `x` for a lone tensor, `z1`, `z2`, ... for a
            tuple, the keys of a dict.

    Returns:
        A tree with the draws, (chain, draw, *event), in the group `posterior`, and what `sample` was told to collect in
        `sample_stats` under ArviZ's names (`ARVIZ_NAMES`); fields of kernels that accept in parts have a dimension
        `part` more. Potential energies become `lp`, minus the energy over the temperature. ArviZ's `energy`, for its
        `bfmi` and `plot_energy`, is the Hamiltonian: collect `total_energy`, which kernels of the HMC family tell.

    Raises:
        MissingExtraError: If arviz-base is not installed.
        ParameterError: If `names` does not fit.
    """
    try:
        from arviz_base import from_dict  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("arviz-base", "arviz", "exporting to ArviZ") from error
    statistics = _statistics(samples.info)
    groups = {"posterior": _variables(samples.draws, names)} | ({"sample_stats": statistics} if statistics else {})
    parts = {name: ["part"] for name, values in statistics.items() if values.ndim == 3}
    attributes = {"inference_library": "lamina", "kernel": repr(samples.kernel)}
    tree: DataTree = from_dict(groups, dims=parts, attrs={"posterior": attributes})
    return tree


def _variables(draws: Position, names: str | Sequence[str] | None) -> dict[str, NDArray[np.generic]]:
    return {name: _array(tensor) for name, tensor in named_tensors(draws, names).items()}


def _statistics(info: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    statistics = {ARVIZ_NAMES.get(name, name): _array(values) for name, values in info.items() if name != "energy"}
    if "energy" in info:
        statistics["lp"] = _array(-info["energy"])
    if "n_steps" in statistics:
        statistics["n_steps"] = statistics["n_steps"].astype(np.int64)  # a count, which kernels keep as a float
    return statistics


def _array(values: Tensor) -> NDArray[np.generic]:
    array: NDArray[np.generic] = values.detach().cpu().numpy()
    return array
