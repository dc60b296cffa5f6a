"""Running sums over the steps of a run, in constant memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kernel import InfoLike, Kernel, StateLike

_ALWAYS = ("accept_prob", "is_divergent", "num_grad_evals")


class Totals:
    """Sums of what people ask for after a run, a row for each chain.

    Args:
        kernel: Says what is counted beside acceptance, divergences and gradients.
        state: Any state of the chains.
    """

    def __init__(self, kernel: Kernel[Any], state: StateLike) -> None:
        zero = torch.zeros_like(state.energy, dtype=torch.float64)
        self._sums = dict.fromkeys((*_ALWAYS, *kernel.counted), zero)
        self._num_steps = 0
        self._moves = EnergyMoves()
        self._has_total_energy = "total_energy" in kernel.info_fields

    def add(self, info: InfoLike) -> None:
        """Take in one step."""
        self._sums = {name: total + getattr(info, name) for name, total in self._sums.items()}
        self._num_steps += 1
        if self._has_total_energy:
            self._moves.add(info.total_energy)  # type: ignore[attr-defined]

    @property
    def ebfmi(self) -> Tensor | None:
        """E-BFMI of each chain over all steps, (C,); None where the kernel tells no total energies."""
        return self._moves.ebfmi() if self._has_total_energy and self._num_steps > 1 else None

    @property
    def accept_prob(self) -> Tensor:
        """Mean acceptance, (C,), or (C, B) of a kernel of B parts."""
        mean = self._sums["accept_prob"] / max(self._num_steps, 1)
        return mean.squeeze(1) if mean.shape[1] == 1 else mean

    @property
    def num_divergent(self) -> Tensor:
        """Divergent decisions, (C,)."""
        return self._sums["is_divergent"].sum(dim=1).long()

    @property
    def num_grad_evals(self) -> Tensor:
        """Gradients, (C,)."""
        return self._sums["num_grad_evals"].squeeze(1).long()

    def means(self) -> dict[str, Tensor]:
        """Means over steps of what the kernel has counted, (C, width) each."""
        return {name: total / max(self._num_steps, 1) for name, total in self._sums.items() if name not in _ALWAYS}

    def figures(self) -> dict[str, str]:
        """For a progress bar."""
        return {"accept": f"{self.accept_prob.mean():.2f}", "divergent": str(int(self.num_divergent.sum()))}


class EnergyMoves:
    """E-BFMI in constant memory: squared steps of the total energy over its squared deviations; see `ebfmi`.

    Energies are taken relative to the first, so that large ones lose no digits.
    """

    def __init__(self) -> None:
        self._num = 0

    def add(self, total: Tensor) -> None:
        """Take in the total energies (C, 1) of one step."""
        if not self._num:
            self._first = self._last = total
            self._moves = self._sum = self._square = torch.zeros_like(total)
        relative = total - self._first
        self._moves = self._moves + (total - self._last).square()
        self._sum, self._square = self._sum + relative, self._square + relative.square()
        self._last = total
        self._num += 1

    def ebfmi(self) -> Tensor:
        """(C,)."""
        return (self._moves / (self._square - self._sum.square() / self._num)).squeeze(1)
