"""What every phase of training has: optimisers by part of the model, a schedule, and a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lamina.models import LatentEBM, Latents, NormalizedEnergies, clip_spectral_norms, normalizer_loss

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


Groups: TypeAlias = Iterable[tuple[Iterable[nn.Parameter], float, tuple[float, float]]]
"""What learns: parameters, learning rate and Adam's betas, a group each."""


class Phase(ABC):
    """A stretch of training with one objective. Concrete phases are final.

    Args:
        bench: Model, configuration and randomness.
        num_steps: Steps of the phase, which its schedules span.
    """

    teaches_energies = True

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        self.bench = bench
        self.num_steps = num_steps
        self.progress = 0.0
        self._optimisers = [
            torch.optim.Adam(list(parameters), rate, betas=betas, fused=True)
            for parameters, rate, betas in self.groups()
        ]
        self._rates = [optimiser.param_groups[0]["lr"] for optimiser in self._optimisers]

    @abstractmethod
    def groups(self) -> Groups:
        """What learns in this phase."""

    @abstractmethod
    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (rows of the training data), and 0-d figures to log."""

    def step(self, x: Tensor, rows: Tensor, done: int, *, rate_factor: float = 1.0) -> dict[str, Tensor]:
        """One gradient step, the `done`-th of the phase from zero, at a multiple of the rates; returns its figures."""
        self.progress = done / self.num_steps
        falling = learning_rate_factor(self.progress, self.bench.config.final_rate)
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * rate_factor * falling
        loss, figures = self.losses(x, rows)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = self._gradient_norm()
        for optimiser in self._optimisers:
            optimiser.step()
        limit = self.bench.config.spectral_limit
        if self.teaches_energies and limit is not None:
            clip_spectral_norms(self.bench.model.prior.energies, limit)
        return {"loss": loss.detach(), "gradient_norm": norm, **figures}

    def energy_groups(self) -> list[tuple[Iterable[nn.Parameter], float, tuple[float, float]]]:
        """The energies, and their log-normaliser at the rate of the other parts: it has nats to go."""
        energies, config = self.bench.model.prior.energies, self.bench.config
        if not isinstance(energies, NormalizedEnergies):
            return [(energies.parameters(), config.energy_learning_rate, config.energy_betas)]
        return [
            (energies.energies.parameters(), config.energy_learning_rate, config.energy_betas),
            ([energies.log_normalizer], config.learning_rate, ADAM),
        ]

    def energy_penalty(self, positive: Latents, negative: Latents) -> Tensor:
        """The weighted mean of E_i^2 over both phases and all layers: it keeps energies near zero."""
        weight = self.bench.config.energy_penalty
        if not weight:
            return positive[0].new_zeros(())
        energies = self.bench.model.prior.energies
        squares = [energies.per_layer(z).square().mean() for z in (positive, negative)]
        return weight * (squares[0] + squares[1])

    @torch.no_grad()
    def energy_figures(self, positive: Latents, negative: Latents) -> dict[str, Tensor]:
        """Mean energies of both phases, which the loop watches, their gap, and the log-normaliser."""
        energies = self.bench.model.prior.energies
        means = [energies.per_layer(z).sum(1).mean() for z in (positive, negative)]
        figures = {"energy_gap": means[0] - means[1], "energy_positive": means[0], "energy_negative": means[1]}
        if isinstance(energies, NormalizedEnergies):
            figures["log_normalizer"] = energies.log_normalizer.clone()
        return figures

    def normalizer_loss(self) -> Tensor:
        """The log-normaliser's own loss, from draws of the base prior; zero where there is none."""
        prior = self.bench.model.prior
        if not isinstance(prior.energies, NormalizedEnergies):
            return next(prior.energies.parameters()).new_zeros(())
        return normalizer_loss(prior, self.base_draws())

    def base_draws(self) -> Latents:
        """Draws of the base prior, as many as rows in a batch."""
        return self.bench.model.prior.base.sample(self.bench.config.batch_size, generator=self.bench.generator)

    def kl_weight(self) -> float:
        """The weight of the divergence, which rises from zero to one while the phase warms up."""
        warmup = self.bench.config.kl_warmup
        return min(1.0, self.progress / warmup) if warmup else 1.0

    def _gradient_norm(self) -> Tensor:
        """Of all that learns here together, before the step."""
        weights = [w for optimiser in self._optimisers for w in optimiser.param_groups[0]["params"]]
        return torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, besides the model and the generator."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self._optimisers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for optimiser, stored in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)


def bound_figures(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """What to log of the terms of `negative_elbo`, 0-d each; divergences also layer by layer, "kl_1" for z_1."""
    layers = terms["kl_per_layer"].mean(0)
    per_layer = {f"kl_{layer + 1}": kl for layer, kl in enumerate(layers)}
    return {"reconstruction": terms["reconstruction"].mean(), "kl": layers.sum(), **per_layer}


def learning_rate_factor(progress: float, final: float) -> float:
    """Constant for 60 % of a phase, then linear to its final share, see `TrainConfig.final_rate`."""
    return 1.0 if progress < 0.6 else 1.0 - (1.0 - final) * (progress - 0.6) / 0.4


ADAM = (0.9, 0.999)
