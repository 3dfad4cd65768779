"""OpenAI: chat completions, responses, embeddings, models. No I/O."""

import random
from collections.abc import Iterator, Mapping
from typing import ClassVar

from benchmarks.providers import openai_responses
from benchmarks.providers.chat import ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem, Route
from benchmarks.providers.generation import Generation, Wanted
from benchmarks.providers.quota import Quota, go_duration
from benchmarks.providers.tokens import Json
from benchmarks.responses import Event

REASONING_MODELS = ("o1", "o3", "o4", "gpt-5", "gpt-6")

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(
        401,
        "Incorrect API key provided: {key}. You can find your API key at https://platform.openai.com/account/api-keys.",
        "invalid_api_key",
        "invalid_request_error",
    ),
    "key_missing": Problem(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
        None,
        "invalid_request_error",
    ),
    "not_permitted": Problem(
        403,
        "Country, region, or territory not supported",
        "unsupported_country_region_territory",
        "request_forbidden",
    ),
    "not_permitted.ip": Problem(
        401, "Your IP address is not authorized.", "ip_not_authorized", "invalid_request_error"
    ),
    "limited": Problem(
        429,
        "Rate limit reached for {model} in organization org-simulated on requests per min (RPM): Limit 3, Used 3, "
        "Requested 1. Please try again in {seconds}s.",
        "rate_limit_exceeded",
        "requests",
        names_time=True,
    ),
    "limited.slow_down": Problem(
        429, "Please slow down: your traffic rose too fast.", "slow_down", "rate_limit_error", names_time=True
    ),
    "money": Problem(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "money.balance": Problem(
        429, "Your credit balance is exhausted.", "credit_balance_exhausted", "insufficient_quota"
    ),
    "money.spend_limit": Problem(
        429, "Your project has reached its spend limit.", "project_spend_limit_exceeded", "insufficient_quota"
    ),
    "overloaded": Problem(
        503,
        "The server is currently overloaded with other requests. Please try again later.",
        "server_is_overloaded",
        "service_unavailable_error",
    ),
    "too_long": Problem(
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130211 tokens. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
        "invalid_request_error",
        "messages",
    ),
    "filtered": Problem(
        400,
        "Your request was rejected as a result of our safety system.",
        "content_policy_violation",
        "invalid_request_error",
    ),
    "filtered.prompt": Problem(
        400, "Invalid prompt: your prompt was flagged.", "invalid_prompt", "invalid_request_error"
    ),
    "model_unknown": Problem(
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        "model_not_found",
        "invalid_request_error",
    ),
    "path_unknown": Problem(404, "Invalid URL ({text})", None, "invalid_request_error"),
    "upgrade": Problem(426, "WebSocket upgrades are not supported here.", "upgrade_required", "invalid_request_error"),
    "parameter": Problem(400, "{text}", None, "invalid_request_error"),
    "parameter.unsupported": Problem(400, "{text}", "unsupported_parameter", "invalid_request_error"),
    "server": Problem(
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        "server_error",
    ),
}


class OpenAI(ChatDialect):
    """api.openai.com"""

    name = "openai"
    key = "sk-proj-simulated-openai-key-0123456789"
    models: tuple[str, ...] = ("gpt-4.1", "gpt-6.2", "text-embedding-3-small")
    kinds: ClassVar[dict[str, str]] = {**ChatDialect.kinds, "/responses": "responses"}
    reasoning_field = None
    reports_written = True
    problems = PROBLEMS

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        if method in ("GET", "DELETE") and path.startswith(f"{self.base}/responses/"):
            return Route("stored", path.removeprefix(f"{self.base}/responses/"))
        if method == "GET" and path == f"{self.base}/responses":
            raise CloudRefusal("upgrade")
        return super().route(method, path, query)

    def wanted(self, kind: str, body: Json) -> Wanted:
        return openai_responses.wanted(body, self.reasons(body)) if kind == "responses" else super().wanted(kind, body)

    def check_chat(self, body: Json) -> None:
        super().check_chat(body)
        if self.reasons(body) and body.get("max_tokens") is not None:
            text = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            raise CloudRefusal("parameter.unsupported", text, "max_tokens")

    def reasons(self, body: Json) -> bool:
        effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
        return str(body.get("model")).startswith(REASONING_MODELS) and effort != "none"

    def whole(self, kind: str, generation: Generation) -> Json:
        if kind == "responses":
            return openai_responses.whole(generation)
        return super().whole(kind, generation)

    def shell(self, generation: Generation, kind: str) -> Json:
        return {**super().shell(generation, kind), "service_tier": "default", "system_fingerprint": "fp_simulated"}

    def message(self, generation: Generation) -> Json:
        return {**super().message(generation), "refusal": None, "annotations": []}

    def events(self, kind: str, generation: Generation) -> Iterator[Event]:
        return openai_responses.events(generation) if kind == "responses" else super().events(kind, generation)

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        if kind == "responses":
            problem = self.problems["overloaded"]
            return openai_responses.failed(generation, str(problem.code), problem.message)
        return super().stream_error(kind, generation)

    def headers(self) -> dict[str, str]:
        return {
            **super().headers(),
            "openai-organization": "org-simulated",
            "openai-processing-ms": str(random.randint(20, 400)),
            "openai-version": "2020-10-01",
        }

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        headers = {}
        for name, bucket in quota.buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
            headers[f"x-ratelimit-reset-{name}"] = self.reset(bucket.full_in)
        return headers

    def reset(self, seconds: float) -> str:
        """Write the time until a limit is full again."""
        return go_duration(seconds)

    def retry_headers(self, seconds: float) -> dict[str, str]:
        return {"retry-after": str(int(-(-seconds // 1))), "retry-after-ms": str(int(-(-seconds * 1000 // 1)))}
