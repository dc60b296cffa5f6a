"""What studies of outliers share: trainings whose energies learn as log-ratios, and scores of images by the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lamina.samplers import progress
from lamina.trainers import ModelConfig, TrainConfig, preset
from lamina.trainers.evaluation import Combination, Scorer, Typicality
from lamina.trainers.evaluation.measures import Array

from .study import Preset
from .training import Trained

_BATCH = 500
_SEED = 4_000_037


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a preset is.

    Attributes:
        networks: Of the model.
        backbone_steps: Of the Gaussian-prior model.
        energy_steps: Of the energies on it.
        num_rows: Images of each set, at most.
    """

    networks: ModelConfig
    backbone_steps: int
    energy_steps: int
    num_rows: int

    def configuration(self, data: str) -> TrainConfig:
        """The training on a data set, in two stages."""
        return replace(
            preset("mnist"),
            data=data,
            model=self.networks,
            num_steps=self.backbone_steps + self.energy_steps,
            first_stage=self.backbone_steps / (self.backbone_steps + self.energy_steps),
            energy_loss="noise-contrastive",
        )


_NETWORKS = ModelConfig(latents=(10, 6), hidden=(500, 500), energy_hidden=(400, 400, 400), sigma=0.3)

SCALES: Mapping[Preset, Scale] = {
    "cpu": Scale(networks=_NETWORKS, backbone_steps=3000, energy_steps=2500, num_rows=20_000),
    "gpu": Scale(networks=_NETWORKS, backbone_steps=60_000, energy_steps=60_000, num_rows=20_000),
    "trial": Scale(
        networks=ModelConfig(latents=(4, 2), hidden=(32,), energy_hidden=(16,), sigma=0.3),
        backbone_steps=4,
        energy_steps=4,
        num_rows=60,
    ),
}


def scores_of(trained: Trained, sets: Mapping[str, Tensor]) -> dict[str, dict[str, Array]]:
    """Scores of images by set and name, see `lamina.trainers.evaluation.outliers`; higher is more outlying.

    Chains take five steps. What has to be fitted is fitted on training images: `typicality` and `combined`.

    Args:
        trained: The model.
        sets: Images by name, (N, *image).
    """
    device = trained.place.device
    fits = trained.data.train[:2000]
    scorer = Scorer.fit(
        trained.model,
        trained.config,
        fits[:_BATCH].to(device),
        generator=_generator(trained, 0),
        num_draws=2,
        num_steps=5,
    )
    batches = {name: torch.split(rows, _BATCH) for name, rows in {"": fits, **sets}.items()}
    total = sum(map(len, batches.values()))
    scores: dict[str, dict[str, Array]] = {}
    with progress(total, "outlier scores", enabled=trained.place.show_progress) as bar:
        for number, (name, parts) in enumerate(batches.items()):
            generator = _generator(trained, 1 + number)
            found = []
            for part in parts:
                found.append(scorer(part.to(device), generator=generator))
                bar.advance()
            scores[name] = {score: torch.cat([one[score] for one in found]).cpu().numpy() for score in found[0]}
    fitted = scores.pop("")
    typicality, combination = Typicality.fit(fitted), Combination.fit(fitted)
    return {
        name: {**values, "typicality": typicality(values), "combined": combination(values)}
        for name, values in scores.items()
    }


def _generator(trained: Trained, number: int) -> torch.Generator:
    return torch.Generator(trained.place.device).manual_seed(trained.config.seed + _SEED + number)
