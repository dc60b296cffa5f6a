"""Draws after training: where their chains start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lamina.models import LatentEBM, Latents
from lamina.samplers import ULA
from lamina.trainers import ChainConfig, ImageData, TrainConfig, build_model, draw_posterior, draw_prior

STILL = ULA(step_size=1e-14)
"""Moves so little that a draw is where its chain started."""


@pytest.fixture
def model(make_config: Callable[..., TrainConfig], data: ImageData) -> LatentEBM:
    """Far from the standard normal: its base prior's draws are nobody's noise."""
    model = build_model(make_config().model, data.image_shape, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def expected(model: LatentEBM, x: torch.Tensor, space: str, start: str) -> Latents:
    """z of the start, without the sampler."""
    base = model.prior.base
    with torch.no_grad():
        if start == "encoder":
            assert model.inference is not None
            return model.inference(x, generator=seeded())[0]
        noise = base.noise(len(x), generator=seeded())
        return noise if (start, space) == ("noise", "z") else base.transform(noise)


@pytest.mark.parametrize("space", ["u", "z"])
@pytest.mark.parametrize("start", ["noise", "ancestral", "persistent"])
def test_prior_chains_start_where_they_did_in_training(
    model: LatentEBM, data: ImageData, space: Any, start: Any
) -> None:
    """From noise in their own space, or from the base prior, also where they persisted."""
    chains = ChainConfig(kernel=STILL, space=space, start=start)
    z, _ = draw_prior(model, chains, 5, num_steps=2, generator=seeded())
    torch.testing.assert_close(z, expected(model, data.test[:5], space, start), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("space", ["u", "z"])
@pytest.mark.parametrize("start", ["noise", "ancestral", "persistent", "encoder"])
def test_posterior_chains_start_where_they_did_in_training(
    model: LatentEBM, data: ImageData, space: Any, start: Any
) -> None:
    x = data.test[:5]
    chains = ChainConfig(kernel=STILL, space=space, start=start)
    z = draw_posterior(model, chains, x, num_steps=2, generator=seeded())
    torch.testing.assert_close(z, expected(model, x, space, start), atol=1e-5, rtol=1e-5)
