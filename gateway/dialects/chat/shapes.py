"""Chat completion requests, as far as they are translated to Anthropic's Messages. Other fields are not read.

A union of parts, or of messages, defines the allowed types; msgspec names the place of any other.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Object = msgspec.Raw  # not decoded; the translation checks that it is an object
NOTHING = msgspec.Raw(b"null")


class Marked(msgspec.Struct, kw_only=True):
    """Marks that end a prefix to be cached: Anthropic's, which some clients send in chat completions, and OpenAI's."""

    cache_control: Mapping[str, Any] | None = None
    prompt_cache_breakpoint: Mapping[str, Any] | None = None


class TextPart(Marked, tag="text"):
    text: str


class ImageLink(msgspec.Struct):
    url: str
    detail: str | None = None


class ImagePart(Marked, tag="image_url"):
    image_url: ImageLink


class FileData(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class FilePart(Marked, tag="file"):
    file: FileData


class AudioPart(Marked, tag="input_audio"):
    pass


class RefusalPart(msgspec.Struct, tag="refusal"):
    refusal: str


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str | None = None  # JSON


class CalledCustom(msgspec.Struct):
    name: str
    input: str | None = None


class Call(msgspec.Struct):
    """A call of the assistant: of a function, or of a custom tool, whose input is text."""

    id: str | None = None
    function: CalledFunction | None = None
    custom: CalledCustom | None = None


class ReasoningDetail(msgspec.Struct):
    """A part of the model's thinking, in the shape of OpenRouter's `reasoning_details`."""

    type: str | None = None
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    index: int | None = None


class Speaker(Marked, kw_only=True):
    """Fields of every message."""

    name: str | None = None


class SystemMessage(Speaker, tag_field="role", tag="system"):
    content: str | list[TextPart]


class DeveloperMessage(Speaker, tag_field="role", tag="developer"):
    content: str | list[TextPart]


UserPart = TextPart | ImagePart | FilePart | AudioPart


class UserMessage(Speaker, tag_field="role", tag="user"):
    content: str | list[UserPart]


class AssistantMessage(Speaker, tag_field="role", tag="assistant", kw_only=True):
    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: CalledFunction | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: list[ReasoningDetail] | None = None
    audio: Any = None


class ToolMessage(Speaker, tag_field="role", tag="tool", kw_only=True):
    tool_call_id: str
    content: str | list[TextPart | ImagePart | FilePart] | None = None


class FunctionMessage(Marked, tag_field="role", tag="function", kw_only=True):
    """The result of a call in the older form, which has no id."""

    name: str
    content: str | None = None


AnyMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class FunctionDefinition(Marked, kw_only=True):
    name: str
    description: str | None = None
    parameters: Object = NOTHING
    strict: bool | None = None


class FunctionTool(Marked, tag="function"):
    function: FunctionDefinition


class CustomDefinition(msgspec.Struct):
    name: str
    description: str | None = None
    format: Mapping[str, Any] | None = None


class CustomTool(Marked, tag="custom"):
    custom: CustomDefinition


AnyChatTool = FunctionTool | CustomTool


class Named(msgspec.Struct):
    name: str


class ChosenFunction(msgspec.Struct, tag="function"):
    function: Named


class ChosenCustom(msgspec.Struct, tag="custom"):
    custom: Named


class AllowedTools(msgspec.Struct):
    mode: str
    tools: list[ChosenFunction | ChosenCustom]


class ChosenAllowed(msgspec.Struct, tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice = str | ChosenFunction | ChosenCustom | ChosenAllowed


class PlainFormat(msgspec.Struct, tag="text"):
    pass


class JsonObjectFormat(msgspec.Struct, tag="json_object"):
    pass


class NamedSchema(msgspec.Struct):
    schema: Object = NOTHING


class JsonSchemaFormat(msgspec.Struct, tag="json_schema"):
    json_schema: NamedSchema


AnyFormat = PlainFormat | JsonObjectFormat | JsonSchemaFormat
AnyMessages = Annotated[list[AnyMessage], msgspec.Meta(min_length=1)]
