"""Joint maximum likelihood: prior and posterior both by MCMC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lamina.models import LatentEBM, Latents, contrastive_loss, reconstruction_loss

from ..chains import TrainingChains
from .base import ADAM, Groups, Phase, Workbench


class JointMLEPhase(Phase):
    """Maximum likelihood for energies, base prior and generator from posterior and prior chains.

    alpha and beta>0: E+[grad E_z] - E-[grad E_z], with E_z = sum_i E_i - log p_{beta>0}; beta0:
    E+[-grad log p(x|z)]. E+ is over posterior chains, E- over prior chains.

    Where posterior chains start from the inference model, it learns to start them, see `start_loss`; else it is not
    used.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the learning gradients of section 3. Differs by
    configuration: kernels, starts and space of both chains are free; the published recipe is a preset.
    """

    def __init__(self, bench: Workbench, num_steps: int) -> None:
        super().__init__(bench, num_steps)
        config = bench.config
        self.chains = {
            "prior": TrainingChains(bench.model, config.prior, config.batch_size, bench.generator),
            "posterior": TrainingChains(
                bench.model, config.posterior, config.batch_size, bench.generator, num_rows=bench.num_rows
            ),
        }

    @property
    def _teaches_starts(self) -> bool:
        return self.bench.config.posterior.start == "encoder"

    def groups(self) -> Groups:
        """Energies; generator and base prior; the inference model, where it starts chains."""
        model, config = self.bench.model, self.bench.config
        rest = [p for name, p in model.named_parameters() if not name.startswith(("prior.energies.", "inference."))]
        groups = [*self.energy_groups(), (rest, config.learning_rate, ADAM)]
        if self._teaches_starts:
            assert model.inference is not None
            groups.append((model.inference.parameters(), config.learning_rate, ADAM))
        return groups

    def losses(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Phase.losses`."""
        model = self.bench.model
        z_data, posterior = self.chains["posterior"].posterior(x, rows)
        z_prior, prior = self.chains["prior"].prior()
        contrast = contrastive_loss(model.prior, z_data, z_prior)
        reconstruction = reconstruction_loss(model, x, z_data)
        figures = {
            "reconstruction": reconstruction.detach(),
            **self.energy_figures(z_data, z_prior),
            "contrast": contrast.detach(),
            **self.chains["prior"].figures("prior", prior),
            **self.chains["posterior"].figures("posterior", posterior),
        }
        loss = contrast + reconstruction + self.energy_penalty(z_data, z_prior) + self.normalizer_loss()
        if self._teaches_starts:
            start = start_loss(model, x, z_data)
            loss, figures = loss + start, {**figures, "start": start.detach()}
        return loss, figures


def start_loss(model: LatentEBM, x: Tensor, z: Latents) -> Tensor:
    """-mean log q(z|x) at the ends of posterior chains: the inference model learns where chains that it starts go.

    In expectation this is KL(law of the ends || q) but for a constant, so that q covers all of where posterior chains
    go, as a start should, and stands still where it starts them in their own law. The evidence bound would do the
    reverse, and leave out what is far from q; and its gradient goes through generator, base prior and energies, where
    this one is of q alone, for the price of one pass through it.

    Args:
        model: With an inference model.
        x: Data, (C, *image).
        z: The ends of posterior chains, (C, *event_i) per layer, without a graph.

    Returns:
        0-d, in nats per datum; its gradient is for the inference model alone, also where it shares the base prior.

    Source: Li, Turner and Liu (2017), arXiv 1702.08343, with the inclusive divergence; beside EBMs, Cui and Han
    (NeurIPS 2023), arXiv 2312.02469.
    """
    assert model.inference is not None
    with _held(model.prior.base):
        return -model.inference.log_prob(z, x).mean()


@contextmanager
def _held(module: nn.Module) -> Iterator[None]:
    """No graph to these weights inside: the base prior's enter a ladder's factors, and are not its own to teach."""
    learning = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
