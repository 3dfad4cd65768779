"""Imports without optional packages of a library that RouterDash does not need, because they take memory."""

import sys
from importlib import import_module


def import_without(module: str, *absent: str) -> None:
    """Import a module as if these packages were not installed. Packages that are loaded already stay usable."""
    hidden = [name for name in absent if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system then raises ModuleNotFoundError
    try:
        import_module(module)
    finally:
        for name in hidden:
            del sys.modules[name]
