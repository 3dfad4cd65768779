"""What gateways know: endpoints, models and API keys, in one file that control replaces and gateways read.

Plain values only; an upstream's secret stays sealed in here (gateway/sealing.py).
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway import files

FORMAT = 1

# Status and operator's state, as in the endpoints table and endpoint_options.
ONLINE, PENDING, ERROR, OFFLINE = "online", "pending", "error", "offline"
ENABLED, DRAINING, DISABLED = "enabled", "draining", "disabled"


class Model(msgspec.Struct, frozen=True, array_like=True):
    id: str  # as the endpoint calls it
    canonical: str | None = None
    aliases: tuple[str, ...] = ()  # every other name it answers to, matched without regard to case
    capabilities: tuple[str, ...] = ()  # chat, embeddings, …; empty: unknown
    max_tokens: int | None = None


def names(models: Sequence[Model]) -> tuple[dict[str, Model], dict[str, Model]]:
    """Names that an endpoint's models answer to, exact and casefolded. Its own id for a model wins over another's
    alias.
    """
    exact: dict[str, Model] = {}
    folded: dict[str, Model] = {}
    for model in models:
        for alias in (*((model.canonical,) if model.canonical else ()), *model.aliases):
            exact.setdefault(alias, model)
            folded.setdefault(alias.casefold(), model)
    for model in models:
        exact[model.id] = model
    return exact, folded


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    slot: int  # its place in the live page
    name: str
    base_url: str
    kind: str
    status: str
    operator_state: str = ENABLED
    sealed_key: str | None = None
    timeout_secs: float = 120.0  # to the first event of a stream, and for the whole of any other answer
    connect_timeout_secs: float = 5.0
    idle_timeout_secs: float | None = None  # between two events of a stream; None: as `timeout_secs`
    total_timeout_secs: float | None = None  # of a stream; None: no limit
    max_concurrency: int | None = None  # requests at a time, over all workers; None: any number
    drain_until: float | None = None  # seconds since 1970: then a draining endpoint's streams are ended
    models: tuple[Model, ...] = ()


class ApiKey(msgspec.Struct, frozen=True, array_like=True):
    id: str
    hash: str  # SHA-256, lower-case hexadecimal, of the whole key
    permissions: tuple[str, ...]
    expires_at: float | None = None  # seconds since 1970


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    database_id: str
    format: int = FORMAT
    endpoints: tuple[Endpoint, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


class Unreadable(Exception):
    """There is no snapshot, or none that this release can read."""


def save(path: Path, snapshot: Snapshot) -> None:
    """Replace the file in one step: a reader sees the old or the new one, whole."""
    files.replace(path, _encode(snapshot))


def load(path: Path) -> Snapshot:
    """Raises Unreadable."""
    try:
        snapshot = _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise Unreadable(f"snapshot {path.name}: {error}") from error
    if snapshot.format != FORMAT:
        raise Unreadable(f"snapshot {path.name} has format {snapshot.format}, not {FORMAT}")
    return snapshot
