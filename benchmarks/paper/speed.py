"""How soon samples are good: the default recipe against the published one, on the same networks and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lamina.trainers import ModelConfig, TrainConfig, Training, TrainingError, preset
from lamina.trainers.presets import PAPER_NETWORKS

from .. import results
from ..tables import markdown
from .pictures import curves
from .samples import FLOOR, Yardstick, prior_images, training_images
from .study import Cell, Figures, Place, Preset, Study, by_step, over_seeds, table_of, with_spread, with_spreads
from .training import config_of, settings_of, stretches

LEVELS = (50, 20, 10, 5, 2)
"""Multiples of the Frechet distance of training images: what is called the same quality.

Fixed before any run of this study, in steps of about two, from where images first resemble the data, near which the
published procedure ended in the study `generation`, to where that study's best prior did.
"""

_RECIPES = {"default": "adjusted", "published": "published"}
"""By group; see `lamina.trainers.preset`."""

_MARKS = "marks.json"

_Stops = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How large a preset is.

    Attributes:
        stops: Steps after which the clock stands still and samples are drawn, by data set and recipe. The last ones end
            the training. On the machine of the committed figures both recipes come to most of them at about the same
            second of the preset cpu.
        networks: Of both recipes; None takes those of the data set.
        num_samples: Images on either side, at most.
    """

    stops: Mapping[str, _Stops]
    networks: ModelConfig | None = None
    num_samples: int


_GPU_STOPS: _Stops = {
    "default": (1000, 2000, 4000, 8000, 16_000, 32_000, 84_000, 90_000, 100_000, 120_000),
    "published": (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_600),  # 101 epochs of 60,000 images
}

_SCALES: Mapping[Preset, _Scale] = {
    "cpu": _Scale(
        stops={
            "digits": {
                "default": (75, 150, 300, 600, 1200, 2400, 3500, 4000, 5000),
                "published": (3, 5, 10, 20, 40, 80, 150, 225, 450, 900),
            },
            "mnist": {
                "default": (125, 250, 500, 1000, 2000, 4000, 8400, 9000, 10_000, 12_000),
                "published": (5, 10, 20, 40, 80, 160, 320, 500, 700, 1000),
            },
        },
        num_samples=2000,
    ),
    "gpu": _Scale(
        stops={"mnist": _GPU_STOPS, "fashion-mnist": _GPU_STOPS}, networks=PAPER_NETWORKS, num_samples=10_000
    ),
    "trial": _Scale(
        stops={"digits": {"default": (2, 6), "published": (1, 2)}},
        networks=ModelConfig(latents=(8, 4), hidden=(32,), energy_hidden=(16,)),
        num_samples=60,
    ),
}


class Speed(Study):
    """The time that either recipe takes to the same quality of samples.

    | group | what |
    | --- | --- |
    | `default` | what `lamina train` does: two stages, adjusted chains that persist |
    | `published` | `--recipe published`: everything at once, by 60 and 40 unadjusted steps from noise, in z |
    | `training-images` | no prior but images of the training split |
    """

    name = "speed"
    title = "time to the same quality of samples: the default recipe against the published one"
    question = (
        "How many seconds of training does the default recipe take until its samples are of some quality, and how many "
        "does the published recipe, on the same networks and data?"
    )
    papers = (
        "No time to a quality, but Frechet distances at the end, see the study `generation`, and seconds of a step on "
        "CIFAR-10, see the study `ablation`.",
    )
    differences = (
        "The clock stands still after some ten numbers of steps. Samples are drawn as the recipe draws them after "
        "training, from the weights that it would leave, and their Frechet distance to held-out images is taken on the "
        "features of the study `generation`. Training knows nothing of these stops.",
        "`level-N` is N times the Frechet distance of as many images of the training split. Levels were fixed before "
        "any run of this study, and so were the lengths of trainings. `seconds/DATA/RECIPE/level-N` is the time of "
        "the first stop with at most that distance, too late by up to the time since the stop before. It is there "
        "where all seeds come to the level; `reached/DATA/RECIPE/level-N` is the share that do. Where no seed of the "
        "published recipe does, `speed_up_at_least` stands for `speed_up`: its whole time over ours.",
        "Seconds are CPU seconds of the process in training on one thread (with another device than the CPU, seconds), "
        "without loading, sampling and measuring. Other work shared the machine, which CPU seconds feel less than "
        "seconds do. Compiling the programs of chains is left out: both recipes have it, once on a machine.",
        "The default recipe has the steps of `lamina train`, at the end of which its rates have come down; in its "
        "first stage, the energies being zero, samples are of the base prior. The rates of the published one stay, "
        "so that more steps would go on where it ends: after not quite twice the time of ours on MNIST, which is 1.7 "
        "of its 101 epochs, and four times on the digits, 63 epochs. Both have the networks of the data set; published "
        "ones are convolutions, whose steps are dearer still.",
    )

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale = _SCALES[preset]
        return [
            cell
            for seed in seeds
            for data, stops in scale.stops.items()
            for cell in (
                Cell(group=f"{data}/{FLOOR}", seed=seed, settings={"data": data, "num_samples": scale.num_samples}),
                *(_cell(data, recipe, scale, seed) for recipe in stops),
            )
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        num = cell.settings["num_samples"]
        if "training" in cell.settings:
            return _run(cell, place, num)
        data = place.load(cell.settings["data"])
        yardstick = Yardstick(data, place, num)
        return {"frechet": yardstick.frechet(training_images(data, place, yardstick.num, cell.seed))}

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """See `Study.summary`.

        With the distance at each level, `frechet/DATA/level-N`; `seconds/DATA/RECIPE/level-N`, the time to it where
        all seeds come to it; `reached/DATA/RECIPE/level-N`, the share that do; and the published recipe's seconds over
        ours, `speed_up/DATA/level-N`, or `speed_up_at_least/DATA/level-N` where no seed of it comes to the level.
        """
        summary = over_seeds(rows)
        for data in dict.fromkeys(name.partition("/")[0] for name in rows):
            floor = summary.get(f"frechet/{data}/{FLOOR}")
            if floor is None:
                continue
            for multiple in LEVELS:
                level = f"level-{multiple}"
                summary[f"frechet/{data}/{level}"] = multiple * floor
                for recipe in _RECIPES:
                    summary |= _times(rows, f"{data}/{recipe}", level, multiple * floor)
                summary |= _speed_up(summary, data, level)
        return summary

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`; the time to each level, and what there is at the end."""
        levels = [key.split("/")[1:] for key in summary if key.startswith("frechet/") and "/level-" in key]
        rows = [
            (
                f"{data}/{level}",
                with_spread(summary, f"frechet/{data}/{level}"),
                *(_time(summary, data, recipe, level) for recipe in _RECIPES),
                _times_as_fast(summary, data, level),
            )
            for data, level in levels
        ]
        times = markdown(("", "frechet", *(f"{recipe}, s" for recipe in _RECIPES), "speed_up"), rows, "lrrrr")
        ends = table_of(
            {key: value for key, value in summary.items() if "/level-" not in key},
            ("frechet", "steps", "cpu_seconds", "rollbacks", "survived"),
        )
        return f"{times}\n\n{ends}"

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`; for each data set the distance over seconds, means over seeds at each stop."""
        distances, seconds = by_step(summary, "frechet"), by_step(summary, "seconds")
        series: dict[str, dict[str, dict[float, float]]] = {}
        for group, found in distances.items():
            data, _, recipe = group.partition("/")
            series.setdefault(data, {})[recipe] = {seconds[group][stop]: found[stop] for stop in found}
        for data, lines in series.items():
            floor = summary.get(f"frechet/{data}/{FLOOR}")
            if floor is not None:
                times = [time for line in lines.values() for time in line]
                lines[FLOOR] = dict.fromkeys((min(times), max(times)), floor)
        labels = ("seconds of training", "Frechet distance")
        return {f"{data}.png": partial(curves, lines, labels) for data, lines in series.items()}


def configuration(data: str, recipe: str, scale: _Scale) -> TrainConfig:
    """The run of a recipe: what `lamina train` does on these networks, for so many steps."""
    config = preset(data, _RECIPES[recipe])
    own = config.model
    model = replace(scale.networks, sigma=own.sigma, smooth=own.smooth, levels=own.levels) if scale.networks else own
    return replace(config, model=model, num_steps=scale.stops[data][recipe][-1])


def _cell(data: str, recipe: str, scale: _Scale, seed: int) -> Cell:
    settings = {
        "training": settings_of(configuration(data, recipe, scale)),
        "stops": list(scale.stops[data][recipe]),
        "num_samples": scale.num_samples,
    }
    return Cell(group=f"{data}/{recipe}", seed=seed, settings=settings)


def _run(cell: Cell, place: Place, num: int) -> Figures:
    """Train, and measure at each stop; what was measured before an interruption is kept in the folder."""
    path = place.folder / _MARKS
    figures: dict[str, float] = results.read(path)["figures"] if path.exists() else {}
    config = config_of(cell.settings["training"], cell.seed)
    Training(config, place.load(config.data), place.device).step()  # else the first cell pays what a process loads once
    left = [stop for stop in cell.settings["stops"] if f"frechet_after_{stop}" not in figures]
    try:
        for trained in stretches(config, place, left):
            yardstick = Yardstick(trained.data, place, num)
            frechet = yardstick.frechet(prior_images(trained, yardstick.num))
            costs = trained.costs()
            seconds = costs.pop("seconds")
            stop = costs["steps"]
            clock = costs["cpu_seconds"] if place.device.type == "cpu" else seconds
            now = {f"frechet_after_{stop}": frechet, f"seconds_after_{stop}": clock, "frechet": frechet, **costs}
            figures = figures | now
            results.write({"figures": figures}, path)
    except TrainingError:
        return {**figures, "survived": 0.0}
    return {**figures, "survived": 1.0}


def _times(rows: Mapping[str, Figures], group: str, level: str, distance: float) -> dict[str, float]:
    """When the seeds of a group come to a distance, and how many do."""
    times = [_first(figures, distance) for name, figures in rows.items() if name.rpartition("/")[0] == group]
    found = [time for time in times if time is not None]
    if not times:
        return {}
    seconds = with_spreads({f"seconds/{group}/{level}": found}) if len(found) == len(times) else {}
    return {**seconds, f"reached/{group}/{level}": len(found) / len(times)}


def _first(figures: Figures, distance: float) -> float | None:
    """The second of the first stop with at most this distance."""
    reached = [name for name, value in figures.items() if name.startswith("frechet_after_") and value <= distance]
    return min((figures[name.replace("frechet", "seconds")] for name in reached), default=None)


def _speed_up(summary: Mapping[str, float], data: str, level: str) -> dict[str, float]:
    """The published recipe's seconds over ours, or at least that."""
    ours, theirs = (f"{data}/{recipe}" for recipe in _RECIPES)
    seconds = summary.get(f"seconds/{ours}/{level}")
    if seconds is None:
        return {}
    if f"seconds/{theirs}/{level}" in summary:
        return {f"speed_up/{data}/{level}": summary[f"seconds/{theirs}/{level}"] / seconds}
    if summary.get(f"reached/{theirs}/{level}") == 0:
        return {f"speed_up_at_least/{data}/{level}": _whole(summary, theirs) / seconds}
    return {}


def _whole(summary: Mapping[str, float], group: str) -> float:
    """Seconds of a training to its end."""
    return max(by_step(summary, "seconds")[group].values())


def _time(summary: Mapping[str, float], data: str, recipe: str, level: str) -> str:
    """The time to a level as text, or that it takes more."""
    key, share = f"{data}/{recipe}/{level}", summary.get(f"reached/{data}/{recipe}/{level}")
    if f"seconds/{key}" in summary or share is None:
        return with_spread(summary, f"seconds/{key}")
    seeds = f", but for {share:.0%} of seeds" if share else ""
    return f"not within {_whole(summary, f'{data}/{recipe}'):.4g}{seeds}"


def _times_as_fast(summary: Mapping[str, float], data: str, level: str) -> str:
    at_least = summary.get(f"speed_up_at_least/{data}/{level}")
    return with_spread(summary, f"speed_up/{data}/{level}") if at_least is None else f"over {at_least:.4g}"
