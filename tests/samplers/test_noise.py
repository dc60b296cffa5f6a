"""Noise: Threefry's known answers, the laws of the draws, and draws that do not depend on how chains are split."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from lamina.samplers import CounterNoise, GeneratorNoise, NoiseSource, ParameterError, ReplayNoise, Site, StateError
from lamina.samplers.noise import noise_from_state
from lamina.samplers.testing import dkw_half_width, ks_one_sample
from lamina.samplers.threefry import threefry2x32

SITES = {"xi": Site("normal", "D"), "pair": Site("normal", 3), "u": Site("uniform", 1)}
FALSE_ALARM = 1e-8  # of each statistical assertion
SOURCES: dict[str, Callable[[int], NoiseSource]] = {
    "generator": lambda seed: GeneratorNoise(torch.Generator().manual_seed(seed)),
    "counter": CounterNoise,
}


@pytest.fixture(params=SOURCES)
def make_source(request: pytest.FixtureRequest) -> Callable[[int], NoiseSource]:
    return SOURCES[request.param]


def like(num_chains: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(num_chains, dim, dtype=dtype)


@pytest.mark.parametrize(
    ("key", "counter", "answers"),
    [
        ((0, 0), (0, 0), {13: (0x9D1C5EC6, 0x8BD50731), 20: (0x6B200159, 0x99BA4EFE)}),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, {13: (0xFD36D048, 0x2D17272C), 20: (0x1CB996FC, 0xBB002BE7)}),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            {13: (0xBA3E4725, 0xF27D669E), 20: (0xC4923A9C, 0x483DF7A0)},
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_threefry_known_answers(
    key: tuple[int, int], counter: tuple[int, int], answers: dict[int, tuple[int, int]]
) -> None:
    """From kat_vectors of the Random123 distribution, with 13 rounds, as the toolkit takes, and with 20."""
    where = (torch.tensor([counter[0]]), torch.tensor([counter[1]]))
    for rounds, answer in answers.items():
        assert tuple(int(word) for word in threefry2x32(key, where, rounds=rounds)) == answer
    assert tuple(int(word) for word in threefry2x32(key, where)) == answers[13]


def test_threefry_broadcasts_its_counters() -> None:
    rows, columns = torch.arange(3).unsqueeze(1), torch.arange(4).unsqueeze(0)
    together = threefry2x32((1, 2), (rows, columns))
    for i, j in itertools.product(range(3), range(4)):
        alone = threefry2x32((1, 2), (torch.tensor(i), torch.tensor(j)))
        assert [int(word[i, j]) for word in together] == [int(word) for word in alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_shapes_and_dtypes(make_source: Callable[[int], NoiseSource], dtype: torch.dtype) -> None:
    noise = make_source(0).draw(SITES, like(7, 5, dtype), 0)
    assert {name: (tuple(site.shape), site.dtype) for name, site in noise.items()} == {
        "xi": ((7, 5), dtype),
        "pair": ((7, 3), dtype),
        "u": ((7, 1), torch.float64),
    }


def test_laws(make_source: Callable[[int], NoiseSource]) -> None:
    """200,000 normals and uniforms against their CDF; squares catch a wrong scale of Box and Muller's pairs."""
    noise = make_source(3).draw({"xi": Site("normal", "D"), "u": Site("uniform", "D")}, like(100_000, 2), 5)
    half_width = dkw_half_width(200_000, FALSE_ALARM)
    xi, u = noise["xi"], noise["u"]
    assert ks_one_sample(xi.flatten(), torch.special.ndtr) < half_width
    assert ks_one_sample(u.flatten(), lambda x: x) < half_width
    assert float(u.min()) > 0
    assert float(u.max()) <= 1
    z = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(float(xi.mean())) < z / 200_000**0.5
    assert abs(float(xi.square().mean()) - 1) < z * (2 / 200_000) ** 0.5
    assert abs(float(xi.prod(dim=1).mean())) < z / 100_000**0.5
    radius = xi.square().sum(dim=1)
    assert ks_one_sample(radius, lambda x: -torch.expm1(-x / 2)) < dkw_half_width(100_000, FALSE_ALARM)


def test_neighbours_are_uncorrelated(make_source: Callable[[int], NoiseSource]) -> None:
    """Chains next to each other, steps next to each other, sites of one step, and seeds next to each other."""
    sites = {"a": Site("normal", "D"), "b": Site("normal", "D")}
    source = make_source(7)
    first, second = (source.draw(sites, like(100_000, 1), step) for step in (0, 1))
    other = make_source(8).draw(sites, like(100_000, 1), 0)
    limit = stats.norm.isf(FALSE_ALARM / 2) / 99_999**0.5
    a = first["a"].flatten()
    for x, y in ((a[1:], a[:-1]), (a, second["a"]), (a, first["b"]), (a, other["a"])):
        assert abs(float((x.flatten() * y.flatten()).mean())) < limit


def test_chains_steps_columns_and_sites_are_distinct() -> None:
    """64-bit pairs of words that never repeat: 20 steps x 50 chains x 7 columns of two sites."""
    sites = {"a": Site("uniform", 7), "b": Site("uniform", 7)}
    draws = torch.stack(
        [torch.stack(list(CounterNoise(9).draw(sites, like(50, 2), step).values())) for step in range(20)]
    )
    rows = draws.reshape(-1, 7)[:, :2]  # one block of the cipher per chain, step and site
    assert len(torch.unique(rows, dim=0)) == 20 * 2 * 50


@pytest.mark.parametrize("num_chains", [1, 7, 40_000], ids=["many-ahead", "some-ahead", "one-by-one"])
def test_what_is_worked_out_ahead_is_what_each_step_would_get(num_chains: int) -> None:
    """In order, back again, and far ahead; indexed noise likewise."""
    sites = SITES | {"length": Site("uniform", 1, is_shared=True), "leaf": Site("normal", "D", is_indexed=True)}
    source, x = CounterNoise(11, first_chain=3), like(num_chains, 3)
    for step in (*range(9), 4, 5, 10**6):
        drawn, alone = (noise.draw(sites, x, step) for noise in (source, CounterNoise(11, first_chain=3)))
        assert all(torch.equal(drawn[name], alone[name]) for name in sites if name != "leaf")
        for k in (0, 1, 2, 7, 1):
            index = torch.full((num_chains, 1), k)
            other = CounterNoise(11, first_chain=3).draw(sites, x, step)["leaf"]
            assert torch.equal(drawn["leaf"].at(index), other.at(index))


def test_noise_follows_the_chains_it_is_asked_for() -> None:
    source = CounterNoise(11)
    for x in (like(4, 2), like(5, 2), like(5, 3), like(5, 3, torch.float32)):
        for step in range(3):
            drawn, alone = (noise.draw(SITES, x, step) for noise in (source, CounterNoise(11)))
            assert all(torch.equal(drawn[name], alone[name]) for name in SITES)
            assert drawn["xi"].dtype == x.dtype


def test_another_site_changes_no_others_noise() -> None:
    few = CounterNoise(1).draw({"xi": SITES["xi"]}, like(4, 3), 2)
    many = CounterNoise(1).draw(SITES, like(4, 3), 2)
    assert torch.equal(few["xi"], many["xi"])


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_splitting_chains_changes_nothing(dim: int) -> None:
    whole = CounterNoise(5).draw(SITES, like(10, dim), 3)
    parts = [
        CounterNoise(5, first_chain=first).draw(SITES, like(num, dim), 3) for first, num in ((0, 4), (4, 1), (5, 5))
    ]
    for name in SITES:
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))


def test_counter_noise_is_the_same_in_both_dtypes() -> None:
    single, double = (CounterNoise(5).draw(SITES, like(10, 3, dtype), 3) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single["xi"], double["xi"].float())
    assert torch.equal(single["u"], double["u"])


def test_all_bits_of_the_seed_count() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**63, 2**64 - 1]
    draws = [CounterNoise(seed).draw(SITES, like(2, 2), 0)["xi"] for seed in seeds]
    for first, second in itertools.combinations(draws, 2):
        assert not torch.equal(first, second)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ParameterError, match=rf"seed must lie in \[0, 2\*\*64\); got {seed}"):
        CounterNoise(seed)


def test_state_continues_where_it_was_taken(make_source: Callable[[int], NoiseSource]) -> None:
    source = make_source(2)
    source.draw(SITES, like(3, 2), 0)
    restored = noise_from_state(source.state_dict(), torch.device("cpu"))
    expected = source.draw(SITES, like(3, 2), 1)
    continued = restored.draw(SITES, like(3, 2), 1)
    assert all(torch.equal(expected[name], continued[name]) for name in SITES)


def test_replayed_noise() -> None:
    steps = [CounterNoise(1).draw(SITES, like(3, 2), step) for step in range(2)]
    source = ReplayNoise(steps)
    assert torch.equal(source.draw({"xi": SITES["xi"]}, like(3, 2), 1)["xi"], steps[1]["xi"])
    with pytest.raises(ParameterError, match="noise for 2 steps was given, and step 2 asks for more"):
        source.draw(SITES, like(3, 2), 2)
    with pytest.raises(StateError, match=r"'replay' cannot be continued.*pass generator= or noise="):
        noise_from_state(source.state_dict(), torch.device("cpu"))


def test_counters_that_run_out_are_refused_not_reused() -> None:
    """Six numbers per chain are three pairs a step."""
    last = 2**32 // 3 - 1
    CounterNoise(0).draw({"xi": Site("normal", 6)}, like(2, 6), last)
    with pytest.raises(ParameterError, match=f"lasts for {last + 1} steps; continue with another seed"):
        CounterNoise(0).draw({"xi": Site("normal", 6)}, like(2, 6), last + 1)
