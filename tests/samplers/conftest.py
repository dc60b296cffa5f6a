"""What the tests of the samplers share; fixtures only, so that no test module imports another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lamina.samplers import HMC, MALA, ULA, Kernel


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors run faster on one thread, and bits then do not depend on the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _global_generator_is_left_alone() -> Iterator[None]:
    """No test, and so nothing that it calls, may draw from the global generator or seed it."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "drew from torch's global generator; pass generator="


@pytest.fixture(
    params=[
        ULA(step_size=0.1),
        MALA(step_size=0.3),
        HMC(step_size=0.4, num_leapfrog_steps=3),
        HMC(step_size=0.4, num_leapfrog_steps=3, jitter=0.5),
    ],
    ids=["ula", "mala", "hmc", "hmc-jitter"],
)
def kernel(request: pytest.FixtureRequest) -> Kernel[Any]:
    """Every kernel, with a step size for targets of unit scale."""
    chosen: Kernel[Any] = request.param
    return chosen
