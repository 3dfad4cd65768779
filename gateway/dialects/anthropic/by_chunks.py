"""Translation of a stream of Messages by way of the chunks of a chat completion. No I/O."""

from collections.abc import Iterator
from typing import Any

from gateway.base.types import Data
from gateway.dialects.anthropic.chat_stream import ALIVE, CompletionChunks
from gateway.dialects.anthropic.translating_relay import StreamTranslation
from gateway.dialects.anthropic.translation import Translation
from gateway.dialects.sse_relay import event_data
from gateway.dialects.usage import Usage


class ByChunks(StreamTranslation[Any]):
    """Translation of the events of one message to what another translation makes of chunks."""

    def __init__(
        self, model: str, translation: Translation, target: StreamTranslation[Any], *, has_comments: bool
    ) -> None:
        """`target`: the other translation; `has_comments`: its dialect has a place for them, which say that the
        endpoint is at work.
        """
        self._chunks = CompletionChunks(model, translation, wants_usage=False)
        super().__init__(self._chunks.nothing)
        self.target = target
        self._has_comments = has_comments

    def decode(self, data: Data) -> Any:
        return self._chunks.decode(data)

    def add(self, event: Any, *, finished: bool) -> None:
        self._chunks.add(event, finished=finished)
        written = self._chunks.take()
        if finished:
            written += self._chunks.ending(None, 0)  # it has the finish reason
        for chunk in self._decoded(written):
            self.target.add(chunk, finished=False)
        if finished:
            self.target.add(self.target.nothing, finished=True)
        out = self.target.take()
        self._out.append(ALIVE if not out and self._has_comments and ALIVE in written else out)

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        return self.target.ending(usage, deltas)

    def error(self, event: Any) -> bytes:
        (chunk,) = self._decoded(self._chunks.error(event))
        return self.target.error(chunk)

    def _decoded(self, written: bytes) -> Iterator[Any]:
        data = (event_data(event) for event in written.split(b"\n\n"))
        return (self.target.decode(it) for it in data if it and it != b"[DONE]")
