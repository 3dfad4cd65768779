"""Translation of the tools of a chat completion request to those of Anthropic's Messages."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import msgspec

from gateway.dialects.anthropic.chat_parts import CacheMark
from gateway.dialects.anthropic.chat_turns import Marks
from gateway.dialects.chat.bodies import checked, no_object, refusal
from gateway.dialects.chat.requests import CUSTOM_INPUT, NO_PARAMETERS
from gateway.dialects.chat.shapes import (
    NOTHING,
    AnyChatTool,
    ChosenAllowed,
    ChosenCustom,
    ChosenFunction,
    CustomTool,
    FunctionDefinition,
    FunctionTool,
    Named,
    Object,
    ToolChoice,
)


class MessagesTool(TypedDict, total=False):
    name: str
    description: str
    input_schema: Object
    strict: bool
    cache_control: CacheMark


class MessagesToolChoice(TypedDict, total=False):
    type: str
    name: str
    disable_parallel_tool_use: bool


class MessagesToolFields(TypedDict, total=False):
    """Fields of a Messages request that concern tools."""

    tools: list[MessagesTool]
    tool_choice: MessagesToolChoice


def tools_of(functions: Iterable[FunctionDefinition] | None, tools: Iterable[AnyChatTool] | None) -> list[AnyChatTool]:
    """Return all tools; the older form has functions alone."""
    return [*(FunctionTool(function=function) for function in functions or ()), *(tools or ())]


def choice_of(function_call: str | Named | None, tool_choice: ToolChoice | None) -> ToolChoice | None:
    """Return the choice of a tool, which the older form names otherwise."""
    if tool_choice is not None or function_call is None:
        return tool_choice
    return function_call if isinstance(function_call, str) else ChosenFunction(function=function_call)


def tool_fields(
    tools: list[AnyChatTool], choice: ToolChoice | None, marks: Marks, called: Iterable[str], *, parallel: bool
) -> MessagesToolFields:
    """Return the fields about tools. Raises Refusal (400).

    `called`: names of tools with calls in the messages. Messages with calls are refused without any tools, so that
    these tools stand for those that the client has left out, and may not be called.
    """
    if not tools:
        if choice not in (None, "auto", "none"):
            raise refusal("`tool_choice` requires a tool, but there are no `tools`.", "tool_choice")
        known: list[MessagesTool] = [{"name": name, "input_schema": NO_PARAMETERS} for name in called]
        return {"tools": known, "tool_choice": {"type": "none"}} if known else {}
    if isinstance(choice, ChosenAllowed):
        tools, choice = _allowed(tools, choice)
    fields: MessagesToolFields = {
        "tools": [_tool(f"tools[{position}]", tool, marks) for position, tool in enumerate(tools)]
    }
    chosen = _choice(choice)
    if not parallel and chosen is None:
        chosen = {"type": "auto"}
    if chosen is not None:
        if not parallel and chosen["type"] != "none":
            chosen["disable_parallel_tool_use"] = True
        fields["tool_choice"] = chosen
    return fields


def _name(tool: AnyChatTool) -> str:
    return tool.function.name if isinstance(tool, FunctionTool) else tool.custom.name


def custom_names(tools: Iterable[AnyChatTool]) -> frozenset[str]:
    """Return the names of the tools that take text, so that calls of them become such calls again."""
    return frozenset(tool.custom.name for tool in tools if isinstance(tool, CustomTool))


def _allowed(tools: list[AnyChatTool], choice: ChosenAllowed) -> tuple[list[AnyChatTool], str]:
    """Return the allowed tools, and whether one of them must be called."""
    allowed = choice.allowed_tools
    names = {
        chosen.function.name if isinstance(chosen, ChosenFunction) else chosen.custom.name for chosen in allowed.tools
    }
    kept = [tool for tool in tools if _name(tool) in names]
    if not kept:
        raise refusal("`tool_choice.allowed_tools.tools` names none of the `tools`.", "tool_choice")
    return kept, allowed.mode


def _choice(choice: ToolChoice | None) -> MessagesToolChoice | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice}
        case "required" | "any":
            return {"type": "any"}
        case ChosenFunction(function=named) | ChosenCustom(custom=named):
            return {"type": "tool", "name": named.name}
    message = "`tool_choice` must be `none`, `auto`, `required`, or an object that names a tool."
    raise refusal(message, "tool_choice")


def _tool(place: str, tool: AnyChatTool, marks: Marks) -> MessagesTool:
    mark = marks.of(tool)
    if isinstance(tool, FunctionTool):
        translated = _function(place, tool.function)
        mark = mark or marks.of(tool.function)
    else:
        translated = {"name": tool.custom.name, "input_schema": CUSTOM_INPUT}
        description = "\n\n".join(filter(None, (tool.custom.description, _grammar(tool.custom.format))))
        if description:
            translated["description"] = description
    if mark is not None:
        translated["cache_control"] = mark
    return translated


def _function(place: str, function: FunctionDefinition) -> MessagesTool:
    schema = function.parameters
    if schema == NOTHING or schema == msgspec.Raw(b"{}"):
        schema = NO_PARAMETERS
    elif bytes(memoryview(schema)[:1]) != b"{":
        raise no_object(f"{place}.function.parameters", "tools")
    tool: MessagesTool = {"name": function.name, "input_schema": checked(schema)}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        tool["strict"] = True
    return tool


def _grammar(form: Mapping[str, Any] | None) -> str:
    """Return the grammar of a custom tool as a part of its description: Messages have no field for it."""
    grammar = form.get("grammar") if form is not None and form.get("type") == "grammar" else None
    if not isinstance(grammar, dict) or not isinstance(grammar.get("definition"), str):
        return ""
    return f"The input must match this grammar ({grammar.get('syntax', 'lark')}):\n{grammar['definition']}"
