"""Work at own hardware: the times of attempts by hour, endpoint and line, and their packed form in the database.

Times are offsets in µs from the start of their hour, so that 32 bits hold one, and an integer of 64 bits holds the end
and the start of an attempt. Requests and tokens are counted at a moment: that of the end of the last attempt. Requests
of one minute are counted at one moment, because no rate and no local date changes between them.
"""

from collections.abc import Iterable, Sequence

import msgspec

from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.counts import USUAL_TOKENS, part_of, plausible
from metrics.counting.cells import MINUTE_US
from metrics.counting.fold import Fold
from metrics.counting.fold_sums import Group
from metrics.prices.hardware import HOUR, HOUR_US, HardwareRates

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


_UNKNOWN: dict[LineKey, LineWork] = {}


def work_of(fold: Fold, rates: HardwareRates) -> dict[Place, list[LineWork]]:
    """Return the work of the requests of a fold at endpoints with a rate."""
    if not rates:
        return {}
    batch = _WorkBatch(rates)
    batch.add_groups(fold.groups)
    for entry in fold.ungrouped:
        batch.add(entry)
    return {place: list(lines.values()) for place, lines in batch.lines.items() if lines}


class _WorkBatch:
    """Work of the requests that were added."""

    def __init__(self, rates: HardwareRates) -> None:
        self.lines: dict[Place, dict[LineKey, LineWork]] = {}
        self._rates = rates
        self._rated = rates.by_endpoint
        self._has_rate: dict[Place, bool] = {}

    def add(self, entry: RequestRecord) -> None:
        for number, attempt in enumerate(entry.attempts):
            if attempt.endpoint_id in self._rated:
                self._add_attempt(entry, number, attempt)

    def add_groups(self, groups: Iterable[Group]) -> None:
        """Add successful requests with one attempt, with the same result as `add` for each of them."""
        last_minute = -1
        hour_us = minute_us = 0
        in_minute: dict[str, dict[LineKey, LineWork] | None] = {}  # lines by endpoint
        for (minute, endpoint_id, model, kind, api_key_id, _, _, _, _), entries, tokens in groups:
            if endpoint_id not in self._rated:
                continue
            if minute != last_minute:
                last_minute, in_minute = minute, {}
                hour_us, minute_us = minute // 60 * HOUR_US, minute % 60 * MINUTE_US
            lines = in_minute.get(endpoint_id, _UNKNOWN)
            if lines is _UNKNOWN:
                lines = in_minute[endpoint_id] = self._lines_in(minute, endpoint_id)
            times: list[int] = []
            moment = -1 if lines is None else _add_times(times, entries, hour_us, minute_us)
            if lines is None or moment < 0:
                for entry in entries:
                    self.add(entry)
                continue
            if tokens is not None:
                counted = (moment, (len(entries), *tokens, 0, 0, 0, 0))
            else:
                counted = (moment, _counts(entries[0]) if len(entries) == 1 else _sums(entries))
            line = (model, kind, api_key_id)
            work = lines.get(line)
            if work is None:
                lines[line] = LineWork(model, kind, api_key_id, times, [counted])
            else:
                work.times += times
                work.counts.append(counted)

    def _lines_in(self, minute: int, endpoint_id: str) -> dict[LineKey, LineWork] | None:
        """Return the lines of requests that end in a minute; None if these are to be added one by one."""
        place = (minute // 60, endpoint_id)
        # Without a rate in this hour, they may have begun in one with a rate.
        if not self._is_rated(place) or self._rates.changes_within(endpoint_id, minute):
            return None
        return self.lines.setdefault(place, {})

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
        found = self._has_rate.get(place)
        if found is None:
            hour, endpoint_id = place
            found = bool(self._rates.spans(endpoint_id, hour * HOUR, (hour + 1) * HOUR))
            self._has_rate[place] = found
        return found

    def _line(self, place: Place, line: LineKey) -> LineWork:
        lines = self.lines.get(place)
        if lines is None:
            lines = self.lines[place] = {}
        work = lines.get(line)
        if work is None:
            work = lines[line] = LineWork(*line)
        return work


_BOTH = (1 << TIME_BITS) + 1  # a start that is also an end, times this, is the time of an attempt


def _add_times(times: list[int], entries: Iterable[RequestRecord], hour_us: int, minute_us: int) -> int:
    """Append the times of requests with one attempt that completed in a minute: of an hour since 1970, both in µs.

    Returns the moment at which they are counted, when the last attempt runs; -1 if a request began before the hour, or
    if the attempt of one did not end in this minute.
    """
    end = before = 0
    for entry in entries:
        attempt = entry.attempts[0]
        end = entry.completed_us - hour_us
        # Python computes with these differences faster than with moments.
        before = attempt.at_us - entry.duration_us  # the start, seen from the end
        if before >= 0:
            before = 0
        elif (after := before + attempt.duration_us) < 0:
            end += after
            before -= after
        if end <= minute_us or before + end < 0:
            return -1
        times.append(end * _BOTH + before)
    return end - 1 if before else end


def times_of(completed_us: int, duration_us: int, at_us: int, attempt_us: int) -> tuple[int, int]:
    """Return the start and the end of an attempt of a request, in µs since 1970: never after the request's end."""
    start = min(completed_us, completed_us - duration_us + at_us)
    return start, min(completed_us, start + attempt_us)


def _counts(entry: RequestRecord) -> Counts:
    tokens_in, tokens_out = entry.input_tokens, entry.output_tokens
    # Usual counts meet the conditions of `plausible`.
    if tokens_in is None or tokens_in < 0 or tokens_in > USUAL_TOKENS:
        tokens_in = plausible(tokens_in)
    if tokens_out is None or tokens_out < 0 or tokens_out > USUAL_TOKENS:
        tokens_out = plausible(tokens_out)
    # Only if a part is unusual, a call is needed.
    cached, written, reasoning = entry.cached_tokens or 0, entry.cache_write_tokens, entry.reasoning_tokens or 0
    if cached and (tokens_in is None or not 0 < cached < tokens_in):
        cached = part_of(cached, tokens_in) or 0
    if reasoning and (tokens_out is None or not 0 < reasoning < tokens_out):
        reasoning = part_of(reasoning, tokens_out) or 0
    long = 0
    if written is not None:
        written = part_of(written, tokens_in)
        long = part_of(entry.long_write_tokens, written) or 0
    return 1, tokens_in or 0, tokens_out or 0, cached, written or 0, long, reasoning


def _sums(entries: Sequence[RequestRecord]) -> Counts:
    """Return the sum of `_counts` of these requests."""
    requests, *tokens = map(sum, zip(*map(_counts, entries), strict=True))
    return (requests, *tokens)  # type: ignore[return-value]  # as many as Counts has


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[LineWork]).decode


def pack(work: Sequence[LineWork]) -> bytes:
    """Return the packed form of the lines of one hour at one endpoint."""
    return _encode(work)


def unpack(packed: bytes) -> list[LineWork]:
    """Return the lines of a packed form. Raises msgspec.DecodeError for damaged bytes."""
    return _decode(packed)
