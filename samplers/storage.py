"""Files of plain tensors and containers that are whole or absent: written aside, checked, then renamed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import StateError

_FOLDER = 0x10  # attribute of MS-DOS, as the zip format has it


def save(state: dict[str, Any], path: Path, *, kind: str) -> None:
    """Write a state so that whoever reads `path` sees the old file or the new one, never a part.

    Args:
        state: Tensors, numbers, strings and containers of them; nothing that needs unpickling of classes.
        path: Where to; the folder must exist.
        kind: Names what is stored; `load` refuses other kinds.

    Raises:
        OSError: If the disk is full or the folder cannot be written; an earlier file at `path` survives.
    """
    aside = path.with_name(f".{path.name}.part")  # one name, so that what a kill left behind is written over
    try:
        with aside.open("wb") as file:
            try:
                torch.save({"kind": kind, "state": state}, file)
            except RuntimeError as error:  # torch's zip writer reports a full disk so
                raise OSError(f"could not write {path}: {error}") from error
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path, *, kind: str) -> dict[str, Any]:
    """Read what `save` wrote; nothing is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        StateError: If the file is damaged, truncated, or holds something else.
    """
    with path.open("rb") as file:
        try:
            _check_archive(zipfile.ZipFile(file))
            file.seek(0)
            stored = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever damaged or foreign bytes lead to
            raise StateError(
                f"{path} cannot be read: it is damaged, truncated, or was not written by Lamina "
                f"({_first_line(error)}). Go back to an earlier copy."
            ) from error
    if not isinstance(stored, dict) or not isinstance(stored.get("state"), dict) or stored.get("kind") != kind:
        found = stored.get("kind") if isinstance(stored, dict) else type(stored).__name__
        raise StateError(f"{path} should hold {kind!r}; it holds {found!r}. Check that this is the right file.")
    state: dict[str, Any] = stored["state"]
    return state


def _check_archive(archive: zipfile.ZipFile) -> None:
    """Raise where torch.load would read on: it compares no checksums, and reads records marked as folders as zeros."""
    damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    if any(record.external_attr & _FOLDER for record in archive.infolist()):
        raise zipfile.BadZipFile("a record is marked as a folder")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
