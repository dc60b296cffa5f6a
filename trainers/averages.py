"""Averaged weights: what is sampled and evaluated."""

from __future__ import annotations

import copy
from typing import Any

import torch

from lamina.models import LatentEBM


class Averages:
    """Exponential moving average of a model's weights.

    Early on the decay is smaller, (1 + t) / (10 + t), so that the start is forgotten.

    Args:
        model: The model to follow; it is read, never changed.
        decay: Per step, in [0, 1).
    """

    def __init__(self, model: LatentEBM, decay: float) -> None:
        self._decay = decay
        self._count = 0
        self.model = copy.deepcopy(model)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: LatentEBM) -> None:
        """Take in the weights after a step."""
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        self._count += 1
        for mean, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and their count."""
        return {"count": self._count, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._count = state["count"]
        self.model.load_state_dict(state["model"])
