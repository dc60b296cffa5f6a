"""The driver: structures and shapes, resuming, sub-batches, isolation of chains, and what it leaves untouched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lamina.benchmarks.memory import PeakMemory
from lamina.samplers import (
    HMC,
    MALA,
    NUTS,
    RWM,
    ULA,
    Chains,
    CounterNoise,
    DualAveraging,
    Info,
    Kernel,
    Layout,
    ParallelTempering,
    ParameterError,
    Position,
    RandomisedHMC,
    ReplayNoise,
    Run,
    Samples,
    Target,
    ebfmi,
    from_log_prob,
    run,
    sample,
)
from lamina.samplers.accept import accept
from lamina.samplers.engines import EngineName
from lamina.samplers.native.build import find_compiler

NUM_CHAINS, DIM = 8, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(num_chains: int = NUM_CHAINS, seed: int = 0) -> Tensor:
    return torch.randn(num_chains, DIM, generator=seeded(seed), dtype=torch.float64)


def energy(x: Tensor) -> Tensor:
    """Elementwise and skewed."""
    return (x.exp() - x).flatten(1).sum(1)


def structured_energy(position: Any) -> Tensor:
    parts = [position] if isinstance(position, Tensor) else position
    total: Tensor = sum(  # type: ignore[assignment]
        part.reshape(len(part), -1).square().sum(1) / 2
        for part in (parts.values() if isinstance(parts, dict) else parts)
    )
    return total


def draws_of(result: Samples) -> Tensor:
    assert isinstance(result.draws, Tensor)
    return result.draws


def assert_same(first: Position, second: Position) -> None:
    """Equal bits, NaN included."""
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


# --- Structures, shapes, dtypes -------------------------------------------------------------------------------


@st.composite
def positions(draw: st.DrawFn) -> Position:
    """Tensors, tuples and dicts of event ranks 0 to 3, in both dtypes."""
    num_chains = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    events = draw(st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=3))
    generator = seeded(draw(st.integers(0, 100)))
    parts = [torch.randn(num_chains, *event, generator=generator, dtype=dtype) for event in events]
    match draw(st.sampled_from(["tensor", "tuple", "dict"])):
        case "tensor":
            return parts[0]
        case "tuple":
            return tuple(parts)
        case _:
            names = draw(st.permutations(["a", "b", "c"]))
            return dict(zip(names, parts, strict=False))


def leaves(position: Position) -> list[Tensor]:
    if isinstance(position, Tensor):
        return [position]
    return list(position.values() if isinstance(position, dict) else position)


@given(positions())
@settings(max_examples=100, deadline=None)
def test_layout_round_trip(position: Position) -> None:
    layout = Layout.of(position)
    matrix = layout.ravel(position)
    assert matrix.shape == (len(leaves(position)[0]), layout.dim)
    back = layout.unravel(matrix)
    assert type(back) is type(position)
    if isinstance(position, dict) and isinstance(back, dict):
        assert list(back) == list(position)
    assert_same(back, position)
    lead = matrix.unsqueeze(1).expand(-1, 5, -1)
    assert torch.equal(layout.ravel(layout.unravel(lead)), lead)


@given(positions(), st.sampled_from([ULA(), MALA(), HMC(num_leapfrog_steps=2, jitter=0.2)]))
@settings(max_examples=60, deadline=None)
def test_sample_keeps_the_structure(position: Position, kernel: Kernel[Any]) -> None:
    before = [part.clone() for part in leaves(position)]
    result = sample(structured_energy, kernel, position, num_samples=3, num_warmup=2, noise=0, collect=Info._fields)
    num_chains = len(before[0])
    assert type(result.draws) is type(position)
    for old, given_, drawn in zip(before, leaves(position), leaves(result.draws), strict=True):
        assert drawn.shape == (num_chains, 3, *old.shape[1:])
        assert drawn.dtype == old.dtype
        assert not drawn.requires_grad
        assert torch.equal(given_, old)
    assert {name: field.shape for name, field in result.info.items()} == dict.fromkeys(Info._fields, (num_chains, 3))
    for drawn, end in zip(leaves(result.draws), leaves(result.chains.position), strict=True):
        assert torch.equal(drawn[:, -1], end)


def test_shapes_of_every_result(kernel: Kernel[Any]) -> None:
    drawn = sample(energy, kernel, start(), num_samples=4, noise=0)
    moved = run(energy, kernel, start(), num_steps=4, noise=0, record_energies=True)
    for field in ("accept_prob", "num_divergent"):
        assert getattr(drawn, field).shape == getattr(moved, field).shape == (NUM_CHAINS,)
    evals = kernel.num_leapfrog_steps if isinstance(kernel, HMC) else 1
    assert drawn.num_grad_evals.tolist() == [4 * evals] * NUM_CHAINS
    assert moved.energy.shape == moved.displacement.shape == (NUM_CHAINS,)
    assert moved.energies is not None
    assert moved.energies.shape == (NUM_CHAINS, 5)
    assert torch.equal(moved.energies[:, -1], moved.energy)
    assert torch.equal(moved.energy, energy(moved.position))  # type: ignore[arg-type]


# --- The same bits --------------------------------------------------------------------------------------------


def test_run_equals_sample(kernel: Kernel[Any]) -> None:
    drawn = sample(energy, kernel, start(), num_samples=20, generator=seeded(1))
    moved = run(energy, kernel, start(), num_steps=20, generator=seeded(1))
    assert_same(moved.position, draws_of(drawn)[:, -1])
    assert_same(moved.accept_prob, drawn.accept_prob)


def test_same_generator_same_bits(kernel: Kernel[Any]) -> None:
    first, same, other = (
        draws_of(sample(energy, kernel, start(), num_samples=20, generator=seeded(seed))) for seed in (1, 1, 2)
    )
    assert_same(first, same)
    assert not torch.equal(first, other)


NOISES: dict[str, Callable[[], dict[str, Any]]] = {
    "generator": lambda: {"generator": seeded(1)},
    "counter": lambda: {"noise": 1},
}


@pytest.mark.parametrize(
    ("noise", "num_warmup", "half"), [("generator", 0, 500), ("generator", 30, 100), ("counter", 30, 100)]
)
def test_resumed_run_equals_an_uninterrupted_one(
    kernel: Kernel[Any], noise: str, num_warmup: int, half: int, tmp_path: Path
) -> None:
    """500 draws, saved, loaded, and 500 more, are 1,000 draws: bit for bit, also after a warm-up of each chain."""
    adaptation = DualAveraging(pooled=False)
    whole, first = (
        sample(
            energy,
            kernel,
            start(),
            num_samples=num_samples,
            num_warmup=num_warmup,
            adaptation=adaptation,
            **NOISES[noise](),
        )
        for num_samples in (2 * half, half)
    )
    first.chains.save(tmp_path / "chains")
    second = sample(energy, kernel, Chains.load(tmp_path / "chains", kernel), num_samples=half)
    assert_same(torch.cat((draws_of(first), draws_of(second)), dim=1), draws_of(whole))
    assert_same(second.chains.matrix, whole.chains.matrix)
    assert second.chains.num_steps == whole.chains.num_steps == num_warmup + 2 * half


def test_stored_chains_keep_their_structure(tmp_path: Path) -> None:
    position = {"b": start(), "a": start()[:, 0]}
    result = run(structured_energy, HMC(), position, num_steps=2, noise=0)
    result.chains.save(tmp_path / "chains")
    loaded = Chains.load(tmp_path / "chains", HMC())
    assert_same(loaded.position, result.position)
    assert isinstance(loaded.position, dict)
    assert list(loaded.position) == ["b", "a"]


@pytest.mark.parametrize("size", [1, 3, NUM_CHAINS, 100])
@pytest.mark.parametrize("noise", NOISES)
def test_sub_batches_equal_the_whole(kernel: Kernel[Any], noise: str, size: int) -> None:
    """With everything per chain that can be: context, temperature and step size."""
    options: dict[str, Any] = {
        "context": {"shift": start(seed=5)},
        "temperature": torch.linspace(0.5, 2.0, NUM_CHAINS, dtype=torch.float64),
        "params": kernel.init_params(start(), step_size=torch.linspace(0.1, 0.3, NUM_CHAINS)),
        "collect": ("energy", "accept_prob"),
        "num_samples": 10,
        "num_warmup": 10,
    }
    whole, parts = (
        sample(shifted, kernel, start(), chain_batch_size=chain_batch_size, **NOISES[noise](), **options)
        for chain_batch_size in (None, size)
    )
    assert_same(draws_of(parts), draws_of(whole))
    assert_same(parts.info, whole.info)
    assert_same(parts.accept_prob, whole.accept_prob)
    assert_same(parts.chains.params.step_size, whole.chains.params.step_size)


def shifted(x: Tensor, context: dict[str, Tensor]) -> Tensor:
    return energy(x - context["shift"])


@pytest.mark.parametrize("mass", [torch.full((1,), 0.5), torch.full((1, 1), 0.5)], ids=["diagonal", "dense"])
def test_sub_batches_share_the_mass_of_a_one_dimensional_target(mass: Tensor) -> None:
    """A (1, 1) factor looks like one number per chain, and is not."""
    x, kernel = start()[:, :1], HMC()
    params = kernel.init_params(x, inverse_mass=mass)
    whole, parts = (
        draws_of(sample(energy, kernel, x, num_samples=5, params=params, noise=0, chain_batch_size=size))
        for size in (None, 3)
    )
    assert_same(parts, whole)


def test_permuted_chains_give_permuted_results(kernel: Kernel[Any]) -> None:
    order = torch.randperm(NUM_CHAINS, generator=seeded(3))
    x, context = start(), {"shift": start(seed=5)}
    steps = [CounterNoise(1).draw(kernel.sites, x, step) for step in range(10)]
    shuffled = [{name: site[order] for name, site in step.items()} for step in steps]
    plain = sample(shifted, kernel, x, num_samples=10, context=context, noise=ReplayNoise(steps))
    permuted = sample(
        shifted,
        kernel,
        x[order],
        num_samples=10,
        context={"shift": context["shift"][order]},
        noise=ReplayNoise(shuffled),
    )
    assert_same(draws_of(permuted), draws_of(plain)[order])
    assert_same(permuted.accept_prob, plain.accept_prob[order])


def test_a_chain_that_meets_nan_leaves_the_others_alone(kernel: Kernel[Any]) -> None:
    """Chain 2's energy is NaN everywhere but where it starts: every move is refused and flagged, nobody else's is."""
    x = start()
    sick = torch.arange(NUM_CHAINS) == 2

    def with_nan(y: Tensor, is_sick: Tensor) -> Tensor:
        away = (y != x[2]).any(dim=1)
        return torch.where(is_sick & away, torch.nan, energy(y))

    healthy = sample(energy, kernel, x, num_samples=20, noise=1, collect=("is_divergent", "accept_prob"))
    mixed = sample(with_nan, kernel, x, num_samples=20, noise=1, collect=("is_divergent", "accept_prob"), context=sick)
    assert_same(draws_of(mixed)[~sick], draws_of(healthy)[~sick])
    assert_same(mixed.info["accept_prob"][~sick], healthy.info["accept_prob"][~sick])
    assert_same(draws_of(mixed)[2], x[2].expand(20, DIM))
    assert mixed.num_divergent.tolist() == [20 if chain == 2 else 0 for chain in range(NUM_CHAINS)]
    assert mixed.info["is_divergent"][2].all()
    assert float(mixed.accept_prob[2]) == 0.0


# --- Options --------------------------------------------------------------------------------------------------


def test_context_rows_follow_their_chains() -> None:
    """Chain c is drawn to its own far away centre."""
    centres = 100.0 * torch.arange(NUM_CHAINS, dtype=torch.float64)

    def tethered(x: Tensor, rows: tuple[Tensor, list[Tensor]]) -> Tensor:
        return 50 * (x - rows[0].unsqueeze(1) - rows[1][0]).square().sum(1)

    context = (centres, [torch.ones(NUM_CHAINS, DIM, dtype=torch.float64)])
    x = (centres + 1).unsqueeze(1).expand(-1, DIM)
    result = run(tethered, MALA(step_size=0.005), x, num_steps=100, context=context, noise=0, chain_batch_size=3)
    assert (result.position - x).abs().max() < 1  # type: ignore[operator]
    assert (result.displacement > 0).all()


@pytest.mark.parametrize("temperature", [0.5, torch.tensor([0.5, 1.0, 4.0]).repeat(20)], ids=["shared", "per-chain"])
def test_temperature_divides_the_energy(temperature: float | Tensor) -> None:
    """Sampling E at temperature T is sampling E / T, bit for bit for powers of two."""
    x = start(60)
    warm = sample(energy, HMC(step_size=0.3), x, num_samples=5, temperature=temperature, noise=0)
    divided = sample(lambda x: energy(x) / temperature, HMC(step_size=0.3), x, num_samples=5, noise=0)
    assert_same(draws_of(warm), draws_of(divided))


def test_thinning_keeps_every_third_draw(kernel: Kernel[Any]) -> None:
    dense = sample(energy, kernel, start(), num_samples=30, noise=1, collect=("energy",))
    thin = sample(energy, kernel, start(), num_samples=10, thinning=3, noise=1, collect=("energy",))
    assert_same(draws_of(thin), draws_of(dense)[:, 2::3])
    assert_same(thin.info["energy"], dense.info["energy"][:, 2::3])
    assert_same(thin.accept_prob, dense.accept_prob)
    assert_same(thin.num_grad_evals, dense.num_grad_evals)


def test_collected_info_belongs_to_its_draw() -> None:
    result = sample(energy, MALA(step_size=0.8), start(), num_samples=50, noise=1, collect=Info._fields)
    draws, info = draws_of(result), result.info
    assert_same(info["energy"], energy(draws.flatten(0, 1)).reshape(NUM_CHAINS, 50))
    moved = (torch.cat((start().unsqueeze(1), draws), dim=1).diff(dim=1) != 0).any(dim=2)
    assert torch.equal(info["is_accepted"], moved)
    assert 0 < int(moved.sum()) < moved.numel()
    torch.testing.assert_close(info["accept_prob"].mean(dim=1), result.accept_prob)
    torch.testing.assert_close(info["accept_prob"], info["energy_error"].neg().exp().clamp(max=1))
    assert sample(energy, MALA(), start(), num_samples=1, noise=1).info == {}


def test_displacement_is_a_root_mean_square() -> None:
    result = run(energy, ULA(), start(), num_steps=10, noise=0)
    torch.testing.assert_close(result.displacement, (result.position - start()).norm(dim=1) / DIM**0.5)  # type: ignore[operator]
    still = run(energy, ULA(), start(), num_steps=0, noise=0)
    assert_same(still.position, start())
    assert not still.displacement.any()


def test_log_prob_and_own_gradient_give_the_same_chains(kernel: Kernel[Any]) -> None:
    class WithGradient:
        def __call__(self, x: Tensor) -> Tensor:
            raise AssertionError("value_and_grad is there to be used")

        def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return energy(x), x.exp() - 1

    by_autograd, by_hand, from_log = (
        draws_of(sample(e, kernel, start(), num_samples=10, noise=0))
        for e in (energy, WithGradient(), from_log_prob(lambda x: -energy(x)))
    )
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-12, atol=1e-12)
    assert_same(from_log, by_autograd)


def test_float64_energies_of_float32_positions() -> None:
    x = start().float()
    result = run(lambda x: energy(x.double()), HMC(), x, num_steps=5, noise=0, temperature=2.0)
    assert result.energy.dtype == torch.float64
    assert result.chains.matrix.dtype == torch.float32


# --- What is left untouched -----------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, 4, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(0)))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden.tanh().sum(1) + 0.5 * x.square().sum(1)


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws its first weights from the global generator
        return Network()


def tensors_of(result: Run | Samples) -> list[Tensor]:
    state = result.chains.state_dict()
    return [
        *leaves(result.draws if isinstance(result, Samples) else result.position),
        *(
            field
            for field in (*vars(result).values(), *state.values(), *state["params"].values())
            if isinstance(field, Tensor)
        ),
    ]


@pytest.mark.parametrize("start_requires_grad", [False, True])
def test_models_inputs_and_graphs_are_left_alone(
    kernel: Kernel[Any], network: Network, start_requires_grad: bool
) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    x = start().requires_grad_(start_requires_grad)
    results: list[Run | Samples] = [
        sample(network, kernel, x, num_samples=3, num_warmup=3, generator=seeded()),
        run(network, kernel, x, num_steps=3, generator=seeded(), record_energies=True),
    ]
    assert all((parameter.grad == 7.0).all() for parameter in network.parameters())  # type: ignore[union-attr]
    assert torch.equal(x.detach(), start())
    assert x.grad is None
    for result in results:
        assert not any(tensor.requires_grad for tensor in tensors_of(result))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_may_be_in_any_grad_mode(kernel: Kernel[Any], network: Network, mode: Callable[[], Any]) -> None:
    """Also with starts, context and resumed chains that were made in that mode."""

    def pulled(x: Tensor, context: Tensor) -> Tensor:
        pull: Tensor = network(x) + (x * context).sum(1)
        return pull

    expected = sample(pulled, kernel, start(), num_samples=6, context=start(seed=5), noise=0)
    with mode():
        x, context = start() * 1.0, start(seed=5) * 1.0
        first = sample(pulled, kernel, x, num_samples=3, context=context, noise=0)
        second = sample(pulled, kernel, first.chains, num_samples=3, context=context, chain_batch_size=3)
    assert_same(second.chains.matrix, expected.chains.matrix)


def test_target_is_the_same_for_rows() -> None:
    x = start()
    target = Target(energy, Layout.of(x), NUM_CHAINS, temperature=torch.linspace(1, 2, NUM_CHAINS))
    whole, part = target(x), target.rows(slice(2, 5))(x[2:5])
    for all_rows, some in zip(whole, part, strict=True):
        assert torch.equal(all_rows[2:5], some)


def test_a_chain_outside_the_support_comes_in() -> None:
    """As one may whose energy was changed under it: any finite proposal is taken, and nothing is divergent."""
    start = torch.full((200, 2), -0.1)
    target = Target(lambda x: 0.5 * x.square().sum(-1), Layout.of(start), 200)
    inside = MALA().init(target, start, MALA().init_params(start))
    outside = inside._replace(energy=torch.full_like(inside.energy, torch.inf))
    ratio = outside.energy.double() - inside.energy.double()
    _, info = accept(inside, outside, ratio, torch.full_like(ratio, 0.5), torch.ones_like(ratio))
    assert bool(info.is_accepted.all())
    assert not bool(info.is_divergent.any())


def test_parts_of_a_dict_are_known_by_their_keys() -> None:
    parts = {"a": torch.ones(3, 2), "b": torch.zeros(3, 1)}
    backwards = dict(reversed(parts.items()))
    assert torch.equal(Layout.of(parts).ravel(backwards), Layout.of(parts).ravel(parts))


def test_the_summary_says_how_it_went() -> None:
    result = sample(lambda x: 0.5 * x.square().sum(-1), MALA(step_size=0.5), torch.zeros(4, 1), num_samples=20, noise=0)
    assert "Mean acceptance" in str(result.summary())
    assert "0.57 aimed for" in str(result.summary())
    diverged = dataclasses.replace(result, num_divergent=torch.tensor([0, 3, 0, 1]))
    assert "4 divergent steps in 2 chains" in str(diverged.summary())


@pytest.mark.parametrize(
    "kernel", [HMC(step_size=0.3), RandomisedHMC(step_size=0.3), NUTS(step_size=0.3, max_tree_depth=3)], ids=repr
)
def test_momenta_that_do_not_reach_the_tails_are_told(kernel: Kernel[Any]) -> None:
    """A funnel has energies that no Gaussian momentum spans."""

    def funnel(x: Tensor) -> Tensor:
        v, rest = x[:, 0], x[:, 1:]
        return v.square() / 18 + 0.5 * torch.exp(-v) * rest.square().sum(1) + 0.5 * rest.shape[1] * v

    x = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = sample(funnel, kernel, x, num_samples=150, noise=0, collect=("total_energy",))
    assert result.ebfmi is not None
    torch.testing.assert_close(result.ebfmi, ebfmi(result.info["total_energy"]))
    told = any("E-BFMI is as low as" in note for note in result.summary().notes)
    assert told == (float(ebfmi(result.info["total_energy"]).min()) < 0.3)
    assert told
    light = sample(lambda x: 0.5 * x.square().sum(1), kernel, x, num_samples=100, noise=0, collect=("total_energy",))
    assert not any("E-BFMI" in note for note in light.summary().notes)


def test_chains_go_on_with_kernels_that_fit_them() -> None:
    first = sample(lambda x: x.square().sum(1), HMC(num_leapfrog_steps=2), start(), num_samples=2, noise=0)
    with pytest.raises(ParameterError, match="num_leapfrog_steps of the chains does not fit"):
        sample(lambda x: x.square().sum(1), HMC(num_leapfrog_steps=50), first.chains, num_samples=2)
    ladders = [ParallelTempering(inner=MALA(), inverse_temperatures=ladder) for ladder in ((1.0, 0.3), (1.0, 0.3, 0.1))]
    short = sample(lambda x: x.square().sum(1), ladders[0], start(), num_samples=2, noise=0)
    with pytest.raises(ParameterError, match="of the chains does not fit"):
        sample(lambda x: x.square().sum(1), ladders[1], short.chains, num_samples=2)


def test_warm_up_says_when_it_adapts_nothing() -> None:
    result = sample(lambda x: x.square().sum(1), ULA(step_size=0.1), start(), num_samples=4, num_warmup=5, noise=0)
    assert any("Warm-up adapted nothing" in note for note in result.summary().notes)


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_what_is_stored_is_stored_once(engine: EngineName) -> None:
    if engine == "native" and find_compiler() is None:
        pytest.skip("there is no C++ compiler on this machine")
    collect = ("accept_prob", "energy_error", "energy")

    def stored(num_samples: int) -> Samples:
        x = torch.zeros(4000, 1)
        return sample(energy_of_squares, RWM(), x, num_samples=num_samples, noise=0, collect=collect, engine=engine)

    stored(10)
    with PeakMemory(torch.device("cpu")) as peak:
        result = stored(2000)  # 183 MiB, beside which it is little what an allocator keeps for later
    tensors = [result.draws, *result.info.values()]
    assert peak.mib < 1.5 * sum(tensor.nbytes for tensor in tensors) / 2**20  # type: ignore[union-attr]


def energy_of_squares(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)
