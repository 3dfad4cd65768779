"""Folders of the registry store: `current` names the generation in use, and each generation has a folder of its own."""

import shutil
from pathlib import Path

from gateway.base import files

CURRENT = "current"


def current(root: Path) -> int:
    """Return the generation in use. Raises FileNotFoundError if there is none."""
    try:
        return int((root / CURRENT).read_text())
    except ValueError:
        raise FileNotFoundError(f"{root / CURRENT} names no generation") from None


def folder(root: Path, generation: int) -> Path:
    return root / str(generation)


def use(root: Path, generation: int) -> None:
    """Make a generation the one in use, in one step. Raises OSError."""
    files.replace(root / CURRENT, str(generation).encode())


def remove(root: Path, generation: int) -> None:
    shutil.rmtree(folder(root, generation), ignore_errors=True)


def others(root: Path, generation: int) -> list[int]:
    """Return all other generations that have a folder."""
    return [int(path.name) for path in root.glob("[0-9]*") if path.name.isdecimal() and int(path.name) != generation]
