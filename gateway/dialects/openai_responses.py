"""OpenAI's whole JSON responses: read the model name, the token counts and the finish reason, and put the requested
name in.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.dialects.json_text import MAX_FIELD_BYTES, outline_of_response, rename_model, small_value
from gateway.dialects.usage import (
    CHAT_REASONS,
    ERROR,
    NOT_REPORTED,
    STOP,
    TOOL_CALLS,
    Usage,
    finish_reason,
    normal,
    read_usage,
    with_tier,
    with_timings,
)
from gateway.loop.time_slices import Slices

USUAL_BYTES = 256 << 10  # a larger response is decoded field by field
MAX_OBJECTS = 50_000  # in the choices or the output of a response whose finish reason is read
PIECE_BYTES = 256 << 10  # of these choices, or of this output, in which objects are counted at once
MAX_CHOICES_BYTES = 16 << 20  # of these choices, or of this output
T = TypeVar("T")
_NOTHING = msgspec.Raw(b"")


class _ResponseBody(msgspec.Struct):
    """Raw fields, decoded one by one, so that a malformed one does not hide the others."""

    model: msgspec.Raw = _NOTHING
    usage: msgspec.Raw = _NOTHING
    timings: msgspec.Raw = _NOTHING
    choices: msgspec.Raw = _NOTHING  # of chat completions and completions
    status: msgspec.Raw = _NOTHING  # of Responses, as are the next two
    incomplete_details: msgspec.Raw = _NOTHING
    output: msgspec.Raw = _NOTHING
    stop_reason: msgspec.Raw = _NOTHING  # of Anthropic's Messages
    service_tier: msgspec.Raw = _NOTHING


_decode_response = msgspec.json.Decoder(_ResponseBody).decode


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _UsualPromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    cache_creation_tokens: None = None
    cache_write_tokens_details: None = None


class _UsualOutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _UsualUsage(msgspec.Struct, gc=False):
    """The fields that are always null are those of few servers: with a count the response is not a usual one."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _UsualPromptDetails | None = None
    completion_tokens_details: _UsualOutputDetails | None = None
    prompt_cache_hit_tokens: None = None
    cached_tokens: None = None
    cache_read_input_tokens: None = None
    cache_creation_input_tokens: None = None
    reasoning_tokens: None = None
    service_tier: None = None


class _Timings(msgspec.Struct, gc=False):
    """What llama.cpp reports beside the usage."""

    cache_n: _Count | None = None


class _UsualChoice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _UsualResponse(msgspec.Struct):
    """The shape of nearly every response. Any other shape is read by `read_any_response`."""

    model: str
    usage: _UsualUsage
    choices: list[_UsualChoice]
    timings: _Timings | None = None
    service_tier: str | None = None


_decode_usual_response = msgspec.json.Decoder(_UsualResponse).decode


class _UsualObjectUsage(msgspec.Struct, gc=False):
    """As above."""

    input_tokens: _Count
    output_tokens: _Count
    total_tokens: _Count | None = None
    input_tokens_details: _UsualPromptDetails | None = None
    output_tokens_details: _UsualOutputDetails | None = None
    cached_tokens: None = None
    cache_read_input_tokens: None = None
    cache_creation_input_tokens: None = None
    reasoning_tokens: None = None


class _UsualItem(msgspec.Struct, gc=False):
    type: str


class _IncompleteDetails(msgspec.Struct, gc=False):
    reason: str | None = None


class _UsualObject(msgspec.Struct):
    """The shape of nearly every object of Responses."""

    model: str
    status: str
    output: list[_UsualItem]
    usage: _UsualObjectUsage
    incomplete_details: _IncompleteDetails | None = None
    service_tier: str | None = None


_decode_usual_object = msgspec.json.Decoder(_UsualObject).decode


class _AnyChoice(msgspec.Struct):
    finish_reason: Any = None


class _OutputItem(msgspec.Struct):
    type: Any = None


_decode_choices = msgspec.json.Decoder(list[_AnyChoice]).decode
_decode_item = msgspec.json.Decoder(_OutputItem).decode
_decode_items = msgspec.json.Decoder(list[_OutputItem]).decode

# Items of Responses by which the model calls tools that the client runs
_CALLS = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")
)


def read_response(body: bytes, requested_model: str) -> tuple[bytes, Usage | None]:
    """Return the body with the requested model name, and what it reports: token counts and finish reason.

    Other bodies stay unchanged.
    """
    if len(body) > USUAL_BYTES:
        return read_any_response(body, requested_model, read_usage)
    try:
        usual = _decode_usual_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_any_response(body, requested_model, read_usage)
    if usual.model != requested_model:
        body = rename_model(body, usual.model, requested_model)
    counts, timings = usual.usage, usual.timings
    reason = CHAT_REASONS.get(usual.choices[0].finish_reason) if usual.choices else None
    details, of_output = counts.prompt_tokens_details, counts.completion_tokens_details
    made, out = counts.prompt_tokens, counts.completion_tokens
    if details is None and of_output is None and timings is None:
        usage = Usage(made, out, None, None, None, reason)
        return body, usage if usual.service_tier is None else usage.with_price_facts(None, usual.service_tier)
    usage = _usage(made, out, details, of_output, counts.total_tokens, reason)
    if timings is not None and usage.cached_tokens is None and timings.cache_n is not None:
        written, reasoning = usage.cache_write_tokens, usage.reasoning_tokens
        usage = normal(made, usage.output_tokens, timings.cache_n, written, reasoning, None, reason)
    return body, usage if usual.service_tier is None else usage.with_price_facts(None, usual.service_tier)


def read_response_object(body: bytes, requested_model: str) -> tuple[bytes, Usage | None]:
    """Do the same for an object of Responses."""
    if len(body) > USUAL_BYTES:
        return read_any_response(body, requested_model, read_usage)
    try:
        usual = _decode_usual_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_any_response(body, requested_model, read_usage)
    if usual.model != requested_model:
        body = rename_model(body, usual.model, requested_model)
    counts, reason = usual.usage, None
    if usual.status == "completed":
        reason = STOP if _CALLS.isdisjoint([item.type for item in usual.output]) else TOOL_CALLS
    elif usual.status == "incomplete" and usual.incomplete_details is not None:
        reason = CHAT_REASONS.get(usual.incomplete_details.reason)
    elif usual.status == "failed":
        reason = ERROR
    details, of_output = counts.input_tokens_details, counts.output_tokens_details
    usage = _usage(counts.input_tokens, counts.output_tokens, details, of_output, counts.total_tokens, reason)
    return body, usage if usual.service_tier is None else usage.with_price_facts(None, usual.service_tier)


def _usage(
    made: int,
    out: int,
    details: _UsualPromptDetails | None,
    of_output: _UsualOutputDetails | None,
    total: int | None,
    reason: str | None,
) -> Usage:
    cached = written = reasoning = None
    if details is not None:
        cached, written = details.cached_tokens, details.cache_write_tokens
    if of_output is not None:
        reasoning = of_output.reasoning_tokens
    if reasoning or (cached or 0) + (written or 0) > made:
        return normal(made, out, cached, written, reasoning, total, reason)
    return Usage(made, out, cached, written, reasoning, reason)


def read_any_response(
    body: bytes, requested_model: str, usage: Callable[[object], Usage | None]
) -> tuple[bytes, Usage | None]:
    """Do the same for any object with a `model` and token counts that `usage` can read."""
    try:
        response = _decode_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    model = small_value(bytes(response.model))
    if isinstance(model, str) and model != requested_model:
        body = rename_model(body, model, requested_model)
    counts = with_timings(usage(small_value(bytes(response.usage))), small_value(bytes(response.timings)))
    counts = with_tier(counts, small_value(bytes(response.service_tier)))
    reason = _reason(response)
    return body, counts if reason is None else (counts or NOT_REPORTED).ended_by(reason)


def read_large_response(
    body: bytes, requested_model: str, usage: Callable[[object], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """Do the same for a large response, in time slices. One that is too complex stays unchanged."""
    top = yield from outline_of_response(body)
    if top is None:
        return body, None
    yield
    response, view = _ResponseBody(), memoryview(body)
    for name in _ResponseBody.__struct_fields__:
        start, end = top.values.get(name.encode(), (0, 0))
        if end - start <= (MAX_CHOICES_BYTES if name in ("choices", "output") else MAX_FIELD_BYTES):
            setattr(response, name, msgspec.Raw(view[start:end]))
    reason = _reason(response)
    yield
    model, counts = small_value(bytes(response.model)), usage(small_value(bytes(response.usage)))
    if isinstance(model, str) and model != requested_model:
        yield  # the copy is made at once: in slices, many responses would be in memory twice at the same time
        body = rename_model(body, model, requested_model)
    counts = with_timings(counts, small_value(bytes(response.timings)))
    return body, counts if reason is None else (counts or NOT_REPORTED).ended_by(reason)


def _reason(response: _ResponseBody) -> str | None:
    """Return the finish reason of a response in any dialect: of a chat completion, that of its first choice."""
    if response.choices:
        choices = _decoded(_decode_choices, response.choices)
        return finish_reason(choices[0].finish_reason) if choices else None
    if response.stop_reason:
        return finish_reason(small_value(bytes(response.stop_reason)))
    return responses_reason(response.status, response.incomplete_details, response.output)


def responses_reason(status: msgspec.Raw, incomplete_details: msgspec.Raw, output: msgspec.Raw) -> str | None:
    """Return the finish reason of an object of Responses; None while it is not complete, and if it was cancelled."""
    match small_value(bytes(status)):
        case "completed":
            items = _decoded(_decode_items, output) or ()
            return TOOL_CALLS if any(_is_call(item) for item in items) else STOP
        case "incomplete":
            details = small_value(bytes(incomplete_details))
            return finish_reason(details.get("reason")) if isinstance(details, dict) else None
        case "failed":
            return ERROR
    return None


def is_call(item: msgspec.Raw) -> bool:
    """Return True for an output item of Responses that the client must answer: a call of one of its tools."""
    try:
        return _is_call(_decode_item(item))
    except msgspec.DecodeError:
        return False


def _is_call(item: _OutputItem) -> bool:
    return isinstance(item.type, str) and item.type in _CALLS


def _decoded(decode: Callable[[msgspec.Raw], list[T]], raw: msgspec.Raw) -> list[T] | None:
    """Decode an array of objects; None for any other value, or for more than MAX_OBJECTS."""
    if _objects(raw) > MAX_OBJECTS:
        return None
    try:
        return decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _objects(raw: msgspec.Raw) -> int:
    """Count the opening brackets of objects, in pieces: a copy of the whole would take longer."""
    view = memoryview(raw)
    return sum(bytes(view[at : at + PIECE_BYTES]).count(b"{") for at in range(0, len(view), PIECE_BYTES))
