"""A small data set and model for tests of training, and one finished run of the `lamina` command."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.models import (
    BottomUpInference,
    GaussianHierarchy,
    GaussianLikelihood,
    JointEBMPrior,
    LatentEBM,
    Latents,
    LayerEnergies,
    LinearGaussian,
    MLPEnergy,
    MLPGenerator,
    seeded_init,
)
from lamina.samplers import HMC
from lamina.trainers import ChainConfig, ImageData, ModelConfig, TrainConfig, cli

SHORT = ("--max-steps", "120", "--baseline-steps", "200", "--checkpoint-every", "10")


@pytest.fixture(scope="session")
def data() -> ImageData:
    """Forty small images for training and twenty for testing, in two classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    noise = torch.rand((60, 1, 4, 4), generator=generator) - 0.5
    images = noise + labels.reshape(-1, 1, 1, 1) - 0.5
    return ImageData(
        name="tiny",
        train=images[:40],
        train_labels=labels[:40],
        test=images[40:],
        test_labels=labels[40:],
        num_levels=17,
        checksum="0123456789abcdef",
        source="drawn",
    )


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainConfig]:
    """Make a run of 12 steps with small networks; two-stage training changes phase after 6."""

    def make(**changes: Any) -> TrainConfig:
        chains = ChainConfig(kernel=HMC(step_size=0.2, num_leapfrog_steps=2, jitter=0.2))
        settings: dict[str, Any] = {
            "model": ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,)),
            "prior": chains,
            "posterior": chains,
            "num_steps": 12,
            "first_stage": 0.5,
            "batch_size": 8,
            "sample_steps": 10,
            "checkpoint_every": 3,
        }
        return TrainConfig(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Compare states bit for bit: nested containers of tensors and numbers."""

    def compare(ours: Any, theirs: Any, *, but: tuple[str, ...] = ("seconds",), place: str = "state") -> None:
        assert type(ours) is type(theirs), place
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == theirs.dtype, place
            assert torch.equal(ours, theirs), place
        elif isinstance(ours, dict):
            assert ours.keys() == theirs.keys(), place
            for key in ours.keys() - set(but):
                compare(ours[key], theirs[key], but=but, place=f"{place}[{key!r}]")
        elif isinstance(ours, list | tuple):
            assert len(ours) == len(theirs), place
            for index, pair in enumerate(zip(ours, theirs, strict=True)):
                compare(*pair, but=but, place=f"{place}[{index}]")
        else:
            assert ours == theirs, place

    return compare


@pytest.fixture(scope="session")
def quick_evaluation() -> Iterator[None]:
    """Evaluate with fewer images and one forest."""
    comparison = importlib.import_module("lamina.trainers.evaluation.comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_SAMPLES", 200)
        patch.setattr(comparison, "MAX_HELD_OUT", 150)
        for name in ("comparison", "generation", "latents"):
            module = importlib.import_module(f"lamina.trainers.evaluation.{name}")
            patch.setattr(module, "two_sample_accuracy", partial(module.two_sample_accuracy, repeats=1))
        yield


@pytest.fixture(scope="session")
def short() -> tuple[str, ...]:
    """Flags of `digits_run`."""
    return SHORT


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, quick_evaluation: None) -> Path:
    """The folder of a short run of `lamina train digits`, finished; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert cli.main(["train", "digits", "--out", str(folder), *SHORT]) == 0
    return folder


@dataclass(frozen=True)
class Toy:
    """Two layers of one number each under two pixels: small enough to integrate.

    Attributes:
        model: In double precision, with an inference model that is far from exact.
        z: Latents on a grid, (G, 1) each.
        area: Of a cell of the grid.
    """

    model: LatentEBM
    z: Latents
    area: float

    def log_normalizer(self) -> float:
        """log Z by quadrature."""
        return float(torch.logsumexp(-self.model.prior.energy_z(self.z), 0)) + math.log(self.area)

    def log_evidence(self, x: torch.Tensor) -> torch.Tensor:
        """log p~(x) of every row by quadrature: log p(x) + log Z."""
        rows = [torch.logsumexp(-self.model.posterior_energy("z")(self.z, self._repeated(row)), 0) for row in x]
        return torch.stack(rows) + math.log(self.area)

    def _repeated(self, row: torch.Tensor) -> torch.Tensor:
        return row.expand(len(self.z[0]), *row.shape)


@pytest.fixture(scope="session")
def toy() -> Toy:
    """Energies by small MLPs, away from zero."""
    with seeded_init(4):
        base = GaussianHierarchy((1,), [LinearGaussian(1, (1,))])
        energies = LayerEnergies([MLPEnergy((1,), [8], start_at_zero=False) for _ in range(2)])
        likelihood = GaussianLikelihood(MLPGenerator((1,), (1, 1, 2), [], squash=False), 0.7)
        inference = BottomUpInference(LinearGaussian(2, (1,)), [LinearGaussian(1, (1,))])
        model = LatentEBM(JointEBMPrior(base, energies), likelihood, inference).double().requires_grad_(False)
    for network in energies.networks:
        for weight in network.parameters():
            weight.mul_(2)
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z1, z2 = torch.meshgrid(axis, axis, indexing="ij")
    return Toy(model, (z1.reshape(-1, 1), z2.reshape(-1, 1)), float(axis[1] - axis[0]) ** 2)
