"""Relay of server-sent events (SSE, streaming) to the client: each event is decoded, counted and passed on. No I/O.

The token counts come from the usage that the endpoint sends; without one, gateway.inference.recording estimates them.

The end of a response is held back until the record of the request is in the journal; the caller sends `held`
afterwards. Comments before the first event are held back too: they are no response yet, and another endpoint may still
be tried (failover).
"""

import re
from collections.abc import Callable
from io import BytesIO

import msgspec

from gateway.base.types import Body, Data
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.json_text import rename_model, replace_value
from gateway.dialects.openai_events import Dialect, Event
from gateway.dialects.usage import STOP, Usage, with_service_tier
from gateway.fast.repeated_event import EventTemplate

MAX_EVENT_BYTES = 16 << 20
MAX_CLEANED_BYTES = 1 << 20  # of an error, a comment, or an event that cannot be read: secrets are searched in it
MAX_EVENT_VALUES = 100_000  # limit of values, and of texts between commas, in a large event
MAX_EVENT_LINES = 10_000  # lines of a large event
BIG_EVENT_BYTES = 64 << 10
MAX_EVENTS = 1000  # events that are relayed in one time slice of the event loop
MAX_EVENTS_BYTES = 1 << 20  # bytes after which no further event is relayed in it
MAX_EARLY_BYTES = 4096
MAX_HELD_BYTES = 64 << 10  # bytes after the end of a response
SMALL_PENDING_BYTES = 16 << 10  # an incomplete event up to this size is copied for each chunk that arrives
CR = 0x0D  # a number, because of `b"\r" in data` Python first tries to make one, and handles the error
MAX_MISMATCHES = 8  # events that match no template, after which no more are compared


_END = re.compile(rb"\n\r?\n")  # the empty line at the end of an event


class EventTooLong(Exception):
    """An event has more bytes, lines or values than the relay reads."""


class _Measure:
    """Size, lines and values of the first part of a large event."""

    __slots__ = ("data", "lines", "size", "values")

    def __init__(self) -> None:
        self.size = self.lines = self.values = 0
        self.data: BytesIO | None = None  # this part, while the event arrives: its bytes are copied once

    def add(self, data: bytes, max_bytes: int) -> None:
        """Add a part. Raises EventTooLong for more than `max_bytes` bytes, or if reading would take too long."""
        self.size += len(data)
        self.lines += max(data.count(b"\n"), data.count(b"\r"))
        self.values += len(data) - len(data.translate(None, b"[{,"))
        if self.size > max_bytes or self.lines > MAX_EVENT_LINES or self.values > MAX_EVENT_VALUES:
            raise EventTooLong


class StreamRelay:
    """Relay that takes the endpoint's bytes as they arrive, and returns the bytes to send to the client."""

    __slots__ = (
        "_dialect", "_early", "_hide_usage", "_measured", "_open", "_pending", "_requested_model", "_template",
        "_whole_event", "behind", "deltas", "error", "events", "finish_reason", "finished", "held", "mismatches",
        "redact", "usage",
    )  # fmt: skip

    estimates = True  # without a usage, the deltas are its output
    max_event_bytes = MAX_EVENT_BYTES
    max_events = MAX_EVENTS
    max_bytes = MAX_EVENTS_BYTES

    def __init__(self, dialect: Dialect, requested_model: str, *, hide_usage: bool) -> None:
        self.usage: Usage | None = None
        self.events = 0  # without comments, which only keep a connection alive
        self.deltas = 0  # parts of output
        self.finished = False
        self.finish_reason: str | None = None  # of the first choice, in the terms of chat completions
        self.error: EndpointError | None = None
        self.redact: Callable[[bytes], bytes] | None = None  # removes secrets from the endpoint's errors
        self.held = b""  # the end of the response, which is sent when the request is recorded
        self.behind = False  # received events wait for the next time slice: `feed(b"")` continues with them
        self._open: set[int] = set()  # choices that have begun and not ended
        self._dialect = dialect
        self._requested_model = requested_model
        self._hide_usage = hide_usage
        self._pending: Body = b""  # the received part of an event; the last two bytes of a large one
        self._whole_event: bytes | None = None  # a large one, which is relayed next
        self._measured: _Measure | None = None  # of the received part of a large event
        self._early = b""  # comments that wait for the first event
        self._template: EventTemplate | None = None  # template of the last event, if the next may match it
        self.mismatches = 0  # events since the last match

    @property
    def whole(self) -> bool:
        """Return True if the response is complete by the rules of its dialect, without an error."""
        return self.finished and self.error is None

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the complete events, MAX_EVENTS at most. Raises EventTooLong."""
        if (
            self._template is not None
            and not self._pending
            and (whole := self._match_repeated(self._template, data)) is not None
        ):
            return whole
        if self._whole_event is not None:
            return self._pass_whole_event(data)
        if self._pending:
            joined = self._with_pending(data)
            if joined is None:
                return b""
            data = joined
        plain = CR not in data  # nearly all servers end lines without it
        out: list[bytes] = []
        start = 0
        for _ in range(self.max_events):
            end = data.find(b"\n\n", start) + 2 if plain else _event_end(data, start)
            if end < 2:
                break
            event = self._relay_event(data[start:end], big=end - start > BIG_EVENT_BYTES)
            if event:
                out.append(event)
            start = end
            if end > self.max_bytes:
                self.behind = end < len(data)
                break
        else:
            self.behind = start < len(data)
        self._pending = data[start:]
        return b"".join(out)

    @property
    def chunk_template(self) -> EventTemplate | None:
        return None if self._pending else self._template

    def _pass_whole_event(self, data: bytes) -> bytes:
        event, self._whole_event = self._whole_event, None
        assert event is not None
        self._pending = bytes(self._pending) + data
        self.behind = bool(self._pending)
        return self._relay_event(event, big=True)

    def _with_pending(self, data: bytes) -> bytes | None:
        """Return the pending bytes followed by `data`; None while they are no whole event. Raises EventTooLong."""
        pending, measured = self._pending, self._measured
        growing = None if measured is None else measured.data
        if growing is None and (self.behind or len(pending) < SMALL_PENDING_BYTES):
            self.behind = False
            return bytes(pending) + data
        # A large event in many chunks: each byte is scanned once, and copied once.
        if measured is None or growing is None:
            measured = self._measured = _Measure()
            measured.add(bytes(pending), self.max_event_bytes)
            growing = measured.data = BytesIO()
            growing.write(pending)
        measured.add(data, self.max_event_bytes)
        growing.write(data)
        seam = bytes(pending[-2:]) + data
        match = _END.search(seam)
        if match is None:
            self._pending = seam[-2:]
            return None
        growing.truncate(growing.tell() - (len(seam) - match.end()))
        self._whole_event = growing.getvalue()  # is relayed in a time slice of its own
        measured.data = None
        self._pending = seam[match.end() :]
        self.behind = True
        return None

    def _take_pending(self) -> bytes:
        """Return the received part of an event, which is not kept."""
        pending, self._pending = self._pending, b""
        measured = self._measured
        if measured is None or measured.data is None:
            return bytes(pending)
        growing, measured.data = measured.data, None
        return growing.getvalue()

    def end(self) -> None:
        """Take the end of the endpoint's response.

        A rest without an empty line after it is an event too. Must not be called while events wait.
        """
        pending = self._take_pending()
        if pending and (rest := self._relay_event(pending, big=len(pending) > BIG_EVENT_BYTES)):
            self._hold(rest)

    def _match_repeated(self, template: EventTemplate, raw: bytes) -> bytes | None:
        """Return a repeated event as clients get it, counted as a delta; None for an event that has to be read."""
        out = template.match(raw)
        if out is not None:
            self.events += 1
            self.deltas += 1
            self.mismatches = 0
        return out

    def _relay_event(self, raw: bytes, *, big: bool = False) -> bytes:
        template = self._template
        if template is not None and not big and (repeated := self._match_repeated(template, raw)) is not None:
            return repeated
        self._template = None
        data = self._big_data(raw) if big else event_data(raw)
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
        self._count_event(event)
        if event.usage_only and self._hide_usage:
            return b""
        out = self._renamed(raw, event)
        if event.last or self.held:
            return self._hold(out)
        if self.mismatches < MAX_MISMATCHES:
            self.mismatches += 1
            self._template = EventTemplate.of(raw, out) if _is_text(event) else None
        return out

    def _renamed(self, raw: bytes, event: Event) -> bytes:
        """Return an event with the model's name as it was requested, and with OpenAI's finish reasons."""
        if event.model is not None and event.model != self._requested_model:
            raw = rename_model(raw, event.model, self._requested_model)
        if self._dialect.own_reasons and event.choices:
            raw = with_reasons(raw, self._dialect.own_reasons)
        return raw

    def _amended(self, raw: bytes, event: Event) -> bytes:
        if event.error is not None:
            return self._clean(raw)
        return self._dialect.opening(self._requested_model) + raw

    def _pass_unread(self, raw: bytes) -> bytes:
        raw = self._clean(raw)
        return self._hold(raw) if self.held else raw

    def _clean(self, raw: bytes) -> bytes:
        if len(raw) > MAX_CLEANED_BYTES:
            raise EventTooLong
        return raw if self.redact is None else self.redact(raw)

    def _big_data(self, raw: bytes) -> Data:
        """Do the same as event_data for a large event. Raises EventTooLong if it would take too long to read."""
        measured, self._measured = self._measured, None
        if measured is None or measured.size < len(raw):  # it was not measured on arrival
            measured = _Measure()
            measured.add(raw, self.max_event_bytes)
        if raw.startswith(b"data:") and raw.find(b"\n") + 3 >= len(raw):
            return memoryview(raw)[5:]
        return event_data(raw)

    def _pass_comment(self, raw: bytes) -> bytes:
        raw = self._clean(raw)
        if self.held:
            return self._hold(raw)
        if self.events:
            return raw
        if len(self._early) < MAX_EARLY_BYTES:
            self._early += raw
        return b""

    def _count_event(self, event: Event) -> None:
        self.deltas += event.deltas
        if event.usage is not None:
            self.usage = event.usage.merged_with(self.usage)
        if event.service_tier is not None:
            self.usage = with_service_tier(self.usage, event.service_tier)
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
        reason = event.finish_reason
        if reason is not None and (reason != STOP or self.finish_reason is None):
            self.finish_reason = reason

    def _hold(self, raw: bytes) -> bytes:
        if not self.held or len(self.held) < MAX_HELD_BYTES:
            self.held += raw
        return b""


def with_reasons(data: bytes, own_reasons: tuple[tuple[str, str], ...]) -> bytes:
    """Return an event or a whole response with OpenAI's finish reasons in place of a provider's own."""
    for own, usual in own_reasons:
        data = replace_value(data, b'"finish_reason"', own, usual)
    return data


def _event_end(data: bytes, start: int) -> int:
    """Return the position after the empty line that ends the event at `start`; -1 if it has not arrived."""
    match = _END.search(data, start)
    return -1 if match is None else match.end()


def event_data(raw: bytes) -> bytes:
    """Return the joined data lines of an event."""
    if raw.startswith(b"data: ") and raw.count(b"\n") <= 2:
        return raw[6:].strip()
    lines = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def _is_text(event: Event) -> bool:
    """Return True if an event reports one piece of text, and nothing else such as usage or an end."""
    ends = any(end for _, end in event.choices)
    if event.deltas != 1 or ends or event.usage or event.error or event.finished or event.last:
        return False
    return not event.inside and event.response_id is None and event.item is None
