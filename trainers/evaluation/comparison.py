"""How samples of a trained model compare with held-out data: the EBM prior against Gaussian priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents

from ..config import TrainConfig
from ..data import ImageData
from ..sampling import draw_prior, images
from .features import features_of
from .latents import rows
from .layers import posterior_draws
from .measures import FOREST_ROWS, Array, frechet_distance, kernel_distance, two_sample_accuracy
from .networks import stated

NUM_SAMPLES = 2000
"""Images drawn from each model."""
MAX_HELD_OUT = 2000
"""Held-out images compared with, at most."""
NUM_SHOWN = 32
"""Held-out images shown with their reconstructions; twice as many samples are shown."""
_EVALUATION_SEED = 1_000_003


@dataclass(frozen=True)
class Evaluation:
    """Figures of one trained model, and what pictures are made of.

    Attributes:
        report: For JSON: settings, figures and a flat `summary`.
        samples: Some images of each prior, by name.
        reconstructions: Some held-out images, and their means given a draw of the posterior.
    """

    report: dict[str, Any]
    samples: dict[str, Tensor]
    reconstructions: tuple[Tensor, Tensor]


def evaluate(
    model: LatentEBM,
    baseline: LatentEBM | None,
    config: TrainConfig,
    data: ImageData,
    device: torch.device,
    *,
    step_size: Tensor | None = None,
    features: str | None = None,
) -> Evaluation:
    """Compare samples with held-out data, in image space and in latent space.

    Three kinds of samples: the model's EBM prior ("ebm"), the same model's Gaussian base prior ("base"), and a
    Gaussian-prior model of the same networks ("gaussian"). Prior chains run at `step_size`, see `draw_prior`; images
    are compared on `features`, see `features_of`.
    """
    generator = torch.Generator(device).manual_seed(config.seed + _EVALUATION_SEED)
    held_out = data.test[:MAX_HELD_OUT].to(device)
    prior_z, chains = draw_prior(
        model,
        config.prior,
        NUM_SAMPLES,
        num_steps=config.sample_steps,
        generator=generator,
        step_size=step_size,
    )
    base_z = model.prior.base.sample(NUM_SAMPLES, generator=generator)
    posterior_z = posterior_draws(model, config, held_out, generator)
    # Without energies there is one prior, and nothing to call an EBM.
    priors = {"base": base_z} if config.scheme == "gaussian" else {"ebm": prior_z, "base": base_z}
    sets = {name: images(model, z, data.num_levels) for name, z in priors.items()}
    if baseline is not None:
        z = baseline.prior.base.sample(NUM_SAMPLES, generator=generator)
        sets["gaussian"] = images(baseline, z, data.num_levels)
    network = features_of(data, features, device=device)
    reference = network(held_out)
    figures = {name: _image_figures(network(drawn), reference) for name, drawn in sets.items()}
    for name, z in priors.items():
        figures[name] |= _latent_figures(z, posterior_z)
    report = {
        "num_samples": NUM_SAMPLES,
        "num_held_out": len(held_out),
        "num_per_side_of_forests": min(NUM_SAMPLES, len(held_out), FOREST_ROWS),
        **stated(network),
        "prior_chains": {
            "steps": config.sample_steps,
            "accept": float(chains.accept_prob.mean()),
            "divergent": int(chains.num_divergent.sum()),
            "step_size": float(chains.chains.params.step_size),
        },
        "reconstruction_error": _reconstruction_error(model, posterior_z, held_out),
        "summary": {f"{measure}/{name}": value for name, row in figures.items() for measure, value in row.items()},
    }
    some = tuple(part[:NUM_SHOWN] for part in posterior_z)
    return Evaluation(
        report,
        {name: drawn[: 2 * NUM_SHOWN].cpu() for name, drawn in sets.items()},
        (held_out[:NUM_SHOWN].cpu(), images(model, some, data.num_levels).cpu()),
    )


def table(summary: Mapping[str, float]) -> str:
    """The figures of `evaluate` as an aligned table, a row for each kind of samples."""
    names = {"ebm": "EBM prior", "base": "its Gaussian base prior", "gaussian": "Gaussian-prior model"}
    measures = list(dict.fromkeys(key.split("/")[0] for key in summary))
    lines = [f"{'samples from':26s}" + "".join(f"{measure:>24s}" for measure in measures)]
    for name, label in names.items():
        cells = [summary.get(f"{measure}/{name}") for measure in measures]
        if any(cell is not None for cell in cells):
            lines.append(f"{label:26s}" + "".join(f"{'-' if c is None else f'{c:.4f}':>24s}" for c in cells))
    return "\n".join([*lines, "Distances to held-out data: lower is better; 0.5 is the best accuracy."])


def _image_figures(ours: Array, theirs: Array) -> dict[str, float]:
    """Distances between features of samples and of held-out images, (N, D) and (M, D)."""
    return {
        "kernel_distance": kernel_distance(ours, theirs),
        "frechet_distance": frechet_distance(ours, theirs),
        "two_sample_accuracy": two_sample_accuracy(ours, theirs),
    }


def _latent_figures(prior: Latents, posterior: Latents) -> dict[str, float]:
    """Prior against aggregate posterior, every coordinate in units of the posterior's spread."""
    theirs = _flat(posterior)
    scale = np.maximum(theirs.std(0), 1e-6)
    ours, theirs = _flat(prior) / scale, theirs / scale
    return {
        "latent_kernel_distance": kernel_distance(ours, theirs),
        "latent_accuracy": two_sample_accuracy(ours, theirs),
    }


@torch.no_grad()
def _reconstruction_error(model: LatentEBM, z: Latents, x: Tensor) -> float:
    """Mean squared error per pixel, on the scale [-1, 1]."""
    return float((model.likelihood.mean(z) - x).square().mean())


def _flat(z: Latents) -> Array:
    return np.concatenate([rows(part) for part in z], axis=1)
