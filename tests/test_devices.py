"""Models and images on another device than the CPU: what is measured of them meets its own kind, or is brought there.

The device is a stand-in that computes on the CPU, so that no accelerator is needed. It is called "meta" for want of
another name that every build of PyTorch knows, and keeps the rules of an accelerator: tensors of two devices never meet
in one operation, but for single numbers and indices; arrays are made on the CPU alone; generators have a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from lamina.benchmarks.paper.samples import Yardstick, base_images, prior_images, training_images
from lamina.benchmarks.paper.study import Place
from lamina.models import LatentEBM
from lamina.samplers import HMC
from lamina.trainers import Budget, ChainConfig, ImageData, ModelConfig, NetworkFeatures, TrainConfig, load
from lamina.trainers.build import build_model
from lamina.trainers.evaluation import (
    PARTS,
    Subject,
    comparison,
    features_of,
    generation,
    latents,
    layers,
    lenet,
    likelihood,
    networks,
    parts,
)

AWAY = torch.device("meta")
CPU = torch.device("cpu")

MIXING = (torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_put_)
"""Operations on two devices that accelerators have: copies, and entries by indices on the CPU."""


# ------------------------------------------------------------------------------------------------ the stand-in


class Away(Tensor):
    """A tensor of the stand-in device, which has its values on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Away:
        away: Away = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=AWAY
        )
        away.values = values
        return away

    def tolist(self) -> Any:
        return self.values.tolist()

    def new_tensor(self, data: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=self.dtype).to(AWAY)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} after the stand-in device is gone")


class Operations(TorchDispatchMode):
    """Carries out operations on the stand-in device, and refuses those on two."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
        away = [part for part in tensors if isinstance(part, Away)]
        here = [part for part in tensors if not isinstance(part, Away) and part.ndim]
        is_away = bool(away)
        if kwargs.get("device") is not None:  # what makes a tensor, or moves one
            is_away = torch.device(kwargs["device"]) == AWAY
            kwargs["device"] = CPU
        elif func.overloadpacket is torch.ops.aten.copy_:
            is_away = isinstance(args[0], Away)
        elif away and here and func.overloadpacket not in MIXING:
            raise RuntimeError(f"{func} of tensors on two devices, {AWAY} and {here[0].device}")
        args, kwargs = tree_map_only(Away, lambda part: part.values, (args, kwargs))
        found = func(*args, **kwargs)
        if not is_away:
            return found
        known = {id(part.values): part for part in away}  # what works in place gives back what it was given
        return tree_map_only(Tensor, lambda value: known[id(value)] if id(value) in known else Away(value), found)


class Numbers(TorchFunctionMode):
    """Brings numbers to the stand-in device, which no dispatch sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Generator(torch.Generator):
    """A generator that may be on the stand-in device."""

    where: torch.device

    def __new__(cls, device: torch.device | str = CPU) -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.where = torch.device(device)
        return made

    def __init__(self, device: torch.device | str = CPU) -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device beside the CPU, while the test runs."""
    monkeypatch.setattr(torch, "Generator", Generator)
    with Operations(), Numbers():
        yield AWAY


def test_the_stand_in_refuses_what_an_accelerator_refuses(away: torch.device) -> None:
    here, there = torch.arange(3.0), torch.arange(3.0).to(away)
    assert there.device == away
    assert (2 * there + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5]
    with pytest.raises(RuntimeError, match="on two devices"):
        here + there
    with pytest.raises(RuntimeError, match="on two devices"):
        nn.functional.linear(there.reshape(1, 3), here.reshape(1, 3))
    with pytest.raises(RuntimeError):
        there.numpy()


# ------------------------------------------------------------------------------------- from images to features


@pytest.fixture(scope="module")
def stripes() -> ImageData:
    """Images of 12 x 12 in noise, with a bright upper or lower half."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 2
    images = 1.5 * torch.rand((240, 1, 12, 12), generator=generator) - 1
    images[labels == 0, :, :6] += 0.5
    images[labels == 1, :, 6:] += 0.5
    return ImageData(
        name="stripes",
        train=images[:160],
        train_labels=labels[:160],
        test=images[160:],
        test_labels=labels[160:],
        num_levels=256,
        checksum="0123456789abcdef",
        source="drawn",
    )


@pytest.fixture(scope="module", autouse=True)
def _stored_lenet(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A LeNet of an epoch in a cache folder of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(lenet, "NUM_EPOCHS", 1)
        features_of(stripes, show_progress=False)
        yield


def pixels(network: nn.Module) -> NetworkFeatures:
    return NetworkFeatures(name="pixels", network=network, preprocess=networks.from_bytes, description="pixels")


def weights_and_buffers() -> list[nn.Module]:
    ones = nn.Linear(144, 5, bias=False)
    nn.init.ones_(ones.weight)
    norm = nn.BatchNorm1d(144, affine=False).eval()
    return [nn.Sequential(nn.Flatten(), ones), nn.Sequential(nn.Flatten(), norm), nn.Flatten()]


@pytest.mark.parametrize("kind", range(3), ids=["weights", "buffers", "neither"])
@pytest.mark.parametrize("is_network_away", [False, True])
@pytest.mark.parametrize("are_images_away", [False, True])
def test_batches_go_to_where_the_network_lives(
    away: torch.device, stripes: ImageData, kind: int, is_network_away: bool, are_images_away: bool
) -> None:
    with torch.random.fork_rng(devices=[]):
        network = weights_and_buffers()[kind]
    expected = pixels(network)(stripes.test)
    found = pixels(network.to(away if is_network_away else CPU))(stripes.test.to(away if are_images_away else CPU))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["stripes", "digits"])
def test_features_of_a_data_set_take_images_from_any_device(away: torch.device, stripes: ImageData, name: str) -> None:
    """The LeNet, and the MLP of small images."""
    data = stripes if name == "stripes" else load(name)
    features = features_of(data)
    np.testing.assert_array_equal(features(data.test.to(away)), features(data.test))


# --------------------------------------------------------------------------------- every figure of a trained run


@dataclass(frozen=True)
class Run:
    """A model that was not trained, as one of a run."""

    model: LatentEBM
    config: TrainConfig
    data: ImageData
    place: Place
    step_size: None = None
    has_energies: bool = True

    def subject(self) -> Subject:
        budget = Budget(
            num_samples=40,
            num_rows=20,
            num_weights=2,
            num_chains=4,
            num_stops=1,
            num_draws=1,
            num_chain_steps=1,
            num_long_steps=80,
            num_long_chains=20,
        )
        return Subject(
            model=self.model,
            baseline=self.model if self.config.scheme == "two-stage" else None,
            config=self.config,
            data=self.data,
            device=self.place.device,
            step_size=None,
            positions=None,
            outliers={"inverted": -self.data.test},
            features=None,
            budget=budget,
            cache=self.place.folder,
            show_progress=False,
        )


@pytest.fixture
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as little as shows where tensors meet: the stand-in takes a hundred times as long for each operation."""
    monkeypatch.setattr(layers, "_WARMUP", 2)
    monkeypatch.setattr(likelihood, "_PILOT_CHAINS", 4)
    monkeypatch.setattr(parts, "_EVIDENCE_ROWS", 2)
    monkeypatch.setattr(parts, "_EVIDENCE_STOPS", 1)
    monkeypatch.setattr(comparison, "NUM_SAMPLES", 40)
    for module in (comparison, generation, latents):
        monkeypatch.setattr(module, "two_sample_accuracy", lambda *_: 0.5)


@pytest.fixture(params=["two-stage", "joint-mle"])
def run(request: pytest.FixtureRequest, away: torch.device, _little: None, stripes: ImageData, tmp_path: Path) -> Run:
    """By an inference model, and by chains, on the stand-in device."""
    chains = ChainConfig(kernel=HMC(step_size=0.2, num_leapfrog_steps=1, jitter=0.2))
    config = TrainConfig(
        scheme=request.param,
        data="stripes",
        model=ModelConfig(latents=(3, 2), hidden=(6,), energy_hidden=(5,)),
        prior=chains,
        posterior=chains,
        sample_steps=2,
    )
    model = build_model(config.model, stripes.image_shape, seed=0).to(away).requires_grad_(False)
    return Run(model, config, stripes, Place(folder=tmp_path, device=away, show_progress=False))


@pytest.mark.parametrize("name", PARTS)
def test_every_part_measures_there(run: Run, name: str) -> None:
    part = PARTS[name](run.subject())
    assert part.report["summary"]
    for file, draw in part.pictures.items():
        draw(run.place.folder / file)


def test_samples_stay_there_until_features_are_taken(run: Run, away: torch.device) -> None:
    assert {drawn.device for drawn in generation.sample_sets(run.subject(), 20).values()} == {away}


def test_the_comparison_after_training_is_made_there(run: Run) -> None:
    found = comparison.evaluate(run.model, run.model, run.config, run.data, run.place.device)
    assert found.report["summary"]["frechet_distance/ebm"] > 0
    assert {shown.device for shown in (*found.samples.values(), *found.reconstructions)} == {CPU}


def test_yardsticks_of_studies_measure_there(run: Run, away: torch.device, stripes: ImageData) -> None:
    yardstick = Yardstick(stripes, run.place, 40)
    trained: Any = run  # all that is asked of what a study trained
    for drawn in (
        base_images(trained, 40),
        prior_images(trained, 40),
        training_images(stripes, run.place, 40, seed=0),
    ):
        assert drawn.device == away
        assert yardstick.figures(drawn)["frechet"] == yardstick.frechet(drawn) > 0
