"""Waiting for changes on PostgreSQL: a connection of its own listens to the notifications of the triggers."""

import logging
import select
import socket
import threading
import time

import psycopg
from django.db import connection

from endpoints.changes.postgresql_triggers import CHANNEL

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.25  # while the server cannot be reached
QUIET_SECONDS = 5.0  # a proxy of connections may swallow notifications: the log is read at least this often
# A server that vanished without a word is noticed within a minute.
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class NotificationSignal:
    """A ChangeSignal by LISTEN. The connection is opened again whenever it was lost."""

    def __init__(self) -> None:
        self._connection: psycopg.Connection | None = None
        self._due_at = float("-inf")  # without a notification, the log is read then
        self._is_failing = False
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._closed = False
        self._lock = threading.Lock()

    def wait(self, timeout: float) -> bool:
        with self._lock:
            until = time.monotonic() + timeout
            while not self._closed:
                if self._is_due():
                    return True
                remaining = min(until, self._due_at) - time.monotonic()
                if self._poll(max(0.0, remaining)):
                    return not self._closed
                if time.monotonic() >= until:
                    return not self._closed and self._is_due()
            return False

    def wake(self) -> None:
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            pass  # it is full of such bytes, so the waiting thread wakes anyway
        except OSError:
            if not self._closed:
                raise

    def close(self) -> None:
        self._closed = True
        self.wake()
        with self._lock:
            self._disconnect()
            self._woken.close()
            self._wake.close()

    def _is_due(self) -> bool:
        """Return True if the log is to be read without a notification: after a (re)connect, and now and then."""
        if time.monotonic() < self._due_at:
            return False
        if self._connection is None:
            self._connect()
        self._due_at = time.monotonic() + (QUIET_SECONDS if self._connection is not None else RETRY_SECONDS)
        return True

    def _poll(self, seconds: float) -> bool:
        """Wait for a notification or `wake`. Return True if one came, or if the connection was lost."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._connection is not None:
            poll.register(self._connection.fileno(), select.POLLIN)
        ready = {descriptor for descriptor, _event in poll.poll(seconds * 1000)}
        is_woken = self._woken.fileno() in ready
        if is_woken:
            self._drain()
        is_notified = self._connection is not None and self._connection.fileno() in ready and self._receive()
        return is_woken or is_notified

    def _drain(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _receive(self) -> bool:
        assert self._connection is not None
        is_notified = False
        try:
            self._connection.pgconn.consume_input()
            while self._connection.pgconn.notifies() is not None:
                is_notified = True
        except psycopg.Error as error:
            self._fail(error)
            return True
        if is_notified:
            self._due_at = time.monotonic() + QUIET_SECONDS
        return is_notified

    def _connect(self) -> None:
        parameters = {**_KEEPALIVE, **connection.get_connection_params()}
        try:
            self._connection = psycopg.connect(**parameters, autocommit=True)
            self._connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            self._fail(error)
        else:
            self._is_failing = False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self, error: Exception) -> None:
        if not self._is_failing:
            log.warning("the connection for notifications was lost, the next attempts follow: %s", error)
        self._is_failing = True
        self._disconnect()
        self._due_at = time.monotonic() + RETRY_SECONDS
