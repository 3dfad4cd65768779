"""The requests that are here now, as each worker tells them while somebody looks: one small file for each worker, in
the data directory, replaced whole about twice a second until the live page's `watched_until` has passed.
"""

from pathlib import Path

import msgspec

from gateway import files

MOST = 200  # of either sort in one file; the totals count all


class Waiting(msgspec.Struct, frozen=True):
    """A request in the queue. `since` in seconds since 1970; `position` 1 goes first."""

    id: str
    model: str
    kind: str
    api_key_id: str | None
    client_ip: str | None
    since: float
    position: int


class Running(msgspec.Struct, frozen=True):
    """A request that an endpoint is working on. `deltas` are the pieces of its stream that have gone to the client,
    the first of them at `first_token`.
    """

    id: str
    model: str
    kind: str
    endpoint_id: str | None
    api_key_id: str | None
    client_ip: str | None
    since: float
    streamed: bool
    deltas: int
    first_token: float | None = None


class Present(msgspec.Struct, frozen=True):
    """What one worker has at a moment, `at` in seconds since 1970."""

    worker: int
    at: float
    waiting: tuple[Waiting, ...] = ()
    running: tuple[Running, ...] = ()
    waiting_total: int = 0
    running_total: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Present).decode


def path(data_dir: Path, worker: int) -> Path:
    return data_dir / f"live-{worker}.json"


def save(data_dir: Path, present: Present) -> None:
    """Raises OSError."""
    files.replace(path(data_dir, present.worker), _encode(present))


def load(data_dir: Path, worker: int) -> Present | None:
    """None where there is none, or none that can be read."""
    try:
        return _decode(path(data_dir, worker).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeError):
        return None
