"""Streams of Anthropic's Messages as events of Responses, by way of the chunks of a chat completion. No I/O."""

from collections.abc import Iterator
from typing import Any

from gateway.base.types import Data
from gateway.dialects.anthropic.chat_stream import ALIVE, CompletionChunks
from gateway.dialects.anthropic.messages_api import DIALECT
from gateway.dialects.anthropic.responses import Completion
from gateway.dialects.anthropic.translating_relay import StreamTranslation, TranslatingRelay
from gateway.dialects.responses.stream import ResponseEvents
from gateway.dialects.responses.translation import ResponsesTranslation
from gateway.dialects.sse_relay import event_data
from gateway.dialects.usage import Usage


class MessageResponseEvents(StreamTranslation[Any]):
    """Translation of the events of one message to events of a response."""

    nothing = CompletionChunks.nothing

    def __init__(self, model: str, translation: ResponsesTranslation) -> None:
        """`model`: the model name that the client requested."""
        super().__init__()
        self._chunks = CompletionChunks(model, translation, wants_usage=False)
        self.events = ResponseEvents(model, translation)

    def decode(self, data: Data) -> Any:
        return self._chunks.decode(data)

    def add(self, event: Any, *, finished: bool) -> None:
        self._chunks.add(event, finished=finished)
        written = self._chunks.take()
        if finished:
            written += self._chunks.ending(None, 0)  # it has the finish reason
        for chunk in self._decoded(written):
            self.events.add(chunk, finished=False)
        if finished:
            self.events.add(Completion(), finished=True)
        out = self.events.take()
        self._out.append(out or (ALIVE if ALIVE in written else b""))

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        return self.events.ending(usage, deltas)

    def error(self, event: Any) -> bytes:
        (chunk,) = self._decoded(self._chunks.error(event))
        return self.events.error(chunk)

    def _decoded(self, written: bytes) -> Iterator[Completion]:
        data = (event_data(event) for event in written.split(b"\n\n"))
        return (self.events.decode(it) for it in data if it and it != b"[DONE]")


class MessageResponseRelay(TranslatingRelay[Any]):
    """Relay of a stream of Messages to a client of Responses."""

    _translation: MessageResponseEvents

    def __init__(self, requested_model: str, translation: ResponsesTranslation) -> None:
        super().__init__(DIALECT, requested_model, MessageResponseEvents(requested_model, translation))

    @property
    def response_id(self) -> str | None:
        """The id of the response; None: it has not begun."""
        return self._translation.events.response_id

    @property
    def next_number(self) -> int:
        """The sequence number of the next event."""
        return self._translation.events.number
