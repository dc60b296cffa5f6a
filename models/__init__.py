"""Latent energy-based models: a joint EBM prior over a multi-layer generator (Cui, Wu and Han, CVPR 2023).

Latents are tuples (z_1, ..., z_L), z_L on top and z_1 next to the data. Energies are in nats, one per chain;
lower is likelier. Every chain moves in u (the base prior's noise) or in z (the latents), see `JointEBMPrior`.
"""

from .energies import LayerEnergies, MLPEnergy, QuadraticEnergy
from .gaussian import Gaussian, LinearGaussian, MLPGaussian
from .generators import ConvGenerator, MLPGenerator
from .hierarchy import GaussianHierarchy, Latents
from .inference import BottomUpInference, ConvGaussian
from .latent_ebm import LatentEBM, Likelihood
from .likelihoods import BernoulliLikelihood, GaussianLikelihood
from .losses import base_negative_phase, contrastive_loss, energy_loss, negative_elbo, reconstruction_loss
from .nets import mlp, seeded_init
from .prior import JointEBMPrior, Space, check_space

__all__ = [
    "BernoulliLikelihood",
    "BottomUpInference",
    "ConvGaussian",
    "ConvGenerator",
    "Gaussian",
    "GaussianHierarchy",
    "GaussianLikelihood",
    "JointEBMPrior",
    "LatentEBM",
    "Latents",
    "LayerEnergies",
    "Likelihood",
    "LinearGaussian",
    "MLPEnergy",
    "MLPGaussian",
    "MLPGenerator",
    "QuadraticEnergy",
    "Space",
    "base_negative_phase",
    "check_space",
    "contrastive_loss",
    "energy_loss",
    "mlp",
    "negative_elbo",
    "reconstruction_loss",
    "seeded_init",
]
