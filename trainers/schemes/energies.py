"""The second stage: energies in u-space on a frozen backbone."""

from __future__ import annotations

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
        chains = TrainingChains(bench.model, bench.config.prior, bench.config.batch_size, bench.generator)
        self.chains = {"prior": chains}

    def groups(self) -> Groups:
        """The energies."""
        return self.energy_groups()

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        model = self.bench.model
        assert model.inference is not None
        with torch.no_grad():
            z_data, _ = model.inference(x, generator=self.bench.generator)
        z_prior, run = self.chains["prior"].prior()
        gap = energy_loss(model.prior, z_data, z_prior)
        figures = {**self.energy_figures(z_data, z_prior), **self.chains["prior"].figures("prior", run)}
        return gap + self.energy_penalty(z_data, z_prior) + self.normalizer_loss(), figures
