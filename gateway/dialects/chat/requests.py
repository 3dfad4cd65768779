"""Chat completion requests as translations write them. Requests that are read have the shapes of `chat.shapes`."""

from typing import TypedDict

import msgspec

from gateway.dialects.chat.shapes import Object

# Schemas of the parameters of tools
NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
CUSTOM_INPUT = msgspec.Raw(b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}')


class ImageUrl(TypedDict):
    url: str


class ChatPart(TypedDict, total=False):
    """A part of a chat message's content: text, or an image."""

    type: str
    text: str
    image_url: ImageUrl


class ChatCallFunction(TypedDict):
    name: str
    arguments: str  # JSON


class ChatCall(TypedDict):
    id: str
    type: str
    function: ChatCallFunction


class ChatMessage(TypedDict, total=False):
    role: str
    content: str | list[ChatPart] | None
    tool_call_id: str
    tool_calls: list[ChatCall]


class ChatFunction(TypedDict, total=False):
    name: str
    description: str
    parameters: Object
    strict: bool


class ChatTool(TypedDict, total=False):
    """A tool, or the choice of one by name."""

    type: str
    function: ChatFunction


class ToolFields(TypedDict, total=False):
    """Fields of a chat completion request that concern tools."""

    tools: list[ChatTool]
    tool_choice: str | ChatTool
    parallel_tool_calls: bool


class JsonSchema(TypedDict):
    name: str
    schema: Object
    strict: bool


class ResponseFormat(TypedDict):
    type: str
    json_schema: JsonSchema


class ChatRequest(ToolFields, total=False):
    """A chat completion request."""

    model: str
    messages: list[ChatMessage]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: list[str]
    user: str
    response_format: ResponseFormat
    reasoning_effort: str
    stream: bool
    stream_options: dict[str, bool]
