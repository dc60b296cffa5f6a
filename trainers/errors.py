"""The errors of training: data, checkpoints and run folders."""

from __future__ import annotations

from lamina.samplers.errors import LaminaError


class DataError(LaminaError, ValueError):
    """A data set is missing, damaged, or not the published one; the message says how to get it."""


class CheckpointError(LaminaError, ValueError):
    """A checkpoint is damaged, truncated, from elsewhere, or does not fit the run that is to continue it."""


class RunFolderError(LaminaError, OSError):
    """A run folder cannot be used: it exists already, is not writable, or its disk is full."""


class TrainingError(LaminaError, ArithmeticError):
    """Training has left the finite numbers; the last checkpoint is from before."""
