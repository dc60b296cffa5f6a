"""What the tests of the samplers share, as fixtures, so that no test module imports another."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.samplers import HMC, MALA, ULA, Kernel
from lamina.samplers.native import build


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


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are compiled, or found compiled, during a test."""
    seen: list[str] = []
    load = build.load
    monkeypatch.setattr(build, "load", lambda source: (seen.append(source), load(source))[1])
    return seen
