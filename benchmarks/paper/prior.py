"""The prior itself: its draws against the aggregate posterior, and what becomes of its chains when they go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from lamina.trainers.evaluation import PARTS, Budget

from .generation import BY_CONTRAST, OURS, SCALES, configuration
from .pictures import bars, curves
from .samples import FLOOR
from .study import Cell, Figures, Place, Preset, Study, by_step, over_seeds, table_of
from .training import config_of, settings_of, train

_Value = TypeVar("_Value")

_PLACES = ("joint", "layer1", "layer2")

_NEARER = {f"nearer_than_{rival}": rival for rival in ("base", "shuffled")}
"""What counts the seeds on which the EBM prior is nearer to the aggregate posterior, by the rival."""

_DATA = "data"

_SETS = ("ebm", "base", "shuffled", "start", "short", "long", "drawn", "reference", _DATA)
"""Of latents, or of images, in the order of tables; see `lamina.trainers.evaluation.latents` and `chains`."""

_TO_POSTERIOR = {"kernel_distance": "kernel", "two_sample_accuracy": "two_sample"}
"""What measures against the aggregate posterior are called here."""

_TO_REFERENCE = {measure: f"{name}_to_reference" for measure, name in _TO_POSTERIOR.items()}
"""And those against the reference of chains."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How large a preset is, beside the study `generation`.

    Attributes:
        groups: Of that study, whose networks and trainings these are.
        num_long_steps: By which the chains of training are prolonged.
        num_long_chains: As many as a batch has images: those of groups whose chains persist are no more.
    """

    groups: Sequence[str] = (OURS, BY_CONTRAST, "single", "joint-mle", "published")
    num_long_steps: int = 2500
    num_long_chains: int = 100


_SCALES: Mapping[Preset, _Scale] = {
    "cpu": _Scale(),
    "gpu": _Scale(),
    "trial": _Scale(groups=("single", "published"), num_long_steps=80, num_long_chains=20),
}


class Prior(Study):
    """The parts `prior` and `chains` of `lamina evaluate`, of models of the study `generation`.

    | group | what |
    | --- | --- |
    | `joint` | the joint EBM prior in two stages |
    | `joint-nce` | the same, but that the energies learn by noise contrast, without chains |
    | `single` | one layer with an EBM prior, in two stages |
    | `joint-mle` | the joint EBM prior learnt at once, with adjusted chains for prior and posterior, which persist |
    | `published` | the published procedure: 60 and 40 unadjusted steps from noise, in z |

    Figures of sets of latents have the set behind the group: `kernel_joint/mnist/joint/ebm`.
    """

    name = "prior"
    title = "the prior itself against the aggregate posterior, and its chains when they go on"
    question = (
        "Is the EBM prior nearer to the aggregate posterior than its Gaussian base, in each layer and jointly, and "
        "nearer than the aggregate posterior with a dependence broken: does it capture relations inside a layer, and "
        "between layers? And have the chains that it was learnt by arrived: what becomes of their draws when they go "
        "on for 2,500 steps?"
    )
    papers = (
        "Pictures, and in what could be read of the papers on joint EBM priors no figure of latents against an "
        "aggregate posterior; the supplement of CVPR 2023 could not be read.",
        "Long chains on CelebA-64 (CVPR 2023), images after 100 and 2,500 steps and a plot of energies: these fall "
        "from about 0 to about -2,550 within some 50 steps and stay there (whether those of one image or of a batch "
        "could not be told); images stay diverse, to the eye, and those of step 0 show nothing. One energy on all "
        "layers of a ladder (ICCV 2023), learnt with chains of 40 steps: stable for 2,500, to the eye.",
        "Chains are unadjusted, so that there is no acceptance. On CIFAR-10 60 steps for the prior at s = 0.4, from "
        "noise in z, which are 60 s^2 / 2 = 4.8 relaxation times of a standard normal law.",
    )
    differences = (
        "Data are MNIST, and all is measured: the parts `prior` and `chains` of `lamina evaluate`. Networks and "
        "trainings are those of the study `generation`, trained once more.",
        "The aggregate posterior is a draw of z for every held-out image: of the inference model in two stages, by "
        "posterior chains elsewhere, as long as those of the prior after training. One half of the draws is what all "
        "are compared with; the other is `shuffled`: within a layer coordinate by coordinate, jointly layer by layer. "
        "So in a joint comparison it has all relations inside layers, and none between them.",
        "`kernel_*` is a kernel distance, zero where two laws agree and unbiased, so that it may fall below; "
        "`two_sample_*` the accuracy of a classifier, 0.5 where it cannot tell them apart. `nearer_than_*` is on how "
        "many seeds the EBM prior has the smaller kernel distance.",
        "`start` and `short` are where chains of training start and end: in two stages and in `joint-mle` they go on "
        "from where training left them, in the published procedure they start from noise, and where training had "
        "none, in `joint-nce`, from the base prior. `long` is 2,500 steps "
        "later, `drawn` what samples are made of, `reference` the ends of long adjusted chains at the same energies, "
        "whose largest R-hat is `reference_rhat`. `kernel_to_reference_*` and `two_sample_to_reference_*` compare with "
        "the latter.",
        "`frechet` is of as many images as there are chains, 100, from held-out images, on the features of the study "
        "`generation`. Of so few images it is larger than there: compare it with that of training images, `data`, and "
        "across sets.",
        "`mala_accept` is the acceptance of one MALA step at the step size of training, from draws of each set; "
        "`accept` that of the kernel itself in the short run. `displacement_*` is the mean squared way of the short "
        "run over that between strangers. `relaxation_times_*` are those that it goes through, of the slowest "
        "coordinate of a layer and of the median one, as if laws were Gaussian.",
    )

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale, own = SCALES[preset], _SCALES[preset]
        data = scale.data[0]
        return [
            Cell(
                group=f"{data}/{group}",
                seed=seed,
                settings={
                    "training": settings_of(configuration(data, group, scale)),
                    "num_held_out": scale.num_samples,
                    "num_long_steps": own.num_long_steps,
                    "num_long_chains": own.num_long_chains,
                },
            )
            for seed in seeds
            for group in own.groups
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        settings = cell.settings
        trained = train(config_of(settings["training"], cell.seed), place)
        subject = trained.subject(
            Budget(
                num_samples=settings["num_held_out"],
                num_long_steps=settings["num_long_steps"],
                num_long_chains=settings["num_long_chains"],
            )
        )
        latents, chains = (PARTS[part](subject).report for part in ("prior", "chains"))
        place.features[trained.data.name] = {name: chains[name] for name in chains if name.startswith("feature")}
        names = {f"{chains['feature_name']}_frechet_distance": "frechet", **_TO_REFERENCE}
        way = _named(chains["long_run"], names)
        return {
            **_named(latents["summary"], _TO_POSTERIOR),
            **_named(chains["summary"], names),
            **{name: chains["short_run"][name] for name in ("step_size", "langevin_step_size", "langevin_time")},
            **{
                f"{figure}_after_{step}": value
                for figure in ("frechet", "energy")
                for step, value in zip(way["steps"], way[figure], strict=True)
            },
            **trained.costs(),
        }

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """See `Study.summary`: `FIGURE/GROUP`, of a set of latents `FIGURE/GROUP/SET`.

        With `nearer_than_RIVAL_PLACE/GROUP`, the number of seeds on which the EBM prior's kernel distance to the
        aggregate posterior is smaller than that of its base, or of what is shuffled.
        """
        return over_seeds(_by_set(rows)) | _nearer(rows)

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`: priors, on how many seeds they are ahead, sets of the chains, and what the chains did."""
        tables = {
            "Draws against the aggregate posterior:": _for_each(("kernel", "two_sample"), _PLACES),
            "Seeds on which the EBM prior is nearer to it than a rival:": _for_each(_NEARER, _PLACES),
            "Where chains of the prior are:": (
                *("frechet", "energy", "accept", "mala_accept"),
                *_for_each(("kernel_to_reference",), _PLACES),
            ),
            "What the short run did, and whether the reference has arrived:": (
                "langevin_step_size",
                *_for_each(("displacement", "relaxation_times_slowest", "relaxation_times_median"), _PLACES[1:]),
                *("reference_rhat", "cpu_seconds", "rollbacks"),
            ),
        }
        return "\n\n".join(f"{title}\n\n{table_of(summary, columns)}" for title, columns in tables.items())

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`: kernel distances of all layers jointly, and the Frechet distance along the long run."""
        series = by_step(summary, "frechet")
        floors = [summary[key] for group in series if (key := f"frechet/{group}/{_DATA}") in summary]
        if floors:
            steps = {step for way in series.values() for step in way}
            series[FLOOR] = dict.fromkeys((min(steps), max(steps)), fmean(floors))
        labels = ("steps after the short run", "Frechet distance")
        return {
            "joint.png": partial(bars, summary, "kernel_joint"),
            "long-run.png": partial(curves, series, labels),
        }


def _named(found: Mapping[str, _Value], names: Mapping[str, str]) -> dict[str, _Value]:
    """What a part of an evaluation found, as `MEASURE_PLACE` or, of a set of latents, `MEASURE_PLACE/SET`.

    Args:
        found: By names such as "kernel_distance/joint/ebm".
        names: Of measures here, where they have others.
    """
    named = {}
    for name, value in found.items():
        measure, *rest = name.split("/")
        places = [part for part in rest if part not in _SETS]
        own = "_".join([names.get(measure, measure), *places])
        named["/".join([own, *rest[len(places) :]])] = value
    return named


def _by_set(rows: Mapping[str, Figures]) -> dict[str, Figures]:
    """Rows in which the sets of latents of a group are groups of their own."""
    found: dict[str, Figures] = {}
    for name, figures in rows.items():
        group, _, seed = name.rpartition("/")
        own = [figure.partition("/") for figure in figures]
        for of in ("", *_SETS):
            measures = {measure: figures[f"{measure}{bar}{rest}"] for measure, bar, rest in own if rest == of}
            found["/".join(filter(None, (group, of, seed)))] = measures
    return found


def _nearer(rows: Mapping[str, Figures]) -> dict[str, float]:
    """On how many seeds the EBM prior has a smaller kernel distance to the aggregate posterior than each rival."""
    nearer: dict[str, float] = {}
    for name, figures in rows.items():
        for start, rival in _NEARER.items():
            for place in _PLACES:
                ours, theirs = (f"kernel_{place}/{one}" for one in ("ebm", rival))
                if ours in figures and theirs in figures:
                    key = f"{start}_{place}/{name.rpartition('/')[0]}"
                    nearer[key] = nearer.get(key, 0.0) + (figures[ours] < figures[theirs])
    return nearer


def _for_each(measures: Iterable[str], places: Sequence[str]) -> list[str]:
    """Names of measures at each place."""
    return [f"{measure}_{place}" for measure in measures for place in places]
