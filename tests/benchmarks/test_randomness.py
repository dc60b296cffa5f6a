"""The battery for random numbers: it passes ours, the same on both engines, and finds planted defects."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lamina.benchmarks import randomness, results
from lamina.benchmarks.cli import main
from lamina.samplers import CounterNoise, Site
from lamina.samplers.native import build
from lamina.samplers.threefry import threefry2x32

NUM_WORDS = 2**17

Generate = Callable[[tuple[int, int], Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a key, chains and steps to two words."""


def made_by(generate: Generate) -> randomness.Source:
    """A source like the library's, but for how its words are generated."""

    def draw(seed: int, sites: Mapping[str, Site], num_chains: int, num_steps: int, dtype: torch.dtype) -> Tensor:
        chain, step = torch.arange(num_chains), torch.arange(num_steps).unsqueeze(1)
        noise = []
        for name, site in sites.items():
            one, other = ((word.double() + 0.5) / 2**32 for word in generate(CounterNoise(seed).key(name), chain, step))
            if site.kind == "normal":
                radius, angle = torch.sqrt(-2 * torch.log(one)), 2 * math.pi * other
                one, other = radius * torch.cos(angle), radius * torch.sin(angle)
            noise.append(torch.stack([one.expand(num_steps, num_chains), other.expand(num_steps, num_chains)], 2))
        return torch.stack(noise).to(dtype)

    return draw


def _coarse(key: tuple[int, int], chain: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    one, other = threefry2x32(key, (chain, step))
    return one >> 16 << 16, other >> 16 << 16


DEFECTS: dict[str, tuple[Generate, str]] = {
    "six-rounds": (lambda key, chain, step: threefry2x32(key, (chain, step), rounds=6), "words by"),
    "step-is-ignored": (lambda key, chain, step: threefry2x32(key, (chain, 0 * step)), "words by step"),
    "steps-overlap": (lambda key, chain, step: threefry2x32(key, (chain, step // 2)), "normals in float64"),
    "chain-is-ignored": (lambda key, chain, step: threefry2x32(key, (0 * chain, step)), "words by chain"),
    "chain-plus-step": (lambda key, chain, step: threefry2x32(key, (chain + step, 0 * step)), "words by"),
    "site-is-ignored": (lambda key, chain, step: threefry2x32((key[0], 0), (chain, step)), "words by site"),
    "seed-is-ignored": (lambda key, chain, step: threefry2x32((0, key[1]), (chain, step)), "words by seed"),
    "seed-plus-chain": (lambda key, chain, step: threefry2x32((0, key[1]), (chain + key[0], step)), "words by seed"),
    "sixteen-bits": (_coarse, "words by chain"),
    "one-word-twice": (lambda key, chain, step: (threefry2x32(key, (chain, step))[0],) * 2, "normals in float64"),
}


def failures(p_values: Mapping[str, float]) -> set[str]:
    return {name for name, p in p_values.items() if p < randomness.threshold(len(p_values))}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_found(name: str) -> None:
    generate, where = DEFECTS[name]
    found = failures(randomness.battery(made_by(generate), NUM_WORDS))
    assert any(failure.startswith(where) for failure in found)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """The numbers of PCG64, which have nothing to do with ours."""

    def draw(seed: int, sites: Mapping[str, Site], num_chains: int, num_steps: int, dtype: torch.dtype) -> Tensor:
        generator, shape = np.random.default_rng(seed), (len(sites), num_steps, num_chains, 2)
        if next(iter(sites.values())).kind == "normal":
            return torch.from_numpy(generator.standard_normal(shape)).to(dtype)
        return torch.from_numpy((generator.integers(0, 2**32, shape) + 0.5) / 2**32)

    assert failures(randomness.battery(draw, NUM_WORDS)) == set()


def test_every_test_fails_where_it_should() -> None:
    """No test is there that never fails: each finds its share of a worn generator, words that only count up."""
    counted = (np.arange(NUM_WORDS) * 2654435761 % 2**32).astype(np.uint32)
    limit = randomness.FAMILYWISE_FALSE_ALARM / 100
    passed = {name for name, test in randomness.WORD_TESTS.items() if test(counted) >= limit}
    assert passed == set()


def test_library_passes() -> None:
    assert failures(randomness.battery(randomness.from_engine("eager"), NUM_WORDS)) == set()


def test_defects_are_what_they_differ_by() -> None:
    """The source that they are planted in is the library's."""
    sites, sound = (
        {"a": Site("uniform", 2), "b": Site("uniform", 2)},
        made_by(lambda *where: threefry2x32(where[0], where[1:])),
    )
    library = randomness.from_engine("eager")(3, sites, 20, 5, torch.float64)
    assert torch.equal(sound(3, sites, 20, 5, torch.float64), library)


@pytest.mark.parametrize("order", randomness.STREAMS)
def test_streams_are_what_kernels_get(order: str) -> None:
    """Word for word, in both blocks that were read; no order is that of another."""
    blocks = list(itertools.islice(randomness.stream(order), 2))
    for at in (0, 1, 2, 2**15, 2**16 - 1):
        for slow, words in enumerate(blocks):
            seed = at if order == "seed" else randomness.SEED
            chain, step = {"chain": (at, slow), "step": (slow, at), "seed": (slow, 0)}[order]
            noise = CounterNoise(seed, first_chain=chain).draw({"site0": Site("uniform", 2)}, torch.zeros(1, 1), step)
            wanted = (noise["site0"][0] * 2.0**32).long().tolist()
            assert words[2 * at : 2 * at + 2].tolist() == wanted


def test_stream_ends_with_its_reader() -> None:
    writer = f"{sys.executable} -c 'from lamina.benchmarks.cli import main; main()' randomness --stream step"
    done = subprocess.run(["sh", "-c", f"{writer} | head -c 800"], capture_output=True, timeout=120, check=True)
    assert done.stderr == b""
    assert np.array_equal(np.frombuffer(done.stdout, "<u4"), next(randomness.stream("step"))[:200])


@pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")
def test_engines_draw_the_same() -> None:
    """Uniforms bit for bit; normals up to rounding, that of float32 where they are float32."""
    sites = {"a": Site("uniform", 2), "b": Site("uniform", 2)}
    eager, native = (randomness.from_engine(engine) for engine in ("eager", "native"))
    assert torch.equal(eager(5, sites, 33, 7, torch.float64), native(5, sites, 33, 7, torch.float64))
    normals = {"xi": Site("normal", 2)}
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        one, other = (draw(5, normals, 1000, 9, dtype) for draw in (eager, native))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["randomness", "--engines", "eager", "--words", str(2**16), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "tests passed" in capsys.readouterr().out
    figures = results.read(tmp_path / "randomness.json")["summary"]
    assert figures["num_passed"] == figures["num_tests"] == len(figures) - 4
    assert figures["smallest_p"] > figures["threshold"]
    monkeypatch.setattr(randomness, "from_engine", lambda engine: made_by(_coarse))
    assert main(arguments) == 1
    assert "FAILED" in capsys.readouterr().out
    assert main([*arguments, "--words", "100000"]) == 2
