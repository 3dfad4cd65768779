"""Writer of the registry store. Only one process writes: the preparation of a start, then control.

A change is one transaction: its rows, one row that names them for readers, and the version. The live page gets the
version afterwards. A store that is damaged, of another format or of another database is replaced by a new generation.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.limits import LimitFacts
from gateway.registry.prices import PriceFacts
from gateway.registry.schema import (
    CHANGES,
    DIGEST_BYTES,
    ENDPOINT,
    ENDPOINTS,
    ENGINE,
    ENGINES,
    EVERYTHING,
    EXACT,
    FOLDED,
    FORMAT,
    KEY,
    KEYS,
    LENGTH,
    LENGTHS,
    LIMIT,
    LIMITS,
    META,
    MODEL_NAMES,
    MODEL_ROWS,
    MODELS,
    NAME,
    NAMES,
    PRICE,
    PRICES,
    SPEED,
    SPEEDS,
    STATE,
    Damaged,
    EndpointFacts,
    EngineState,
    KeyFacts,
    Lengths,
    Model,
    ModelName,
    PublishedEndpoint,
    PublishedKey,
    Row,
    Speeds,
    StoreState,
    Table,
    length_key,
    limit_key,
    model_name_key,
    names,
    ref,
    speed_key,
    version_key,
)
from gateway.registry.store import RegistryStore, is_damage

log = logging.getLogger(__name__)

Subject = tuple[str, str]  # that has limits: level and id (gateway.registry.limits)

KEPT_CHANGES = 4096  # versions that readers can follow
MAX_NAMED = 10_000  # rows that one change names; a larger one lets readers read everything again


@dataclass(slots=True)
class Changes:
    """Objects that may have changed, by id; None: deleted. Rows that are equal to the stored ones are not written."""

    endpoints: dict[str, EndpointFacts | None] = field(default_factory=dict)
    models: dict[str, Sequence[Model]] = field(default_factory=dict)  # of endpoints; all models of each
    keys: dict[str, PublishedKey | None] = field(default_factory=dict)  # by `hash`
    speeds: dict[tuple[str, str, str], Speeds | None] = field(default_factory=dict)  # by endpoint, model and kind
    lengths: dict[tuple[str, str | None], Lengths | None] = field(default_factory=dict)  # by model and API key
    engines: dict[str, EngineState | None] = field(default_factory=dict)  # by endpoint
    model_names: dict[str, ModelName | None] = field(default_factory=dict)
    limits: dict[Subject, LimitFacts | None] = field(default_factory=dict)
    prices: Mapping[bytes, PriceFacts] | None = None  # all rows by key (schema.price_key, RATES); None: no change

    def __bool__(self) -> bool:
        learned = self.speeds or self.lengths or self.engines
        limited = self.limits or self.prices is not None
        return bool(self.endpoints or self.models or self.keys or learned or self.model_names or limited)

    def add(self, endpoint: PublishedEndpoint) -> None:
        self.endpoints[endpoint.id] = endpoint.facts()
        self.models[endpoint.id] = endpoint.models

    def merge(self, newer: "Changes") -> None:
        self.endpoints |= newer.endpoints
        self.models |= newer.models
        self.keys |= newer.keys
        self.speeds |= newer.speeds
        self.lengths |= newer.lengths
        self.engines |= newer.engines
        self.model_names |= newer.model_names
        self.limits |= newer.limits
        self.prices = self.prices if newer.prices is None else newer.prices


class RegistryWriter:
    """The store of one data directory, open for writing."""

    def __init__(self, root: Path, page: LivePage) -> None:
        """Open the store in the folder `root`, if there is a usable one; else `rebuild` builds one."""
        self._root = root
        self._page = page
        self._store: RegistryStore | None = None
        self._generation = 0
        try:
            self._open_current()
        except Exception as error:
            if not is_damage(error):
                raise
            log.warning("the registry store is built anew: %s", error)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def is_usable(self) -> bool:
        """True if there is a store of a known format that no process has found damaged."""
        return self._store is not None and self._page.damaged_generation != self._generation

    def state(self) -> StoreState | None:
        """Return the state of the store; None if there is none. Raises sqlite3.Error or Damaged."""
        return None if self._store is None else self._store.state()

    def endpoints(self) -> list[EndpointFacts]:
        """Return all endpoints that are published. Raises sqlite3.Error or Damaged."""
        return [] if self._store is None else [facts for _, facts in self._store.rows(ENDPOINTS)]

    def keys_between(self, after: bytes, last: bytes) -> list[bytes]:
        """Return SHA-256 of the published keys after one, up to and with another, without those that were replaced.

        Raises sqlite3.Error or Damaged.
        """
        if self._store is None:
            return []
        rows = self._store.raw_between(KEYS, after, last)
        return [digest for digest, raw in rows if not KEYS.unpack(raw).is_replaced]

    def models(self, endpoint_id: str) -> list[Model]:
        """Return the models that are published for an endpoint. Raises sqlite3.Error or Damaged."""
        return [] if self._store is None else [it for _, it in self._store.rows(MODEL_ROWS, ref(endpoint_id))]

    def model_names(self) -> list[ModelName]:
        """Return all model names that are published. Raises sqlite3.Error or Damaged."""
        return [] if self._store is None else [name for _, name in self._store.rows(MODEL_NAMES)]

    def limits(self, subject: Subject) -> LimitFacts | None:
        """Return the published limits of a subject; None: there are none. Raises sqlite3.Error or Damaged."""
        return None if self._store is None else self._store.get(LIMITS, limit_key(*subject))

    def has_limits(self) -> bool:
        """Return True if limits are published. Raises sqlite3.Error or Damaged."""
        return self._store is not None and not self._store.is_empty(LIMITS)

    def has_prices(self) -> bool:
        """Return True if prices are published. Raises sqlite3.Error or Damaged."""
        return self._store is not None and not self._store.is_empty(PRICES)

    def limited_subjects(self, after: bytes, most: int) -> list[bytes]:
        """Return the keys (schema.limit_key) of published limits after one, sorted, at most so many.

        Raises sqlite3.Error or Damaged.
        """
        return [] if self._store is None else self._store.keys_after(LIMITS, after, most)

    def apply(self, changes: Changes, *, source: str | None = None) -> int:
        """Write what differs, and return the version that has it. `source`: a new token of the database's change log.

        Raises sqlite3.Error, OSError or Damaged; then nothing was written.
        """
        store = self._opened()
        with store.writing():
            state = store.state()
            changed = _Rows(store).write(changes)
            if not changed:  # readers need no new version for a token
                if source not in (None, state.source):
                    self._put_state(store, state, state.version, source)
                return state.version
            # Versions never go back: a reader may have followed a version that its writer did not live to publish.
            version = 1 + max(state.version, self._page.version)
            written = sorted(changed) if len(changed) <= MAX_NAMED else [EVERYTHING]
            if version > state.version + 1:
                written = [EVERYTHING]
                store.delete_up_to(CHANGES, version_key(version))
            store.put(CHANGES, version_key(version), CHANGES.pack(written))
            store.delete_up_to(CHANGES, version_key(max(0, version - KEPT_CHANGES)))
            self._put_state(store, state, version, source)
        self._publish(version)
        return version

    def _put_state(self, store: RegistryStore, before: StoreState, version: int, source: str | None) -> None:
        sources = (before.source, before.previous_source) if source is None else (source, before.source)
        state = msgspec.structs.replace(before, version=version, source=sources[0], previous_source=sources[1])
        store.put(META, STATE, META.pack(state))

    def uncover_budgets(self) -> None:
        """Let gateways wait for the amounts of budgets that change now: control publishes them later."""
        self._page.spending.uncover()

    def rebuild(
        self,
        database_id: str,
        endpoints: Iterable[PublishedEndpoint],
        keys: Iterable[PublishedKey],
        *,
        model_names: Iterable[ModelName] = (),
        limits: Iterable[tuple[Subject, LimitFacts]] = (),
        prices: Mapping[bytes, PriceFacts] | None = None,
        source: str | None = None,
    ) -> None:
        """Build a new generation. `keys` sorted by hash are written fastest.

        Raises sqlite3.Error or OSError, or the error of an iterable; then the old generation stays in use.
        """
        generation = 1 + max((self._page.registry_generation, self._current(), *folders.others(self._root, 0)))
        version = 1 + max(self._page.version, self._page.newest_applied(), self._stored_version())
        state = StoreState(format=FORMAT, database_id=database_id, version=version, source=source)
        try:
            store = RegistryStore.create(
                folders.folder(self._root, generation),
                lambda empty: _fill(empty, state, endpoints, keys, model_names, limits, prices or {}),
            )
            folders.use(self._root, generation)
        except BaseException:
            folders.remove(self._root, generation)
            raise
        self.close()
        self._store, self._generation = store, generation
        self._publish(version)
        self.remove_old_generations()

    def publish(self) -> None:
        """Put generation and version into the live page: a writer may have been killed before it did."""
        state = self.state()
        if state is not None:
            self._publish(state.version)
            self.remove_old_generations()

    def remove_old_generations(self) -> None:
        """Delete the folders of other generations. Readers that have their files open go on reading them."""
        for generation in folders.others(self._root, self._generation):
            folders.remove(self._root, generation)

    def _open_current(self) -> None:
        try:
            generation = folders.current(self._root)
        except FileNotFoundError:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        if self._page.damaged_generation == generation:
            raise Damaged("a process could not read it")
        folder = folders.folder(self._root, generation)
        if not folder.exists():
            raise FileNotFoundError(folder)
        store = RegistryStore(folder, writable=True)
        try:
            state = store.state()
            if state.format != FORMAT:
                raise Damaged(f"it has format {state.format}, not {FORMAT}")
        except BaseException:
            store.close()
            raise
        self._store, self._generation = store, generation

    def _opened(self) -> RegistryStore:
        if self._store is None:
            raise Damaged("there is no registry store")
        return self._store

    def _current(self) -> int:
        try:
            return folders.current(self._root)
        except OSError:
            return 0

    def _stored_version(self) -> int:
        try:
            state = self.state()
        except Exception as error:
            if not is_damage(error):
                raise
            return 0
        return 0 if state is None else state.version

    def _publish(self, version: int) -> None:
        self._page.registry_generation = self._generation
        self._page.version = version


class _Rows:
    """Writes the rows that differ, in an open transaction, and collects the changes for readers."""

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._changed: set[bytes] = set()

    def write(self, changes: Changes) -> set[bytes]:
        for endpoint_id, facts in changes.endpoints.items():
            key = ref(endpoint_id)
            if self._replace(ENDPOINTS, key, facts):
                self._changed.add(ENDPOINT + key)
            if facts is None:
                self._write_models(key, ())
                self._delete_speeds(key)
                self._write_engine(key, None)
        for endpoint_id, models in changes.models.items():
            if changes.endpoints.get(endpoint_id, endpoint_id) is not None:
                self._write_models(ref(endpoint_id), models)
        for hashed, published in changes.keys.items():
            self._write_key(hashed, published)
        self._write_learned(changes)
        if changes.model_names:
            self._write_model_names(changes.model_names)
        self._write_limits(changes.limits)
        if changes.prices is not None:
            self._write_prices(changes.prices)
        return self._changed

    def _write_limits(self, of_subjects: Mapping[Subject, LimitFacts | None]) -> None:
        for subject, limits in of_subjects.items():
            key = limit_key(*subject)
            if self._replace(LIMITS, key, limits):
                self._changed.add(LIMIT + key)

    def _write_prices(self, prices: Mapping[bytes, PriceFacts]) -> None:
        before = dict(self._store.raw_rows(PRICES))
        after = {key: PRICES.pack(facts) for key, facts in prices.items()}
        self._changed |= {PRICE + key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        self._write_differences(PRICES, before, after)

    def _write_model_names(self, names: Mapping[str, ModelName | None]) -> None:
        """Write model names by id. The rows have the names as keys, and a name may have been another one before."""
        after = {model_name_key(name.name): name for name in names.values() if name is not None}
        before = [key for key, row in self._store.rows(MODEL_NAMES) if row.id in names]
        for key in before:
            if key not in after and self._replace(MODEL_NAMES, key, None):
                self._changed.add(NAME + key)
        for key, name in after.items():
            if self._replace(MODEL_NAMES, key, name):
                self._changed.add(NAME + key)

    def _write_learned(self, changes: Changes) -> None:
        for of_speeds, speeds in changes.speeds.items():
            key = speed_key(*of_speeds)
            if self._replace(SPEEDS, key, speeds):
                self._changed.add(SPEED + key)
        for of_lengths, lengths in changes.lengths.items():
            key = length_key(*of_lengths)
            if self._replace(LENGTHS, key, lengths):
                self._changed.add(LENGTH + key)
        for endpoint_id, state in changes.engines.items():
            if changes.endpoints.get(endpoint_id, endpoint_id) is not None:
                self._write_engine(ref(endpoint_id), state)

    def _write_engine(self, endpoint: bytes, state: EngineState | None) -> None:
        if self._replace(ENGINES, endpoint, state):
            self._changed.add(ENGINE + endpoint)

    def _delete_speeds(self, endpoint: bytes) -> None:
        for key, _ in self._store.raw_rows(SPEEDS, endpoint):
            self._store.delete(SPEEDS, key)
            self._changed.add(SPEED + key)

    def _write_key(self, hashed: str, published: PublishedKey | None) -> None:
        digest = digest_of(hashed)
        if digest is None:
            return
        before = self._store.get(KEYS, digest)
        if before is not None and before.is_replaced and published is None:
            return  # the key that replaced this one says when it goes
        self._put_key(digest, None if published is None else published.facts())
        replaced = "" if published is None else published.replaced
        if before is not None and before.replaced and before.replaced != replaced:
            self._delete_replaced(before)
        if published is not None and (replaced_digest := digest_of(replaced)) is not None:
            row = self._store.get(KEYS, replaced_digest)
            if row is not None and row.replaced:
                self._delete_replaced(row)
            self._put_key(replaced_digest, published.replaced_facts())

    def _put_key(self, digest: bytes, facts: KeyFacts | None) -> None:
        before = self._store.get(KEYS, digest)
        if self._replace(KEYS, digest, facts):
            for row in (before, facts):
                if row is not None:
                    self._changed.add(KEY + digest + row.id.encode())

    def _delete_replaced(self, key: KeyFacts) -> None:
        """Delete the row of the key that this one replaced."""
        digest = digest_of(key.replaced)
        row = None if digest is None else self._store.get(KEYS, digest)
        if digest is not None and row is not None and row.is_replaced and row.id == key.id:
            self._put_key(digest, None)

    def _write_models(self, endpoint: bytes, models: Sequence[Model]) -> None:
        before = self._store.raw_rows(MODEL_ROWS, endpoint)
        after = {endpoint + ref(model.id): MODEL_ROWS.pack(model) for model in models}
        if dict(before) == after:
            return
        self._changed.add(MODELS + endpoint)
        self._write_differences(MODEL_ROWS, dict(before), after)
        old_names = _name_rows(endpoint, [MODEL_ROWS.unpack(raw) for _, raw in before])
        self._write_differences(NAMES, old_names, _name_rows(endpoint, models))

    def _write_differences(
        self, table: Table[Row], before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]
    ) -> None:
        for key in before.keys() - after.keys():
            self._store.delete(table, key)
        for key, raw in after.items():
            if before.get(key) != raw:
                self._store.put(table, key, raw)

    def _replace(self, table: Table[Row], key: bytes, row: Row | None) -> bool:
        """Write a row, or delete it; return False if it is as it was."""
        before = self._store.raw(table, key)
        raw = None if row is None else table.pack(row)
        if raw == before:
            return False
        if raw is None:
            self._store.delete(table, key)
        else:
            self._store.put(table, key, raw)
        return True


def digest_of(hashed: str) -> bytes | None:
    """Return the bytes of a hexadecimal SHA-256; None if it is malformed, so that no key can match it."""
    try:
        digest = bytes.fromhex(hashed)
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_BYTES else None


def _name_rows(endpoint: bytes, models: Iterable[Model]) -> dict[bytes, bytes]:
    exact, folded = names(models)
    return {
        **{EXACT + ref(name) + endpoint: NAMES.pack(model) for name, model in exact.items()},
        **{FOLDED + ref(name) + endpoint: NAMES.pack(model) for name, model in folded.items()},
    }


def _fill(
    store: RegistryStore,
    state: StoreState,
    endpoints: Iterable[PublishedEndpoint],
    keys: Iterable[PublishedKey],
    model_names: Iterable[ModelName],
    limits: Iterable[tuple[Subject, LimitFacts]],
    prices: Mapping[bytes, PriceFacts],
) -> None:
    """Fill an empty store."""
    model_rows: list[tuple[bytes, bytes]] = []
    name_rows: list[tuple[bytes, bytes]] = []
    for endpoint in endpoints:
        key = ref(endpoint.id)
        store.put(ENDPOINTS, key, ENDPOINTS.pack(endpoint.facts()))
        model_rows += [(key + ref(model.id), MODEL_ROWS.pack(model)) for model in endpoint.models]
        name_rows += _name_rows(key, endpoint.models).items()
    store.put_all(MODEL_ROWS, iter(sorted(model_rows)))
    store.put_all(NAMES, iter(sorted(name_rows)))
    store.put_all(KEYS, _key_rows(keys))
    for name in model_names:
        store.put(MODEL_NAMES, model_name_key(name.name), MODEL_NAMES.pack(name))
    store.put_all(LIMITS, ((limit_key(*subject), LIMITS.pack(facts)) for subject, facts in limits))
    store.put_all(PRICES, ((key, PRICES.pack(facts)) for key, facts in prices.items()))
    store.put(META, STATE, META.pack(state))


def _key_rows(keys: Iterable[PublishedKey]) -> Iterator[tuple[bytes, bytes]]:
    replaced: list[tuple[bytes, bytes]] = []
    for key in keys:
        if (digest := digest_of(key.replaced)) is not None:
            replaced.append((digest, KEYS.pack(key.replaced_facts())))
        digest = digest_of(key.hash)
        if digest is None:
            log.error("API key %s: the hash is malformed; the key is ignored", key.id)
        else:
            yield digest, KEYS.pack(key.facts())
    yield from replaced
