"""Samplers swapped, as prior and as posterior sampler, at equal gradients per training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lamina.samplers import HMC, MALA, ULA, Kernel, UnderdampedLangevin, step_size_from_noise_scale
from lamina.trainers import ChainConfig, TrainConfig, TrainingError, preset

from .pictures import bars
from .samples import Yardstick, prior_images
from .study import Cell, Figures, Place, Preset, Study, over_seeds, table_of
from .training import Trained, config_of, settings_of, train

_GRADIENTS = 12
"""Of each chain in a training step."""

_LEAPFROG_STEPS = 3

_NOISE_SCALES = {"prior": 0.4, "posterior": 0.1}
"""The published s: ULA's step size is s^2 / 2, and a leapfrog time step of s moves as far."""

_SMALL = 4
"""By how much smaller a practitioner would try to make the scale of an unadjusted kernel that does not survive."""

_COMMON = ChainConfig(kernel=HMC(step_size=0.2, num_leapfrog_steps=3, jitter=0.2))
"""What all priors are drawn with once more, so that what was learnt is told from what draws it."""

_LAST = 0.2
"""Share of the training whose acceptance counts."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How large a preset is.

    Attributes:
        data: Name of the data set.
        num_steps: Of training.
        num_samples: Images on either side.
        sample_steps: Of HMC when draws are made after training; other kernels have as many gradients.
    """

    data: str
    num_steps: int
    num_samples: int
    sample_steps: int = 200


_SCALES: Mapping[Preset, _Scale] = {
    "cpu": _Scale(data="digits", num_steps=1500, num_samples=500),
    "gpu": _Scale(data="mnist", num_steps=20_000, num_samples=10_000),
    "trial": _Scale(data="digits", num_steps=6, num_samples=60, sample_steps=8),
}


class Swap(Study):
    """One sampler after another for prior or posterior in joint maximum likelihood, the other one being HMC.

    Every chain has 12 gradients in a training step. Adjusted kernels follow their target acceptance; unadjusted ones
    keep the published noise scale, or, as `-small`, a quarter of it. Chains persist, in u.
    """

    name = "swap"
    title = "samplers swapped for prior and posterior, at equal gradients"
    question = (
        "Which sampler should draw from the prior, and which from the posterior, in joint maximum likelihood, when "
        "every chain has twelve gradients in a training step: what do they cost, how good is what is learnt, and does "
        "training survive?"
    )
    papers = (
        "Unadjusted Langevin dynamics alone: on CIFAR-10 60 steps for the prior, at s = 0.4, and 40 for the posterior, "
        "at s = 0.1, from noise in z. Other samplers are not compared.",
        "JEBM, the joint EBM prior of two layers (CVPR 2023), has Frechet distances of 26.81 on SVHN, 33.60 on "
        "CelebA-64 and 66.32 on CIFAR-10, of Inception features: not comparable with ours, of other features and other "
        "data.",
    )
    differences = (
        "Images are small, and features those of a LeNet or an MLP. Every kernel has 12 gradients, in u, by chains "
        "that persist. Those called `-small` have a quarter of the published s.",
        "`accept` of an unadjusted kernel is the acceptance that adjusting it would have had.",
        "`frechet` is of draws by the sampler that training used, which belongs to the model, in as many gradients for "
        "all; `frechet_by_hmc` of draws by HMC for all, which shows what was learnt.",
        "`finished` is the share of seeds whose training came to its end, with as many rollbacks as it may have "
        "(`survived` in the figures); `lost` the share whose training had to go back to an earlier checkpoint at least "
        "once, or never came to its end. What was lost on the way and finished has figures all the same: of what was "
        "left of it.",
        "`ahead_of_hmc` is on how many seeds `frechet_by_hmc` is smaller than with HMC in the same role.",
    )

    def cells(self, preset: Preset, seeds: Sequence[int]) -> list[Cell]:
        """See `Study.cells`."""
        scale = _SCALES[preset]
        return [
            Cell(
                group=f"{role}/{name}",
                seed=seed,
                settings={
                    "training": settings_of(_configuration(scale, role, kernel, num_steps)),
                    "role": role,
                    "num_samples": scale.num_samples,
                    "common_steps": scale.sample_steps,
                },
            )
            for seed in seeds
            for role in _NOISE_SCALES
            for name, (kernel, num_steps) in _kernels(role).items()
        ]

    def run(self, cell: Cell, place: Place) -> Figures:
        """See `Study.run`."""
        try:
            trained = train(config_of(cell.settings["training"], cell.seed), place)
        except TrainingError:
            return {"survived": 0.0}
        yardstick = Yardstick(trained.data, place, cell.settings["num_samples"])
        figures = yardstick.figures(prior_images(trained, yardstick.num))
        common = prior_images(trained, yardstick.num, _COMMON, cell.settings["common_steps"])
        return {
            **figures,
            "frechet_by_hmc": yardstick.frechet(common),
            "accept": _acceptance(trained, cell.settings["role"]),
            "survived": 1.0,
            **trained.costs(),
        }

    def summary(self, rows: Mapping[str, Figures]) -> dict[str, float]:
        """See `Study.summary`.

        With `lost/GROUP`, the share of seeds whose training went back to a checkpoint or never ended, and
        `ahead_of_hmc/GROUP`, the number of seeds on which what was learnt is closer to held-out images than with HMC in
        the same role, by draws of HMC.
        """
        lost = {
            name: {"lost": float(figures["survived"] == 0 or figures["rollbacks"] > 0)}
            for name, figures in rows.items()
        }
        return over_seeds(rows) | over_seeds(lost) | _ahead_of_hmc(rows)

    def table(self, summary: Mapping[str, float]) -> str:
        """See `Study.table`."""
        renamed = {key.replace("survived/", "finished/"): value for key, value in summary.items()}
        columns = ("frechet", "frechet_by_hmc", "ahead_of_hmc", "kernel", "two_sample", "accept", "finished", "lost")
        return table_of(renamed, (*columns, "rollbacks", "seconds", "cpu_seconds"))

    def pictures(self, summary: Mapping[str, float]) -> Mapping[str, Callable[[Path], None]]:
        """See `Study.pictures`."""
        return {"frechet.png": partial(bars, summary, "frechet")}


def _kernels(role: str) -> dict[str, tuple[Kernel[Any], int]]:
    """Kernels with as many steps as the gradients of a training step pay for."""
    scale = _NOISE_SCALES[role]
    small = scale / _SMALL
    return {
        "ula": (ULA(step_size=step_size_from_noise_scale(scale)), _GRADIENTS),
        "mala": (MALA(step_size=step_size_from_noise_scale(scale)), _GRADIENTS),
        "hmc": (
            HMC(step_size=scale, num_leapfrog_steps=_LEAPFROG_STEPS, jitter=0.2),
            _GRADIENTS // _LEAPFROG_STEPS,
        ),
        "underdamped": (UnderdampedLangevin(step_size=scale), _GRADIENTS),
        "ula-small": (ULA(step_size=step_size_from_noise_scale(small)), _GRADIENTS),
        "underdamped-small": (UnderdampedLangevin(step_size=small), _GRADIENTS),
    }


def _configuration(scale: _Scale, role: str, kernel: Kernel[Any], num_steps: int) -> TrainConfig:
    """The run in which a kernel has a role, and HMC the other."""
    config = replace(preset(scale.data, scheme="joint-mle"), num_steps=scale.num_steps)
    for name in _NOISE_SCALES:
        usual, usual_steps = _kernels(name)["hmc"]
        swapped = (kernel, num_steps) if name == role else (usual, usual_steps)
        chains = replace(getattr(config, name), kernel=swapped[0], num_steps=swapped[1])
        config = replace(config, **{name: chains})
    return replace(config, sample_steps=scale.sample_steps * _LEAPFROG_STEPS * config.prior.num_steps // _GRADIENTS)


def _ahead_of_hmc(rows: Mapping[str, Figures]) -> dict[str, float]:
    """On how many seeds each other sampler is ahead of HMC, of those on which both came to their end."""
    figure, ahead = "frechet_by_hmc", dict[str, float]()
    for name, figures in rows.items():
        role, sampler, seed = name.split("/")
        rival = rows.get(f"{role}/hmc/{seed}", {})
        if sampler != "hmc" and figure in figures and figure in rival:
            key = f"ahead_of_hmc/{role}/{sampler}"
            ahead[key] = ahead.get(key, 0.0) + (figures[figure] < rival[figure])
    return ahead


def _acceptance(trained: Trained, role: str) -> float:
    records = trained.metrics()
    last = [record for record in records if record["step"] > (1 - _LAST) * trained.config.num_steps]
    return fmean(record[f"{role}_accept"] for record in last)
