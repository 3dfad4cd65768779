"""Requests that an operator wants ended: one small file in the data directory, which control replaces and workers read
when the live page's `cancels` has changed. A worker that does not have a request leaves it to the others.
"""

from pathlib import Path

import msgspec

from gateway import files

KEPT_SECONDS = 60.0  # far longer than any worker takes to look


class Cancel(msgspec.Struct, frozen=True, array_like=True):
    """One request, and when it was asked for in seconds since 1970."""

    id: str
    at: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Cancel, ...]).decode


def path(data_dir: Path) -> Path:
    return data_dir / "cancels.json"


def save(data_dir: Path, cancels: tuple[Cancel, ...]) -> None:
    """Raises OSError."""
    files.replace(path(data_dir), _encode(cancels))


def load(data_dir: Path) -> tuple[Cancel, ...]:
    """None of them where there is no file, or none that can be read."""
    try:
        return _decode(path(data_dir).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeError):
        return ()
