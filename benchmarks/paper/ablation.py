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
    papers = (
        "Frechet distances of Inception features, which are not comparable with ours, of other features and other "
        "data. Posterior chains and an inference model in their place (CVPR 2023, Table 5): 26.81 and 28.60 on SVHN, "
        "33.60 and 36.12 on CelebA-64, 66.32 and 68.45 on CIFAR-10, in 0.478 and 0.232, 0.920 and 0.246, 0.568 and "
        "0.256 seconds.",
        "The number of prior steps, on CelebA-64 with one energy on all layers of a ladder, learnt with an inference "
        "model (ICCV 2023): 56.42 with 15 steps, 39.89 with 30, 32.15 with 60, 31.20 with 150, 30.78 with 300.",
        "The width of that energy, of two hidden layers: 43.95 with none, which is a Gaussian prior, 41.72 with 10 "
        "units, 33.10 with 20, 30.42 with 50, 24.16 with 100. The first and the last are that paper's figures on SVHN.",
        "Long chains, of 2,500 steps on CelebA-64: energies fall for some fifty steps and stay where they are, and "
        "images stay diverse, to the eye (CVPR 2023).",
    )
    differences = (
        "Images are small, and features those of a LeNet or an MLP. Of posterior chains and an inference model the "
        "ratio of times can be compared, beside the published one on CIFAR-10: `speed_up/amortised`.",
        "The papers' steps are of unadjusted Langevin dynamics, from noise; ours are of HMC, three gradients each, by "
        "chains that persist. So even one step goes on from where the last training step left its chains.",
        "The paper's long chains are looked at, and their energies; here draws after each number of steps are compared "
        "with held-out images. Theirs start from noise, ours from the base prior.",
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
