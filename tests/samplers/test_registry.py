"""Kernels by name: our own, those of other distributions, and those that are made of kernels."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.samplers import HMC, MALA, Kernel, LaminaError, ParameterError, UnknownNameError
from lamina.samplers.kernels.blocks import Blocks
from lamina.samplers.registry import (
    COMPOUND_KERNELS,
    KERNELS,
    PluginError,
    PluginWarning,
    kernel_from_dict,
    kernel_name,
    kernel_names,
    kernel_options,
    kernel_to_dict,
    make_kernel,
)

GOOD = """
from dataclasses import dataclass
from lamina.samplers import MALA

@dataclass(frozen=True, kw_only=True)
class Lazy(MALA):
    patience: int = 3

class NoDataclass(MALA):
    pass

NUMBER = 3
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution of one module: `install("name", "its code", kernel="module:Class")`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(distribution: str, code: str, **kernels: str) -> None:
        (tmp_path / f"{distribution}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{distribution}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", "utf-8")
        points = "\n".join(f"{name} = {value}" for name, value in kernels.items())
        (info / "entry_points.txt").write_text(f"[lamina.kernels]\n{points}\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, distribution, raising=False)

    return make


# --- Our own ---------------------------------------------------------------------------------------------------------


def test_names_alone_make_what_flags_offer() -> None:
    assert kernel_names()[: len(KERNELS)] == list(KERNELS)
    for name, kind in KERNELS.items():
        kernel = make_kernel(name)
        assert type(kernel) is kind
        assert kernel_name(kernel) == name


def test_kernels_made_of_kernels_are_not_offered() -> None:
    assert not set(COMPOUND_KERNELS) & set(kernel_names())
    for name in COMPOUND_KERNELS:
        with pytest.raises(ParameterError, match=f"'{name}' needs .*no default"):
            make_kernel(name)
    assert make_kernel("blocks", kernels={"a": MALA()}) == Blocks({"a": MALA()})


@pytest.mark.parametrize(
    "kernel",
    [MALA(step_size=0.3), HMC(num_leapfrog_steps=7, jitter=0.2), Blocks({"a": MALA(), "b": HMC()}), Blocks({1: HMC()})],
    ids=["mala", "hmc", "by-key", "by-index"],
)
def test_kernels_survive_plain_containers(kernel: Kernel[Any]) -> None:
    assert kernel_from_dict(json.loads(json.dumps(kernel_to_dict(kernel)))) == kernel
    assert type(kernel)(**kernel_options(kernel)) == kernel


def test_a_kernel_without_a_name() -> None:
    class Nameless(MALA):
        pass

    with pytest.raises(UnknownNameError, match="unknown kernel 'Nameless'"):
        kernel_name(Nameless())


# --- Those of others -------------------------------------------------------------------------------------------------


def test_an_announced_kernel_is_one_of_ours(install: Install) -> None:
    install("goodwill", GOOD, lazy="goodwill:Lazy")
    assert kernel_names() == [*KERNELS, "lazy"]
    assert "goodwill" not in sys.modules, "names are listed without an import"
    make_kernel("mala")
    assert "goodwill" not in sys.modules
    kernel = make_kernel("lazy", patience=5)
    assert type(kernel).__module__ == "goodwill"
    assert kernel_name(kernel) == "lazy"
    assert kernel_to_dict(kernel)["patience"] == 5
    with pytest.raises(ParameterError, match=r"'lazy' has options .*patience.*; got speed"):
        make_kernel("lazy", speed=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'lazy'"):
        make_kernel("lasy")


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("import nowhere_to_be_found", "badluck:Lazy", r"cannot be imported: ModuleNotFoundError.*nowhere"),
        ("raise RuntimeError('no licence')", "badluck:Lazy", r"RuntimeError: no licence"),
        (GOOD, "badluck:Missing", r"cannot be imported: AttributeError"),
        (GOOD, "badluck:NUMBER", r"should be a frozen dataclass .*; got 3"),
        (GOOD, "badluck:NoDataclass", r"should be a frozen dataclass"),
    ],
    ids=["import", "raises", "missing", "number", "no-dataclass"],
)
def test_a_broken_distribution_spoils_only_its_own(install: Install, code: str, value: str, message: str) -> None:
    install("badluck", code, broken=value)
    install("goodwill", GOOD, lazy="goodwill:Lazy")
    assert kernel_names() == [*KERNELS, "broken", "lazy"]
    assert kernel_name(make_kernel("lazy")) == "lazy"
    assert kernel_name(MALA()) == "mala"
    with pytest.raises(PluginError, match=rf"kernel 'broken' of badluck 1\.2 \(badluck:\w+\) .*{message}") as caught:
        make_kernel("broken")
    assert isinstance(caught.value, LaminaError)


def test_a_name_of_ours_cannot_be_taken(install: Install) -> None:
    install("usurper", GOOD, mala="usurper:Lazy")
    assert type(make_kernel("mala")) is MALA
    with pytest.warns(PluginWarning, match=r"'mala' of usurper 1\.2 .* is ignored: the name is one of Lamina's own"):
        assert kernel_names() == list(KERNELS)


def test_a_name_announced_twice_is_refused(install: Install) -> None:
    install("first", GOOD, lazy="first:Lazy")
    install("second", GOOD, lazy="second:Lazy")
    with pytest.warns(PluginWarning, match=r"(first|second) 1\.2 .* and (first|second) 1\.2 .*more than once"):
        assert kernel_names() == list(KERNELS)
    with pytest.warns(PluginWarning), pytest.raises(UnknownNameError):
        make_kernel("lazy")
