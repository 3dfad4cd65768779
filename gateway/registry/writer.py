"""Writer of the registry store. Only one process writes: the preparation of a start, then control.

A change is one transaction: its rows, one row that names them for readers, and the version. The live page gets the
version afterwards. A store that is damaged, of another format or of another database is replaced by a new generation.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.kinds import (
    CHANGES,
    EVERYTHING,
    KEYS,
    KIND_NAMED,
    KINDS,
    META,
    STATE,
    AnyKind,
    Fact,
    FactKind,
    Id,
    Row,
    version_key,
)
from gateway.registry.rows import Transaction, build_rows
from gateway.registry.schema import FORMAT, Damaged, PublishedEndpoint, PublishedKey, StoreState
from gateway.registry.store import RegistryStore, is_damage

log = logging.getLogger(__name__)

Contents = Mapping[str, Iterable[tuple[Any, Any]]]  # id and object of all that is published, by name of the kind

KEPT_CHANGES = 4096  # versions that readers can follow
MAX_NAMED = 10_000  # rows that one change names; a larger one lets readers read everything again


class Changes:
    """Objects that may have changed, by kind and id; None: deleted. Rows that are equal to the stored ones stay."""

    def __init__(self, **objects: Mapping[Any, Any]) -> None:
        """`objects`: by the name of their kind, such as `endpoints`, and by id. Raises KeyError."""
        self._by_kind: dict[AnyKind, dict[Any, Any]] = {}
        for name, of_kind in objects.items():
            self.put(KIND_NAMED[name], of_kind)

    def __bool__(self) -> bool:
        return any(objects or kind.is_replaced_whole for kind, objects in self._by_kind.items())

    def of(self, kind: FactKind[Id, Fact, Any]) -> Mapping[Id, Fact | None]:
        """Return the objects of a kind."""
        return self._by_kind.get(kind, {})

    def kinds(self) -> list[AnyKind]:
        """Return the kinds that may have changed, in the order in which they are written."""
        return [kind for kind in KINDS if kind in self._by_kind]

    def put(self, kind: FactKind[Id, Fact, Any], objects: Mapping[Id, Fact | None]) -> None:
        """Add objects, which replace those with the same id, or all if the kind is replaced whole."""
        before = {} if kind.is_replaced_whole else self._by_kind.get(kind, {})
        self._by_kind[kind] = {**before, **objects}

    def merge(self, newer: "Changes") -> None:
        for kind in newer.kinds():
            self.put(kind, newer.of(kind))


def contents_of(endpoints: Iterable[PublishedEndpoint], keys: Iterable[PublishedKey]) -> Contents:
    """Return the contents of a store with these endpoints and API keys."""
    known = list(endpoints)
    return {
        "endpoints": ((endpoint.id, endpoint.facts()) for endpoint in known),
        "models": ((endpoint.id, endpoint.models) for endpoint in known),
        "keys": ((key.hash, key) for key in keys),
    }


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

    # Published rows. All raise sqlite3.Error or Damaged.

    def rows(self, kind: FactKind[Any, Any, Row], prefix: bytes = b"") -> list[Row]:
        """Return the rows of a kind whose key begins so and is longer, sorted by it."""
        return [] if self._store is None else [row for _, row in self._store.rows(kind, prefix)]

    def row(self, kind: FactKind[Any, Any, Row], key: bytes) -> Row | None:
        """Return the row with this key; None if there is none."""
        return None if self._store is None else self._store.get(kind, key)

    def has_any(self, kind: AnyKind) -> bool:
        """Return True if there is a row of this kind."""
        return self._store is not None and not self._store.is_empty(kind)

    def row_keys(self, kind: AnyKind, after: bytes, most: int) -> list[bytes]:
        """Return the keys of rows after one, sorted, at most so many."""
        return [] if self._store is None else self._store.keys_after(kind, after, most)

    def keys_between(self, after: bytes, last: bytes) -> list[bytes]:
        """Return SHA-256 of the API keys after one, up to and with another, without those that were replaced."""
        if self._store is None:
            return []
        rows = self._store.raw_between(KEYS, after, last)
        return [digest for digest, raw in rows if not KEYS.unpack(raw).is_replaced]

    # Changes

    def apply(self, changes: Changes, *, source: str | None = None) -> int:
        """Write what differs, and return the version that has it. `source`: a new token of the database's change log.

        Raises sqlite3.Error, OSError or Damaged; then nothing was written.
        """
        store = self._opened()
        with store.writing():
            state = store.state()
            changed = _written(store, changes)
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
        contents: Contents,
        *,
        source: str | None = None,
    ) -> None:
        """Build a new generation. What is in the order of its rows is written fastest.

        Raises sqlite3.Error or OSError, or the error of an iterable; then the old generation stays in use.
        """
        generation = 1 + max((self._page.registry_generation, self._current(), *folders.others(self._root, 0)))
        version = 1 + max(self._page.version, self._page.newest_applied(), self._stored_version())
        state = StoreState(format=FORMAT, database_id=database_id, version=version, source=source)
        try:
            store = RegistryStore.create(
                folders.folder(self._root, generation),
                lambda empty: _fill(empty, state, contents),
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


def _written(store: RegistryStore, changes: Changes) -> set[bytes]:
    """Write the rows that differ, in an open transaction. Return the changes for readers."""
    transaction = Transaction(store)
    for kind in changes.kinds():
        transaction.write(kind, changes.of(kind))
    return transaction.changed


def _fill(store: RegistryStore, state: StoreState, contents: Contents) -> None:
    """Fill an empty store."""
    for name, objects in contents.items():
        build_rows(store, KIND_NAMED[name], objects)
    store.put(META, STATE, META.pack(state))
