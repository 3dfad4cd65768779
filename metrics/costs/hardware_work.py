"""Work at own hardware: the times of attempts by hour, endpoint and line, and their packed form in the database.

Times are offsets in µs from the start of their hour, so that 32 bits hold one, and an integer of 64 bits holds the end
and the start of an attempt. Requests and tokens are counted at a moment: that of the end of the last attempt. Requests
of one minute are counted at one moment, because no rate and no local date changes between them.
"""

from collections.abc import Iterable, Sequence
from operator import add

import msgspec

from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.counts import part_of, plausible
from metrics.costs.hardware_rates import HOUR, HOUR_US, HardwareRates
from metrics.counting.cells import MINUTE_US
from metrics.counting.fold import Fold

MOST_HOURS = 7 * 24  # of one attempt; a longer one has a damaged duration, of which the last hours count

TIME_BITS = 32
TIME_MASK = (1 << TIME_BITS) - 1

LineKey = tuple[str, str, str]  # requested model, kind, API key (empty: none)
Place = tuple[int, str]  # hour since 1970 UTC, endpoint
# Requests; input, output, cached, cache-write, long cache-write and reasoning tokens.
Counts = tuple[int, int, int, int, int, int, int]


class LineWork(msgspec.Struct, array_like=True):
    """Attempts of one line in one hour at one endpoint. A time is `end << TIME_BITS | start`.

    The database has these fields, in this order.
    """

    model: str  # the requested name
    kind: str
    api_key_id: str  # empty: none
    times: list[int] = []
    counts: list[tuple[int, Counts]] = []  # with their moments

    @property
    def line(self) -> LineKey:
        return self.model, self.kind, self.api_key_id

    def add(self, start: int, end: int, counts: Counts | None) -> None:
        """Add an attempt; `counts` if its request ended with it."""
        self.times.append(end << TIME_BITS | start)
        if counts is not None:
            self.counts.append((max(start, end - 1), counts))


def work_of(fold: Fold, rates: HardwareRates) -> dict[Place, list[LineWork]]:
    """Return the work of the requests of a fold at endpoints with a rate."""
    if not rates:
        return {}
    batch = _WorkBatch(rates)
    for entry in fold.counted:
        batch.add(entry)
    return batch.finished()


class _WorkBatch:
    """Work of the requests that were added."""

    def __init__(self, rates: HardwareRates) -> None:
        self._lines: dict[Place, dict[LineKey, LineWork]] = {}
        self._rates = rates
        self._rated = rates.by_endpoint
        self._has_rate: dict[Place, bool] = {}

    def add(self, entry: RequestRecord) -> None:
        for number, attempt in enumerate(entry.attempts):
            if attempt.endpoint_id in self._rated:
                self._add_attempt(entry, number, attempt)

    def finished(self) -> dict[Place, list[LineWork]]:
        """Return the work by place, where requests of one minute are counted at one moment."""
        for place, lines in self._lines.items():
            for work in lines.values():
                work.counts = self._by_minute(place, work.counts)
        return {place: list(lines.values()) for place, lines in self._lines.items()}

    def _add_attempt(self, entry: RequestRecord, number: int, attempt: AttemptRecord) -> None:
        start, end = times_of(entry.completed_us, entry.duration_us, attempt.at_us, attempt.duration_us)
        last = max(start, end - 1) // HOUR_US
        ended = number == len(entry.attempts) - 1 and entry.outcome != record.QUEUE
        line = (entry.model, entry.kind, entry.api_key_id or "")
        for hour in range(max(start // HOUR_US, last - MOST_HOURS + 1), last + 1):
            place = (hour, attempt.endpoint_id)
            if self._is_rated(place):
                first = hour * HOUR_US
                counts = _counts(entry) if ended and hour == last else None
                self._line(place, line).add(max(start - first, 0), min(end - first, HOUR_US), counts)

    def _is_rated(self, place: Place) -> bool:
        is_rated = self._has_rate.get(place)
        if is_rated is None:
            hour, endpoint_id = place
            is_rated = bool(self._rates.spans(endpoint_id, hour * HOUR, (hour + 1) * HOUR))
            self._has_rate[place] = is_rated
        return is_rated

    def _line(self, place: Place, line: LineKey) -> LineWork:
        lines = self._lines.setdefault(place, {})
        work = lines.get(line)
        if work is None:
            work = lines[line] = LineWork(*line)
        return work

    def _by_minute(self, place: Place, counts: Iterable[tuple[int, Counts]]) -> list[tuple[int, Counts]]:
        """Return the sums of each minute, at the latest of its moments; all, if a rate begins or ends within it."""
        hour, endpoint_id = place
        by_minute: dict[int, tuple[int, Counts]] = {}
        alone: list[tuple[int, Counts]] = []
        for moment, counted in counts:
            minute = moment // MINUTE_US
            if self._rates.changes_within(endpoint_id, hour * 60 + minute):
                alone.append((moment, counted))
            elif minute in by_minute:
                latest, before = by_minute[minute]
                sums: Counts = tuple(map(add, before, counted))
                by_minute[minute] = max(latest, moment), sums
            else:
                by_minute[minute] = moment, counted
        return [*by_minute.values(), *alone]


def times_of(completed_us: int, duration_us: int, at_us: int, attempt_us: int) -> tuple[int, int]:
    """Return the start and the end of an attempt of a request, in µs since 1970: never after the request's end."""
    start = min(completed_us, completed_us - duration_us + at_us)
    return start, min(completed_us, start + attempt_us)


def _counts(entry: RequestRecord) -> Counts:
    tokens_in, tokens_out = plausible(entry.input_tokens), plausible(entry.output_tokens)
    written = part_of(entry.cache_write_tokens, tokens_in)
    return (
        1,
        tokens_in or 0,
        tokens_out or 0,
        part_of(entry.cached_tokens, tokens_in) or 0,
        written or 0,
        part_of(entry.long_write_tokens, written) or 0,
        part_of(entry.reasoning_tokens, tokens_out) or 0,
    )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[LineWork]).decode


def pack(work: Sequence[LineWork]) -> bytes:
    """Return the packed form of the lines of one hour at one endpoint."""
    return _encode(work)


def unpack(packed: bytes) -> list[LineWork]:
    """Return the lines of a packed form. Raises msgspec.DecodeError for damaged bytes."""
    return _decode(packed)
