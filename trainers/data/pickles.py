"""Reading pickles of arrays without running what they say."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_RECONSTRUCT = np.zeros(0).__reduce__()[0]  # the function by which arrays are unpickled; its module has moved
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Numbers, strings, containers and arrays; a pickle can run nothing that `find_class` does not give it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_pickle(content: bytes, *, path: Path) -> Any:
    """Read a pickle, of Python 2 or 3, of plain values, containers of them, and arrays.

    Args:
        content: The file.
        path: Where it comes from; for messages only.

    Raises:
        DataError: If it is damaged, or asks for anything else; that is then neither imported nor called.
    """
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise whatever they stumble over
        raise DataError(
            f"{path}: wanted a pickle of plain values and arrays; got {error!r}. Replace it by the published file."
        ) from error
