"""Running and waiting requests of each worker, for the pages that show them.

Each worker has one small file in the data directory. It replaces the file about twice a second until `watched_until` of
the live page has passed.
"""

from pathlib import Path

import msgspec

from gateway.base import files

MAX_LISTED = 200  # running requests, and waiting ones, in one file; the totals count all


class Waiting(msgspec.Struct, frozen=True):
    """A request in the queue. `since` in seconds since 1970; `position` 1 is served first."""

    id: str
    model: str
    kind: str
    api_key_id: str | None
    client_ip: str | None
    since: float
    position: int
    queue_class: str | None = None  # as in RequestRecord


class Running(msgspec.Struct, frozen=True):
    """A request that an endpoint processes. `deltas` counts the parts of its stream that were sent to the client.

    The first of them was sent at `first_token`.
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
    queue_class: str | None = None


class Present(msgspec.Struct, frozen=True):
    """The requests of one worker at the time `at`, in seconds since 1970. `worker`: its row in the live page."""

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
    """Replace the file. Raises OSError."""
    files.replace(path(data_dir, present.worker), _encode(present))


def load_all(data_dir: Path) -> list[Present]:
    """Return the last requests of every worker that ever wrote its file, in order of the workers."""
    files = data_dir.glob("live-*.json")
    loaded = [load(data_dir, int(file.stem[5:])) for file in files if file.stem[5:].isdecimal()]
    return sorted((present for present in loaded if present is not None), key=lambda present: present.worker)


def load(data_dir: Path, worker: int) -> Present | None:
    """Return the requests of a worker; None if there is no file, or if it cannot be read."""
    try:
        return _decode(path(data_dir, worker).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeError):
        return None
