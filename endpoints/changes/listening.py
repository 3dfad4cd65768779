"""Waiting for changes by other connections, so that the change log is read soon and not in vain."""

from typing import Protocol

from django.db import connection


class ChangeSignal(Protocol):
    """It reports that the change log may have new entries. One thread waits; any thread may call the other methods.

    The signal replaces no reading of the log: it may report too much, and a lost notification is made up for.
    """

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds. Return True if the log must be read now; the first call does so at once.

        While the database cannot be reached, return True a few times a second, so that the caller tries to read. A
        new connection to an unreachable server can take five seconds more.
        """
        ...

    def wake(self) -> None:
        """Let the present call of `wait`, or the next one, return True: this process has committed a change."""
        ...

    def close(self) -> None:
        """Close the connection and end a waiting call. From then on, `wait` returns False at once."""
        ...


def change_signal() -> ChangeSignal:
    """Return a signal for the database of the settings."""
    if connection.vendor == "postgresql":
        from endpoints.changes.postgresql_listening import NotificationSignal  # psycopg is not imported for SQLite

        return NotificationSignal()
    from endpoints.changes.sqlite_listening import DataVersionSignal

    return DataVersionSignal()
