"""Mistral: content lists, short ids of tool calls, 422 for unknown fields. No I/O."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.providers.chat import FINISH, ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem
from benchmarks.providers.generation import Call, Generation
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json

REFUSED = ("stream_options", "user", "seed", "logit_bias", "max_completion_tokens", "store")

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(401, "Unauthorized", "unauthorized", "invalid_request_error"),
    "key_missing": Problem(401, "Unauthorized", "unauthorized", "invalid_request_error"),
    "not_permitted": Problem(403, "You have no access to this model.", "forbidden", "invalid_request_error"),
    "money": Problem(402, "Your account is out of credits.", "payment_required", "invalid_request_error"),
    "limited": Problem(429, "Requests rate limit exceeded", "1300", "rate_limited", names_time=True),
    "limited.capacity": Problem(
        429, "Service tier capacity exceeded for this model.", "3505", "service_tier_capacity_exceeded"
    ),
    "overloaded": Problem(503, "Service unavailable.", "3000", "service_unavailable"),
    "too_long": Problem(
        400,
        "Prompt contains 140000 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
        "3051",
        "invalid_request_prompt",
    ),
    "filtered": Problem(403, "The request was blocked by a guardrail.", "guardrail", "invalid_request_error"),
    "model_unknown": Problem(400, "Invalid model: {model}", "1500", "invalid_model"),
    "model_unknown.404": Problem(404, "Unknown model: {model}", "unknown_model", "invalid_request_error", "model"),
    "path_unknown": Problem(404, "no Route matched with those values"),
    "parameter": Problem(422, "{text}"),
    "server": Problem(500, "Internal server error", "1000", "internal_server_error"),
}


class Mistral(ChatDialect):
    """api.mistral.ai/v1"""

    name = "mistral"
    owner = "mistralai"
    key = "simulated-mistral-key-0123456789"
    models = ("mistral-large-latest", "magistral-medium-latest", "mistral-embed")
    usage_in = FINISH
    problems = PROBLEMS

    def check_chat(self, body: Json) -> None:
        super().check_chat(body)
        if field := next((name for name in REFUSED if name in body), None):
            raise CloudRefusal("parameter", "Extra inputs are not permitted", field)

    def reasons(self, body: Json) -> bool:
        return super().reasons(body) or body.get("prompt_mode") == "reasoning"

    def entry(self, name: str) -> Json:
        able = {"completion_chat": True, "function_calling": True, "reasoning": True, "vision": True}
        rest = {"max_context_length": 131_072, "aliases": [], "deprecation": None, "type": "base"}
        return {**super().entry(name), "name": name, "description": "", **rest, "capabilities": able}

    def shell(self, generation: Generation, kind: str) -> Json:
        return {**super().shell(generation, kind), "id": generation.id}

    def content(self, generation: Generation) -> Any:
        """Return a list of chunks if there is reasoning, else a string."""
        if not generation.reasoning:
            return generation.content
        return [_thinking(generation.thoughts), {"type": "text", "text": generation.content}]

    def reasoning(self, text: str) -> Json:
        return {}

    def message(self, generation: Generation) -> Json:
        message = super().message(generation)
        if generation.calls:
            message["content"] = [_thinking(generation.thoughts)] if generation.reasoning else ""
        return {"tool_calls": None, **message}

    def call(self, call: Call, arguments: str) -> Json:
        return {**super().call(call, arguments), "id": call.id}

    def deltas(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        """Reasoning comes in lists of chunks, and all tool calls complete in one chunk."""
        yield {"role": "assistant", "content": ""}, False
        for piece in generation.reasoning:
            yield {"content": [_thinking(piece)]}, True
        for piece in generation.text:
            yield {"content": piece}, True
        if generation.calls:
            calls = [{"index": index, **self.call(call, call.arguments)} for index, call in enumerate(generation.calls)]
            yield {"content": "", "tool_calls": calls}, True

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": generation.total,
            "prompt_audio_seconds": None,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        if problem.status == 422:
            detail = {"type": "extra_forbidden", "loc": ["body", param or "messages"], "msg": message, "input": None}
            return {"detail": [detail]}
        if problem.kind is None:
            return {"message": message, "request_id": "simulated"}
        error = {"message": message, "type": problem.kind, "param": problem.param, "code": problem.code}
        return {"object": "error", **error, "raw_status_code": problem.status}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        chunk = {**self.shell(generation, "chat.completion.chunk"), "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        names = {"requests": "req", "tokens": "tokens"}
        headers = {}
        for name, bucket in quota.buckets.items():
            headers[f"x-ratelimit-limit-{names[name]}-minute"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{names[name]}-minute"] = str(bucket.remaining)
        return headers

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        return super().model_list(names, query, page)


def _thinking(text: str) -> Json:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
