"""Requests that administrators have cancelled: one small file in the data directory.

Control replaces it, and workers read it when `cancels` of the live page has changed. A worker that does not run a
request ignores it.
"""

from pathlib import Path

import msgspec

from gateway.base import files

KEPT_SECONDS = 60.0  # far longer than any worker takes to read the file


class Cancel(msgspec.Struct, frozen=True, array_like=True):
    """One request, and the time at which the administrator cancelled it, in seconds since 1970."""

    id: str
    at: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Cancel, ...]).decode


def path(data_dir: Path) -> Path:
    return data_dir / "cancels.json"


def save(data_dir: Path, cancels: tuple[Cancel, ...]) -> None:
    """Replace the file. Raises OSError."""
    files.replace(path(data_dir), _encode(cancels))


def load(data_dir: Path) -> tuple[Cancel, ...]:
    """Return the cancelled requests; none if there is no file, or if it cannot be read."""
    try:
        return _decode(path(data_dir).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeError):
        return ()
