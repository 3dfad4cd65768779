"""Requests of Anthropic's Messages API, as far as they are translated. Fields that are not defined here are not read.

A union of blocks defines the allowed types; msgspec names the place of any other.
"""

from typing import Annotated

import msgspec

from gateway.dialects.chat.shapes import NOTHING, Count, Object


class Text(msgspec.Struct, tag="text"):
    text: str


class Base64(msgspec.Struct, tag="base64"):
    media_type: str
    data: str


class Url(msgspec.Struct, tag="url"):
    url: str


class Image(msgspec.Struct, tag="image"):
    source: Base64 | Url


class PlainText(msgspec.Struct, tag="text"):
    data: str


class Content(msgspec.Struct, tag="content"):
    content: str | list[Text | Image]


class Document(msgspec.Struct, tag="document"):
    source: PlainText | Content
    title: str | None = None
    context: str | None = None


class SearchResult(msgspec.Struct, tag="search_result"):
    source: str
    title: str
    content: list[Text]


class ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Image | Document | SearchResult] | None = None
    is_error: bool | None = None


class ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: Object


class Thinking(msgspec.Struct, tag="thinking"):
    pass


class RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    pass


class UserTurn(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[Text | Image | Document | SearchResult | ToolResult]


class AssistantTurn(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[Text | Thinking | RedactedThinking | ToolUse]


class SystemTurn(msgspec.Struct, tag_field="role", tag="system"):
    content: str | list[Text]


class Tool(msgspec.Struct):
    name: str
    input_schema: Object = NOTHING
    description: str | None = None
    type: str | None = None
    strict: bool | None = None


class AutoTool(msgspec.Struct, tag="auto"):
    disable_parallel_tool_use: bool | None = None


class AnyTool(msgspec.Struct, tag="any"):
    disable_parallel_tool_use: bool | None = None


class NamedTool(msgspec.Struct, tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class NoTool(msgspec.Struct, tag="none"):
    disable_parallel_tool_use: bool | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class JsonSchema(msgspec.Struct, tag="json_schema"):
    schema: Object


class OutputConfig(msgspec.Struct):
    format: JsonSchema | None = None
    effort: str | None = None


class Prompt(msgspec.Struct, kw_only=True):
    """The fields that count_tokens needs."""

    model: str
    messages: Annotated[list[UserTurn | AssistantTurn | SystemTurn], msgspec.Meta(min_length=1)]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None


class MessagesRequest(Prompt, kw_only=True):
    max_tokens: Count
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | None = None
    stop_sequences: list[str] | None = None
    tool_choice: AutoTool | AnyTool | NamedTool | NoTool | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
