"""Azure OpenAI: both forms of addresses, deployments, content filter results. No I/O."""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.providers.dialect import CloudRefusal, Problem, Route, bearer, check
from benchmarks.providers.generation import Generation
from benchmarks.providers.openai import PROBLEMS as OPENAI_PROBLEMS
from benchmarks.providers.openai import OpenAI
from benchmarks.providers.tokens import Json

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
VIOLENT = {**SAFE, "violence": {"filtered": True, "severity": "medium"}}
INNER = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": VIOLENT}
DEPLOYED = re.compile(r"/openai/deployments/([^/]+)(/.+)")

PROBLEMS: dict[str, Problem] = {
    **OPENAI_PROBLEMS,
    "key_refused": Problem(401, "Access denied due to invalid subscription key or wrong API endpoint.", "401"),
    "key_missing": Problem(401, "Access denied due to missing subscription key.", "401"),
    "not_permitted": Problem(403, "Access denied due to Virtual Network/Firewall rules.", "403"),
    "limited": Problem(
        429,
        "Requests to the ChatCompletions_Create Operation have exceeded call rate limit of your current tier. "
        "Please retry after {seconds} seconds.",
        "429",
        names_time=True,
    ),
    "money": Problem(403, "The resource is blocked: its quota is exceeded.", "403"),
    "overloaded": Problem(
        429, "The system is currently experiencing high demand.", "too_many_requests", names_time=True
    ),
    "overloaded.503": Problem(503, "The service is temporarily unable to process your request.", "503"),
    "filtered": Problem(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "content_filter",
        param="prompt",
        extra={"status": 400, "innererror": INNER},
    ),
    "model_unknown": Problem(404, "The API deployment for this resource does not exist.", "DeploymentNotFound"),
    "path_unknown": Problem(404, "Resource not found", "404"),
    "server": Problem(500, "The server had an error while processing your request.", "500"),
}


class Azure(OpenAI):
    """{resource}.openai.azure.com: `/openai/v1`, and `/openai/deployments/{name}` with api-version."""

    name = "azure"
    base = "/openai/v1"
    key = "simulated-azure-key-0123456789abcdef"
    models = ("gpt-main", "embedder")
    problems = PROBLEMS

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        if path.startswith(f"{self.base}/"):
            return super().route(method, path, query)
        if not query.get("api-version"):
            raise CloudRefusal("path_unknown")
        if match := DEPLOYED.fullmatch(path):
            route = super().route(method, f"{self.base}{match[2]}", query)
            return Route(route.kind, match[1])
        return super().route(method, path.replace("/openai/", f"{self.base}/", 1), query)

    def check_key(self, headers: Mapping[str, str], key: str) -> str:
        return check(headers.get("api-key") or bearer(headers), key)

    def reasons(self, body: Json) -> bool:
        return body.get("reasoning_effort") not in (None, "none")

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        """List the base models of the region: deployments have other names."""
        chat = {"chat_completion": True, "embeddings": False, "inference": True}
        common = {"object": "model", "created_at": 1_760_000_000, "status": "succeeded", "lifecycle_status": "ga"}
        return {"data": [{"id": name, **common, "capabilities": chat} for name in OpenAI.models], "object": "list"}

    def chunks(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        filtered = [{"prompt_index": 0, "content_filter_results": SAFE}]
        shell = {"id": "", "object": "", "created": 0, "model": ""}
        yield {**shell, "choices": [], "prompt_filter_results": filtered}, False
        for chunk, is_piece in super().chunks(generation):
            for choice in chunk["choices"]:
                choice["content_filter_results"] = SAFE if is_piece else {}
            yield chunk, is_piece

    def whole(self, kind: str, generation: Generation) -> Json:
        response = super().whole(kind, generation)
        if kind == "chat":
            response["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": SAFE}]
            response["choices"][0]["content_filter_results"] = SAFE
        return response

    def headers(self) -> dict[str, str]:
        request = f"{random.getrandbits(96):024x}"
        return {"apim-request-id": request, "x-ms-region": "Simulated", "x-request-id": request}

    def reset(self, seconds: float) -> str:
        return str(math.ceil(seconds))
