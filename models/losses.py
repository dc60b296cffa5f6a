"""Losses per batch, whose gradients are those of maximum likelihood or of the evidence bound.

E+ is the expectation under p(z|x) (or q(z|x)) over the data, E- under the prior p_{alpha,beta>0}(z); chains or an
inference model estimate both. log Z depends on alpha and on beta>0, hence a negative phase for both:

- alpha:   grad -log p(x) = E+[grad sum_i E_i(z_i)] - E-[grad sum_i E_i(z_i)];
- beta>0:  grad -log p(x) = -E+[grad log p_{beta>0}(z)] + E-[grad log p_{beta>0}(z)];
- beta0:   grad -log p(x) = -E+[grad log p_{beta0}(x|z)].

Latents are held fixed in all of these, also where the chain ran in u: the law of z, not the way to it, is what the
expectation is about.

| scheme | sum of |
| --- | --- |
| maximum likelihood | `contrastive_loss`, `reconstruction_loss` |
| variational | `negative_elbo`, `energy_loss`, `base_negative_phase` |
| energies over a frozen base | `energy_loss` |

Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, section 3; for L = 1, Pang et al. (NeurIPS 2020),
arXiv 2006.08205.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from lamina.samplers import ParameterError

from .energies import LayerEnergies
from .hierarchy import Latents
from .latent_ebm import LatentEBM
from .prior import JointEBMPrior


def contrastive_loss(prior: JointEBMPrior, positive: Latents, negative: Latents) -> Tensor:
    """mean E_z(positive) - mean E_z(negative), with E_z(z) = sum_i E_i(z_i) - log p_{beta>0}(z).

    Its gradient is that of minus the log-likelihood for the prior: for alpha, and for beta>0 with its negative
    phase. Its value is a difference of energies, no likelihood.

    Args:
        prior: The joint EBM prior.
        positive: Draws of p(z|x) over the data, or of the law that the prior is to learn, (C, *event_i) per layer.
        negative: Draws of the prior, (K, *event_i) per layer; K may differ from C.

    Returns:
        0-d; no gradient reaches the latents.
    """
    base_positive_phase = -prior.base.log_prob(_detached(positive)).mean()
    return energy_loss(prior, positive, negative) + base_positive_phase + base_negative_phase(prior, negative)


def energy_loss(prior: JointEBMPrior, positive: Latents, negative: Latents) -> Tensor:
    """mean sum_i E_i(positive) - mean sum_i E_i(negative): the part of `contrastive_loss` for alpha alone.

    Args:
        prior: See `contrastive_loss`; likewise `positive` and `negative`.
        positive: (C, *event_i) per layer.
        negative: (K, *event_i) per layer.

    Returns:
        0-d; no gradient reaches the latents or the base.
    """
    gap: Tensor = prior.energies(_detached(positive)).mean() - prior.energies(_detached(negative)).mean()
    return gap


def base_negative_phase(prior: JointEBMPrior, negative: Latents) -> Tensor:
    """mean log p_{beta>0}(negative): what log Z adds to the gradient for beta>0.

    Args:
        prior: The joint EBM prior.
        negative: Draws of the prior, (K, *event_i) per layer.

    Returns:
        0-d; no gradient reaches the latents.
    """
    return prior.base.log_prob(_detached(negative)).mean()


def reconstruction_loss(model: LatentEBM, x: Tensor, positive: Latents) -> Tensor:
    """-mean log p_{beta0}(x|positive): the gradient of minus the log-likelihood for beta0.

    Args:
        model: Its likelihood is used.
        x: Data, (C, *image).
        positive: A draw of p(z|x) for each row, (C, *event_i) per layer.

    Returns:
        0-d, in nats per datum; no gradient reaches the latents.
    """
    return -model.likelihood.log_prob(x, _detached(positive)).mean()


def negative_elbo(
    model: LatentEBM, x: Tensor, *, generator: torch.Generator, with_energies: bool = True
) -> tuple[Tensor, Latents, dict[str, Tensor]]:
    """Minus the evidence lower bound, but for log Z, with one reparameterised draw z ~ q(z|x) for each datum.

    mean over data of -log p(x|z) + [log q(z|x) - log p_{beta>0}(z)] + sum_i E_i(z_i).

    log Z has no gradient for omega and beta0, so theirs are complete. The energies steer z, but get no gradient
    of their own here (`energy_loss` at the draws returned has both of their phases); beta>0 gets its positive
    phase, and the negative one from `base_negative_phase`.

    Args:
        model: With an inference model.
        x: Data, (C, *image).
        generator: Source of the draws, on the device of x.
        with_energies: False leaves the energies out: the exact bound of the Gaussian-prior model (f = 0, Z = 1).

    Returns:
        The loss, 0-d, in nats per datum; the draws, detached; and its terms "reconstruction", "kl" and, unless
        left out, "energy", (C,) each, detached.

    Raises:
        ParameterError: If the model has no inference model.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the variant with an inference model.
    """
    if model.inference is None:
        raise ParameterError("negative_elbo needs q(z|x): make the model as LatentEBM(prior, likelihood, inference).")
    z, log_q = model.inference(x, generator=generator)
    terms = {
        "reconstruction": -model.likelihood.log_prob(x, z),
        "kl": log_q - model.prior.base.log_prob(z),
    }
    if with_energies:
        terms["energy"] = _with_fixed_weights(model.prior.energies, z)
    loss = torch.stack(list(terms.values())).sum(0).mean()
    return loss, _detached(z), {name: term.detach() for name, term in terms.items()}


def _with_fixed_weights(energies: LayerEnergies, z: Latents) -> Tensor:
    """Energies (C,) with a gradient for z, and none for the weights."""
    weights = {name: weight.detach() for name, weight in energies.named_parameters()}
    total: Tensor = functional_call(energies, weights, (z,))
    return total


def _detached(z: Latents) -> Latents:
    return tuple(part.detach() for part in z)
