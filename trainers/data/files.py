"""Where the files of data sets are searched, and that they are the published ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

DATA_ROOT_VARIABLE = "LAMINA_DATA_ROOT"
"""The environment variable that names a folder of data sets."""

_SYSTEM_ROOT = Path("/usr/share/datasets")  # where Debian's dataset-* packages put their files
_SIBLING_ROOT = Path("../shared/data")
_CHECKOUT = Path(__file__).resolve().parents[2]


def search_roots(data_root: Path | str | None) -> list[Path]:
    """List the folders to search, each once, those that the user named first."""
    named = [root for root in (data_root, os.environ.get(DATA_ROOT_VARIABLE)) if root]
    roots = [Path(os.path.expanduser(root)) for root in named]
    roots += [_SYSTEM_ROOT, _SIBLING_ROOT]
    if (_CHECKOUT / "setup.cfg").is_file():  # not where the package was installed from a wheel
        roots.append(_CHECKOUT / _SIBLING_ROOT)
    return list(dict.fromkeys(root.resolve() for root in roots))


def candidate_folders(subfolder: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Every root, its subfolder first where there is one."""
    for root in roots:
        if os.path.isdir(root / subfolder):
            yield root / subfolder
        yield root


def describe_gap(folder: Path, wanted: Sequence[str], lacking: Sequence[str]) -> str:
    """Say what a folder that was searched in vain lacks."""
    if not os.path.isdir(folder):
        return "no such folder"
    return "none of the files" if len(lacking) == len(wanted) else f"lacks {', '.join(lacking)}"


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """One form in which a data set is published: files of known content.

    Attributes:
        name: Of the data set.
        folder: The subfolder that the files have in a folder of data sets; they may also lie there themselves.
        digests: File names, in the order in which the checksum takes them, to "md5:..." or "sha256:..." in hex.
        install: How to get them.
    """

    name: str
    folder: str
    digests: Mapping[str, str]
    install: str


class FoundFiles(NamedTuple):
    """Files that were found and verified.

    Attributes:
        form: Which form of the data set they are.
        contents: Their bytes by file name.
        checksum: SHA-256, in hex, of all of them in order.
        folder: Where they lie.
    """

    form: FileSet
    contents: Mapping[str, bytes]
    checksum: str
    folder: Path


def read_files(forms: Sequence[FileSet], roots: Sequence[Path]) -> FoundFiles:
    """Read and verify the files of a data set: the first complete form, in the first root that has one.

    Args:
        forms: The forms of one data set, the better ones first.
        roots: Folders to search, in this order; they need not exist.

    Raises:
        DataError: If no root has the files, or the first that has them holds damaged or foreign ones.
    """
    searched = []
    for root, form in product(roots, forms):
        for folder in candidate_folders(form.folder, [root]):
            if lacking := [name for name in form.digests if not os.path.isfile(folder / name)]:
                searched.append(f"{folder} ({describe_gap(folder, list(form.digests), lacking)})")
                continue
            contents = {name: _verified(form, folder / name, digest) for name, digest in form.digests.items()}
            checksum = hashlib.sha256(b"".join(contents.values())).hexdigest()
            return FoundFiles(form, contents, checksum, folder)
    wanted = ", or ".join(", ".join(form.digests) for form in forms)
    raise DataError(
        f"{forms[0].name}: wanted {wanted}, and no folder has them. Searched: "
        f"{'; '.join(dict.fromkeys(searched))}. Get them: {'; or '.join(form.install for form in forms)}. Then point "
        f"--data-root, data_root= or {DATA_ROOT_VARIABLE} at their folder."
    )


def _verified(form: FileSet, path: Path, digest: str) -> bytes:
    """The content of a file, which is then whole and what was published."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: wanted a file that can be read to its end; got {error!r}.") from error
    algorithm, wanted = digest.split(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != wanted:
        raise DataError(
            f"{path}: wanted the published file of {form.name}, with {algorithm} {wanted}; got {len(content)} bytes "
            f"with {found}. The file is cut, damaged, or another one: replace it. {form.install}."
        )
    return content
