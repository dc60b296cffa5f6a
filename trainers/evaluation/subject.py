"""What is measured, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers.checks import check_count

from ..config import TrainConfig
from ..data import ImageData
from ..sampling import draw_prior

_SEED = 2_000_003


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent.

    Attributes:
        num_samples: Images of every kind for distances between samples, and latents for those of priors.
        num_rows: Held-out images for likelihoods, probes and outlier scores, each.
        num_weights: Importance weights for each row.
        num_chains: Chains of annealed importance sampling for log Z.
        num_stops: Their stops.
        num_draws: Draws over which outlier scores are averaged.
        num_chain_steps: Of the chains behind outlier scores and resampled layers.
        num_long_steps: By which short runs of prior chains are prolonged.
        num_long_chains: Prior chains for that, and adjusted ones beside them, at most.
    """

    num_samples: int = 2000
    num_rows: int = 500
    num_weights: int = 50
    num_chains: int = 500
    num_stops: int = 40
    num_draws: int = 4
    num_chain_steps: int = 30
    num_long_steps: int = 2500
    num_long_chains: int = 200

    def __post_init__(self) -> None:
        # Neighbours, folds, spreads and halves of chains need some.
        smallest = {"num_samples": 20, "num_rows": 20, "num_chains": 2, "num_long_steps": 80, "num_long_chains": 20}
        for name, value in vars(self).items():
            check_count(name, value, smallest.get(name, 1))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model with all that measuring it takes.

    Attributes:
        model: The model, with averaged weights.
        baseline: The Gaussian-prior model of the same networks, if there is one.
        config: Of the model's training.
        data: What it was trained on.
        device: Where to compute.
        step_size: Of the prior sampler as training left it, see `draw_prior`.
        positions: Where training left persistent prior chains, in their space; None where none persist.
        outliers: Images of other data sets, (M, *image), by name.
        features: See `features_of`.
        budget: How much is spent.
        cache: Folder where long parts keep what they have.
        show_progress: None shows bars where standard error is a terminal.
    """

    model: LatentEBM
    baseline: LatentEBM | None
    config: TrainConfig
    data: ImageData
    device: torch.device
    step_size: Tensor | None
    positions: Latents | None
    outliers: Mapping[str, Tensor]
    features: str | None
    budget: Budget
    cache: Path
    show_progress: bool | None

    @property
    def has_energies(self) -> bool:
        """Whether there is an EBM prior to tell from its base."""
        return self.config.scheme != "gaussian"

    def generator(self, number: int) -> torch.Generator:
        """Randomness of one part, or of one piece of it."""
        return torch.Generator(self.device).manual_seed(self.config.seed + _SEED + number)

    def priors(self, num: int, generator: torch.Generator) -> dict[str, Latents]:
        """Draws of each prior: the EBM prior, where there is one, and its Gaussian base."""
        drawn = {"base": self.model.prior.base.sample(num, generator=generator)}
        if not self.has_energies:
            return drawn
        z, _ = draw_prior(
            self.model,
            self.config.prior,
            num,
            num_steps=self.config.sample_steps,
            generator=generator,
            step_size=self.step_size,
        )
        return {"ebm": z, **drawn}

    def held_out(self, num: int) -> Tensor:
        """The first test images, at most `num`, on the device."""
        return self.data.test[:num].to(self.device)

    def training_images(self, num: int) -> Tensor:
        """Some training images, at most `num`, on the device: as far from held-out images as a perfect model."""
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(self.config.seed))
        return self.data.train[order[:num]].to(self.device)
