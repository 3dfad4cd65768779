"""Streams of Anthropic's Messages as events of Responses, by way of the chunks of a chat completion. No I/O."""

from typing import Any

from gateway.dialects.anthropic.by_chunks import ByChunks
from gateway.dialects.anthropic.messages_api import DIALECT
from gateway.dialects.anthropic.translating_relay import TranslatingRelay
from gateway.dialects.responses.stream import ResponseEvents
from gateway.dialects.responses.translation import ResponsesTranslation


class MessageResponseRelay(TranslatingRelay[Any]):
    """Relay of a stream of Messages to a client of Responses."""

    def __init__(self, requested_model: str, translation: ResponsesTranslation) -> None:
        events = ResponseEvents(requested_model, translation)
        super().__init__(DIALECT, requested_model, ByChunks(requested_model, translation, events, has_comments=True))

    @property
    def _events(self) -> ResponseEvents:
        assert isinstance(self._translation, ByChunks)
        assert isinstance(self._translation.target, ResponseEvents)
        return self._translation.target

    @property
    def response_id(self) -> str | None:
        """The id of the response; None: it has not begun."""
        return self._events.response_id

    @property
    def next_number(self) -> int:
        """The sequence number of the next event."""
        return self._events.number
