"""Starts a worker with any Python, also one without Lamina: python -P launch.py MODULE [--threads N] [OPTIONS].

This folder becomes importable as the package `peers`, and nothing else beside it does.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> None:
    """Pin this process to as many CPUs as it is to have threads, if it is told a number, and run the worker."""
    module, *options = arguments
    if options[:1] == ["--threads"]:
        _pin(int(options[1]))
        options = options[2:]
    spec = importlib.util.spec_from_file_location(
        "peers", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    sys.modules["peers"] = importlib.util.module_from_spec(spec)
    importlib.import_module(f"peers.{module}").main(options)


def _pin(num_threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])


if __name__ == "__main__":
    main(sys.argv[1:])
