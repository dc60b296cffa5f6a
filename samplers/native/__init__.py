"""The native engine: kernel and energy traced together, printed as one C++ program, compiled and run."""

from __future__ import annotations

from .engine import Native

__all__ = ["Native"]
