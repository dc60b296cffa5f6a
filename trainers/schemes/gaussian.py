"""Variational training with f = 0: a hierarchical VAE, the first stage and the model to compare with."""

from __future__ import annotations

from torch import Tensor

from lamina.models import negative_elbo

from .base import ADAM, Groups, Phase, bound_figures


class GaussianPhase(Phase):
    """Maximise the evidence bound of the Gaussian-prior model; the energies stay as they are, at zero.

    Source: Kingma and Welling (2014) for the bound; the first stage of Cui, Wu and Han (CVPR 2023).
    """

    teaches_energies = False

    def groups(self) -> Groups:
        """Generator, base prior and inference model."""
        model = self.bench.model
        learning = [p for name, p in model.named_parameters() if not name.startswith("prior.energies.")]
        return [(learning, self.bench.config.learning_rate, ADAM)]

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        loss, _, terms = negative_elbo(
            self.bench.model,
            x,
            generator=self.bench.generator,
            with_energies=False,
            kl_weight=self.kl_weight(),
            free_nats=self.bench.config.free_nats,
        )
        return loss, bound_figures(terms)
