"""Snapshot of earlier releases: one file with all endpoints, models and API keys.

It is read once, at the first start of this release without its database; afterwards it is deleted.
"""

from pathlib import Path

import msgspec

from gateway.registry.schema import PublishedEndpoint, PublishedKey

FILE = "snapshot"
FORMAT = 1


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    database_id: str
    format: int = FORMAT
    endpoints: tuple[PublishedEndpoint, ...] = ()
    api_keys: tuple[PublishedKey, ...] = ()


_decode = msgspec.msgpack.Decoder(Snapshot).decode


class Unreadable(Exception):
    """There is no snapshot, or this release cannot read it."""


def load(path: Path) -> Snapshot:
    """Read the snapshot. Raises Unreadable."""
    try:
        snapshot = _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise Unreadable(f"snapshot {path.name}: {error}") from error
    if snapshot.format != FORMAT:
        raise Unreadable(f"snapshot {path.name} has format {snapshot.format}, not {FORMAT}")
    return snapshot
