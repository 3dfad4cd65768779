"""OpenAI's request bodies: read the fields that decide about routing, and replace single fields.

A body is never decoded whole. A field is replaced by splitting the object into raw values and joining them again, so
that unknown fields stay as the client wrote them.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from gateway.base.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.limits import JSON_FIELD
from gateway.base.queue_class import FLEX
from gateway.base.types import Body, Data
from gateway.dialects.json_outline import Outline, expects_long_strings, outline_in_slices, quick_outline, too_deep
from gateway.dialects.json_text import MAX_FIELD_BYTES, encode
from gateway.dialects.prompt_fields import MISSING, PromptFields
from gateway.dialects.surrogates import read_body, replaced
from gateway.loop.time_slices import Slices, run_unsliced

MAX_MODEL_NAME = 256
MAX_MODELS = 5  # of the list `models`
MAX_CHOICES = 1000  # a larger `n` is an error of the client, which the endpoint reports
BIG_BYTES = 128 << 10  # a larger body is not parsed whole
WHOLE_BYTES = 2 << 20  # a large body up to this size may go to the parser if it has no outline
MAX_WHOLE_NAMES = 50_000  # top-level names of such a body
NAME_BYTES = 5  # of the shortest name with its value: "":1,
_LONG_NAME = f"`model` has more than {MAX_MODEL_NAME} characters."


class SmallRequest(PromptFields, kw_only=True):
    """The fields of a small body that are read, and its prompt as raw JSON."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL_NAME)]
    stream: bool | None = None
    stream_options: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    # The most output tokens, by the names of Responses, chat completions, and the older one.
    max_output_tokens: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    service_tier: Any = None
    models: Any = msgspec.UNSET  # steps of the request's own
    n: Any = None  # choices, or images


class Request(msgspec.Struct, frozen=True):
    """Fields of a request's body that decide about routing."""

    model: str
    stream: bool
    wants_usage: bool  # the client asked for stream_options.include_usage itself
    has_options: bool = True  # the body has the key `stream_options`
    model_at: tuple[int, int] | None = None  # start and end of the value of `model` in a large body
    options_at: tuple[int, int] | None = None  # the same of `stream_options`
    max_tokens: int | None = None  # the most output tokens
    is_flex: bool = False  # service_tier says that it may take longer
    models: tuple[str, ...] | None = None  # that are tried after `model`, in this order
    needs: frozenset[str] = frozenset()  # of a model: see gateway.dialects.needs; only if some of the models lack any
    choices: int = 1  # responses, or images, that the client asks for at once


_decode_request = msgspec.json.Decoder(SmallRequest).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_request(body: Body) -> Request:
    """Read a body of any size. Raises Refusal (400, 413), which names the wrong field."""
    if len(body) > BIG_BYTES:
        return parse_large(body, run_unsliced(split_large(body)))
    return parse_whole(body)


def parse_whole(body: Body) -> Request:
    """Read a body of at most BIG_BYTES. Raises Refusal (400)."""
    return request_of(decode_small(body))


def decode_small(body: Body) -> SmallRequest:
    """Decode a body of at most BIG_BYTES. Raises Refusal (400)."""
    try:
        return read_body(_decode_request, body)
    except msgspec.ValidationError as error:
        named = _first_named(body) if "missing required field `model`" in str(error) else None
        if named is None:
            raise Refusal(400, INVALID_REQUEST, _explain(str(error)), param=_param(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    return decode_small(named)


def request_of(found: SmallRequest) -> Request:
    """Check the fields of a small body. Raises Refusal (400)."""
    if not found.model.strip():
        raise Refusal(400, INVALID_REQUEST, "`model` must name a model; GET /v1/models lists them.", param="model")
    most = found.max_tokens
    if most is None and (most := found.max_completion_tokens) is None:
        most = found.max_output_tokens
    is_flex = found.service_tier == FLEX
    if found.models is not msgspec.UNSET and found.models is not None:
        parsed = request_of(msgspec.structs.replace(found, models=msgspec.UNSET))
        return msgspec.structs.replace(parsed, models=_listed(found.models))
    if found.n is not None:
        parsed = request_of(msgspec.structs.replace(found, n=None))
        is_number = type(found.n) is int and 1 <= found.n <= MAX_CHOICES
        return msgspec.structs.replace(parsed, choices=found.n) if is_number else parsed
    if most is not None and (type(most) is not int or most < 0):
        most = None
    if most is not None or is_flex:
        has_options = found.stream_options is not msgspec.UNSET
        wants_usage = has_options and (found.stream_options or {}).get("include_usage") is True
        return Request(found.model, found.stream is True, wants_usage, has_options, None, None, most, is_flex)
    if found.stream_options is msgspec.UNSET:
        return Request(found.model, found.stream is True, False, False)  # keyword arguments are slower
    options = found.stream_options or {}
    return Request(found.model, found.stream is True, options.get("include_usage") is True)


def _listed(models: object) -> tuple[str, ...]:
    """Return the models of a list that a request may have. Raises Refusal (400)."""
    if not isinstance(models, list) or not 0 < len(models) <= MAX_MODELS:
        message = f"`models` must be a list of 1 to {MAX_MODELS} models, which are tried in this order."
        raise Refusal(400, INVALID_REQUEST, message, param="models")
    if not all(isinstance(model, str) and model.strip() and len(model) <= MAX_MODEL_NAME for model in models):
        message = f"Each of `models` must be the name of a model, of at most {MAX_MODEL_NAME} characters."
        raise Refusal(400, INVALID_REQUEST, message, param="models")
    return tuple(models)


def _first_named(body: Body) -> bytes | None:
    """Return a body without `model` with the first of its `models` instead; None if it has none, or is no JSON."""
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    models = msgspec.json.decode(fields.get("models", b"null"))
    if not isinstance(models, list):
        return None
    return encode({**fields, "model": _listed(models)[0]})


def _not_json(error: Exception) -> Refusal:
    if isinstance(error, RecursionError):
        return too_deep()
    return Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.")


def _long_name() -> Refusal:
    return Refusal(400, INVALID_REQUEST, _LONG_NAME, param="model")


# Large bodies, which are not parsed whole

_MODEL, _OPTIONS = b"model", b"stream_options"
_READ = (b"model", b"stream", b"stream_options", b"models")
_SHORT = (b"max_output_tokens", b"max_completion_tokens", b"max_tokens", b"service_tier", b"n")
MAX_SHORT_BYTES = 20  # a longer value is neither a number of tokens nor a service tier


class Fields(PromptFields, kw_only=True):
    """The fields of a large body that are read, and its prompt, as raw JSON; empty without the field."""

    model: msgspec.Raw = MISSING
    stream: msgspec.Raw = MISSING
    stream_options: msgspec.Raw = MISSING
    models: msgspec.Raw = MISSING
    max_output_tokens: msgspec.Raw = MISSING
    max_completion_tokens: msgspec.Raw = MISSING
    max_tokens: msgspec.Raw = MISSING
    service_tier: msgspec.Raw = MISSING
    n: msgspec.Raw = MISSING


_decode_fields = msgspec.json.Decoder(Fields).decode


def split_large(body: Body) -> Slices[Outline | Fields]:
    """Find the fields of a body of more than BIG_BYTES, by its outline or by a parser. Raises Refusal (400, 413)."""
    may_be_whole = len(body) <= WHOLE_BYTES
    if expects_long_strings(body) or not may_be_whole:
        top = quick_outline(body)
        if top is not None:
            return top
    if may_be_whole:
        fields = parse_fields(body)
        if _has_few_names(body, fields):
            return fields
    return (yield from outline_in_slices(body))


def _has_few_names(body: Body, fields: Fields) -> bool:
    """Return whether the top level has at most MAX_WHOLE_NAMES names.

    Counting takes as long as parsing, so that the size of the rest decides first.
    """
    rest = len(body) - len(fields.messages) - len(fields.input) - len(fields.prompt) - len(fields.tools)
    return rest <= MAX_WHOLE_NAMES * NAME_BYTES or body.count(b":") <= MAX_WHOLE_NAMES


def parse_large(body: Body, found: Outline | Fields) -> Request:
    """Read the fields that `split_large` found. Raises Refusal (400, 413)."""
    if isinstance(found, Fields):
        return parse_whole(_excerpt(_small_fields(found)))
    parsed = parse_whole(_excerpt((name, bytes(body[slice(*at)])) for name, at in _read_of(found)))
    model_at, options_at = found.values.get(_MODEL), found.values.get(_OPTIONS)
    return msgspec.structs.replace(parsed, model_at=model_at, options_at=options_at)


def prompt_of(body: Body, found: Outline | Fields) -> PromptFields:
    """Return the prompt of a large body. It shares the memory of the body."""
    if isinstance(found, Fields):
        return found
    view = memoryview(body)
    places = ((name, found.values.get(name.encode())) for name in PromptFields.__struct_fields__)
    return PromptFields(**{name: msgspec.Raw(view[slice(*place)]) for name, place in places if place is not None})


def _excerpt(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%b' % field for field in fields)


def _read_of(top: Outline) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for name in _READ:
        place = top.values.get(name)
        if place is not None:
            _check_size(name, place[1] - place[0])
            yield name, place
    for name in _SHORT:
        place = top.values.get(name)
        if place is not None and place[1] - place[0] <= MAX_SHORT_BYTES:
            yield name, place


def _small_fields(found: Fields) -> Iterator[tuple[bytes, bytes]]:
    for name in _READ:
        value = bytes(getattr(found, name.decode()))
        _check_size(name, len(value))
        if value:
            yield name, value
    for name in _SHORT:
        value = bytes(getattr(found, name.decode()))
        if 0 < len(value) <= MAX_SHORT_BYTES:
            yield name, value


def parse_fields(body: Body) -> Fields:
    """Decode the fields of a body of at most WHOLE_BYTES. Raises Refusal (400)."""
    try:
        return read_body(_decode_fields, body)
    except msgspec.ValidationError as error:
        raise Refusal(400, INVALID_REQUEST, _explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None


def _check_size(name: bytes, size: int) -> None:
    if size > MAX_FIELD_BYTES:
        if name == _MODEL:
            raise _long_name()
        field = name.decode()
        message = f"`{field}` has more than {MAX_FIELD_BYTES >> 10} KiB."
        raise Refusal(413, REQUEST_TOO_LARGE, message, param=field, limit=JSON_FIELD)


def _explain(error: str) -> str:
    if "missing required field `model`" in error:
        return "`model` is missing; GET /v1/models lists the models."
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
    """Return the body with `model` replaced, and stream_options.include_usage set. Raises Refusal (400)."""
    if model is None and not include_usage:
        return body
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # in a part that `parse_request` skipped
        raise Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.") from None
    if model is not None:
        fields["model"] = msgspec.Raw(encode(model))
    if include_usage:
        options = _options(fields.get("stream_options"))
        fields["stream_options"] = msgspec.Raw(encode({**options, "include_usage": True}))
    return encode(fields)


def splice(body: Body, request: Request, *, model: str | None, include_usage: bool) -> tuple[Data, ...]:
    """Return a large body in parts that share its memory, with `model` replaced and stream_options.include_usage set.

    `request` has the places of the fields. Raises Refusal (400).
    """
    changes: list[tuple[tuple[int, int], bytes]] = []
    if model is not None and request.model_at is not None:
        changes.append((request.model_at, encode(model)))
    if include_usage and request.options_at is not None:
        options = _options(msgspec.Raw(body[slice(*request.options_at)]))
        changes.append((request.options_at, encode({**options, "include_usage": True})))
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
    """Return a body without stream_options in two parts, with stream_options.include_usage before its first key.

    `parse_request` has found an object with a `model`, so that a comma may follow.
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
