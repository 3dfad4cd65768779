"""The live page: one small memory-mapped file that all processes of this machine share.

It holds the snapshot's version; for each gateway worker the requests that its journal could not take and those that
wait in its queue; until when somebody looks at the requests that are here; how many of them operators have cancelled;
which circuit breakers they have reset; for each process and bound (gateway.bounds) how often it was hit, and when last;
for each worker and endpoint slot the requests in flight, the second of the last
byte received, and the state of the circuit breaker. A worker writes only what is its own; the supervisor clears a dead
worker's, and a reset what workers told of a breaker. Every cell is an aligned 32- or 64-bit word stored in one go, so
readers need no lock.
"""

import mmap
import os
from pathlib import Path

MAX_WORKERS = 32
MAX_ENDPOINTS = 1024
MAX_BOUNDS = 128

_UNRECORDED = 1  # the first word of each part of the header
_WAITING = _UNRECORDED + MAX_WORKERS
_WATCHED = _WAITING + MAX_WORKERS
_CANCELS = _WATCHED + 1
_RESETS = _CANCELS + 1
_LAST_RESETS = _RESETS + 1
_BOUNDS = _LAST_RESETS + MAX_ENDPOINTS
_BOUND_WORDS = (
    3  # of a process and a bound: hits; the second at which the present series of them began; that of the last
)
_BOUND_ROW = _BOUND_WORDS * MAX_BOUNDS
_BOUND_ROWS = MAX_WORKERS + 1  # control has the last
_HEADER_BYTES = 8 * (_BOUNDS + _BOUND_ROWS * _BOUND_ROW)
_CELLS = 4  # of a worker and an endpoint
_ROW_WORDS = _CELLS * MAX_ENDPOINTS
_PAGE_BYTES = _HEADER_BYTES + MAX_WORKERS * _ROW_WORDS * 4


class LivePage:
    """Opened by each process; made when missing."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != _PAGE_BYTES:  # new, or of another release
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, _PAGE_BYTES)
            self._map = mmap.mmap(descriptor, _PAGE_BYTES)
        finally:
            os.close(descriptor)
        view = memoryview(self._map)
        self._header = view[:_HEADER_BYTES].cast("Q")
        self._words = view[_HEADER_BYTES:].cast("I")

    @property
    def version(self) -> int:
        """Counts the snapshots published; a gateway reads the file again when it has changed."""
        return self._header[0]

    @version.setter
    def version(self, value: int) -> None:
        self._header[0] = value

    @property
    def unrecorded(self) -> int:
        """Requests that ended and are in no journal yet, as a number at least: no disk takes them."""
        return sum(self._header[_UNRECORDED:_WAITING])

    @property
    def waiting(self) -> int:
        """Requests that wait for a free slot, over all workers."""
        return sum(self._header[_WAITING:_WATCHED])

    @property
    def watched_until(self) -> int:
        """Second (since 1970) until which workers tell what is here, see gateway.present. Control writes it."""
        return self._header[_WATCHED]

    @watched_until.setter
    def watched_until(self, second: int) -> None:
        self._header[_WATCHED] = second

    @property
    def cancels(self) -> int:
        """Counts the requests that operators want ended, see gateway.cancels. Control writes it."""
        return self._header[_CANCELS]

    @cancels.setter
    def cancels(self, value: int) -> None:
        self._header[_CANCELS] = value

    @property
    def resets(self) -> int:
        """Counts the circuit breakers that operators have reset, an endpoint's again each time."""
        return self._header[_RESETS]

    def last_reset(self, slot: int) -> int:
        """Which of the `resets` was the last of this endpoint; 0 for none."""
        return self._header[_LAST_RESETS + slot]

    def reset_breaker(self, slot: int) -> None:
        """Have every worker close its circuit breaker for this endpoint. Control alone does it.

        What they told of these goes first: it is no news any more, however late one of them looks.
        """
        for worker in range(MAX_WORKERS):
            self.row(worker).set_trial_due(slot, 0)
        number = self.resets + 1
        self._header[_LAST_RESETS + slot] = number
        self._header[_RESETS] = number

    def set_waiting(self, worker: int, count: int) -> None:
        self._header[_WAITING + worker] = count

    def set_unrecorded(self, worker: int, count: int) -> None:
        self._header[_UNRECORDED + worker] = count

    def count_hit(self, writer: int, bound: int, now: int, apart: int) -> None:
        """Count a hit of a bound. `now` in seconds since 1970; hits more than `apart` seconds apart are two series.

        These counts stay when a worker is cleared: they are figures, not the state of a process.
        """
        at = _BOUNDS + writer * _BOUND_ROW + _BOUND_WORDS * bound
        header = self._header
        header[at] += 1
        if now - header[at + 2] > apart:
            header[at + 1] = now
        header[at + 2] = now

    def hits(self, bound: int) -> int:
        """How often a bound was hit, over all processes."""
        return sum(self._header[_BOUNDS + _BOUND_WORDS * bound :: _BOUND_ROW])

    def hit_between(self, bound: int, since: int) -> tuple[int, int]:
        """First and last second (since 1970) of a bound's hits, if the last is after `since`; else zeros."""
        start = _BOUNDS + _BOUND_WORDS * bound
        firsts, lasts = self._header[start + 1 :: _BOUND_ROW], self._header[start + 2 :: _BOUND_ROW]
        running = [(first, last) for first, last in zip(firsts, lasts, strict=True) if last > since]
        return (min(first for first, _ in running), max(last for _, last in running)) if running else (0, 0)

    def row(self, worker: int) -> "Row":
        return Row(self._words, worker * _ROW_WORDS)

    def clear(self, worker: int) -> None:
        self.set_unrecorded(worker, 0)
        self.set_waiting(worker, 0)
        start = worker * _ROW_WORDS
        for word in range(start, start + _ROW_WORDS):
            self._words[word] = 0

    def in_flight(self, slot: int, workers: int = MAX_WORKERS) -> int:
        """Requests on this endpoint now, over so many workers."""
        return sum(self._words[_CELLS * slot : workers * _ROW_WORDS : _ROW_WORDS])

    def last_byte(self, slot: int) -> int:
        """Second (since 1970) at which any worker last received a byte of this endpoint; 0 for never."""
        return max(self._words[_CELLS * slot + 1 : MAX_WORKERS * _ROW_WORDS : _ROW_WORDS])

    def trial_due(self, slot: int, workers: int = MAX_WORKERS) -> int:
        """0: every worker's circuit breaker for this endpoint is closed. Else the second (since 1970) until which the
        one that stays open longest is open; in the past, it is half open: a trial is due or under way.
        """
        return max(self._words[_CELLS * slot + 2 : workers * _ROW_WORDS : _ROW_WORDS])

    def closed_at(self, slot: int, workers: int = MAX_WORKERS) -> int:
        """Second at which a trial last closed a worker's circuit breaker for this endpoint; 0 for never."""
        return max(self._words[_CELLS * slot + 3 : workers * _ROW_WORDS : _ROW_WORDS])


class Row:
    """One worker's cells."""

    __slots__ = ("_start", "_words")

    def __init__(self, words: memoryview, start: int) -> None:
        self._words = words
        self._start = start

    def in_flight(self, slot: int) -> memoryview:
        """The one cell of this worker's requests on an endpoint, to be written."""
        at = self._start + _CELLS * slot
        return self._words[at : at + 1]

    def set_last_byte(self, slot: int, second: int) -> None:
        self._words[self._start + _CELLS * slot + 1] = second

    def set_trial_due(self, slot: int, second: int) -> None:
        self._words[self._start + _CELLS * slot + 2] = second

    def set_closed_at(self, slot: int, second: int) -> None:
        self._words[self._start + _CELLS * slot + 3] = second
