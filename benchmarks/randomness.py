"""A statistical battery for counter-based noise, as kernels are handed it by an engine.

Every test gives a p-value, two-sided, so that numbers that are too even fail as well. Words of 32 bits, which uniforms
are made of, are laid out in four orders, in which neighbours differ by chain, step, site or seed alone: that is where
a weak key schedule, or a counter that is mixed too little, shows first. Normals are tested in their laws, their tails,
and along chains and steps.

Sources: Knuth (1997), The Art of Computer Programming 2, section 3.3.2, for serial, gap and birthday spacings tests;
Wald and Wolfowitz (1940), Annals of Mathematical Statistics 11, for runs; Marsaglia and Tsay (1985), Linear Algebra
and its Applications 67, for ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lamina.samplers import ULA, CounterNoise, Info, ParameterError, Site, State, Target, sample
from lamina.samplers.engines import EngineName
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.langevin import LangevinParams
from lamina.samplers.threefry import ROUNDS, threefry2x32

from .tables import aligned, markdown

Words: TypeAlias = NDArray[np.uint32]
Numbers: TypeAlias = NDArray[np.float64]

ENGINES: tuple[EngineName, ...] = ("eager", "native")
FAMILYWISE_FALSE_ALARM = 1e-6
"""Probability, at most, that any test of a whole run fails although the numbers are random."""

SEED = 20_000
NUM_WORDS = 2**22
"""Words of each order, by default."""

STREAMS = ("chain", "step", "seed")
"""Orders of words without end."""

NUM_SITES, NUM_SEEDS, WIDTH = 4, 64, 2
_BIRTHDAYS = 2**12  # among 2**32 days, of which four spacings are expected twice
_RANKS = (0.1336357147, 0.5775761902, 0.2887880951)  # of random 32 x 32 bits: below 31, 31, 32
_GAP = 1 / 8


@dataclass(frozen=True)
class Teller(ULA):
    """No sampler: each step moves a chain to the noise that it is handed.

    Attributes:
        sites_told: The sites, side by side in a position.
    """

    sites_told: tuple[tuple[str, Site], ...] = ()

    @property
    def sites(self) -> Mapping[str, Site]:  # type: ignore[override]
        """See `Kernel`."""
        return dict(self.sites_told)

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        """See `Kernel`."""
        told = torch.cat([noise[name] for name, _ in self.sites_told], dim=1)
        none = torch.zeros_like(state.energy, dtype=torch.float64)
        return state._replace(position=told), Info(none, none > 0, none > 0, state.energy, none, none.long())


Source: TypeAlias = Callable[[int, Mapping[str, Site], int, int, torch.dtype], Tensor]
"""From a seed, sites, a number of chains, one of steps, and a dtype to noise, (site, step, chain, width)."""


def from_engine(engine: EngineName) -> Source:
    """The noise that kernels get from an engine, given a seed."""

    def draw(seed: int, sites: Mapping[str, Site], num_chains: int, num_steps: int, dtype: torch.dtype) -> Tensor:
        kernel, width = Teller(sites_told=tuple(sites.items())), sum(site.columns(0) for site in sites.values())
        told = sample(
            _flat,
            kernel,
            torch.zeros(num_chains, width, dtype=dtype),
            num_samples=num_steps,
            noise=CounterNoise(seed),
            engine=engine,
            show_progress=False,
        ).draws
        assert isinstance(told, Tensor)
        return told.reshape(num_chains, num_steps, len(sites), -1).permute(2, 1, 0, 3)

    return draw


def _flat(x: Tensor) -> Tensor:
    return 0 * x.square().sum(1)


# --- Words ---------------------------------------------------------------------------------------------------------


def word_orders(draw: Source, num_words: int) -> Iterator[tuple[str, Words]]:
    """The same source in four orders: what neighbours differ by, and the words.

    Args:
        draw: The source.
        num_words: Of each order; a power of 2, >= 2**16.
    """

    def words(seed: int, num_sites: int, num_chains: int, num_steps: int) -> Words:
        sites = {f"site{i}": Site("uniform", WIDTH) for i in range(num_sites)}
        uniforms = draw(seed, sites, num_chains, num_steps, torch.float64)
        return (uniforms * 2.0**32).to(torch.int64).numpy().astype(np.uint32)  # they lie in the middle of their cells

    few = 2**5
    yield "chain", words(SEED, 1, num_words // few // WIDTH, few).transpose(0, 1, 3, 2).reshape(-1)
    yield "step", words(SEED + 1, 1, few, num_words // few // WIDTH).transpose(0, 2, 3, 1).reshape(-1)
    num_chains = num_words // (NUM_SITES * few * WIDTH)
    yield "site", words(SEED + 2, NUM_SITES, num_chains, few).transpose(1, 2, 3, 0).reshape(-1)
    num_chains = num_words // (NUM_SEEDS * few * WIDTH)
    by_seed = np.stack([words(2 * SEED + i, 1, num_chains, few) for i in range(NUM_SEEDS)])
    yield "seed", by_seed.transpose(2, 3, 4, 1, 0).reshape(-1)


def stream(order: str, rounds: int = ROUNDS) -> Iterator[Words]:
    """Words without end, in blocks, for batteries that read as many as they like.

    Args:
        order: What neighbours differ by, of `STREAMS`: the chain, the step, or the seed.
        rounds: Of Threefry: with fewer than kernels get, batteries show how much there is to spare.
    """
    fast = torch.arange(2**16)
    seed, site = CounterNoise(SEED).key("site0")
    for i in itertools.count():
        slow = torch.tensor(i)
        key = (fast, site) if order == "seed" else (seed, site)
        counter = (fast, slow) if order == "chain" else (slow, fast if order == "step" else 0 * fast)
        made = threefry2x32(key, counter, rounds=rounds)
        yield torch.stack(made, dim=1).numpy().astype(np.uint32).reshape(-1)


def two_sided(law: Any, statistic: float) -> float:
    """Probability of a statistic as far out as this on its side, times two."""
    return float(min(1.0, 2 * min(law.cdf(statistic), law.sf(statistic))))


def chi_square(counts: NDArray[Any], probabilities: NDArray[Any] | None = None) -> float:
    """p-value of counts against the probabilities of their cells; by default all the same."""
    total = counts.sum()
    expected = total / counts.size if probabilities is None else total * probabilities
    statistic = float(((counts.ravel() - expected) ** 2 / expected).sum())
    return two_sided(stats.chi2(counts.size - 1), statistic)


def equidistribution_high(words: Words) -> float:
    """Upper 10 bits."""
    return chi_square(np.bincount(words >> 22, minlength=2**10))


def equidistribution_low(words: Words) -> float:
    """Lower 10 bits."""
    return chi_square(np.bincount(words & 1023, minlength=2**10))


def single_bits(words: Words) -> float:
    """How often each of the 32 bits is set."""
    ones = np.array([np.count_nonzero(words & np.uint32(1 << bit)) for bit in range(32)])
    scores = (ones - len(words) / 2) / math.sqrt(len(words) / 4)
    return two_sided(stats.chi2(32), float((scores**2).sum()))


def serial_high(words: Words) -> float:
    """Neighbours together: upper 5 bits of each."""
    pairs = (words >> 27).reshape(-1, 2)
    return chi_square(np.bincount(pairs[:, 0] * 32 + pairs[:, 1], minlength=2**10))


def serial_low(words: Words) -> float:
    """Neighbours together: lower 5 bits of each."""
    pairs = (words & 31).reshape(-1, 2)
    return chi_square(np.bincount(pairs[:, 0] * 32 + pairs[:, 1], minlength=2**10))


def differing_bits(words: Words) -> float:
    """In how many bits neighbours differ."""
    pairs = words.reshape(-1, 2)
    weights = np.unpackbits((pairs[:, 0] ^ pairs[:, 1])[:, None].view(np.uint8), axis=1).sum(1)
    counts = np.bincount(weights, minlength=33)[6:27].astype(float)
    law = stats.binom(32, 0.5)
    probabilities = law.pmf(np.arange(6, 27))
    counts[0], probabilities[0] = (weights <= 6).sum(), law.cdf(6)
    counts[-1], probabilities[-1] = (weights >= 26).sum(), law.sf(25)
    return chi_square(counts, probabilities)


def runs(words: Words) -> float:
    """How often the side of the median changes."""
    is_above = words >= 2**31
    changes = int(np.count_nonzero(is_above[1:] != is_above[:-1]))
    return two_sided(stats.binom(len(words) - 1, 0.5), changes)


def gaps(words: Words) -> float:
    """How many words lie between two of the least eighth."""
    lengths = np.diff(np.flatnonzero(words < _GAP * 2**32)) - 1
    longest = 40
    counts = np.bincount(np.minimum(lengths, longest), minlength=longest + 1)
    probabilities = np.append(_GAP * (1 - _GAP) ** np.arange(longest), (1 - _GAP) ** longest)
    return chi_square(counts, probabilities)


def birthday_spacings(words: Words) -> float:
    """How many spacings between sorted words occur again."""
    groups = np.sort(words.reshape(-1, _BIRTHDAYS), axis=1)
    spacings = np.sort(np.diff(groups, axis=1), axis=1)
    repeated = int(np.count_nonzero(spacings[:, 1:] == spacings[:, :-1]))
    return two_sided(stats.poisson(len(groups) * _BIRTHDAYS**3 / 2**34), repeated)


def ranks(words: Words) -> float:
    """Ranks of matrices of 32 words by their 32 bits, over the field of two elements."""
    rows = words.reshape(-1, 32).copy()
    matrix, rank = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for bit in range(32):
        has_bit = (rows >> np.uint32(bit)) & 1 == 1
        is_left = has_bit & (np.arange(32) >= rank[:, None])
        pivot, found = is_left.argmax(1), is_left.any(1)
        place = np.minimum(rank, 31)
        chosen, other = rows[matrix, pivot], rows[matrix, place]
        rows[matrix, pivot] = np.where(found, other, chosen)
        rows[matrix, place] = np.where(found, chosen, rows[matrix, place])
        below = ((rows >> np.uint32(bit)) & 1 == 1) & (np.arange(32) > place[:, None]) & found[:, None]
        rows ^= np.where(below, chosen[:, None], np.uint32(0))
        rank += found
    return chi_square(np.bincount(np.maximum(rank - 30, 0), minlength=3), np.array(_RANKS))


def neighbours(words: Words) -> float:
    """Correlation of neighbours, as uniform numbers."""
    numbers = (words.astype(np.float64) + 0.5) / 2.0**32 - 0.5
    return _correlation(numbers[1:] * math.sqrt(12), numbers[:-1] * math.sqrt(12))


WORD_TESTS: Mapping[str, Callable[[Words], float]] = {
    "high bits": equidistribution_high,
    "low bits": equidistribution_low,
    "single bits": single_bits,
    "pairs, high bits": serial_high,
    "pairs, low bits": serial_low,
    "differing bits": differing_bits,
    "runs": runs,
    "gaps": gaps,
    "birthday spacings": birthday_spacings,
    "matrix ranks": ranks,
    "correlation": neighbours,
}


# --- Normals -------------------------------------------------------------------------------------------------------


def _correlation(one: Numbers, other: Numbers) -> float:
    """p-value of the mean product of numbers of mean 0 and variance 1, which are independent of each other."""
    return two_sided(stats.norm, float((one * other).sum()) / math.sqrt(one.size))


def _moment(power: int) -> Callable[[Numbers], float]:
    mean, variance = stats.norm.moment(power), stats.norm.moment(2 * power) - stats.norm.moment(power) ** 2

    def test(x: Numbers) -> float:
        return two_sided(stats.norm, float((x**power - mean).sum()) / math.sqrt(x.size * variance))

    return test


def _tail(distance: float) -> Callable[[Numbers], float]:
    def test(x: Numbers) -> float:
        return two_sided(stats.binom(x.size, 2 * stats.norm.sf(distance)), int((np.abs(x) > distance).sum()))

    return test


def _cells(x: Numbers) -> float:
    edges = stats.norm.ppf(np.arange(1, 256) / 256)
    return chi_square(np.bincount(np.searchsorted(edges, x.ravel()), minlength=256))


def _squares(x: Numbers) -> float:
    """The two numbers of a pair, which share a radius."""
    return _correlation((x[..., 0] ** 2 - 1) / math.sqrt(2), (x[..., 1] ** 2 - 1) / math.sqrt(2))


NORMAL_TESTS: Mapping[str, Callable[[Numbers], float]] = {
    "law": _cells,
    **{f"moment {power}": _moment(power) for power in (1, 2, 3, 4)},
    **{f"tail beyond {distance}": _tail(distance) for distance in (2, 3, 4)},
    "pairs": lambda x: _correlation(x[..., 0], x[..., 1]),
    "squares of pairs": _squares,
    "correlation over chains": lambda x: _correlation(x[:, 1:], x[:, :-1]),
    "correlation over steps": lambda x: _correlation(x[1:], x[:-1]),
}
"""Of normals (step, chain, 2)."""


# --- The battery ---------------------------------------------------------------------------------------------------


def battery(draw: Source, num_words: int = NUM_WORDS) -> dict[str, float]:
    """p-values of all tests of a source, by name.

    Args:
        draw: The source.
        num_words: Of each order of words, and normals of each dtype; a power of 2, >= 2**16.

    Raises:
        ParameterError: If it is none.
    """
    check_size(num_words)
    found = {
        f"words by {order}/{name}": test(words)
        for order, words in word_orders(draw, num_words)
        for name, test in WORD_TESTS.items()
    }
    for dtype, seed in ((torch.float32, SEED + 3), (torch.float64, SEED + 4)):
        normals = draw(seed, {"xi": Site("normal", WIDTH)}, num_words // 256 // WIDTH, 256, dtype)[0].double().numpy()
        name = str(dtype).removeprefix("torch.")
        found |= {f"normals in {name}/{test}": function(normals) for test, function in NORMAL_TESTS.items()}
    return found


def check_size(num_words: int) -> None:
    """Raise a ParameterError where the battery does not work with so many words."""
    if num_words < 2**16 or num_words & (num_words - 1):
        raise ParameterError(f"the battery takes a power of 2 of words, 65536 or more; got {num_words}.")


def threshold(num: int) -> float:
    """p-value below which one of so many tests fails."""
    return FAMILYWISE_FALSE_ALARM / num


def summary(p_values: Mapping[str, float]) -> dict[str, float]:
    """Numbers by name; keys of p-values are ENGINE/NUMBERS/TEST."""
    return {
        "num_tests": len(p_values),
        "num_passed": sum(p >= threshold(len(p_values)) for p in p_values.values()),
        "threshold": threshold(len(p_values)),
        "smallest_p": min(p_values.values()),
        **{f"p/{name}": p for name, p in p_values.items()},
    }


def _cells_of(p_values: Mapping[str, float]) -> tuple[list[str], list[tuple[str, ...]]]:
    engines = list(dict.fromkeys(name.split("/")[0] for name in p_values))
    tests = list(dict.fromkeys(name.split("/", 1)[1] for name in p_values))
    rows = [
        (
            *test.split("/"),
            *(f"{p_values[name]:.2g}" if (name := f"{engine}/{test}") in p_values else "-" for engine in engines),
        )
        for test in tests
    ]
    return ["numbers", "test", *(f"p, {engine}" for engine in engines)], rows


def table(p_values: Mapping[str, float]) -> str:
    """A line for each test, a column for each engine."""
    header, rows = _cells_of(p_values)
    return aligned(header, rows, "ll" + "r" * (len(header) - 2))


def markdown_table(p_values: Mapping[str, float]) -> str:
    """The same in Markdown, the smallest p-value of each kind of numbers alone."""
    kinds = itertools.groupby(p_values.items(), key=lambda item: item[0].rsplit("/", 1)[0])
    rows = []
    for kind, group in kinds:
        members = list(group)
        name, p = min(members, key=lambda item: item[1])
        rows.append((*kind.split("/"), str(len(members)), f"{p:.2g}", name.rsplit("/", 1)[1]))
    return markdown(("engine", "numbers", "tests", "smallest p", "of the test"), rows, "llrrl")
