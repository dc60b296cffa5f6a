"""Feature networks: rounding, checksums, the stored LeNet, and networks of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lamina.models import seeded_init
from lamina.samplers import ParameterError
from lamina.trainers import CheckpointError, ImageData, NetworkFeatures, RunFolderError, cli, load
from lamina.trainers.evaluation import features_of, lenet, lenet_features, lenet_path, networks


@pytest.fixture(scope="module")
def stripes() -> ImageData:
    """Images of 12 x 12 with a bright upper or lower half in noise: easy, but not for one pixel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    images = 1.5 * torch.rand((400, 1, 12, 12), generator=generator) - 1
    images[labels == 0, :, :6] += 0.5
    images[labels == 1, :, 6:] += 0.5
    return ImageData(
        name="stripes",
        train=images[:300],
        train_labels=labels[:300],
        test=images[300:],
        test_labels=labels[300:],
        num_levels=256,
        checksum="fedcba9876543210",
        source="drawn",
    )


# -------------------------------------------------------------------------------------------------- rounding


def test_eight_bits_round_and_never_stretch() -> None:
    images = torch.tensor([-1.5, -1.0, -0.001, 0.003, 0.9999, 1.0, 2.0]).reshape(-1, 1, 1, 1)
    assert networks.to_bytes(images).flatten().tolist() == [0, 0, 127, 128, 255, 255, 255]
    dim = 0.1 * torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert networks.to_bytes(dim).max() <= 141
    exact = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(networks.to_bytes(networks.from_bytes(exact)), exact)


def test_checksums_tell_weights_apart() -> None:
    with seeded_init(0):
        first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    checksum = networks.weights_checksum(first)
    assert checksum == networks.weights_checksum(first)
    assert checksum != networks.weights_checksum(second)
    second.load_state_dict(first.state_dict())
    assert checksum == networks.weights_checksum(second)


# ----------------------------------------------------------------------------------------------------- LeNet


def test_the_lenet_is_trained_once_and_read_after(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state = torch.random.get_rng_state()
    trained = features_of(stripes)
    assert trained.name == "lenet"
    assert trained.accuracy is not None
    assert trained.accuracy > 0.9
    assert "not Inception" in trained.description
    assert lenet_path(stripes).is_relative_to(tmp_path)
    monkeypatch.setattr(lenet, "_train", None)
    again = features_of(stripes)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (again.checksum, again.accuracy) == (trained.checksum, trained.accuracy)
    ours = again(stripes.train)
    assert ours.shape == (300, 84)
    assert (trained(stripes.train) == ours).all()
    spread = ours.std(0)
    assert abs(ours.mean(0)).max() < 1e-4
    assert set(spread.round(2)) <= {0.0, 1.0}


@pytest.mark.parametrize("damage", ["cut", "other data", "other weights"])
def test_a_lenet_that_does_not_fit_is_refused(stripes: ImageData, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "lenet.pt"
    few = replace(stripes, train=stripes.train[:130], train_labels=stripes.train_labels[:130])
    lenet_features(few, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "other weights":
        state = lenet.storage.load(path, kind=lenet._KIND)
        state["weights"]["head.bias"] += 1
        lenet.storage.save(state, path, kind=lenet._KIND)
    else:
        few = replace(few, checksum="0" * 64)
    with pytest.raises(CheckpointError, match=str(path)):
        lenet_features(few, path)


def test_where_it_cannot_be_stored_is_said(stripes: ImageData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    few = replace(stripes, train=stripes.train[:130], train_labels=stripes.train_labels[:130])
    with pytest.raises(RunFolderError, match="XDG_CACHE_HOME"):
        lenet_features(few, tmp_path / "file" / "lenet.pt")


def test_small_images_have_the_other_network(data: ImageData) -> None:
    with pytest.raises(ParameterError, match="12 pixels"):
        lenet_features(data, Path("never-written.pt"))
    assert features_of(load("digits")).name == "mlp"


def test_the_command_stores_it_and_says_what_it_is(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load", lambda *_, **__: stripes)
    monkeypatch.setattr(lenet, "NUM_EPOCHS", 1)
    assert cli.main(["features", "mnist", "--out", str(tmp_path / "mine.pt")]) == 0
    printed = capsys.readouterr().out
    assert features_of(stripes, str(tmp_path / "mine.pt")).checksum in printed
    assert str(tmp_path / "mine.pt") in printed


# ---------------------------------------------------------------------------------------- networks of one's own


def means_of_quarters(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, images.shape[-1] // 2).repeat(1, 3, 1, 1)


def own_network() -> NetworkFeatures:
    return NetworkFeatures(
        name="own", network=nn.Flatten(), preprocess=lambda x: means_of_quarters(x.float()), description="quarters"
    )


def test_a_network_of_ones_own_sees_bytes_in_batches() -> None:
    sizes: list[int] = []

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return means_of_quarters(images.float())

    images = torch.full((20, 1, 4, 4), -1.0)
    images[3] = 1
    found = replace(own_network(), preprocess=counted, batch_size=7)(images)
    assert sizes == [7, 7, 6]
    assert found.shape == (20, 12)
    assert found[3].tolist() == [255.0] * 12
    assert found.sum() == 255 * 12


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(ParameterError, match="batch_size"):
        replace(own_network(), batch_size=0)


def test_features_that_are_no_rows_are_refused() -> None:
    wrong = replace(own_network(), network=nn.Identity())
    with pytest.raises(ParameterError, match="one row per image"):
        wrong(torch.zeros(2, 1, 4, 4))


def test_features_are_imported_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: ImageData) -> None:
    (tmp_path / "my_features.py").write_text(
        "from torch import nn\nfrom lamina.trainers import NetworkFeatures\n"
        "def make():\n    return NetworkFeatures(name='mine', network=nn.Flatten(), preprocess=lambda x: x.float(),"
        " description='pixels')\nready = make()\nnothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("make", "ready"):
        assert features_of(data, f"my_features:{name}").name == "mine"
    for place in ("my_features:absent", "no_such_module:make", "my_features:nothing"):
        with pytest.raises(ParameterError, match="names no features"):
            features_of(data, place)
