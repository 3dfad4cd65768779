"""OpenAI's Responses: items of reasoning, text and calls, and the whole sequence of their events. No I/O."""

from collections.abc import Iterator
from typing import Any

from benchmarks.providers.dialect import CloudRefusal, callable_tools, now, reads_image
from benchmarks.providers.generation import LENGTH, Call, Generation, Wanted
from benchmarks.providers.tokens import Json, prompt_tokens
from benchmarks.responses import Event, named

MADE_BY_TOOLS = ("function_call_output", "custom_tool_call_output")


def wanted(body: Json, reasons: bool) -> Wanted:
    """Raises CloudRefusal."""
    if not isinstance(body.get("model"), str):
        raise CloudRefusal("parameter", "Missing required parameter: 'model'.", "model")
    items = body.get("input") or ()
    for item in () if isinstance(items, str) else items:
        for part in item.get("content") if isinstance(item.get("content"), list) else ():
            if part.get("type") == "input_image" and not reads_image(part.get("image_url")):
                raise CloudRefusal("parameter", "Invalid image.", "input")
    choice = body.get("tool_choice")
    name = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
    tools = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
    last = items[-1] if items and not isinstance(items, str) else {}
    form = (body.get("text") or {}).get("format") or {}
    return Wanted(
        body["model"],
        prompt_tokens(body),
        body.get("max_output_tokens"),
        () if last.get("type") in MADE_BY_TOOLS else callable_tools(tools, str(choice), name),
        body.get("parallel_tool_calls") is not False,
        form.get("schema") or {} if form.get("type") in ("json_schema", "json_object") else None,
        reasons,
    )


def whole(generation: Generation) -> Json:
    return _response(generation, _status(generation), [item for item, _ in _items(generation)])


def events(generation: Generation) -> Iterator[Event]:
    for number, (event, is_piece) in enumerate(_events(generation)):
        yield named(event["type"], event | {"sequence_number": number}), is_piece


def failed(generation: Generation, code: str, message: str) -> bytes:
    """Return the event of a failure in mid-stream."""
    response = _response(generation, "failed", []) | {"error": {"code": code, "message": message}, "usage": None}
    return named("response.failed", {"type": "response.failed", "response": response, "sequence_number": 999})


def _status(generation: Generation) -> str:
    return "incomplete" if generation.finish in (LENGTH, "content_filter") else "completed"


def _items(generation: Generation) -> Iterator[tuple[Json, Any]]:
    """Yield each complete output item, and what it is made of."""
    if generation.reasoning:
        summary = [{"type": "summary_text", "text": generation.thoughts}]
        item = {"id": f"rs_{generation.id}", "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (generation.body.get("include") or ()):
            item["encrypted_content"] = "c2ltdWxhdGVk"
        yield item, generation.reasoning
    if generation.text:
        content = [_text_part(generation.content)]
        common = {"id": f"msg_{generation.id}", "type": "message", "role": "assistant"}
        yield {**common, "status": _status(generation), "content": content}, generation.text
    for number, call in enumerate(generation.calls):
        item = {"id": f"fc_{generation.id}{number}", "type": "function_call", "status": "completed"}
        yield {**item, "call_id": f"call_{call.id}", "name": call.name, "arguments": call.arguments}, call


def _events(generation: Generation) -> Iterator[tuple[Json, bool]]:
    response = _response(generation, "in_progress", []) | {"usage": None}
    yield {"type": "response.created", "response": response}, False
    yield {"type": "response.in_progress", "response": response}, False
    for index, (item, made) in enumerate(_items(generation)):
        position = {"output_index": index}
        begun: Json = {"reasoning": {"summary": []}, "message": {"content": []}}.get(item["type"], {"arguments": ""})
        status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
        yield {"type": "response.output_item.added", **position, "item": {**item, **begun, **status}}, False
        position["item_id"] = item["id"]
        if isinstance(made, Call):
            yield from _call_events(position, made)
        elif item["type"] == "reasoning":
            yield from _reasoning_events({**position, "summary_index": 0}, made)
        else:
            yield from _text_events({**position, "content_index": 0}, made)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}, False
    status_now = _status(generation)
    yield {"type": f"response.{status_now}", "response": whole(generation)}, False


def _reasoning_events(position: Json, pieces: list[str]) -> Iterator[tuple[Json, bool]]:
    kind, text = "response.reasoning_summary", "".join(pieces)
    yield {"type": f"{kind}_part.added", **position, "part": {"type": "summary_text", "text": ""}}, False
    for piece in pieces:
        yield {"type": f"{kind}_text.delta", **position, "delta": piece}, True
    yield {"type": f"{kind}_text.done", **position, "text": text}, False
    yield {"type": f"{kind}_part.done", **position, "part": {"type": "summary_text", "text": text}}, False


def _text_events(position: Json, pieces: list[str]) -> Iterator[tuple[Json, bool]]:
    text = "".join(pieces)
    yield {"type": "response.content_part.added", **position, "part": _text_part("")}, False
    for piece in pieces:
        yield {"type": "response.output_text.delta", **position, "delta": piece, "logprobs": []}, True
    yield {"type": "response.output_text.done", **position, "text": text, "logprobs": []}, False
    yield {"type": "response.content_part.done", **position, "part": _text_part(text)}, False


def _call_events(position: Json, call: Call) -> Iterator[tuple[Json, bool]]:
    kind = "response.function_call_arguments"
    for piece in call.pieces:
        yield {"type": f"{kind}.delta", **position, "delta": piece}, True
    yield {"type": f"{kind}.done", **position, "name": call.name, "arguments": call.arguments}, False


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(generation: Generation, status: str, output: list[Json]) -> Json:
    request = generation.body
    reasons = {"content_filter": "content_filter"}.get(generation.finish, "max_output_tokens")
    return {
        "id": f"resp_{generation.id}",
        "object": "response",
        "created_at": generation.created,
        "completed_at": now() if status == "completed" else None,
        "status": status,
        "incomplete_details": {"reason": reasons} if status == "incomplete" else None,
        "error": None,
        "model": generation.model,
        "output": output,
        "previous_response_id": request.get("previous_response_id"),
        "instructions": request.get("instructions"),
        "tools": request.get("tools") or [],
        "tool_choice": request.get("tool_choice") or "auto",
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "truncation": "disabled",
        "text": request.get("text") or {"format": {"type": "text"}},
        "reasoning": request.get("reasoning") or {"effort": None, "summary": None},
        "temperature": request.get("temperature", 1.0),
        "top_p": request.get("top_p", 1.0),
        "max_output_tokens": request.get("max_output_tokens"),
        "store": request.get("store", True),
        "service_tier": "default",
        "metadata": request.get("metadata") or {},
        "usage": _usage(generation) if generation.has_usage else None,
    }


def _usage(generation: Generation) -> Json:
    tokens = generation.tokens
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": generation.total,
    }
