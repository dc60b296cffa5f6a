"""Joint variational training: an inference model for the posterior, MCMC for the prior."""

from __future__ import annotations

from torch import Tensor

from lamina.models import base_negative_phase, energy_loss, negative_elbo

from ..chains import TrainingChains
from .base import ADAM, Groups, Phase, Workbench, bound_figures


class JointVariationalPhase(Phase):
    """Minimise -E_q[log p(x|z)] + KL(q || p_{beta>0}) + E_q[sum_i E_i], with the negative phase of log Z.

    The energies get E_q[grad E_i] - E-[grad E_i]; beta>0 gets the negative phase of log Z, as the base prior
    is part of the un-normalised density; E- is over prior chains.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the variant with an inference model.
    """

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        super().__init__(bench, num_steps)
        chains = TrainingChains(bench.model, bench.config.prior, bench.config.batch_size, bench.generator)
        self.chains = {"prior": chains}

    def groups(self) -> Groups:
        """Energies; generator, base prior and inference model."""
        model, config = self.bench.model, self.bench.config
        rest = [p for name, p in model.named_parameters() if not name.startswith("prior.energies.")]
        return [*self.energy_groups(), (rest, config.learning_rate, ADAM)]

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        prior = self.bench.model.prior
        weight = self.kl_weight()
        bound, z_data, terms = negative_elbo(
            self.bench.model,
            x,
            generator=self.bench.generator,
            kl_weight=weight,
            free_nats=self.bench.config.free_nats,
        )
        z_prior, run = self.chains["prior"].prior()
        gap = energy_loss(prior, z_data, z_prior)
        figures = {
            **bound_figures(terms),
            **self.energy_figures(z_data, z_prior),
            **self.chains["prior"].figures("prior", run),
        }
        base = weight * base_negative_phase(prior, z_prior)  # of the same weight as the positive phase in the bound
        loss = bound + gap + base + self.energy_penalty(z_data, z_prior) + self.normalizer_loss()
        return loss, figures
