"""Training of latent energy-based models: schemes, the loop, checkpoints, data, evaluation, the `lamina` command."""

from .build import build_model
from .config import ChainConfig, ModelConfig, TrainConfig
from .data import DATASETS, ImageData, load
from .errors import CheckpointError, DataError, RunFolderError, TrainingError
from .evaluation import Budget, Features, NetworkFeatures, evaluate
from .job import evaluate_run, measure_run, resume, sample_run, start
from .loop import Training, averaged_model, read_checkpoint
from .presets import preset
from .sampling import draw_posterior, draw_prior

__all__ = [
    "DATASETS",
    "Budget",
    "ChainConfig",
    "CheckpointError",
    "DataError",
    "Features",
    "ImageData",
    "ModelConfig",
    "NetworkFeatures",
    "RunFolderError",
    "TrainConfig",
    "Training",
    "TrainingError",
    "averaged_model",
    "build_model",
    "draw_posterior",
    "draw_prior",
    "evaluate",
    "evaluate_run",
    "load",
    "measure_run",
    "preset",
    "read_checkpoint",
    "resume",
    "sample_run",
    "start",
]
