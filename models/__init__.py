"""Latent energy-based models: a joint EBM prior over a multi-layer generator (Cui, Wu and Han, CVPR 2023).

Latents are tuples (z_1, ..., z_L), z_L on top and z_1 next to the data. Energies are in nats, one per chain;
lower is likelier. Every chain moves in u (the base prior's noise) or in z (the latents), see `JointEBMPrior`.
"""

from .energies import (
    ConvEnergy,
    Energies,
    JointEnergy,
    LayerEnergies,
    MLPEnergy,
    NormalizedEnergies,
    QuadraticEnergy,
    clip_spectral_norms,
)
from .gaussian import EventGaussian, Gaussian, LinearGaussian, MLPGaussian, StandardNormal
from .generators import ConvGenerator, LadderGenerator, MLPGenerator
from .hierarchy import GaussianHierarchy, Latents
from .inference import BottomUpInference, Inference, LadderInference
from .latent_ebm import LatentEBM, Likelihood
from .likelihoods import BernoulliLikelihood, GaussianLikelihood, LogisticMixtureLikelihood
from .losses import base_negative_phase, contrastive_loss, energy_loss, negative_elbo, reconstruction_loss
from .nets import Event, event_net, feature_event, mlp, seeded_init
from .prior import JointEBMPrior, Space, check_space
from .ratio_losses import noise_contrastive_loss, normalizer_loss, self_normalizing_loss

__all__ = [
    "BernoulliLikelihood",
    "BottomUpInference",
    "ConvEnergy",
    "ConvGenerator",
    "Energies",
    "Event",
    "EventGaussian",
    "Gaussian",
    "GaussianHierarchy",
    "GaussianLikelihood",
    "Inference",
    "JointEBMPrior",
    "JointEnergy",
    "LadderGenerator",
    "LadderInference",
    "LatentEBM",
    "Latents",
    "LayerEnergies",
    "Likelihood",
    "LinearGaussian",
    "LogisticMixtureLikelihood",
    "MLPEnergy",
    "MLPGaussian",
    "MLPGenerator",
    "NormalizedEnergies",
    "QuadraticEnergy",
    "Space",
    "StandardNormal",
    "base_negative_phase",
    "check_space",
    "clip_spectral_norms",
    "contrastive_loss",
    "energy_loss",
    "event_net",
    "feature_event",
    "mlp",
    "negative_elbo",
    "noise_contrastive_loss",
    "normalizer_loss",
    "reconstruction_loss",
    "seeded_init",
    "self_normalizing_loss",
]
