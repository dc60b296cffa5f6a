"""One choice after another changed: steps, width, layers, amortisation, space; and what long chains do to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from lamina.trainers import TrainConfig, preset

from .pictures import curves
from .samples import Yardstick, prior_images
from .study import Cell, Figures, Place, Preset, Study, by_step, table_of
from .training import config_of, settings_of, train

_LENGTHS = (0, 40, 100, 500, 2500)
"""Steps of the prior sampler after which draws are compared with held-out images."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How large a preset is.

    Attributes:
        data: Name of the data set.
        latents: Of models with one, two and three layers: as many in all.
        num_steps: Of training.
        num_samples: Images on either side.
        lengths: Of `_LENGTHS`.
    """

    data: str
    latents: Sequence[tuple[int, ...]]
    num_steps: int
    num_samples: int
    lengths: Sequence[int] = _LENGTHS


_SCALES: Mapping[Preset, _Scale] = {
    "cpu": _Scale(data="digits", latents=((24,), (16, 8), (12, 8, 4)), num_steps=1500, num_samples=500),
    "gpu": _Scale(data="mnist", latents=((48,), (32, 16), (24, 16, 8)), num_steps=30_000, num_samples=10_000),
    "trial": _Scale(
        data="digits", latents=((12,), (8, 4), (6, 4, 2)), num_steps=6, num_samples=60, lengths=_LENGTHS[:2]
    ),
}

_USUAL = "usual"


class Ablation(Study):
    """One choice changed at a time, from `usual`: two layers, energies of 64, two steps of HMC, amortised, in u."""

    name = "ablation"
    title = "steps, width, layers, amortised or not, space; and chains of 2,500 steps"
    question = (
        "What do the number of prior steps, the width of the energies, the number of layers, an inference model in "
        "place of posterior chains, and the space of the chains do for samples and for the time of a training step; "
        "and do samples stay good when chains go on?"
    )
    differences = (
        "The paper compares posterior chains with an inference model on CIFAR-10 (Table 5: Inception FID 66.32 and "
        "68.45, 0.568 and 0.256 seconds, 2.2 times as fast); here on small images, with a LeNet or an MLP for "
        "features. The ratio of times can be compared: `speed_up/amortised`.",
        "The paper's long chains are looked at, and their energies; here draws after each number of steps are "
        "compared with held-out images. Theirs start from noise, ours from the base prior.",
        "`frechet_after_N` is after N steps of the sampler that training used; `frechet` after as many as the model's "
        "configuration has.",
    )
    published: ClassVar[Mapping[str, float]] = {"speed_up/amortised": 0.568 / 0.256}

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale = _SCALES[preset]
        return [
            Cell(
                group=group,
                seed=seed,
                settings={
                    "training": settings_of(config),
                    "num_samples": scale.num_samples,
                    "lengths": list(scale.lengths),
                },
            )
            for seed in seeds
            for group, config in _configurations(scale).items()
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        trained = train(config_of(cell.settings["training"], cell.seed), place)
        yardstick = Yardstick(trained.data, place, cell.settings["num_samples"])
        costs = trained.costs()
        return {
            **yardstick.figures(prior_images(trained, yardstick.num)),
            **{
                f"frechet_after_{length}": yardstick.frechet(prior_images(trained, yardstick.num, num_steps=length))
                for length in cell.settings["lengths"]
            },
            "milliseconds_per_step": 1e3 * costs["cpu_seconds"] / costs["steps"],
            **costs,
        }

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """See `Study.summary`; with `speed_up/amortised`, time of a step with posterior chains over that without."""
        summary = super().summary(rows)
        amortised, chains = (summary.get(f"milliseconds_per_step/{group}") for group in (_USUAL, "posterior/chains"))
        if amortised and chains:
            summary["speed_up/amortised"] = chains / amortised
        return summary

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`."""
        after = [f"frechet_after_{length}" for length in _LENGTHS]
        return table_of(summary, ("frechet", *after, "two_sample", "milliseconds_per_step", "rollbacks"))

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`."""
        series = by_step(summary, "frechet")
        return {"long-run.png": partial(curves, series, ("steps of the prior sampler", "Frechet distance"))}


def _configurations(scale: _Scale) -> dict[str, TrainConfig]:
    """The run of each group."""
    one, two, three = scale.latents

    def amortised(latents: tuple[int, ...]) -> TrainConfig:
        config = preset(scale.data, scheme="joint-variational")
        model = replace(config.model, latents=latents, energy_hidden=(64, 64))
        return replace(config, model=model, num_steps=scale.num_steps)

    usual = amortised(two)
    by_chains = preset(scale.data, scheme="joint-mle")
    return {
        _USUAL: usual,
        **{f"steps/{num}": replace(usual, prior=replace(usual.prior, num_steps=num)) for num in (1, 8)},
        **{f"width/{num}": replace(usual, model=replace(usual.model, energy_hidden=(num, num))) for num in (16, 256)},
        "layers/1": amortised(one),
        "layers/3": amortised(three),
        "posterior/chains": replace(by_chains, model=usual.model, num_steps=scale.num_steps),
        "space/z": replace(usual, prior=replace(usual.prior, space="z")),
    }
