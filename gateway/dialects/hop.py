"""The hop from chat completions, the hub of all translations, to Anthropic's Messages. No I/O.

An endpoint that has only Messages gets what any client sends: the client's own dialect is translated to a chat
completion, and that to Messages; the response comes back the same way.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from gateway.base.request_kinds import MESSAGES
from gateway.base.types import Data
from gateway.dialects.anthropic.chat_responses import from_message
from gateway.dialects.anthropic.chat_stream import CompletionChunks
from gateway.dialects.chat.dropped import joined
from gateway.dialects.chat.relay import ALIVE, StreamTranslation
from gateway.dialects.chat.translation import Translation
from gateway.dialects.sse_relay import event_data
from gateway.dialects.usage import Usage

T = TypeVar("T", bound=Translation)


def with_hop(translation: T, to_messages: Translation) -> T:
    """Return the translation of a request to a chat completion, followed by that of the chat completion to Messages."""
    return msgspec.structs.replace(
        translation,
        headers=to_messages.headers,
        dropped=joined(translation.dropped, to_messages.dropped),
        kind=MESSAGES,
    )


def read_by_chat(
    body: bytes,
    requested_model: str,
    translation: Translation,
    from_chat: Callable[[bytes], tuple[bytes, Usage | None]],
) -> tuple[bytes, Usage | None]:
    """Return a whole response as `from_chat` makes it of a chat completion, and its usage. Raises NoChatCompletion."""
    if translation.kind != MESSAGES:
        return from_chat(body)
    chat, usage = from_message(body, requested_model, translation)
    return from_chat(chat)[0], usage


def events_by_chat(
    requested_model: str, translation: Translation, from_chunks: StreamTranslation[Any]
) -> StreamTranslation[Any]:
    """Return the translation of a stream to what `from_chunks` makes of the chunks of a chat completion."""
    return ByChunks(requested_model, translation, from_chunks) if translation.kind == MESSAGES else from_chunks


class ByChunks(StreamTranslation[Any]):
    """Translation of the events of one message to what another translation makes of chunks."""

    def __init__(self, requested_model: str, translation: Translation, from_chunks: StreamTranslation[Any]) -> None:
        self._chunks = CompletionChunks(requested_model, translation, wants_usage=False)
        super().__init__(self._chunks.nothing, self._chunks.dialect, has_comments=from_chunks.has_comments)
        self._from_chunks = from_chunks

    def writer(self) -> StreamTranslation[Any]:
        return self._from_chunks

    def decode(self, data: Data) -> Any:
        return self._chunks.decode(data)

    def add(self, event: Any, *, finished: bool) -> None:
        self._chunks.add(event, finished=finished)
        written = self._chunks.take()
        if finished:
            written += self._chunks.ending(None, 0)  # it has the finish reason
        for chunk in self._decoded(written):
            self._from_chunks.add(chunk, finished=False)
        if finished:
            self._from_chunks.add(self._from_chunks.nothing, finished=True)
        out = self._from_chunks.take()
        self._out.append(ALIVE if not out and self.has_comments and ALIVE in written else out)

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        return self._from_chunks.ending(usage, deltas)

    def error(self, event: Any) -> bytes:
        (chunk,) = self._decoded(self._chunks.error(event))
        return self._from_chunks.error(chunk)

    def _decoded(self, written: bytes) -> Iterator[Any]:
        events = (event_data(event) for event in written.split(b"\n\n"))
        return (self._from_chunks.decode(data) for data in events if data and data != b"[DONE]")
