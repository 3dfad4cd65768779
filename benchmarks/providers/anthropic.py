"""Anthropic: messages with thinking and tools, token counts, and a paged model list. No I/O."""

import base64
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.providers.behaviour import CloudBehaviour
from benchmarks.providers.dialect import CloudRefusal, Dialect, Problem, Route, bearer, callable_tools, check
from benchmarks.providers.generation import LENGTH, STOP, TOOL_CALLS, Generation, Wanted
from benchmarks.providers.quota import Quota, rfc3339
from benchmarks.providers.tokens import Json, prompt_tokens
from benchmarks.responses import Event, named

OLD, NEW = "2023-06-01", "2026-10-21"
SAMPLING = ("temperature", "top_p", "top_k")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
STOP_REASONS = {STOP: "end_turn", LENGTH: "max_tokens", TOOL_CALLS: "tool_use"}
UNSIGNED = ("thinking", "redacted_thinking")

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(401, "invalid x-api-key: {key}", kind="authentication_error"),
    "key_missing": Problem(401, "x-api-key header is required", kind="authentication_error"),
    "not_permitted": Problem(
        403, "Your API key does not have permission to use the specified resource.", kind="permission_error"
    ),
    "money": Problem(402, "Your account has a billing problem.", kind="billing_error"),
    "money.spend_limit": Problem(
        400, "You have reached your specified API usage limits.", kind="invalid_request_error"
    ),
    "money.enforced": Problem(
        429,
        "Your organization has reached its spend limit.",
        kind="rate_limit_error",
        extra={"details": {"error_code": "enforced_spend_limit_reached"}},
    ),
    "limited": Problem(
        429,
        "This request would exceed your organization's rate limit of requests per minute.",
        kind="rate_limit_error",
        names_time=True,
    ),
    "money.monthly": Problem(429, "Your tier's monthly limit is reached.", kind="rate_limit_error"),
    "overloaded": Problem(529, "Overloaded", kind="overloaded_error"),
    "too_long": Problem(400, "prompt is too long: 210000 tokens > 200000 maximum", kind="invalid_request_error"),
    "too_long.bytes": Problem(413, "Request exceeds the maximum size", kind="request_too_large"),
    "model_unknown": Problem(404, "model: {model}", kind="not_found_error"),
    "path_unknown": Problem(404, "Not found", kind="not_found_error"),
    "parameter": Problem(400, "{text}", kind="invalid_request_error"),
    "conflict": Problem(409, "The resource is in use.", kind="conflict_error"),
    "server": Problem(500, "Internal server error", kind="api_error"),
    "server.timeout": Problem(504, "The request timed out.", kind="timeout_error"),
}


class Anthropic(Dialect):
    """api.anthropic.com"""

    name = "anthropic"
    key = "sk-ant-simulated-anthropic-key-0123456789"
    models = ("claude-sonnet-5", "claude-haiku-5-5")
    problems = PROBLEMS
    page = 20

    # Requests

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        kinds = {
            ("POST", "/v1/messages"): "messages",
            ("POST", "/v1/messages/count_tokens"): "count_tokens",
            ("GET", "/v1/models"): "models",
        }
        if kind := kinds.get((method, path)):
            return Route(kind)
        if method == "GET" and path.startswith("/v1/models/"):
            return Route("model", path.removeprefix("/v1/models/"))
        raise CloudRefusal("path_unknown")

    def check_key(self, headers: Mapping[str, str], key: str) -> str:
        return check(headers.get("x-api-key") or bearer(headers), key)

    def check_headers(self, headers: Mapping[str, str]) -> None:
        version = headers.get("anthropic-version")
        if version is None:
            raise CloudRefusal("parameter", "anthropic-version: header is required")
        if version not in (OLD, NEW):
            raise CloudRefusal("parameter", f'anthropic-version: "{version}" is not a valid version')

    def wanted(self, kind: str, body: Json) -> Wanted:
        if not isinstance(body.get("model"), str):
            raise CloudRefusal("parameter", "model: Field required")
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise CloudRefusal("parameter", "messages: Field required")
        if kind == "count_tokens":
            return Wanted(body["model"], prompt_tokens(body))
        if not isinstance(body.get("max_tokens"), int):
            raise CloudRefusal("parameter", "max_tokens: Field required")
        thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        _check_thinking(body, thinks=thinks)
        choice = body.get("tool_choice") or {}
        form = (body.get("output_config") or {}).get("format") or {}
        return Wanted(
            body["model"],
            prompt_tokens(body),
            body["max_tokens"],
            ()
            if _has_result(body)
            else callable_tools(body.get("tools") or (), choice.get("type"), choice.get("name")),
            not choice.get("disable_parallel_tool_use"),
            form.get("schema") if form.get("type") == "json_schema" else None,
            thinks,
            "cache_control" in json.dumps(body),
        )

    def check_body(self, body: Json, headers: Mapping[str, str]) -> None:
        """Refuse what the version of the header refuses, and what every version refuses."""
        version = headers["anthropic-version"]
        if version == NEW and (field := next((name for name in SAMPLING if name in body), None)):
            raise CloudRefusal("parameter", f"{field}: Extra inputs are not permitted")
        for position, message in enumerate(body.get("messages") or ()):
            content = message.get("content")
            for index, block in enumerate(content if isinstance(content, list) else ()):
                _check_block(message.get("role"), block, f"messages.{position}.content.{index}", version)

    # Responses

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        size = min(int(query.get("limit") or page), 1000)
        first = names.index(query["after_id"]) + 1 if query.get("after_id") in names else 0
        listed = names[first : first + size]
        return {
            "data": [_model(name) for name in listed],
            "has_more": first + size < len(names),
            "first_id": listed[0] if listed else None,
            "last_id": listed[-1] if listed else None,
        }

    def whole(self, kind: str, generation: Generation) -> Json:
        if kind == "count_tokens":
            return {"input_tokens": generation.tokens.input}
        usage = {"usage": _usage(generation, generation.tokens.output)} if generation.has_usage else {}
        blocks = [block for block, _ in _blocks(generation)]
        return _message(generation, blocks, _reason(generation)) | usage

    def events(self, kind: str, generation: Generation) -> Iterator[Event]:
        for event, is_piece in _events(generation):
            yield named(event["type"], event), is_piece

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        error = {"type": problem.kind, "message": message, **problem.extra}
        return {"type": "error", "error": error, "request_id": f"req_{random.getrandbits(96):024x}"}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        return named("error", self.error(self.problems["overloaded"], "Overloaded", None, 0))

    def headers(self) -> dict[str, str]:
        return {"request-id": f"req_{random.getrandbits(96):024x}", "anthropic-organization-id": "org-simulated"}

    def limits(self, behaviour: CloudBehaviour) -> dict[str, int]:
        tokens = behaviour.tokens_limit
        return {"requests": behaviour.requests_limit, "tokens": tokens, "input-tokens": tokens, "output-tokens": tokens}

    def units(self, generation: Generation) -> dict[str, int]:
        tokens = generation.tokens
        return {
            "requests": 1,
            "tokens": tokens.total - tokens.cached,
            "input-tokens": tokens.input - tokens.cached,
            "output-tokens": tokens.output,
        }

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        headers = {}
        for name, bucket in quota.buckets.items():
            headers[f"anthropic-ratelimit-{name}-limit"] = str(bucket.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(bucket.remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = rfc3339(now + bucket.full_in)
        return headers

    def retry_headers(self, seconds: float) -> dict[str, str]:
        return {"retry-after": str(int(-(-seconds // 1)))}


def signature(text: str) -> str:
    """Return the signature of a thinking block. It must come back with the block, unchanged."""
    return base64.b64encode(hashlib.sha256(f"simulated {text}".encode()).digest()).decode()


def _check_block(role: object, block: Mapping[str, Any], place: str, version: str) -> None:
    kind = block.get("type")
    if kind == "image":
        source = block.get("source") or {}
        if source.get("type") == "base64" and source.get("media_type") not in IMAGE_TYPES:
            raise CloudRefusal("parameter", f"{place}.image.source.base64.media_type: Input should be 'image/jpeg', …")
    elif kind == "thinking" and block.get("signature") != signature(str(block.get("thinking"))):
        raise CloudRefusal("parameter", f"{place}: Invalid `signature` in `thinking` block")
    elif kind == "text" and not block.get("text"):
        raise CloudRefusal("parameter", f"{place.rpartition('.')[0]}: text content blocks must be non-empty")
    elif kind == "text" and version == NEW and role == "user" and block.get("citations"):
        raise CloudRefusal("parameter", f"{place}.text.citations: Extra inputs are not permitted")
    elif kind == "document" and version == NEW and role == "assistant":
        raise CloudRefusal("parameter", f"{place}: `document` blocks are not permitted in assistant messages")


def _check_thinking(body: Json, *, thinks: bool) -> None:
    """Refuse a tool loop whose last assistant turn lacks its thinking, and a budget that is too large."""
    budget = (body.get("thinking") or {}).get("budget_tokens")
    if budget is not None and not 1024 <= budget < body["max_tokens"]:
        raise CloudRefusal("parameter", "`max_tokens` must be greater than `thinking.budget_tokens`")
    turns = [message for message in body["messages"] if message.get("role") == "assistant"]
    content = turns[-1].get("content") if turns and thinks and _has_result(body) else None
    if isinstance(content, list) and content and content[0].get("type") not in UNSIGNED:
        index = body["messages"].index(turns[-1])
        text = f"Expected `thinking` or `redacted_thinking`, but found `{content[0].get('type')}`."
        raise CloudRefusal("parameter", f"messages.{index}.content.0.type: {text}")


def _has_result(body: Json) -> bool:
    content = body["messages"][-1].get("content")
    return isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)


def _model(name: str) -> Json:
    supported = {"supported": True}
    return {
        "type": "model",
        "id": name,
        "display_name": name.replace("-", " ").title(),
        "created_at": "2026-02-01T00:00:00Z",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "lifecycle": "active",
        "line": name.split("-")[1] if "-" in name else name,
        "deprecated_at": None,
        "retires_at": None,
        "capabilities": {"image_input": supported, "pdf_input": supported, "structured_outputs": supported},
    }


def _reason(generation: Generation) -> str:
    return STOP_REASONS.get(generation.finish, generation.finish)


def _usage(generation: Generation, output: int) -> Json:
    tokens = generation.tokens
    return {
        "input_tokens": max(0, tokens.input - tokens.cached - tokens.written),
        "cache_read_input_tokens": tokens.cached,
        "cache_creation_input_tokens": tokens.written,
        "cache_creation": {"ephemeral_5m_input_tokens": tokens.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning} if tokens.reasoning else None,
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
    }


def _message(generation: Generation, content: list[Json], reason: str | None) -> Json:
    refused = {"type": "refusal", "category": None, "explanation": "The simulated model refused."}
    return {
        "id": f"msg_{generation.id}",
        "type": "message",
        "role": "assistant",
        "model": generation.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": refused if reason == "refusal" else None,
        "container": None,
    }


def _blocks(generation: Generation) -> Iterator[tuple[Json, list[Json]]]:
    """Yield each complete content block, and the deltas of its stream; the last one of thinking is its signature."""
    if generation.reasoning:
        signed = signature(generation.thoughts)
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in generation.reasoning]
        block = {"type": "thinking", "thinking": generation.thoughts, "signature": signed}
        yield block, [*deltas, {"type": "signature_delta", "signature": signed}]
    if generation.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in generation.text]
        yield {"type": "text", "text": generation.content, "citations": None}, deltas
    for call in generation.calls:
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in call.pieces]
        block = {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": json.loads(call.arguments)}
        yield block | {"caller": {"type": "direct"}}, deltas


def _events(generation: Generation) -> Iterator[tuple[Json, bool]]:
    started = {"usage": _usage(generation, 1) | {"output_tokens_details": None}} if generation.has_usage else {}
    yield {"type": "message_start", "message": _message(generation, [], None) | started}, False
    empty: Json = {"thinking": "", "signature": "", "text": "", "input": {}}
    for index, (block, deltas) in enumerate(_blocks(generation)):
        begun = {**block, **{name: value for name, value in empty.items() if name in block}}
        yield {"type": "content_block_start", "index": index, "content_block": begun}, False
        if not index:
            yield {"type": "ping"}, False
        for delta in deltas:
            is_piece = delta["type"] != "signature_delta"
            yield {"type": "content_block_delta", "index": index, "delta": delta}, is_piece
        yield {"type": "content_block_stop", "index": index}, False
    end = {"stop_reason": _reason(generation), "stop_sequence": None}
    usage = {"usage": _last_usage(generation)} if generation.has_usage else {}
    yield {"type": "message_delta", "delta": end, **usage}, False
    yield {"type": "message_stop"}, False


def _last_usage(generation: Generation) -> Json:
    """Return the usage of `message_delta`: cumulative, with the fields of the input null."""
    nothing = dict.fromkeys(("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
    tokens = generation.tokens
    details = {"thinking_tokens": tokens.reasoning} if tokens.reasoning else None
    return {**nothing, "output_tokens": tokens.output, "output_tokens_details": details, "server_tool_use": None}
