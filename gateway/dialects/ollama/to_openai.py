"""Translation of Ollama's requests to OpenAI's: chat completions, completions and embeddings.

A field is translated, refused with its name, or left out and named by `Dropped`. It is refused if the response would
not be one that the client can use. Parameters of a model name (`own`) are passed on as they are.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.base.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, OLLAMA_CHAT, OLLAMA_EMBED
from gateway.base.types import Body
from gateway.dialects.chat.bodies import SMALL_BYTES, checked, not_json, reading, refusal
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.ollama.requests import FIELDS, TO_CHAT
from gateway.dialects.ollama.shapes import NOTHING, Message, OllamaCall, ToEmbed, ToTranslate
from gateway.loop.time_slices import Slices

_ONLY = "OpenAI's API"
_EVERYWHERE = frozenset(
    ("num_predict", "temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
)
# Further options of servers, by the type of the endpoint, with the names that they have there.
_MORE: Mapping[str, Mapping[str, str]] = {
    "vllm": {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    "llamacpp": {
        **{name: name for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")},
        **{name: name for name in ("mirostat", "mirostat_tau", "mirostat_eta")},
        "num_keep": "n_keep",
    },
    "lm_studio": {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty"},
}
_EFFORTS = ("low", "medium", "high", "max")
# The first characters of images in base64, by their media types.
_MEDIA = {"/9j/": "jpeg", "iVBOR": "png", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}

_decode = msgspec.json.Decoder(ToTranslate).decode
_decode_embed = msgspec.json.Decoder(ToEmbed).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Translated(NamedTuple):
    """A request in OpenAI's dialect."""

    kind: str  # CHAT, COMPLETIONS or EMBEDDINGS
    body: bytes
    dropped: bytes  # header line of the response with the fields that were left out


def translating(body: Body, kind: str, model: str, endpoint_kind: str, *, has_own: bool) -> Slices[Translated]:
    """Translate a request of a kind, in time slices if it is large. Raises Refusal (400, 413).

    `model`: the endpoint's own name; `endpoint_kind`: its type; `has_own`: the body has parameters of a model name at
    the top level. A stream always requests its usage.
    """
    dropped = Dropped()
    own: dict[str, msgspec.Raw] = {}
    if has_own:
        fields: dict[str, msgspec.Raw] = yield from reading(_decode_object, body, _ONLY)
        own = {name: _valid(value) for name, value in fields.items() if name not in FIELDS}
    request: MutableMapping[str, Any]
    if kind == OLLAMA_EMBED:
        texts: ToEmbed = yield from reading(_decode_embed, body, _ONLY)
        return Translated(EMBEDDINGS, _encode({**_embedding(texts, model, dropped), **own}), dropped.line())
    given: ToTranslate = yield from reading(_decode, body, _ONLY)
    if len(body) > SMALL_BYTES:
        yield
    to = CHAT
    if kind == OLLAMA_CHAT:
        request = {"model": model, "messages": messages_of(given.messages or ())}
    elif given.raw or given.suffix:
        to, request = COMPLETIONS, _completion(given, model)
    else:
        request = {"model": model, "messages": _generation(given)}
    _add_fields(request, given, to, dropped)
    request.update(_options(given.options or {}, endpoint_kind, dropped))
    if given.stream is not False:
        request["stream"] = True
        request["stream_options"] = {"include_usage": True}
    return Translated(to, _encode({**request, **own}), dropped.line())


def _embedding(given: ToEmbed, model: str, dropped: Dropped) -> Mapping[str, Any]:
    texts = given.prompt if given.input is None else given.input
    if texts is None:
        raise refusal("`input` is missing.", "input")
    for name in given.options or {}:
        dropped.add(f"options.{name}")
    if given.truncate is not None:
        dropped.add("truncate")
    more = {} if given.dimensions is None else {"dimensions": given.dimensions}
    return {"model": model, "input": texts, **more}


def _completion(given: ToTranslate, model: str) -> MutableMapping[str, Any]:
    if given.images:
        raise refusal("`images` cannot be used with `raw` or `suffix` at this endpoint.", "images")
    more = {"suffix": given.suffix} if given.suffix else {}
    return {"model": model, "prompt": given.prompt or "", **more}


def _generation(given: ToTranslate) -> list[Mapping[str, Any]]:
    turns = [Message("system", given.system)] if given.system else []
    turns.append(Message("user", given.prompt, images=given.images))
    return messages_of(turns)


def _add_fields(request: MutableMapping[str, Any], given: ToTranslate, kind: str, dropped: Dropped) -> None:
    if given.template:
        dropped.add("template")
    if given.tools not in (NOTHING, msgspec.Raw(b"[]")):
        request["tools"] = _valid(given.tools)
    if given.format not in (NOTHING, msgspec.Raw(b'""')):
        if kind == COMPLETIONS:
            raise refusal("`format` cannot be used with `raw` or `suffix` at this endpoint.", "format")
        request["response_format"] = _response_format(given.format)
    if given.think is False:
        request["reasoning_effort"] = "none"
    elif given.think in _EFFORTS:
        request["reasoning_effort"] = given.think
    elif given.think is not None and given.think is not True:
        raise refusal("`think` must be true, false, or one of: low, medium, high, max.", "think")
    if given.logprobs or given.top_logprobs:
        dropped.add("logprobs")


def _response_format(form: msgspec.Raw) -> Mapping[str, Any]:
    if bytes(form) == b'"json"':
        return {"type": "json_object"}
    if bytes(memoryview(form)[:1]) != b"{":
        raise refusal('`format` must be "json" or a JSON schema.', "format")
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": _valid(form)}}


def _options(given: Mapping[str, msgspec.Raw], endpoint_kind: str, dropped: Dropped) -> dict[str, msgspec.Raw]:
    more = _MORE.get(endpoint_kind, {})
    options: dict[str, msgspec.Raw] = {}
    for name, value in given.items():
        if value == NOTHING or (name == "num_predict" and bytes(value).startswith(b"-")):
            continue  # -1: no limit, -2: until the context is full
        if name in _EVERYWHERE:
            options[TO_CHAT.get(name, name)] = _valid(value)
        elif name in more:
            options[more[name]] = _valid(value)
        else:
            dropped.add(f"options.{name}")
    return options


def _valid(raw: msgspec.Raw) -> msgspec.Raw:
    """Return a value that is passed on as it is. Raises Refusal if it is not UTF-8, which no decoder has checked."""
    try:
        return checked(raw)
    except UnicodeDecodeError as error:
        raise not_json(error) from None


# Messages


def messages_of(turns: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Return the messages of a chat completion.

    Ollama may leave out the ids of calls, so calls get ids here, and each result the id of the first call of its name
    that has none.
    """
    messages: list[Mapping[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # ids and names of calls without a result
    count = 0
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": _content(turn)}
        if turn.role == "assistant":
            if turn.thinking:
                message["reasoning_content"] = turn.thinking
            if turn.tool_calls:
                calls = []
                for call in turn.tool_calls:
                    call_id = call.id or f"call_{count}"
                    count += 1
                    open_calls.append((call_id, call.function.name))
                    calls.append(_call(call, call_id))
                message["tool_calls"] = calls
        elif turn.role == "tool":
            message["tool_call_id"] = _answered(open_calls, turn)
        messages.append(message)
    return messages


def _call(call: OllamaCall, call_id: str) -> Mapping[str, Any]:
    arguments = bytes(call.function.arguments).decode("utf-8", "replace")
    return {"id": call_id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _answered(open_calls: list[tuple[str, str]], turn: Message) -> str:
    """Return the id of the call that a message answers, and remove that call."""
    for place, (call_id, name) in enumerate(open_calls):
        if turn.tool_call_id == call_id or (turn.tool_call_id is None and turn.tool_name in (None, "", name)):
            del open_calls[place]
            return call_id
    if turn.tool_call_id is not None:
        return turn.tool_call_id
    return open_calls.pop(0)[0] if open_calls else "call_0"


def _content(turn: Message) -> str | list[Mapping[str, Any]]:
    if not turn.images:
        return turn.content or ""
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": turn.content}] if turn.content else []
    return parts + [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in turn.images]


def _data_url(image: str) -> str:
    """Return an image as a data URL, whose type its first characters show."""
    if image.startswith("data:"):
        return image
    if image.startswith(("http://", "https://")):
        raise refusal("`images` must be base64, not addresses.", "images")
    media = next((media for start, media in _MEDIA.items() if image.startswith(start)), "png")
    return f"data:image/{media};base64,{image}"
