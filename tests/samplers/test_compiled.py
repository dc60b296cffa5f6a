"""The compiled engine: step by step what the eager engine does, on live weights, with a clear word where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.samplers import (
    GHMC,
    HMC,
    MALA,
    MALT,
    NUTS,
    RWM,
    ULA,
    Barker,
    Kernel,
    NotTraceableError,
    RandomisedHMC,
    Samples,
    UnderdampedLangevin,
    engines,
    sample,
)
from lamina.samplers.testing import TARGETS, check_kernel

DIM, NUM_CHAINS, NUM_STEPS = 3, 6, 20
ROUNDING = 1e-10  # 20 float64 steps of size 0.1 or less on smooth energies, whose errors grow a few times over

KERNELS: dict[str, Kernel[Any]] = {
    "ula": ULA(step_size=0.02),
    "mala": MALA(step_size=0.05),
    "hmc": HMC(step_size=0.1, num_leapfrog_steps=3, jitter=0.2),
    "barker": Barker(step_size=0.2),
    "ghmc": GHMC(step_size=0.1),
    "underdamped": UnderdampedLangevin(step_size=0.1),
}


class Network(nn.Module):
    """A network's energy with a Gaussian base; with a context, of the distance from it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.Linear(16, 1)).double()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        away = x if context is None else x - context
        values: Tensor = self.net(x).squeeze(-1) + 0.5 * away.square().sum(-1)
        return values


def mixture(x: Tensor) -> Tensor:
    """Two Gaussians, one of them twice as likely."""
    apart = torch.stack([(x - 1).square().sum(-1), (x + 1).square().sum(-1) - 1.4], dim=-1)
    return -torch.logsumexp(-0.5 * apart, dim=-1)


def branching(x: Tensor) -> Tensor:
    """An energy whose course depends on values."""
    return 0.5 * x.square().sum(-1) if float(x.detach().sum()) > 1e6 else x.square().sum(-1)


@pytest.fixture(scope="module")
def network() -> Network:
    """One for all tests, so that each kernel is compiled once."""
    return Network()


@pytest.fixture(autouse=True)
def _auto_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engines.DEFAULT_VARIABLE, raising=False)


def starts(num_chains: int = NUM_CHAINS) -> Tensor:
    return torch.linspace(-1, 1, num_chains * DIM, dtype=torch.float64).reshape(num_chains, DIM)


def draw(energy: Any, kernel: Kernel[Any], engine: engines.EngineName, **options: Any) -> Samples:
    options = {"noise": 5, "collect": kernel.info_fields, "num_samples": NUM_STEPS} | options
    return sample(energy, kernel, options.pop("initial", starts()), engine=engine, **options)


def assert_same(one: Samples, other: Samples) -> None:
    """The same course, up to rounding."""
    torch.testing.assert_close(one.draws, other.draws, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(one.info, other.info, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(one.accept_prob, other.accept_prob, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(dict(one.chains.memory), dict(other.chains.memory), rtol=0, atol=ROUNDING)
    assert torch.equal(one.num_grad_evals, other.num_grad_evals)
    assert one.chains.num_steps == other.chains.num_steps


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_agrees_with_eager_on_a_network(network: Network, kernel: Kernel[Any]) -> None:
    compiled = draw(network, kernel, "compile")
    assert compiled.engine == "compile: each step is one compiled graph"
    assert_same(compiled, draw(network, kernel, "eager"))


@pytest.mark.parametrize(
    "name",
    ["mala", *(pytest.param(name, marks=pytest.mark.matrix) for name in KERNELS if name != "mala")],
)
def test_agrees_with_eager_on_a_density(name: str) -> None:
    kernel = KERNELS[name]
    assert_same(draw(mixture, kernel, "compile"), draw(mixture, kernel, "eager"))


INDEX = torch.tensor([[2, 0, 2]])
SCALES = torch.tensor([[0.5, 9.0], [1.0, 9.0], [2.0, 9.0]], dtype=torch.float64)[:, 0]  # every other number in memory

ENERGIES: dict[str, Any] = {
    "choices": lambda x: torch.where(x > 0, x.square(), 0.5 * x.square()).sum(-1),
    "gathered and scaled": lambda x: (
        (x.gather(1, INDEX.expand(len(x), 3)).square() / SCALES).sum(-1) + x.square().sum(-1)
    ),
}


@pytest.mark.parametrize("energy", ENERGIES.values(), ids=ENERGIES)
def test_agrees_with_eager_on_the_forms_of_energies(energy: Any) -> None:
    assert_same(draw(energy, KERNELS["ula"], "compile"), draw(energy, KERNELS["ula"], "eager"))


def test_numbers_and_buffers_that_change_are_seen() -> None:
    class Ring(nn.Module):
        """A buffer and a number that are no parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("width", torch.tensor(0.5, dtype=torch.float64))
            self.radius = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return ((x.square().sum(-1) - self.radius) / self.width).square()

    ring, kernel = Ring(), ULA(step_size=0.002)
    before = draw(ring, kernel, "compile")
    ring.width.fill_(0.7)  # type: ignore[operator]
    ring.radius = 1.5
    after = draw(ring, kernel, "compile")
    assert_same(after, draw(ring, kernel, "eager"))
    assert not torch.allclose(before.draws, after.draws)  # type: ignore[arg-type]


BATTERY: dict[str, Kernel[Any]] = {
    "mala": MALA(),
    "rwm": RWM(),
    "barker": Barker(),
    "hmc": HMC(num_leapfrog_steps=4),
    "ghmc": GHMC(),
    "malt": MALT(num_leapfrog_steps=4),
}
NUM_REPORTS = 10  # upper bound on the reports below, the matrix included


@pytest.mark.parametrize(
    "name", ["mala", *(pytest.param(name, marks=pytest.mark.matrix) for name in BATTERY if name != "mala")]
)
def test_battery(name: str) -> None:
    """Steps differ from eager's in their rounding alone, and that may decide: so the law is looked at as well."""
    check_kernel(
        BATTERY[name],
        targets=[TARGETS["funnel"]],
        engine="compile",
        dtype=torch.float32,
        false_alarm=1e-6 / NUM_REPORTS,
    ).assert_passed()


def test_values_that_change_compile_nothing(network: Network) -> None:
    """Weights, step sizes and temperatures are inputs of the graph, in every run."""
    kernel = KERNELS["ula"]
    before = draw(network, kernel, "compile", temperature=2.0)
    with torch.no_grad():
        network.net[0].weight.mul_(1.5)  # type: ignore[operator, union-attr]
    params = kernel.init_params(starts(), step_size=0.01)
    changed = {"temperature": 3.0, "params": params}
    with torch.compiler.set_stance("fail_on_recompile"):
        after = draw(network, kernel, "compile", **changed)
    assert_same(after, draw(network, kernel, "eager", **changed))
    assert not torch.allclose(before.draws, after.draws)  # type: ignore[arg-type]


def test_a_generator_draws_what_it_draws_for_eager(network: Network) -> None:
    results = [
        draw(network, KERNELS["ula"], engine, noise=None, generator=torch.Generator().manual_seed(1))
        for engine in ("compile", "eager")
    ]
    assert_same(*results)


def test_products_in_bfloat16_by_autocast_as_eager_makes_them() -> None:
    """In float32 but for the products: close to eager, whose roundings fall elsewhere, and not what float32 gives."""
    network, x = Network().float(), starts().float()

    def energy(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    compiled, eager = (draw(energy, KERNELS["ula"], engine, initial=x) for engine in ("compile", "eager"))
    exact = draw(network, KERNELS["ula"], "eager", initial=x)
    assert compiled.engine == "compile: each step is one compiled graph"
    assert isinstance(compiled.draws, Tensor)
    assert compiled.draws.dtype == compiled.info["energy"].dtype == torch.float32
    torch.testing.assert_close(compiled.draws, eager.draws, rtol=0, atol=1e-2)
    assert not torch.equal(compiled.draws, exact.draws)  # type: ignore[arg-type]


def test_contexts_and_batches_of_chains(network: Network) -> None:
    temperatures = torch.linspace(1, 2, NUM_CHAINS)
    options = {"context": 0.3 * starts(), "chain_batch_size": NUM_CHAINS // 2, "temperature": temperatures}
    assert_same(*(draw(network, KERNELS["ula"], engine, **options) for engine in ("compile", "eager")))


def test_warmup_changes_parameters_under_way(network: Network) -> None:
    options = {"num_warmup": 20, "num_samples": 5}
    assert_same(*(draw(network, KERNELS["mala"], engine, **options) for engine in ("compile", "eager")))


@pytest.mark.parametrize(
    ("energy", "kernel", "why"),
    [
        (mixture, NUTS(), "NUTS finds out on the way how much noise a step needs"),
        (mixture, RandomisedHMC(), "steps of RandomisedHMC take as long as values say"),
        (branching, ULA(), "from torch.compile: "),
    ],
    ids=["nuts", "randomised-hmc", "branching"],
)
def test_what_cannot_be_compiled(energy: Any, kernel: Kernel[Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name an error that says why; "auto" says it in the result, and has moved no generator."""
    with pytest.raises(NotTraceableError, match=why):
        draw(energy, kernel, "compile")
    monkeypatch.setattr(engines, "COMPILE_FROM", {"cpu": 1})
    monkeypatch.setenv("LAMINA_CXX", "/nonexistent/compiler")  # so that native is out
    results = [
        draw(energy, kernel, engine, num_samples=3, noise=None, generator=torch.Generator().manual_seed(1))
        for engine in ("auto", "eager")
    ]
    assert why in results[0].engine
    assert results[0].engine.startswith("eager, since native is not possible")
    assert torch.equal(results[0].draws, results[1].draws)  # type: ignore[arg-type]


def test_auto_compiles_long_runs_of_networks(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "COMPILE_FROM", {"cpu": NUM_STEPS})
    monkeypatch.setenv("LAMINA_CXX", "/nonexistent/compiler")
    result = draw(network, KERNELS["ula"], "auto")
    assert result.engine.startswith("compile: each step is one compiled graph; native is not possible: ")
    short = draw(network, KERNELS["ula"], "auto", num_samples=NUM_STEPS - 1)
    assert short.engine.endswith("19 steps are too few for compile to pay, which it does from 20 on")
    torch.testing.assert_close(result.draws[:, :-1], short.draws, rtol=0, atol=ROUNDING)  # type: ignore[index]


def test_no_global_setting_is_changed(network: Network) -> None:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    before = dynamo.get_config_copy(), inductor.get_config_copy()  # type: ignore[attr-defined]
    draw(network, KERNELS["ula"], "compile")
    assert (dynamo.get_config_copy(), inductor.get_config_copy()) == before  # type: ignore[attr-defined]
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
