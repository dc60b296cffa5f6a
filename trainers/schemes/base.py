"""What every phase of training has: optimisers by part of the model, a schedule, and a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lamina.models import LatentEBM, Latents

from ..config import TrainConfig


@dataclass(frozen=True)
class Workbench:
    """What a phase works with.

    Attributes:
        model: The model, changed in place.
        config: The run's configuration.
        num_rows: Rows of the training data.
        generator: Source of all randomness of training, on the model's device.
    """

    model: LatentEBM
    config: TrainConfig
    num_rows: int
    generator: torch.Generator


class Phase(ABC):
    """A stretch of training with one objective. Concrete phases are final.

    Args:
        bench: Model, configuration and randomness.
        num_steps: Steps of the phase, which its learning-rate schedule spans.
    """

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        self.bench = bench
        self.num_steps = num_steps
        self._optimisers = [
            torch.optim.Adam(list(parameters), rate, betas=betas, fused=True)
            for parameters, rate, betas in self.groups()
        ]
        self._rates = [optimiser.param_groups[0]["lr"] for optimiser in self._optimisers]

    @abstractmethod
    def groups(self) -> Iterable[tuple[Iterable[nn.Parameter], float, tuple[float, float]]]:
        """What learns: parameters, learning rate and Adam's betas, a group each."""

    @abstractmethod
    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (rows of the training data), and 0-d figures to log."""

    def step(self, x: Tensor, rows: Tensor, done: int) -> dict[str, Tensor]:
        """One gradient step, the `done`-th of the phase from zero; returns its figures."""
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * learning_rate_factor(done / self.num_steps)
        loss, figures = self.losses(x, rows)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self._optimisers:
            optimiser.step()
        return {"loss": loss.detach(), **figures}

    def energy_penalty(self, positive: Latents, negative: Latents) -> Tensor:
        """The weighted mean of E_i^2 over both phases and all layers: it keeps energies near zero."""
        weight = self.bench.config.energy_penalty
        if not weight:
            return positive[0].new_zeros(())
        energies = self.bench.model.prior.energies
        squares = [energies.per_layer(z).square().mean() for z in (positive, negative)]
        return weight * (squares[0] + squares[1])

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, besides the model and the generator."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self._optimisers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for optimiser, stored in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)


def learning_rate_factor(progress: float) -> float:
    """Constant for 60 % of a phase, then linear to 5 %: late steps average out the noise of the gradient."""
    return 1.0 if progress < 0.6 else 1.0 - 0.95 * (progress - 0.6) / 0.4


ADAM = (0.9, 0.999)
ADAM_FOR_ENERGIES = (0.9, 0.99)
"""A shorter memory of squared gradients: their size changes as the energies grow (NVlabs VAEBM's choice is alike)."""
