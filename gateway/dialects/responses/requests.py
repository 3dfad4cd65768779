"""Translation of requests of OpenAI's Responses API to chat completion requests.

Each field is translated, refused with its name, or left out; fields that were left out are named by `Dropped`, unless
a response without them is the same. Nothing is stored, so that references to earlier responses are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import msgspec

from gateway.base.request_kinds import CHAT
from gateway.base.types import Body
from gateway.dialects.chat.bodies import (
    SMALL_BYTES,
    checked,
    decoded_field,
    is_object,
    is_one_of,
    no_object,
    not_json,
    reading_in_steps,
    refusal,
)
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.requests import ResponseFormat, ToolFields
from gateway.dialects.chat.shapes import Count
from gateway.dialects.responses.items import ItemTurns, TurnMessage, not_stored, reading_input
from gateway.dialects.responses.shapes import ChosenTool, ReadItem, ReasoningOptions, ResponsesTool, TextOptions
from gateway.dialects.responses.tools import FUNCTION, ONLY, ChatTools
from gateway.dialects.responses.translation import ResponsesTranslation
from gateway.loop.time_slices import Slices

SLICE_ITEMS = 2_000  # items that are translated in one time slice
MAX_ECHOED_BYTES = 128 << 10  # of fields that a response object repeats

SEALED = "reasoning.encrypted_content"
_NULL = msgspec.Raw(b"null")
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class _Given(msgspec.Struct):
    """The fields that are translated, decoded one by one, so that an error names its field."""

    instructions: str | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: str | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None


_DECODERS = {field.name: msgspec.json.Decoder(field.type).decode for field in msgspec.structs.fields(_Given)}
# Names that chat completions share, and servers know in both dialects.
_SHARED = (
    "user", "seed", "stop", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "chat_template_kwargs",
)  # fmt: skip
# Without these a response is the same. RouterDash itself reads `prompt_cache_key`.
_WITHOUT_EFFECT = frozenset(
    ["metadata", "client_metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "stream_options"]
)
_NOT_DROPPED = frozenset(("model", "input", *_SHARED, *_WITHOUT_EFFECT))
_DEFAULTS: Mapping[str, tuple[bytes, ...]] = {  # values that are not named
    "store": (b"false",),
    "truncation": (b'"disabled"',),
    "service_tier": (b'"auto"', b'"default"', b'"flex"'),  # RouterDash itself reads "flex"
    "top_logprobs": (b"0",),
    "background": (b"false",),
}
_ECHOED = (
    "instructions", "metadata", "temperature", "top_p", "max_output_tokens", "max_tool_calls", "parallel_tool_calls",
    "tool_choice", "tools", "reasoning", "text", "truncation", "top_logprobs", "user", "safety_identifier",
    "prompt_cache_key", "presence_penalty", "frequency_penalty",
)  # fmt: skip

# What fields have in a response object that the request may have left out.
_FILLED: Mapping[str, Mapping[str, Any]] = {
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
}
_FUNCTION: Mapping[str, Any] = {"description": None, "parameters": None, "strict": None}

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class ChatFields(ToolFields, total=False):
    """A chat completion request."""

    model: str
    messages: list[TurnMessage]
    max_tokens: int
    temperature: float
    top_p: float
    reasoning_effort: str
    response_format: ResponseFormat | Mapping[str, str]
    stream: bool
    stream_options: Mapping[str, bool]


def translating_response(
    body: Body, model: str, *, keeps_reasoning: bool
) -> Slices[tuple[bytes, ResponsesTranslation]]:
    """Return a Responses request as a chat completion request with the endpoint's model name; if the body is large, in
    time slices. Raises Refusal (400, 413).

    `keeps_reasoning`: the endpoint accepts the reasoning of earlier turns. A stream always requests its usage. The
    response needs the translation.
    """
    given, others, items, dropped = yield from reading_in_steps(_decoding, body, ONLY)
    try:
        tools = ChatTools(dropped)
        tools.add_all(given.tools or (), "tools")
        turns = ItemTurns(tools, dropped, given.instructions, keeps_reasoning=keeps_reasoning)
        for position, item in enumerate(items):
            turns.add(position, item, is_last=position == len(items) - 1)
            if position % SLICE_ITEMS == SLICE_ITEMS - 1:
                yield
        turns.end()
        chat = _chat(given, turns, tools, model, dropped)
        if len(body) > SMALL_BYTES:
            yield
        encoded = _encode({**chat, **{name: checked(others[name]) for name in _SHARED if name in others}})
        echoed = dict(_echoed(others, given))
    except UnicodeDecodeError as error:  # in a part that was not decoded
        raise not_json(error) from None
    reasoning = given.reasoning or ReasoningOptions()
    return encoded, ResponsesTranslation(
        dropped=dropped.line(),
        kind=CHAT,
        tools=tools.names(),
        echoed=echoed,
        summarises=bool(reasoning.summary or reasoning.generate_summary),
        seals=SEALED in (given.include or ()),
    )


def _decoding(body: Any) -> Slices[tuple[_Given, dict[str, msgspec.Raw], list[ReadItem], Dropped]]:
    fields = {name: raw for name, raw in _decode_object(body).items() if raw != _NULL}
    yield
    given, dropped = _Given(), Dropped()
    for name, raw in fields.items():
        decode = _DECODERS.get(name)
        if decode is not None:
            setattr(given, name, decoded_field(decode, raw, ONLY, name))
        elif name == "conversation" or (name == "prompt" and is_object(raw)):  # a text `prompt` is of no API
            raise _unsupported(name)
        elif name not in _NOT_DROPPED and not is_one_of(raw, _DEFAULTS.get(name, ())):
            dropped.add(name, "false" if name == "store" else "")
    if given.previous_response_id:
        raise not_stored("previous_response_id")
    if given.background:
        raise _unsupported("background")
    for name in given.include or ():
        if name != SEALED:
            dropped.add(f"include.{name}")
    items = yield from reading_input(fields.get("input", _NULL))
    return given, fields, items, dropped


def _unsupported(name: str) -> Exception:
    return refusal(f"`{name}` is not supported by this endpoint, which supports only {ONLY}.", name)


def _chat(given: _Given, turns: ItemTurns, tools: ChatTools, model: str, dropped: Dropped) -> ChatFields:
    chat: dict[str, Any] = {"model": model, "messages": turns.messages}
    chat |= tools.fields(given.tool_choice, parallel=given.parallel_tool_calls)
    for name, value in (
        ("max_tokens", given.max_output_tokens),
        ("temperature", given.temperature),
        ("top_p", given.top_p),
        ("reasoning_effort", _effort(given.reasoning, dropped)),
        ("response_format", _format(given.text, dropped)),
    ):
        if value is not None:
            chat[name] = value
    if given.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return cast(ChatFields, chat)


def _effort(reasoning: ReasoningOptions | None, dropped: Dropped) -> str | None:
    """Return the effort by a name that all servers with efforts know."""
    if reasoning is None or reasoning.effort is None:
        return None
    effort = _EFFORTS.get(reasoning.effort)
    if effort != reasoning.effort:
        dropped.add("reasoning.effort", effort or "")
    return effort


def _format(text: TextOptions | None, dropped: Dropped) -> ResponseFormat | Mapping[str, str] | None:
    if text is None:
        return None
    if text.verbosity not in (None, "medium"):
        dropped.add("text.verbosity")
    form = text.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.type != "json_schema":
        raise refusal("`text.format.type` must be text, json_object or json_schema.", "text")
    if bytes(memoryview(form.schema)[:1]) != b"{":
        raise no_object("text.format.schema", "text")
    return {
        "type": "json_schema",
        "json_schema": {"name": form.name or "answer", "schema": checked(form.schema), "strict": form.strict is True},
    }


def _echoed(fields: Mapping[str, msgspec.Raw], given: _Given) -> Iterator[tuple[str, msgspec.Raw]]:
    """Yield the fields that a response object repeats, as far as they are not large, with what each must have."""
    room = MAX_ECHOED_BYTES
    for name in _ECHOED:
        raw = fields.get(name)
        if raw is None or len(raw) > room:
            continue
        room -= len(raw)
        checked(raw)
        if name == "tools":
            yield name, _echoed_tools(raw, given.tools or ())
        elif name in _FILLED:
            yield name, msgspec.Raw(_encode({**_FILLED[name], **_without_nulls(raw)}))
        else:
            yield name, raw.copy()


def _without_nulls(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    return {name: value for name, value in _decode_object(raw).items() if value != _NULL}


def _echoed_tools(raw: msgspec.Raw, tools: Sequence[ResponsesTool]) -> msgspec.Raw:
    """Return tools with the fields that a function must have in a response."""
    whole = [
        {**_FUNCTION, **_decode_object(one)} if tool.type == FUNCTION else one
        for one, tool in zip(_decode_array(raw), tools, strict=True)
    ]
    return msgspec.Raw(_encode(whole))
