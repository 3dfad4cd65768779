"""OpenAI's request and answer shapes, as far as routing and counting need them. Everything else passes unread.

Requests are never decoded whole: the few fields that decide are read, and a field is replaced by taking the object
apart into raw values and putting it together again, so that what we do not know stays as it was written.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from gateway.bounds import JSON_FIELD
from gateway.endpoint_errors import EndpointError, described
from gateway.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
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
from gateway.skim import Top, skim, skim_slowly, too_deep
from gateway.surrogates import read_body, replaced
from gateway.turns import Slices, at_once

MAX_MODEL_NAME = 256
_LONG_NAME = f"`model` has more than {MAX_MODEL_NAME} characters."
BIG_BYTES = 128 << 10  # of a body that is not parsed whole
WHOLE_BYTES = 2 << 20  # of a big body that may be given to a parser all the same
MAX_WHOLE_NAMES = 50_000  # of one
MAX_FIELD_BYTES = 16 << 10  # of a field that is read of a big body

_COLON = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
MAX_RENAMED = 1000  # models named in one answer or event that are looked at
RENAMED_BYTES = 512 << 10


class _Request(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL_NAME)]
    stream: bool | None = None
    stream_options: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class Request(msgspec.Struct, frozen=True):
    """What routing needs of a request's body."""

    model: str
    stream: bool
    wants_usage: bool  # the client asked for stream_options.include_usage itself
    has_options: bool = True  # the body has a key `stream_options`
    model_at: tuple[int, int] | None = None  # where the model's name stands in a big body
    options_at: tuple[int, int] | None = None  # where the value of `stream_options` stands there


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse_request(body: Body) -> Request:
    """Raises Refusal (400, 413) with a sentence that says what is wrong where."""
    if len(body) > BIG_BYTES:
        return parse_big(body, at_once(find_top(body)))
    return parse_small(body)


def parse_small(body: Body) -> Request:
    """The same of a body of at most BIG_BYTES."""
    try:
        found = read_body(_decode_request, body)
    except msgspec.ValidationError as error:
        raise Refusal(400, INVALID_REQUEST, _explain(str(error)), param=_param(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    if not found.model.strip():
        raise Refusal(400, INVALID_REQUEST, "`model` must name a model; GET /v1/models lists them.", param="model")
    if found.stream_options is msgspec.UNSET:
        return Request(found.model, found.stream is True, False, False)  # by name it takes longer
    options = found.stream_options or {}
    return Request(found.model, found.stream is True, options.get("include_usage") is True)


def _not_json(error: Exception) -> Refusal:
    if isinstance(error, RecursionError):
        return too_deep()
    return Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.")


def _long_name() -> Refusal:
    return Refusal(400, INVALID_REQUEST, _LONG_NAME, param="model")


# Big bodies, which are not parsed whole

_MODEL, _OPTIONS = b"model", b"stream_options"
_READ = tuple(name.encode() for name in _Request.__struct_fields__)


class _Fields(msgspec.Struct):
    """The fields that are read, none of them looked into."""

    model: msgspec.Raw = msgspec.Raw(b"")
    stream: msgspec.Raw = msgspec.Raw(b"")
    stream_options: msgspec.Raw = msgspec.Raw(b"")


_decode_fields = msgspec.json.Decoder(_Fields).decode


def find_top(body: Body) -> Slices[Top | None]:
    """Where the fields of a big body are; None for one that a parser is quicker with. Raises Refusal."""
    top = skim(body)
    if top is None and (len(body) > WHOLE_BYTES or body.count(b":") > MAX_WHOLE_NAMES):
        top = yield from skim_slowly(body)
    return top


def parse_big(body: Body, top: Top | None) -> Request:
    """A request whose body has more than BIG_BYTES, and this top. Raises Refusal (400, 413)."""
    fields = _fields_of(body) if top is None else {name: bytes(body[slice(*at)]) for name, at in _read_of(top)}
    excerpt = b"{%b}" % b",".join(b'"%b":%b' % (name, fields[name]) for name in _READ if name in fields)
    found = parse_small(excerpt)
    places = {} if top is None else top.values
    model_at, options_at = places.get(_MODEL), places.get(_OPTIONS)
    return msgspec.structs.replace(found, model_at=model_at, options_at=options_at)


def _read_of(top: Top) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for name in _READ:
        place = top.values.get(name)
        if place is not None:
            _check_size(name, place[1] - place[0])
            yield name, place


def _fields_of(body: Body) -> dict[bytes, bytes]:
    try:
        found = read_body(_decode_fields, body)
    except msgspec.ValidationError as error:
        raise Refusal(400, INVALID_REQUEST, _explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    fields = {name: bytes(getattr(found, name.decode())) for name in _READ}
    for name, value in fields.items():
        _check_size(name, len(value))
    return {name: value for name, value in fields.items() if value}


def _check_size(name: bytes, size: int) -> None:
    if size > MAX_FIELD_BYTES:
        if name == _MODEL:
            raise _long_name()
        field = name.decode()
        message = f"`{field}` has more than {MAX_FIELD_BYTES >> 10} KiB."
        raise Refusal(413, REQUEST_TOO_LARGE, message, param=field, bound=JSON_FIELD)


def _explain(error: str) -> str:
    if "missing required field `model`" in error:
        return "`model` is missing; GET /v1/models lists the models there are."
    if "of length <=" in error:
        return _LONG_NAME
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


def spliced(body: Body, request: Request, *, model: str | None, include_usage: bool) -> tuple[Data, ...]:
    """A big body whose `request` tells where its fields are, with another `model`, and with
    stream_options.include_usage, where asked for: in pieces, which share the body's memory. Raises Refusal (400).
    """
    changes: list[tuple[tuple[int, int], bytes]] = []
    if model is not None and request.model_at is not None:
        changes.append((request.model_at, _encode(model)))
    if include_usage and request.options_at is not None:
        options = _options(msgspec.Raw(body[slice(*request.options_at)]))
        changes.append((request.options_at, _encode({**options, "include_usage": True})))
    view = memoryview(body)
    pieces: list[Data] = []
    at = 0
    if include_usage and request.options_at is None:
        at = body.index(b"{") + 1
        pieces += (view[:at], _USAGE)
    for (start, end), value in sorted(changes):
        pieces += (view[at:start], value)
        at = end
    return (*pieces, view[at:])


_USAGE = b'"stream_options":{"include_usage":true},'


def with_usage(body: Body) -> tuple[Data, ...]:
    """A body without stream_options that asks for usage, in pieces: all that the client wrote stays as and where it is.

    The wish goes in front of the first key: `parse_request` has found an object with a model, hence a comma behind.
    """
    start = body.index(b"{") + 1
    return body[:start] + _USAGE, memoryview(body)[start:]


def _fields(body: Body) -> dict[str, msgspec.Raw]:
    try:
        return _decode_object(body)
    except msgspec.DecodeError:
        return _decode_object(replaced(body))


def _options(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    return {} if raw is None or bytes(raw) == b"null" else _fields(bytes(raw))


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

    model: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"")


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
    model = _small(bytes(answer.model))
    if isinstance(model, str) and model != asked:
        body = rename_model(body, model, asked)
    return body, usage(_small(bytes(answer.usage)))


def reading_answer(
    body: bytes, asked: str, usage: Callable[[Any], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """The same of a big answer, in slices. One that has too much in it passes as it is."""
    top = yield from reading_top(body)
    if top is None:
        return body, None
    yield
    model, told = small_field(body, top, _MODEL), small_field(body, top, b"usage")
    if isinstance(model, str) and model != asked:
        body = rename_model(body, model, asked)
    return body, usage(told)


def reading_top(body: bytes) -> Slices[Top | None]:
    """Where the fields of a big answer are, in slices; None for what is no object, or too complex."""
    top = skim(body)
    try:
        if top is None:
            top = yield from skim_slowly(body)
    except Refusal:
        return None
    return top


def small_field(body: bytes, top: Top, name: bytes) -> Any:
    """The value of a field that has at most MAX_FIELD_BYTES; None where there is none."""
    start, end = top.values.get(name, (0, 0))
    return _small(body[start:end]) if end - start <= MAX_FIELD_BYTES else None


def _small(value: bytes) -> Any:
    """A value from within an answer, if it is a small one."""
    if not value or len(value) > MAX_FIELD_BYTES:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def rename_model(data: Body, found: str, asked: str) -> bytes:
    """Replace the value of every `"model"` key that is `found`, among the first thousand; all other bytes stay. Of what
    is longer than a MiB, the first and the last half of one are looked at.
    """
    if len(data) <= 2 * RENAMED_BYTES:
        return _renamed(data, found, asked)
    head, tail = data[:RENAMED_BYTES], data[-RENAMED_BYTES:]
    between = memoryview(data)[RENAMED_BYTES:-RENAMED_BYTES]
    return b"".join((_renamed(head, found, asked), between, _renamed(tail, found, asked)))


def _renamed(data: Body, found: str, asked: str) -> bytes:
    """Inside a JSON string a quote is always written `\\"`, so `"model"` followed by a colon is always a key, unless a
    backslash is in front of it.
    """
    start = 0
    pieces: list[Data] = []
    replacement = _encode(asked)
    longest = 12 * len(found) + 2  # with each character as a pair of escapes
    for _ in range(MAX_RENAMED):
        key = data.find(b'"model"', start)
        if key < 0:
            break
        colon = _COLON.match(data, key + 7)
        value = end = key + 7 if colon is None else colon.end()
        string = None if colon is None or data[key - 1 : key] == b"\\" else _STRING.match(data, value, value + longest)
        if string is not None and _string(string[0]) == found:
            end = string.end()
            pieces += (data[start:value], replacement)
        else:
            pieces.append(data[start:value])
        start = end
    return b"".join((*pieces, data[start:]))


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


def read_chunk(data: Data, decode: Callable[[Data], _Chunk] = _decode_chunk) -> Event:
    """An event of a chat or completion stream. Raises msgspec.DecodeError."""
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    chunk = decode(data)
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


class _BigDelta(msgspec.Struct):
    """What a big event brings is not decoded."""

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
    error: Any = None


_decode_big_chunk = msgspec.json.Decoder(_BigChunk).decode
_NO_OUTPUT = (_NULL, msgspec.Raw(b'""'), msgspec.Raw(b"[]"), msgspec.Raw(b"{}"))


def read_big_chunk(data: Data) -> Event:
    """The same of a big event. Raises msgspec.DecodeError."""
    return read_chunk(data, _read_big)


def _read_big(data: Data) -> _Chunk:
    chunk = _decode_big_chunk(data)
    choices = [
        _Choice(choice.index, None, _has_big_output(choice), choice.finish_reason) for choice in chunk.choices or ()
    ]
    return _Chunk(choices, chunk.model, chunk.usage, chunk.error)


def _has_big_output(choice: _BigChoice) -> bool:
    delta = choice.delta
    if delta is None:
        return choice.text not in _NO_OUTPUT
    return any(getattr(delta, name) not in _NO_OUTPUT for name in _BigDelta.__struct_fields__)


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
    choices: msgspec.Raw = msgspec.Raw(b"null")


_decode_typed_event = msgspec.json.Decoder(_TypedEvent).decode
_TYPED_ENDS = {"transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed"}


def read_typed_event(data: Data, read: Callable[[Data], Event] = read_chunk) -> Event:
    """An event of a stream of sound, of its text or of pictures, as OpenAI has them. Raises msgspec.DecodeError.

    Some servers write transcripts as chats.
    """
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    found = _decode_typed_event(data)
    if found.choices != _NULL:
        return read(data)
    event = Event(deltas=int(found.type.endswith(".delta")), usage=read_usage(found.usage))
    event.finished = found.type in _TYPED_ENDS
    if found.error is not None:
        event.error = described(found.error)
    return event


def read_big_typed_event(data: Data) -> Event:
    """The same of a big event. Raises msgspec.DecodeError."""
    return read_typed_event(data, read_big_chunk)


_RESPONSES_LAST = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}


def read_responses_event(data: Data) -> Event:
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

    read_event: Callable[[Data], Event]
    usage_on_request: bool  # usage comes only with stream_options.include_usage
    read_big: Callable[[Data], Event]  # the same of a big event
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


CHUNKS = Dialect(read_chunk, usage_on_request=True, read_big=read_big_chunk, done=b"data: [DONE]\n\n")
_RESPONSES = Dialect(read_responses_event, usage_on_request=False, read_big=read_responses_event)


_TYPED = Dialect(read_typed_event, usage_on_request=False, read_big=read_big_typed_event)
DIALECTS = {
    RESPONSES: _RESPONSES,
    COMPACTIONS: _RESPONSES,
    **dict.fromkeys((TRANSCRIPTIONS, TRANSLATIONS, SPEECH, IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS), _TYPED),
}


def dialect(kind: str) -> Dialect:
    """Of kinds in OpenAI's style."""
    return DIALECTS.get(kind, CHUNKS)
