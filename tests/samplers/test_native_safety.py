"""What the native engine refuses, what it notices, and what it leaves alone."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Exponential
from torch.nn import functional

from lamina.samplers import HMC, MALA, CounterNoise, GeneratorNoise, ReplayNoise, run, sample
from lamina.samplers.engines import DEFAULT_VARIABLE
from lamina.samplers.errors import BuildError, NotTraceableError
from lamina.samplers.native import build, writing
from lamina.samplers.native.engine import _beside
from lamina.samplers.native.operators import RULES

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

KERNEL = MALA(step_size=0.2)


def start(num_chains: int = 8, dim: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_chains, dim, generator=torch.Generator().manual_seed(5), dtype=dtype)


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def native(energy: Any, x: Tensor | None = None, **options: Any) -> Tensor:
    """Where the chains are after some steps of the native engine."""
    options = {"num_steps": 10, "noise": 1, **options}
    result = run(energy, KERNEL, start() if x is None else x, engine="native", **options)
    return result.chains.matrix


def eager(energy: Any, x: Tensor | None = None, **options: Any) -> Tensor:
    options = {"num_steps": 10, "noise": 1, **options}
    return run(energy, KERNEL, start() if x is None else x, engine="eager", **options).chains.matrix


@pytest.fixture
def any_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are chosen as they are for users, not as the other tests have it."""
    monkeypatch.delenv(DEFAULT_VARIABLE, raising=False)


# --- Refusals --------------------------------------------------------------------------------------------------------

COUNTER = torch.zeros(3, dtype=torch.float64)
WEIGHTS = torch.ones(3, dtype=torch.float64)
LARGE = torch.ones(200, 200, dtype=torch.float64)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def branches(x: Tensor) -> Tensor:
    return gaussian(x) if x.sum() > 0 else 2 * gaussian(x)


def counts(x: Tensor) -> Tensor:
    COUNTER.add_(1)
    return gaussian(x)


def counts_by_view(x: Tensor) -> Tensor:
    COUNTER[1:].mul_(2)
    return gaussian(x)


def writes_before_reading(x: Tensor) -> Tensor:
    shift = WEIGHTS * 2
    first = gaussian(x + shift)
    shift.mul_(3)  # what was read above is now another number
    return first + gaussian(x + shift)


def masks(x: Tensor) -> Tensor:
    return gaussian(x) + x[x > 100].sum()


def keeps(x: Tensor) -> Tensor:
    return gaussian(x) + torch.from_numpy(x.detach().numpy()).sum(1)


def solves(x: Tensor) -> Tensor:
    return gaussian(x) + torch.logdet(torch.eye(3, dtype=x.dtype) + x.unsqueeze(1) * x.unsqueeze(2))


_calls = itertools.count()
REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "branch": (branches, "asks for the value"),
    "float": (lambda x: gaussian(x) * (1 + 0 * float(x.detach()[0, 0])), "asks for the value"),
    "item": (lambda x: gaussian(x) * (1 + 0 * x[0, 0].item()), "asks for the value"),
    "mask": (masks, r"asks for the value|depends on the chains"),
    "numpy": (keeps, "tracing"),
    "random": (lambda x: gaussian(x) + 0 * torch.rand(len(x), generator=_generator()), "random numbers"),
    "random-like": (lambda x: gaussian(x) + 0 * torch.randn(x.shape, generator=_generator()).sum(1), "random numbers"),
    "mean-over-chains": (lambda x: gaussian(x - x.mean(0)), "chain"),
    "sum-over-chains": (lambda x: gaussian(x) + x.sum(), "chain"),
    "number-of-chains": (lambda x: gaussian(x) / x.shape[0], "how many chains"),
    "number-of-calls": (lambda x: gaussian(x) * (1 + 1e-3 * next(_calls)), "from call to call"),
    "neighbours": (lambda x: gaussian(x - x.roll(1, 0)), "chain"),
    "first-chain": (lambda x: gaussian(x - x[:1]), "chain"),
    "sort": (lambda x: gaussian(x.sort(dim=1).values), "aten.sort"),
    "log-determinant": (solves, "no rule"),
    "lgamma": (lambda x: gaussian(x) + torch.lgamma(x.abs() + 1).sum(1), "aten.lgamma"),
    "complex": (lambda x: torch.complex(x, x).abs().square().sum(1), "complex"),
    "half": (lambda x: gaussian(x.half().double()), "float16"),
    "write-to-a-capture": (counts, "captures"),
    "write-to-a-view-of-a-capture": (counts_by_view, "captures"),
    "write-to-what-was-read": (writes_before_reading, "captures"),
    "large-capture": (lambda x: gaussian(x) + 0 * (x.sum(1)[:, None, None] * LARGE).mean((1, 2)), "numbers"),
}


@needs_compiler
@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    energy, reason = REFUSED[name]
    with pytest.raises(NotTraceableError, match=reason):
        native(energy)


@needs_compiler
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)], ids=["dropout", "batch-norm"])
def test_layers_that_are_being_trained(layer: nn.Module) -> None:
    layer = layer.double().train()
    with torch.random.fork_rng(devices=[]), pytest.raises(NotTraceableError, match=r"random|captures|chain"):
        native(lambda x: gaussian(layer(x)))
    layer.eval()
    torch.testing.assert_close(native(lambda x: gaussian(layer(x))), eager(lambda x: gaussian(layer(x))))


@needs_compiler
def test_what_names_do_not_help_is_not_traced_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run begins with a look at its energy."""
    lengths: list[int | None] = []
    once = writing._write

    def noted(subject: Any, long: int | None) -> Any:
        lengths.append(long)
        return once(subject, long)

    monkeypatch.setattr(writing, "_write", noted)
    with pytest.raises(NotTraceableError, match="asks for the value"):
        native(lambda x: gaussian(x) * (2 if float(x.sum()) > 0 else 1))
    assert lengths == [32, None]


@needs_compiler
def test_huge_energies_are_refused_at_once() -> None:
    """In less time than a compiler would take, with room for a busy machine."""
    weights = torch.ones(100, 150, dtype=torch.float64) / 100
    began = time.process_time()
    with pytest.raises(NotTraceableError, match="operations on numbers"):
        native(lambda x: torch.tanh(x.unsqueeze(1) * weights.T).square().sum((1, 2)), start(8, 100))
    assert time.process_time() - began < 5


@needs_compiler
def test_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def energy(x: Tensor) -> Tensor:
        return gaussian(torch.tanh(x))

    monkeypatch.setitem(RULES, "tanh", lambda tracer, x: RULES["sin"](tracer, x))
    with pytest.raises(NotTraceableError, match="differs from the energy's own"):
        native(energy)


@needs_compiler
@pytest.mark.parametrize("num_chains", [1, 5])
def test_wrong_rule_is_caught_where_all_chains_stand_on_one_point(
    num_chains: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, tanh and sin have the same value and slope."""
    monkeypatch.setitem(RULES, "tanh", lambda tracer, x: RULES["sin"](tracer, x))
    with pytest.raises(NotTraceableError, match="differs from the energy's own"):
        native(lambda x: gaussian(torch.tanh(x)), torch.zeros(num_chains, 3, dtype=torch.float64))


@needs_compiler
def test_an_energy_that_raises_beside_the_chains_is_native() -> None:
    def energy(x: Tensor) -> Tensor:
        return -Exponential(1.0, validate_args=True).log_prob(x).sum(1)

    x = torch.full((1, 3), 1e-3, dtype=torch.float64)
    with pytest.raises(ValueError, match="within the support"):
        energy(_beside(x))
    assert native(energy, x, num_steps=1).shape == (1, 3)


@needs_compiler
def test_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "sigmoid_backward", lambda tracer, grad, y: grad * y)
    with pytest.raises(NotTraceableError, match="grad differs"):
        native(lambda x: gaussian(x) + torch.sigmoid(x).sum(1))


@needs_compiler
def test_what_a_distribution_would_raise_for_is_rejected() -> None:
    """Beyond its support an exponential law would have a density, were its arguments not validated.

    Validation is asked for by name, since torch.compile, once used, switches its default off in the whole process.
    """
    result = run(
        lambda x: -Exponential(1.0, validate_args=True).log_prob(x).sum(1),
        HMC(step_size=0.5, num_leapfrog_steps=2),
        start().abs(),
        num_steps=200,
        noise=1,
        engine="native",
    )
    assert result.num_divergent.sum() > 0
    assert (result.chains.matrix >= 0).all()
    assert (result.displacement > 0).all()


@needs_compiler
@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize("source", ["context", "capture", "long-capture"])
def test_integers_that_need_64_bits(source: str) -> None:
    dim = 40 if source == "long-capture" else 3
    integers = torch.arange(dim) + 2**31 - dim // 2

    def energy(x: Tensor, context: Tensor = integers) -> Tensor:
        return gaussian(x + 2**31 - context)

    x = start(dim=dim)
    context = integers.expand_as(x) if source == "context" else None
    with pytest.raises(NotTraceableError, match=r"integers from \d+ to 21474836\d\d, where programs have 32 bits"):
        native(energy, x, context=context)
    result = run(energy, KERNEL, x, context=context, num_steps=10, noise=1, engine="auto")
    assert "where programs have 32 bits" in result.engine
    assert torch.equal(result.chains.matrix, eager(energy, x, context=context))


@needs_compiler
def test_integers_at_the_limits_of_32_bits() -> None:
    context = torch.tensor([-(2**31), 0, 2**31 - 1]).expand(8, 3)

    def energy(x: Tensor, context: Tensor) -> Tensor:
        return gaussian(x - context / 2**31)

    torch.testing.assert_close(native(energy, context=context), eager(energy, context=context))


@needs_compiler
def test_a_write_to_integers_that_were_read() -> None:
    integers = torch.arange(40)

    def energy(x: Tensor) -> Tensor:
        shift = integers * 2
        first = gaussian(x + shift)
        shift.mul_(3)
        return first + gaussian(x + shift)

    x = start(dim=40)
    result = run(energy, KERNEL, x, num_steps=3, noise=1, engine="native")
    torch.testing.assert_close(result.chains.matrix, eager(energy, x, num_steps=3))


# --- What changes between calls --------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """An energy with something of every kind."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(3, dtype=torch.float64))
        self.factor = 1.0
        self.power = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * ((x - self.offset) * self.weight).abs().pow(self.power).sum(1)


CHANGES: dict[str, Callable[[Scaled], Any]] = {
    "weight": lambda energy: energy.weight.data.mul_(2),
    "new-weight": lambda energy: setattr(energy, "weight", nn.Parameter(energy.weight.detach() * 3)),
    "buffer": lambda energy: energy.offset.add_(1),
    "number": lambda energy: setattr(energy, "factor", 2.5),
    "integer": lambda energy: setattr(energy, "power", 4),
}


@needs_compiler
@pytest.mark.parametrize("name", CHANGES)
def test_changes_have_effect(name: str) -> None:
    energy = Scaled()
    before = native(energy)
    torch.testing.assert_close(before, eager(energy))
    CHANGES[name](energy)
    after = native(energy)
    torch.testing.assert_close(after, eager(energy))
    assert not torch.allclose(before, after)


@needs_compiler
def test_numbers_are_no_part_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights and numbers compile nothing."""
    energy = Scaled()
    energy.factor = 1.5
    native(energy)
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("a program was compiled"))
    for change in ("weight", "new-weight", "buffer", "number"):
        CHANGES[change](energy)
        native(energy)


# --- Falling back ----------------------------------------------------------------------------------------------------


def _sorted(x: Tensor) -> Tensor:
    return gaussian(x.sort(dim=1).values)


@needs_compiler
@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize("source", ["seed", "generator"])
def test_auto_is_native_or_says_why_not(source: str) -> None:
    """A refused attempt draws nothing from the generator."""

    def noise() -> dict[str, Any]:
        return {"noise": 4} if source == "seed" else {"generator": _generator()}

    options: dict[str, Any] = {"num_samples": 10, "show_progress": False}
    taken = sample(gaussian, KERNEL, start(), **options, **noise())
    assert taken.engine.startswith("native")
    refused = sample(_sorted, KERNEL, start(), **options, **noise())
    wanted = sample(_sorted, KERNEL, start(), engine="eager", **options, **noise())
    assert refused.engine.startswith("eager")
    assert "aten.sort" in refused.engine
    assert torch.equal(refused.draws, wanted.draws)  # type: ignore[arg-type]


@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize("missing", ["named", "path"])
def test_no_compiler(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "named":
        monkeypatch.setenv(build.COMPILER_VARIABLE, "/nonexistent/compiler")
    else:
        monkeypatch.delenv(build.COMPILER_VARIABLE, raising=False)
        monkeypatch.setenv("PATH", "/nonexistent")
        monkeypatch.setattr(build, "_PACKAGE", "a-package-that-nobody-has")
    options: dict[str, Any] = {"num_samples": 10, "generator": None, "noise": 4, "show_progress": False}
    result = sample(gaussian, KERNEL, start(), **options)
    assert result.engine.startswith("eager")
    assert "compile" in result.engine
    assert torch.equal(result.draws, sample(gaussian, KERNEL, start(), engine="eager", **options).draws)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match="compile"):
        sample(gaussian, KERNEL, start(), engine="native", **options)


def test_environment_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEFAULT_VARIABLE, "eager")
    assert sample(gaussian, KERNEL, start(), num_samples=2, noise=1).engine.startswith("eager")


@pytest.mark.usefixtures("any_engine")
def test_replayed_noise_is_eager() -> None:
    noise = ReplayNoise([GeneratorNoise(_generator()).draw(KERNEL.sites, start(), step) for step in range(5)])
    result = sample(gaussian, KERNEL, start(), num_samples=5, noise=noise)
    assert "ReplayNoise" in result.engine
    with pytest.raises(NotTraceableError, match="ReplayNoise"):
        sample(gaussian, KERNEL, start(), num_samples=5, noise=noise, engine="native")


# --- What is left alone ----------------------------------------------------------------------------------------------


@needs_compiler
def test_nothing_is_touched() -> None:
    energy, x, noise = Scaled(), start(), CounterNoise(1)
    energy.weight.grad = torch.full_like(energy.weight, 7.0)
    params, before = KERNEL.init_params(x, step_size=torch.linspace(0.1, 0.3, 8)), x.clone()
    sizes, random = params.step_size.clone(), torch.get_rng_state()
    native(energy, x, params=params, noise=noise)
    assert torch.equal(x, before)
    assert torch.equal(params.step_size, sizes)
    assert torch.equal(energy.weight.grad, torch.full_like(energy.weight, 7.0))
    assert energy.weight.requires_grad
    assert not x.requires_grad
    assert torch.equal(energy.weight, torch.ones_like(energy.weight))
    assert torch.equal(torch.get_rng_state(), random)


@needs_compiler
def test_generator_gives_one_seed() -> None:
    """Two runs from one generator differ, and the same generator gives the same run again."""
    generator = _generator()
    first, second = (native(gaussian, noise=None, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, native(gaussian, noise=None, generator=_generator()))


@needs_compiler
def test_functional_forms_of_layers_that_are_off() -> None:
    def energy(x: Tensor) -> Tensor:
        return gaussian(functional.dropout(x, 0.5, training=False))

    torch.testing.assert_close(native(energy), eager(energy))


INTERRUPTED = """
import signal
import torch
from lamina.samplers import MALA, sample

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
torch.set_num_threads(1)
arguments = (lambda x: x.square().sum(1), MALA(step_size=0.2), torch.zeros(200, 2))
sample(*arguments, num_samples=1, noise=0, engine="native")
print("compiled", flush=True)
sample(*arguments, num_samples=10, thinning=10**4, num_warmup=10**8, noise=0, engine="native")
"""


@needs_compiler
def test_interrupt() -> None:
    """Ctrl-C ends a long run within seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"compiled\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in complaint


def test_tracing_loads_nothing_large() -> None:
    """PyTorch's compiler, its symbols and its tensors that lie on many machines each take as long as a first result."""
    code = (
        "import sys, torch\n"
        "from lamina.samplers import HMC, sample\n"
        "precision = torch.tensor([[2.0, 0.5], [0.5, 1.0]])\n"
        "energy = lambda x: 0.5 * (x @ precision * x).sum(-1)\n"
        "sample(energy, HMC(), torch.zeros(4, 2), num_samples=2, noise=0, engine='native', show_progress=False)\n"
        "assert not {'torch._dynamo', 'torch.distributed.tensor', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
