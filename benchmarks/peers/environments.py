"""A virtual environment for each peer, with exactly the versions that its requirements name."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from lamina.samplers import LaminaError

_COMPLETE = ".complete"
_MAX_REASON = 300


class PeerEnvironmentError(LaminaError, RuntimeError):
    """An environment cannot be built; the message says why."""


def default_folder() -> Path:
    """Where environments are kept: in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "lamina", "peers")


def requirements(peer: str) -> Path:
    """The file with a peer's pinned requirements."""
    return Path(__file__).with_name(f"{peer}-requirements.txt")


def digest(peer: str) -> str:
    """Changes with a peer's requirements and with the version of Python."""
    text = platform.python_version().encode() + b"\0" + requirements(peer).read_bytes()
    return hashlib.sha256(text).hexdigest()[:12]


def python_of(peer: str, folder: Path) -> Path:
    """The Python of a peer's environment, which is built unless it is there.

    Args:
        peer: Its name.
        folder: Holds the environments.

    Raises:
        PeerEnvironmentError: If it cannot be built.
    """
    home = folder / f"{peer}-{digest(peer)}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / _COMPLETE).exists():
        _call(sys.executable, "-m", "venv", "--clear", home)
        _call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements(peer))
        (home / _COMPLETE).touch()
    return python


def _call(*command: str | Path) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or error.stderr.splitlines()
        raise PeerEnvironmentError(" ".join(said)[:_MAX_REASON] or str(error)) from error
    except OSError as error:
        raise PeerEnvironmentError(str(error)) from error
