"""Ollama's request bodies: the fields that decide about routing, and the changes for an endpoint that is an Ollama.

Bodies are those of https://docs.ollama.com/api. `stream` is true by default.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.base.types import Body
from gateway.dialects.json_outline import Outline
from gateway.dialects.json_text import MAX_FIELD_BYTES, encode
from gateway.dialects.openai_requests import MAX_MODEL_NAME, Request
from gateway.dialects.prompt_fields import MISSING, PromptFields
from gateway.dialects.requested_tokens import (
    NAMES_OF_CHOICES,
    NAMES_OF_MOST,
    RequestedTokens,
    choices_of,
    most_of,
    values_of_choices,
    values_of_most,
)
from gateway.dialects.surrogates import read_body
from gateway.registry.patterns import LATEST

# The fields of Ollama's own at the top level. All others are parameters of a model name, or unknown.
FIELDS = frozenset(
    (
        *("model", "messages", "prompt", "input", "system", "suffix", "template", "context", "raw", "images", "tools"),
        *("stream", "format", "options", "think", "keep_alive", "truncate", "shift", "dimensions", "logprobs"),
        "top_logprobs",
    )
)
# Options that a model name may change by their names in chat completions; two differ.
TO_CHAT = {"num_predict": "max_tokens"}
_TO_OPTION = {"max_tokens": "num_predict", "max_completion_tokens": "num_predict"}
_LIFTED = frozenset(
    (
        *("num_predict", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
        *("presence_penalty", "frequency_penalty"),
    )
)
_EMPTY = (b"", b"null", b'""', b"[]")
_READ = (b"model", b"stream", b"options", b"keep_alive")
_PROMPTS = ("messages", "prompt", "input")
_SHORT = (*NAMES_OF_MOST, *NAMES_OF_CHOICES)
MAX_SHORT_BYTES = 20  # of a number
_LONGER = msgspec.Raw(b"[0]")  # stands for a long value, of which only its presence counts


class OllamaRequest(Request, frozen=True):
    """Fields of a body that decide about routing. `model` is the name by which it is routed."""

    shown: str = ""  # the name that the client sent, and receives
    is_empty: bool = False  # it has no prompt: it only loads the model, or unloads it
    unloads: bool = False  # keep_alive is 0
    has_keep_alive: bool = False
    has_context: bool = False  # tokens of an earlier response, which only the server that sent them understands
    places: Mapping[bytes, tuple[int, int]] | None = None  # of the top-level values in a large body


class _Options(msgspec.Struct):
    num_predict: Any = None


class SmallOllamaRequest(RequestedTokens, kw_only=True):
    """The fields of a body that are read, and its prompt as raw JSON."""

    model: Any = None
    stream: bool | None = None
    options: _Options | None = None
    keep_alive: Any = msgspec.UNSET
    context: msgspec.Raw = MISSING


_decode = msgspec.json.Decoder(SmallOllamaRequest).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_small(body: Body) -> SmallOllamaRequest:
    """Decode a body of at most SMALL_BYTES. Raises Refusal (400)."""
    if not body.strip():
        raise _refusal("The body is missing: it must be a JSON object.")
    try:
        return read_body(_decode, body)
    except msgspec.ValidationError as error:
        text = str(error)
        raise _refusal(f"Invalid request: {text}." if "$" in text else "The body must be a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(f"The body is not valid JSON: {error}.") from None


def fields_of(body: Body, top: Outline) -> SmallOllamaRequest:
    """Read the fields of a large body; its prompt shares the memory of the body. Raises Refusal (400)."""
    view = memoryview(body)
    pairs = []
    for name in _READ:
        start, end = top.values.get(name, (0, 0))
        if end - start > MAX_FIELD_BYTES:
            raise _refusal(f"`{name.decode()}` has more than {MAX_FIELD_BYTES >> 10} KiB.", name.decode())
        if end:
            pairs.append(b'"%b":%b' % (name, bytes(view[start:end])))
    for short in _SHORT:
        if (place := top.values.get(short.encode())) is not None:
            is_short = place[1] - place[0] <= MAX_SHORT_BYTES
            pairs.append(b'"%b":%b' % (short.encode(), bytes(view[slice(*place)]) if is_short else b"[]"))
    fields = decode_small(b"{%b}" % b",".join(pairs))
    for prompt in PromptFields.__struct_fields__:
        if (place := top.values.get(prompt.encode())) is not None:
            setattr(fields, prompt, msgspec.Raw(view[slice(*place)]))
    start, end = top.values.get(b"context", (0, 0))
    if end:
        fields.context = msgspec.Raw(bytes(view[start:end])) if end - start <= len(b"null") else _LONGER
    return fields


def request_of(fields: SmallOllamaRequest, places: Mapping[bytes, tuple[int, int]] | None = None) -> OllamaRequest:
    """Check the fields of a body. `places`: of the values in a large one. Raises Refusal (400)."""
    name = fields.model
    if not isinstance(name, str) or not name.strip():
        raise _refusal("`model` must name a model; GET /api/tags lists them.", "model")
    if len(name) > MAX_MODEL_NAME:
        raise _refusal(f"`model` has more than {MAX_MODEL_NAME} characters.", "model")
    most = None if fields.options is None else fields.options.num_predict
    if most is not None:  # with a model name, what the top level has takes effect, too
        most = most_of((most, *values_of_most(fields)))
    return OllamaRequest(
        model=name,
        stream=fields.stream is not False,
        wants_usage=True,
        max_tokens=most,
        choices=choices_of(values_of_choices(fields)),
        shown=name,
        is_empty=all(_is_empty(getattr(fields, field)) for field in _PROMPTS),
        unloads=_is_zero(fields.keep_alive),
        has_keep_alive=fields.keep_alive is not msgspec.UNSET,
        has_context=not _is_empty(fields.context),
        places=places,
    )


def _is_empty(raw: msgspec.Raw) -> bool:
    view = memoryview(raw)
    return len(view) <= len(b"null") and bytes(view) in _EMPTY


def _is_zero(keep_alive: Any) -> bool:
    """Return True for a duration of 0: a number of seconds, or text such as `0s`."""
    if isinstance(keep_alive, str):
        return keep_alive.rstrip("hmsnuµ") in ("0", "0.0")
    return type(keep_alive) in (int, float) and keep_alive == 0


def tagged(name: str) -> str:
    """Return a model's name as Ollama lists it, with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


# Bodies for endpoints that are an Ollama


def native_fields(fields: dict[str, msgspec.Raw], model: str, *, keep_alive: bool) -> None:
    """Change the fields of a body: the endpoint's own name of the model, and no `keep_alive` unless it passes."""
    fields["model"] = msgspec.Raw(encode(model))
    if not keep_alive:
        fields.pop("keep_alive", None)


def lifted(body: Body) -> bytes:
    """Return a body with its usual options at the top level, by their names in chat completions, so that the
    parameters of a model name change them.
    """
    fields = _object(body)
    options = _object(bytes(fields.get("options", b"{}")))
    for name in _LIFTED.intersection(options):
        fields.setdefault(TO_CHAT.get(name, name), options.pop(name))
    fields["options"] = msgspec.Raw(encode(options))
    return encode(fields)


def put_back(fields: dict[str, msgspec.Raw]) -> None:
    """Undo `lifted`. Parameters of a model name that are no option of Ollama's are removed."""
    options = _object(bytes(fields.get("options", b"{}")))
    for name in fields.keys() - FIELDS:
        value, option = fields.pop(name), _TO_OPTION.get(name, name)
        if option in _LIFTED:
            options[option] = value
    fields["options"] = msgspec.Raw(encode(options))


def _object(body: Body) -> dict[str, msgspec.Raw]:
    if bytes(body[:4]) == b"null":
        return {}
    try:
        return read_body(_decode_object, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(f"The body is not valid JSON: {error}.") from None


def _refusal(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, INVALID_REQUEST, message, param=param)
