"""Running sums over the steps of a run, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import StateError
from .kernel import InfoLike, Kernel, StateLike

_ALWAYS = ("accept_prob", "is_divergent", "num_grad_evals")


class Totals:
    """Sums of what people ask for after a run, a row for each chain.

    Args:
        kernel: Says what is counted beside acceptance, divergences and gradients.
        state: Any state of the chains.
        has_sums: Whether to add up anything.
        has_moves: Whether to keep what E-BFMI is made of, where the kernel tells total energies.

    Attributes:
        sums: Fields of `Info` added up in float64, (C, width).
        moves: What `ebfmi` is made of, see `add_energy`; nothing for kernels that tell no total energy.
        num_steps: Steps added up.
    """

    def __init__(self, kernel: Kernel[Any], state: StateLike, *, has_sums: bool = True, has_moves: bool = True) -> None:
        zero = torch.zeros_like(state.energy, dtype=torch.float64)
        self.sums = dict.fromkeys((*_ALWAYS, *kernel.counted) if has_sums else (), zero)
        self.moves = first_energies(zero) if has_moves and "total_energy" in kernel.info_fields else {}
        self.num_steps = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is added up."""
        return not self.sums and not self.moves

    def add(self, info: InfoLike) -> None:
        """Take in one step."""
        self.sums = {name: total + getattr(info, name) for name, total in self.sums.items()}
        if self.moves:
            self.moves = add_energy(self.moves, info.total_energy)  # type: ignore[attr-defined]
        self.num_steps += 1

    @property
    def ebfmi(self) -> Tensor | None:
        """E-BFMI of each chain over all steps, (C,), see `ebfmi`; None where the kernel tells no total energies."""
        if not self.moves or self.num_steps < 2:
            return None
        squared_deviations = self.moves["square"] - self.moves["sum"].square() / self.num_steps
        return (self.moves["steps"] / squared_deviations).squeeze(1)

    @property
    def accept_prob(self) -> Tensor:
        """Mean acceptance, (C,), or (C, B) of a kernel of B parts."""
        mean = self._sum("accept_prob") / max(self.num_steps, 1)
        return mean.squeeze(1) if mean.shape[1] == 1 else mean

    @property
    def num_divergent(self) -> Tensor:
        """Divergent decisions, (C,)."""
        return self._sum("is_divergent").sum(dim=1).long()

    @property
    def num_grad_evals(self) -> Tensor:
        """Gradients, (C,)."""
        return self._sum("num_grad_evals").squeeze(1).long()

    def _sum(self, name: str) -> Tensor:
        if name not in self.sums:
            raise StateError(f"{name} was not added up: the run was made with summarise=False. Leave that out.")
        return self.sums[name]

    def means(self) -> dict[str, Tensor]:
        """Means over steps of what the kernel has counted, (C, width) each."""
        return {name: total / max(self.num_steps, 1) for name, total in self.sums.items() if name not in _ALWAYS}

    def figures(self) -> dict[str, str]:
        """For a progress bar."""
        return {"accept": f"{self.accept_prob.mean():.2f}", "divergent": str(int(self.num_divergent.sum()))}


def first_energies(zero: Tensor) -> dict[str, Tensor]:
    """The figures of `add_energy` before any step, columns like `zero` (C, 1)."""
    return {"is_new": torch.ones_like(zero, dtype=torch.bool)} | dict.fromkeys(
        ("first", "last", "steps", "sum", "square"), zero
    )


def add_energy(moves: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    """Take in the total energies (C, 1) of a step: their squared steps, and their squared deviations from the first.

    Energies are taken relative to the first, so that large ones lose no digits.
    """
    total, is_new = total.double(), moves["is_new"]
    first, last = torch.where(is_new, total, moves["first"]), torch.where(is_new, total, moves["last"])
    relative = total - first
    return {
        "is_new": torch.zeros_like(is_new),
        "first": first,
        "last": total,
        "steps": moves["steps"] + (total - last).square(),
        "sum": moves["sum"] + relative,
        "square": moves["square"] + relative.square(),
    }
