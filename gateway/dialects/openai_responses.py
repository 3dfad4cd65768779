"""OpenAI's whole JSON responses: read the model name, the token counts and the finish reason, and put the requested
name in.
"""

from collections.abc import Callable
from json import JSONDecoder
from typing import Any, TypeVar

import msgspec

from gateway.dialects.json_text import MAX_FIELD_BYTES, outline_of_response, rename_model, small_value
from gateway.dialects.usage import (
    ERROR,
    NOT_REPORTED,
    STOP,
    TOOL_CALLS,
    Usage,
    finish_reason,
    read_usage,
    with_service_tier,
    with_timings,
)
from gateway.loop.time_slices import Slices

BIG_BYTES = 2 << 20  # a larger response is read in time slices
USUAL_BYTES = 256 << 10  # a larger response is decoded field by field
MAX_OBJECTS = 50_000  # in the choices or the output of a response whose finish reason is read
PIECE_BYTES = 256 << 10  # of these choices, or of this output, in which objects are counted at once
MAX_CHOICES_BYTES = 16 << 20  # of these choices, or of this output
MAX_END_BYTES = 32 << 10  # of a response that is too long to be read
MAX_USAGE_BYTES = 4 << 10
MAX_USAGE_NAMES = 8  # in that end
T = TypeVar("T")
_NOTHING = msgspec.Raw(b"")


class _Choice(msgspec.Struct, gc=False):
    finish_reason: Any = None


class _OutputItem(msgspec.Struct, gc=False):
    type: Any = None


class _WholeResponse(msgspec.Struct):
    """The fields of a whole response that are read, in any dialect; None: not there, or malformed."""

    model: Any = None
    usage: Any = None
    timings: Any = None  # of llama.cpp
    choices: list[_Choice] | None = None  # of chat completions and completions
    status: Any = None  # of Responses, as are the next two
    incomplete_details: Any = None
    output: list[_OutputItem] | None = None
    stop_reason: Any = None  # of Anthropic's Messages
    service_tier: Any = None


class _RawResponse(msgspec.Struct):
    """The same fields as raw JSON, to be decoded one by one, so that a malformed one does not hide the others."""

    model: msgspec.Raw = _NOTHING
    usage: msgspec.Raw = _NOTHING
    timings: msgspec.Raw = _NOTHING
    choices: msgspec.Raw = _NOTHING
    status: msgspec.Raw = _NOTHING
    incomplete_details: msgspec.Raw = _NOTHING
    output: msgspec.Raw = _NOTHING
    stop_reason: msgspec.Raw = _NOTHING
    service_tier: msgspec.Raw = _NOTHING


_decode_response = msgspec.json.Decoder(_WholeResponse).decode
_decode_raw_response = msgspec.json.Decoder(_RawResponse).decode
_decode_choices = msgspec.json.Decoder(list[_Choice]).decode
_decode_item = msgspec.json.Decoder(_OutputItem).decode
_decode_items = msgspec.json.Decoder(list[_OutputItem]).decode

# Items of Responses by which the model calls tools that the client runs
_CALLS = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")
)


def reading_response(
    body: bytes, requested_model: str, usage: Callable[[object], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """Do as `read_response` does; for a big body in time slices."""
    if len(body) <= BIG_BYTES:
        return read_response(body, requested_model, usage)
    return (yield from read_large_response(body, requested_model, usage))


def read_response(
    body: bytes, requested_model: str, usage: Callable[[object], Usage | None] = read_usage
) -> tuple[bytes, Usage | None]:
    """Return the body with the requested model name, and what it reports: token counts and finish reason.

    `usage` reads the counts of the dialect. Other bodies stay unchanged.
    """
    response = _decoded_at_once(body) if len(body) <= USUAL_BYTES else None
    if response is None:
        try:
            response = _decoded_by_field(_decode_raw_response(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body, None
    if _has_other_name(response, requested_model):
        body = rename_model(body, response.model, requested_model)
    return body, _reported(response, usage)


def read_large_response(
    body: bytes, requested_model: str, usage: Callable[[object], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """Do the same for a large response, in time slices. One that is too complex stays unchanged."""
    top = yield from outline_of_response(body)
    if top is None:
        return body, None
    yield
    raw, view = _RawResponse(), memoryview(body)
    for name in _RawResponse.__struct_fields__:
        start, end = top.values.get(name.encode(), (0, 0))
        if end - start <= (MAX_CHOICES_BYTES if name in ("choices", "output") else MAX_FIELD_BYTES):
            setattr(raw, name, msgspec.Raw(view[start:end]))
    response = _decoded_by_field(raw)
    yield
    if _has_other_name(response, requested_model):
        yield  # the copy is made at once: in slices, many responses would be in memory twice at the same time
        body = rename_model(body, response.model, requested_model)
    return body, _reported(response, usage)


def _decoded_at_once(body: bytes) -> _WholeResponse | None:
    """Decode a response; None if it is no object, or a field is malformed."""
    try:
        return _decode_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decoded_by_field(raw: _RawResponse) -> _WholeResponse:
    return _WholeResponse(
        model=small_value(bytes(raw.model)),
        usage=small_value(bytes(raw.usage)),
        timings=small_value(bytes(raw.timings)),
        choices=_decoded(_decode_choices, raw.choices),
        status=small_value(bytes(raw.status)),
        incomplete_details=small_value(bytes(raw.incomplete_details)),
        output=_decoded(_decode_items, raw.output),
        stop_reason=small_value(bytes(raw.stop_reason)),
        service_tier=small_value(bytes(raw.service_tier)),
    )


def _has_other_name(response: _WholeResponse, requested_model: str) -> bool:
    return isinstance(response.model, str) and response.model != requested_model


def _reported(response: _WholeResponse, usage: Callable[[object], Usage | None]) -> Usage | None:
    """Return what a response reports: counts, service tier and finish reason."""
    counts = with_service_tier(with_timings(usage(response.usage), response.timings), response.service_tier)
    if response.choices is not None:
        reason = finish_reason(response.choices[0].finish_reason) if response.choices else None
    elif response.stop_reason is not None:
        reason = finish_reason(response.stop_reason)
    else:
        reason = _reason_of_object(response.status, response.incomplete_details, response.output)
    return counts if reason is None else (counts or NOT_REPORTED).ended_by(reason)


def responses_reason(status: msgspec.Raw, incomplete_details: msgspec.Raw, output: msgspec.Raw) -> str | None:
    """Return the finish reason of an object of Responses; None while it is not complete, and if it was cancelled."""
    return _reason_of_object(
        small_value(bytes(status)), small_value(bytes(incomplete_details)), _decoded(_decode_items, output)
    )


def _reason_of_object(status: object, incomplete_details: object, output: list[_OutputItem] | None) -> str | None:
    match status:
        case "completed":
            return TOOL_CALLS if any(_is_call(item) for item in output or ()) else STOP
        case "incomplete":
            return finish_reason(incomplete_details.get("reason")) if isinstance(incomplete_details, dict) else None
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
    return sum(bytes(view[start : start + PIECE_BYTES]).count(b"{") for start in range(0, len(view), PIECE_BYTES))


# Responses that are too long to be read

_USAGE_NAME = b'"usage"'
_RAW = JSONDecoder()


def usage_in_end(end: bytes) -> Usage | None:
    """Return the usage in the last MAX_END_BYTES of a response, where servers write it; None if it is not there.

    Text of the response cannot be taken for it: quotation marks are escaped in strings.
    """
    position = len(end)
    for _ in range(MAX_USAGE_NAMES):
        position = end.rfind(_USAGE_NAME, 0, position)
        if position < 0:
            break
        rest = end[position + len(_USAGE_NAME) : position + MAX_USAGE_BYTES].decode("utf-8", "replace").lstrip()
        try:
            value, _ = _RAW.raw_decode(rest[1:].lstrip())
        except (ValueError, RecursionError):
            continue
        if rest[:1] == ":" and (usage := read_usage(value)) is not None:
            return usage
    return None
