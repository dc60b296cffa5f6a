"""Where a run stands, to continue it: positions, parameters and noise; never caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import storage
from .checks import check_count
from .errors import StateError
from .kernel import Kernel
from .position import Layout, Position

_KIND = "lamina chains"


@dataclass(frozen=True)
class Chains:
    """Positions of all chains with what the next step needs besides the energy.

    Energies and gradients are left out on purpose: they belong to an energy, whose weights may change.

    Attributes:
        matrix: Positions as one matrix (C, D).
        layout: How the structured position lies in it.
        params: Parameters of the kernel.
        noise_state: `state_dict` of the noise source as it stands.
        num_steps: Steps taken so far.
        memory: What chains remember besides their positions, such as momenta; see `Kernel.memory`.
    """

    matrix: Tensor
    layout: Layout
    params: Any
    noise_state: dict[str, Any]
    num_steps: int
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        """The positions in the structure they were given in."""
        return self.layout.unravel(self.matrix)

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain containers; `from_state_dict` is its inverse."""
        keys = self.layout.keys
        return {
            "matrix": self.matrix,
            "keys": None if keys is None else list(keys),
            "events": [list(event) for event in self.layout.events],
            "params": dict(self.params._asdict()),
            "noise": self.noise_state,
            "num_steps": self.num_steps,
            "memory": dict(self.memory),
        }

    @staticmethod
    def from_state_dict(state: dict[str, Any], kernel: Kernel[Any]) -> Chains:
        """Rebuild chains for the kernel that made them.

        Raises:
            StateError: If the state belongs to another kind of kernel, or lacks something.
        """
        try:
            keys, matrix, params = state["keys"], state["matrix"], dict(state["params"])
            layout = Layout(
                None if keys is None else tuple(keys), tuple(torch.Size(event) for event in state["events"])
            )
            blank = kernel.init_params(layout.unravel(matrix))
            noise, num_steps = dict(state["noise"]), check_count("num_steps", state["num_steps"], 0)
            memory = dict(state.get("memory", {}))
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise StateError(f"this is no state of chains: {error!r}. Go back to an earlier copy.") from error
        if {name: type(value) for name, value in params.items()} != {
            name: type(value) for name, value in blank._asdict().items()
        }:
            raise StateError(
                f"the stored chains have parameters {sorted(params)}; {type(kernel).__name__} has "
                f"{sorted(blank._fields)}. Load them with the kind of kernel that made them."
            )
        return Chains(matrix, layout, blank._replace(**params), noise, num_steps, memory)

    def save(self, path: str | Path) -> None:
        """Write the chains to a file, whole or not at all."""
        storage.save(self.state_dict(), Path(path), kind=_KIND)

    @staticmethod
    def load(path: str | Path, kernel: Kernel[Any], *, device: torch.device | str = "cpu") -> Chains:
        """Read chains that `save` wrote, for the kind of kernel that made them.

        Args:
            path: The file.
            kernel: Of the kind that made them.
            device: Where they are to go on; noise of a generator goes on only on the kind of device it came from.

        Raises:
            StateError: If the file is damaged, or does not fit the kernel.
        """
        chains = Chains.from_state_dict(storage.load(Path(path), kind=_KIND), kernel)
        fields = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in chains.params._asdict().items()
        }
        memory = {name: value.to(device) for name, value in chains.memory.items()}
        return replace(chains, matrix=chains.matrix.to(device), params=chains.params._replace(**fields), memory=memory)
