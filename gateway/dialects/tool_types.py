"""Tools of a request by their types, of which a server may refuse some.

Besides functions, which every server takes, APIs define tools that only some servers have: `web_search`, `custom`,
`namespace`, `image_generation`; in Anthropic's `web_search_20250305` and others.
"""

import re
from collections.abc import Collection
from typing import Any

import msgspec

from gateway.base.request_kinds import CHAT, COMPACTIONS, COUNT_TOKENS, MESSAGES, RESPONSES
from gateway.base.types import Body
from gateway.dialects.json_text import encode
from gateway.dialects.surrogates import read_body

MAX_BYTES = 2 << 20  # a larger body is passed on as it is: it would have to be parsed at once
MAX_ERROR_BYTES = 16 << 10  # of an error, in which a refusal is searched
MAX_TYPE = 64  # characters
MAX_TYPES = 64  # of a request; of one with more, no tool is left out

_FUNCTIONS = {MESSAGES: (None, "custom"), COUNT_TOKENS: (None, "custom")}
_KINDS = frozenset((CHAT, RESPONSES, COMPACTIONS, MESSAGES, COUNT_TOKENS))
# Forms of refusals: llama.cpp ('type' of tool must be 'function'), vLLM and other users of pydantic (tools.0.type,
# ('body', 'tools', 0, 'type'), tools.0: Input tag …), OpenAI (tools[0].type, Unsupported tool type).
_REFUSALS = re.compile(
    r"type\W{0,3} of (?:the )?tool\b"
    r"|tools\W{0,4}\d+\W{0,6}type\b"
    r"|tools\W{0,4}\d+\W{0,4}(?:input tag|invalid discriminator)"
    r"|(?:unsupported|unknown|invalid|unrecognized)(?: \w+)? tool type"
    r"|tool type\W{1,3}[\w.]{1,64}\W{1,3}(?:is )?(?:not supported|unsupported|unknown|invalid)"
    r"|only \W?function\W? tools are supported",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w.-]+")


class _TypedTool(msgspec.Struct):
    type: Any = None
    name: Any = None


class _TypedChoice(msgspec.Struct):
    type: Any = None
    name: Any = None
    tools: list[_TypedTool] | None = None


class _WithTools(msgspec.Struct):
    tools: list[_TypedTool] | None = None


_decode_tools = msgspec.json.Decoder(_WithTools).decode
_decode_raw_tools = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_choice = msgspec.json.Decoder(_TypedChoice | str | None).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def types_beside_functions(body: Body, kind: str) -> list[str]:
    """Return the types of a request's tools that are no functions, once each; none for a body that is unusual, or has
    more than MAX_TYPES.
    """
    if kind not in _KINDS or len(body) > MAX_BYTES:
        return []
    try:
        tools = read_body(_decode_tools, body).tools or ()
    except _ERRORS:
        return []
    functions = _FUNCTIONS.get(kind, (None, "function"))
    types = dict.fromkeys(tool.type for tool in tools if isinstance(tool.type, str) and tool.type not in functions)
    return [name for name in types if len(name) <= MAX_TYPE] if len(types) <= MAX_TYPES else []


def refused_types(error: bytes, types: Collection[str]) -> list[str]:
    """Return which of these types a server's error refuses: those that it names, else all; none for another error."""
    text = error[:MAX_ERROR_BYTES].decode("utf-8", "replace")
    if not types or _REFUSALS.search(text) is None:
        return []
    words = {word.strip(".-") for word in _WORD.findall(text)}
    return [name for name in types if name in words] or list(types)


def without_tools(body: Body, types: Collection[str]) -> bytes:
    """Return a body, which `types_beside_functions` has read, without the tools of these types.

    A choice of one of them is left out too; without any tool, so is everything that concerns tools.
    """
    fields = read_body(_decode_fields, body)
    tools = read_body(_decode_tools, body).tools or []
    raw = _decode_raw_tools(fields["tools"])
    kept = [each for each, tool in zip(raw, tools, strict=True) if tool.type not in types]
    if not kept:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)
        return encode(fields)
    fields["tools"] = msgspec.Raw(encode(kept))
    names = {tool.name for tool in tools if tool.type in types and isinstance(tool.name, str)}
    if "tool_choice" in fields and _chooses(fields["tool_choice"], types, names):
        del fields["tool_choice"]
    return encode(fields)


def _chooses(raw: msgspec.Raw, types: Collection[str], names: Collection[str]) -> bool:
    """Return True for a choice of a tool of these types or, in Anthropic's form, of these names."""
    try:
        choice = _decode_choice(raw)
    except _ERRORS:
        return False
    if not isinstance(choice, _TypedChoice):
        return False
    if choice.type in types or (choice.type == "tool" and choice.name in names):
        return True
    return any(tool.type in types for tool in choice.tools or ())
