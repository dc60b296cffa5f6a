"""Hierarchical outlier scores of deep ladders, by the layer from which on the image is heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from lamina.trainers import ModelConfig
from lamina.trainers.evaluation import Detection, detections, share_without_number
from lamina.trainers.evaluation.hierarchy import kl_per_layer
from lamina.trainers.evaluation.measures import Array

from .detecting import (
    DRAWS,
    GREY,
    NUM_ROWS,
    PICKED,
    TINY,
    WITHOUT_NUMBER,
    Draws,
    Ensemble,
    Halves,
    Member,
    Scale,
    foreign_sets,
    over_seeds_with_picks,
    short,
    told_picks,
)
from .pictures import panels
from .study import Cell, Figures, Place, Preset, Study, table_of
from .training import Trained

_MEASURES = Detection._fields

_KINDS = ("bound", "ratio", "joint", "joint-ratio")
"""L^{>k} and LLR^{>k} of the base prior alone; Equation 20 and its ratio, of the EBM prior."""

_DIVERGENCE_SEED = 6_000_011


def _both(hidden: tuple[int, ...], energy_hidden: tuple[int, ...], width: int) -> tuple[Member, Member]:
    """Ladders of three layers and of five: all enter the generator, and q goes down with the base prior."""
    networks = ModelConfig(
        latents=(16, 8, 4),
        hidden=hidden,
        energy_hidden=energy_hidden,
        width=width,
        sigma=0.3,
        images="ladder",
        inference="ladder",
    )
    return Member(networks), Member(replace(networks, latents=(16, 12, 8, 6, 4)))


_SCALES: Mapping[Preset, Scale] = {
    "cpu": Scale(members=_both((200,), (200, 200), 8), backbone_steps=3000, energy_steps=2000, num_rows=NUM_ROWS),
    "gpu": Scale(
        members=_both((500, 500), (400, 400, 400), 64), backbone_steps=60_000, energy_steps=60_000, num_rows=NUM_ROWS
    ),
    "trial": Scale(members=_both((16,), (8,), 4), backbone_steps=4, energy_steps=4, num_rows=60),
}

_HELP = {"free_nats": 2.0, "kl_warmup": 0.2}
"""So that no layer falls silent: the two free nats of Havtorn et al., and a warm-up of the divergence's weight."""


class Ladder(Study):
    """AUROC, AUPRC and FPR80 of every hierarchical score, for every k, of ladders of three and of five layers.

    The rule (see `lamina.trainers.evaluation.selection`) picks one of these scores, and its k, without any outlier.
    """

    name = "ladder"
    title = "at which k hierarchical scores of ladders of three and five layers tell other data sets"
    question = (
        "From which layer on must an image be heard for a ladder of three or of five layers to tell other data sets "
        "from its own, by the bounds and likelihood ratios of its base prior, and by the joint density under the EBM "
        "prior?"
    )
    papers = (
        "Fashion-MNIST against MNIST (ICCV 2023, supplement), AUROC and AUPRC: a hierarchical VAE .984 and .984 by "
        "LLR>k, .268 and .363 by its bound; one energy on all layers of a ladder .897 and .893; a ladder VAE .199 and "
        ".344; by convolutional networks of 3.2 to 3.4 million weights.",
        "JEBM, the joint EBM prior (CVPR 2023), on CIFAR-10 against SVHN, AUROC by k, on a deep backbone: .087 by L>0, "
        ".324 by L>3, .449 by L>6, .870 by L>9, and .927 by LLR>9. Other data and other networks than ours: not "
        "comparable.",
    )
    differences = (
        "`bound>k` and `ratio>k` are L>k and LLR>k of Havtorn et al. (ICML 2021), with the k lowest layers from the "
        "base prior: the energies have no part in them. `joint>k` is Equation 20 of JEBM, with these layers from the "
        "EBM prior by short chains, and `joint-ratio>k` its difference from k = 0. The first two count how sure the "
        "inference model is, the others do not.",
        "Signs are fixed: higher bounds and joint densities are less outlying, higher ratios more. An AUROC below one "
        "half says that a score errs.",
        "In the papers k was chosen with both data sets at hand. Here there are figures for every k, and `picked` is "
        "those of the score and k with the best worst AUROC on damaged held-out images, which the figures are not "
        "measured on; it stands beside the published .984.",
        "Every expectation is a mean over two draws, of the layers from the prior as well; Havtorn et al. take the "
        "mode of these.",
        "One small model each, a generator that every layer enters, in two stages. Published ladders have independent "
        "layers under the prior; here each layer's base prior depends on the one above.",
        "`kl` is the divergence of q from the base prior in each layer, in nats, over held-out images: near zero, a "
        "layer is not used. In training each layer has two nats for free, as with Havtorn et al.: a layer at about two "
        "has taken no more.",
    )
    published: ClassVar[Mapping[str, float]] = {
        "auroc/layers-3-mnist/picked": 0.984,
        "auroc/layers-3-mnist/bound>0": 0.268,
        "auprc/layers-3-mnist/picked": 0.984,
        "auprc/layers-3-mnist/bound>0": 0.363,
    }

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale = _SCALES[preset]
        data, outliers = TINY if preset == "trial" else GREY
        draws = Draws(num=1, num_steps=1) if preset == "trial" else DRAWS
        return [
            Cell(
                group=f"{short(data)}/layers-{len(training['model']['latents'])}",
                seed=seed,
                settings={
                    "trainings": [{**training, **_HELP}],
                    "outliers": list(outliers),
                    "num_rows": scale.num_rows,
                    "draws": draws._asdict(),
                },
            )
            for seed in seeds
            for training in scale.trainings(data)
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        halves = Halves.of(cell, place)
        foreign = foreign_sets(cell, place, halves)
        ensemble = Ensemble.trained(cell, place)
        ((found,),) = ensemble.scores_by_view(halves.sets(foreign), Draws(**cell.settings["draws"]))
        scores = {name: _hierarchical(values) for name, values in found.items()}
        choice = halves.chosen(scores)
        figures = {
            f"{PICKED}/{choice.score}": 1.0,
            "worst_damaged": choice.worst,
            **_divergences(ensemble.members[0], halves),
            **ensemble.costs(),
        }
        for name in foreign:
            by_score = detections(scores["theirs"], scores[name])
            figures[f"without_number/{short(name)}"] = share_without_number(scores[name])
            for score, one in {**by_score, PICKED: by_score[choice.score]}.items():
                figures |= {f"{measure}/{short(name)}/{score}": value for measure, value in one._asdict().items()}
        return figures

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """Means over seeds, and `/sd`: `MEASURE/layers-L-OTHER/SCORE`, where the score `picked` is that of the rule.

        `picked/layers-L/SCORE` is the number of seeds for which it was that one; `kl/layers-L/I` is of z_I.
        """
        values: dict[str, list[float]] = {}
        for name, figures in rows.items():
            _, layers, _ = name.split("/")
            for figure, value in figures.items():
                measure, *rest = figure.split("/")
                group = f"{layers}-{rest.pop(0)}" if measure in (*_MEASURES, "without_number") else layers
                values.setdefault("/".join((measure, group, *rest)), []).append(value)
        return over_seeds_with_picks(values)

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`: what was picked, what each layer is used for, and each measure by depth, score and k."""
        parts = [
            f"Picked without outliers, `{PICKED}` below: {told_picks(summary, 'by')}. {WITHOUT_NUMBER}",
            table_of(summary, ("without_number",)),
            "Divergence from the base prior by layer, in nats:",
            table_of(_by_layer(summary)),
        ]
        for measure in _MEASURES:
            parts += [f"{measure.upper()}:", table_of(_by_set(summary, measure))]
        return "\n\n".join(parts)

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`: AUROC over k, a panel for each depth and set."""
        series: dict[str, dict[str, dict[int, float]]] = {}
        for key, value in summary.items():
            measure, group, *rest = key.split("/")
            if measure == "auroc" and rest != [PICKED] and rest[-1] != "sd":
                kind, _, k = rest[0].partition(">")
                series.setdefault(group, {}).setdefault(kind, {})[int(k)] = value
        num_columns = len({_parted(group)[1] for group in series})
        return {"auroc.png": partial(panels, series, ("k", "AUROC"), num_columns=num_columns)}


def _hierarchical(scores: Mapping[str, Array]) -> dict[str, Array]:
    """Those that have a k, as in `ratio>2`."""
    return {name.replace("/", ">"): values for name, values in scores.items() if name.partition("/")[0] in _KINDS}


def _divergences(trained: Trained, halves: Halves) -> dict[str, float]:
    """That of each layer from the base prior, over the held-out images that the rule sees."""
    device = trained.place.device
    generator = torch.Generator(device).manual_seed(trained.config.seed + _DIVERGENCE_SEED)
    found = kl_per_layer(trained.model, halves.seen.to(device), generator=generator)
    return {f"kl/{layer}": value for layer, value in enumerate(found.tolist(), start=1)}


def _by_layer(summary: Mapping[str, float]) -> dict[str, float]:
    """`z_I/layers-L` for `kl/layers-L/I`."""
    found = {}
    for key, value in summary.items():
        if key.startswith("kl/"):
            _, depth, layer, *spread = key.split("/")
            found["/".join((f"z_{layer}", depth, *spread))] = value
    return found


def _by_set(summary: Mapping[str, float], measure: str) -> dict[str, float]:
    """`OTHER/layers-L/SCORE` for `MEASURE/layers-L-OTHER/SCORE`."""
    found = {}
    for key, value in summary.items():
        if key.startswith(f"{measure}/"):
            _, group, score, *spread = key.split("/")
            depth, other = _parted(group)
            found["/".join((other, depth, score, *spread))] = value
    return found


def _parted(group: str) -> tuple[str, str]:
    """`layers-L` and the other set of `layers-L-OTHER`."""
    layers, depth, other = group.split("-", 2)
    return f"{layers}-{depth}", other
