"""Variational training with f = 0: a hierarchical VAE, the first stage and the model to compare with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from lamina.models import negative_elbo

from .base import ADAM, Phase


class GaussianPhase(Phase):
    """Maximise the evidence bound of the Gaussian-prior model; the energies stay as they are, at zero.

    Source: Kingma and Welling (2014) for the bound; the first stage of Cui, Wu and Han (CVPR 2023).
    """

    def groups(self) -> Iterable[tuple[Iterable[nn.Parameter], float, tuple[float, float]]]:
        """Generator, base prior and inference model."""
        model = self.bench.model
        learning = [p for name, p in model.named_parameters() if not name.startswith("prior.energies.")]
        return [(learning, self.bench.config.learning_rate, ADAM)]

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        loss, _, terms = negative_elbo(self.bench.model, x, generator=self.bench.generator, with_energies=False)
        return loss, {"reconstruction": terms["reconstruction"].mean(), "kl": terms["kl"].mean()}
