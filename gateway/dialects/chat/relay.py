"""Relay of a stream into the events of another dialect."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import msgspec

from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.openai_events import CHUNKS, Dialect
from gateway.dialects.sse_relay import BIG_EVENT_BYTES, StreamRelay, event_data
from gateway.dialects.usage import Usage

MAX_TRANSLATED_EVENT_BYTES = 4 << 20
MAX_TRANSLATED_EVENTS = 50  # events that are relayed in one time slice of the event loop
MAX_TRANSLATED_BYTES = 16 << 10  # bytes after which no further event is relayed in it

ALIVE = b": waiting\n\n"  # a comment where an event becomes none, so that the client's connection stays open

E = TypeVar("E")


class StreamTranslation(ABC, Generic[E]):
    """Translation of the events of one response, which wait in `_out` for `take`. `E`: a decoded event."""

    def __init__(self, nothing: E, dialect: Dialect = CHUNKS, *, has_comments: bool = True) -> None:
        """`dialect`: that of the endpoint; `has_comments`: that of the client has a place for comments."""
        self.nothing = nothing  # stands for [DONE]
        self.dialect = dialect
        self.has_comments = has_comments
        self.closed = False  # after the last event or an error: later ones are ignored
        self._out: list[bytes] = []

    def writer(self) -> "StreamTranslation[Any]":
        """Return the translation that writes the client's events: this one, unless it hands chunks to another one."""
        return self

    def take(self) -> bytes:
        """Return the events that may be sent, once each."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    @abstractmethod
    def decode(self, data: Data) -> E:
        """Decode an event. Raises msgspec.DecodeError."""

    @abstractmethod
    def add(self, event: E, *, finished: bool) -> None:
        """Translate an event; `finished`: the response is complete with it. Raises EventTooLong."""

    @abstractmethod
    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        """Return the last events of the response."""

    @abstractmethod
    def error(self, event: E) -> bytes:
        """Return an event for the error of the endpoint in `event`."""


class TranslatingRelay(StreamRelay, Generic[E]):
    """Relay that takes the endpoint's events as they arrive, and returns events of another dialect.

    `held` has the last events as soon as the response is finished. They are built again if usage arrives later. An
    error of the endpoint is in `held` too. Events after such an error, or after the last one, are dropped.
    """

    max_event_bytes = MAX_TRANSLATED_EVENT_BYTES
    max_events = MAX_TRANSLATED_EVENTS
    max_bytes = MAX_TRANSLATED_BYTES

    def __init__(self, requested_model: str, translation: StreamTranslation[E]) -> None:
        super().__init__(translation.dialect, requested_model, hide_usage=True)
        self._translation = translation

    @property
    def writer(self) -> StreamTranslation[Any]:
        """The translation that writes the client's events."""
        return self._translation.writer()

    def end(self) -> None:
        pending = self._take_pending()
        if event_data(pending):
            rest = self._relay_event(pending, big=len(pending) > BIG_EVENT_BYTES)
            self.held = rest + self.held

    def _relay_event(self, raw: bytes, *, big: bool = False) -> bytes:
        data = self._big_data(raw) if big else event_data(raw)
        translation = self._translation
        if not data:  # other events without data are dropped
            passes = raw.startswith(b":") and translation.has_comments and not self.held
            return self._pass_comment(raw) if passes else b""
        self.events += 1
        if translation.closed and self.error is None:
            return b""
        try:
            event = surrogates.read_body(self._dialect.read_event, data)
            decoded = translation.nothing if data == b"[DONE]" else translation.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""
        if translation.closed:  # by an error, after which usage may come
            if event.usage is not None:
                self.usage = event.usage.merged_with(self.usage)
            return b""
        self._count_event(event)
        translation.closed = event.last or event.error is not None
        if event.error is not None:
            self.held = self._clean(translation.error(decoded))
            return b""
        translation.add(decoded, finished=self.finished)
        self.held = translation.ending(self.usage, self.deltas) if self.finished else b""
        out = translation.take()
        if out and self._early:
            out, self._early = self._early + out, b""
        return out
