"""Groq: `x_groq`, and times in usage. No I/O."""

from collections.abc import Iterator
from typing import Any

from benchmarks.providers.chat import ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem
from benchmarks.providers.generation import Generation
from benchmarks.providers.openai import PROBLEMS as OPENAI_PROBLEMS
from benchmarks.providers.quota import Quota, go_duration
from benchmarks.providers.tokens import Json
from benchmarks.responses import named

REFUSED = ("logprobs", "logit_bias", "top_logprobs")

PROBLEMS: dict[str, Problem] = {
    name: problem for name, problem in OPENAI_PROBLEMS.items() if "." not in name and name != "upgrade"
} | {
    "key_refused": Problem(401, "Invalid API Key", "invalid_api_key", "invalid_request_error"),
    "key_missing": Problem(401, "Invalid API Key", "invalid_api_key", "invalid_request_error"),
    "money": Problem(400, "API access is blocked: check your billing.", "blocked_api_access", "invalid_request_error"),
    "limited": Problem(
        429,
        "Rate limit reached for model `{model}` in organization `org_simulated` on tokens per minute (TPM): "
        "Limit 6000, Used 5900, Requested 200. Please try again in {seconds}s.",
        "rate_limit_exceeded",
        "tokens",
        names_time=True,
    ),
    "limited.capacity": Problem(498, "The flex tier is at capacity.", "capacity_exceeded", "flex"),
    "overloaded": Problem(503, "Service unavailable. Please try again.", None, "service_unavailable"),
    "server.502": Problem(502, "Bad gateway", None, "bad_gateway"),
    "too_long": Problem(
        400, "Please reduce the length of the messages.", "context_length_exceeded", "invalid_request_error", "messages"
    ),
    "too_long.bytes": Problem(413, "Request too large for model `{model}`.", "rate_limit_exceeded", "tokens"),
    "parameter.tool": Problem(
        400,
        "Failed to call a function.",
        "tool_use_failed",
        "invalid_request_error",
        extra={"failed_generation": "<function=weather>{"},
    ),
    "parameter.422": Problem(422, "{text}", None, "invalid_request_error"),
}


class Groq(ChatDialect):
    """api.groq.com/openai/v1"""

    name = "groq"
    base = "/openai/v1"
    owner = "Groq"
    key = "gsk_simulated_groq_key_0123456789"
    models = ("openai/gpt-oss-20b", "llama-3.3-70b-versatile")
    reasoning_field = "reasoning"
    problems = PROBLEMS

    def check_chat(self, body: Json) -> None:
        super().check_chat(body)
        if body.get("n") not in (None, 1):
            raise CloudRefusal("parameter", "'n' : number must be at most 1", "n")
        if field := next((name for name in REFUSED if body.get(name) is not None), None):
            raise CloudRefusal("parameter", f"property '{field}' is unsupported", field)

    def entry(self, name: str) -> Json:
        limits = {"context_window": 131_072, "max_completion_tokens": 32_768}
        return {**super().entry(name), "active": True, "public_apps": None, **limits}

    def shell(self, generation: Generation, kind: str) -> Json:
        return {**super().shell(generation, kind), "service_tier": "on_demand", "system_fingerprint": "fp_simulated"}

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        return {
            "queue_time": 0.02,
            "prompt_tokens": tokens.input,
            "prompt_time": 0.001,
            "completion_tokens": tokens.output,
            "completion_time": 0.05,
            "total_tokens": generation.total,
            "total_time": 0.051,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }

    def whole(self, kind: str, generation: Generation) -> Json:
        response = super().whole(kind, generation)
        return (
            response if kind == "embeddings" else {**response, "usage_breakdown": None, "x_groq": self.mark(generation)}
        )

    def mark(self, generation: Generation) -> Json:
        return {"id": f"req_{generation.id}"}

    def chunks(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        """The first chunk has the request's id, and the one with the finish reason the usage, even unasked."""
        for number, (chunk, is_piece) in enumerate(super().chunks(generation)):
            if not number:
                chunk["x_groq"] = self.mark(generation)
            if chunk["choices"] and chunk["choices"][0]["finish_reason"]:
                usage = {"usage": self.usage(generation)} if generation.has_usage else {}
                chunk["x_groq"] = {**self.mark(generation), **usage}
            yield chunk, is_piece

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        """Members without a value are left out."""
        error: Json = super().error(problem, message, param, seconds)["error"]
        return {"error": {name: value for name, value in error.items() if value is not None}}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        return named("error", self.error(problem, problem.message, None, 0))

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "x-groq-region": "simulated"}

    def units(self, generation: Generation) -> dict[str, int]:
        return {"requests": 1, "tokens": generation.tokens.total - generation.tokens.cached}

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        headers = {}
        for name, bucket in quota.buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
            headers[f"x-ratelimit-reset-{name}"] = go_duration(bucket.full_in)
        return headers
