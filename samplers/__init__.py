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

from .adaptation import Adaptation
from .ais import AISReport, Bracket, ais, reverse_ais
from .annealing import Base, NormalBase, Schedule, tune
from .barker import Barker
from .blocks import Blocks, BlocksParams
from .chains import Chains
from .chees import ChEES
from .clipped import Clipped
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
from .driver import Run, Samples, run, sample
from .dual_averaging import DualAveraging, DualAveragingState
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
from .export import to_arviz
from .ghmc import GHMC, GHMCParams
from .hmc import HMC, HMCParams
from .kernel import Info, InfoLike, Kernel, Params, State, StateLike
from .ladder import LadderAdaptation, geometric_ladder
from .langevin import LangevinParams
from .mala import MALA
from .malt import MALT
from .mams import MAMS, MAMSParams
from .mclmc import MCLMC, MCLMCParams
from .meads import MEADS
from .microcanonical import Microcanonical
from .momentum import MomentumState
from .noise import CounterNoise, GeneratorNoise, NoiseSource, ReplayNoise, Site, Stream
from .noise_free import NoiseFreeLangevin
from .nuts import NUTS, NUTSInfo, NUTSParams
from .plots import plot_autocorrelation, plot_draws, plot_energy, plot_pairs, plot_rank, plot_trace
from .position import Layout, Position
from .progress import Progress, progress
from .randomised_hmc import RandomisedHMC, RandomisedHMCInfo, RandomisedHMCParams
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
from .rwm import RWM
from .smc import SMCReport, smc
from .step_size import noise_scale_from_step_size, step_size_from_noise_scale
from .streaming import StreamingDiagnostics, StreamingMoments
from .tempering import ParallelTempering, TemperingParams
from .tracking import Tracking
from .ula import ULA
from .underdamped import FrictionParams, UnderdampedLangevin
from .walk import WalkParams
from .warmup import WarmupReport
from .windows import Windows

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
    "ChEES",
    "Chains",
    "Clipped",
    "CounterNoise",
    "DiagnosticWarning",
    "DualAveraging",
    "DualAveragingState",
    "Energy",
    "EnergyError",
    "FrictionParams",
    "GHMCParams",
    "GeneratorNoise",
    "HMCParams",
    "HasValueAndGrad",
    "Info",
    "InfoLike",
    "Kernel",
    "LadderAdaptation",
    "LaminaError",
    "LangevinParams",
    "Layout",
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
    "NumericalWarning",
    "ParallelTempering",
    "ParameterError",
    "Params",
    "PluginError",
    "PluginWarning",
    "Position",
    "PositionError",
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
