"""Streams of Anthropic's Messages as Ollama's lines, by way of the chunks of a chat completion. No I/O."""

from typing import Any

from gateway.dialects.anthropic.by_chunks import ByChunks
from gateway.dialects.anthropic.messages_api import DIALECT
from gateway.dialects.anthropic.translating_relay import TranslatingRelay
from gateway.dialects.anthropic.translation import Translation
from gateway.dialects.ollama.from_openai import Lines, Shell


class MessageLinesRelay(TranslatingRelay[Any]):
    """Relay of a stream of Messages to a client of Ollama's API."""

    def __init__(self, shell: Shell, translation: Translation) -> None:
        lines = ByChunks(shell.model, translation, Lines(shell), has_comments=False)
        super().__init__(DIALECT, shell.model, lines)

    def _pass_comment(self, raw: bytes) -> bytes:
        return b""
