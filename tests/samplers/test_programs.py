"""Programs that are kept between calls of `run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.samplers import GHMC, HMC, ULA, Chains, Kernel, Programs, run
from lamina.samplers.engines import DEFAULT_VARIABLE
from lamina.samplers.errors import NotTraceableError
from lamina.samplers.native import build, engine

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
MATRIX = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
SETTLED: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda x: SCALE.exp() * x.square().sum(-1),
    "normalised": lambda x: (x @ (MATRIX / MATRIX.norm())).square().sum(-1),
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


def test_views_are_kept(start: Tensor) -> None:
    matrix, programs = MATRIX.clone(), Programs()

    def energy(x: Tensor) -> Tensor:
        return (x @ matrix.T).square().sum(-1) + matrix[0, 0] * x.square().sum(-1) + (x * matrix.diagonal()).sum(-1)

    for _ in range(2):
        kept, eager = (
            run(energy, ULA(step_size=0.01), start, num_steps=3, noise=0, engine=name, programs=programs)
            for name in ("native", "eager")
        )
        torch.testing.assert_close(kept.position, eager.position)
        matrix *= 2
