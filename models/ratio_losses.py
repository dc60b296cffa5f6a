"""Losses that know the level of energies: they learn from draws of the base prior, without chains.

The joint prior relative to its base is exp(-E(z)) / Z. With E from `NormalizedEnergies`, which carry b, all three
losses here drive b to log Z, so that -E is the log-ratio itself, in nats. `noise_contrastive_loss` and
`self_normalizing_loss` take the place of `energy_loss` over a base that stays fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lamina.samplers import ParameterError

from .energies import NormalizedEnergies
from .hierarchy import Latents, detached
from .prior import JointEBMPrior


def noise_contrastive_loss(prior: JointEBMPrior, positive: Latents, noise: Latents) -> Tensor:
    """Tell posterior draws from draws of the base: mean softplus(E(positive)) + mean softplus(-E(noise)).

    The best classifier has the log-odds -E(z) = log q(z) - log p_{beta>0}(z), q being the law of the positives.

    Args:
        prior: The joint EBM prior.
        positive: Draws of the law that the prior is to learn, (C, *event_i) per layer.
        noise: Draws of the base prior, (K, *event_i) per layer; both sides weigh the same, whatever C and K.

    Returns:
        0-d, 2 log 2 where nothing is told apart; no gradient reaches the latents or the base.

    Source: Gutmann and Hyvarinen (AISTATS 2010), equation 3, with equal weights; for latent priors, Aneja et al.
    (NeurIPS 2021), arXiv 2010.02917.
    """
    told, mistaken = prior.energies(detached(positive)), -prior.energies(detached(noise))
    return functional.softplus(told).mean() + functional.softplus(mistaken).mean()


def self_normalizing_loss(prior: JointEBMPrior, positive: Latents, noise: Latents) -> Tensor:
    """An upper bound on the cross entropy relative to the base: mean E(positive) + mean exp(-E(noise)) - 1.

    As log Z <= E_base[exp(-E)] - 1, it is never below mean E(positive) + log Z in expectation, and meets it where
    Z = 1. Its gradient is that of maximum likelihood there, with importance weights in place of chains.

    Args:
        prior: See `noise_contrastive_loss`; likewise `positive` and `noise`.
        positive: (C, *event_i) per layer.
        noise: (K, *event_i) per layer.

    Returns:
        0-d, in nats; no gradient reaches the latents or the base.

    Source: Senetaire et al. (2025), the self-normalised log-likelihood, arXiv 2503.07021.
    """
    energy: Tensor = prior.energies(detached(positive)).mean()
    return energy + torch.exp(-prior.energies(detached(noise))).mean() - 1


def normalizer_loss(prior: JointEBMPrior, noise: Latents) -> Tensor:
    """b + exp(-b) mean exp(-sum_i E_i(noise)) - 1, whose gradient is for b alone; least where b = log Z.

    Its expectation is an upper bound on log Z for every b. So minus `negative_elbo`, less the excess over b of this
    bound, is a lower bound on log p(x) in nats (in expectation; b is inside the energies already).

    Args:
        prior: With `NormalizedEnergies`.
        noise: Draws of the base prior, (K, *event_i) per layer.

    Returns:
        0-d, in nats.

    Raises:
        ParameterError: If the energies carry no log-normaliser.

    Source: Senetaire et al. (2025), arXiv 2503.07021, the bound as a function of b.
    """
    if not isinstance(prior.energies, NormalizedEnergies):
        raise ParameterError("normalizer_loss needs a log-normaliser: wrap the energies in NormalizedEnergies.")
    with torch.no_grad():
        energy = prior.energies.energies(noise)
    log_normalizer = prior.energies.log_normalizer
    return log_normalizer + torch.exp(-energy - log_normalizer).mean() - 1
