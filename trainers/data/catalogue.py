"""Every data set by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lamina.samplers.errors import UnknownNameError

from ..errors import DataError
from .cifar import load_cifar10
from .colour import load_mnist_colour
from .digits import load_digits
from .files import search_roots
from .folder import PREFIX, load_folder
from .held_out import divided, held_out
from .idx import IDX_SPECS, load_idx, load_idx_folder
from .idx import PREFIX as IDX
from .images import ImageData
from .npz import NPZ_SETS, load_npz
from .poses import POSES, in_pose, split_pose
from .svhn import load_svhn

DATASETS: Mapping[str, Callable[[Sequence[Path]], ImageData]] = {
    "digits": load_digits,
    **{spec.name: partial(load_idx, spec) for spec in IDX_SPECS},
    **{form.name: partial(load_npz, form) for form in NPZ_SETS},
    "cifar10": load_cifar10,
    "svhn": load_svhn,
    "mnist-colour": load_mnist_colour,
}
"""Every data set that has a name of its own: a function from the folders to search to the data."""

FORMS = (
    f"{', '.join(DATASETS)}, or {IDX}FOLDER; NAME-without-CLASS or NAME-only-CLASS of these; {PREFIX}PATH@SIZE; and "
    f"POSE:NAME, with POSE one of {', '.join(POSES)}"
)
"""What `load` takes, in words."""


def load(name: str, *, data_root: Path | str | None = None) -> ImageData:
    """Load a data set by name, without touching the network.

    The digits come with scikit-learn. Files are searched in `data_root`, in the folder that the environment variable
    `LAMINA_DATA_ROOT` names, in `/usr/share/datasets`, and in `../shared/data` seen from the current directory and
    from a checkout of Lamina. Their checksums must be those of the published files, so every place gives the same
    data.

    Args:
        name: A key of `DATASETS`; or `idx:FOLDER`, any set in files as MNIST has them, see `load_idx_folder`; or one of
            these with a class held out: `NAME-without-CLASS` has 80 % of the other classes for training and 20 % for
            testing, `NAME-only-CLASS` all images of the class for testing, both from training and test images pooled;
            or `folder:PATH@SIZE`, any folder of pictures, see `load_folder`; or `POSE:NAME`, any of these with its
            images in a standard pose, see `lamina.trainers.data.poses`.
        data_root: The folder to search first; the digits need none.

    Returns:
        The images and labels, on the CPU.

    Raises:
        UnknownNameError: If `name` is no data set.
        DataError: If the files are missing, damaged, or not the published ones; or there is no such class or folder.
        MissingExtraError: If a package that reads the files is not installed.
    """
    if data_root and not Path(data_root).expanduser().is_dir():
        raise DataError(f"the data root {data_root} is no folder. Name the folder that holds the data set's files.")
    roots = search_roots(data_root)
    pose, name = split_pose(name)
    data = _unposed(name, roots)
    return data if pose is None else in_pose(data, pose, f"{pose}:{name}")


def _unposed(name: str, roots: Sequence[Path]) -> ImageData:
    if name.startswith(PREFIX):
        return load_folder(name)
    if rule := held_out(name):
        return divided(_named(rule.base, roots), rule, name)
    return _named(name, roots)


def _named(name: str, roots: Sequence[Path]) -> ImageData:
    if name.startswith(IDX):
        return load_idx_folder(name)
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name](roots)
