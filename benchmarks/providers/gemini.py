"""Gemini's OpenAI path: errors in arrays, ids with `models/`, thoughts outside of completion_tokens. No I/O."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.providers.chat import ChatDialect
from benchmarks.providers.dialect import CloudRefusal, Problem, bearer, check
from benchmarks.providers.generation import Call, Generation
from benchmarks.providers.tokens import Json
from benchmarks.responses import data

ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
SIGNATURE = "c2ltdWxhdGVkLXRob3VnaHQ="

PROBLEMS: dict[str, Problem] = {
    "key_refused": Problem(
        400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", extra={"reason": "API_KEY_INVALID"}
    ),
    "key_missing": Problem(403, "Method doesn't allow unregistered callers.", "PERMISSION_DENIED"),
    "not_permitted": Problem(403, "The caller does not have permission.", "PERMISSION_DENIED"),
    "not_permitted.region": Problem(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
    "money": Problem(402, "Your prepaid balance is exhausted.", "RESOURCE_EXHAUSTED"),
    "limited": Problem(
        429, "You exceeded your current quota. Please retry in {seconds}s.", "RESOURCE_EXHAUSTED", names_time=True
    ),
    "overloaded": Problem(503, "The model is overloaded. Please try again later.", "UNAVAILABLE"),
    "too_long": Problem(
        400,
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "INVALID_ARGUMENT",
    ),
    "model_unknown": Problem(
        404, "models/{model} is not found for API version v1beta, or is not supported.", "NOT_FOUND"
    ),
    "path_unknown": Problem(404, "Not found.", "NOT_FOUND"),
    "parameter": Problem(400, "{text}", "INVALID_ARGUMENT"),
    "server": Problem(500, "An internal error has occurred.", "INTERNAL"),
    "server.timeout": Problem(504, "Deadline expired before operation could complete.", "DEADLINE_EXCEEDED"),
}


class Gemini(ChatDialect):
    """generativelanguage.googleapis.com/v1beta/openai"""

    name = "gemini"
    base = "/v1beta/openai"
    owner = "google"
    key = "AIza-simulated-gemini-key-0123456789"
    models = ("gemini-3-pro", "gemini-3-flash", "gemini-embedding-001")
    reasoning_field = None
    problems = PROBLEMS

    def check_key(self, headers: Mapping[str, str], key: str) -> str:
        return check(headers.get("x-goog-api-key") or bearer(headers), key)

    def check_chat(self, body: Json) -> None:
        """Refuse function calls that come back without their thought signatures, as Gemini 3 does."""
        super().check_chat(body)
        for message in body["messages"]:
            for call in message.get("tool_calls") or ():
                google = (call.get("extra_content") or {}).get("google") or {}
                if google.get("thought_signature") != SIGNATURE:
                    text = f"Function call `{call['function']['name']}` is missing a `thought_signature`."
                    raise CloudRefusal("parameter", text)

    def entry(self, name: str) -> Json:
        return {"id": f"models/{name}", "object": "model", "owned_by": self.owner, "display_name": name}

    def call(self, call: Call, arguments: str) -> Json:
        return {**super().call(call, arguments), "extra_content": {"google": {"thought_signature": SIGNATURE}}}

    def deltas(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        """Tool calls are complete in one chunk."""
        if not generation.calls:
            yield from super().deltas(generation)
            return
        for index, call in enumerate(generation.calls):
            yield {"role": "assistant", "tool_calls": [{"index": index, **self.call(call, call.arguments)}]}, True

    def usage(self, generation: Generation) -> Json:
        """Thoughts are in the total only."""
        tokens = generation.tokens
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output - tokens.reasoning,
            "total_tokens": generation.total,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        error: Json = {"code": problem.status, "message": message, "status": problem.code}
        details: list[Json] = []
        if problem.extra:
            details.append({"@type": ERROR_INFO, "domain": "googleapis.com", **problem.extra})
        if problem.names_time:
            details.append({"@type": RETRY_INFO, "retryDelay": f"{seconds:g}s"})
        return [{"error": {**error, "details": details} if details else error}]

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        return data(self.error(problem, problem.message, None, 0))

    def headers(self) -> dict[str, str]:
        return {"server": "scaffolding on HTTPServer2"}

    def retry_headers(self, seconds: float) -> dict[str, str]:
        return {}
