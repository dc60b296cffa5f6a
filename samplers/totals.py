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

    def add(self, info: InfoLike) -> None:
        """Take in one step."""
        self._sums = {name: total + getattr(info, name) for name, total in self._sums.items()}
        self._num_steps += 1

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
