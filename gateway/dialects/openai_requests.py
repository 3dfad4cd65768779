"""OpenAI's request bodies: read the fields that decide about routing, and replace single fields.

A body is never decoded whole. A field is replaced by splitting the object into raw values and joining them again, so
that unknown fields stay as the client wrote them.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from gateway.base.bounds import JSON_FIELD
from gateway.base.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.queue_class import FLEX
from gateway.base.types import Body, Data
from gateway.dialects.json_outline import Outline, outline_of, too_deep
from gateway.dialects.json_text import MAX_FIELD_BYTES, encode
from gateway.dialects.prompt_fields import PromptFields
from gateway.dialects.requested_tokens import (
    NAMES_OF_CHOICES,
    NAMES_OF_MOST,
    PROMPT_LISTS,
    RequestedTokens,
    choices_of,
    counting_prompts,
    is_list,
    most_of,
    prompts_in,
    values_of_choices,
    values_of_most,
)
from gateway.dialects.surrogates import read_body, replaced
from gateway.loop.time_slices import Slices, run_unsliced

MAX_MODEL_NAME = 256
MAX_MODELS = 5  # of the list `models`
SMALL_BYTES = 128 << 10  # a larger body is read in time slices
_LONG_NAME = f"`model` has more than {MAX_MODEL_NAME} characters."


class SmallRequest(RequestedTokens, kw_only=True):
    """The fields of a small body that are read, and its prompt as raw JSON."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL_NAME)]
    stream: bool | None = None
    stream_options: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    service_tier: Any = None
    models: Any = msgspec.UNSET  # steps of the request's own
    background: Any = None


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
    choices: int = 1  # responses, or images, that the client asks for at once; NO_BOUND if their number is not known
    background: bool = False  # the client reads the response later


_decode_request = msgspec.json.Decoder(SmallRequest).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_request(body: Body) -> Request:
    """Read a body of any size. Raises Refusal (400, 413), which names the wrong field."""
    return run_unsliced(reading_request(body))[0]


def reading_request(body: Body) -> Slices[tuple[Request, PromptFields, Outline | None]]:
    """Read the fields that decide about routing, and the prompt; of a body of more than SMALL_BYTES in time slices.

    The prompt shares the memory of the body. Such a body has an outline, too. Raises Refusal (400, 413).
    """
    if len(body) <= SMALL_BYTES:
        small = decode_small(body)
        prompts = 0
        if (small.prompt and is_list(small.prompt)) or small.prompt_embeds:
            prompts = prompts_in((small.prompt, small.prompt_embeds))
        return request_of(small, prompts), small, None
    top = yield from outline_of(body)
    prompts = yield from counting_prompts(body, [top.values.get(name.encode()) for name in PROMPT_LISTS])
    parsed = request_of(decode_small(_excerpt(_read_of(body, top))), prompts)
    model_at, options_at = top.values.get(_MODEL), top.values.get(_OPTIONS)
    return msgspec.structs.replace(parsed, model_at=model_at, options_at=options_at), prompt_of(body, top), top


def decode_small(body: Body) -> SmallRequest:
    """Decode a body of at most SMALL_BYTES. Raises Refusal (400)."""
    try:
        return read_body(_decode_request, body)
    except msgspec.ValidationError as error:
        named = _first_named(body) if "missing required field `model`" in str(error) else None
        if named is None:
            raise Refusal(400, INVALID_REQUEST, _explain(str(error)), param=_param(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    return decode_small(named)


def request_of(fields: SmallRequest, prompts: int = 0) -> Request:
    """Check the fields of a body. `prompts`: their number, if they are in lists. Raises Refusal (400)."""
    if not fields.model.strip():
        raise Refusal(400, INVALID_REQUEST, "`model` must name a model; GET /v1/models lists them.", param="model")
    has_options, has_models = fields.stream_options is not msgspec.UNSET, fields.models is not msgspec.UNSET
    return Request(
        model=fields.model,
        stream=fields.stream is True,
        wants_usage=has_options and (fields.stream_options or {}).get("include_usage") is True,
        has_options=has_options,
        max_tokens=most_of(values_of_most(fields)),
        is_flex=fields.service_tier == FLEX,
        models=_listed(fields.models) if has_models and fields.models is not None else None,
        choices=choices_of(values_of_choices(fields), prompts),
        background=bool(fields.background),
    )


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


# Large bodies, of which only an excerpt is parsed

_MODEL, _OPTIONS = b"model", b"stream_options"
_READ = (b"model", b"stream", b"stream_options", b"models")
_SHORT = tuple(name.encode() for name in (*NAMES_OF_MOST, *NAMES_OF_CHOICES, "service_tier", "background"))
MAX_SHORT_BYTES = 20  # a longer value is neither a number of tokens nor a service tier
_LONG = b'"long"'  # in its place


def prompt_of(body: Body, top: Outline) -> PromptFields:
    """Return the prompt of a large body. It shares the memory of the body."""
    view = memoryview(body)
    places = ((name, top.values.get(name.encode())) for name in PromptFields.__struct_fields__)
    return PromptFields(**{name: msgspec.Raw(view[slice(*place)]) for name, place in places if place is not None})


def _excerpt(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%b' % field for field in fields)


def _read_of(body: Body, top: Outline) -> Iterator[tuple[bytes, bytes]]:
    for name in _READ:
        place = top.values.get(name)
        if place is not None:
            _check_size(name, place[1] - place[0])
            yield name, bytes(body[slice(*place)])
    for name in _SHORT:
        place = top.values.get(name)
        if place is not None:
            is_short = place[1] - place[0] <= MAX_SHORT_BYTES
            yield name, bytes(body[slice(*place)]) if is_short else _LONG


def _check_size(name: bytes, size: int) -> None:
    if size > MAX_FIELD_BYTES:
        if name == _MODEL:
            raise _long_name()
        field = name.decode()
        message = f"`{field}` has more than {MAX_FIELD_BYTES >> 10} KiB."
        raise Refusal(413, REQUEST_TOO_LARGE, message, param=field, bound=JSON_FIELD)


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
    position = 0
    if include_usage and request.options_at is None:
        position = body.index(b"{") + 1
        pieces += (view[:position], _USAGE)
    for (start, end), value in sorted(changes):
        pieces += (view[position:start], value)
        position = end
    return (*pieces, view[position:])


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
