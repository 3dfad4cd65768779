"""Together: a model list without an envelope, `eos`, limits by which it answers 429 or 503. No I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.providers.chat import FINISH, ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem
from benchmarks.providers.generation import LENGTH, STOP, TOOL_CALLS, Generation
from benchmarks.providers.openai import PROBLEMS as OPENAI_PROBLEMS
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json
from benchmarks.responses import data

PROBLEMS: dict[str, Problem] = {
    name: problem for name, problem in OPENAI_PROBLEMS.items() if "." not in name and name != "upgrade"
} | {
    "key_refused": Problem(401, "Invalid API key provided.", "invalid_api_key", "invalid_request_error"),
    "key_missing": Problem(401, "Missing API key.", "invalid_api_key", "invalid_request_error"),
    "money": Problem(402, "Your account has no credits left.", "insufficient_credits", "credit_limit"),
    "limited": Problem(429, "You are above your dynamic rate.", "rate_limit", "rate_limit", names_time=True),
    "overloaded": Problem(503, "The model is busy.", "service_unavailable", "service_unavailable"),
    "overloaded.529": Problem(529, "The server is overloaded.", "overloaded", "service_unavailable"),
    "too_long": Problem(
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens.",
        None,
        "invalid_request_error",
        "max_tokens",
    ),
    "filtered": Problem(400, "The request was blocked by the safety model.", "content_filter", "invalid_request_error"),
    "model_unknown": Problem(404, "Unable to access model {model}.", "model_not_available", "invalid_request_error"),
    "server.timeout": Problem(524, "A timeout occurred", None, "server_error"),
}


class Together(ChatDialect):
    """api.together.ai/v1"""

    name = "together"
    key = "simulated-together-key-0123456789"
    models = ("moonshotai/Kimi-K3", "meta-llama/Llama-4-Scout", "intfloat/multilingual-e5-large")
    usage_in = FINISH
    reasoning_field = "reasoning"
    problems = PROBLEMS
    finishes: Mapping[str, str] = {STOP: "eos", LENGTH: LENGTH, TOOL_CALLS: TOOL_CALLS}

    def check_chat(self, body: Json) -> None:
        super().check_chat(body)
        if isinstance(body.get("logprobs"), bool):
            raise CloudRefusal("parameter", "logprobs: expected an integer", "logprobs")

    def reasons(self, body: Json) -> bool:
        return super().reasons(body) or bool((body.get("reasoning") or {}).get("enabled"))

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        return [self.entry(name) for name in names]

    def entry(self, name: str) -> Json:
        price = {"input": 0.9, "output": 0.9, "hourly": 0, "base": 0, "finetune": 0}
        kind = "embedding" if "e5" in name else "chat"
        return {
            "id": name,
            "object": "model",
            "created": 1_760_000_000,
            "type": kind,
            "display_name": name,
            "context_length": 131_072,
            "pricing": price,
        }

    def shell(self, generation: Generation, kind: str) -> Json:
        return {**super().shell(generation, kind), "id": generation.id}

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        counts = {"prompt_tokens": tokens.input, "completion_tokens": tokens.output, "total_tokens": generation.total}
        return {**counts, "cached_tokens": tokens.cached}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        return data(self.error(problem, problem.message, None, 0))

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        headers = {}
        if bucket := quota.buckets.get("requests"):
            values = {"limit": bucket.limit, "remaining": bucket.remaining, "reset": math.ceil(bucket.full_in)}
            headers = {f"x-ratelimit-{name}": str(value) for name, value in values.items()}
        if bucket := quota.buckets.get("tokens"):
            headers |= {"x-tokenlimit-limit": str(bucket.limit), "x-tokenlimit-remaining": str(bucket.remaining)}
        return headers
