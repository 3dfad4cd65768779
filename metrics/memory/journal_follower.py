"""Journal follower: adds the journals of all workers to the trackers. Figures are current after `catch_up`."""

import logging
import time
from collections.abc import Callable

from gateway.ipc.journal import START, Position
from metrics.costs.hardware_totals import HardwareTotals
from metrics.costs.totals import CostTotals
from metrics.memory.figures import Figures
from metrics.memory.journal_reader import JournalReader
from metrics.memory.state import FiguresState
from metrics.memory.trackers import Trackers
from metrics.model_names.used_steps import name_steps

log = logging.getLogger(__name__)

BATCH = 5000
FOLLOW_SECONDS = 1.0  # between two reads of journals that have not grown while something in them is not read
REST_FOLLOW_SECONDS = 10.0  # at least so often they are read although all seems to be read


class JournalFollower:
    """Follower that reads each byte of the journals once, and stores a position for each writer."""

    def __init__(self, reader: JournalReader, trackers: Trackers) -> None:
        self.reader = reader
        self.trackers = trackers
        self.costs = CostTotals()
        self.hardware = HardwareTotals()
        self.database_id: str | None = None
        self.last_record_at = 0.0
        self.folded = 0  # records read since the figures were last read from the database
        self.written = 0  # of these, the records that were written to the database
        self._unknown: Callable[[str], None] = lambda endpoint_id: None
        self._refused: Callable[[str], None] = lambda endpoint_id: None
        self._ends: list[tuple[str, int, int]] | None = None  # of the journals, when `has_news` was True last
        self._news_at = float("-inf")

    def on_refused_connection(self, listener: Callable[[str], None]) -> None:
        """Call `listener` for each endpoint that refused a connection, in the thread that follows the journals."""
        self._refused = listener

    def on_unknown_model(self, listener: Callable[[str], None]) -> None:
        """Call `listener` for each endpoint that did not know a model, in the thread that follows the journals."""
        self._unknown = listener

    def figures(self) -> Figures:
        """Return all figures, up to the last finished request of any worker."""
        with self.trackers.lock:
            self.catch_up()
            return self.trackers.figures()

    def has_news(self) -> bool:
        """Return True if `catch_up` may find records. It costs a tenth of that, and is called many times a second.

        A read can have failed or come too early, so what is not read is tried again every FOLLOW_SECONDS.
        """
        ends, now = self.reader.ends(), time.monotonic()
        if ends == self._ends:
            pause = REST_FOLLOW_SECONDS if self._has_read(ends) else FOLLOW_SECONDS
            if 0 <= now - self._news_at < pause:
                return False
        self._ends, self._news_at = ends, now
        return True

    def _has_read(self, ends: list[tuple[str, int, int]]) -> bool:
        """Return True if the figures include the journals up to these ends."""
        positions = self.trackers.state.positions
        return self.database_id is not None and all(
            positions.get(writer) == (segment, size) for writer, segment, size in ends
        )

    def catch_up(self) -> int:
        """Add all new entries of the journals. Return the number of records."""
        with self.trackers.lock:
            if self.database_id is None:
                return 0
            count = self._follow(self.trackers.state)
            if count:
                self.last_record_at = time.time()
            return count

    def seed(self, state: FiguresState, database_id: str) -> None:
        """Take over figures read from the database, and add the entries behind their journal positions."""
        with self.trackers.lock:
            self.database_id = database_id
            self.folded = self.written = 0
            self.costs.install(state.costs, state.positions)
            self.reader.add_writers(state.positions, database_id)
            self._follow(state)
            self.trackers.install(state)

    @property
    def waiting(self) -> int:
        """Number of records that are in the figures but not in the database yet."""
        return max(0, self.folded - self.written)

    def count_written(self, records: int) -> None:
        """Note that the database writer has committed these records."""
        self.written += records

    def position(self, writer: str) -> Position:
        with self.trackers.lock:
            return self.trackers.state.positions.get(writer, START)

    def remove_writer(self, writer: str) -> None:
        """Remove the position of a writer whose journal is deleted and completely counted."""
        with self.trackers.lock:
            self.trackers.state.positions.pop(writer, None)

    def _follow(self, state: FiguresState) -> int:
        assert self.database_id is not None
        names = self.reader.writers(self.database_id)
        return sum(self._follow_writer(state, name, self.reader.end(name)) for name in names)

    def _follow_writer(self, state: FiguresState, writer: str, end: Position) -> int:
        count = 0
        while True:
            position = state.positions.get(writer, START)
            part = self.reader.part(writer, position, BATCH, self.trackers.zone)
            state.positions[writer] = part.batch.position
            if not part.batch.entries and not part.batch.damaged:
                return count
            state.add(part.fold)
            name_steps.add(part.fold.counted)
            if part.records or part.fold.others:  # damage and lost records count; the head of a segment does not
                self.trackers.version += 1
            self.folded += part.records
            count += part.records
            for endpoint_id in part.fold.refused_connections:
                self._refused(endpoint_id)
            for endpoint_id in part.fold.unknown_models:
                self._unknown(endpoint_id)
            if part.batch.position >= end:
                return count
