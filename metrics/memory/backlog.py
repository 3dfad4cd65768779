"""Delay of the database behind the journals, as other modules see it: without importing the database writer."""

from dataclasses import dataclass
from typing import Protocol

SLOW_SECONDS = 1.0  # a batch that takes longer waits for the database


@dataclass(slots=True)
class Backlog:
    """Progress of the database writer. Times are in seconds since 1970."""

    behind_since: float | None = None  # None while each batch takes all records that wait
    busy_since: float | None = None  # start of the running batch
    last_commit_at: float | None = None
    last_batch_ms: float | None = None
    last_batch_records: int = 0
    errors: int = 0  # failed steps since the start
    error: str | None = None

    def late_since(self, now: float) -> float | None:
        """Return since when records wait unusually long, or None if they do not."""
        busy_since = self.busy_since
        is_stuck = busy_since is not None and now - busy_since > SLOW_SECONDS
        return self.behind_since or (busy_since if is_stuck else None)


class WriterHandle(Protocol):
    """Database writer, as pages and API use it."""

    @property
    def backlog(self) -> Backlog: ...

    def flush(self, timeout: float = ...) -> bool:
        """Wait until all present records are in the database. Return False after `timeout` seconds."""
        ...

    def oldest_waiting(self) -> float | None:
        """Return the completion time of the oldest record that is not in the database, or None."""
        ...
