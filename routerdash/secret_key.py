"""Django's secret key: made by the first `serve`, kept in the data directory, so that a restart logs nobody out."""

import secrets
from pathlib import Path

from gateway import files


def read(path: Path) -> str:
    """The stored key; where there is none (a management command in a fresh clone), one for this process alone."""
    try:
        return path.read_text().strip()
    except OSError:
        return secrets.token_urlsafe(50)


def make(path: Path) -> None:
    if not path.exists():
        files.create_once(path, secrets.token_urlsafe(50).encode())
