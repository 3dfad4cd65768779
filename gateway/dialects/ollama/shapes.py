"""Ollama's requests as far as they are translated. Fields that are not defined here are not read."""

from typing import Any

import msgspec

NOTHING = msgspec.Raw(b"null")


class OllamaFunction(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")  # an object


class OllamaCall(msgspec.Struct):
    function: OllamaFunction
    id: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None  # base64
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None  # of a result
    tool_call_id: str | None = None


class ToTranslate(msgspec.Struct):
    """The body of a chat or a generation."""

    messages: list[Message] | None = None
    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    tools: msgspec.Raw = NOTHING
    stream: bool | None = None
    format: msgspec.Raw = NOTHING
    options: dict[str, msgspec.Raw] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ToEmbed(msgspec.Struct):
    """The body of a request for embeddings, by the present path and the older one."""

    input: str | list[str] | None = None
    prompt: str | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    truncate: bool | None = None
