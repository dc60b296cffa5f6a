"""Draws from a trained model: prior chains to convergence, posterior chains, images."""

from __future__ import annotations

import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers import Samples, sample
from lamina.samplers.checks import check_count

from .config import ChainConfig


def draw_prior(
    model: LatentEBM,
    chains: ChainConfig,
    num: int,
    *,
    num_steps: int,
    generator: torch.Generator,
    step_size: Tensor | None = None,
) -> tuple[Latents, Samples]:
    """Draw latents from the joint EBM prior, one chain each, from where `prior_start` says.

    Args:
        model: The model.
        chains: Kernel, space and start.
        num: Chains.
        num_steps: Steps of each.
        generator: Source of randomness, on the model's device.
        step_size: What training arrived at; all steps run with it. None adapts it in the first half of the steps,
            and freezes it in the second.

    Returns:
        z, (num, *event_i) per layer, and how the chains did.
    """
    check_count("the number of steps", num_steps, 1)
    start = prior_start(model, chains, num, generator=generator)
    result = _last_draw(model.prior.energy(chains.space), chains, start, None, num_steps, generator, step_size)
    return _latents(model, chains, result), result


def prior_start(model: LatentEBM, chains: ChainConfig, num: int, *, generator: torch.Generator) -> Latents:
    """Where chains start after training, (num, *event_i) per layer in their space.

    Standard normal noise in that space, where they did so in training: what short chains draw depends on it. Else
    draws of the base prior, also in place of chains that persisted, of which there are too few to go on from.
    """
    if chains.start == "noise":
        return model.prior.base.noise(num, generator=generator)
    return model.prior.from_latents(model.prior.base.sample(num, generator=generator), chains.space)


def draw_posterior(
    model: LatentEBM, chains: ChainConfig, x: Tensor, *, num_steps: int, generator: torch.Generator
) -> Latents:
    """Draw latents given data, one for each row of x, by chains.

    They start from the inference model's draw where the chains say so, else as those on the prior.
    """
    if chains.start == "encoder" and model.inference is not None:
        with torch.no_grad():
            z, _ = model.inference(x, generator=generator)
        start = model.prior.from_latents(z, chains.space)
    else:
        start = prior_start(model, chains, len(x), generator=generator)
    result = _last_draw(model.posterior_energy(chains.space), chains, start, x, num_steps, generator)
    return _latents(model, chains, result)


@torch.no_grad()
def images(model: LatentEBM, z: Latents, num_levels: int) -> Tensor:
    """Mean images of latents, rounded to the data's grey levels, so that rounding tells nobody apart."""
    mean = model.likelihood.mean(z).clamp(-1, 1)
    steps = (num_levels - 1) / 2
    return ((mean + 1) * steps).round() / steps - 1


def _last_draw(
    energy: object,
    chains: ChainConfig,
    start: Latents,
    x: Tensor | None,
    num_steps: int,
    generator: torch.Generator,
    step_size: Tensor | None = None,
) -> Samples:
    num_warmup = num_steps // 2 if step_size is None else 0
    return sample(
        energy,  # type: ignore[arg-type]
        chains.kernel,
        start,
        num_samples=1,
        num_warmup=num_warmup,
        thinning=num_steps - num_warmup,
        context=x,
        generator=generator,
        params=chains.kernel.init_params(start, step_size=step_size),
        collect=("energy",),
        show_progress=False,
    )


@torch.no_grad()
def _latents(model: LatentEBM, chains: ChainConfig, result: Samples) -> Latents:
    position = result.chains.position
    assert isinstance(position, tuple)
    return model.prior.to_latents(position, chains.space)
