"""Requests of OpenAI's Responses API, as far as they are translated. Other fields are not read.

Items and tools of many types have fields of the same name and of different types, so these are raw: the translation
decodes them by the type.
"""

from typing import NamedTuple

import msgspec

from gateway.dialects.chat.shapes import NOTHING


class ContentPart(msgspec.Struct):
    """A part of the content of an item, of any type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None


Content = str | list[ContentPart]


class InputItem(msgspec.Struct):
    """An item of the input; without a type it is a message."""

    type: str | None = None
    role: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    encrypted_content: str | None = None
    arguments: msgspec.Raw = NOTHING  # of a call: JSON in a string
    input: msgspec.Raw = NOTHING  # of a call of a custom tool: a string
    content: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    summary: msgspec.Raw = NOTHING
    tools: msgspec.Raw = NOTHING


class ResponsesTool(msgspec.Struct):
    """A tool of any type."""

    type: str
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    parameters: msgspec.Raw = NOTHING
    format: msgspec.Raw = NOTHING  # of a custom tool
    tools: msgspec.Raw = NOTHING  # of a namespace


class ReadItem(NamedTuple):
    """An item with what its type requires."""

    item: InputItem
    content: Content = ""
    text: str = ""  # arguments or input of a call
    tools: tuple[ResponsesTool, ...] = ()


class ToolReference(msgspec.Struct):
    """A tool by its name, in `tool_choice`."""

    type: str
    name: str | None = None
    namespace: str | None = None


class ChosenTool(ToolReference):
    """A tool that must be called, or the tools that may be."""

    mode: str | None = None
    tools: list[ToolReference] | None = None


class GrammarFormat(msgspec.Struct):
    """The format of the input of a custom tool."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class TextFormat(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema: msgspec.Raw = NOTHING


class TextOptions(msgspec.Struct):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None  # the older name
