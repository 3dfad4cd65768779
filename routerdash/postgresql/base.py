"""Django's backend for PostgreSQL, whose closed connections may be used again by another thread.

Under ASGI each request has a thread of its own, and with it a new connection: ten round trips and an empty cache of
the catalog, a third of the time of an edit. Django's CONN_MAX_AGE would leave a connection to each ended thread. With
a pool of psycopg, a request would wait while the server is down; this backend fails at once, as Django's does.
"""

import select
import threading
import time
from dataclasses import dataclass
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection
from psycopg.pq import TransactionStatus

IDLE_SECONDS = 60.0  # a connection that was unused for so long is closed
LIFETIME_SECONDS = 600.0  # the server needs more and more memory for a connection
MAX_IDLE = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """An open connection. Times by time.monotonic()."""

    connection: Connection[Any]
    opened_at: float
    used_at: float

    def is_usable(self, now: float) -> bool:
        """Return True unless it is old, or the server has closed it: then there is something to read."""
        if now - self.opened_at > LIFETIME_SECONDS or now - self.used_at > IDLE_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)


class IdleConnections:
    """Open connections to one database that no thread uses. Any thread may call the methods."""

    def __init__(self) -> None:
        self.limit = 0  # in processes that fork: a child must not share a connection with its parent
        self._idle: list[Opened] = []
        self._lock = threading.Lock()

    def take(self) -> Opened | None:
        """Return the connection that was used last, if one is usable."""
        now = time.monotonic()
        while (opened := self._pop()) is not None:
            if opened.is_usable(now):
                return opened
            opened.connection.close()
        return None

    def give(self, opened: Opened) -> bool:
        """Keep a connection for the next thread. Return False if it must be closed."""
        connection = opened.connection
        if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        with self._lock:
            if len(self._idle) >= self.limit:
                return False
            self._idle.append(opened)
        return True

    def close(self) -> None:
        while (opened := self._pop()) is not None:
            opened.connection.close()

    def _pop(self) -> Opened | None:
        with self._lock:
            return self._idle.pop() if self._idle else None


idle_connections = IdleConnections()


class DatabaseWrapper(base.DatabaseWrapper):
    opened_at = 0.0

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        opened = idle_connections.take()
        if opened is not None:
            self.opened_at = opened.opened_at
            return opened.connection
        self.opened_at = time.monotonic()
        connection: Connection[Any] = super().get_new_connection(conn_params)
        return connection

    def _close(self) -> None:
        if self.connection is not None:
            opened = Opened(self.connection, self.opened_at, time.monotonic())
            if not idle_connections.give(opened):
                super()._close()  # type: ignore[misc]  # the stubs lack it
