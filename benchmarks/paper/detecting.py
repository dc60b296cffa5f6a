"""What studies of outliers share: models whose energies learn as log-ratios, and scores by all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lamina.samplers import progress
from lamina.trainers import ImageData, ModelConfig, TrainConfig, preset
from lamina.trainers.data import posed, split_pose
from lamina.trainers.evaluation import (
    Choice,
    Combination,
    Detection,
    Scorer,
    Typicality,
    choose,
    damaged_sets,
    detection,
)
from lamina.trainers.evaluation.measures import Array

from .study import Cell, Place, Preset, called, with_spread, with_spreads
from .training import Trained, config_of, settings_of, train

_Scores: TypeAlias = Mapping[str, Mapping[str, Array]]
"""By set and score."""

Views: TypeAlias = Sequence[Sequence[_Scores]]
"""Scores of the members of an ensemble, those that see images in the same pose side by side."""

_BATCH = 500
_FITS = "fits"
_NUM_FITS = 2000
_SEED = 4_000_037
_STREAMS = 1000
"""Of random numbers that a training has to itself, at most."""

_DAMAGE_SEED = 5_000_011

NUM_ROWS = 4000
"""Of every set, where other sets are told apart; held-out images are cut into two halves, see `Halves`."""

GREY: tuple[str, Sequence[str]] = ("fashion-mnist", ("mnist", "kmnist", "notmnist", "omniglot"))
"""What is learnt, and what is told from it."""

TINY: tuple[str, Sequence[str]] = ("digits-without-1", ("digits-only-1",))
"""The same for the preset trial."""

PICKED = "picked"
"""Starts the keys of what the rule picks."""

WITHOUT_NUMBER = (
    "`without_number` is the share of images that some score has no number for, and which count as outlying as can be."
)

_SHORT = {"fashion-mnist": "fmnist"}


class Member(NamedTuple):
    """A model of an ensemble.

    Attributes:
        networks: Its sizes.
        pose: The standard pose in which it sees images, see `lamina.trainers.data.poses`; None: as they are.
    """

    networks: ModelConfig
    pose: str | None = None


class Draws(NamedTuple):
    """How latents of an image are drawn for its scores.

    Attributes:
        num: Draws that scores are means over.
        num_steps: Of each chain.
        from_prior: Chains start from the base prior, as in models without an inference model, not from q's draw.
    """

    num: int = 2
    num_steps: int = 5
    from_prior: bool = False


DRAWS = Draws()
"""Those of every study, unless it asks what they do."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a preset is.

    Attributes:
        members: Of the ensemble, for grey images; the first sees them as they are.
        backbone_steps: Of a Gaussian-prior model.
        energy_steps: Of the energies on it.
        num_rows: Images of each set, at most.
    """

    members: Sequence[Member]
    backbone_steps: int
    energy_steps: int
    num_rows: int

    def trainings(self, data: str) -> list[dict[str, Any]]:
        """Settings of the members' trainings on a data set, in two stages.

        Data sets whose preset has convolutional networks keep these, with two layers and with the lower one alone.
        """
        usual = preset(data)
        members = self.members
        if usual.model.images == "conv":
            members = (Member(usual.model), Member(replace(usual.model, latents=usual.model.latents[:1])))
        usual = replace(
            usual,
            num_steps=self.backbone_steps + self.energy_steps,
            first_stage=self.backbone_steps / (self.backbone_steps + self.energy_steps),
            energy_loss="noise-contrastive",
        )
        return [
            settings_of(replace(usual, data=f"{pose}:{data}" if pose else data, model=networks))
            for networks, pose in members
        ]


DEEP = ModelConfig(latents=(10, 6), hidden=(500, 500), energy_hidden=(400, 400, 400), sigma=0.3)
"""Two layers, whose base prior leaves little to the energies."""

_TINY = ModelConfig(latents=(4, 2), hidden=(32,), energy_hidden=(16,), sigma=0.3)

_MEMBERS = (Member(DEEP), Member(replace(DEEP, latents=(16,))))
"""Two layers; and one, whose energy has to tell all."""

SCALES: Mapping[Preset, Scale] = {
    "cpu": Scale(members=_MEMBERS, backbone_steps=5000, energy_steps=3000, num_rows=20_000),
    "gpu": Scale(members=_MEMBERS, backbone_steps=60_000, energy_steps=60_000, num_rows=20_000),
    "trial": Scale(
        members=(Member(_TINY), Member(replace(_TINY, latents=(5,)), "whitened")),
        backbone_steps=4,
        energy_steps=4,
        num_rows=60,
    ),
}


@dataclass(frozen=True)
class Ensemble:
    """Models of a cell, and scores of images by all of them.

    Attributes:
        members: Trained on the same data, each in its own pose; the first on images as they are.
    """

    members: Sequence[Trained]

    @staticmethod
    def trained(cell: Cell, place: Place) -> Ensemble:
        """Train the members one after the other, each in a folder of its own.

        Args:
            cell: Its settings hold "trainings", see `Scale.trainings`.
            place: Of the cell.
        """
        members = []
        for number, settings in enumerate(cell.settings["trainings"]):
            folder = place.folder / f"member-{number}"
            folder.mkdir(exist_ok=True)
            members.append(train(config_of(settings, cell.seed), replace(place, folder=folder)))
        return Ensemble(members)

    @property
    def data(self) -> ImageData:
        """What all were trained on."""
        return self.members[0].data

    def costs(self) -> dict[str, float]:
        """Those of all members together, see `Trained.costs`."""
        costs = [member.costs() for member in self.members]
        return {name: sum(cost[name] for cost in costs) for name in costs[0]}

    def scores_by_view(self, sets: Mapping[str, Tensor], draws: Draws = DRAWS) -> Views:
        """Scores by each member alone, for `together`; higher is more outlying.

        Args:
            sets: Images by name, (N, *image); training images are scored as well, for what has to be fitted.
            draws: Of latents.
        """
        sets = {_FITS: self.data.train[:_NUM_FITS], **sets}
        views: dict[str | None, list[_Scores]] = {}
        for member in self.members:
            views.setdefault(_pose(member), []).append(_scores_by(member, sets, draws))
        return list(views.values())


class Halves(NamedTuple):
    """Held-out images for a score that is picked without outliers.

    Attributes:
        seen: What the rule sees, (N, *image).
        damaged: The same, damaged, by kind; see `lamina.trainers.evaluation.damaged_sets`.
        kept: What outliers are told from, (M, *image).
    """

    seen: Tensor
    damaged: Mapping[str, Tensor]
    kept: Tensor

    @staticmethod
    def of(cell: Cell, place: Place) -> Halves:
        """Of images for testing of what a cell learns, as many as it has rows."""
        data, num = _learnt(cell, place), cell.settings["num_rows"]
        seen, kept = data.test[: num // 2], data.test[num // 2 : num]
        generator = torch.Generator().manual_seed(cell.seed + _DAMAGE_SEED)
        damaged = damaged_sets(seen, generator=generator)
        return Halves(seen, {f"damaged {kind}": rows for kind, rows in damaged.items()}, kept)

    def sets(self, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that is scored: "ours", seen by the rule, "theirs", which are kept, damaged ones and outliers."""
        return {"ours": self.seen, "theirs": self.kept, **self.damaged, **foreign}

    def chosen(self, scores: Mapping[str, Mapping[str, Array]]) -> Choice:
        """What the rule picks by scores of `sets`."""
        return choose(scores["ours"], {kind: scores[kind] for kind in self.damaged})


def foreign_sets(cell: Cell, place: Place, halves: Halves) -> dict[str, Tensor]:
    """The outliers that a cell names, (N, *image) of each, no more than of images that are kept.

    Args:
        cell: Its settings hold "trainings" and "outliers".
        place: Of the cell.
        halves: What they are told from.

    Raises:
        DataError: If a set is not found.
        ParameterError: If it cannot serve.
    """
    data = _learnt(cell, place)
    found = {}
    for name in cell.settings["outliers"]:
        others = place.load(name)
        data.check_outliers(others)
        found[name] = others.outliers(len(halves.kept))
    return found


def _learnt(cell: Cell, place: Place) -> ImageData:
    """What the first model of a cell learns, which sees images as they are."""
    return place.load(cell.settings["trainings"][0]["data"])


def short(name: str) -> str:
    """A data set as part of the names of groups and figures."""
    return _SHORT.get(name, called(name))


def over_seeds_with_picks(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How often the rule picked what, `picked/GROUP/SCORE`; of all other figures means, and deviations as `/sd`.

    Args:
        values: Of seeds, by key.
    """
    counts = {key: float(len(found)) for key, found in values.items() if key.startswith(f"{PICKED}/")}
    return counts | with_spreads({key: found for key, found in values.items() if key not in counts})


def told_picks(summary: Mapping[str, float], before: str) -> str:
    """Which score was picked for how many seeds, in words, with a preposition before each group; and how well it did.

    Args:
        summary: With `worst_damaged/GROUP`, the worst AUROC of what was picked on damaged images.
        before: The preposition.
    """
    picks: dict[str, list[str]] = {}
    for key, count in summary.items():
        if key.startswith(f"{PICKED}/"):
            _, group, score = key.split("/", 2)
            picks.setdefault(group, []).append(f"`{score}` for {count:.0f} seeds")
    return "; ".join(
        f"{before} {group} {', '.join(found)}, its worst AUROC on damaged images "
        f"{with_spread(summary, f'worst_damaged/{group}')}"
        for group, found in picks.items()
    )


def together(views: Views) -> dict[str, dict[str, Array]]:
    """Means over the members that have a score, and what is fitted to them: `typicality` and `combined`.

    Members that see images in the same pose err on the same ones: means are taken of their scores before these are
    combined. What different poses find is added, as Fisher's combination of p-values does (Statistical Methods for
    Research Workers, 1925). Differs: poses need not be independent, as only the order of what comes out counts.

    Args:
        views: See `Ensemble.scores_by_view`.
    """
    scores = averaged([member for members in views for member in members])
    typicality = Typicality.fit(scores.pop(_FITS))
    by_view = [averaged(members) for members in views]
    combinations = [Combination.fit(view[_FITS]) for view in by_view]
    return {
        name: {
            **values,
            "typicality": typicality(values),
            "combined": np.sum([found(view[name]) for found, view in zip(combinations, by_view, strict=True)], axis=0),
        }
        for name, values in scores.items()
    }


def found_by(scores: Mapping[str, Mapping[str, Array]]) -> dict[str, Detection]:
    """How well each score tells the set "anomalies" from the set "inliers", all rows of both."""
    return {
        score: detection(values, scores["anomalies"][score], balanced=False)
        for score, values in scores["inliers"].items()
    }


def averaged(members: Sequence[_Scores]) -> dict[str, dict[str, Array]]:
    """Means over members of scores, each in its own standard deviations over training images.

    A member without a number for an image makes the mean infinite.
    """
    standardised: dict[str, dict[str, list[Array]]] = {name: {} for name in members[0]}
    for member in members:
        for score, fits in member[_FITS].items():
            fits = fits[np.isfinite(fits)]
            for name, values in member.items():
                of_set = standardised[name].setdefault(score, [])
                of_set.append((values[score] - fits.mean()) / max(fits.std(), 1e-9))
    return {
        name: {score: np.mean(values, axis=0) for score, values in by_score.items()}
        for name, by_score in standardised.items()
    }


def _scores_by(trained: Trained, sets: Mapping[str, Tensor], draws: Draws) -> dict[str, dict[str, Array]]:
    """Scores by one model; those of chains, published ones and dear, only where it sees images as they are."""
    device = trained.place.device
    pose = _pose(trained)
    sets = {name: posed(rows, pose, trained.data.num_levels) for name, rows in sets.items()}
    scorer = Scorer.fit(
        trained.model,
        _without_inference(trained.config) if draws.from_prior else trained.config,
        sets[_FITS][:_BATCH].to(device),
        generator=_generator(trained, 0),
        num_draws=draws.num,
        num_steps=0 if pose else draws.num_steps,
    )
    batches = {name: torch.split(rows, _BATCH) for name, rows in sets.items()}
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
    return scores


def _pose(trained: Trained) -> str | None:
    """In which a model sees images; None: as they are."""
    return split_pose(trained.config.data)[0]


def _without_inference(config: TrainConfig) -> TrainConfig:
    """A run whose model is scored as if it had no inference model."""
    return replace(config, scheme="joint-mle", energy_loss="contrastive")


def _generator(trained: Trained, number: int) -> torch.Generator:
    return torch.Generator(trained.place.device).manual_seed(_SEED + _STREAMS * trained.config.seed + number)
