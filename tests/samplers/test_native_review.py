"""What tried to break the native engine: odd energies, threads, forks, very long runs; eager is the judge."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import HMC, Chains, EnergyError, Kernel, NotTraceableError, UnderdampedLangevin, run, sample
from lamina.samplers.engines import DEFAULT_VARIABLE, EngineName
from lamina.samplers.native import build, processor, writing

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")


@pytest.fixture(autouse=True)
def _auto_means_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_VARIABLE, raising=False)


LEAPFROG = HMC(step_size=0.1, num_leapfrog_steps=2)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def start(num_chains: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_chains, dim, generator=torch.Generator().manual_seed(0), dtype=dtype)


def draws(energy: Callable[[Tensor], Tensor], x: Tensor | Chains, name: EngineName) -> tuple[Tensor, str]:
    samples = sample(energy, LEAPFROG, x, num_samples=4, noise=None if isinstance(x, Chains) else 1, engine=name)
    assert isinstance(samples.draws, Tensor)
    return samples.draws, samples.engine


# --- Energies --------------------------------------------------------------------------------------------------------


def of_one_chain(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum().reshape(1)


def of_seven_chains(x: Tensor) -> Tensor:
    if len(x) != 7:
        raise AssertionError  # as a bare assert does; pytest would add words to one
    return quadratic(x)


@pytest.mark.parametrize(
    ("energy", "num_chains", "reason"),
    [(of_one_chain, 1, "EnergyError while tracing: an energy"), (of_seven_chains, 7, "AssertionError while tracing;")],
)
def test_what_fails_for_other_numbers_of_chains_runs_eagerly(
    energy: Callable[[Tensor], Tensor], num_chains: int, reason: str
) -> None:
    x = start(num_chains)
    chosen, why = draws(energy, x, "auto")
    assert reason in why
    assert torch.equal(chosen, draws(energy, x, "eager")[0])
    with pytest.raises(NotTraceableError, match="while tracing"):
        draws(energy, x, "native")


def test_an_energy_may_be_a_view_of_the_position() -> None:
    x = start(5)
    torch.testing.assert_close(draws(lambda x: x[:, 0], x, "native")[0], draws(lambda x: x[:, 0], x, "eager")[0])


@pytest.mark.parametrize("dim", [3, 40])
def test_zeros_of_both_signs(dim: int) -> None:
    """One over them is infinite either way, and the sigmoid of that 1 or 0."""
    alternating = torch.arange(dim) % 2 == 0

    def energy(x: Tensor) -> Tensor:
        by_sign = torch.where(x > 0, 0.0, -0.0)
        either = torch.where(x > 0, x.square(), 0.0) * torch.where(x > 0, x.square(), -0.0)
        by_place = torch.where(alternating, torch.zeros(dim), -torch.zeros(dim))
        steps = torch.sigmoid(1 / by_sign) + torch.sigmoid(1 / by_place) + torch.sigmoid(1 / either)
        return quadratic(x) + steps.sum(1)

    native, eager = (
        sample(energy, LEAPFROG, start(5, dim), num_samples=4, noise=1, engine=name, collect=("energy",))
        for name in ("native", "eager")
    )
    torch.testing.assert_close(native.draws, eager.draws)
    torch.testing.assert_close(native.info["energy"], eager.info["energy"])


def test_float32_at_a_temperature_for_each_chain() -> None:
    x, temperature = start(7, dtype=torch.float32), torch.linspace(0.5, 2, 7)
    native, eager = (
        sample(
            quadratic,
            LEAPFROG,
            x,
            num_samples=4,
            noise=1,
            temperature=temperature,
            collect=("energy",),
            engine=name,
        )
        for name in ("native", "eager")
    )
    torch.testing.assert_close(native.draws, eager.draws)
    torch.testing.assert_close(native.info["energy"], eager.info["energy"])


def test_a_constant_that_is_nan_moves_no_chain() -> None:
    constant = torch.tensor(math.nan, dtype=torch.float64)
    x = start(5)
    result = run(lambda x: quadratic(x) + constant, LEAPFROG, x, num_steps=3, noise=1, engine="auto")
    assert torch.equal(result.position, x)
    assert "no chain stands where its energy is finite" in result.engine


def test_a_refusal_says_why_neither_loops_nor_names_will_do() -> None:
    with pytest.raises(NotTraceableError, match="index into a long axis; and with every entry named, it takes more"):
        draws(lambda x: x[:, torch.arange(900).flip(0)].square().sum(1), start(2, 900), "native")


# --- Memory, threads, processes, length ------------------------------------------------------------------------------


def test_what_is_remembered_of_programs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_MAX_CHECKED", 2)
    monkeypatch.setattr(writing, "_checked", set())
    for factor in (1.5, 2.5, 3.5, 4.5):
        draws(lambda x, factor=factor: factor * quadratic(x), start(3), "native")
        assert 1 <= len(writing._checked) <= 2


def test_threads_trace_side_by_side() -> None:
    """Rules of operators that are made of others, and an axis to loop over: both ask which tracer is active."""

    def draw(shift: float) -> Tensor:
        def energy(x: Tensor) -> Tensor:
            both = torch.logaddexp(x * shift, torch.nn.functional.logsigmoid(x))
            return quadratic(x - shift) + both.sum(1) + torch.nn.functional.softplus(x.tanh()).sum(1)

        return draws(energy, start(3, 40), "native")[0]

    shifts = [0.5, 1.5, 2.5] * 2
    alone = [draw(shift) for shift in shifts[:3]] * 2
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(draw, shifts))
    finally:
        sys.setswitchinterval(interval)
    assert all(map(torch.equal, together, alone))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    done: list[tuple[int, int]] = []
    processor._in_threads(lambda begin, end: done.append((begin, end)), 1000, 256)
    assert sorted(done) == [(0, 512), (512, 1000)]
    child = os.fork()
    if child == 0:
        processor._in_threads(lambda begin, end: None, 1000, 256)  # with the parent's threads, it waits for ever
        os._exit(0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked process hangs")


@pytest.mark.parametrize("num_steps", [2**31 - 2, 2**32 - 4])
def test_steps_beyond_31_bits(num_steps: int) -> None:
    x = start(3, 2)
    chains = replace(run(quadratic, LEAPFROG, x, num_steps=0, noise=1).chains, num_steps=num_steps)
    assert torch.equal(chains.matrix, x)
    torch.testing.assert_close(draws(quadratic, chains, "native")[0], draws(quadratic, chains, "eager")[0])


@pytest.mark.parametrize("kernel", [LEAPFROG, UnderdampedLangevin(step_size=0.1)], ids=["plain", "with a memory"])
def test_of_many_chains_some_are_compared(kernel: Kernel[Any]) -> None:
    """Plain torch sees 834 of 2,500 chains, where they start and beside it; all where there is a memory to begin."""
    sizes: list[int] = []

    def energy(x: Tensor) -> Tensor:
        if type(x) is Tensor:
            sizes.append(len(x))
        return quadratic(x)

    result = run(energy, kernel, start(2500, 2), num_steps=2, noise=1, engine="native", record_energies=True)
    assert sizes == ([834, 834] if kernel is LEAPFROG else [834, 2500, 834])
    assert result.engine.startswith("native")
    assert result.energies is not None
    torch.testing.assert_close(result.energies[:, 0], quadratic(start(2500, 2)))


def test_an_energy_of_these_very_chains_says_what_it_is() -> None:
    """It does not take some of them alone."""
    rows = start(2500, 2)

    def energy(x: Tensor) -> Tensor:
        return (x - rows).square().sum(1)

    assert run(energy, LEAPFROG, rows, num_steps=1, noise=1, engine="auto").engine.startswith("eager, since native")


def test_a_start_that_will_not_do_is_the_reason() -> None:
    with pytest.raises(EnergyError, match="every chain must start where the energy is finite; 5 of 5 do not"):
        sample(quadratic, LEAPFROG, torch.full((5, 2), torch.inf), num_samples=1, noise=1, engine="native")
    one_is_lost = start(2500, 2)
    one_is_lost[1] = torch.nan
    with pytest.raises(EnergyError, match="1 of 2500 do not, first chain 1 with nan"):
        sample(quadratic, LEAPFROG, one_is_lost, num_samples=1, noise=1, engine="native")
