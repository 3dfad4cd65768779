"""Reader of the registry store: what one process knows, at one version at any time.

Endpoints are given to a listener, which keeps them; API keys are looked up, with a bounded cache. After a change, only
the rows that changed are read again.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.key_rules import allowed_use
from gateway.registry.kinds import (
    CACHED,
    ENDPOINTS,
    ENGINES,
    EVERYTHING,
    KEYS,
    KIND_WITH_LETTER,
    KINDS,
    LENGTHS,
    LIMITS,
    META,
    MODEL_NAMES,
    MODELS,
    NAMES,
    PRICES,
    SPEEDS,
    AnyKind,
    FactKind,
    Row,
)
from gateway.registry.limits import NO_LIMITS, LimitFacts
from gateway.registry.prices import NO_PRICES, PriceFacts
from gateway.registry.schema import (
    DIGEST_BYTES,
    EXACT,
    FOLDED,
    FORMAT,
    NOT_MEASURED,
    NOT_READ,
    PATTERN,
    REF_BYTES,
    UNKNOWN_LENGTHS,
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

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, half: int) -> None:
        self._half = half
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        return self._old.get(key) if value is None else value

    def put(self, key: K, value: V) -> None:
        if len(self._young) >= self._half:
            self._young, self._old = {}, self._young
        self._young[key] = value

    def drop(self, key: K) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self._young, self._old = {}, {}


@dataclass(frozen=True, slots=True)
class Update:
    """What has changed since the version before."""

    rows: Mapping[AnyKind, Mapping[bytes, Any]]  # of kinds that are in memory, by key; None: it was deleted
    keys: Mapping[str, ApiKey | None] | None  # by id; None: any key may have changed
    changed: Mapping[AnyKind, Sequence[bytes]] | None  # keys of changed rows, without those of KEYS; None: see below

    @property
    def complete(self) -> bool:
        """True if anything may have changed, and `rows` have all."""
        return self.changed is None

    @property
    def endpoints(self) -> Mapping[bytes, EndpointFacts | None]:
        """Endpoints by `ref` of the id."""
        return self.rows[ENDPOINTS]

    @property
    def model_names(self) -> Mapping[bytes, ModelName | None]:
        return self.rows[MODEL_NAMES]

    @property
    def models(self) -> bool:
        """True if models of an endpoint have changed."""
        return self.changed is None or MODELS in self.changed

    @property
    def learned(self) -> bool:
        """True if speeds, lengths or states of engines have changed."""
        return self.changed is None or any(kind.is_learned for kind in self.changed)


class RegistryReader:
    """Reader of one process. Its methods must not run in two threads at once."""

    def __init__(self, root: Path, page: LivePage, listener: Callable[[Update], None]) -> None:
        """`root`: the folder of the store. `listener` gets each update, before any later fact is returned."""
        self.version = 0  # of everything that this process knows; 0: nothing was read yet
        self.database_id = ""
        # By optional kind: the version at which its rows have changed last; 0: there are none.
        self.versions: dict[AnyKind, int] = dict.fromkeys((kind for kind in KINDS if kind.is_optional), 0)
        self._root = root
        self._page = page
        self._listener = listener
        self._store: RegistryStore | None = None
        self._state = b""  # packed, as the store has it
        self._generation = 0
        self._tried = 0  # the generation that was opened last, successfully or not
        self._keys: BoundedCache[bytes, ApiKey] = BoundedCache(KEYS.cached)
        self._caches: dict[AnyKind, BoundedCache[bytes, Any]] = {
            kind: BoundedCache(kind.cached) for kind in KINDS if kind.cached and kind is not KEYS
        }
        self._permissions: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._failed = (0, 0)  # generation and version that could not be read
        self._retry_at = 0.0  # time.monotonic()
        self._warned = ""

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def limits_version(self) -> int:
        """Version of the last change of limits; 0: there are none, and `limits_of` need not be asked."""
        return self.versions[LIMITS]

    @property
    def prices_version(self) -> int:
        """Version at which prices have changed; 0: none are published."""
        return self.versions[PRICES]

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
        api_key = self._keys.get(digest)
        return self._keep(digest, self.key_facts(digest)) if api_key is None else api_key

    def key_facts(self, digest: bytes) -> KeyFacts | None:
        """Return the whole row of an API key. Raises StoreUnreadable."""
        store, page = self._store, self._page
        if store is not None and page.registry_generation == self._generation and page.version <= self.version:
            try:
                state_and_facts = store.get_with_state(KEYS, digest)
                if state_and_facts[0] == self._state:  # usually: one statement is enough
                    return state_and_facts[1]
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
        models = self.models_named(name)
        prefix, colon, rest = name.partition(":")
        if models or not colon or prefix not in PREFIXES:
            return None, models
        return PREFIXES[prefix], self.models_named(rest)

    def model_names(self) -> list[ModelName]:
        """Return all model names. Raises StoreUnreadable."""
        return self._look_up(lambda store: [name for _, name in store.rows(MODEL_NAMES)])

    def models_of(self, endpoint: bytes) -> list[Model]:
        """Return the models of the endpoint with this `ref`, sorted by `ref` of their ids. Raises StoreUnreadable."""
        return self._look_up(lambda store: [model for _, model in store.rows(MODELS, endpoint)])

    def row(self, kind: FactKind[Any, Any, Row], key: bytes) -> Row | None:
        """Return the row with this key, `kind.missing` if there is none. Raises StoreUnreadable.

        Rows of a kind with a cache are kept there, also that one is missing.
        """
        cache = self._caches.get(kind)
        row: Row | None = None if cache is None else cache.get(key)
        if row is None:
            row = self._look_up(lambda store: _row(store, kind, key))
            if cache is not None and row is not None:
                cache.put(key, row)
        return row

    def speeds(self, key: bytes) -> Speeds:
        """Return the speeds with this key (schema.speed_key), or NOT_MEASURED. Raises StoreUnreadable."""
        return self.row(SPEEDS, key) or NOT_MEASURED

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        """Return the lengths of a model's requests, those of the API key if there are. Raises StoreUnreadable."""
        return self.row(LENGTHS, length_key(model, key_id)) or UNKNOWN_LENGTHS

    def engine(self, endpoint: bytes) -> EngineState:
        """Return the state of the engine at the endpoint with this `ref`, or NOT_READ. Raises StoreUnreadable."""
        return self.row(ENGINES, endpoint) or NOT_READ

    def limits_of(self, level: str, subject_id: str) -> LimitFacts | None:
        """Return the limits of an API key, a user, or everyone (""); None: there are none. Raises StoreUnreadable."""
        if not self.limits_version:
            return None
        limits = self.row(LIMITS, limit_key(level, subject_id))
        return None if limits is NO_LIMITS else limits

    def prices(self, key: bytes) -> PriceFacts:
        """Return the row of prices with this key (schema.price_key, RATES). Raises StoreUnreadable."""
        if not self.prices_version:
            return NO_PRICES
        return self.row(PRICES, key) or NO_PRICES

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
        if len(self._permissions) > CACHED:
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
        changed: dict[AnyKind, list[bytes]] = {}
        for change in {change for step in steps for change in step}:
            kind = KIND_WITH_LETTER.get(change[:1])
            if kind is not None:  # else a newer release wrote it
                changed.setdefault(kind, []).append(change[1:])
        rows = {kind: {key: store.get(kind, key) for key in changed.get(kind, ())} for kind in _IN_MEMORY}
        logged = [(change[:DIGEST_BYTES], change[DIGEST_BYTES:].decode()) for change in changed.pop(KEYS, ())]
        key_rows = {digest: store.get(KEYS, digest) for digest, _ in logged}
        versions = {kind: state.version for kind in changed if kind.is_optional and not store.is_empty(kind)}
        # From here on, nothing is read.
        self.versions.update({kind: versions.get(kind, 0) for kind in changed if kind.is_optional})
        for kind, row_keys in changed.items():
            self._drop(kind, row_keys)
        keys: dict[str, ApiKey | None] = {key_id: None for _, key_id in logged}
        for digest, row in key_rows.items():
            self._keys.drop(digest)
            key = self._keep(digest, row)
            if key is not None:
                keys[key.id] = key
        self._accept(raw, state, Update(rows, keys, changed))

    def _drop(self, kind: AnyKind, keys: Iterable[bytes]) -> None:
        """Drop rows that have changed from the cache of their kind, if it has one."""
        cache = self._caches.get(kind)
        if cache is not None:
            for key in keys:
                cache.drop(key)
                if len(key) == kind.stand_in_bytes:
                    cache.clear()  # under the keys of missing rows

    def _read_everything(self, store: RegistryStore, raw: bytes) -> None:
        state = META.unpack(raw)
        if state.format != FORMAT:
            raise Damaged(f"the store has format {state.format}, not {FORMAT}")
        # The store of an earlier release lacks a table until control opens it.
        present = [kind for kind in KINDS if kind.is_original or store.has(kind)]
        rows = {kind: dict(store.rows(kind)) if kind in present else {} for kind in _IN_MEMORY}
        self.versions = {
            kind: state.version if kind in present and not store.is_empty(kind) else 0 for kind in self.versions
        }
        self._keys.clear()
        for cache in self._caches.values():
            cache.clear()
        self._accept(raw, state, Update(rows, keys=None, changed=None))

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


_IN_MEMORY = tuple(kind for kind in KINDS if kind.is_in_memory)


def _row(store: RegistryStore, kind: FactKind[Any, Any, Row], key: bytes) -> Row | None:
    row = store.get(kind, key)
    if row is None and kind.stand_in_bytes:
        row = store.get(kind, key[: kind.stand_in_bytes])
    return kind.missing if row is None else row


def _named(store: RegistryStore, kind: bytes, name: str) -> list[tuple[bytes, Model]]:
    prefix = kind + ref(name)
    return [(key[-REF_BYTES:], model) for key, model in store.rows(NAMES, prefix)]
