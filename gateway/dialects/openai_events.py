"""Server-sent events (SSE) of OpenAI's streams: chat chunks, Responses, audio and images; and `Dialect`, the kind of
stream that a request gets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from gateway.base.request_kinds import (
    COMPACTIONS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from gateway.base.types import Data
from gateway.dialects.endpoint_errors import EndpointError, described, ended_by_error
from gateway.dialects.media import with_audio, with_images
from gateway.dialects.openai_responses import is_call, responses_reason
from gateway.dialects.usage import (
    ERROR,
    TOOL_CALLS,
    ReportedByMessages,
    Usage,
    finish_reason,
    read_usage,
    with_timings,
)


class Event(msgspec.Struct):
    """Content of one event, as far as relaying and counting need it."""

    model: str | None = None
    usage: Usage | ReportedByMessages | None = None
    usage_only: bool = False  # carries nothing but usage
    deltas: int = 0  # parts of output; each counts as a token if the stream reports no usage
    choices: list[tuple[int, bool]] = []  # index of each that has output, and whether it ends
    finished: bool = False  # the response is complete with this event
    last: bool = False  # no event follows
    error: EndpointError | None = None
    response_id: str | None = None  # of a Responses stream
    item: msgspec.Raw | None = None  # of a response
    inside: bool = False  # cannot be the first of a stream
    finish_reason: str | None = None  # of the first choice, in the terms of chat completions
    service_tier: Any = None  # beside the usage, as the endpoint wrote it


_NULL = msgspec.Raw(b"null")


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    text: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: Any = None
    usage: Any = None
    timings: Any = None
    error: Any = None
    x_groq: Any = None
    service_tier: Any = None


class _ResponsesBody(msgspec.Struct):
    service_tier: Any = None
    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None
    status: msgspec.Raw = msgspec.Raw(b"")
    incomplete_details: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")


class _ResponsesEvent(msgspec.Struct):
    type: str = ""
    response: _ResponsesBody | None = None
    item: msgspec.Raw = _NULL  # never `Raw | None`, which decodes null alone
    message: Any = None
    code: Any = None  # of an error, as is the message
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_chunks = msgspec.json.Decoder(Annotated[list[_Chunk], msgspec.Meta(min_length=1, max_length=1)]).decode
_decode_responses_event = msgspec.json.Decoder(_ResponsesEvent).decode


def read_chunk(data: Data, decode: Callable[[Data], _Chunk] = _decode_chunk) -> Event:
    """Read a chunk of a chat or completion stream. Raises msgspec.DecodeError."""
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    try:
        chunk = decode(data)
    except msgspec.ValidationError:
        chunk = _error_in_array(data)
    model, error, usage = chunk.model, chunk.error, chunk.usage
    event = Event(model if isinstance(model, str) else None, service_tier=chunk.service_tier)
    if isinstance(chunk.x_groq, dict):  # where Groq reports a fault, and usage without a request for it
        error = chunk.x_groq.get("error") if error is None else error
        event.usage = read_usage(chunk.x_groq.get("usage"))
    if usage is not None and (counts := with_timings(read_usage(usage), chunk.timings)) is not None:
        event.usage = counts
        event.usage_only = not chunk.choices and error is None
    if error is not None:
        event.error = described(error)
    for choice in chunk.choices or ():
        has_output, ends = _has_output(choice), choice.finish_reason is not None
        if has_output or ends:
            event.deltas += has_output
            index = choice.index if isinstance(choice.index, int) else 0
            event.choices.append((index, ends))
            if ends and not index:
                event.finish_reason = reason = finish_reason(choice.finish_reason)
                if reason == ERROR and event.error is None:
                    event.error = ended_by_error(choice.finish_reason)
    return event


def _error_in_array(data: Data) -> _Chunk:
    """Return the error that Gemini writes into an array, also in its dialect of OpenAI. Raises msgspec.DecodeError."""
    (error,) = (chunk.error for chunk in _decode_chunks(data))
    return _Chunk(error=error)


class _BigDelta(msgspec.Struct):
    """Output of a large event, as raw JSON."""

    content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL
    refusal: msgspec.Raw = _NULL
    tool_calls: msgspec.Raw = _NULL
    function_call: msgspec.Raw = _NULL


class _BigChoice(msgspec.Struct):
    index: Any = 0
    delta: _BigDelta | None = None
    text: msgspec.Raw = _NULL
    finish_reason: Any = None


class _BigChunk(msgspec.Struct):
    choices: list[_BigChoice] | None = None
    model: Any = None
    usage: Any = None
    timings: Any = None
    error: Any = None
    x_groq: Any = None
    service_tier: Any = None


_decode_big_chunk = msgspec.json.Decoder(_BigChunk).decode
_NO_OUTPUT = (_NULL, msgspec.Raw(b'""'), msgspec.Raw(b"[]"), msgspec.Raw(b"{}"))


def read_large_chunk(data: Data) -> Event:
    """Read a large chunk without decoding its output. Raises msgspec.DecodeError."""
    return read_chunk(data, _read_big)


def _read_big(data: Data) -> _Chunk:
    chunk = _decode_big_chunk(data)
    choices = [
        _Choice(choice.index, None, _has_big_output(choice), choice.finish_reason) for choice in chunk.choices or ()
    ]
    return _Chunk(choices, chunk.model, chunk.usage, chunk.timings, chunk.error, chunk.x_groq, chunk.service_tier)


def _has_big_output(choice: _BigChoice) -> bool:
    delta = choice.delta
    if delta is None:
        return choice.text not in _NO_OUTPUT
    return any(getattr(delta, name) not in _NO_OUTPUT for name in _BigDelta.__struct_fields__)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _has_output(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text)
    return bool(
        delta.content
        or delta.reasoning
        or delta.reasoning_content
        or delta.refusal
        or delta.tool_calls
        or delta.function_call
    )


class _TypedEvent(msgspec.Struct):
    type: str = ""
    usage: Any = None
    error: Any = None
    choices: msgspec.Raw = msgspec.Raw(b"null")
    duration: Any = None


_decode_typed_event = msgspec.json.Decoder(_TypedEvent).decode
_IMAGE_ENDS = {"image_generation.completed", "image_edit.completed"}
_TYPED_ENDS = {"transcript.text.done", "speech.audio.done", *_IMAGE_ENDS}


def read_typed_event(data: Data, read: Callable[[Data], Event] = read_chunk) -> Event:
    """Read an event of an audio, transcript or image stream. Raises msgspec.DecodeError.

    Some servers stream transcripts as chat chunks.
    """
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    decoded = _decode_typed_event(data)
    if decoded.choices != _NULL:
        return read(data)
    usage, finished = read_usage(decoded.usage), decoded.type in _TYPED_ENDS
    if decoded.type in _IMAGE_ENDS:
        usage = with_images(usage, 1)
    elif finished:
        usage = with_audio(usage, decoded.usage, decoded.duration)
    event = Event(deltas=int(decoded.type.endswith(".delta")), usage=usage)
    event.finished = finished
    if decoded.error is not None:
        event.error = described(decoded.error)
    return event


def read_large_typed_event(data: Data) -> Event:
    """Do the same for a large event. Raises msgspec.DecodeError."""
    return read_typed_event(data, read_large_chunk)


_RESPONSES_LAST = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}


def read_responses_event(data: Data) -> Event:
    """Read an event of a Responses stream. Raises msgspec.DecodeError."""
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    decoded = _decode_responses_event(data)
    if decoded.type.endswith(".delta"):
        return Event(deltas=1)
    event = Event()
    if decoded.response is not None:
        event.model = _text(decoded.response.model)
        event.response_id = _text(decoded.response.id)
        event.usage, event.service_tier = read_usage(decoded.response.usage), decoded.response.service_tier
    if decoded.item != _NULL:
        event.item = decoded.item
    if decoded.type in _RESPONSES_LAST:
        event.finished = event.last = True
        if (response := decoded.response) is not None:
            event.finish_reason = responses_reason(response.status, response.incomplete_details, response.output)
    elif decoded.type == "response.output_item.done" and is_call(decoded.item):
        event.finish_reason = TOOL_CALLS  # some servers leave the output out of the last event
    if decoded.type == "response.failed":
        event.error = described(decoded.response.error if decoded.response else None)
    elif decoded.type == "error":
        flat = {"message": decoded.message, "code": decoded.code}
        event.error = described(decoded.error if decoded.error is not None else flat)
        event.last = True
    return event


@dataclass(frozen=True, slots=True)
class Dialect:
    """Event format of one kind of request."""

    read_event: Callable[[Data], Event]
    usage_on_request: bool  # usage is sent only with stream_options.include_usage
    read_big: Callable[[Data], Event]  # reads an event that is too large to decode whole
    done: bytes = b""  # ends a response that is sent as one event
    has_comments: bool = True  # a silent stream may get a comment
    own_reasons: tuple[tuple[str, str], ...] = ()  # a provider's own names of finish reasons, and those of OpenAI

    def opening(self, model: str) -> bytes:
        """Return the events that must precede a first event that is `inside`: some servers omit them."""
        return b""

    def error_event(self, body: bytes) -> bytes:
        """Return an error event of this dialect for an error body in OpenAI's format."""
        return b"data: " + body + b"\n\n"


CHUNKS = Dialect(read_chunk, usage_on_request=True, read_big=read_large_chunk, done=b"data: [DONE]\n\n")
_RESPONSES = Dialect(read_responses_event, usage_on_request=False, read_big=read_responses_event)


_TYPED = Dialect(read_typed_event, usage_on_request=False, read_big=read_large_typed_event)
DIALECTS = {
    RESPONSES: _RESPONSES,
    COMPACTIONS: _RESPONSES,
    **dict.fromkeys((TRANSCRIPTIONS, TRANSLATIONS, SPEECH, IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS), _TYPED),
}


def dialect(kind: str) -> Dialect:
    """Return the dialect of a kind of request in OpenAI's format."""
    return DIALECTS.get(kind, CHUNKS)
