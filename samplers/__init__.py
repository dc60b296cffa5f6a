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

from .adaptation.base import Adaptation
from .adaptation.chees import ChEES
from .adaptation.dual_averaging import DualAveraging, DualAveragingState
from .adaptation.ladder import LadderAdaptation, geometric_ladder
from .adaptation.meads import MEADS
from .adaptation.microcanonical import Microcanonical
from .adaptation.tracking import Tracking
from .adaptation.windows import Windows
from .annealing.ais import AISReport, Bracket, ais, reverse_ais
from .annealing.path import Base, NormalBase, Schedule, tune
from .annealing.smc import SMCReport, smc
from .chains import Chains
from .diagnostics import (
    DiagnosticWarning,
    Summary,
    autocorrelation,
    ebfmi,
    ess_bulk,
    ess_mean,
    ess_median,
    ess_quantile,
    ess_sd,
    ess_tail,
    mcse_mean,
    mcse_median,
    mcse_quantile,
    mcse_sd,
    nested_rhat,
    rhat,
    rhat_bulk,
    rhat_folded,
    summary,
)
from .diagnostics.export import to_arviz
from .diagnostics.plots import plot_autocorrelation, plot_draws, plot_energy, plot_pairs, plot_rank, plot_trace
from .diagnostics.streaming import StreamingDiagnostics, StreamingMoments
from .driver import Run, Samples, run, sample
from .energy import Energy, HasValueAndGrad, Target, from_log_prob
from .errors import (
    BuildError,
    EnergyError,
    LaminaError,
    MissingExtraError,
    NotTraceableError,
    NumericalWarning,
    ParameterError,
    PositionError,
    StateError,
    UnknownNameError,
)
from .explanation import Explanation, explain
from .kernel import Info, InfoLike, Kernel, Params, PlainKernel, State, StateLike
from .kernels.barker import Barker
from .kernels.blocks import Blocks, BlocksParams
from .kernels.clipped import Clipped
from .kernels.ghmc import GHMC, GHMCParams
from .kernels.hmc import HMC, HMCInfo, HMCParams
from .kernels.langevin import LangevinParams
from .kernels.mala import MALA
from .kernels.malt import MALT
from .kernels.mams import MAMS, MAMSInfo, MAMSParams
from .kernels.mclmc import MCLMC, MCLMCParams
from .kernels.momentum import MomentumState
from .kernels.noise_free import NoiseFreeLangevin
from .kernels.nuts import NUTS, NUTSInfo, NUTSParams
from .kernels.randomised_hmc import RandomisedHMC, RandomisedHMCInfo, RandomisedHMCParams
from .kernels.rwm import RWM
from .kernels.tempering import ParallelTempering, TemperingParams
from .kernels.ula import ULA
from .kernels.underdamped import FrictionParams, UnderdampedLangevin
from .kernels.walk import WalkParams
from .noise import CounterNoise, GeneratorNoise, NoiseSource, ReplayNoise, Site, Stream
from .position import Layout, Position
from .programs import Programs
from .progress import Progress, progress
from .registry import (
    COMPOUND_KERNELS,
    KERNELS,
    PluginError,
    PluginWarning,
    kernel_from_dict,
    kernel_name,
    kernel_names,
    kernel_options,
    kernel_to_dict,
    make_kernel,
)
from .step_size import noise_scale_from_step_size, step_size_from_noise_scale
from .warmup import WarmupReport

__all__ = [
    "COMPOUND_KERNELS",
    "GHMC",
    "HMC",
    "KERNELS",
    "MALA",
    "MALT",
    "MAMS",
    "MCLMC",
    "MEADS",
    "NUTS",
    "RWM",
    "ULA",
    "AISReport",
    "Adaptation",
    "Barker",
    "Base",
    "Blocks",
    "BlocksParams",
    "Bracket",
    "BuildError",
    "ChEES",
    "Chains",
    "Clipped",
    "CounterNoise",
    "DiagnosticWarning",
    "DualAveraging",
    "DualAveragingState",
    "Energy",
    "EnergyError",
    "Explanation",
    "FrictionParams",
    "GHMCParams",
    "GeneratorNoise",
    "HMCInfo",
    "HMCParams",
    "HasValueAndGrad",
    "Info",
    "InfoLike",
    "Kernel",
    "LadderAdaptation",
    "LaminaError",
    "LangevinParams",
    "Layout",
    "MAMSInfo",
    "MAMSParams",
    "MCLMCParams",
    "Microcanonical",
    "MissingExtraError",
    "MomentumState",
    "NUTSInfo",
    "NUTSParams",
    "NoiseFreeLangevin",
    "NoiseSource",
    "NormalBase",
    "NotTraceableError",
    "NumericalWarning",
    "ParallelTempering",
    "ParameterError",
    "Params",
    "PlainKernel",
    "PluginError",
    "PluginWarning",
    "Position",
    "PositionError",
    "Programs",
    "Progress",
    "RandomisedHMC",
    "RandomisedHMCInfo",
    "RandomisedHMCParams",
    "ReplayNoise",
    "Run",
    "SMCReport",
    "Samples",
    "Schedule",
    "Site",
    "State",
    "StateError",
    "StateLike",
    "Stream",
    "StreamingDiagnostics",
    "StreamingMoments",
    "Summary",
    "Target",
    "TemperingParams",
    "Tracking",
    "UnderdampedLangevin",
    "UnknownNameError",
    "WalkParams",
    "WarmupReport",
    "Windows",
    "ais",
    "autocorrelation",
    "ebfmi",
    "ess_bulk",
    "ess_mean",
    "ess_median",
    "ess_quantile",
    "ess_sd",
    "ess_tail",
    "explain",
    "from_log_prob",
    "geometric_ladder",
    "kernel_from_dict",
    "kernel_name",
    "kernel_names",
    "kernel_options",
    "kernel_to_dict",
    "make_kernel",
    "mcse_mean",
    "mcse_median",
    "mcse_quantile",
    "mcse_sd",
    "nested_rhat",
    "noise_scale_from_step_size",
    "plot_autocorrelation",
    "plot_draws",
    "plot_energy",
    "plot_pairs",
    "plot_rank",
    "plot_trace",
    "progress",
    "reverse_ais",
    "rhat",
    "rhat_bulk",
    "rhat_folded",
    "run",
    "sample",
    "smc",
    "step_size_from_noise_scale",
    "summary",
    "to_arviz",
    "tune",
]
