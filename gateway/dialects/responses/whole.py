"""Translation of whole chat completions to response objects, and what they share with streams."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from gateway.dialects.chat.completions import (
    Choice,
    OutputMessage,
    arguments,
    call_id,
    custom_input,
    plain_text,
    read_completion,
    string,
    thinking,
)
from gateway.dialects.chat.completions import Function as CalledFunction
from gateway.dialects.responses.objects import ResponsePayload, bare_response, new_id
from gateway.dialects.responses.translation import SEAL, CalledTool, ResponsesTranslation
from gateway.dialects.usage import CONTENT_FILTER, ERROR, LENGTH, NOT_REPORTED, Usage, finish_reason

OUTPUT_TEXT, REFUSAL, SUMMARY_TEXT, REASONING_TEXT = "output_text", "refusal", "summary_text", "reasoning_text"
COMPLETED, INCOMPLETE, FAILED, IN_PROGRESS = "completed", "incomplete", "failed", "in_progress"
ENDED_BY_FAULT = "The endpoint ended the response because of a fault."

# Fields that each response object must have, with the values that they have at OpenAI if the request has none.
_DEFAULTS: Mapping[str, Any] = {
    "completed_at": None,
    "previous_response_id": None,
    "instructions": None,
    "metadata": {},
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "background": False,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
}

_encode = msgspec.json.Encoder().encode


class ResponseEnd(TypedDict, total=False):
    """The fields of a response object that its end decides."""

    status: str
    incomplete_details: Mapping[str, str] | None
    error: Mapping[str, str] | None


def ending_of(choice: Choice | None) -> ResponseEnd:
    """Return the status of a response by the reason why it ended."""
    reason = None if choice is None else finish_reason(choice.finish_reason)
    if reason == LENGTH:
        return {"status": INCOMPLETE, "incomplete_details": {"reason": "max_output_tokens"}}
    if reason == CONTENT_FILTER:
        return {"status": INCOMPLETE, "incomplete_details": {"reason": "content_filter"}}
    if reason == ERROR:
        return {"status": FAILED, "error": {"code": "server_error", "message": ENDED_BY_FAULT}}
    return {"status": COMPLETED}


def response_usage(usage: Usage | None) -> Mapping[str, Any] | None:
    """Return the `usage` of a response object: its format requires numbers, so that a missing count is 0."""
    if usage is None:
        return None
    made, out = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": made,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": out,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": made + out,
    }


def new_response(model: str, translation: ResponsesTranslation) -> ResponsePayload:
    """Return a response object that has begun, with the fields of the request that it repeats."""
    response = bare_response(new_id("resp"), model, IN_PROGRESS)
    return {**response, **_DEFAULTS, **translation.echoed}  # type: ignore[typeddict-item]


def ended_response(
    response: ResponsePayload, output: Sequence[msgspec.Raw], usage: Usage | None, ending: ResponseEnd
) -> ResponsePayload:
    """Return the object of a response that has ended."""
    ended: dict[str, Any] = {**response, "output": output, "usage": response_usage(usage), **ending}
    if ending["status"] == COMPLETED:
        ended["completed_at"] = int(time.time())
    return ended  # type: ignore[return-value]


# Items, as JSON


def part_of(kind: str, text: str) -> Mapping[str, Any]:
    """Return a part of an item's content."""
    if kind == REFUSAL:
        return {"type": kind, "refusal": text}
    if kind == OUTPUT_TEXT:
        return {"type": kind, "text": text, "annotations": []}
    return {"type": kind, "text": text}


def reasoning_item(
    item_id: str, text: str, translation: ResponsesTranslation, *, is_whole: bool = True
) -> Mapping[str, Any]:
    """Return reasoning, as a summary or as text; while it arrives, it has none yet."""
    item: dict[str, Any] = {"id": item_id, "type": "reasoning", "summary": []}
    if not is_whole:
        return item
    if translation.summarises:
        item["summary"] = [part_of(SUMMARY_TEXT, text)]
    else:
        item["content"] = [part_of(REASONING_TEXT, text)]
    if translation.seals:
        item["encrypted_content"] = SEAL + text
    return item


def message_item(item_id: str, parts: Sequence[Mapping[str, Any]], status: str) -> Mapping[str, Any]:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


def called_tool(name: str, translation: ResponsesTranslation) -> CalledTool:
    """Return the tool that a model calls by this name; a name of its own invention stays as it is."""
    return translation.tools.get(name) or CalledTool(name)


def call_item(item_id: str, given_id: str, tool: CalledTool, written: str, status: str) -> Mapping[str, Any]:
    """Return a call. `written`: the arguments as the model wrote them."""
    item: dict[str, Any] = {"id": item_id, "type": "function_call", "call_id": given_id, "name": tool.name}
    if tool.is_custom:
        item |= {"type": "custom_tool_call", "input": custom_input(written) if written else ""}
    else:
        item["arguments"] = written
    if tool.namespace:
        item["namespace"] = tool.namespace
    item["status"] = status
    return item


def item_prefix(tool: CalledTool) -> str:
    return "ctc" if tool.is_custom else "fc"


def new_call_id() -> str:
    return new_id("call")


# Whole responses


def from_completion(body: bytes, model: str, translation: ResponsesTranslation) -> tuple[bytes, Usage | None]:
    """Return a whole chat completion as a response object with the requested model name, and its usage.

    Raises NoChatCompletion.
    """
    _, choice, message, usage = read_completion(body)
    ending = ending_of(choice)
    status = INCOMPLETE if ending["status"] == INCOMPLETE else COMPLETED
    output = [msgspec.Raw(_encode(item)) for item in _items(message, translation, status)]
    response = ended_response(new_response(model, translation), output, usage, ending)
    reason = finish_reason(choice.finish_reason)
    return _encode(response), usage if reason is None else (usage or NOT_REPORTED).ended_by(reason)


def _items(message: OutputMessage, translation: ResponsesTranslation, status: str) -> list[Mapping[str, Any]]:
    items: list[Mapping[str, Any]] = []
    if text := thinking(message):
        items.append(reasoning_item(new_id("rs"), text, translation))
    texts = ((OUTPUT_TEXT, plain_text(message.content)), (REFUSAL, plain_text(message.refusal)))
    if parts := [part_of(kind, text) for kind, text in texts if text]:
        items.append(message_item(new_id("msg"), parts, status))
    for call in message.tool_calls or ():
        function = call.function or CalledFunction()
        tool = called_tool(string(function.name), translation)
        written = arguments(function)
        given_id = call_id(call) or new_call_id()
        items.append(call_item(new_id(item_prefix(tool)), given_id, tool, written or "{}", status))
    return items
