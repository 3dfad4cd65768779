"""Django's secret key: made by the first `serve`, kept in the data directory, so that a restart logs nobody out."""

import secrets
from pathlib import Path

from gateway import files


def read(path: Path) -> str:
    """The stored key; where there is none (a management command in a fresh clone), one for this process alone."""
    try:
        return path.read_text().strip()
    except OSError:
        return _new()


def make(path: Path) -> None:
    if not path.exists():
        files.create_once(path, _new().encode())


def rotate(path: Path) -> None:
    """Put a new key in the place of the old one, which nothing accepts any more. Raises OSError."""
    files.replace(path, _new().encode())


class Watch:
    """Whether the stored key is another one than a while ago."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = read(path)
        self._state = self._stat()

    def changed(self) -> str | None:
        """The new key, once; looks at the file only where it has been replaced."""
        state = self._stat()
        if state is None or state == self._state:
            return None
        self._state = state
        before, self._key = self._key, read(self._path)
        return self._key if self._key and self._key != before else None

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None  # on its way, or gone: the key in use stays
        return found.st_ino, found.st_mtime_ns


def _new() -> str:
    return secrets.token_urlsafe(50)
