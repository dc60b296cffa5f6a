"""Loaders, on tiny files of every format, and held-out classes; the real files where they are."""

import hashlib
import io
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from lamina.samplers.errors import MissingExtraError, UnknownNameError
from lamina.trainers import ImageData, Training, load, preset
from lamina.trainers.data import FORMS, cifar, colour, decoding, files, held_out, idx, npz, plain_name, svhn
from lamina.trainers.data.decoding import open_picture
from lamina.trainers.data.files import FileSet, read_files
from lamina.trainers.data.held_out import divided
from lamina.trainers.data.pickles import read_pickle
from lamina.trainers.errors import DataError
from lamina.trainers.evaluation.turns import is_classified, with_classes

DRAW = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return DRAW.integers(256, size=shape, dtype=np.uint8)


def form_of(contents: Mapping[str, bytes], name: str = "tiny") -> FileSet:
    digests = {file: f"sha256:{hashlib.sha256(content).hexdigest()}" for file, content in contents.items()}
    return FileSet(name=name, folder=name, digests=digests, install="get-the-tiny-files")


def write(folder: Path, contents: Mapping[str, bytes]) -> FileSet:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return form_of(contents)


def data_of(labels: list[int], num_train: int) -> ImageData:
    """Images that are all of their row's number."""
    images = torch.arange(float(len(labels))).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    classes = torch.tensor(labels)
    return ImageData(
        name="tiny",
        train=images[:num_train],
        train_labels=classes[:num_train],
        test=images[num_train:],
        test_labels=classes[num_train:],
        num_levels=256,
        checksum="abc",
        source="here",
    )


def scaled(raw: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(raw.astype(np.float32)) / 127.5 - 1


# ----------------------------------------------------------------------------------------- held-out classes


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("mnist-without-4", ("mnist", "without", 4)),
        ("fashion-mnist-only-9", ("fashion-mnist", "only", 9)),
        ("mnist", None),
        ("mnist-without-", None),
        ("mnist-without-four", None),
        ("-only-4", None),
    ],
)
def test_names_of_held_out_classes(name: str, meaning: tuple[str, str, int] | None) -> None:
    assert held_out(name) == meaning


def test_a_class_is_left_out_of_the_pool_and_the_rest_split_once() -> None:
    whole = data_of([0, 1, 2] * 20, num_train=45)
    rule = held_out("tiny-without-1")
    assert rule is not None
    data = divided(whole, rule, "tiny-without-1")
    assert (len(data.train), len(data.test)) == (32, 8)
    rows = torch.cat([data.train, data.test])[:, 0, 0, 0]
    labels = torch.cat([data.train_labels, data.test_labels])
    assert sorted(rows.tolist()) == [row for row in range(60) if row % 3 != 1]
    assert torch.equal(labels, rows.long() % 3)
    assert rows.tolist() != sorted(rows.tolist())
    assert (data.name, data.checksum, data.source) == ("tiny-without-1", "abc", "here")
    assert "without class 1" in data.rule
    assert torch.equal(divided(whole, rule, "again").train, data.train)


def test_the_class_alone_is_for_testing() -> None:
    rule = held_out("tiny-only-1")
    assert rule is not None
    data = divided(data_of([0, 1, 2] * 20, num_train=45), rule, "tiny-only-1")
    assert data.test[:, 0, 0, 0].tolist() == list(range(1, 60, 3))
    assert set(data.test_labels.tolist()) == {1}
    assert (len(data.train), len(data.train_labels)) == (0, 0)
    assert data.image_shape == (1, 2, 2)
    with pytest.raises(DataError, match="tiny-only-1 has test images alone"):
        data.check_trainable()


@pytest.mark.parametrize(("labels", "name"), [([0, 1], "tiny-without-5"), ([5, 5], "tiny-only-5")])
def test_a_class_that_cannot_be_held_out_is_refused(labels: list[int], name: str) -> None:
    rule = held_out(name)
    assert rule is not None
    with pytest.raises(DataError, match=r"tiny has the classes .*; got 5"):
        divided(data_of(labels, 1), rule, name)


def test_digits_without_a_class_train_by_the_preset_of_all() -> None:
    pytest.importorskip("sklearn")
    data = load("digits-without-4")
    assert (len(data.train), len(data.test), len(load("digits-only-4").test)) == (1292, 324, 181)
    assert data.num_levels == 17
    config = preset("digits-without-4")
    assert (config.data, config.model) == ("digits-without-4", preset("digits").model)
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        load("digit-without-4")
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        preset("digit-without-4")


def test_training_without_training_images_is_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match="--outliers digits-only-4"):
        Training(preset("digits-only-4"), load("digits-only-4"), torch.device("cpu"))


# ------------------------------------------------------------------------------------------- verified files


def test_files_are_found_and_verified(tmp_path: Path) -> None:
    contents = {"a": b"first", "b": b"second"}
    form = write(tmp_path / "root" / "tiny", contents)
    found = read_files([form_of({"c": b""}), form], [tmp_path / "absent", tmp_path / "root"])
    assert found.form is form
    assert found.contents == contents
    assert found.folder == tmp_path / "root" / "tiny"
    assert found.checksum == hashlib.sha256(b"firstsecond").hexdigest()


def test_the_first_root_wins_and_then_the_better_form(tmp_path: Path) -> None:
    better, other = {"better": b"1"}, {"other": b"2"}
    write(tmp_path / "first", other)
    write(tmp_path / "second", better | other)
    forms = [form_of(better), form_of(other)]
    roots = [tmp_path / "first", tmp_path / "second"]
    assert read_files(forms, roots).folder == tmp_path / "first"
    assert read_files(forms, roots[1:]).form is forms[0]


def test_missing_files_are_named_with_the_folders_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(DataError) as caught:
        read_files([form_of({"a": b"", "b": b""}), form_of({"c": b""})], [tmp_path, tmp_path / "absent"])
    message = str(caught.value)
    assert "tiny: wanted a, b, or c, and no folder has them" in message
    assert f"{tmp_path} (lacks b)" in message
    assert f"{tmp_path / 'absent'} (no such folder)" in message
    assert "get-the-tiny-files" in message


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: b"x" + c[1:], lambda c: b""])
def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    form = write(tmp_path, {"a": b"content"})
    (tmp_path / "a").write_bytes(damage(b"content"))
    with pytest.raises(DataError, match=r"a: wanted the published file of tiny, with sha256 .*replace it"):
        read_files([form], [tmp_path])


@pytest.mark.parametrize("name", ["kmnist", "notmnist", "omniglot", "cifar10", "svhn", "mnist-colour"])
def test_every_set_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(files.DATA_ROOT_VARIABLE, raising=False)
    for root in ("_SYSTEM_ROOT", "_SIBLING_ROOT", "_CHECKOUT"):
        monkeypatch.setattr(files, root, tmp_path / "absent" / root)
    with pytest.raises(DataError, match=r"no folder has them\. Searched"):
        load(name, data_root=tmp_path)
    assert name in FORMS
    assert preset(name).data == name


# -------------------------------------------------------------------------------------------------- formats


def test_npz_files_give_test_images_with_their_labels(tmp_path: Path) -> None:
    images, file = pixels(20, 4, 5), io.BytesIO()
    images[:, 0, 0] = np.arange(20)
    np.savez(file, images=images, labels=np.arange(20, dtype=np.int16))
    data = npz.load_npz(write(tmp_path, {"a.npz": file.getvalue()}), [tmp_path])
    assert (data.train.shape, data.test.shape) == ((0, 1, 4, 5), (20, 1, 4, 5))
    assert data.test_labels.tolist() != list(range(20))
    torch.testing.assert_close(data.test[:, 0], scaled(images[data.test_labels]))


def test_npz_files_with_pickles_are_not_unpickled(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, images=np.array([Malice()], dtype=object), labels=np.zeros(1))
    with pytest.raises(DataError, match=r"a\.npz: wanted arrays"):
        npz.load_npz(write(tmp_path, {"a.npz": file.getvalue()}), [tmp_path])
    assert not Malice.has_run


class Malice:
    has_run = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return Malice.run, ()

    @staticmethod
    def run() -> None:
        Malice.has_run = True


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 did its str, and arrays as NumPy of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)  # type: ignore[attr-defined]

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(num: int) -> dict[str, object]:
    return {"data": pixels(num, 3072), "labels": DRAW.integers(10, size=num).tolist(), "batch_label": "a batch"}


@pytest.mark.parametrize("dump", [python2_pickle, pickle.dumps])
def test_cifar_batches_are_read_in_order(tmp_path: Path, dump: Callable[[object], bytes]) -> None:
    batches = {"data_batch_1": batch(3), "data_batch_2": batch(2), "test_batch": batch(4)}
    form = write(tmp_path, {name: dump(value) for name, value in batches.items()})
    data = cifar.load_cifar10([tmp_path], pickles=form)
    first, second, test = batches.values()
    assert (data.image_shape, data.num_levels, data.rule) == ((3, 32, 32), 256, "")
    raw = np.concatenate([first["data"], second["data"]]).reshape(5, 3, 32, 32)
    torch.testing.assert_close(data.train, scaled(raw))
    assert data.train_labels.tolist() == [*first["labels"], *second["labels"]]  # type: ignore[misc]
    assert data.test_labels.tolist() == test["labels"]


def test_python_2_pickles_are_what_they_pretend() -> None:
    names = [argument for _, argument, _ in pickletools.genops(python2_pickle(batch(1))) if argument]
    assert "numpy.core.multiarray _reconstruct" in names
    assert "_codecs encode" not in names


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pickle.dumps({"data": Malice()}), id="call"),
        pytest.param(pickle.dumps(Malice), id="class"),
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", id="system"),
        pytest.param(b"cnumpy\nload\n(S'a'\ntR.", id="numpy"),
        pytest.param(pickle.dumps(batch(1))[:-9], id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
def test_pickles_that_are_more_or_less_than_data_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="evil: wanted a pickle of plain values and arrays"):
        read_pickle(content, path=Path("evil"))
    assert not Malice.has_run


def test_a_malicious_batch_is_refused_without_running_it(tmp_path: Path) -> None:
    form = write(tmp_path, {"data_batch_1": pickle.dumps({"data": Malice()}), "test_batch": pickle.dumps(batch(1))})
    with pytest.raises(DataError, match=r"data_batch_1: wanted a pickle .*run"):
        cifar.load_cifar10([tmp_path], pickles=form)
    assert not Malice.has_run


def flat_picture(value: int, mode: str = "RGB", ending: str = "JPEG", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, (value, 0, 0) if mode == "RGB" else value).save(file, ending)
    return file.getvalue()


def tiny_zip(broken: bool = False) -> bytes:
    """Pictures whose red is ten times their label."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for label, kind in enumerate(cifar.CLASSES):
            for split, num in (("train", 3), ("test", 1)):
                for number in range(num):
                    content = flat_picture(10 * label)
                    archive.writestr(f"{split}/{kind}/{number:04}.jpg", content[:50] if broken else content)
    return file.getvalue()


def test_a_zip_of_jpegs_is_read_and_shuffled(tmp_path: Path) -> None:
    data = cifar.load_cifar10([tmp_path], jpegs=write(tmp_path, {"a.zip": tiny_zip()}))
    assert (data.train.shape, data.test.shape) == ((30, 3, 32, 32), (10, 3, 32, 32))
    red = (data.train[:, 0].mean((1, 2)) + 1) * 127.5
    torch.testing.assert_close(red, 10.0 * data.train_labels, atol=3, rtol=0)  # JPEG's quantisation
    assert sorted(data.train_labels.tolist()) == sorted([*range(10)] * 3)
    assert data.train_labels.tolist() != sorted(data.train_labels.tolist())
    assert "JPEG quality 75" in data.rule


def test_a_zip_with_a_cut_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.jpg: wanted a picture that can be read to its end"):
        cifar.load_cifar10([tmp_path], jpegs=write(tmp_path, {"a.zip": tiny_zip(broken=True)}))


def test_pictures_without_pillow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = write(tmp_path, {"a.zip": tiny_zip()})
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(flat_picture(1, ending="PNG"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"Pillow.*lamina\[train\]"):
        cifar.load_cifar10([tmp_path], jpegs=form)
    with pytest.raises(MissingExtraError, match=r"Pillow.*lamina\[train\]"):
        load(f"folder:{tmp_path}@8")


def test_matlab_files_of_house_numbers(tmp_path: Path) -> None:
    contents, raw = {}, {}
    for name, digits in (("train_32x32.mat", [10, 1, 9]), ("test_32x32.mat", [10])):
        file, raw[name] = io.BytesIO(), pixels(32, 32, 3, len(digits))
        scipy.io.savemat(file, {"X": raw[name], "y": np.array(digits, dtype=np.uint8)[:, None]})
        contents[name] = file.getvalue()
    data = svhn.load_svhn([tmp_path], form=write(tmp_path, contents))
    assert data.train_labels.tolist() == [0, 1, 9]
    assert data.test_labels.tolist() == [0]
    torch.testing.assert_close(data.train[2, 1], scaled(raw["train_32x32.mat"][:, :, 1, 2]))


# -------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_pictures_by_classes(tmp_path: Path) -> None:
    for kind, red in (("zebras", 200), ("apes", 100)):
        (tmp_path / kind / "deeper").mkdir(parents=True)
        for number in range(5):
            place = tmp_path / kind / ("deeper" if number % 2 else "") / f"{number}.PNG"
            place.write_bytes(flat_picture(red + number, ending="PNG", size=(40, 30)))
    (tmp_path / "notes.txt").write_text("no picture")
    data = load(f"folder:{tmp_path}@16")
    assert (data.train.shape, data.test.shape) == ((8, 3, 16, 16), (2, 3, 16, 16))
    red = (torch.cat([data.train, data.test])[:, 0, 5, 5] + 1) * 127.5
    labels = torch.cat([data.train_labels, data.test_labels])
    assert sorted(red.round().int().tolist()) == [*range(100, 105), *range(200, 205)]
    assert torch.equal(labels, (red > 150).long())  # in alphabetical order
    assert data.source == str(tmp_path)
    assert torch.equal(load(f"folder:{tmp_path}@16").train, data.train)
    (tmp_path / "apes" / "0.PNG").write_bytes(flat_picture(7, ending="PNG"))
    assert load(f"folder:{tmp_path}@16").checksum != data.checksum
    assert preset(data.name).data == data.name


def test_pictures_are_cut_to_their_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), dtype=np.uint8)
    wide[:, 10:30] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(wide).save(tmp_path / name)
    assert bool((load(f"folder:{tmp_path}@8").test == 1).all())


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(flat_picture(50, "L", "PNG"))
    assert load(f"folder:{tmp_path}@8").image_shape == (1, 8, 8)
    (tmp_path / "colour.png").write_bytes(flat_picture(50, ending="PNG"))
    assert load(f"folder:{tmp_path}@8").image_shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["folder:", "folder:faces", "folder:@8", "folder:faces@0", "folder:faces@big"])
def test_names_of_folders_have_a_size(name: str) -> None:
    with pytest.raises(DataError, match="wanted folder:PATH@SIZE"):
        load(name)


def test_folders_that_hold_no_pictures_or_bad_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted two pictures or more"):
        load(f"folder:{tmp_path / 'nowhere'}@8")
    (tmp_path / "a.png").write_bytes(flat_picture(1, ending="PNG"))
    with pytest.raises(DataError, match="got 1"):
        load(f"folder:{tmp_path}@8")
    (tmp_path / "b.png").write_bytes(flat_picture(1, ending="PNG")[:60])
    with pytest.raises(DataError, match=r"b\.png: wanted a picture that can be read to its end"):
        load(f"folder:{tmp_path}@8")
    Image.fromarray(np.full((9, 9), 60_000, dtype=np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: wanted a picture of 8 bits"):
        load(f"folder:{tmp_path}@8")


def test_names_as_parts_of_file_names() -> None:
    assert plain_name("mnist-without-4") == "mnist-without-4"
    first, second = plain_name("folder:/a/b@32"), plain_name("folder:/a-b@32")
    assert first != second
    assert "/" not in first + second


def test_images_of_one_class_are_turned() -> None:
    images = torch.arange(16.0).reshape(4, 1, 2, 2)
    data = data_of([3] * 8, 4)
    assert not is_classified(data)
    object.__setattr__(data, "train", images)
    turned = with_classes(data)
    assert turned.train_labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(turned.train[3], images[3].rot90(3, (1, 2)))
    several = data_of([0, 1, 0, 1], 2)
    assert is_classified(several)
    assert with_classes(several) is several


# --------------------------------------------------------------------------------------------- coloured digits


def test_coloured_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = np.zeros((6, 28, 28), dtype=np.uint8)
    digits[:, 8:20, 8:20] = 255
    found = idx.IdxSet(arrays={"test": digits, "test_labels": np.arange(6)}, checksum="", folder=tmp_path)
    monkeypatch.setattr(colour, "load_idx_set", lambda *_: found)
    data, again = colour.load_mnist_colour([]), colour.load_mnist_colour([])
    assert data.test.shape == (6, 3, 32, 32)
    assert data.test_labels.tolist() == list(range(6))
    assert torch.equal(data.test, again.test)
    assert data.checksum == again.checksum
    ink, border = data.test[..., 12:20, 12:20].mean((1, 2, 3)), data.test[..., :4, :].mean((1, 2, 3))
    assert bool((ink - border).abs().min() > 0.1)  # digits stand out
    assert float(data.test[..., :4, :].std((2, 3)).min()) > 0  # from a texture
    raw = ((data.test + 1) * 127.5).round().byte().numpy()
    changed = np.abs(np.stack([decoding.compressed(image, 75) for image in raw]).astype(int) - raw).mean()
    assert changed < 1  # what JPEG would take is gone already


# ----------------------------------------------------------------------------------------------- the real files


REAL = {
    "kmnist": (10_000, 10, (1, 28, 28)),
    "notmnist": (10_000, 10, (1, 28, 28)),
    "omniglot": (4_840, 242, (1, 28, 28)),
}


@pytest.mark.parametrize("name", REAL)
def test_outlier_sets_when_they_are_here(name: str) -> None:
    data = load_or_skip(name)
    num, num_classes, shape = REAL[name]
    assert (len(data.test), data.image_shape, len(data.train)) == (num, shape, 0)
    assert len(data.test_labels.unique()) == num_classes
    assert (data.test.min().item(), data.test.max().item()) == (-1.0, 1.0)
    corners = data.test[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.median().item() < -0.95  # bright ink on dark, as in MNIST
    few = data.test_labels[:500].unique()
    assert len(few) > num_classes / 2  # not sorted by class


def test_mnist_without_a_class_when_it_is_here() -> None:
    data, only = load_or_skip("mnist-without-4"), load_or_skip("mnist-only-4")
    assert (len(data.train), len(data.test), len(only.test)) == (50_540, 12_636, 6_824)
    assert 4 not in data.train_labels.unique().tolist() + data.test_labels.unique().tolist()
    assert set(only.test_labels.tolist()) == {4}
    assert data.test_labels[:12].tolist() == [1, 1, 1, 0, 5, 6, 6, 3, 6, 2, 3, 6]  # the same everywhere


def load_or_skip(name: str) -> ImageData:
    try:
        return load(name)
    except DataError as error:
        if "no folder has them" not in str(error):
            raise
        pytest.skip(str(error))


def test_a_picture_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.jpg: wanted a picture"):
        open_picture(b"no picture", path=Path("a.jpg"))
