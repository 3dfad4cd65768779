"""Live page: one memory-mapped file that all processes of this machine share.

It holds these cells:

- the version and the generation of the registry store, and the generation that a process found damaged
- for each process (a row): its id, the version that it has applied, the requests that its journal could not store,
  those that wait in its queue, the bulk requests among these, the endpoints that the others wait for, and the changes
  of its circuit breakers
- the time until which workers report their running requests
- the number of requests that administrators have cancelled, and the circuit breakers that they have reset
- for each endpoint slot the prompt tokens that processes which have ended had sent there
- for each endpoint slot its pause and the kinds of requests that it lacks (gateway.ipc.endpoint_notes)
- for each process and bound (gateway.base.bounds): its hits, and the time of the last one
- for each process and endpoint slot: the requests in flight, the second of the last byte received, the state of the
  circuit breaker, and the work that adaptive routing counts

The counters of limits are in a file of their own (gateway.ipc.counters), whose rows have the same owners; so are counts
of requests (gateway.ipc.request_counts). The amounts of budgets are in another file, whose rows outlive their processes
(gateway.ipc.counters.spending).

A row belongs to one life of one process, which holds a lock on a file until it ends (`claim_row`). So a gateway that
drains after its supervisor was killed, and one of the next supervisor, never write the same cells. A process writes
only its own row; a dead process's row is cleared by `clear_dead_rows`, and a reset clears all rows' states of a circuit
breaker. Every cell is an aligned 32- or 64-bit word stored at once, so readers need no lock.

Processors may delay a store until after later loads. A process that stores into its row and then decides by all rows
calls `memory_barrier` in between (`Roster.take`).
"""

import io
import mmap
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

from gateway.base.bounds import MAX_BOUNDS
from gateway.ipc.counters.counter_file import CounterFile
from gateway.ipc.counters.spending_file import SpendingFile, path_beside
from gateway.ipc.endpoint_notes import EndpointNotes, words
from gateway.ipc.locks import exclusive, try_lock
from gateway.ipc.request_counts import RequestCounts, path_of_counts

MAX_WORKERS = 32
MAX_ROWS = 2 * MAX_WORKERS  # workers, and as many of an earlier supervisor that still drain
MAX_ENDPOINTS = 10_000
STARTING = 1  # in the cell of the applied version: the process has read no version yet; version N is N + 1

_VERSION, _GENERATION, _DAMAGED, _WATCHED, _CANCELS, _RESETS, _ROWS = range(7)
_PIDS = _ROWS + 1  # the first word of each section of the header
_APPLIED = _PIDS + MAX_ROWS
_UNRECORDED = _APPLIED + MAX_ROWS
_WAITING = _UNRECORDED + MAX_ROWS
_WAITING_BULK = _WAITING + MAX_ROWS
_WANTED = _WAITING_BULK + MAX_ROWS
_BREAKER_CHANGES = _WANTED + MAX_ROWS
_LAST_RESETS = _BREAKER_CHANGES + MAX_ROWS
_PAST_READ = _LAST_RESETS + MAX_ENDPOINTS
_NOTES = _PAST_READ + MAX_ENDPOINTS
_BOUNDS = _NOTES + words(MAX_ENDPOINTS)
_BOUND_WORDS = 3  # for each process and bound: hits, first and last second of the current series
_BOUND_ROW = _BOUND_WORDS * MAX_BOUNDS
_BOUND_ROWS = MAX_ROWS + 1  # the last is control's
_HEADER_BYTES = 8 * (_BOUNDS + _BOUND_ROWS * _BOUND_ROW)
# Cells for each row and endpoint. PENDING: prompt tokens sent whose responses have not begun. READ: prompt tokens sent
# so far. SHARED: integral of the requests in flight until MOMENT. The last three count modulo 2**32.
IN_FLIGHT, _LAST_BYTE, _TRIAL_DUE, _CLOSED_AT, PENDING, READ, SHARED, MOMENT = range(8)
_CELLS = 8
WORD = (1 << 32) - 1
MOMENTS_PER_SECOND = 10_000.0  # a float, as times are: Python multiplies two of a kind faster
_ROW_WORDS = _CELLS * MAX_ENDPOINTS
_ROW_BYTES = 4 * _ROW_WORDS
_PAGE_BYTES = _HEADER_BYTES + MAX_ROWS * _ROW_BYTES

# Makes all stores before this call visible to other processes before any load after it (0.1 µs).
#
# A buffered file has a lock, which flushing it acquires and releases, even if its buffer is empty. These are locked
# instructions, which are full barriers on x86-64. This takes a third of the instructions of acquiring and releasing a
# lock of `threading`. On arm64, a lock orders neither direction: there RouterDash is exact with one worker only
# (docs/architecture/processes-and-files.md).
memory_barrier = io.BufferedWriter(io.FileIO(os.devnull, "w")).flush


def wanted_bit(slot: int) -> int:
    """Return the bit of an endpoint slot in QueuedRequests.wanted. With more than 64 endpoints, several share a bit."""
    return 1 << (slot & 63)


def moment() -> int:
    """Return the present moment, modulo 2**32. All processes of a machine count the same moments."""
    return int(time.monotonic() * MOMENTS_PER_SECOND) & WORD


class NoRow(Exception):
    """All rows belong to running processes."""


def _open_map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size != _PAGE_BYTES:  # new, or left by a process that was killed meanwhile
            os.ftruncate(descriptor, 0)
            # A store into a mapped page that the disk has no room for would kill the process (SIGBUS).
            os.posix_fallocate(descriptor, 0, _PAGE_BYTES)
        return mmap.mmap(descriptor, _PAGE_BYTES)
    finally:
        os.close(descriptor)


def _greatest(header: memoryview, words: memoryview, slot: int, cell: int) -> int:
    """Return the greatest value of a cell of an endpoint over all rows."""
    return max(words[_CELLS * slot + cell : header[_ROWS] * _ROW_WORDS : _ROW_WORDS], default=0)


class LivePage:
    """Live page of one data directory. Each process opens it; it is created if missing."""

    def __init__(self, path: Path) -> None:
        """Open the page, and the counters beside it. Raises OSError if the disk has no room for them."""
        self._locks = path.with_name(f"{path.name}-rows")
        self._locks.mkdir(mode=0o700, exist_ok=True)
        with self._claiming():  # two processes may create them at the same time
            self._map = _open_map(path)
            self.counters = CounterFile(path.with_name(f"{path.name}-counters"), MAX_ROWS)
            self.spending = SpendingFile(path_beside(path))
            self.requests = RequestCounts(path_of_counts(path), MAX_ROWS)
        view = memoryview(self._map)
        self._header = view[:_HEADER_BYTES].cast("Q")
        self._words = view[_HEADER_BYTES:].cast("I")
        self.notes = EndpointNotes(self._header[_NOTES:_BOUNDS], MAX_ENDPOINTS)
        self.breakers = BreakerCells(self)

    @property
    def version(self) -> int:
        """Version of the registry store (gateway.registry); a gateway follows it when it has changed."""
        return self._header[_VERSION]

    @version.setter
    def version(self, value: int) -> None:
        self._header[_VERSION] = value

    @property
    def registry_generation(self) -> int:
        """Generation of the registry store in use; 0 before the first one is published."""
        return self._header[_GENERATION]

    @registry_generation.setter
    def registry_generation(self, value: int) -> None:
        self._header[_GENERATION] = value

    @property
    def damaged_generation(self) -> int:
        """Generation of the registry store that a process could not read; control builds another one then."""
        return self._header[_DAMAGED]

    @damaged_generation.setter
    def damaged_generation(self, value: int) -> None:
        self._header[_DAMAGED] = value

    def behind(self, version: int) -> list[int]:
        """Return the ids of the processes that have not applied a version yet.

        A process is counted from before its first read of the registry store until its row is cleared.
        """
        applied = self._header[_APPLIED:_UNRECORDED].tolist()
        return [self._header[_PIDS + row] for row, done in enumerate(applied) if 0 < done < version + STARTING]

    def newest_applied(self) -> int:
        """Return the newest version that any process has applied; 0 for none."""
        return max(0, max(self._header[_APPLIED:_UNRECORDED]) - STARTING)

    # Totals over all processes

    @property
    def rows(self) -> int:
        """Number of rows in use: those from here on have no process."""
        return self._header[_ROWS]

    @property
    def unrecorded(self) -> int:
        """Least number of requests that ended and are in no journal yet, because the disk accepts no writes."""
        return sum(self._header[_UNRECORDED:_WAITING])

    @property
    def waiting(self) -> int:
        """Number of requests of all processes that wait for a free slot."""
        return sum(self._header[_WAITING : _WAITING + self._header[_ROWS]])

    @property
    def watched_until(self) -> int:
        """Second (since 1970) until which workers report their running requests (gateway.ipc.running_requests)."""
        return self._header[_WATCHED]

    @watched_until.setter
    def watched_until(self, second: int) -> None:
        self._header[_WATCHED] = second

    @property
    def cancels(self) -> int:
        """Number of requests that administrators have cancelled, see gateway.ipc.cancellations. Control writes it."""
        return self._header[_CANCELS]

    @cancels.setter
    def cancels(self, value: int) -> None:
        self._header[_CANCELS] = value

    @property
    def alone(self) -> bool:
        """True while one process has all requests: what it counts itself are the sums over all."""
        return self.rows <= 1

    def in_flight(self, slot: int) -> int:
        """Return the number of requests in flight at this endpoint, over all rows."""
        return sum(self._words[_CELLS * slot : self._header[_ROWS] * _ROW_WORDS : _ROW_WORDS])

    def last_byte(self, slot: int) -> int:
        """Return the second (since 1970) at which any process last received a byte of this endpoint; 0 for never."""
        return _greatest(self._header, self._words, slot, _LAST_BYTE)

    # Bounds

    def count_hit(self, writer: int, bound: int, now: int, apart: int) -> None:
        """Count a hit of a bound. `now` in seconds since 1970; hits more than `apart` seconds apart are two series.

        These counts stay when a row is cleared: they are statistics, not the state of a process.
        """
        index = _BOUNDS + writer * _BOUND_ROW + _BOUND_WORDS * bound
        header = self._header
        header[index] += 1
        if now - header[index + 2] > apart:
            header[index + 1] = now
        header[index + 2] = now

    def hits(self, bound: int) -> int:
        """Return how often a bound was hit, over all processes."""
        return sum(self._header[_BOUNDS + _BOUND_WORDS * bound :: _BOUND_ROW])

    def hit_between(self, bound: int, since: int) -> tuple[int, int]:
        """Return the first and last second (since 1970) of a bound's hits if the last is after `since`, else zeros."""
        start = _BOUNDS + _BOUND_WORDS * bound
        first_hits, last_hits = self._header[start + 1 :: _BOUND_ROW], self._header[start + 2 :: _BOUND_ROW]
        running = [(first, last) for first, last in zip(first_hits, last_hits, strict=True) if last > since]
        return (min(first for first, _ in running), max(last for _, last in running)) if running else (0, 0)

    # Rows

    def claim_row(self) -> "Row":
        """Return a cleared row for this process, which keeps it until it ends or releases it.

        Raises NoRow, or OSError if the disk has no room for the row's counters of limits.
        """
        with self._claiming():
            for number in range(MAX_ROWS):
                if (lock := try_lock(self._locks / str(number))) is not None:
                    self._clear(number)
                    self._claim_counters(number, lock)
                    self._header[_ROWS] = max(self._header[_ROWS], number + 1)
                    self._header[_PIDS + number] = os.getpid()
                    self._header[_APPLIED + number] = STARTING
                    memory_barrier()  # what it reads from now on is not older than what control waits for
                    return Row(self, number, lock)
        raise NoRow(f"{MAX_ROWS} gateways run already")

    def clear_dead_rows(self) -> None:
        """Clear the rows of processes that have ended without releasing them."""
        self.spending.bury()
        if not any(self._header[_PIDS : _PIDS + self.rows]):
            return
        with self._claiming():
            for number in range(self.rows):
                if self._header[_PIDS + number] and (lock := try_lock(self._locks / str(number))) is not None:
                    self._clear(number)
                    os.close(lock)
            while (last := self.rows) and not self._header[_PIDS + last - 1]:
                self._header[_ROWS] = last - 1

    def wake_path(self, number: int) -> Path:
        """Path of the named pipe that wakes a row's process (gateway.ipc.wake)."""
        return self._locks / f"{number}.wake"

    def _claiming(self) -> AbstractContextManager[None]:
        """Let one process at a time create files, and claim or clear rows."""
        return exclusive(self._locks / "claims")

    def _claim_counters(self, number: int, lock: int) -> None:
        try:
            self.counters.claim(number)
        except OSError:
            os.close(lock)
            raise

    def _clear(self, number: int) -> None:
        """Clear a row, its process id last: until then it counts as the dead process's."""
        self.counters.clear(number)
        _keep_read(self._header, self._words, number)
        start = _HEADER_BYTES + number * _ROW_BYTES
        self._map[start : start + _ROW_BYTES] = bytes(_ROW_BYTES)
        self._header[_BREAKER_CHANGES + number] += 1  # never back to a value that somebody has seen
        for section in (_UNRECORDED, _WAITING, _WAITING_BULK, _WANTED, _APPLIED, _PIDS):
            self._header[section + number] = 0


def _keep_read(header: memoryview, words: memoryview, number: int) -> None:
    """Add the prompt tokens that a row's process has sent to those of the past: they are a clock, which never goes back
    (gateway.routing.affinity). For a moment a reader may see them twice, never not at all.
    """
    start = number * _ROW_WORDS
    for slot, tokens in enumerate(words[start + READ : start + _ROW_WORDS : _CELLS].tolist()):
        if tokens:
            header[_PAST_READ + slot] += tokens


class BreakerCells:
    """Circuit breakers of all processes, and their resets by administrators."""

    __slots__ = ("_header", "_notes", "_words")

    def __init__(self, page: LivePage) -> None:
        self._header = page._header
        self._words = page._words
        self._notes = page.notes

    @property
    def resets(self) -> int:
        """Number of resets of circuit breakers by administrators. The same endpoint counts again each time."""
        return self._header[_RESETS]

    def last_reset(self, slot: int) -> int:
        """Return the number, among `resets`, of this endpoint's last reset; 0 for none."""
        return self._header[_LAST_RESETS + slot]

    def reset(self, slot: int) -> None:
        """Have every process close its circuit breaker for this endpoint. Only control calls it.

        The processes' states of these breakers are cleared first: they are out of date, even if a process reads the
        reset late.
        """
        for row in range(self._header[_ROWS]):
            self._words[row * _ROW_WORDS + _CELLS * slot + _TRIAL_DUE] = 0
        self._notes.clear_pause(slot)
        number = self.resets + 1
        self._header[_LAST_RESETS + slot] = number
        self._header[_RESETS] = number

    @property
    def changes(self) -> int:
        """Count of changes of circuit breakers in all rows. While it is equal, no breaker has changed its state."""
        return sum(self._header[_BREAKER_CHANGES:_LAST_RESETS])

    def trial_due(self, slot: int) -> int:
        """Return the second (since 1970) until which the circuit breaker for this endpoint is open in any process.

        It is 0 if every process's circuit breaker is closed. A time in the past: it is half-open,
        and a trial is due or running.
        """
        return _greatest(self._header, self._words, slot, _TRIAL_DUE)

    def closed_at(self, slot: int) -> int:
        """Return the second at which a trial last closed a circuit breaker for this endpoint; 0 for never."""
        return _greatest(self._header, self._words, slot, _CLOSED_AT)


class QueuedRequests:
    """Requests of all processes in the queue, as requests of each class see them."""

    __slots__ = ("_header",)

    def __init__(self, page: LivePage) -> None:
        self._header = page._header

    @property
    def interactive(self) -> int:
        """Number of requests in the queue that are not bulk requests."""
        header = self._header
        rows = header[_ROWS]
        waiting = sum(header[_WAITING : _WAITING + rows])
        return waiting and waiting - sum(header[_WAITING_BULK : _WAITING_BULK + rows])

    @property
    def wanted(self) -> int:
        """Endpoints that these wait for, as a sum of `wanted_bit`."""
        header, wanted = self._header, 0
        for bits in header[_WANTED : _WANTED + header[_ROWS]]:
            wanted |= bits
        return wanted


class EndpointWork:
    """Sums over all processes of the work that endpoints do, for adaptive routing."""

    __slots__ = ("_header", "_words")

    def __init__(self, page: LivePage) -> None:
        self._header = page._header
        self._words = page._words

    def pending(self, slot: int) -> int:
        """Return the prompt tokens sent to this endpoint whose responses have not begun."""
        return sum(self._words[_CELLS * slot + PENDING : self._header[_ROWS] * _ROW_WORDS : _ROW_WORDS])

    def read_tokens(self, slot: int) -> int:
        """Return the prompt tokens ever sent to this endpoint, modulo 2**32. Restarts do not change it."""
        header, index = self._header, _CELLS * slot + READ
        end = header[_ROWS] * _ROW_WORDS
        # With one process, the sum of a slice would take most of the time.
        sent = self._words[index] if end == _ROW_WORDS else sum(self._words[index:end:_ROW_WORDS])
        return sent + header[_PAST_READ + slot] & WORD

    def totals(self, slot: int, now: int) -> tuple[int, int, int, int]:
        """Return the requests in flight, `pending`, the prompt tokens that the running processes have sent, and the
        integral of the requests in flight until `now`; of the last two, only differences modulo 2**32 mean something.

        `now` is a moment (see `moment`), and the unit of the integral is one request for the time between two moments.
        """
        words = self._words
        in_flight = pending = read = shared = 0
        for index in range(_CELLS * slot, self._header[_ROWS] * _ROW_WORDS, _ROW_WORDS):
            if count := words[index]:
                in_flight += count
                shared += count * (now - words[index + MOMENT] & WORD)
            pending += words[index + PENDING]
            read += words[index + READ]
            shared += words[index + SHARED]
        return in_flight, pending, read & WORD, shared & WORD


class Row:
    """The cells of one process."""

    __slots__ = ("_header", "_lock", "_page", "_start", "_words", "counts", "number", "wake_path")

    def __init__(self, page: LivePage, number: int, lock: int) -> None:
        """`lock`: the descriptor of the row's locked file."""
        self._page = page
        self._header = page._header
        self._words = page._words
        self._start = number * _ROW_WORDS
        self._lock: int | None = lock
        self.number = number
        self.wake_path = page.wake_path(number)
        self.counts = page.requests.row(number)

    def release(self) -> None:
        """Clear the row and give it back, at the end of the process."""
        if self._lock is not None:
            with self._page._claiming():
                self._page._clear(self.number)
                os.close(self._lock)
                self._lock = None

    def set_applied(self, version: int) -> None:
        """Report that this process acts by this version of the registry store, and by no earlier one any more."""
        self._header[_APPLIED + self.number] = version + STARTING

    def set_waiting(self, count: int, bulk: int = 0, wanted: int = 0) -> None:
        """Publish the requests in the queue, the bulk requests among them, and the endpoints that the others want."""
        self._header[_WAITING + self.number] = count
        self._header[_WAITING_BULK + self.number] = bulk
        self._header[_WANTED + self.number] = wanted

    def set_unrecorded(self, count: int) -> None:
        self._header[_UNRECORDED + self.number] = count

    def cells(self, slot: int) -> memoryview:
        """Return the writable cells of this process for an endpoint: IN_FLIGHT, PENDING, READ, SHARED and MOMENT."""
        start = self._start + _CELLS * slot
        return self._words[start : start + _CELLS]

    def set_last_byte(self, slot: int, second: int) -> None:
        self._words[self._start + _CELLS * slot + _LAST_BYTE] = second

    def set_trial_due(self, slot: int, second: int) -> None:
        self._set_breaker(slot, _TRIAL_DUE, second)

    def set_closed_at(self, slot: int, second: int) -> None:
        self._set_breaker(slot, _CLOSED_AT, second)

    def _set_breaker(self, slot: int, word: int, second: int) -> None:
        self._words[self._start + _CELLS * slot + word] = second
        self._header[_BREAKER_CHANGES + self.number] += 1
