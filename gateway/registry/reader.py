"""Reader of the registry store: what one process knows, at one version at any time.

Endpoints are given to a listener, which keeps them; API keys are looked up, with a bounded cache. After a change, only
the rows that changed are read again.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.key_rules import allowed_use
from gateway.registry.limits import NO_LIMITS, LimitFacts
from gateway.registry.prices import NO_PRICES, PriceFacts
from gateway.registry.schema import (
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
    PATTERN,
    PRICE,
    PRICES,
    REF_BYTES,
    SPEED,
    SPEEDS,
    ApiKey,
    Damaged,
    EndpointFacts,
    EngineState,
    KeyFacts,
    Lengths,
    Model,
    ModelName,
    Speeds,
    StoreState,
    length_key,
    limit_key,
    ref,
)
from gateway.registry.store import RegistryStore, is_damage

log = logging.getLogger(__name__)

CACHED_KEYS = 20_000  # in each of the two halves of the cache
CACHED_LEARNED = 20_000
CACHED_LIMITS = 20_000
NOT_MEASURED = Speeds(0.0, 0.0, 0.0, 0.0)
UNKNOWN_LENGTHS = Lengths(None)
NOT_READ = EngineState(0.0)
# Clients of the predecessor name a provider by a prefix of the model. Its models are those of endpoints of this type.
PREFIXES = {"openai": "openai", "google": "gemini", "anthropic": "anthropic"}
RETRY_SECONDS = 0.05  # between two attempts to read a store that cannot be read
MAX_STEPS = 1000  # versions that are followed one by one; after more, everything is read again

K = TypeVar("K")
V = TypeVar("V")


class StoreUnreadable(Exception):
    """The store cannot be read at the moment, and the fact is not in memory."""


class BoundedCache(Generic[K, V]):
    """Cache of at most twice `half` values: a full young half becomes the old one, whose values are dropped."""

    __slots__ = ("_half", "_old", "young")

    def __init__(self, half: int) -> None:
        self._half = half
        self.young: dict[K, V] = {}  # to be read by those who save the call of `get`
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        found = self.young.get(key)
        return self._old.get(key) if found is None else found

    def put(self, key: K, value: V) -> None:
        if len(self.young) >= self._half:
            self.young, self._old = {}, self.young
        self.young[key] = value

    def drop(self, key: K) -> None:
        self.young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self.young, self._old = {}, {}


@dataclass(frozen=True, slots=True)
class Update:
    """What has changed since the version before."""

    endpoints: Mapping[bytes, EndpointFacts | None]  # by `ref` of the id; None: it was deleted
    models: bool  # models of an endpoint have changed
    keys: Mapping[str, ApiKey | None] | None  # by id; None: any key may have changed
    learned: bool = False  # speeds, lengths or states of engines have changed
    complete: bool = False  # `endpoints` and `model_names` have all
    model_names: Mapping[bytes, ModelName | None] = field(default_factory=dict)  # by key of the row; None: deleted
    limits: frozenset[bytes] | None = frozenset()  # keys of the rows that have changed (schema.limit_key); None: any


class RegistryReader:
    """Reader of one process. Its methods must not run in two threads at once."""

    def __init__(self, root: Path, page: LivePage, listener: Callable[[Update], None]) -> None:
        """`root`: the folder of the store. `listener` gets each update, before any later fact is returned."""
        self.version = 0  # of everything that this process knows; 0: nothing was read yet
        self.database_id = ""
        self.limits_version = 0  # of the last change of limits; 0: there are none, and `limits_of` need not be asked
        self.prices_version = 0  # at which prices have changed; 0: none are published
        self._root = root
        self._page = page
        self._listener = listener
        self._store: RegistryStore | None = None
        self._state = b""  # packed, as the store has it
        self._generation = 0
        self._tried = 0  # the generation that was opened last, successfully or not
        self._keys: BoundedCache[bytes, ApiKey] = BoundedCache(CACHED_KEYS)
        self._speeds: BoundedCache[bytes, Speeds] = BoundedCache(CACHED_LEARNED)
        self._lengths: BoundedCache[bytes, Lengths] = BoundedCache(CACHED_LEARNED)
        self._engines: BoundedCache[bytes, EngineState] = BoundedCache(CACHED_LEARNED)
        self._limits: BoundedCache[bytes, LimitFacts] = BoundedCache(CACHED_LIMITS)
        self._permissions: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._failed = (0, 0)  # generation and version that could not be read
        self._retry_at = 0.0  # time.monotonic()
        self._warned = ""

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def follow(self) -> bool:
        """Read what has changed since the last call, and return True if there was something.

        If the store cannot be read, everything stays as it is, and control builds another one.
        """
        page, before = self._page, self.version
        if page.version == before and page.registry_generation == self._generation and self._store is not None:
            return False
        published = (page.registry_generation, page.version)
        if published == self._failed and time.monotonic() < self._retry_at:
            return False
        try:
            self._read_changes(page.version)
        except Exception as error:  # noqa: BLE001  # checked below
            self._failed = published
            self._unreadable(error)
        return self.version != before

    def key(self, digest: bytes) -> ApiKey | None:
        """Return the API key with this SHA-256. Raises StoreUnreadable."""
        found = self._keys.get(digest)
        return self._keep(digest, self.key_facts(digest)) if found is None else found

    def key_facts(self, digest: bytes) -> KeyFacts | None:
        """Return the whole row of an API key. Raises StoreUnreadable."""
        store, page = self._store, self._page
        if store is not None and page.registry_generation == self._generation and page.version <= self.version:
            try:
                found = store.get_with_state(KEYS, digest)
                if found[0] == self._state:  # usually: one statement is enough
                    return found[1]
            except (sqlite3.Error, Damaged):
                pass  # it is found again below
        return self._look_up(lambda store: store.get(KEYS, digest))

    def has_one_key(self) -> bool:
        """Return True if there is exactly one API key. Raises StoreUnreadable."""
        return self._look_up(RegistryStore.has_one_key)

    def models_named(self, name: str) -> list[tuple[bytes, Model]]:
        """Return `ref` of the endpoint and model for each endpoint that has a model of this name.

        Without any, return those whose name differs in case. Raises StoreUnreadable.
        """
        return self._look_up(lambda store: _named(store, EXACT, name) or _named(store, FOLDED, name.casefold()))

    def models_with_prefix(self, name: str) -> tuple[str | None, list[tuple[bytes, Model]]]:
        """Return the models with a name, as `models_named` does, and the type that their endpoints must have, if any.

        A name with one of PREFIXES that no model has means the model without it. Raises StoreUnreadable.
        """
        found = self.models_named(name)
        prefix, colon, rest = name.partition(":")
        if found or not colon or prefix not in PREFIXES:
            return None, found
        return PREFIXES[prefix], self.models_named(rest)

    def model_names(self) -> list[ModelName]:
        """Return all model names. Raises StoreUnreadable."""
        return self._look_up(lambda store: [name for _, name in store.rows(MODEL_NAMES)])

    def models_of(self, endpoint: bytes) -> list[Model]:
        """Return the models of the endpoint with this `ref`, sorted by `ref` of their ids. Raises StoreUnreadable."""
        return self._look_up(lambda store: [model for _, model in store.rows(MODEL_ROWS, endpoint)])

    def speeds(self, key: bytes) -> Speeds:
        """Return the speeds with this key (schema.speed_key), or NOT_MEASURED. Raises StoreUnreadable."""
        found = self._speeds.get(key)
        if found is None:
            found = self._look_up(lambda store: store.get(SPEEDS, key)) or NOT_MEASURED
            self._speeds.put(key, found)
        return found

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        """Return the lengths of a model's requests, those of the API key if there are. Raises StoreUnreadable."""
        key = length_key(model, key_id)
        found = self._lengths.get(key)
        if found is None:
            found = self._look_up(
                lambda store: store.get(LENGTHS, key) or store.get(LENGTHS, length_key(model)) or UNKNOWN_LENGTHS
            )
            self._lengths.put(key, found)
        return found

    def engine(self, endpoint: bytes) -> EngineState:
        """Return the state of the engine at the endpoint with this `ref`, or NOT_READ. Raises StoreUnreadable."""
        found = self._engines.get(endpoint)
        if found is None:
            found = self._look_up(lambda store: store.get(ENGINES, endpoint)) or NOT_READ
            self._engines.put(endpoint, found)
        return found

    def limits_of(self, level: str, subject_id: str) -> LimitFacts | None:
        """Return the limits of an API key, a user, or everyone (""); None: there are none. Raises StoreUnreadable."""
        if not self.limits_version:
            return None
        key = limit_key(level, subject_id)
        found = self._limits.get(key)
        if found is None:
            found = self._look_up(lambda store: store.get(LIMITS, key)) or NO_LIMITS
            self._limits.put(key, found)
        return None if found is NO_LIMITS else found

    def prices(self, key: bytes) -> PriceFacts:
        """Return the row of prices with this key (schema.price_key, RATES). Raises StoreUnreadable."""
        if not self.prices_version:
            return NO_PRICES
        return self._look_up(lambda store: store.get(PRICES, key)) or NO_PRICES

    def price_patterns(self) -> list[PriceFacts]:
        """Return the rows of prices whose patterns have a `*`. Raises StoreUnreadable."""
        if not self.prices_version:
            return []
        return self._look_up(lambda store: [facts for _, facts in store.rows(PRICES, PATTERN)])

    def _look_up(self, read: Callable[[RegistryStore], V]) -> V:
        """Read rows of the newest version, after everything in memory is of that version too."""
        if self._store is None or self._page.registry_generation != self._generation:
            self.follow()
        wanted = self._page.version
        for _ in range(2):
            store = self._store
            if store is None:
                break
            try:
                with store.reading():
                    self._catch_up(store)
                    if self.version >= wanted:
                        return read(store)
            except Exception as error:
                self._unreadable(error)
                raise StoreUnreadable from error
            self.follow()  # the file was removed or replaced: this opens another one
        raise StoreUnreadable

    def _keep(self, digest: bytes, row: KeyFacts | None) -> ApiKey | None:
        """Put a key into the cache, but not that it does not exist: strangers must not fill the cache."""
        if row is None:
            return None
        if len(self._permissions) > CACHED_KEYS:
            self._permissions.clear()
        shared = self._permissions.setdefault(row.permissions, row.permissions)
        try:
            allowed = allowed_use(row.rules)
        except ValueError:  # rules of a newer release, or damaged: nothing is allowed
            return None
        key = ApiKey(row.id, digest, shared, row.expires_at, row.external, row.enabled, allowed, row.bulk, row.owner_id)
        self._keys.put(digest, key)
        return key

    def _read_changes(self, wanted: int) -> None:
        """Read up to the version that the live page names, from a store opened anew if need be."""
        if self._store is None or self._page.registry_generation != self._generation:
            self._open_again()
        else:
            with self._store.reading():
                self._catch_up(self._store)
        if self.version < wanted:  # the file was removed or replaced: this is another one than control's
            self._open_again()
            if self.version < wanted:
                raise Damaged(f"the store has version {self.version}, and version {wanted} was published")
        self._failed = (0, 0)
        self._warned = ""

    def _open_again(self) -> None:
        self._tried = 0
        self._tried = generation = folders.current(self._root)
        store = RegistryStore(folders.folder(self._root, generation))
        try:
            with store.reading():
                self._read_everything(store, store.raw_state())
        except BaseException:
            store.close()
            raise
        self.close()
        self._store, self._generation = store, generation

    def _catch_up(self, store: RegistryStore) -> None:
        """Follow the changes up to the version of the open transaction. After an error, nothing has changed."""
        raw = store.raw_state()
        if raw == self._state:
            return
        state = META.unpack(raw)
        ahead = state.version - self.version
        if not ahead and state.database_id == self.database_id:  # another token alone
            self._state = raw
            return
        known = self.version and 0 < ahead <= MAX_STEPS and state.database_id == self.database_id
        steps = store.changes(self.version, state.version) if known else None
        if steps is None or any(EVERYTHING in step for step in steps):
            self._read_everything(store, raw)
            return
        changed = {change for step in steps for change in step}
        endpoints = {change[1:]: store.get(ENDPOINTS, change[1:]) for change in changed if change[:1] == ENDPOINT}
        logged = [(change[1 : 1 + DIGEST_BYTES], change[1 + DIGEST_BYTES :]) for change in changed if change[:1] == KEY]
        rows = {digest: store.get(KEYS, digest) for digest, _ in logged}
        keys: dict[str, ApiKey | None] = {key_id.decode(): None for _, key_id in logged}
        for digest, row in rows.items():
            self._keys.drop(digest)
            key = self._keep(digest, row)
            if key is not None:
                keys[key.id] = key
        models = any(change[:1] == MODELS for change in changed)
        model_names = {change[1:]: store.get(MODEL_NAMES, change[1:]) for change in changed if change[:1] == NAME}
        limits = frozenset(change[1:] for change in changed if change[:1] == LIMIT)
        if limits:
            self.limits_version = 0 if store.is_empty(LIMITS) else state.version
        for limited in limits:
            self._limits.drop(limited)
        if any(change[:1] == PRICE for change in changed):
            self.prices_version = 0 if store.is_empty(PRICES) else state.version
        learned = self._drop_learned(changed)
        update = Update(endpoints, models, keys, learned=learned, model_names=model_names, limits=limits)
        self._accept(raw, state, update)

    def _drop_learned(self, changed: Iterable[bytes]) -> bool:
        """Drop what has changed of cached speeds, lengths and states of engines; return True if something has."""
        speeds = [change[1:] for change in changed if change[:1] == SPEED]
        lengths = [change[1:] for change in changed if change[:1] == LENGTH]
        engines = [change[1:] for change in changed if change[:1] == ENGINE]
        for key in speeds:
            self._speeds.drop(key)
        for key in lengths:
            self._lengths.drop(key)
        if any(len(key) == REF_BYTES for key in lengths):
            self._lengths.clear()  # API keys without a row of their own have those of the model
        for key in engines:
            self._engines.drop(key)
        return bool(speeds or lengths or engines)

    def _read_everything(self, store: RegistryStore, raw: bytes) -> None:
        state = META.unpack(raw)
        if state.format != FORMAT:
            raise Damaged(f"the store has format {state.format}, not {FORMAT}")
        endpoints = {key: facts for key, facts in store.rows(ENDPOINTS)}  # of another type
        model_names = {key: name for key, name in (store.rows(MODEL_NAMES) if store.has(MODEL_NAMES) else ())}
        self.limits_version = state.version if store.has(LIMITS) and not store.is_empty(LIMITS) else 0
        self._limits.clear()
        self.prices_version = state.version if store.has(PRICES) and not store.is_empty(PRICES) else 0
        self._keys.clear()
        self._speeds.clear()
        self._lengths.clear()
        self._engines.clear()
        everything = Update(
            endpoints, models=True, keys=None, learned=True, complete=True, model_names=model_names, limits=None
        )
        self._accept(raw, state, everything)

    def _accept(self, raw: bytes, state: StoreState, update: Update) -> None:
        self._state, self.version, self.database_id = raw, state.version, state.database_id
        self._listener(update)

    def _unreadable(self, error: Exception) -> None:
        """Keep what is in memory, and have control build another store if this one is damaged."""
        self._retry_at = time.monotonic() + RETRY_SECONDS
        published = self._page.registry_generation
        if not published:
            return  # control has not built the first one yet
        if not is_damage(error):
            if not isinstance(error, OSError) and not hasattr(error, "sqlite_errorcode"):
                raise error
        elif self._tried in (0, published):  # another one may have been removed while it was opened
            self._page.damaged_generation = published
        if self._warned != str(error):
            self._warned = str(error)
            log.warning("the registry store cannot be read: %s; requests continue with what is in memory", error)


def _named(store: RegistryStore, kind: bytes, name: str) -> list[tuple[bytes, Model]]:
    prefix = kind + ref(name)
    return [(key[-REF_BYTES:], model) for key, model in store.rows(NAMES, prefix)]
