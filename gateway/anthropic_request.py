"""Requests of Anthropic's Messages API as OpenAI chat completion requests.

What a chat completion cannot say is refused, with its place, rather than left out. Left out is what only asks for how
an answer is made at Anthropic: cache_control, service_tier, thinking and the thinking of earlier turns, citations.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from gateway import surrogates
from gateway.anthropic_shapes import (
    NOTHING,
    AnyTool,
    AssistantTurn,
    AutoTool,
    Document,
    Image,
    MessagesRequest,
    NamedTool,
    NoTool,
    Object,
    OutputConfig,
    PlainText,
    Prompt,
    RedactedThinking,
    SearchResult,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Url,
    UserTurn,
)
from gateway.bounds import TRANSLATED_REQUEST
from gateway.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.outbox import Body
from gateway.skim import skim_slowly
from gateway.turns import Slices, at_once

P = TypeVar("P", bound=Prompt)

SMALL_BYTES = 512 << 10  # of a body that is translated in one turn of the event loop, whatever is in it
MAX_VALUES = 200_000  # strings, arrays and objects of a bigger one
MAX_COSTLY_BYTES = 6_000_000  # that take longer to decode or encode than others
SLICE_BYTES = 8 << 20  # of a body in which they are counted at once
_CHEAP = bytes(byte for byte in range(128) if byte not in b"\\,")
_TOO_MUCH = TRANSLATED_REQUEST, "to be translated for an endpoint that speaks chat completions only"

_decode_request = msgspec.json.Decoder(MessagesRequest).decode
_decode_prompt = msgspec.json.Decoder(Prompt).decode
_encode = msgspec.json.Encoder().encode

Part = dict[str, Any]  # of a chat message's content
Message = dict[str, Any]


def to_chat(body: Body, model: str) -> bytes:
    """A Messages request as a chat completion request for the endpoint's model name. Raises Refusal (400, 413).

    A stream is always asked for its usage. `top_k` goes on by its name, which OpenAI does not know but servers do.
    """
    return at_once(translating(body, model))


def translating(body: Body, model: str) -> Slices[bytes]:
    """The same in slices, where the body is big."""
    asked = yield from _reading(_decode_request, body)
    chat = _chat(asked, model)
    if len(body) > SMALL_BYTES:
        yield
    try:
        return _encode(chat)
    except UnicodeDecodeError as error:  # in what was not read
        raise _refusal(f"The body is not valid JSON: {error}.") from None


def _chat(asked: MessagesRequest, model: str) -> dict[str, Any]:
    try:
        return _translated(asked, model)
    except UnicodeDecodeError as error:  # in what was not read
        raise _refusal(f"The body is not valid JSON: {error}.") from None


def _translated(asked: MessagesRequest, model: str) -> dict[str, Any]:
    chat: dict[str, Any] = {"model": model, "messages": list(_messages(asked)), "max_tokens": asked.max_tokens}
    chat |= _tools(asked)
    for name, value in (
        ("temperature", asked.temperature),
        ("top_p", asked.top_p),
        ("top_k", asked.top_k),
        ("stop", asked.stop_sequences or None),
        ("user", asked.metadata.user_id if asked.metadata else None),
        ("response_format", _format(asked.output_config)),
    ):
        if value is not None:
            chat[name] = value
    if asked.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def tokenize_prompt(body: Body) -> str:
    """The text of a prompt, for an endpoint that counts its tokens by /tokenize. Raises Refusal (400, 413).

    The template around each turn is not in there, nor are images: it counts fewer tokens than the prompt has.
    """
    return at_once(reading_prompt(body))


def reading_prompt(body: Body) -> Slices[str]:
    """The same in slices, where the body is big."""
    prompt = yield from _reading(_decode_prompt, body)
    try:
        return "\n".join(filter(None, _texts(prompt)))
    except UnicodeDecodeError as error:
        raise _refusal(f"The body is not valid JSON: {error}.") from None


def _texts(prompt: Prompt) -> Iterator[str]:
    for tool in _functions(prompt):
        function = tool["function"]
        yield from (function["name"], function.get("description", ""), bytes(function["parameters"]).decode())
    for message in _messages(prompt):
        content = message["content"] or ""
        yield from [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for call in message.get("tool_calls", ()):
            yield from (call["function"]["name"], call["function"]["arguments"])


# What is wrong with it


def _reading(decode: Callable[[Any], P], body: Body) -> Slices[P]:
    """What a decoder makes of the body, in slices where it is big. Raises Refusal (400, 413)."""
    if len(body) <= SMALL_BYTES:
        return _read(decode, body)
    if body.count(b'"') > 2 * MAX_VALUES:
        yield from skim_slowly(body, MAX_VALUES, _TOO_MUCH)
    yield
    if len(body) > MAX_COSTLY_BYTES:
        yield from _counting(body)
    try:
        found = _read(decode, body)
    except Refusal:
        repaired = None
        if len(body) > surrogates.AT_ONCE_BYTES:
            repaired = yield from surrogates.replaced_slowly(body)
        if repaired is None:
            raise
        found = _read(decode, repaired)
    yield
    return found


def _counting(body: Body) -> Slices[None]:
    """Refuse what would take long to decode or encode, though it is text."""
    costly = 0
    for at in range(0, len(body), SLICE_BYTES):
        costly += len(body[at : at + SLICE_BYTES].translate(None, _CHEAP))
        if costly > MAX_COSTLY_BYTES:
            what = f"more than {MAX_COSTLY_BYTES:,} commas, escapes and bytes of characters that are not ASCII"
            message = f"The body has {what}, which is too much {_TOO_MUCH[1]}."
            raise Refusal(413, REQUEST_TOO_LARGE, message, bound=TRANSLATED_REQUEST)
        yield


def _read(decode: Callable[[Any], P], body: Body) -> P:
    try:
        found = surrogates.read_body(decode, body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(f"The body is not valid JSON: {error}.") from None
    _check_inputs(found)
    return found


def _check_inputs(prompt: Prompt) -> None:
    for at, message in enumerate(prompt.messages):
        if isinstance(message, AssistantTurn) and not isinstance(message.content, str):
            for nth, block in enumerate(message.content):
                if isinstance(block, ToolUse) and not _is_object(block.input):
                    raise _no_object(f"messages[{at}].content[{nth}].input", "messages")


def _is_object(raw: Object) -> bool:
    return bytes(memoryview(raw)[:1]) == b"{"


def _no_object(place: str, param: str) -> Refusal:
    return _refusal(f"`{place}`: Expected `object`.", param)


_PLACED = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Invalid value '(.*)'", re.DOTALL)


def _explain(error: str) -> Refusal:
    """From msgspec's sentence, which names the place as `$.messages[0].content`."""
    found = _PLACED.fullmatch(error)
    if found is None:
        return _refusal("The body must be a JSON object." if "`object`" in error else f"{error}.")
    fault, place = found[1], found[2][:100]
    unknown = _UNKNOWN.fullmatch(fault)
    if unknown is not None and place.endswith("role"):
        fault = f"must be user or assistant, not {unknown[1][:40]!r}"
    elif unknown is not None:
        fault = f"{unknown[1][:40]!r} is not supported here, where the endpoint speaks chat completions only"
    return _refusal(f"`{place}`: {fault}." if place else f"{fault}.", re.split(r"[.\[]", place)[0] or None)


def _refusal(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, INVALID_REQUEST, message, param=param)


# Messages


def _messages(prompt: Prompt) -> Iterator[Message]:
    if prompt.system:
        yield {"role": "system", "content": _joined(_parts(prompt.system))}
    for message in prompt.messages:
        if isinstance(message, UserTurn):
            yield from _user_turn(message.content)
        elif isinstance(message, AssistantTurn):
            yield _assistant_turn(message.content)
        else:
            yield {"role": "system", "content": _joined(_parts(message.content))}


def _user_turn(content: str | list[Text | Image | Document | SearchResult | ToolResult]) -> Iterator[Message]:
    """Results first: chat completions want them right behind the calls. A result's images cannot stand in it."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    images: list[Part] = []
    own: list[Part] = []
    for block in content:
        if isinstance(block, ToolResult):
            text, shown = _result(block)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
            images += shown
        else:
            own += _block(block)
    if images or own or not content:
        yield {"role": "user", "content": _joined(images + own)}


def _result(result: ToolResult) -> tuple[str, list[Part]]:
    parts = _parts(result.content or "")
    images = [part for part in parts if "text" not in part]
    text = "\n".join([part["text"] for part in parts if part.get("text")])
    if images and not text:
        text = "(an image, in the next message)"
    if result.is_error:  # chat completions have no mark for it
        text = f"Error: {text}" if text else "Error"
    return text, images


def _assistant_turn(content: str | list[Text | Thinking | RedactedThinking | ToolUse]) -> Message:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    text = "".join([block.text for block in content if isinstance(block, Text)])
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": bytes(block.input).decode()},
        }
        for block in content
        if isinstance(block, ToolUse)
    ]
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


_Block = Text | Image | Document | SearchResult


def _parts(content: str | list[Text] | list[Text | Image] | list[_Block]) -> list[Part]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for block in content for part in _block(block)]


def _block(block: _Block) -> list[Part]:
    match block:
        case Text(text):
            return [{"type": "text", "text": text}]
        case Image(source):
            url = source.url if isinstance(source, Url) else f"data:{source.media_type};base64,{source.data}"
            return [{"type": "image_url", "image_url": {"url": url}}]
        case Document(source, title, context):
            heads = [{"type": "text", "text": head} for head in (title, context) if head]
            return heads + _parts(source.data if isinstance(source, PlainText) else source.content)
        case SearchResult(source, title, content):
            return [{"type": "text", "text": f"{title}\n{source}"}, *_parts(content)]


def _joined(parts: list[Part]) -> str | list[Part]:
    """Text alone is a string, which every server takes; some do not take it in parts."""
    if any("text" not in part for part in parts):
        return parts
    return "\n".join([part["text"] for part in parts])


# Tools


def _tools(asked: MessagesRequest) -> dict[str, Any]:
    """The fields that have to do with tools; chat completions take no choice without tools."""
    choice = asked.tool_choice
    if not asked.tools:
        if isinstance(choice, AnyTool | NamedTool):
            raise _refusal("`tool_choice` asks for a tool, but there are no `tools`.", "tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": list(_functions(asked))}
    match choice:
        case AutoTool():
            fields["tool_choice"] = "auto"
        case AnyTool():
            fields["tool_choice"] = "required"
        case NamedTool(name):
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
        case NoTool():
            fields["tool_choice"] = "none"
    if choice is not None and choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    return fields


def _functions(prompt: Prompt) -> Iterator[dict[str, Any]]:
    for at, tool in enumerate(prompt.tools or ()):
        if tool.type not in (None, "custom"):
            fault = f"{tool.type[:40]!r} is not supported here, where the endpoint speaks chat completions only"
            raise _refusal(f"`tools[{at}].type`: {fault}.", "tools")
        if tool.input_schema == NOTHING:
            raise _refusal(f"`tools[{at}].input_schema` is missing.", "tools")
        if not _is_object(tool.input_schema):
            raise _no_object(f"tools[{at}].input_schema", "tools")
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = _raw(tool.input_schema)
        if tool.strict:
            function["strict"] = True
        yield {"type": "function", "function": function}


def _format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    if not _is_object(config.format.schema):
        raise _no_object("output_config.format.schema", "output_config")
    schema = {"name": "answer", "schema": _raw(config.format.schema), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _raw(fields: Object) -> Object:
    """Raises UnicodeDecodeError: nobody has looked into it before."""
    bytes(fields).decode()
    return fields
