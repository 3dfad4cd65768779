"""OpenRouter: comments, a cost in usage, 200 with an error inside, errors in mid-stream. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.providers.chat import LAST, ChatDialect
from benchmarks.providers.dialect import Problem
from benchmarks.providers.generation import Generation
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json
from benchmarks.responses import data

INPUT_COST, OUTPUT_COST = 1e-6, 4e-6  # USD for a token

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(401, "User not found: {key}", "authentication"),
    "key_missing": Problem(401, "No auth credentials found", "authentication"),
    "not_permitted": Problem(403, "Your key is not allowed to use this provider.", "permission_denied"),
    "money": Problem(402, "Insufficient credits. Add more at https://openrouter.ai/credits", "payment_required"),
    "limited.in_flight": Problem(
        402,
        "Too many requests in flight for your credits.",
        "payment_required",
        names_time=True,
        extra={"limit_source": "openrouter_in_flight_budget"},
    ),
    "limited": Problem(
        429,
        "Provider returned error",
        "rate_limit_exceeded",
        names_time=True,
        extra={"provider_name": "Simulated", "raw": "The model is temporarily rate-limited upstream."},
    ),
    "overloaded": Problem(529, "Provider overloaded", "provider_overloaded"),
    "overloaded.no_provider": Problem(503, "No provider available", "provider_unavailable", names_time=True),
    "too_long": Problem(400, "This endpoint's maximum context length is 8192 tokens.", "context_length_exceeded"),
    "filtered": Problem(
        403,
        "Your input was flagged by moderation.",
        "content_policy_violation",
        extra={"reasons": ["violence"], "flagged_input": "…"},
    ),
    "model_unknown": Problem(404, "No endpoints found for {model}.", "not_found"),
    "model_unknown.id": Problem(400, "{model} is not a valid model ID", "invalid_request"),
    "path_unknown": Problem(404, "Not Found", "not_found"),
    "parameter": Problem(400, "{text}", "invalid_request"),
    "server": Problem(500, "Internal Server Error", "server"),
    "overloaded.upstream": Problem(502, "Provider returned error", "provider_unavailable"),
    "server.timeout": Problem(524, "Edge network timeout", "timeout"),
}


class OpenRouter(ChatDialect):
    """openrouter.ai/api/v1"""

    name = "openrouter"
    base = "/api/v1"
    key = "sk-or-v1-simulated-openrouter-key-0123456789"
    models = ("openai/gpt-oss-120b", "anthropic/claude-sonnet-5", "qwen/qwen3-embedding-8b")
    usage_in = LAST
    reports_written = True
    problems = PROBLEMS
    comment = b": OPENROUTER PROCESSING\n\n"
    page = 500

    def reasons(self, body: Json) -> bool:
        return super().reasons(body) or bool(body.get("reasoning"))

    def reasoning(self, text: str) -> Json:
        return {"reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        first = int(query.get("offset") or 0)
        after = first + page
        next_page = f"{self.base}/models?offset={after}" if after < len(names) else None
        entries = [self.entry(name) for name in names[first:after]]
        return {"data": entries, "links": {"next": next_page}, "total_count": len(names)}

    def entry(self, name: str) -> Json:
        return {
            "id": name,
            "canonical_slug": name,
            "name": name,
            "created": 1_760_000_000,
            "context_length": 131_072,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "pricing": {"prompt": "0.000001", "completion": "0.000004"},
            "top_provider": {"context_length": 131_072, "max_completion_tokens": 32_768, "is_moderated": False},
            "supported_parameters": ["max_tokens", "tools", "reasoning", "response_format"],
        }

    def shell(self, generation: Generation, kind: str) -> Json:
        return {**super().shell(generation, kind), "id": f"gen-{generation.id}", "provider": "Simulated"}

    def whole(self, kind: str, generation: Generation) -> Json:
        response = super().whole(kind, generation)
        for choice in response.get("choices", ()):
            choice["native_finish_reason"] = choice["finish_reason"]
        return response

    def chunks(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        for chunk, is_piece in super().chunks(generation):
            for choice in chunk["choices"]:
                choice["native_finish_reason"] = choice["finish_reason"]
            yield chunk, is_piece

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        made, out = tokens.input * INPUT_COST, tokens.output * OUTPUT_COST
        parts = {"upstream_inference_prompt_cost": made, "upstream_inference_completions_cost": out}
        cost = {"upstream_inference_cost": None, **parts}
        return {**super().usage(generation), "cost": made + out, "is_byok": False, "cost_details": cost}

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        metadata = {"error_type": problem.code, **problem.extra}
        return {"error": {"code": problem.status, "message": message, "metadata": metadata}, "user_id": "user_sim"}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        error = self.error(problem, problem.message, None, 0)["error"]
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": None}
        return data({**self.shell(generation, "chat.completion.chunk"), "error": error, "choices": [choice]})

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        bucket = quota.buckets.get("requests")
        if bucket is None:
            return {}
        reset = int((now + bucket.full_in) * 1000)
        values = {"Limit": bucket.limit, "Remaining": bucket.remaining, "Reset": reset}
        return {f"X-RateLimit-{name}": str(value) for name, value in values.items()}
