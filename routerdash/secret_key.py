"""Django's secret key. The first `serve` creates it in the data directory, so that sessions outlive a restart."""

import secrets
from pathlib import Path

from gateway.base import files


def read(path: Path) -> str:
    """Return the stored key, or a new one for this process alone if none is stored.

    A management command in a fresh clone has no stored key.
    """
    try:
        return path.read_text().strip()
    except OSError:
        return _new()


def make(path: Path) -> None:
    if not path.exists():
        files.create_once(path, _new().encode())


def rotate(path: Path) -> None:
    """Replace the stored key by a new one; the old one becomes invalid. Raises OSError."""
    files.replace(path, _new().encode())


class Watch:
    """Watch on the stored key, which detects its replacement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = read(path)
        self._state = self._stat()

    def is_replaced(self) -> bool:
        """Return True if `changed` would read the file. It costs a microsecond."""
        return self._new_state() is not None

    def changed(self) -> str | None:
        """Return the new key once after a change, else None. The file is read only if it was replaced."""
        state = self._new_state()
        if state is None:
            return None
        self._state = state
        before, self._key = self._key, read(self._path)
        return self._key if self._key and self._key != before else None

    def _new_state(self) -> tuple[int, int] | None:
        """Return the state of a file that was replaced; None if it was not."""
        state = self._stat()
        return None if state == self._state else state

    def _stat(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None  # being replaced, or deleted: the key in use stays
        return stat.st_ino, stat.st_mtime_ns


def _new() -> str:
    return secrets.token_urlsafe(50)
