"""Image data, read from local files and verified, and the shuffled order in which its rows are visited."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lamina.samplers.errors import MissingExtraError, ParameterError, UnknownNameError

from .errors import CheckpointError, DataError
from .idx import DATA_ROOT_VARIABLE, IDX_SPECS, IdxSpec, load_idx_set

DIGITS_SPLIT_SEED = 20230618
"""Seed of the `torch.Generator` that shuffles the digits before the split; another makes another data set."""

DIGITS_NUM_TRAIN = 1297
"""Training rows of the digits; the other 500 of the 1,797 are for testing."""

_SYSTEM_ROOT = Path("/usr/share/datasets")  # where Debian's dataset-* packages put their files
_SIBLING_ROOT = Path("../shared/data")
_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set of labelled images, split into training and test rows.

    Attributes:
        name: The name in `DATASETS`.
        train: Training images, float32 (N, 1, H, W), scaled so that the raw range becomes [-1, 1].
        train_labels: Their classes, int64 (N,).
        test: Test images, float32 (M, 1, H, W), scaled as `train`.
        test_labels: Their classes, int64 (M,).
        num_levels: Grey levels of the raw data, equally spaced over [-1, 1].
        checksum: SHA-256, in hex, of the raw bytes that were read, unpacked and in a fixed order.
        source: Where they were read: a folder, or a package with its version.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_levels: int
    checksum: str
    source: str

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image, (1, H, W)."""
        return tuple(self.train.shape[1:])


def load(name: str, *, data_root: Path | str | None = None) -> ImageData:
    """Load a data set by name, without touching the network.

    The digits come with scikit-learn. The idx sets are searched in `data_root`, in the folder that the
    environment variable `LAMINA_DATA_ROOT` names, in `/usr/share/datasets`, and in `../shared/data` seen from
    the current directory and from a checkout of Lamina; `load_idx_set` says under which names. Their
    checksums must be those of the published files, so every place gives the same data.

    Args:
        name: A key of `DATASETS`.
        data_root: The folder to search first; the digits need none.

    Returns:
        The images and labels, on the CPU.

    Raises:
        UnknownNameError: If `name` is not in `DATASETS`.
        DataError: If the files are missing, damaged, or not the published ones.
        MissingExtraError: If the digits are wanted and scikit-learn is not installed.
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    if data_root and not Path(data_root).expanduser().is_dir():
        raise DataError(f"the data root {data_root} is no folder. Name the folder that holds the data set's files.")
    return DATASETS[name](_search_roots(data_root))


def _search_roots(data_root: Path | str | None) -> list[Path]:
    """List the folders to search, each once, those that the user named first."""
    named = [root for root in (data_root, os.environ.get(DATA_ROOT_VARIABLE)) if root]
    roots = [Path(os.path.expanduser(root)) for root in named]
    roots += [_SYSTEM_ROOT, _SIBLING_ROOT]
    if (_CHECKOUT / "setup.cfg").is_file():  # not where the package was installed from a wheel
        roots.append(_CHECKOUT / _SIBLING_ROOT)
    return list(dict.fromkeys(root.resolve() for root in roots))


def _load_idx(spec: IdxSpec, roots: Sequence[Path]) -> ImageData:
    found = load_idx_set(spec, roots)
    return _image_data(spec.name, found.arrays, white=255, checksum=found.checksum, source=str(found.folder))


def _load_digits(_roots: Sequence[Path]) -> ImageData:
    """Load scikit-learn's 8x8 digits (UCI, values 0..16) with a fixed split.

    The checksum covers the pixels, then the labels, as unsigned bytes in scikit-learn's order.
    """
    try:
        import sklearn
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "the data set 'digits'") from error
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED)).numpy()
    train, test = order[:DIGITS_NUM_TRAIN], order[DIGITS_NUM_TRAIN:]
    return _image_data(
        "digits",
        {
            "train": images[train],
            "train_labels": labels[train],
            "test": images[test],
            "test_labels": labels[test],
        },
        white=16,
        checksum=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        source=f"scikit-learn {sklearn.__version__}",
    )


def _image_data(
    name: str, arrays: Mapping[str, npt.NDArray[np.uint8]], *, white: int, checksum: str, source: str
) -> ImageData:
    """Scale images (N, H, W) from [0, white] to [-1, 1], and give everything its final shape and type."""

    def images(field: str) -> Tensor:
        pixels = torch.from_numpy(arrays[field].astype(np.float32))
        return pixels.unsqueeze(1).div_(white / 2).sub_(1)

    def labels(field: str) -> Tensor:
        return torch.from_numpy(arrays[field].astype(np.int64))

    return ImageData(
        name=name,
        train=images("train"),
        train_labels=labels("train_labels"),
        test=images("test"),
        test_labels=labels("test_labels"),
        num_levels=white + 1,
        checksum=checksum,
        source=source,
    )


DATASETS: Mapping[str, Callable[[Sequence[Path]], ImageData]] = {
    "digits": _load_digits,
    **{spec.name: partial(_load_idx, spec) for spec in IDX_SPECS},
}
"""Every data set by name: a function from the folders to search to the data."""


class BatchStream:
    """An endless stream of row numbers: a fresh shuffle each epoch, cut into batches of one size.

    The rows of a batch are distinct, and so are those of an epoch's batches; persistent chains, one per row,
    rely on it. The price: the `num_rows % batch_size` rows left at the end of an epoch, others each time, sit
    that epoch out.

    Args:
        num_rows: Rows of the data set, >= 1.
        batch_size: Rows per batch, from 1 to `num_rows`.
        generator: Draws the shuffles, on its own device. The stream saves and restores its state, so it
            should belong to the stream alone.

    Raises:
        ParameterError: If `batch_size` or `num_rows` is out of range.
    """

    def __init__(self, num_rows: int, batch_size: int, generator: torch.Generator) -> None:
        if not 1 <= batch_size <= num_rows:
            raise ParameterError(
                f"batch_size must lie between 1 and the number of rows, {num_rows}; got {batch_size}. "
                "Take another batch size or more data."
            )
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._generator = generator
        self._order = torch.arange(0)  # exhausted, so that the first call shuffles
        self._cursor = 0

    def next(self) -> Tensor:
        """Return the next batch of row numbers, int64 (batch_size,), on the generator's device."""
        if self._cursor + self._batch_size > len(self._order):
            device = self._generator.device
            self._order = torch.randperm(self._num_rows, generator=self._generator, device=device)
            self._cursor = 0
        start, self._cursor = self._cursor, self._cursor + self._batch_size
        return self._order[start : self._cursor].clone()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that the next batches depend on, as plain numbers and tensors."""
        return {
            "num_rows": self._num_rows,
            "batch_size": self._batch_size,
            "order": self._order.clone(),
            "cursor": self._cursor,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, where the stream that gave `state` stood.

        Args:
            state: What `state_dict` returned, from a stream of the same sizes. It is copied.

        Raises:
            CheckpointError: If `state` is damaged or belongs to a stream of other sizes; the stream and its
                generator are then as before.
        """
        self._check_sizes(state)
        order, cursor = state["order"], state["cursor"]
        if not self._is_place(order, cursor):
            raise CheckpointError(
                f"batch order: wanted a shuffle of {self._num_rows} rows and a place between its batches; "
                "got something else. The checkpoint is damaged: resume from another one."
            )
        try:
            self._generator.set_state(state["generator"])
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"batch order: wanted the state of a generator on {self._generator.device}; the stored one "
                f"was refused: {error}. Resume on the kind of device where the checkpoint was written."
            ) from error
        self._order = order.to(self._generator.device, copy=True)
        self._cursor = cursor

    def _check_sizes(self, state: Mapping[str, Any]) -> None:
        wanted = self.state_dict()
        if state.keys() != wanted.keys():
            raise CheckpointError(
                f"batch order: wanted the entries {', '.join(wanted)}; got {', '.join(map(str, state))}. "
                "Resume from a checkpoint that is whole."
            )
        for key in ("num_rows", "batch_size"):
            if type(state[key]) is not int or state[key] != wanted[key]:
                raise CheckpointError(
                    f"batch order: this run has {key} {wanted[key]}; the checkpoint's is {state[key]!r}. "
                    "Resume with the data and batch size of the checkpoint, or start a new run."
                )

    def _is_place(self, order: object, cursor: object) -> bool:
        """Whether `order` is a shuffle of all rows, or still empty, and `cursor` lies between batches."""
        if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.ndim != 1:
            return False
        rows = torch.arange(self._num_rows if len(order) else 0, device=order.device)
        if not torch.equal(order.sort().values, rows):
            return False
        return type(cursor) is int and cursor in range(0, len(order) + 1, self._batch_size)
