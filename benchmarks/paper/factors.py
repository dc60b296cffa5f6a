"""What finding a digit that training never saw hangs on: one choice changed at a time.

On digits that `anomaly` does not ask for, so that what is chosen by this study is not chosen by those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from lamina.trainers import preset
from lamina.trainers.config import Scheme
from lamina.trainers.evaluation.measures import Array

from .anomaly import SCORE
from .detecting import DRAWS, SCALES, Draws, Ensemble, Member, Scale, found_by, together
from .pictures import bars
from .study import Cell, Figures, Place, Preset, Study, over_seeds, table_of
from .training import settings_of

_DIGITS = (2, 6, 8)

_NUM_ROWS = 2000
"""Held-out images of the digits that training saw; of the others half as many, so that chance is a third."""

_WEIGHTS = (0.1, 0.01)
"""Of the image's term in the joint density, beside those of latents; it is a sum over hundreds of pixels."""


def _weighted(weight: float) -> str:
    return f"image x{weight:g}"


_SCORES = (
    SCORE,
    "energy",
    "independence",
    "unexplained",
    "reconstruction",
    "joint>0",
    "chain-joint",
    *map(_weighted, _WEIGHTS),
    "prior",
)


class _Choice(NamedTuple):
    """What a group differs in from the usual.

    Attributes:
        networks: Fields of `ModelConfig`.
        scheme: By which everything is learnt.
        draws: At test time.
    """

    networks: Mapping[str, Any] = MappingProxyType({})
    scheme: Scheme = "two-stage"
    draws: Draws = DRAWS


_CHOICES: Mapping[str, _Choice] = {
    "usual": _Choice(),
    "sigma/0.1": _Choice({"sigma": 0.1}),
    "sigma/1": _Choice({"sigma": 1.0}),
    "latents/5+3": _Choice({"latents": (5, 3)}),
    "latents/20+12": _Choice({"latents": (20, 12)}),
    "capacity/200": _Choice({"hidden": (200, 200), "energy_hidden": (200, 200)}),
    "capacity/1000": _Choice({"hidden": (1000, 1000), "energy_hidden": (800, 800, 800)}),
    "training/joint": _Choice(scheme="joint-variational"),
    "chains/30": _Choice(draws=Draws(num=1, num_steps=30)),
    "chains/from-prior": _Choice(draws=Draws(num=1, num_steps=30, from_prior=True)),
}


class Factors(Study):
    """Average precision of the first member of `anomaly` by every score, with one choice changed at a time.

    Figures are those of the digits 2, 6 and 8 as anomalies, which `anomaly` does not ask for, and their mean.
    """

    name = "factors"
    title = "what finding a digit that training never saw hangs on: sigma, sizes, joint training, chains, weights"
    question = (
        "What do the scale of the likelihood, the number of latents, capacity, joint training, posterior chains at "
        "test time and the weight of the image beside the latents do for finding a digit that training never saw?"
    )
    papers = (
        "The papers score by joint densities of an image and a draw of its latents, and vary none of these choices. "
        "What they found for other digits is on the page of the study `anomaly`.",
        "In the published code of joint training sigma is 0.3, and latents are drawn by 40 unadjusted Langevin steps "
        "from noise.",
    )
    differences = (
        "`usual` is the first of the three models of the study `anomaly`: 10 + 6 latents, sigma 0.3, in two stages, "
        "energies by noise contrast, 8,000 steps. Columns are scores, see `lamina.trainers.evaluation.outliers`; "
        "published scores are `chain-joint` and `joint>0`, the second without chains.",
        "`image xW` is `chain-joint` with W times the image's term.",
        "`capacity`: generator, inference model and energies of other sizes. "
        "`training/joint`: all at once for as many steps, by an inference model, with chains of the prior, and with "
        "energies as small as the recipe for that has them: those of `usual` ran away from their chains in a trial. "
        "`chains/30` go 30 steps from the inference model's draw, in place of 5; `chains/from-prior` start from the "
        "base prior, as for models that have no inference model, and then all scores are of where these chains end.",
        "Means over the digits 2, 6 and 8 as anomalies, one seed each: 1,000 of their images among 2,000 held-out ones "
        "of the others. Differences of about .02 are noise: seeds of the study `anomaly` differ by as much.",
    )

    def seeds(self, preset: Preset) -> Sequence[int]:
        """See `Study.seeds`: one, as there are three digits."""
        return (0,)

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale = SCALES[preset]
        is_trial = preset == "trial"
        data, num_rows, digits = ("digits", scale.num_rows, _DIGITS[:1]) if is_trial else ("mnist", _NUM_ROWS, _DIGITS)
        return [
            Cell(
                group=f"{name}/{digit}",
                seed=seed,
                settings={
                    "trainings": [_training(choice, scale, f"{data}-without-{digit}")],
                    "anomalies": f"{data}-only-{digit}",
                    "num_rows": num_rows,
                    "draws": choice.draws._asdict(),
                },
            )
            for seed in seeds
            for name, choice in _CHOICES.items()
            for digit in digits
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        ensemble = Ensemble.trained(cell, place)
        num = cell.settings["num_rows"]
        sets = {
            "inliers": ensemble.data.test[:num],
            "anomalies": place.load(cell.settings["anomalies"]).test[: num // 2],
        }
        ((of_member,),) = ensemble.scores_by_view(sets, Draws(**cell.settings["draws"]))
        found = found_by(together([[{name: _with_weights(values) for name, values in of_member.items()}]]))
        return {**{score.replace("/", ">"): figures.auprc for score, figures in found.items()}, **ensemble.costs()}

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """`SCORE/CHOICE/DIGIT`, and `SCORE/CHOICE`, the mean over digits, where no digit is missing yet."""
        summary = over_seeds(rows)
        digits = {name.split("/")[-2] for name in rows}
        for figure in dict.fromkeys(key.partition("/")[0] for key in summary):
            for choice in _CHOICES:
                values = [summary.get(f"{figure}/{choice}/{digit}") for digit in digits]
                known = [value for value in values if value is not None]
                if len(known) == len(values):
                    summary[f"{figure}/{choice}"] = fmean(known)
        return summary

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`: the means over digits, and each digit by the score that `anomaly` is judged by."""
        means = {key: value for key, value in summary.items() if key.partition("/")[2] in _CHOICES}
        by_digit = {}
        for key, value in summary.items():
            figure, _, group = key.partition("/")
            choice, _, digit = group.rpartition("/")
            if figure == SCORE and choice in _CHOICES:
                by_digit[f"{digit}/{choice}"] = value
        return f"{table_of(means, _SCORES)}\n\nBy digit, `{SCORE}`:\n\n{table_of(by_digit)}"

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`."""
        means = {f"auprc/{choice}": summary.get(f"{SCORE}/{choice}") for choice in _CHOICES}
        return {"auprc.png": partial(bars, {key: value for key, value in means.items() if value is not None}, "auprc")}


def _training(choice: _Choice, scale: Scale, data: str) -> dict[str, Any]:
    """Settings of the training of a group."""
    networks = replace(scale.members[0].networks, **choice.networks)
    (settings,) = replace(scale, members=(Member(networks),)).trainings(data)
    if choice.scheme != "two-stage":
        joint = preset(data, scheme=choice.scheme)
        networks = replace(networks, energy_hidden=joint.model.energy_hidden)  # larger ones run away from their chains
        num_steps = scale.backbone_steps + scale.energy_steps
        settings = settings_of(replace(joint, model=networks, num_steps=num_steps))
    return settings


def _with_weights(scores: Mapping[str, Array]) -> dict[str, Array]:
    """With joint densities at the chains' ends whose term of the image counts less."""
    of_image = scores["chain-joint"] - scores["prior"]
    return {**scores, **{_weighted(weight): scores["prior"] + weight * of_image for weight in _WEIGHTS}}
