"""The truth about the prior chains of a run: how far they go, and what becomes of their draws when they go on.

Five sets of latents stand beside each other:

- `start`: where the prior chains of training start;
- `short`: where they end, after as many steps as in training;
- `long`: where they are many steps later;
- `drawn`: what `lamina sample` draws, by chains from the base prior;
- `reference`: what long adjusted chains draw at the same energies. All but it are compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers import kernel_to_dict

from ..config import ChainConfig
from ..sampling import images
from .features import features_of
from .latents import distances_to, flat_figures
from .measures import Array, frechet_distance
from .networks import Features, stated
from .short_runs import (
    Reference,
    ShortRun,
    displacements,
    long_run,
    mala_acceptance,
    marks,
    reference_draws,
    relaxation_times,
    short_run,
)
from .subject import Subject


@dataclass(frozen=True)
class ChainFigures:
    """What was found.

    Attributes:
        report: For JSON.
        sets: Latents by the names above.
        curve: Figures of the long run by its number of steps.
    """

    report: dict[str, Any]
    sets: Mapping[str, Latents]
    curve: Mapping[int, Mapping[str, float]]


def chain_figures(subject: Subject) -> ChainFigures:
    """Run the chains of a subject with an EBM prior, short and long, and measure them."""
    model, budget, config, generator = subject.model, subject.budget, subject.config.prior, subject.generator(7)
    settings: dict[str, Any] = {"generator": generator, "show_progress": subject.show_progress}
    short = short_run(
        model,
        config,
        budget.num_long_chains,
        generator=generator,
        step_size=subject.step_size,
        positions=subject.positions,
    )
    num, steps = len(short.start[0]), marks(budget.num_long_steps)
    reference = reference_draws(model.prior, budget.num_long_chains, num_gradients=steps[-1], **settings)
    stops = long_run(model.prior.energy(config.space), config.kernel, short.result.chains, steps, **settings)
    way = {step: _latents(subject, position) for step, position in stops}
    sets = {
        "start": _latents(subject, short.start),
        "short": way[0],
        "long": way[steps[-1]],
        "drawn": subject.priors(num, generator)["ebm"],
        "reference": reference.z,
    }
    looks = _Looks.of(subject)
    curve = {step: looks.figures(z) for step, z in way.items()}
    # One number of images for all: distances between few are larger.
    looked = {name: looks.figures(tuple(part[:num] for part in z)) for name, z in sets.items()}
    measured = {name: z for name, z in sets.items() if name != "reference" and _is_finite(*z)}
    summary = {
        **_motion(subject, short, reference, generator),
        **{f"{figure}/{name}": row[figure] for figure in curve[0] for name, row in looked.items()},
        f"{looks.measure}/data": looks.distance(subject.training_images(num)),
        **flat_figures(distances_to(reference.z, measured)),
        "reference_rhat": reference.rhat,
        "reference_accept": reference.accept_prob,
    }
    report = {
        "short_run": _described(short, config),
        "long_run": {"steps": steps, **{name: [row[name] for row in curve.values()] for name in curve[0]}},
        "reference": {"num_chains": len(reference.z[0]), "num_steps": reference.num_steps},
        **stated(looks.features),
        "num_held_out": len(looks.held_out),
        "not_finite": [name for name, z in sets.items() if not _is_finite(*z)],
        "summary": summary,
    }
    return ChainFigures(report, sets, curve)


def _described(short: ShortRun, config: ChainConfig) -> dict[str, Any]:
    """What was run, for JSON."""
    return {
        "kernel": kernel_to_dict(config.kernel),
        "space": config.space,
        "start": config.start,
        "num_steps": config.num_steps,
        "num_chains": len(short.start[0]),
        "step_size": short.step_size,
        "langevin_step_size": short.langevin,
        "langevin_time": short.time,
        "num_divergent": int(short.result.num_divergent.sum()),
    }


def _motion(subject: Subject, short: ShortRun, reference: Reference, generator: torch.Generator) -> dict[str, float]:
    """How the short run did, how well its steps follow the energies, and how far it went."""
    prior, space = subject.model.prior, subject.config.prior.space
    with torch.no_grad():
        stationary = prior.from_latents(reference.z, space)
    names = [f"layer{number + 1}" for number in range(len(stationary))]
    gone = displacements(short.start, short.end, stationary)
    motion = {
        "accept/short": float(short.result.accept_prob.mean()),
        **{f"displacement/{name}": value for name, value in zip(names, gone, strict=True)},
    }
    if short.langevin is None or short.time is None:
        return motion
    for name, position in {"start": short.start, "short": short.end, "reference": stationary}.items():
        motion[f"mala_accept/{name}"] = mala_acceptance(
            prior.energy(space), position, short.langevin, generator=generator
        )
    for name, (slowest, median) in zip(names, relaxation_times(short.time, stationary), strict=True):
        motion[f"relaxation_times_slowest/{name}"] = slowest
        motion[f"relaxation_times_median/{name}"] = median
    return motion


@dataclass(frozen=True)
class _Looks:
    """What latents are looked at by, on the way and in the end.

    Attributes:
        model: Decodes them.
        num_levels: Grey levels of the data.
        features: What images are compared on.
        held_out: Features of held-out images, (M, D).
    """

    model: LatentEBM
    num_levels: int
    features: Features
    held_out: Array

    @staticmethod
    def of(subject: Subject) -> _Looks:
        """The usual ones of a subject."""
        features = features_of(
            subject.data, subject.features, device=subject.device, show_progress=subject.show_progress
        )
        held_out = features(subject.held_out(subject.budget.num_samples))
        return _Looks(subject.model, subject.data.num_levels, features, held_out)

    @property
    def measure(self) -> str:
        """The name of `distance`."""
        return f"{self.features.name}_frechet_distance"

    @torch.no_grad()
    def figures(self, z: Latents) -> dict[str, float]:
        """Means of sum_i E_i(z_i), in nats, and of |z_i|, and the distance of the images; for z (C, *event_i)."""
        norms = {f"norm/layer{i + 1}": float(part.flatten(1).double().norm(dim=1).mean()) for i, part in enumerate(z)}
        energy = float(self.model.prior.energies(z).double().mean())
        return {"energy": energy, **norms, self.measure: self.distance(images(self.model, z, self.num_levels))}

    def distance(self, drawn: Tensor) -> float:
        """Frechet distance of images from the held-out ones; NaN where they are not finite."""
        return frechet_distance(self.features(drawn), self.held_out) if _is_finite(drawn) else math.nan


@torch.no_grad()
def _latents(subject: Subject, position: Latents) -> Latents:
    return subject.model.prior.to_latents(position, subject.config.prior.space)


def _is_finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite, without which nothing can be compared."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
