"""Which engine runs: names, what "auto" stands for, and what `explain` says beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.samplers import (
    HMC,
    MALA,
    NotTraceableError,
    RandomisedHMC,
    Samples,
    UnknownNameError,
    Windows,
    engines,
    explain,
    run,
    sample,
)
from lamina.samplers import energy as energy_module
from lamina.samplers.engines import COMPILE_FROM, compiling_pays, too_short
from lamina.samplers.native import trace
from lamina.samplers.native.program import Program

PRECISION = torch.tensor([[2.0, -1.5], [-1.5, 2.0]])


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * ((x @ PRECISION) * x).sum(-1)


class Wide(nn.Module):
    """A network whose numbers are too many to name."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.net(x).squeeze(-1) + 0.5 * x.square().sum(-1)
        return values


class Convolution(Wide):
    """A network that no program has a rule for."""

    def forward(self, x: Tensor) -> Tensor:
        filtered = nn.functional.conv1d(x.unsqueeze(1), torch.ones(1, 1, 3), padding=1).squeeze(1)
        return super().forward(filtered)


@pytest.fixture(autouse=True)
def _auto_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engines.DEFAULT_VARIABLE, raising=False)


@pytest.fixture
def start() -> Tensor:
    return torch.linspace(-1, 1, 10).reshape(5, 2)


@pytest.fixture
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CXX", "/nonexistent/compiler")


@pytest.mark.parametrize("call", [sample, run])
def test_unknown_names(call: Any, start: Tensor) -> None:
    steps = {"num_samples": 1} if call is sample else {"num_steps": 1}
    with pytest.raises(UnknownNameError, match=r"unknown engine 'nativ'\. Did you mean 'native'"):
        call(gaussian, MALA(), start, noise=0, engine="nativ", **steps)


@pytest.mark.parametrize(("device", "least"), COMPILE_FROM.items())
def test_compiling_pays_from_a_number_of_steps_on(device: str, least: int) -> None:
    assert not compiling_pays(least - 1, torch.device(device))
    assert compiling_pays(least, torch.device(device))
    assert f"{least - 1} steps are too few for compile to pay, which it does from {least} on" == too_short(
        least - 1, torch.device(device)
    )


def test_compiling_is_not_chosen_on_devices_without_experience() -> None:
    assert not compiling_pays(10**9, torch.device("mps"))
    assert too_short(10**9, torch.device("mps")) == "compile is not chosen on mps"


def test_small_energies_are_native(start: Tensor) -> None:
    explanation = explain(gaussian, HMC(), start)
    assert explanation.engine == "native"
    assert int(explanation.details["operations"]) > 20
    assert int(explanation.details["captured"].split()[0]) >= PRECISION.numel()
    again = explain(gaussian, HMC(), start)
    assert again.details == {**explanation.details, "cached": "yes"}
    result = sample(gaussian, HMC(), start, num_samples=2, noise=0)
    assert result.engine == explanation.reason
    assert str(again) == f"{result.engine}. " + " ".join(
        f"{name.capitalize()}: {what}." for name, what in again.details.items()
    )


def test_what_is_captured_counts_once(start: Tensor) -> None:
    """Each of the views is made anew wherever the energy names it."""

    def energy(x: Tensor) -> Tensor:
        away = (x - PRECISION[0]).square().sum(-1) + (x + PRECISION[0]).square().sum(-1)
        return away + (x * PRECISION[:, 0]).sum(-1) + (x * PRECISION.T[0]).sum(-1)

    assert explain(energy, HMC(), start).details["captured"] == "4 numbers"


def test_convolutions_are_eager_in_short_runs_and_compiled_in_long_ones(start: Tensor) -> None:
    energy, kernel = Convolution(), MALA(step_size=0.1)
    short, long = (explain(energy, kernel, start, num_steps=COMPILE_FROM["cpu"] + more) for more in (-1, 0))
    assert (short.engine, long.engine) == ("eager", "compile")
    for explanation in (short, long):
        assert "native is not possible: the operator aten.convolution has no rule" in str(explanation)
    result = sample(energy, kernel, start, num_samples=7, num_warmup=2, thinning=3, noise=0)
    assert result.engine == explain(energy, kernel, start, num_steps=23).reason
    assert result.engine.endswith("23 steps are too few for compile to pay, which it does from 20000 on")


@pytest.mark.parametrize("num_chains", [1, 5, 200])
def test_networks_are_native(num_chains: int, start: Tensor) -> None:
    energy, kernel, chains = Wide(), MALA(step_size=0.1), start.repeat(40, 1)[:num_chains]
    assert explain(energy, kernel, chains).engine == "native"
    found = [run(energy, kernel, chains, num_steps=5, noise=0, engine=name) for name in ("native", "eager")]
    torch.testing.assert_close(*(result.position for result in found), rtol=1e-4, atol=1e-4)


def test_networks_are_refused_before_their_products_are_written_down(
    start: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every run would begin with a tenth of a second of that, where each of their numbers is to have a name."""
    network = Wide()

    def energy(x: Tensor) -> Tensor:
        return network.net[:3](x).cumsum(1).square().mean(1)

    sizes: dict[Program, int] = {}
    expect = Program.expect

    def noted(program: Program, num_values: int) -> None:
        sizes[program] = program.num_values
        expect(program, num_values)

    monkeypatch.setattr(Program, "expect", noted)
    assert "it takes more than 12000 operations" in str(explain(energy, MALA(step_size=0.1), start))
    assert max(sizes.values()) < 5000


@pytest.mark.usefixtures("_no_compiler")
def test_no_compiler_is_a_reason(start: Tensor) -> None:
    explanation = explain(gaussian, HMC(), start, num_steps=10)
    assert explanation.engine == "eager"
    assert "/nonexistent/compiler" in explanation.reason


@pytest.mark.parametrize("name", ["eager", "compile"])
def test_the_environment_says_what_auto_is(name: str, start: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.DEFAULT_VARIABLE, name)
    explanation = explain(gaussian, HMC(), start, num_steps=10**6)
    assert (explanation.engine, str(explanation)) == (name, f"{name}: asked for by the environment.")
    if name == "eager":
        assert sample(gaussian, HMC(), start, num_samples=1, noise=0).engine.startswith("eager")


def test_the_environment_is_checked(start: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.DEFAULT_VARIABLE, "fast")
    with pytest.raises(UnknownNameError, match="unknown engine 'fast'"):
        explain(gaussian, HMC(), start)


def test_explaining_takes_chains_of_a_run_and_moves_nothing(start: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    before = start.clone()
    chains = run(gaussian, RandomisedHMC(), start, num_steps=2, generator=generator).chains
    state = generator.get_state()
    explain(gaussian, RandomisedHMC(), chains)
    explain(gaussian, RandomisedHMC(), start)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(start, before)


def test_a_mass_that_no_program_holds_lets_eager_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = torch.linspace(0.5, 2, 100, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return 0.5 * (x / scales).square().sum(-1)

    start = torch.randn(30, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel, windows = HMC(step_size=0.2, num_leapfrog_steps=3), Windows(mass="dense", pooled=True)

    def draw(engine: Any) -> Samples:
        return sample(energy, kernel, start, num_samples=4, num_warmup=40, adaptation=windows, noise=3, engine=engine)

    assert draw("auto").engine.startswith("native")
    monkeypatch.setattr(trace, "_MAX_IN_MATRICES", 9_999)
    switched, eager = draw("auto"), draw("eager")
    assert switched.engine.startswith("eager after a native start, since native is not possible")
    assert switched.chains.params.factor.shape == (100, 100)
    torch.testing.assert_close(switched.draws, eager.draws, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(switched.accept_prob, eager.accept_prob)
    with pytest.raises(NotTraceableError, match=r"matrices of 10000 numbers"):
        draw("native")


def test_explain_raises_what_sample_raises(start: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.DEFAULT_VARIABLE, "native")
    energy, kernel = Convolution(), MALA(step_size=0.1)
    with pytest.raises(NotTraceableError) as told:
        explain(energy, kernel, start)
    with pytest.raises(NotTraceableError) as raised:
        sample(energy, kernel, start, num_samples=2, noise=0)
    assert str(told.value) == str(raised.value)


class Cube(torch.autograd.Function):
    """An operation with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grads[0]


@pytest.mark.parametrize(
    "energy",
    [gaussian, Wide(), lambda x: Cube.apply(x).sum(-1) ** 2 + x.square().sum(-1)],
    ids=["gaussian", "network", "own-derivative"],
)
def test_gradients_are_those_of_the_public_function(
    energy: Any, start: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the eager engine calls instead, where PyTorch has it, gives the same bits, and leaves nothing behind."""
    assert energy_module._ENGINE is not None
    ours = sample(energy, MALA(step_size=0.01), start, num_samples=20, noise=1, engine="eager").draws
    monkeypatch.setattr(energy_module, "_ENGINE", None)
    theirs = sample(energy, MALA(step_size=0.01), start, num_samples=20, noise=1, engine="eager").draws
    assert torch.equal(ours, theirs)
    assert not isinstance(energy, nn.Module) or all(weight.grad is None for weight in energy.parameters())
