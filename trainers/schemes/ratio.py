"""The second stage without chains: energies as log-ratios to a frozen base prior."""

from __future__ import annotations

import torch
from torch import Tensor

from lamina.models import noise_contrastive_loss, self_normalizing_loss

from .base import Groups, Phase

LOSSES = {"noise-contrastive": noise_contrastive_loss, "self-normalizing": self_normalizing_loss}


class RatioPhase(Phase):
    """Energies from the inference model's draws for the data, against draws of the base prior.

    Every weight of the backbone stays as it is, bit for bit. Chains are run only to draw from the result.

    Source: Aneja et al. (NeurIPS 2021), arXiv 2010.02917, for noise-contrastive priors of a trained backbone;
    Senetaire et al. (2025), arXiv 2503.07021, for the self-normalising loss.
    """

    def groups(self) -> Groups:
        """The energies."""
        return self.energy_groups()

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        model = self.bench.model
        assert model.inference is not None
        with torch.no_grad():
            z_data, _ = model.inference(x, generator=self.bench.generator)
        z_base = self.base_draws()
        loss = LOSSES[self.bench.config.energy_loss](model.prior, z_data, z_base)
        return loss + self.energy_penalty(z_data, z_base), self.energy_figures(z_data, z_base)
