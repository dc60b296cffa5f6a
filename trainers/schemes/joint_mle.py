"""Joint maximum likelihood: prior and posterior both by MCMC."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lamina.models import contrastive_loss, reconstruction_loss

from ..chains import TrainingChains
from .base import ADAM, Groups, Phase, Workbench


class JointMLEPhase(Phase):
    """Maximum likelihood for energies, base prior and generator from posterior and prior chains.

    alpha and beta>0: E+[grad E_z] - E-[grad E_z], with E_z = sum_i E_i - log p_{beta>0}; beta0:
    E+[-grad log p(x|z)]. E+ is over posterior chains, E- over prior chains. The inference model is not used.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the learning gradients of section 3. Differs by
    configuration: kernels, starts and space of both chains are free; the published recipe is a preset.
    """

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        super().__init__(bench, num_steps)
        config = bench.config
        self._prior = TrainingChains(bench.model, config.prior, config.batch_size, bench.generator)
        self._posterior = TrainingChains(
            bench.model, config.posterior, config.batch_size, bench.generator, num_rows=bench.num_rows
        )

    def groups(self) -> Groups:
        """Energies; generator and base prior."""
        model, config = self.bench.model, self.bench.config
        rest = [p for name, p in model.named_parameters() if not name.startswith(("prior.energies.", "inference."))]
        return [*self.energy_groups(), (rest, config.learning_rate, ADAM)]

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        model = self.bench.model
        z_data, posterior = self._posterior.posterior(x, rows)
        z_prior, prior = self._prior.prior()
        contrast = contrastive_loss(model.prior, z_data, z_prior)
        reconstruction = reconstruction_loss(model, x, z_data)
        figures = {
            "reconstruction": reconstruction.detach(),
            **self.energy_figures(z_data, z_prior),
            "contrast": contrast.detach(),
            **self._prior.figures("prior", prior),
            **self._posterior.figures("posterior", posterior),
        }
        loss = contrast + reconstruction + self.energy_penalty(z_data, z_prior) + self.normalizer_loss()
        return loss, figures

    def state_dict(self) -> dict[str, Any]:
        """See `Phase.state_dict`."""
        return {**super().state_dict(), "prior": self._prior.state_dict(), "posterior": self._posterior.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Phase.load_state_dict`."""
        super().load_state_dict(state)
        self._prior.load_state_dict(state["prior"])
        self._posterior.load_state_dict(state["posterior"])
