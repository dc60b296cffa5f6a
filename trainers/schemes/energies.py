"""The second stage: energies in u-space on a frozen backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lamina.models import energy_loss

from ..chains import TrainingChains
from .base import Groups, Phase, Workbench


class EnergyPhase(Phase):
    """Maximum likelihood for the energies alone: E+[E_i] - E-[E_i] for every layer.

    E+ is over the inference model's draws for the data, E- over prior chains. Every weight of the backbone
    stays as it is, bit for bit.

    Source: Cui, Wu and Han (CVPR 2023), two-stage training. Differs by configuration: Metropolis-adjusted,
    adapted, persistent chains instead of 20 to 40 unadjusted steps from noise.
    """

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        super().__init__(bench, num_steps)
        self._chains = TrainingChains(bench.model, bench.config.prior, bench.config.batch_size, bench.generator)

    def groups(self) -> Groups:
        """The energies."""
        return self.energy_groups()

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        model = self.bench.model
        assert model.inference is not None
        with torch.no_grad():
            z_data, _ = model.inference(x, generator=self.bench.generator)
        z_prior, run = self._chains.prior()
        gap = energy_loss(model.prior, z_data, z_prior)
        figures = {**self.energy_figures(z_data, z_prior), **self._chains.figures("prior", run)}
        return gap + self.energy_penalty(z_data, z_prior) + self.normalizer_loss(), figures

    def state_dict(self) -> dict[str, Any]:
        """See `Phase.state_dict`."""
        return {**super().state_dict(), "prior": self._chains.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Phase.load_state_dict`."""
        super().load_state_dict(state)
        self._chains.load_state_dict(state["prior"])
