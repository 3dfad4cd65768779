"""xAI: reasoning outside of completion_tokens, errors of two strings, a 400 for a wrong key. No I/O."""

from collections.abc import Mapping
from typing import Any, ClassVar

from benchmarks.providers import openai_responses
from benchmarks.providers.chat import ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem, Route
from benchmarks.providers.generation import Generation, Wanted
from benchmarks.providers.openai import OpenAI
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json
from benchmarks.responses import data

REFUSED = ("stop", "presence_penalty", "frequency_penalty")
INPUT_TICKS, OUTPUT_TICKS = 20_000, 60_000  # a tick is 10⁻¹⁰ USD

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(
        400,
        "Incorrect API key provided: {key}. You can obtain an API key from https://console.x.ai.",
        "Client specified an invalid argument",
    ),
    "key_missing": Problem(
        401,
        "No Authorization header or an invalid authorization token is provided.",
        "Unauthenticated or invalid authentication credentials",
    ),
    "not_permitted": Problem(
        403,
        "Your API key lacks the permission for this endpoint.",
        "The caller does not have permission to execute the specified operation",
    ),
    "money": Problem(
        403,
        "Your newly created team doesn't have any credits yet. You can purchase credits on https://console.x.ai.",
        "The caller does not have permission to execute the specified operation",
    ),
    "limited": Problem(
        429, "Too many requests for team team-simulated and model {model}.", "Some resource has been exhausted"
    ),
    "money.spend_limit": Problem(
        429,
        "Your team team-simulated has either used all available credits or reached its monthly spending limit.",
        "Some resource has been exhausted",
    ),
    "overloaded": Problem(503, "The model is at capacity.", "The service is currently unavailable"),
    "too_long": Problem(
        400,
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "Client specified an invalid argument",
    ),
    "filtered": Problem(
        403,
        "Content violates usage guidelines.",
        "The caller does not have permission to execute the specified operation",
    ),
    "model_unknown": Problem(
        404,
        "The model {model} does not exist or your team team-simulated does not have access to it. Please ensure you're "
        "using the correct API key.",
        "Some requested entity was not found",
    ),
    "path_unknown": Problem(404, "The requested path was not found.", "Some requested entity was not found"),
    "parameter": Problem(400, "{text}", "Client specified an invalid argument"),
    "parameter.422": Problem(422, "{text}", "Failed to deserialize the JSON body into the target type"),
    "server": Problem(500, "Internal error", "Internal error"),
}


class XAI(ChatDialect):
    """api.x.ai/v1"""

    name = "xai"
    owner = "xai"
    key = "xai-simulated-xai-key-0123456789"
    models = ("grok-5", "grok-5-mini")
    kinds: ClassVar[dict[str, str]] = {"/chat/completions": "chat", "/responses": "responses"}
    problems = PROBLEMS

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        if (method, path) == ("GET", f"{self.base}/language-models"):
            return Route("models")
        return super().route(method, path, query)

    def wanted(self, kind: str, body: Json) -> Wanted:
        return openai_responses.wanted(body, True) if kind == "responses" else super().wanted(kind, body)

    def check_chat(self, body: Json) -> None:
        super().check_chat(body)
        if self.reasons(body) and (field := next((name for name in REFUSED if body.get(name) is not None), None)):
            raise CloudRefusal("parameter", f"Argument not supported on this model: {field}")

    def reasons(self, body: Json) -> bool:
        return body.get("reasoning_effort") != "none"

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        out = tokens.output - tokens.reasoning
        parts = {"text_tokens": tokens.input, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": tokens.cached}
        ticks = tokens.input * INPUT_TICKS + tokens.output * OUTPUT_TICKS
        return {
            **super().usage(generation),
            "completion_tokens": out,
            "prompt_tokens_details": parts,
            "num_sources_used": 0,
            "cost_in_usd_ticks": ticks,
        }

    def whole(self, kind: str, generation: Generation) -> Json:
        return openai_responses.whole(generation) if kind == "responses" else super().whole(kind, generation)

    def events(self, kind: str, generation: Generation) -> Any:
        return openai_responses.events(generation) if kind == "responses" else super().events(kind, generation)

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        return {"code": problem.code, "error": message}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        if kind == "responses":
            return openai_responses.failed(generation, "server_error", problem.message)
        error = {"message": problem.message, "type": "server_error", "code": None}
        return data({"error": error})

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        headers = OpenAI().quota_headers(quota, now)
        return {name: value for name, value in headers.items() if "reset" not in name}
