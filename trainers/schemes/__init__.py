"""Training schemes: one file each, and the phases that a configuration asks for."""

from .base import Phase, Workbench
from .energies import EnergyPhase
from .gaussian import GaussianPhase
from .joint_mle import JointMLEPhase
from .joint_variational import JointVariationalPhase
from .plan import plan
from .ratio import RatioPhase

__all__ = [
    "EnergyPhase",
    "GaussianPhase",
    "JointMLEPhase",
    "JointVariationalPhase",
    "Phase",
    "RatioPhase",
    "Workbench",
    "plan",
]
