"""The native engine against the eager one, which sees the same counter-based noise.

In float64 the two differ by rounding alone, which twenty steps blow up to some 1e-11; one decision taken otherwise
would show as a difference of order one. What has to be the same numbers is compared bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, StudentT
from torch.nn import functional

from lamina.samplers import (
    GHMC,
    HMC,
    KERNELS,
    MALA,
    MAMS,
    MEADS,
    NUTS,
    RWM,
    Adaptation,
    Barker,
    Blocks,
    Chains,
    ChEES,
    Clipped,
    CounterNoise,
    Kernel,
    LadderAdaptation,
    Microcanonical,
    NumericalWarning,
    ParallelTempering,
    RandomisedHMC,
    Samples,
    Windows,
    run,
    sample,
)
from lamina.samplers.energy import Energy
from lamina.samplers.native import build, processor, writing
from lamina.samplers.native import engine as native_engine
from lamina.samplers.native.cpp import Printed
from lamina.samplers.native.trace import OFFSET, Subject, Trace
from lamina.samplers.testing import TARGETS, Report, check_kernel

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

CLOSE = 1e-9
"""Relative to numbers of order one."""


def start(num_chains: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(num_chains, dim, generator=torch.Generator().manual_seed(5), dtype=dtype)
    return 0.7 * x


def funnel(x: Tensor) -> Tensor:
    """Neal's funnel, which is NaN beyond v = 2.5, and infinite where its second coordinate is below -3."""
    v, rest = x[:, 0], x[:, 1:]
    inside = torch.where(v < 2.5, v, torch.nan)
    value = inside.square() / 4 + 0.5 * torch.exp(-v) * rest.square().sum(-1) + 0.5 * rest.shape[1] * v
    return torch.where(x[:, 1] > -3, value, torch.inf)


def both(energy: Any, kernel: Kernel[Any], initial: Any, **options: Any) -> tuple[Samples, Samples]:
    options = {"num_samples": 20, "noise": 3, "collect": kernel.info_fields, "show_progress": False, **options}
    native, eager = (sample(energy, kernel, initial, engine=name, **options) for name in ("native", "eager"))
    assert native.engine.startswith("native")
    assert eager.engine.startswith("eager")
    return native, eager


def numbers(result: Samples) -> dict[str, Any]:
    """All that a result holds, by name."""
    chains = result.chains
    return {
        "draws": result.draws,
        "info": result.info,
        "accept_prob": result.accept_prob,
        "num_divergent": result.num_divergent,
        "num_grad_evals": result.num_grad_evals,
        "means": result.means,
        "ebfmi": result.ebfmi,
        "position": chains.matrix,
        "memory": dict(chains.memory),
        "params": chains.params._asdict(),
        "num_steps": chains.num_steps,
    }


def assert_agree(results: tuple[Samples, Samples], tolerance: float = CLOSE) -> None:
    native, eager = map(numbers, results)
    torch.testing.assert_close(native, eager, rtol=tolerance, atol=tolerance, equal_nan=True)
    moved = eager["position"] - eager["position"].mean(0)
    assert moved.abs().max() > 0.1


# --- Every kernel ----------------------------------------------------------------------------------------------------

KINDS: dict[str, Kernel[Any]] = {
    **{name: kind() for name, kind in KERNELS.items() if name != "nuts"},
    "nuts": NUTS(step_size=0.4, max_tree_depth=4),
    "hmc-long": HMC(step_size=0.6, num_leapfrog_steps=5, jitter=0.3),
    "ghmc-of-steps": GHMC(step_size=0.5, num_leapfrog_steps=3, persistence=0.6),
    "clipped": Clipped(kernel=MALA(step_size=0.3), max_norm=0.5),
    "tempering": ParallelTempering(
        inner=HMC(step_size=0.4, num_leapfrog_steps=2), inverse_temperatures=(1.0, 0.5, 0.2)
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kernel(name: str) -> None:
    assert_agree(both(funnel, KINDS[name], start(33)))


def blocked(position: Mapping[str, Tensor]) -> Tensor:
    a, b = position["a"], position["b"]
    return 0.5 * a.square().sum(1) + 0.5 * (b - a.sum(1)[:, None, None]).square().sum((1, 2))


def test_blocks() -> None:
    x = {"a": start(17, 2), "b": start(17, 4).view(17, 2, 2)}
    assert_agree(both(blocked, Blocks({"a": MALA(step_size=0.2), "b": HMC(step_size=0.2)}), x))


# --- Every sort of energy --------------------------------------------------------------------------------------------

_GENERATOR = torch.Generator().manual_seed(11)


def _fixed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_GENERATOR, dtype=torch.float64)


MODES, ROWS, LABELS = _fixed(5, 3), _fixed(8, 3), (_fixed(8) > 0).double()
WIDE = _fixed(4, 6)


def mixture(x: Tensor) -> Tensor:
    return -torch.logsumexp(-((x.unsqueeze(1) - MODES) ** 2).sum(-1), dim=1)


def dense(x: Tensor) -> Tensor:
    """A precision that lies transposed and in every other column."""
    root = WIDE.T[::2, :3]
    return 0.5 * torch.einsum("ci,ij,cj->c", x, root @ root.T + torch.eye(3, dtype=x.dtype), x)


def indexed(x: Tensor) -> Tensor:
    pairs = x[:, [0, 0, 1]] - x[:, torch.tensor([1, 2, 2])]
    return 0.5 * pairs.square().sum(1) + 0.1 * x.gather(1, torch.tensor([[2]]).expand(len(x), 1))[:, 0] ** 4


def broadcast(x: Tensor) -> Tensor:
    return 0.5 * (x[:, None, :] - MODES[0].expand(2, 3)).square().mean((1, 2)) + x.T.contiguous()[0] ** 2


def logistic(x: Tensor) -> Tensor:
    logits = x @ ROWS.T
    fit = LABELS * functional.logsigmoid(logits) - (1 - LABELS) * functional.softplus(logits)
    return 0.5 * x.square().sum(1) - fit.sum(1)


def stacked(x: Tensor) -> Tensor:
    parts = torch.stack([x[:, 0], x[:, 1] ** 2, torch.tanh(x[:, 2])], dim=1)
    return 0.5 * torch.cat([parts, x], dim=1).square().sum(1)


def distributions(x: Tensor) -> Tensor:
    return -Normal(0.0, 1.5).log_prob(x[:, :2]).sum(1) - StudentT(torch.tensor(4.0).double()).log_prob(x[:, 2])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.layers = nn.Sequential(
                nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)
            ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1) + 0.5 * x.square().sum(1)


class OwnGradient:
    """Not the true one, so that it shows whether it is taken."""

    def __call__(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), 0.9 * x


ENERGIES: dict[str, Callable[[Any], Tensor]] = {
    "mixture": mixture,
    "dense": dense,
    "indexed": indexed,
    "broadcast": broadcast,
    "logistic": logistic,
    "stacked": stacked,
    "distributions": distributions,
    "network": Network(),
    "own-gradient": OwnGradient(),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_energy(name: str) -> None:
    assert_agree(both(ENERGIES[name], HMC(step_size=0.15, num_leapfrog_steps=3), start(20)))


def test_tuple_with_a_context() -> None:
    def energy(position: tuple[Tensor, Tensor], context: Mapping[str, Tensor]) -> Tensor:
        z, w = position
        return 0.5 * ((z - context["y"]) ** 2).sum(1) * context["scale"] + 0.5 * (w**2).sum((1, 2))

    x = (start(20, 2), start(20, 6).view(20, 3, 2))
    context = {"y": start(20, 2) + 1, "scale": torch.linspace(0.5, 2, 20, dtype=torch.float64)}
    assert_agree(both(energy, MALA(step_size=0.2), x, context=context))


def test_mixed_precision() -> None:
    """An energy in float64 of a position in float32: decisions are those of float64."""

    def energy(x: Tensor) -> Tensor:
        return 0.5 * x.double().square().sum(1)

    results = both(energy, MALA(step_size=0.2), start(20, dtype=torch.float32), num_samples=5)
    assert results[0].info["energy"].dtype == torch.float64
    assert_agree(results, 1e-4)


# --- Parameters, temperatures, splits --------------------------------------------------------------------------------

LEAPFROG = HMC(step_size=0.3, num_leapfrog_steps=3)


def _masses() -> dict[str, Tensor]:
    root = torch.eye(3, dtype=torch.float64) + 0.2 * torch.tril(_fixed(3, 3))
    return {"diagonal": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), "dense": root @ root.T}


MASSES = _masses()


@pytest.mark.parametrize("name", MASSES)
def test_inverse_mass(name: str) -> None:
    x = start(20)
    assert_agree(both(funnel, LEAPFROG, x, params=LEAPFROG.init_params(x, inverse_mass=MASSES[name])))


@pytest.mark.parametrize("name", MASSES)
def test_inverse_mass_and_step_size_for_each_chain(name: str) -> None:
    x = start(20)
    params = LEAPFROG.init_params(x, inverse_mass=MASSES[name], step_size=torch.linspace(0.1, 0.5, 20))
    factor = params.factor if name == "dense" else params.factor.unsqueeze(0)
    scales = torch.linspace(0.5, 1.5, 20, dtype=torch.float64)[:, None, None]
    assert_agree(both(funnel, LEAPFROG, x, params=params._replace(factor=scales * factor)))


@pytest.mark.parametrize("temperature", [2.5, torch.linspace(0.5, 3, 20, dtype=torch.float64)], ids=["one", "each"])
def test_temperature(temperature: float | Tensor) -> None:
    assert_agree(both(funnel, LEAPFROG, start(20), temperature=temperature))


def test_thinning() -> None:
    assert_agree(both(funnel, LEAPFROG, start(20), thinning=3, num_samples=6))


@pytest.mark.parametrize("kernel", [LEAPFROG, GHMC(step_size=0.4)], ids=["hmc", "ghmc"])
def test_run_that_is_continued(kernel: Kernel[Any], tmp_path: Path) -> None:
    """Bit for bit, by way of a file."""
    options: dict[str, Any] = {"engine": "native", "show_progress": False}
    whole = sample(funnel, kernel, start(20), num_samples=1000, noise=3, **options)
    first = sample(funnel, kernel, start(20), num_samples=500, noise=3, **options)
    first.chains.save(tmp_path / "chains")
    rest = sample(funnel, kernel, Chains.load(tmp_path / "chains", kernel), num_samples=500, **options)
    assert torch.equal(torch.cat([first.draws, rest.draws], dim=1), whole.draws)  # type: ignore[list-item, arg-type]
    assert torch.equal(rest.chains.matrix, whole.chains.matrix)
    assert all(torch.equal(rest.chains.memory[name], memory) for name, memory in whole.chains.memory.items())


@pytest.mark.parametrize("num_chains", [1, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_some_of_the_chains(num_chains: int, dtype: torch.dtype) -> None:
    """Short blocks and such as are not full, bit for bit; one engine's chains go on with the other's noise."""
    options: dict[str, Any] = {"num_steps": 20, "engine": "native"}
    x = start(33).to(dtype)
    whole = run(funnel, LEAPFROG, x, noise=3, **options)
    first = run(funnel, LEAPFROG, x[:num_chains], noise=3, **options)
    others = run(funnel, LEAPFROG, x[num_chains:], noise=CounterNoise(3, first_chain=num_chains), **options)
    assert torch.equal(torch.cat([first.chains.matrix, others.chains.matrix]), whole.chains.matrix)


@pytest.mark.parametrize("dim", [2, 3, 20, 40])
@pytest.mark.parametrize("kernel", [LEAPFROG, Barker(step_size=0.2)], ids=["normals", "uniforms"])
def test_a_chain_alone_has_its_noise_made_many_numbers_at_once(dim: int, kernel: Kernel[Any]) -> None:
    """Bit for bit, with more pairs than lanes, and in loops over memory."""
    x = start(9, dim)
    options: dict[str, Any] = {"num_steps": 20, "engine": "native", "noise": 3}
    alone, among = (run(funnel, kernel, chains, **options).chains.matrix[0] for chains in (x[:1], x))
    assert not torch.equal(among, x[0])
    assert torch.equal(alone, among)


def test_few_chains_take_a_short_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chain has a program, up to eight, up to sixteen, and all others."""
    load, sources = build.load, list[str]()
    monkeypatch.setattr(build, "load", lambda source: sources.append(source) or load(source))
    for num_chains in (2, 8, 9, 16, 17, 1000):
        run(funnel, LEAPFROG, start(num_chains), num_steps=1, noise=3, engine="native")
    assert sources[0::2] == sources[1::2]
    assert sources[0].partition("\n")[0].endswith(" : 8)")
    assert sources[2].partition("\n")[0].endswith(" : 16)")
    assert len(set(sources)) == 3
    run(funnel, LEAPFROG, start(1), num_steps=1, noise=3, engine="native")
    assert "#define ALONE 1" in sources[-1]


@pytest.fixture
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


FIRST, SECOND = (torch.linspace(-1, 1, rows * 40, dtype=torch.float64).reshape(rows, 40) for rows in (3, 40))


def products(x: Tensor) -> Tensor:
    """Of a matrix with two long axes, which is worth a thread from a few chains on."""
    return x.square().sum(1) + ((x @ FIRST).tanh() @ SECOND).tanh().sum(1)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("energy", "num_chains", "shares"),
    [
        (funnel, 1000, [(0, 512), (512, 1000)]),
        (funnel, 500, [(0, 500)]),
        (products, 100, [(0, 64), (64, 100)]),
        (products, 31, [(0, 31)]),
    ],
)
def test_threads(
    energy: Callable[[Tensor], Tensor],
    num_chains: int,
    shares: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    in_threads = processor._in_threads

    def noted(run: Callable[[int, int], None], *how: int) -> None:
        in_threads(lambda *bounds: (seen.append(bounds), run(*bounds)), *how)  # type: ignore[func-returns-value]

    monkeypatch.setattr(processor, "_in_threads", noted)
    two = run(energy, LEAPFROG, start(num_chains), num_steps=20, noise=3, engine="native")
    assert sorted(set(seen)) == shares
    torch.set_num_threads(1)
    one = run(energy, LEAPFROG, start(num_chains), num_steps=20, noise=3, engine="native")
    assert torch.equal(one.chains.matrix, two.chains.matrix)
    assert torch.equal(one.accept_prob, two.accept_prob)


def test_run_tells_the_same() -> None:
    native, eager = (
        run(funnel, LEAPFROG, start(20), num_steps=20, noise=3, engine=name, record_energies=True)  # type: ignore[arg-type]
        for name in ("native", "eager")
    )
    for name in ("position", "energy", "accept_prob", "num_divergent", "displacement", "energies"):
        torch.testing.assert_close(getattr(native, name), getattr(eager, name), rtol=CLOSE, atol=CLOSE)


def test_a_run_has_room_for_draws_where_it_keeps_any(programs: list[str]) -> None:
    """And moves chains to the same bits with it and without; a sample has one program for warm-up and draws."""
    without = run(funnel, LEAPFROG, start(50), num_steps=20, noise=0, engine="native")
    kept = run(funnel, LEAPFROG, start(50), num_steps=20, noise=0, engine="native", record_energies=True)
    assert ["--left" in program for program in dict.fromkeys(programs)] == [False, True]
    assert torch.equal(without.position, kept.position)
    programs.clear()
    sample(funnel, LEAPFROG, start(50), num_samples=5, num_warmup=5, noise=0, engine="native", show_progress=False)
    assert ["--left" in program for program in dict.fromkeys(programs)] == [True]


def test_no_steps() -> None:
    result = run(funnel, LEAPFROG, start(5), num_steps=0, noise=3, engine="native")
    assert torch.equal(result.chains.matrix, start(5))
    torch.testing.assert_close(result.energy, funnel(start(5)))


# --- Warm-up ---------------------------------------------------------------------------------------------------------

ADAPTED: dict[str, tuple[Kernel[Any], Adaptation | None]] = {
    "dual-averaging": (LEAPFROG, None),
    "windows": (LEAPFROG, Windows()),
    "chees": (RandomisedHMC(step_size=0.3), ChEES()),
    "meads": (GHMC(step_size=0.3), MEADS()),
    "ladder": (ParallelTempering(inner=MALA(), inverse_temperatures=(1.0, 0.6, 0.3)), LadderAdaptation()),
    "microcanonical": (MAMS(), Microcanonical()),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_warm_up(name: str) -> None:
    """Parameters feed back on the chains, so that rounding errors grow, about tenfold in five steps."""
    kernel, adaptation = ADAPTED[name]
    results = both(mixture, kernel, start(32), num_warmup=25, adaptation=adaptation, num_samples=5)
    assert_agree(results, 1e-6)
    assert not torch.equal(results[0].chains.params.step_size, kernel.init_params(start(32)).step_size)


# --- Float32 ---------------------------------------------------------------------------------------------------------


def test_float32_accepts_as_often() -> None:
    """Bands: five standard deviations of 2,000 x 50 decisions, were they independent of each other."""
    accepted = [
        run(funnel, LEAPFROG, start(2000, dtype=torch.float32), num_steps=50, noise=3, engine=name).accept_prob.mean()  # type: ignore[arg-type]
        for name in ("native", "eager")
    ]
    assert abs(float(accepted[0] - accepted[1])) < 5 * math.sqrt(2 * 0.25 / 100_000)


HALF, MILLION = torch.tensor(0.5), torch.tensor(1e6)
PER_COORDINATE = torch.linspace(1e4, 1e5, 40)
LIFTED: dict[str, tuple[Energy, Energy, float]] = {
    "last": (lambda x: mixture32(x), lambda x: mixture32(x) + 1e6, 1e6),
    "taken away": (lambda x: mixture32(x), lambda x: 1e6 - (-mixture32(x) - MILLION), 2e6),
    "in a sum": (lambda x: squares(x).sum(1), lambda x: (squares(x) + 1e6).sum(1), 3e6),
    "scaled": (lambda x: squares(x).sum(1), lambda x: 2 * (HALF * squares(x).sum(1) + 5e5), 1e6),
    "divided": (lambda x: squares(x).sum(1) / 4, lambda x: (squares(x).sum(1) + MILLION) / 4, 2.5e5),
    "inside a support": (
        lambda x: torch.where(x[:, 0] < 9, squares(x).sum(1), torch.inf),
        lambda x: torch.where(x[:, 0] < 9, squares(x).sum(1) + 1e6, torch.inf),
        1e6,
    ),
    "on both sides": (
        lambda x: torch.where(x[:, 0] < 0, squares(x).sum(1), x.abs().sum(1)),
        lambda x: torch.where(x[:, 0] < 0, squares(x).sum(1) + MILLION, x.abs().sum(1) + MILLION),
        1e6,
    ),
    "along a long axis": (
        lambda x: squares(x @ TO_FORTY).sum(1),
        lambda x: (squares(x @ TO_FORTY) + PER_COORDINATE).sum(1),
        float(PER_COORDINATE.double().sum()),
    ),
    "a recurrence": (lambda x: recurrence(x, 0.0), lambda x: recurrence(x, 2e4), 50 * 2e4),
}
TO_FORTY = torch.linspace(-0.3, 0.3, 120).reshape(3, 40)


def squares(x: Tensor) -> Tensor:
    return 0.5 * x.square()


def recurrence(x: Tensor, constant: float) -> Tensor:
    total = x[:, 0] * 0.5
    for i in range(50):
        total = total + squares(x[:, i % 2]) * 0.1 + constant
    return total


@pytest.mark.parametrize("name", LIFTED)
def test_additive_constant_costs_no_digits(name: str) -> None:
    plain, lifted, constant = LIFTED[name]
    options: dict[str, Any] = {"num_samples": 50, "noise": 3, "engine": "native", "collect": ("energy",)}
    x = start(20, dtype=torch.float32)
    without, with_constant = sample(plain, LEAPFROG, x, **options), sample(lifted, LEAPFROG, x, **options)
    assert torch.equal(without.draws, with_constant.draws)  # type: ignore[arg-type]
    wanted = without.info["energy"].double() + constant
    torch.testing.assert_close(with_constant.info["energy"].double(), wanted, rtol=1e-7, atol=0)


def test_a_scaled_energy_without_a_constant_has_none_to_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing times a captured scale is no constant: were the scale infinite, it would even be NaN."""
    written: list[Trace] = []

    def write(subject: Subject) -> tuple[Trace, Printed]:
        trace, printed = writing.write(subject)
        written.append(trace)
        return trace, printed

    monkeypatch.setattr(native_engine, "write", write)
    for energy in (lambda x: MILLION * squares(x).sum(1), lambda x: (squares(x) / MILLION).sum(1) * HALF):
        run(energy, RWM(), start(20, dtype=torch.float32), num_steps=2, noise=3, engine="native")
    names = [[column.name for column, _ in trace.sums] for trace in written]
    assert all(one and OFFSET not in one for one in names)
    run(
        lambda x: squares(x).sum(1) + MILLION,
        RWM(),
        start(20, dtype=torch.float32),
        num_steps=2,
        noise=3,
        engine="native",
    )
    assert [column.name for column, _ in written[-1].sums][-1] == OFFSET


def test_energies_that_are_large_without_a_constant_are_told() -> None:
    """A third of this energy is a constant, and nothing of the rest is."""
    options: dict[str, Any] = {"num_samples": 5, "noise": 3, "engine": "native"}
    with pytest.warns(NumericalWarning, match=r"as large as 8\.66e\+05 .* rounded"):
        sample(
            lambda x: 5e5 + (5e5 + x).square().sum(1).sqrt(),
            RWM(step_size=0.1),
            start(20, dtype=torch.float32),
            **options,
        )


def mixture32(x: Tensor) -> Tensor:
    return -torch.logsumexp(-((x.unsqueeze(1) - MODES.float()) ** 2).sum(-1), dim=1)


# --- The battery -----------------------------------------------------------------------------------------------------

BATTERY: dict[str, Kernel[Any]] = {
    "rwm": RWM(),
    "mala": MALA(),
    "hmc": HMC(num_leapfrog_steps=4),
}
NUM_REPORTS = 20  # upper bound on the reports below, the matrix included
FALSE_ALARM = 1e-6 / NUM_REPORTS


def assert_exact(report: Report) -> None:
    report.assert_passed()
    for one in report.invariance:
        assert 0.1 < one.accept_prob < 0.999, str(one)


@pytest.mark.parametrize("name", BATTERY)
def test_battery(name: str) -> None:
    names = ("skewed", "funnel", "half-line")
    targets = [TARGETS[target] for target in names]
    kernel = BATTERY[name]
    assert_exact(check_kernel(kernel, targets=targets, engine="native", dtype=torch.float32, false_alarm=FALSE_ALARM))


MATRIX = [name for name, kind in KERNELS.items() if name not in BATTERY]


@pytest.mark.matrix
@pytest.mark.parametrize("name", MATRIX)
def test_battery_of_every_kernel(name: str) -> None:
    kernel = NUTS(max_tree_depth=4) if name == "nuts" else KERNELS[name]()
    targets = [target for target in TARGETS.values() if target.dim > 1 or name not in ("mams", "mclmc")]
    report = check_kernel(kernel, targets=targets, engine="native", false_alarm=FALSE_ALARM)
    report.assert_passed()
