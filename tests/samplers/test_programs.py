"""Programs that are kept between calls of `run`."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.samplers import GHMC, HMC, ULA, Chains, Kernel, Programs, run
from lamina.samplers.engines import DEFAULT_VARIABLE
from lamina.samplers.errors import NotTraceableError
from lamina.samplers.native import build, engine, trace

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")


class Network(nn.Module):
    """An energy with weights of all lengths: 3 x 40, 40 x 50, 50 x 1."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Linear(3, 40), nn.SiLU(), nn.Linear(40, 50), nn.LeakyReLU(0.2), nn.Linear(50, 1)
            self.net = nn.Sequential(*layers).double()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.net(x).squeeze(-1) + self.scale * x.square().sum(-1)
        return values


@pytest.fixture
def start() -> Tensor:
    return torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(10, 3)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was traced, one after the other."""
    subjects: list[object] = []
    write = engine.write

    def noted(subject: Any) -> Any:
        subjects.append(subject)
        return write(subject)

    monkeypatch.setattr(engine, "write", noted)
    monkeypatch.delenv(DEFAULT_VARIABLE, raising=False)
    return subjects


@pytest.mark.parametrize("kernel", [ULA(step_size=0.01), HMC(step_size=0.1, jitter=0.2), GHMC(step_size=0.1)])
def test_weights_may_change_and_nothing_is_traced_again(
    kernel: Kernel[Any], start: Tensor, written: list[object]
) -> None:
    energy, programs = Network(), Programs()
    optimiser = torch.optim.SGD(energy.parameters(), lr=0.5)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    positions = [start, start]
    for i in range(4):
        kept, fresh = (
            run(energy, kernel, position, num_steps=5, generator=generator, engine="native", programs=store)
            for position, generator, store in zip(positions, generators, (programs, None), strict=True)
        )
        assert isinstance(kept.position, Tensor)
        assert isinstance(fresh.position, Tensor)
        assert kept.engine.startswith("native")
        torch.testing.assert_close(kept.position, fresh.position, rtol=0, atol=0)
        torch.testing.assert_close(kept.energy, fresh.energy, rtol=0, atol=0)
        torch.testing.assert_close(kept.accept_prob, fresh.accept_prob, rtol=0, atol=0)
        assert len(written) == 2 + i  # the fresh ones, and once what is kept
        positions = [kept.position, fresh.position]
        optimiser.zero_grad()
        energy(kept.position).mean().backward()
        optimiser.step()


def test_chains_go_on(start: Tensor, written: list[object]) -> None:
    """Those of a kernel with a memory as well, with other parameters, and with other rows of a context."""
    energy, programs = Network(), Programs()

    def moved(position: Tensor, rows: Tensor) -> Tensor:
        return energy(position + rows)

    kernel, rows = GHMC(step_size=0.1), torch.zeros(10, 3, dtype=torch.float64)
    results: list[Chains] = []
    for store in (programs, None):
        chains: Any = start
        for i in range(3):
            params = kernel.init_params(start)._replace(step_size=torch.tensor(0.1 - 0.02 * i, dtype=torch.float64))
            chains = run(
                moved,
                kernel,
                chains,
                num_steps=3,
                context=rows + i,
                params=params,
                noise=None if i else 5,
                engine="native",
                programs=store,
            ).chains
        results.append(chains)
    kept, fresh = results
    assert torch.equal(kept.matrix, fresh.matrix)
    assert all(torch.equal(kept.memory[name], fresh.memory[name]) for name in fresh.memory)
    assert len(written) == 1 + 3


def test_what_has_a_say_in_a_program_makes_another(start: Tensor, written: list[object]) -> None:
    energy, programs = Network(), Programs()
    situations: list[tuple[Kernel[Any], Tensor, dict[str, Any]]] = [
        (ULA(step_size=0.01), start, {}),
        (ULA(step_size=0.02), start, {}),
        (ULA(step_size=0.01), start[:4], {}),
        (ULA(step_size=0.01), start, {"temperature": 2.0}),
        (ULA(step_size=0.01), start, {"temperature": torch.linspace(1, 2, 10, dtype=torch.float64)}),
        (ULA(step_size=0.01), start, {"summarise": False}),
        (ULA(step_size=0.03), start, {"record_energies": True}),
        (HMC(step_size=0.01, num_leapfrog_steps=2), start, {}),
    ]
    for _ in range(2):
        for kernel, position, options in situations:
            kept, fresh = (
                run(energy, kernel, position, num_steps=2, noise=0, engine="native", programs=store, **options)
                for store in (programs, None)
            )
            assert isinstance(kept.position, Tensor)
            assert isinstance(fresh.position, Tensor)
            assert torch.equal(kept.position, fresh.position)
            assert kept.energies is None or torch.equal(kept.energies, fresh.energies)
    assert len(written) == 3 * len(situations)


def test_no_steps_at_all_have_energies(start: Tensor) -> None:
    programs = Programs()
    for position in (start, start + 1):
        run(Network(), ULA(step_size=0.01), position, num_steps=1, noise=0, engine="native", programs=programs)
        stands = run(Network(), ULA(step_size=0.01), position, num_steps=0, noise=0, engine="native", programs=programs)
        torch.testing.assert_close(stands.energy, Network()(position).detach())


SCALE = torch.tensor(2.0, dtype=torch.float64)
INDICES = torch.tensor([2, 0, 1])
MATRIX = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3) + torch.eye(3, dtype=torch.float64)
SETTLED: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda x: SCALE.exp() * x.square().sum(-1),
    "normalised": lambda x: (x @ (MATRIX / MATRIX.norm())).square().sum(-1),
    "constant": lambda x: (x @ torch.linalg.solve(MATRIX, torch.eye(3, dtype=x.dtype))).square().sum(-1),
    "angle": lambda x: (x * torch.atan2(torch.ones(3, dtype=x.dtype), MATRIX[0])).square().sum(-1),
    "value": lambda x: float(SCALE) * x.square().sum(-1),
    "branch": lambda x: x.square().sum(-1) if SCALE > 0 else x.sum(-1),
    "integers": lambda x: x[:, INDICES].square().sum(-1),
    "many-integers": lambda x: (torch.arange(50) * x[:, :1]).square().mean(-1) + x.square().sum(-1),
}


@pytest.mark.parametrize("name", SETTLED)
def test_what_would_not_see_a_change_is_not_kept(name: str, start: Tensor, written: list[object]) -> None:
    programs, energy, kernel = Programs(), SETTLED[name], ULA(step_size=0.01)
    for _ in range(2):
        with pytest.raises(NotTraceableError, match="from captured tensors alone"):
            run(energy, kernel, start, num_steps=1, noise=0, engine="native", programs=programs)
        result = run(energy, kernel, start, num_steps=1, noise=0, engine="auto", programs=programs)
        assert result.engine.startswith("eager, since native is not possible: the energy works something out from")
    assert len(written) == 1
    run(energy, kernel, start, num_steps=1, noise=0, engine="native")


def test_a_start_where_nothing_is_finite_says_nothing_of_the_next(start: Tensor, written: list[object]) -> None:
    programs, kernel = Programs(), ULA(step_size=0.01)
    for position in (torch.full_like(start, math.nan), start):
        result = run(Network(), kernel, position, num_steps=1, noise=0, engine="auto", programs=programs)
        assert result.engine.startswith("native") == bool(position.isfinite().all())


def test_views_are_kept(start: Tensor, written: list[object]) -> None:
    """Of short axes and of long ones, which are read where they lie."""
    matrix, programs = torch.linspace(-1, 1, 40 * 50, dtype=torch.float64).reshape(40, 50), Programs()

    def energy(x: Tensor) -> Tensor:
        hidden = (x @ matrix[:40:20, 7:].T[:3, :2] @ matrix[:2]).tanh()
        return (hidden @ matrix.T).square().mean(-1) + (x * matrix.diagonal()[:3]).sum(-1) + x.square().sum(-1)

    for _ in range(3):
        kept, eager = (
            run(energy, ULA(step_size=0.01), start, num_steps=3, noise=0, engine=name, programs=programs)
            for name in ("native", "eager")
        )
        torch.testing.assert_close(kept.position, eager.position)
        matrix *= 1.1
    assert len(written) == 1


def test_a_context_of_another_order_makes_another_program(start: Tensor, written: list[object]) -> None:
    programs, rows = Programs(), {"low": start - 1, "high": 2 * start}

    def energy(x: Tensor, context: dict[str, Tensor]) -> Tensor:
        return (x - context["low"]).square().sum(-1) + (x - context["high"]).abs().sum(-1)

    for context in (rows, dict(reversed(rows.items())), rows):
        kept, eager = (
            run(
                energy, ULA(step_size=0.1), start, num_steps=3, noise=0, context=context, engine=name, programs=programs
            )
            for name in ("native", "eager")
        )
        torch.testing.assert_close(kept.position, eager.position)
    assert len(written) == 2


def test_refusals_are_of_what_was_refused(
    start: Tensor, written: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of other parameters, nor of numbers in a context that do not fit."""
    monkeypatch.setattr(trace, "_MAX_IN_MATRICES", 40 * 40 - 1)
    programs, kernel = Programs(), HMC(step_size=0.1)
    wide, rows = start.repeat(1, 14)[:, :40], torch.ones(10, 1, dtype=torch.int64)

    def energy(x: Tensor, context: Tensor) -> Tensor:
        return 0.5 * (x * context).square().sum(-1)

    def engine_of(inverse_mass: Tensor, context: Tensor) -> str:
        params = kernel.init_params(wide, inverse_mass=inverse_mass)
        options: Any = {"context": context, "params": params, "noise": 0, "engine": "auto", "programs": programs}
        return run(energy, kernel, wide, num_steps=1, **options).engine.split()[0].strip(",:")

    dense, diagonal = torch.eye(40, dtype=torch.float64) + 0.1, torch.linspace(1, 2, 40, dtype=torch.float64)
    assert [engine_of(dense, rows) for _ in range(3)] == ["eager"] * 3
    assert len(written) == 1
    assert engine_of(diagonal, rows * 2**40) == "eager"
    assert [engine_of(diagonal, rows) for _ in range(3)] == ["native"] * 3


def test_no_compiler_is_found_missing_once(
    start: Tensor, written: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs()
    monkeypatch.setenv("LAMINA_CXX", "/nonexistent/compiler")
    monkeypatch.setenv("LAMINA_CACHE", "/nonexistent/cache")
    for _ in range(3):
        result = run(Network(), ULA(step_size=0.01), start, num_steps=1, noise=0, engine="auto", programs=programs)
        assert result.engine.startswith("eager")
    assert len(written) == 1


@dataclass(frozen=True, kw_only=True)
class Listed(ULA):
    """A kernel that has no hash."""

    names: list[str] = field(default_factory=list)


def test_kernels_that_cannot_be_told_apart_are_not_kept(start: Tensor, written: list[object]) -> None:
    result = run(Network(), Listed(step_size=0.1), start, num_steps=1, noise=0, engine="auto", programs=Programs())
    assert "cannot be told from other kernels" in result.engine
    assert not written


def test_few_programs_are_kept_and_copies_are_empty(start: Tensor, written: list[object]) -> None:
    programs = Programs()
    for i in range(33):
        programs.keep(i, i)
    assert (programs.found(0), programs.found(1)) == (None, 1)
    run(Network(), ULA(step_size=0.1), start, num_steps=1, noise=0, engine="native", programs=programs)
    for copied in (copy.deepcopy(programs), pickle.loads(pickle.dumps(programs))):
        assert copied.found(32) is None
        run(Network(), ULA(step_size=0.1), start, num_steps=1, noise=0, engine="native", programs=copied)
    assert len(written) == 3
