"""Which phases a scheme goes through."""

from __future__ import annotations

from collections.abc import Callable

from ..config import TrainConfig
from .base import Phase, Workbench
from .energies import EnergyPhase
from .gaussian import GaussianPhase
from .joint_mle import JointMLEPhase
from .joint_variational import JointVariationalPhase
from .ratio import RatioPhase

PhaseMaker = Callable[[Workbench, int], Phase]


def plan(config: TrainConfig) -> list[tuple[PhaseMaker, int]]:
    """The phases of a run, in order, with their numbers of steps."""
    match config.scheme:
        case "gaussian":
            return [(GaussianPhase, config.num_steps)]
        case "joint-mle":
            return [(JointMLEPhase, config.num_steps)]
        case "joint-variational":
            return [(JointVariationalPhase, config.num_steps)]
        case "two-stage":
            first = round(config.first_stage * config.num_steps)
            second: PhaseMaker = EnergyPhase if config.energy_loss == "contrastive" else RatioPhase
            stages: list[tuple[PhaseMaker, int]] = [(GaussianPhase, first), (second, config.num_steps - first)]
            return [(maker, steps) for maker, steps in stages if steps]
