"""Streams of Anthropic's Messages as Ollama's lines, by way of the chunks of a chat completion. No I/O."""

from typing import Any

from gateway.base.types import Data
from gateway.dialects.anthropic.chat_stream import CompletionChunks
from gateway.dialects.anthropic.messages_api import DIALECT
from gateway.dialects.anthropic.translating_relay import StreamTranslation, TranslatingRelay
from gateway.dialects.anthropic.translation import Translation
from gateway.dialects.ollama.from_openai import AnyCompletion, Lines, Shell
from gateway.dialects.sse_relay import event_data
from gateway.dialects.usage import Usage


class MessageLines(StreamTranslation[Any]):
    """Translation of the events of one message to lines."""

    nothing = CompletionChunks.nothing

    def __init__(self, shell: Shell, translation: Translation) -> None:
        super().__init__()
        self._chunks = CompletionChunks(shell.model, translation, wants_usage=False)
        self._lines = Lines(shell)

    def decode(self, data: Data) -> Any:
        return self._chunks.decode(data)

    def add(self, event: Any, *, finished: bool) -> None:
        self._chunks.add(event, finished=finished)
        events = self._chunks.take()
        if finished:
            events += self._chunks.ending(None, 0)  # it has the finish reason
        for chunk in self._decoded(events):
            self._lines.add(chunk, finished=False)
        if finished:
            self._lines.add(AnyCompletion(), finished=True)
        self._out.append(self._lines.take())

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        return self._lines.ending(usage, deltas)

    def error(self, event: Any) -> bytes:
        (chunk,) = self._decoded(self._chunks.error(event))
        return self._lines.error(chunk)

    def _decoded(self, events: bytes) -> list[AnyCompletion]:
        data = (event_data(event) for event in events.split(b"\n\n"))
        return [self._lines.decode(it) for it in data if it and it != b"[DONE]"]


class MessageLinesRelay(TranslatingRelay[Any]):
    """Relay of a stream of Messages to a client of Ollama's API."""

    def __init__(self, shell: Shell, translation: Translation) -> None:
        super().__init__(DIALECT, shell.model, MessageLines(shell, translation))

    def _pass_comment(self, raw: bytes) -> bytes:
        return b""
