"""DeepSeek: keep-alive comments and blank lines, hits and misses of its cache. No I/O."""

from typing import Any

from benchmarks.providers.chat import ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem
from benchmarks.providers.generation import Generation
from benchmarks.providers.tokens import Json

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(
        401, "Authentication Fails, Your api key: {key} is invalid", "invalid_request_error", "authentication_error"
    ),
    "key_missing": Problem(401, "Authentication Fails (auth header)", "invalid_request_error", "authentication_error"),
    "money": Problem(402, "Insufficient Balance", "invalid_request_error", "unknown_error"),
    "limited": Problem(429, "Rate limit reached: too many concurrent requests", "rate_limit_exceeded", "rate_limit"),
    "overloaded": Problem(503, "The server is overloaded due to high traffic.", None, "service_unavailable_error"),
    "too_long": Problem(
        400,
        "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens.",
        "invalid_request_error",
        "invalid_request_error",
    ),
    "filtered": Problem(400, "Content Exists Risk", "invalid_request_error", "invalid_request_error"),
    "model_unknown": Problem(400, "Model Not Exist", "invalid_request_error", "invalid_request_error"),
    "path_unknown": Problem(404, "Not Found", None, "invalid_request_error"),
    "parameter": Problem(422, "{text}", "invalid_request_error", "invalid_request_error"),
    "parameter.400": Problem(400, "{text}", "invalid_request_error", "invalid_request_error"),
    "server": Problem(500, "Our server encounters an issue.", None, "server_error"),
}


class DeepSeek(ChatDialect):
    """api.deepseek.com: also below /v1 and /beta"""

    name = "deepseek"
    base = ""
    prefixes = ("", "/v1", "/beta")
    owner = "deepseek"
    key = "sk-simulated-deepseek-key-0123456789"
    models = ("deepseek-v4-flash", "deepseek-v4-pro")
    kinds = {"/chat/completions": "chat"}  # noqa: RUF012
    problems = PROBLEMS
    comment = b": keep-alive\n\n"
    blank = b"\n"

    def reasons(self, body: Json) -> bool:
        return (body.get("thinking") or {}).get("type") != "disabled"

    def check_chat(self, body: Json) -> None:
        """Refuse an assistant turn with tool calls that lacks its reasoning, while thinking."""
        super().check_chat(body)
        for message in body["messages"] if self.reasons(body) else ():
            if message.get("tool_calls") and "reasoning_content" not in message:
                text = "Missing `reasoning_content` field in the assistant message with tool calls."
                raise CloudRefusal("parameter.400", text)

    def entry(self, name: str) -> Json:
        return {"id": name, "object": "model", "owned_by": self.owner}

    def usage(self, generation: Generation) -> Any:
        tokens = generation.tokens
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": generation.total,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "prompt_cache_hit_tokens": tokens.cached,
            "prompt_cache_miss_tokens": max(0, tokens.input - tokens.cached),
        }

    def retry_headers(self, seconds: float) -> dict[str, str]:
        return {}
