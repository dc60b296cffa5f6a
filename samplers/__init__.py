"""A standalone MCMC toolkit for PyTorch: many chains as one batch, behind one energy interface.

>>> import torch
>>> from lamina.samplers import HMC, sample
>>> result = sample(
...     lambda x: 0.5 * x.square().sum(-1),      # an energy: one value per chain
...     HMC(step_size=0.5),
...     torch.zeros(100, 2),                     # 100 chains in two dimensions
...     num_samples=200,
...     num_warmup=100,
...     generator=torch.Generator().manual_seed(0),
... )
>>> result.draws.shape
torch.Size([100, 200, 2])
"""

from .adaptation import DualAveraging, DualAveragingState, Tracking
from .chains import Chains
from .diagnostics import (
    DiagnosticWarning,
    Summary,
    ess_bulk,
    ess_mean,
    ess_tail,
    mcse_mean,
    mcse_sd,
    rhat,
    summary,
)
from .driver import Run, Samples, run, sample
from .energy import Energy, HasValueAndGrad, Target, from_log_prob
from .errors import (
    EnergyError,
    LaminaError,
    MissingExtraError,
    NumericalWarning,
    ParameterError,
    PositionError,
    StateError,
    UnknownNameError,
)
from .hmc import HMC, HMCParams
from .kernel import Info, Kernel, Params, State
from .langevin import LangevinParams
from .mala import MALA
from .noise import CounterNoise, GeneratorNoise, NoiseSource, ReplayNoise, Site
from .position import Layout, Position
from .progress import Progress, progress
from .registry import KERNELS, kernel_name, make_kernel
from .step_size import noise_scale_from_step_size, step_size_from_noise_scale
from .ula import ULA
from .warmup import WarmupReport

__all__ = [
    "HMC",
    "KERNELS",
    "MALA",
    "ULA",
    "Chains",
    "CounterNoise",
    "DiagnosticWarning",
    "DualAveraging",
    "DualAveragingState",
    "Energy",
    "EnergyError",
    "GeneratorNoise",
    "HMCParams",
    "HasValueAndGrad",
    "Info",
    "Kernel",
    "LaminaError",
    "LangevinParams",
    "Layout",
    "MissingExtraError",
    "NoiseSource",
    "NumericalWarning",
    "ParameterError",
    "Params",
    "Position",
    "PositionError",
    "Progress",
    "ReplayNoise",
    "Run",
    "Samples",
    "Site",
    "State",
    "StateError",
    "Summary",
    "Target",
    "Tracking",
    "UnknownNameError",
    "WarmupReport",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "from_log_prob",
    "kernel_name",
    "make_kernel",
    "mcse_mean",
    "mcse_sd",
    "noise_scale_from_step_size",
    "progress",
    "rhat",
    "run",
    "sample",
    "step_size_from_noise_scale",
    "summary",
]
