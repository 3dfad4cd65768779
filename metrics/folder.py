"""One folder: the journals of all workers, added to the trackers in memory. A figure is told after `catch_up`."""

import logging
import time
from collections.abc import Callable

from gateway.journal import START, Position
from metrics.journals import Journals
from metrics.trackers import Figures, State, Trackers

log = logging.getLogger(__name__)

BATCH = 5000


class Folder:
    """Reads each byte once, and knows for each writer up to where."""

    def __init__(self, journals: Journals, trackers: Trackers) -> None:
        self.journals = journals
        self.trackers = trackers
        self.database_id: str | None = None
        self.last_record_at = 0.0
        self.folded = 0  # records read since the figures were last read from the database
        self.written = 0  # of these, the ones written to it
        self._refused: Callable[[str], None] = lambda endpoint_id: None

    def on_refused_connection(self, listener: Callable[[str], None]) -> None:
        """Told of endpoints that refused a client's connection, in the folding thread."""
        self._refused = listener

    def figures(self) -> Figures:
        """Every figure, live to the last finished request of any worker."""
        with self.trackers.lock:
            self.catch_up()
            return self.trackers.figures()

    def catch_up(self) -> int:
        """Add what was written since; the number of entries."""
        with self.trackers.lock:
            if self.database_id is None:
                return 0
            count = self._follow(self.trackers.state)
            if count:
                self.last_record_at = time.time()
            return count

    def seed(self, state: State, database_id: str) -> None:
        """Take over figures read from the database, and what the journals hold behind their positions."""
        with self.trackers.lock:
            self.database_id = database_id
            self.folded = self.written = 0
            self.journals.know(state.positions, database_id)
            self._follow(state)
            self.trackers.install(state)

    @property
    def waiting(self) -> int:
        """Records that are in the figures and not yet in the database."""
        return max(0, self.folded - self.written)

    def position(self, writer: str) -> Position:
        with self.trackers.lock:
            return self.trackers.state.positions.get(writer, START)

    def forget(self, writer: str) -> None:
        """Its journal is gone, and all of it is in the state."""
        with self.trackers.lock:
            self.trackers.state.positions.pop(writer, None)

    def _follow(self, state: State) -> int:
        assert self.database_id is not None
        return sum(self._follow_writer(state, name) for name in self.journals.writers(self.database_id))

    def _follow_writer(self, state: State, writer: str) -> int:
        count = 0
        while True:
            position = state.positions.get(writer, START)
            part = self.journals.part(writer, position, BATCH, self.trackers.zone)
            state.positions[writer] = part.batch.position
            if not part.batch.entries and not part.batch.damaged:
                return count
            state.add(part.fold)
            self.trackers.version += 1  # also for what is no request: damage, and what went unrecorded
            self.folded += part.records
            count += part.records
            for endpoint_id in part.fold.refused_connections:
                self._refused(endpoint_id)
