"""Bases of the caches of tables in a process.

A handler of signals announces each edit, and on its commit the cache reads the rows again and calls its listeners.
Edits of other processes are in the change log or a counter (endpoints.changes). The database is written first, the
cache second; after a database error the old values stay in use. Readers get immutable values, and need no lock.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar, TypeVarTuple

from django.db import Error, close_old_connections

log = logging.getLogger(__name__)

Changed = TypeVarTuple("Changed")  # arguments of listeners
Row = TypeVar("Row")


class Refreshed(Generic[*Changed]):
    """Values of some tables in a process, and the listeners that are called after each change of them."""

    def __init__(self, objects: str) -> None:
        """`objects`: what log lines call them, such as `API keys`."""
        self._objects = objects
        self._listeners: list[Callable[[*Changed], object]] = []
        # What one thread has read must not replace, or reach listeners after, what another one has read later.
        self._writing = threading.RLock()
        self.outdated = False  # an edit could not be read again
        self.failed_reads = 0  # counts such edits

    def subscribe(self, listener: Callable[[*Changed], object]) -> None:
        """Call `listener` after each change, in its thread, with the change."""
        self._listeners.append(listener)

    def _notify(self, *changed: *Changed) -> None:
        for listener in self._listeners:
            listener(*changed)

    def _try(self, read_again: Callable[[], object]) -> None:
        """Read again on commit of an edit. A database error is logged, and the old values stay in use."""
        try:
            read_again()
        except Error as error:
            self.outdated, self.failed_reads = True, self.failed_reads + 1
            log.warning("%s could not be read again: %s; the old ones stay in use", self._objects, error)
            close_old_connections()


class CachedTable(Refreshed[Collection[str] | None], Generic[Row]):
    """All rows of a table by id. Listeners get the ids of those that have changed; None: any of them."""

    def __init__(self, objects: str, read: Callable[[Collection[str] | None], Mapping[str, Row]]) -> None:
        """`read` returns rows by id in their order, all for None. It raises django.db.Error."""
        super().__init__(objects)
        self._read = read
        self._rows: Mapping[str, Row] | None = None  # None: not loaded yet; different from loaded and empty
        self.version = 0  # counts the changes

    def all(self) -> tuple[Row, ...]:
        """Return all rows in their order. The first call reads the database. Raises django.db.Error if that fails."""
        return tuple(self._loaded().values())

    def get(self, row_id: str) -> Row | None:
        return self._loaded().get(row_id)

    @property
    def loaded(self) -> bool:
        return self._rows is not None

    def reload(self) -> None:
        """Read all rows again. Raises django.db.Error, after which the old ones stay."""
        with self._writing:
            self._swap(self._read(None))
        self.outdated = False
        self._notify(None)

    def refresh(self, *ids: str) -> None:
        """Read rows again on commit of their edit. A database error is logged, and the old ones stay."""
        self._try(lambda: self.read_again(ids))

    def read_again(self, ids: Collection[str]) -> None:
        """Read rows again, in a process that has read all before. Raises django.db.Error."""
        if self._rows is None or not ids:
            return
        with self._writing:
            before, rows = self._rows, self._read(ids)
            after = {row_id: self._merged(row, before.get(row_id)) for row_id, row in rows.items()}
            changed = [row_id for row_id in ids if after.get(row_id) != before.get(row_id)]
            if changed:
                gone = set(changed) - after.keys()
                kept = {row_id: row for row_id, row in before.items() if row_id not in gone}
                self._swap(kept | {row_id: after[row_id] for row_id in changed if row_id in after}, changed)
        if changed:
            self._notify(changed)

    def fill(self, rows: Mapping[str, Row]) -> None:
        """Use these rows while there is no database."""
        with self._writing:
            self._swap(rows)

    def forget(self) -> None:
        """Reset to the state before the first load; for tests."""
        self._rows = None

    def _merged(self, row: Row, before: Row | None) -> Row:
        """Return what becomes of a row that was read again, and was another one before."""
        return row

    def _loaded(self) -> Mapping[str, Row]:
        if self._rows is None:
            with self._writing:
                self._swap(self._read(None))
        assert self._rows is not None
        return self._rows

    def _swap(
        self, rows: Mapping[str, Row], changed: Collection[str] | None = None, *, is_counted: bool = True
    ) -> None:
        """Use new rows, which no one else changes. `changed`: ids of those that may differ; None: any."""
        self._rows = MappingProxyType(rows)
        self.version += is_counted
