"""Training of latent energy-based models: schemes, the loop, checkpoints, data, evaluation, the `lamina` command."""

from .build import build_model
from .config import ChainConfig, ModelConfig, TrainConfig
from .data import DATASETS, ImageData, load
from .errors import CheckpointError, DataError, RunFolderError, TrainingError
from .evaluate import evaluate
from .job import evaluate_run, resume, sample_run, start
from .loop import Training, averaged_model, read_checkpoint
from .presets import preset
from .sampling import draw_posterior, draw_prior

__all__ = [
    "DATASETS",
    "ChainConfig",
    "CheckpointError",
    "DataError",
    "ImageData",
    "ModelConfig",
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
    "preset",
    "read_checkpoint",
    "resume",
    "sample_run",
    "start",
]
