"""OpenAI's request and answer shapes, as far as routing and counting need them. Everything else passes unread.

Requests are never decoded whole: the few fields that decide are read, and a field is replaced by taking the object
apart into raw values and putting it together again, so that what we do not know stays as it was written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.endpoint_errors import EndpointError, described
from gateway.errors import INVALID_REQUEST, Refusal
from gateway.kinds import (
    COMPACTIONS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from gateway.outbox import Body, Data
from gateway.skim import Top, skim

MAX_MODEL_NAME = 256
BIG_BYTES = 128 << 10  # of a body that is not parsed whole

T = TypeVar("T")

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIRED = re.compile(
    rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


class _Request(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class Request(msgspec.Struct, frozen=True):
    """What routing needs of a request's body."""

    model: str
    stream: bool
    wants_usage: bool  # the client asked for stream_options.include_usage itself
    has_options: bool = True  # the body has a key `stream_options`
    model_at: tuple[int, int] | None = None  # where the model's name stands in a big body


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse_request(body: Body) -> Request:
    """Raises Refusal (400) with a sentence that says what is wrong where."""
    top = skim(body) if len(body) > BIG_BYTES else None
    try:
        found = read_body(_decode_request, body if top is None else _excerpt(body, top))
    except msgspec.ValidationError as error:
        raise Refusal(400, INVALID_REQUEST, _explain(str(error)), param=_param(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.") from None
    if not found.model.strip():
        raise Refusal(400, INVALID_REQUEST, "`model` must name a model; GET /v1/models lists them.", param="model")
    if len(found.model) > MAX_MODEL_NAME:
        raise Refusal(400, INVALID_REQUEST, f"`model` has more than {MAX_MODEL_NAME} characters.", param="model")
    model_at = None if top is None else top.values[b"model"]
    if found.stream_options is msgspec.UNSET:
        return Request(found.model, found.stream is True, False, False, model_at)  # by name it takes longer
    options = found.stream_options or {}
    return Request(found.model, found.stream is True, options.get("include_usage") is True, model_at=model_at)


_READ = tuple(name.encode() for name in _Request.__struct_fields__)


def _excerpt(body: Body, top: Top) -> bytes:
    """A big body without what is not read of it."""
    found = ((name, top.values[name]) for name in _READ if name in top.values)
    return b"{%b}" % b",".join(b'"%b":%b' % (name, bytes(body[start:end])) for name, (start, end) in found)


def read_body(decode: Callable[[Any], T], body: Body) -> T:
    """What a decoder makes of a body, halves of surrogate pairs replaced if need be. Raises what the decoder raises."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if _SURROGATE.search(body) is None:
            raise
        return decode(_replace_surrogates(body))


def _replace_surrogates(body: Body) -> bytes:
    """Half a surrogate pair is JSON's grammar, and what is left of an emoji that was cut; msgspec refuses it."""
    return _PAIRED.sub(lambda found: found[0] if found[1] else b"\\ufffd", body)


def _explain(error: str) -> str:
    if "missing required field `model`" in error:
        return "`model` is missing; GET /v1/models lists the models there are."
    if error.endswith("`array`") or error == "Expected `object`":
        return "The body must be a JSON object."
    return f"Invalid request: {error}."


def _param(error: str) -> str | None:
    for name in ("stream_options", "stream", "model"):
        if f"$.{name}`" in error or f"field `{name}`" in error:
            return name
    return None


def adapt_request(body: Body, *, model: str | None, include_usage: bool) -> Body:
    """The body with another `model`, and with stream_options.include_usage, where asked for. Raises Refusal (400)."""
    if model is None and not include_usage:
        return body
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # in what `parse_request` skipped
        raise Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.") from None
    if model is not None:
        fields["model"] = msgspec.Raw(_encode(model))
    if include_usage:
        options = _options(fields.get("stream_options"))
        fields["stream_options"] = msgspec.Raw(_encode({**options, "include_usage": True}))
    return _encode(fields)


def spliced(body: Body, at: tuple[int, int], model: str) -> tuple[Body, Body, memoryview]:
    """A big body with another model's name, in pieces."""
    return body[: at[0]], _encode(model), memoryview(body)[at[1] :]


def with_usage(body: Body) -> tuple[Data, ...]:
    """A body without stream_options that asks for usage, in pieces: all that the client wrote stays as and where it is.

    The wish goes in front of the first key: `parse_request` has found an object with a model, hence a comma behind.
    """
    start = body.index(b"{") + 1
    return body[:start] + b'"stream_options":{"include_usage":true},', memoryview(body)[start:]


def _fields(body: Body) -> dict[str, msgspec.Raw]:
    try:
        return _decode_object(body)
    except msgspec.DecodeError:
        return _decode_object(_replace_surrogates(body))


def _options(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    return {} if raw is None or bytes(raw) == b"null" else _decode_object(raw)


# Answers


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the upstream told them."""

    input_tokens: int | None
    output_tokens: int | None

    def over(self, earlier: "Usage | None") -> "Usage":
        """What this one leaves open, the earlier one of the same answer may have told."""
        if earlier is None:
            return self
        made = earlier.input_tokens if self.input_tokens is None else self.input_tokens
        return Usage(made, earlier.output_tokens if self.output_tokens is None else self.output_tokens)


class _Answer(msgspec.Struct):
    """Fields that only count or name are read leniently: an odd one must not hide the others."""

    model: Any = None
    usage: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class _UsualUsage(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    completion_tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _UsualAnswer(msgspec.Struct):
    """What nearly every answer is; any other is looked at once more."""

    model: str
    usage: _UsualUsage


_decode_usual_answer = msgspec.json.Decoder(_UsualAnswer).decode


def read_usage(found: Any) -> Usage | None:
    """An OpenAI `usage` object, of chat or of Responses; None for what tells no tokens."""
    if not isinstance(found, dict):
        return None
    made = read_count(found, "prompt_tokens", "input_tokens")
    out = read_count(found, "completion_tokens", "output_tokens")
    return None if made is None and out is None else Usage(made, out)


def read_count(usage: dict[str, Any], *names: str) -> int | None:
    """The first of the names that is there. Some servers write 12.0; none can mean a number below 0 or without end."""
    number = next((usage[name] for name in names if usage.get(name) is not None), None)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return int(number) if 0 <= number < 1 << 53 else None


def read_answer(body: bytes, asked: str) -> tuple[bytes, Usage | None]:
    """A whole JSON answer bearing the asked model name, and its usage. What is no such JSON passes as it is."""
    try:
        usual = _decode_usual_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_any_answer(body, asked, read_usage)
    if usual.model != asked:
        body = rename_model(body, usual.model, asked)
    return body, Usage(usual.usage.prompt_tokens, usual.usage.completion_tokens)


def read_any_answer(body: bytes, asked: str, usage: Callable[[Any], Usage | None]) -> tuple[bytes, Usage | None]:
    """The same of whatever has a `model` and something that `usage` makes sense of."""
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    if isinstance(answer.model, str) and answer.model != asked:
        body = rename_model(body, answer.model, asked)
    return body, usage(answer.usage)


def rename_model(data: bytes, found: str, asked: str) -> bytes:
    """Replace the value of every `"model"` key that is `found`; all other bytes stay.

    Inside a JSON string a quote is always written `\\"`, so `"model"` followed by a colon is always a key.
    """
    start = 0
    pieces: list[bytes] = []
    replacement = _encode(asked)
    while (key := data.find(b'"model"', start)) != -1:
        colon = _skip_space(data, key + 7)
        if (key and data[key - 1] == 0x5C) or data[colon : colon + 1] != b":":
            pieces.append(data[start : key + 7])
            start = key + 7
            continue
        value = _skip_space(data, colon + 1)
        end = _string_end(data, value)
        if end != -1 and _string(data[value:end]) == found:
            pieces += (data[start:value], replacement)
        else:
            end = max(end, value)
            pieces.append(data[start:end])
        start = end
    return b"".join((*pieces, data[start:]))


def _skip_space(data: bytes, at: int) -> int:
    while data[at : at + 1] in (b" ", b"\t", b"\n", b"\r"):
        at += 1
    return at


def _string_end(data: bytes, at: int) -> int:
    """Behind the closing quote of the JSON string at `at`; -1 if there is none."""
    if data[at : at + 1] != b'"':
        return -1
    quote = data.find(b'"', at + 1)
    while quote != -1:
        backslashes = quote - len(data[at + 1 : quote].rstrip(b"\\")) - at - 1
        if backslashes % 2 == 0:
            return quote + 1
        quote = data.find(b'"', quote + 1)
    return -1


def _string(literal: bytes) -> str | None:
    try:
        return msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# Events of a stream


class Event(msgspec.Struct):
    """What one event of a stream says."""

    model: str | None = None
    usage: Usage | None = None
    usage_only: bool = False  # carries nothing but usage
    deltas: int = 0  # pieces of output; counted as a token each if no usage is told
    choices: list[tuple[int, bool]] = []  # index of each that has output, and whether it ends
    finished: bool = False  # the answer is whole with this event
    last: bool = False  # nothing follows it
    error: EndpointError | None = None
    response_id: str | None = None  # of a Responses stream
    item: msgspec.Raw | None = None  # of a response
    inside: bool = False  # cannot be the first of a stream


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
    error: Any = None


class _ResponsesBody(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None


class _ResponsesEvent(msgspec.Struct):
    type: str = ""
    response: _ResponsesBody | None = None
    item: msgspec.Raw | None = None
    message: Any = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_responses_event = msgspec.json.Decoder(_ResponsesEvent).decode


def read_chunk(data: bytes) -> Event:
    """An event of a chat or completion stream. Raises msgspec.DecodeError."""
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    chunk = _decode_chunk(data)
    model, error = chunk.model, chunk.error
    event = Event(model if isinstance(model, str) else None)
    if chunk.usage is not None:
        event.usage = read_usage(chunk.usage)
        event.usage_only = event.usage is not None and not chunk.choices and error is None
    if error is not None:
        event.error = described(error)
    for choice in chunk.choices or ():
        has_output, ends = _has_output(choice), choice.finish_reason is not None
        if has_output or ends:
            event.deltas += has_output
            event.choices.append((choice.index if isinstance(choice.index, int) else 0, ends))
    return event


def _name(model: Any) -> str | None:
    return model if isinstance(model, str) else None


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
    choices: Any = None


_decode_typed_event = msgspec.json.Decoder(_TypedEvent).decode
_TYPED_ENDS = {"transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed"}


def read_typed_event(data: bytes) -> Event:
    """An event of a stream of sound, of its text or of pictures, as OpenAI has them. Raises msgspec.DecodeError.

    Some servers write transcripts as chats.
    """
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    found = _decode_typed_event(data)
    if found.choices is not None:
        return read_chunk(data)
    event = Event(deltas=int(found.type.endswith(".delta")), usage=read_usage(found.usage))
    event.finished = found.type in _TYPED_ENDS
    if found.error is not None:
        event.error = described(found.error)
    return event


_RESPONSES_LAST = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}


def read_responses_event(data: bytes) -> Event:
    """An event of a Responses stream. Raises msgspec.DecodeError."""
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    found = _decode_responses_event(data)
    event = Event(deltas=int(found.type.endswith(".delta")))
    if found.response is not None:
        event.model = _name(found.response.model)
        event.response_id = _name(found.response.id)
        event.usage = read_usage(found.response.usage)
    event.item = found.item
    if found.type in _RESPONSES_LAST:
        event.finished = event.last = True
    if found.type == "response.failed":
        event.error = described(found.response.error if found.response else None)
    elif found.type == "error":
        event.error = described(found.error if found.error is not None else found.message)
        event.last = True
    return event


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of request streams."""

    read_event: Callable[[bytes], Event]
    usage_on_request: bool  # usage comes only with stream_options.include_usage
    done: bytes = b""  # behind an answer that is told in one event

    def opening(self, model: str) -> bytes:
        """What must stand before a first event that is `inside`: the server forgot it."""
        return b""

    def error_event(self, body: bytes) -> bytes:
        """An error that this dialect's clients understand, from an error body in OpenAI's shape."""
        if self.read_event is read_responses_event:
            error = msgspec.json.decode(body)["error"]
            event = {"type": "error", "code": error["code"], "message": error["message"], "param": error["param"]}
            return b"event: error\ndata: " + _encode(event) + b"\n\n"
        return b"data: " + body + b"\n\n"


CHUNKS = Dialect(read_chunk, usage_on_request=True, done=b"data: [DONE]\n\n")
_RESPONSES = Dialect(read_responses_event, usage_on_request=False)


_TYPED = Dialect(read_typed_event, usage_on_request=False)
DIALECTS = {
    RESPONSES: _RESPONSES,
    COMPACTIONS: _RESPONSES,
    **dict.fromkeys((TRANSCRIPTIONS, TRANSLATIONS, SPEECH, IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS), _TYPED),
}


def dialect(kind: str) -> Dialect:
    """Of kinds in OpenAI's style."""
    return DIALECTS.get(kind, CHUNKS)
