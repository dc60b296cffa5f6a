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
| energies over a frozen base | `energy_loss`, or without chains one of `ratio_losses` |

Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, section 3; for L = 1, Pang et al. (NeurIPS 2020),
arXiv 2006.08205.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from lamina.samplers import ParameterError

from .energies import Energies
from .hierarchy import Latents, detached
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
    base_positive_phase = -prior.base.log_prob(detached(positive)).mean()
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
    gap: Tensor = prior.energies(detached(positive)).mean() - prior.energies(detached(negative)).mean()
    return gap


def base_negative_phase(prior: JointEBMPrior, negative: Latents) -> Tensor:
    """mean log p_{beta>0}(negative): what log Z adds to the gradient for beta>0.

    Args:
        prior: The joint EBM prior.
        negative: Draws of the prior, (K, *event_i) per layer.

    Returns:
        0-d; no gradient reaches the latents.
    """
    return prior.base.log_prob(detached(negative)).mean()


def reconstruction_loss(model: LatentEBM, x: Tensor, positive: Latents) -> Tensor:
    """-mean log p_{beta0}(x|positive): the gradient of minus the log-likelihood for beta0.

    Args:
        model: Its likelihood is used.
        x: Data, (C, *image).
        positive: A draw of p(z|x) for each row, (C, *event_i) per layer.

    Returns:
        0-d, in nats per datum; no gradient reaches the latents.
    """
    return -model.likelihood.log_prob(x, detached(positive)).mean()


def negative_elbo(
    model: LatentEBM,
    x: Tensor,
    *,
    generator: torch.Generator,
    with_energies: bool = True,
    kl_weight: float = 1.0,
    free_nats: float = 0.0,
) -> tuple[Tensor, Latents, dict[str, Tensor]]:
    """Minus the evidence lower bound, but for log Z, with one reparameterised draw z ~ q(z|x) for each datum.

    mean over data of -log p(x|z) + [log q(z|x) - log p_{beta>0}(z)] + sum_i E_i(z_i).

    log Z has no gradient for omega and beta0, so theirs are complete. The energies steer z, but get no gradient
    of their own here (`energy_loss` at the draws returned has both of their phases); beta>0 gets its positive
    phase, and the negative one from `base_negative_phase`.

    Against layers that carry nothing there are two means, and with either the loss is no bound. A `kl_weight` below
    one, while training warms up (Sonderby et al. 2016, arXiv 1602.02282, section 2.3), makes leaving the prior
    cheaper. Free nats (Kingma et al. 2016, arXiv 1606.04934, equation 15) replace the divergence of a layer, as a
    mean over the batch, by max(free_nats, .). A layer's divergence is estimated by log q_i - log p_i, where q_i and
    p_i are its factors; these are divergences one by one for `LadderInference`, whose factors go the way of the
    prior's, and only in sum for `BottomUpInference`.

    Args:
        model: With an inference model.
        x: Data, (C, *image).
        generator: Source of the draws, on the device of x.
        with_energies: False leaves the energies out: the exact bound of the Gaussian-prior model (f = 0, Z = 1).
        kl_weight: Factor of what q pays for leaving the prior: of the divergence from the base and of the energies.
        free_nats: Divergence that each layer has for free.

    Returns:
        The loss, 0-d, in nats per datum; the draws, detached; and its terms "reconstruction", "kl" and, unless
        left out, "energy", (C,) each, detached, with "kl_per_layer", (C, L), beside them. The terms are those of the
        plain bound.

    Raises:
        ParameterError: If the model has no inference model.

    Source: Cui, Wu and Han (CVPR 2023), arXiv 2306.06323, the variant with an inference model.
    """
    if model.inference is None:
        raise ParameterError("negative_elbo needs q(z|x): make the model as LatentEBM(prior, likelihood, inference).")
    z, log_q = model.inference.draw(x, generator=generator)
    kl = log_q - model.prior.base.per_layer(z)
    terms = {"reconstruction": -model.likelihood.log_prob(x, z), "kl": kl.sum(1)}
    price = kl.mean(0).clamp(min=free_nats).sum() if free_nats else kl.sum(1).mean()
    if with_energies:
        terms["energy"] = _with_fixed_weights(model.prior.energies, z)
        price = price + terms["energy"].mean()
    loss = terms["reconstruction"].mean() + kl_weight * price
    terms["kl_per_layer"] = kl
    return loss, detached(z), {name: term.detach() for name, term in terms.items()}


def _with_fixed_weights(energies: Energies, z: Latents) -> Tensor:
    """Energies (C,) with a gradient for z, and none for the weights."""
    weights = {name: weight.detach() for name, weight in energies.named_parameters()}
    total: Tensor = functional_call(energies, weights, (z,))
    return total
