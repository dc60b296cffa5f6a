"""Export to ArviZ: what is handed over, and what ArviZ makes of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lamina.samplers import (
    HMC,
    MissingExtraError,
    ParameterError,
    Samples,
    ebfmi,
    ess_bulk,
    ess_tail,
    mcse_mean,
    rhat,
    sample,
)
from lamina.samplers.diagnostics.export import to_arviz
from lamina.samplers.position import Position


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


STARTS: dict[str, Position] = {
    "tensor": zeros(4, 3),
    "tuple": (zeros(4, 2), zeros(4, 2, 2)),
    "dict": {"tau": zeros(4), "mu": zeros(4, 3)},
}
INFO = ("accept_prob", "is_accepted", "is_divergent", "energy", "energy_error", "num_grad_evals", "total_energy")


def energy(position: Any) -> torch.Tensor:
    if isinstance(position, dict):
        position = tuple(position.values())
    parts = position if isinstance(position, tuple) else (position,)
    return sum(0.5 * part.reshape(len(part), -1).square().sum(dim=1) for part in parts)


def draw(kind: str = "tensor", collect: tuple[str, ...] = ()) -> Samples:
    generator = torch.Generator().manual_seed(0)
    return sample(energy, HMC(step_size=0.7), STARTS[kind], num_samples=50, generator=generator, collect=collect)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ArviZ's `from_dict` was called with, whether ArviZ is installed or not."""
    seen: dict[str, Any] = {}

    def from_dict(groups: Mapping[str, Mapping[str, np.ndarray]], **options: object) -> str:
        seen.update(groups=groups, **options)
        return "the tree"

    monkeypatch.setitem(sys.modules, "arviz_base", SimpleNamespace(from_dict=from_dict))
    return seen


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("tensor", {"x": (4, 50, 3)}),
        ("tuple", {"z1": (4, 50, 2), "z2": (4, 50, 2, 2)}),
        ("dict", {"tau": (4, 50), "mu": (4, 50, 3)}),
    ],
)
def test_draws_keep_names_and_shapes(handed_over: dict[str, Any], kind: str, shapes: dict[str, object]) -> None:
    samples = draw(kind)
    assert to_arviz(samples) == "the tree"
    assert list(handed_over["groups"]) == ["posterior"]
    posterior = handed_over["groups"]["posterior"]
    assert {name: values.shape for name, values in posterior.items()} == shapes
    draws = samples.draws
    parts = draws.values() if isinstance(draws, dict) else draws if isinstance(draws, tuple) else [draws]
    for ours, theirs in zip(parts, posterior.values(), strict=True):
        np.testing.assert_array_equal(theirs, ours.numpy())


def test_info_gets_the_names_of_arviz(handed_over: dict[str, Any]) -> None:
    samples = draw(collect=INFO)
    to_arviz(samples)
    statistics = handed_over["groups"]["sample_stats"]
    assert set(statistics) == {"acceptance_rate", "accepted", "diverging", "lp", "energy_error", "n_steps", "energy"}
    np.testing.assert_array_equal(statistics["acceptance_rate"], samples.info["accept_prob"])
    np.testing.assert_array_equal(statistics["lp"], -samples.info["energy"])
    np.testing.assert_array_equal(statistics["energy"], samples.info["total_energy"])
    np.testing.assert_array_equal(statistics["n_steps"], samples.info["num_grad_evals"])
    assert statistics["diverging"].dtype == bool
    assert statistics["n_steps"].dtype == np.int64
    assert handed_over["attrs"] == {"posterior": {"inference_library": "lamina", "kernel": repr(HMC(step_size=0.7))}}


def test_potential_energies_are_not_passed_off_as_the_hamiltonian(handed_over: dict[str, Any]) -> None:
    to_arviz(draw(collect=("energy",)))
    assert set(handed_over["groups"]["sample_stats"]) == {"lp"}


def test_fields_of_parts_and_unknown_fields_go_along(handed_over: dict[str, Any]) -> None:
    samples = draw(collect=("accept_prob",))
    samples.info["is_divergent"] = torch.zeros(4, 50, 2, dtype=torch.bool)
    samples.info["tree_depth"] = torch.ones(4, 50)
    to_arviz(samples)
    assert handed_over["groups"]["sample_stats"]["tree_depth"].shape == (4, 50)
    assert handed_over["dims"] == {"diverging": ["part"]}


def test_own_names(handed_over: dict[str, Any]) -> None:
    to_arviz(draw("tuple"), names=["top", "bottom"])
    assert list(handed_over["groups"]["posterior"]) == ["top", "bottom"]
    with pytest.raises(ParameterError, match="each of the 2 tensors its own name"):
        to_arviz(draw("tuple"), names="top")


def test_without_arviz_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(MissingExtraError, match=r"needs arviz-base.*lamina\[arviz\]"):
        to_arviz(draw())


def test_arviz_reads_the_tree() -> None:
    pytest.importorskip("arviz_base")
    arviz = pytest.importorskip("arviz_stats")
    samples = draw("dict", collect=INFO)
    tree = to_arviz(samples)
    assert tree["posterior"]["mu"].dims == ("chain", "draw", "mu_dim_0")
    assert tree["sample_stats"]["diverging"].dims == ("chain", "draw")
    assert tree["posterior"].attrs["inference_library"] == "lamina"
    assert isinstance(samples.draws, dict)
    for name, draws in samples.draws.items():
        for ours, theirs in (
            (rhat(draws), arviz.rhat(tree)),
            (ess_bulk(draws), arviz.ess(tree, method="bulk")),
            (ess_tail(draws), arviz.ess(tree, method="tail", prob=(0.05, 0.95))),
            (mcse_mean(draws), arviz.mcse(tree, method="mean")),
        ):
            np.testing.assert_allclose(theirs[name].values, ours.numpy(), rtol=1e-8, atol=0.0)
    ours = ebfmi(samples.info["total_energy"]).numpy()
    np.testing.assert_allclose(arviz.bfmi(tree)["energy"].values, ours, rtol=1e-8, atol=0.0)
