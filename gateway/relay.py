"""Server-sent events on their way to the client: passed on event by event, read in passing. No I/O.

What ends an answer is held back until the record of the request is in the journal; the caller sends `held` afterwards.
Comments before the first event are held back too: they are no answer, and another endpoint may still be asked.
"""

import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.alike import Alike
from gateway.endpoint_errors import EndpointError
from gateway.openai import Dialect, Event, Usage, rename_model
from gateway.outbox import Body, Data

MAX_EVENT_BYTES = 16 << 20
MAX_EVENT_VALUES = 100_000  # values and pieces of text between commas, of a big event
MAX_EVENT_LINES = 10_000  # of a big event
BIG_EVENT_BYTES = 64 << 10
MAX_EVENTS = 1000  # that are passed on in one turn of the event loop
MAX_EARLY_BYTES = 4096
MAX_HELD_BYTES = 64 << 10  # that may come behind the end of an answer
SMALL_PENDING_BYTES = 16 << 10  # of the beginning of an event, which is simply put in front of what comes next
MOST_UNLIKE = 8  # events that were like none before, after which no more are compared


_END = re.compile(rb"\n\r?\n")  # the empty line at the end of an event


class EventTooLong(Exception):
    """An event has more than 16 MiB, or more lines or values than are read."""


class _Measure:
    """What it takes to read the beginning of a big event."""

    __slots__ = ("lines", "size", "values")

    def __init__(self) -> None:
        self.size = self.lines = self.values = 0

    def add(self, data: bytes, most: int) -> None:
        """More of it. Raises EventTooLong for more than `most` bytes, or for what would take too long to read."""
        self.size += len(data)
        self.lines += max(data.count(b"\n"), data.count(b"\r"))
        self.values += len(data) - len(data.translate(None, b"[{,"))
        if self.size > most or self.lines > MAX_EVENT_LINES or self.values > MAX_EVENT_VALUES:
            raise EventTooLong


class Relay(Protocol):
    """What becomes of a stream on its way to the client."""

    usage: Usage | None
    events: int  # comments, which only keep a connection alive, are none
    deltas: int  # pieces of output
    finished: bool
    error: EndpointError | None
    redact: Callable[[bytes], bytes] | None  # takes secrets out of what the endpoint says of errors
    held: bytes  # what ends the answer: to be sent when the request is recorded
    behind: bool  # events that have come wait for another turn: `feed(b"")` goes on with them

    @property
    def whole(self) -> bool:
        """Has the answer come to its end, as the dialect marks it?"""

    def feed(self, data: bytes) -> bytes:
        """The upstream's bytes as they come; the bytes to send on, MAX_EVENTS events at most. Raises EventTooLong."""

    def end(self) -> None:
        """The upstream has ended its answer."""


class StreamRelay:
    """Feed it the upstream's bytes as they come; it returns the bytes to send on."""

    max_event_bytes = MAX_EVENT_BYTES
    max_events = MAX_EVENTS

    def __init__(self, dialect: Dialect, asked_model: str, *, hide_usage: bool) -> None:
        self.usage: Usage | None = None
        self.events = 0  # comments, which only keep a connection alive, are none
        self.deltas = 0
        self.finished = False
        self.error: EndpointError | None = None
        self.redact: Callable[[bytes], bytes] | None = None
        self.held = b""
        self.behind = False
        self.response_id: str | None = None
        self._open: set[int] = set()  # choices that have begun and not ended
        self._dialect = dialect
        self._asked = asked_model
        self._hide_usage = hide_usage
        self._pending: Body = b""
        self._whole_event: bytes | None = None  # a big one, which is passed on next
        self._measured: _Measure | None = None  # of a big event, as far as it is pending
        self._early = b""  # comments that wait for the first event
        self._alike: Alike | None = None  # of the last event, if the next may be told by it
        self._unlike = 0  # events since one was

    @property
    def whole(self) -> bool:
        """Has the answer come to its end, as the dialect marks it?"""
        return self.finished and self.error is None

    def feed(self, data: bytes) -> bytes:
        """Bytes of the events that are complete now, MAX_EVENTS at most. Raises EventTooLong."""
        if self._alike is not None and not self._pending and (whole := self._told(self._alike, data)) is not None:
            return whole
        if self._whole_event is not None:
            return self._pass_whole_event(data)
        if self._pending:
            joined = self._with_pending(data)
            if joined is None:
                return b""
            data = joined
        plain = b"\r" not in data  # lines end as nearly everybody ends them
        out: list[bytes] = []
        start = 0
        for _ in range(self.max_events):
            end = data.find(b"\n\n", start) + 2 if plain else _event_end(data, start)
            if end < 2:
                break
            event = self._pass(data[start:end], big=end - start > BIG_EVENT_BYTES)
            if event:
                out.append(event)
            start = end
        else:
            self.behind = start < len(data)
        self._pending = data[start:]
        return b"".join(out)

    def _pass_whole_event(self, data: bytes) -> bytes:
        event, self._whole_event = self._whole_event, None
        assert event is not None
        self._pending = bytes(self._pending) + data
        self.behind = bool(self._pending)
        return self._pass(event, big=True)

    def _with_pending(self, data: bytes) -> bytes | None:
        """What is pending, and these bytes behind it; None while that is not a whole event. Raises EventTooLong."""
        pending = self._pending
        if self.behind or len(pending) < SMALL_PENDING_BYTES:
            self.behind = False
            return bytes(pending) + data
        # A big event in many pieces: each byte is looked at once, and copied when the event is whole.
        if not isinstance(pending, bytearray):
            self._measured = _Measure()
            self._measured.add(pending, self.max_event_bytes)
            self._pending = pending = bytearray(pending)
        assert self._measured is not None
        self._measured.add(data, self.max_event_bytes)
        seam = pending[-2:] + data
        found = _END.search(seam)
        pending += data
        if found is not None:  # it is whole, and passed on in a turn of its own
            end = len(pending) - (len(seam) - found.end())
            self._whole_event = bytes(memoryview(pending)[:end])
            self._pending = bytes(memoryview(pending)[end:])
            self.behind = True
        return None

    def end(self) -> None:
        """The upstream has ended its answer: what is left without an empty line behind it is an event too. Not to be
        called while events wait.
        """
        if self._pending:
            pending, self._pending = bytes(self._pending), b""
            if rest := self._pass(pending, big=len(pending) > BIG_EVENT_BYTES):
                self._hold(rest)

    def _told(self, alike: Alike, raw: bytes) -> bytes | None:
        """An event that is told by its bytes, as clients get it: another piece of output. None for one to be read."""
        out = alike.match(raw)
        if out is not None:
            self.events += 1
            self.deltas += 1
            self._unlike = 0
        return out

    def _pass(self, raw: bytes, *, big: bool = False) -> bytes:
        if self._alike is not None and (told := self._told(self._alike, raw)) is not None:
            return told
        self._alike = None
        data = self._big_data(raw) if big else _data(raw)
        if not data:
            return self._pass_comment(raw)
        self.events += 1
        if self._early:
            raw, self._early = self._early + raw, b""
        try:
            event = self._dialect.read_big(data) if big else self._dialect.read_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._pass_unread(raw)
        if event.error is not None or (self.events == 1 and event.inside):
            raw = self._amended(raw, event)
        self._take(event)
        if event.usage_only and self._hide_usage:
            return b""
        out = raw
        if event.model is not None and event.model != self._asked:
            out = rename_model(raw, event.model, self._asked)
        if event.last or self.held:
            return self._hold(out)
        if self.events > 1 and self._unlike < MOST_UNLIKE:
            self._unlike += 1
            self._alike = Alike.of(raw, event, out)
        return out

    def _amended(self, raw: bytes, event: Event) -> bytes:
        if event.error is not None:
            return self._clean(raw)
        return self._dialect.opening(self._asked) + raw

    def _pass_unread(self, raw: bytes) -> bytes:
        raw = self._clean(raw)
        return self._hold(raw) if self.held else raw

    def _clean(self, raw: bytes) -> bytes:
        return raw if self.redact is None else self.redact(raw)

    def _big_data(self, raw: bytes) -> Data:
        """The same as _data. Raises EventTooLong for what would take too long to read."""
        measured, self._measured = self._measured, None
        if measured is None or measured.size < len(raw):  # it was not when it came
            measured = _Measure()
            measured.add(raw, self.max_event_bytes)
        if raw.startswith(b"data:") and raw.find(b"\n") + 3 >= len(raw):
            return memoryview(raw)[5:]
        return _data(raw)

    def _pass_comment(self, raw: bytes) -> bytes:
        raw = self._clean(raw)
        if self.held:
            return self._hold(raw)
        if self.events:
            return raw
        if len(self._early) < MAX_EARLY_BYTES:
            self._early += raw
        return b""

    def _take(self, event: Event) -> None:
        self.deltas += event.deltas
        if event.usage is not None:
            self.usage = event.usage.over(self.usage)
        if event.response_id is not None:
            self.response_id = event.response_id
        if event.error is not None and self.error is None:
            self.error = event.error
        for index, ends in event.choices:
            if ends:
                self._open.discard(index)
            else:
                self._open.add(index)
        if event.choices:
            self.finished = not self._open
        if event.finished:
            self.finished = True

    def _hold(self, raw: bytes) -> bytes:
        if not self.held or len(self.held) < MAX_HELD_BYTES:
            self.held += raw
        return b""


def _event_end(data: bytes, start: int) -> int:
    """Behind the empty line that ends the event at `start`; -1 while it has not come."""
    found = _END.search(data, start)
    return -1 if found is None else found.end()


def _data(raw: bytes) -> bytes:
    """The event's data lines, joined."""
    if raw.startswith(b"data: ") and raw.count(b"\n") <= 2:
        return raw[6:].strip()
    lines = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)
