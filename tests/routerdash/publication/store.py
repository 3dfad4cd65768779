"""The registry store as a gateway reads it, and what it must contain."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from access.directory import read_key_entries, read_users
from access.limits.reading import all_limits
from endpoints.model_names.name_cache import read_names
from endpoints.registry import read_entries
from gateway.base.config import Config
from gateway.registry import folders
from gateway.registry.kinds import ENDPOINTS, KEYS, LIMITS, MODEL_NAMES, MODELS
from gateway.registry.limits import LimitFacts
from gateway.registry.schema import EndpointFacts, KeyFacts, Model, ModelName, StoreState, limited_subject, ref
from gateway.registry.store import FILE, RegistryStore
from routerdash.publication.facts import endpoint_facts, endpoint_models, published_key


@dataclass(frozen=True, slots=True)
class Stored:
    """All that the store has."""

    state: StoreState
    endpoints: dict[str, EndpointFacts]  # by id
    models: dict[str, list[Model]]  # by id of the endpoint, sorted by id
    keys: dict[str, KeyFacts]  # by hash
    model_names: dict[str, ModelName]  # by id
    limits: dict[tuple[str, str], LimitFacts]  # by level and id

    @property
    def slots(self) -> dict[str, int]:
        return {endpoint_id: facts.slot for endpoint_id, facts in self.endpoints.items()}

    @property
    def names(self) -> list[str]:
        return sorted(facts.name for facts in self.endpoints.values())

    def same_rows(self, other: "Stored") -> bool:
        """Compare everything but version and tokens."""
        mine = (self.endpoints, self.models, self.keys, self.model_names, self.limits)
        return mine == (other.endpoints, other.models, other.keys, other.model_names, other.limits)


def file_of(config: Config) -> Path:
    """Return the path of the store's file."""
    return folders.folder(config.registry_dir, folders.current(config.registry_dir)) / FILE


def read(config: Config) -> Stored:
    store = RegistryStore(file_of(config).parent)
    with closing(store), store.reading():
        endpoints = {facts.id: facts for _, facts in store.rows(ENDPOINTS)}
        return Stored(
            store.state(),
            endpoints,
            {
                endpoint_id: sorted(
                    (model for _, model in store.rows(MODELS, ref(endpoint_id))), key=lambda model: model.id
                )
                for endpoint_id in endpoints
            },
            {digest.hex(): key for digest, key in store.rows(KEYS)},
            {name.id: name for _, name in store.rows(MODEL_NAMES)},
            {limited_subject(key): limits for key, limits in store.rows(LIMITS)},
        )


def expected(stored: Stored) -> Stored:
    """Return what the store must have by the database; slots are those that it has."""
    entries = read_entries()
    return Stored(
        stored.state,
        {endpoint.id: endpoint_facts(endpoint, stored.slots.get(endpoint.id, -1)) for endpoint in entries.values()},
        {endpoint.id: sorted(endpoint_models(endpoint), key=lambda model: model.id) for endpoint in entries.values()},
        _key_rows(),
        {name_id: facts for name_id, model_name in read_names().items() if (facts := model_name.facts()) is not None},
        dict(all_limits()),
    )


def _key_rows() -> dict[str, KeyFacts]:
    keys = [published_key(key) for key in read_key_entries(read_users())]
    return {key.hash: key.facts() for key in keys} | {
        key.replaced: key.replaced_facts() for key in keys if key.replaced
    }


def assert_is_as_the_database(config: Config) -> Stored:
    """Compare each row, and return the store."""
    stored = read(config)
    assert stored == expected(stored)
    return stored


def damage_rows(config: Config, table: str) -> None:
    """Change each row of a table, so that its checksum is wrong."""
    with closing(sqlite3.connect(file_of(config))) as database, database:
        assert database.execute(f"UPDATE {table} SET v = CAST(v || x'00' AS BLOB)").rowcount
