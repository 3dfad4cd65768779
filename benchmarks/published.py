"""Everything that a registry store contains, read at once."""

from dataclasses import dataclass
from pathlib import Path

from gateway.registry import folders
from gateway.registry.kinds import ENDPOINTS, KEYS, MODELS
from gateway.registry.schema import EndpointFacts, PublishedEndpoint, PublishedKey
from gateway.registry.store import RegistryStore


@dataclass(frozen=True, slots=True)
class Published:
    """Endpoints and API keys of one version."""

    version: int
    database_id: str
    endpoints: tuple[PublishedEndpoint, ...] = ()
    api_keys: tuple[PublishedKey, ...] = ()


def read(root: Path) -> Published:
    """Read the store in this folder. Raises OSError, sqlite3.Error or gateway.registry.schema.Damaged."""
    store = RegistryStore(folders.folder(root, folders.current(root)))
    try:
        with store.reading():
            state = store.state()
            endpoints = sorted(
                (_endpoint(store, key, facts) for key, facts in store.rows(ENDPOINTS)), key=lambda one: one.slot
            )
            keys = (
                PublishedKey(row.id, digest.hex(), row.permissions, row.expires_at, row.owner_id)
                for digest, row in store.rows(KEYS)
            )
            return Published(state.version, state.database_id, tuple(endpoints), tuple(keys))
    finally:
        store.close()


def _endpoint(store: RegistryStore, key: bytes, facts: EndpointFacts) -> PublishedEndpoint:
    models = (model for _, model in store.rows(MODELS, key))
    return facts.with_models(sorted(models, key=lambda model: model.id))
