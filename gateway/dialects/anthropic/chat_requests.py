"""Translation of chat completion requests to requests of Anthropic's Messages API.

Each field of the request is translated, refused with its name, or left out; fields that were left out are named by
`Dropped`. Whether a field is refused or left out depends on its effect: a response without it must still be one that
the client can use.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict, cast

import msgspec

from gateway.base.types import Body
from gateway.dialects.anthropic.chat_parts import Block
from gateway.dialects.anthropic.chat_tools import (
    MessagesTool,
    MessagesToolFields,
    choice_of,
    custom_names,
    tool_fields,
    tools_of,
)
from gateway.dialects.anthropic.chat_turns import Marks, MessageTurn, MessageTurns
from gateway.dialects.chat.bodies import (
    SMALL_BYTES,
    checked,
    decoded_field,
    is_one_of,
    no_object,
    not_json,
    reading_in_steps,
    refusal,
)
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.shapes import (
    AnyChatTool,
    AnyFormat,
    AnyMessage,
    AnyMessages,
    Count,
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchemaFormat,
    Named,
    ToolChoice,
)
from gateway.dialects.chat.translation import Translation
from gateway.loop.time_slices import Slices, run_unsliced

OLD_VERSION, NEW_VERSION = "2023-06-01", "2026-10-21"  # of the API; the newer one refuses sampling parameters
DEFAULT_MAX_TOKENS = 4096  # Messages require a limit
MAX_MARKS = 4  # of prefixes to be cached
LEAST_TOP_P = 0.95  # least value beside thinking

_ONLY = "Messages"
_JSON_ALONE = "Respond with one JSON object, and with nothing before or after it."
_NULL = msgspec.Raw(b"null")

# Models that think only within a given number of tokens, and older ones that do not think. All later ones are adaptive.
_MANUAL = re.compile(
    r"claude-(?:3-7|(?:opus|sonnet|haiku)-4(?:-[0-5](?![0-9])|(?![0-9.])(?!-[0-9]{1,2}(?![0-9]))))"
)  # 3.7, and 4 to 4.5
_THOUGHTLESS = re.compile(r"claude-(?:3(?!-7)|2|instant)")
_BUDGETS = {"low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}  # tokens, by effort


class CacheOptions(msgspec.Struct):
    ttl: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Parameters(msgspec.Struct):
    """The fields that are translated, decoded one by one, so that an error names its field."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[AnyChatTool] | None = None
    tool_choice: ToolChoice | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: str | Named | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | None = None
    stop: str | list[str] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking: Mapping[str, Any] | None = None
    response_format: AnyFormat | None = None
    cache_control: Mapping[str, Any] | None = None
    prompt_cache_options: CacheOptions | None = None
    service_tier: str | None = None
    n: int | None = None
    logprobs: bool | int | None = None
    modalities: list[str] | None = None


_DECODERS = {field.name: msgspec.json.Decoder(field.type).decode for field in msgspec.structs.fields(_Parameters)}
_REFUSED = ("audio", "web_search_options")
_WITHOUT_EFFECT: Mapping[str, tuple[bytes, ...]] = {  # values that change nothing, and are not named
    "presence_penalty": (b"0", b"0.0"),
    "frequency_penalty": (b"0", b"0.0"),
    "logit_bias": (b"{}",),
    "top_logprobs": (b"0",),
    "store": (b"false",),
    "metadata": (b"{}",),
    "verbosity": (b'"medium"',),
}

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_messages = msgspec.json.Decoder(AnyMessages).decode
_encode = msgspec.json.Encoder().encode


class OutputFields(TypedDict, total=False):
    format: Mapping[str, Any]
    effort: str


class MessagesFields(MessagesToolFields, total=False):
    """A Messages request."""

    model: str
    max_tokens: int | None  # None until it is known
    output_config: OutputFields
    system: str | list[Block]
    messages: list[MessageTurn]
    thinking: Mapping[str, Any]
    temperature: float
    top_p: float
    top_k: int
    stop_sequences: list[str]
    service_tier: str
    cache_control: Mapping[str, Any]
    stream: bool


def to_messages(
    body: Body, model: str, version: str | None = None, *, max_output: int | None = None
) -> tuple[bytes, Translation]:
    """Return a chat completion request as a Messages request with the endpoint's model name. Raises Refusal (400, 413).

    `version`: that of the API, if the client has chosen one; `max_output`: the most output tokens of the model, if they
    are known, which are the limit of a request without one. The response needs the Translation.
    """
    return run_unsliced(translating_chat(body, model, version, max_output=max_output))


def translating_chat(
    body: Body, model: str, version: str | None = None, *, max_output: int | None = None, keeps_most: bool = False
) -> Slices[tuple[bytes, Translation]]:
    """Do the same in time slices if the body is large.

    `keeps_most`: rather leave out the thinking than raise the limit of tokens for it.
    """
    given, messages, dropped = yield from reading_in_steps(_decoding, body, _ONLY)
    try:
        request, version = _translated(given, messages, model, version, max_output, dropped)
        if keeps_most:
            _keep_most(request, given, dropped)
        if len(body) > SMALL_BYTES:
            yield
        encoded = _encode(request)
    except UnicodeDecodeError as error:  # in a part that was not decoded
        raise not_json(error) from None
    headers = ((b"anthropic-version", version.encode()),)
    custom, one_call = custom_names(given.tools or ()), given.functions is not None
    return encoded, Translation(headers, dropped.line(), custom, one_call)


def _decoding(body: Any) -> Slices[tuple[_Parameters, list[AnyMessage], Dropped]]:
    fields = _decode_object(body)
    yield
    given, dropped = _Parameters(), Dropped()
    for name, raw in fields.items():
        if raw == _NULL or name in ("model", "messages"):
            continue
        decode = _DECODERS.get(name)
        if decode is not None:
            setattr(given, name, decoded_field(decode, raw, _ONLY, name))
        elif name in _REFUSED:
            raise _unsupported(name)
        elif not is_one_of(raw, _WITHOUT_EFFECT.get(name, ())):
            dropped.add(name)
    _refuse_unsupported(given)
    if "messages" not in fields:
        raise refusal("`messages` is missing.", "messages")
    return given, decoded_field(_decode_messages, fields["messages"], _ONLY, "messages"), dropped


def _refuse_unsupported(given: _Parameters) -> None:
    if given.n is not None and given.n != 1:
        raise _unsupported("n")
    if given.logprobs:
        raise _unsupported("logprobs")
    if given.modalities is not None and any(one != "text" for one in given.modalities):
        raise _unsupported("modalities")


def _unsupported(name: str) -> Exception:
    return refusal(f"`{name}` is not supported by this endpoint, which supports only {_ONLY}.", name)


def _translated(
    given: _Parameters,
    messages: list[AnyMessage],
    model: str,
    version: str | None,
    max_output: int | None,
    dropped: Dropped,
) -> tuple[MessagesFields, str]:
    marks = Marks(given.prompt_cache_options.ttl if given.prompt_cache_options else None)
    is_old = _MANUAL.search(model) is not None or _THOUGHTLESS.search(model) is not None
    turns = MessageTurns(dropped, marks, system_turns=not is_old)
    turns.add_all(messages)
    most = given.max_completion_tokens or given.max_tokens
    tools = tools_of(given.functions, given.tools)
    parallel = given.parallel_tool_calls is not False and given.functions is None
    choice = choice_of(given.function_call, given.tool_choice)
    fields = tool_fields(tools, choice, marks, turns.called, parallel=parallel)
    request: MessagesFields = {"model": model, "max_tokens": most}
    request |= cast(MessagesFields, fields)
    _add_format(request, given, turns)
    if turns.system:
        alone = len(turns.system) == 1 and "cache_control" not in turns.system[0]
        request["system"] = turns.system[0]["text"] if alone else turns.system
    request["messages"] = turns.turns
    _add_thinking(request, given, model, max_output, dropped)
    version = _add_sampling(request, given, version, dropped)
    _add_others(request, given, dropped)
    _limit_marks(fields.get("tools", []), turns, given, dropped)
    return request, version


def _add_format(request: MessagesFields, given: _Parameters, turns: MessageTurns) -> None:
    form = given.response_format
    if isinstance(form, JsonObjectFormat):
        turns.system.append({"type": "text", "text": _JSON_ALONE})
    elif isinstance(form, JsonSchemaFormat):
        schema = form.json_schema.schema
        if bytes(memoryview(schema)[:1]) != b"{":
            raise no_object("response_format.json_schema.schema", "response_format")
        request["output_config"] = {"format": {"type": "json_schema", "schema": checked(schema)}}


def _add_thinking(
    request: MessagesFields, given: _Parameters, model: str, max_output: int | None, dropped: Dropped
) -> None:
    """Add the fields about thinking, and the limit of tokens, which includes those of thinking."""
    effort = "low" if given.reasoning_effort == "minimal" else given.reasoning_effort
    budget = 0
    if given.thinking is not None:
        request["thinking"] = given.thinking
        tokens = given.thinking.get("budget_tokens")
        budget = tokens if isinstance(tokens, int) and given.thinking.get("type") == "enabled" else 0
    elif effort == "none":
        if not _THOUGHTLESS.search(model):
            request["thinking"] = {"type": "disabled"}
    elif effort is not None:
        is_manual = _MANUAL.search(model) is not None
        is_forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
        # Models of a budget cannot think before a forced call; none can go on after a call without its thinking.
        if _THOUGHTLESS.search(model) or (is_manual and is_forced) or _lacks_thinking(request["messages"]):
            dropped.add("reasoning_effort")
        elif is_manual:
            budget = _BUDGETS[effort]
            request["thinking"] = {"type": "enabled", "budget_tokens": budget}
        else:
            request["thinking"] = {"type": "adaptive", "display": "summarized"}
            request.setdefault("output_config", {})["effort"] = effort
            budget = 0 if request["max_tokens"] else _BUDGETS[effort]
    if request["max_tokens"] is None:
        request["max_tokens"] = max_output if max_output and max_output > budget else DEFAULT_MAX_TOKENS + budget
    elif request["max_tokens"] <= budget:
        request["max_tokens"] += budget
        name = "max_completion_tokens" if given.max_completion_tokens else "max_tokens"
        dropped.add(name, str(request["max_tokens"]))


def _keep_most(request: MessagesFields, given: _Parameters, dropped: Dropped) -> None:
    """Take back a limit of tokens that was raised for the thinking, which is left out instead."""
    most = given.max_completion_tokens or given.max_tokens
    if most and (request["max_tokens"] or 0) > most:
        request["max_tokens"] = most
        del request["thinking"]
        dropped.forget("max_completion_tokens" if given.max_completion_tokens else "max_tokens")
        dropped.add("reasoning_effort" if given.thinking is None else "thinking")


def _lacks_thinking(turns: list[MessageTurn]) -> bool:
    """Return True if the last turn has results of calls that the client has sent back without their thinking."""
    if len(turns) < 2 or isinstance(turns[-1]["content"], str) or turns[-1]["content"][0]["type"] != "tool_result":
        return False
    calls = turns[-2]["content"]
    return not isinstance(calls, str) and calls[0]["type"] not in ("thinking", "redacted_thinking")


def _add_sampling(request: MessagesFields, given: _Parameters, version: str | None, dropped: Dropped) -> str:
    """Add sampling parameters as far as the version and thinking allow. Return the version of the API to be used.

    The default of temperature and top_p is 1 in both dialects, and is left out.
    """
    temperature, top_p = given.temperature, given.top_p
    if temperature is not None and temperature > 1:
        dropped.add("temperature", "1")
        temperature = None
    wanted: MessagesFields = {}
    if temperature is not None and temperature != 1:
        wanted["temperature"] = temperature
    if top_p is not None and top_p != 1:
        wanted["top_p"] = top_p
    if given.top_k is not None:
        wanted["top_k"] = given.top_k
    if version is not None and version >= NEW_VERSION:
        kept: tuple[str, ...] = ()
    elif request.get("thinking", {}).get("type", "disabled") == "disabled":
        kept = ("temperature", "top_p", "top_k")
    else:
        kept = ("top_p",) if wanted.get("top_p", 0) >= LEAST_TOP_P else ()
    for name in [name for name in wanted if name not in kept]:
        dropped.add(name)
        del wanted[name]  # type: ignore[misc]  # the name is one of the three
    request.update(wanted)
    return version or (OLD_VERSION if wanted else NEW_VERSION)


def _add_others(request: MessagesFields, given: _Parameters, dropped: Dropped) -> None:
    stops = [given.stop] if isinstance(given.stop, str) else given.stop or []
    kept = [stop for stop in stops if stop and not stop.isspace()]
    if len(kept) < len(stops):
        dropped.add("stop")
    if kept:
        request["stop_sequences"] = kept
    tier = {"auto": "auto", "default": "standard_only"}.get(given.service_tier or "")
    if tier is not None:
        request["service_tier"] = tier
    elif given.service_tier is not None:
        dropped.add("service_tier")
    if given.cache_control is not None:
        request["cache_control"] = given.cache_control
    if given.stream:
        request["stream"] = True


def _limit_marks(tools: list[MessagesTool], turns: MessageTurns, given: _Parameters, dropped: Dropped) -> None:
    """Keep the last marks: a prefix that ends at one of them includes the others."""
    marked: list[MessagesTool | Block] = [tool for tool in tools if "cache_control" in tool]
    marked += turns.marked_blocks()
    room = MAX_MARKS - (given.cache_control is not None)
    for one in marked[: max(0, len(marked) - room)]:
        del one["cache_control"]
        dropped.add("cache_control")
    if given.prompt_cache_options is not None and not marked:
        dropped.add("prompt_cache_options")
