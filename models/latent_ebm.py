"""The whole model: joint EBM prior, likelihood, and optionally an inference model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from .hierarchy import Latents
from .inference import Inference
from .prior import JointEBMPrior, Space, check_space


class Likelihood(Protocol):
    """What a model needs of p(x|z)."""

    def mean(self, z: Latents) -> Tensor:
        """E[x|z], (C, *image)."""
        ...

    def log_prob(self, x: Tensor, z: Latents) -> Tensor:
        """log p(x|z), (C,) in nats."""
        ...


class LatentEBM(nn.Module):
    """p(x, z) = p_{beta0}(x|z) p_{alpha,beta>0}(z), with an optional q_omega(z|x).

    With L = 1 this is the single-layer latent EBM of Pang et al. (NeurIPS 2020), arXiv 2006.08205.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323.

    Args:
        prior: The joint EBM prior.
        likelihood: A module with `mean` and `log_prob`.
        inference: For variational schemes.
    """

    def __init__(self, prior: JointEBMPrior, likelihood: nn.Module, inference: Inference | None = None) -> None:
        super().__init__()
        self.prior = prior
        self._likelihood = likelihood
        self.inference = inference

    @property
    def likelihood(self) -> Likelihood:
        """p(x|z)."""
        return self._likelihood  # type: ignore[return-value]

    def posterior_energy(self, space: Space) -> Callable[[Latents, Tensor], Tensor]:
        """The energy for posterior chains in a space, with the data row of each chain as context.

        E(z; x) = E_z(z) - log p(x|z), and E(u; x) = E_u(u) - log p(x|T(u)): (C, *event_i) per layer -> (C,).
        """
        prior_energy = self.prior.energy(space)
        in_u = check_space(space) == "u"

        def energy(position: Latents, x: Tensor) -> Tensor:
            # T(u) is computed twice, here and in the prior's energy; it is small beside the generator.
            z = self.prior.base.transform(position) if in_u else position
            return prior_energy(position) - self.likelihood.log_prob(x, z)

        return energy
