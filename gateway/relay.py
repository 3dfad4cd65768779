"""Server-sent events on their way to the client: passed on event by event, read in passing. No I/O.

What ends an answer is held back until the record of the request is in the journal; the caller sends `held` afterwards.
Comments before the first event are held back too: they are no answer, and another endpoint may still be asked.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.alike import Alike
from gateway.endpoint_errors import EndpointError
from gateway.openai import Dialect, Event, Usage, rename_model

MAX_EVENT_BYTES = 16 << 20
MAX_EARLY_BYTES = 4096
MOST_UNLIKE = 8  # events that were like none before, after which no more are compared


class EventTooLong(Exception):
    """More than 16 MiB without the end of an event."""


class Relay(Protocol):
    """What becomes of a stream on its way to the client."""

    usage: Usage | None
    events: int  # comments, which only keep a connection alive, are none
    deltas: int  # pieces of output
    finished: bool
    error: EndpointError | None
    redact: Callable[[bytes], bytes] | None  # takes secrets out of what the endpoint says of errors
    held: bytes  # what ends the answer: to be sent when the request is recorded

    @property
    def whole(self) -> bool:
        """Has the answer come to its end, as the dialect marks it?"""

    def feed(self, data: bytes) -> bytes:
        """The upstream's bytes as they come; the bytes to send on. Raises EventTooLong."""

    def end(self) -> None:
        """The upstream has ended its answer."""


class StreamRelay:
    """Feed it the upstream's bytes as they come; it returns the bytes to send on."""

    def __init__(self, dialect: Dialect, asked_model: str, *, hide_usage: bool) -> None:
        self.usage: Usage | None = None
        self.events = 0  # comments, which only keep a connection alive, are none
        self.deltas = 0
        self.finished = False
        self.error: EndpointError | None = None
        self.redact: Callable[[bytes], bytes] | None = None
        self.held = b""
        self.response_id: str | None = None
        self._open: set[int] = set()  # choices that have begun and not ended
        self._dialect = dialect
        self._asked = asked_model
        self._hide_usage = hide_usage
        self._pending = b""
        self._early = b""  # comments that wait for the first event
        self._alike: Alike | None = None  # of the last event, if the next may be told by it
        self._unlike = 0  # events since one was

    @property
    def whole(self) -> bool:
        """Has the answer come to its end, as the dialect marks it?"""
        return self.finished and self.error is None

    def feed(self, data: bytes) -> bytes:
        """Bytes of all events that are complete now. Raises EventTooLong."""
        if self._alike is not None and not self._pending and (whole := self._told(self._alike, data)) is not None:
            return whole
        if self._pending:
            data = self._pending + data
        plain = b"\r" not in data  # lines end as nearly everybody ends them
        out: list[bytes] = []
        start = 0
        while True:
            end = data.find(b"\n\n", start) + 2 if plain else _event_end(data, start)
            if end < 2:
                break
            event = self._pass(data[start:end])
            if event:
                out.append(event)
            start = end
        self._pending = data[start:]
        if len(self._pending) > MAX_EVENT_BYTES:
            raise EventTooLong
        return b"".join(out)

    def end(self) -> None:
        """The upstream has ended its answer: what is left without an empty line behind it is an event too."""
        if self._pending:
            pending, self._pending = self._pending, b""
            if rest := self._pass(pending):
                self._hold(rest)

    def _told(self, alike: Alike, raw: bytes) -> bytes | None:
        """An event that is told by its bytes, as clients get it: another piece of output. None for one to be read."""
        out = alike.match(raw)
        if out is not None:
            self.events += 1
            self.deltas += 1
            self._unlike = 0
        return out

    def _pass(self, raw: bytes) -> bytes:
        if self._alike is not None and (told := self._told(self._alike, raw)) is not None:
            return told
        self._alike = None
        data = _data(raw)
        if not data:
            return self._pass_comment(raw)
        self.events += 1
        if self._early:
            raw, self._early = self._early + raw, b""
        try:
            event = self._dialect.read_event(data)
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
        self.held += raw
        return b""


def _event_end(data: bytes, start: int) -> int:
    """Behind the empty line that ends the event at `start`; -1 while it has not come."""
    newline = data.find(b"\n", start)
    while newline != -1:
        after = data[newline + 1 : newline + 3]
        if after[:1] == b"\n":
            return newline + 2
        if after == b"\r\n":
            return newline + 3
        newline = data.find(b"\n", newline + 1)
    return -1


def _data(raw: bytes) -> bytes:
    """The event's data lines, joined."""
    if raw.startswith(b"data: ") and raw.count(b"\n") <= 2:
        return raw[6:].strip()
    lines = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)
