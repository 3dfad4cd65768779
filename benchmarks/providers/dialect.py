"""What all dialects have in common: errors, keys, paths, headers. No I/O."""

import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.providers.behaviour import CloudBehaviour
from benchmarks.providers.generation import Generation, Tool, Wanted
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json
from benchmarks.responses import Event

IMAGE_ADDRESS = re.compile(r"https?://|data:image/(?:jpeg|png|gif|webp);base64,[A-Za-z0-9+/]+=*$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a provider. `message` may contain {model}, {key}, {seconds} and {text}."""

    status: int
    message: str
    code: str | None = None
    kind: str | None = None  # the field `type`
    param: str | None = None
    names_time: bool = False  # has Retry-After, or the dialect's own field
    extra: Mapping[str, Any] = field(default_factory=dict)  # further members, in the dialect's own place


class CloudRefusal(Exception):
    """A request that the provider refuses. `cause` is a key of the dialect's problems."""

    def __init__(self, cause: str, text: str = "", param: str | None = None) -> None:
        super().__init__(text)
        self.cause = cause
        self.text = text
        self.param = param


@dataclass(frozen=True, slots=True)
class Route:
    """Destination of a request: a kind such as `chat`, and the model if the path names it."""

    kind: str
    model: str = ""


class Dialect(ABC):
    """The dialect of one provider."""

    name = ""
    base = "/v1"  # path of the provider's base address
    key = ""  # example of a key
    models: tuple[str, ...] = ()  # defaults
    problems: Mapping[str, Problem] = {}
    comment = b""  # in streams, while the first token is awaited
    blank = b""  # in complete responses, likewise
    page = 0  # entries in a page of the model list; 0: it has no pages

    # Requests

    @abstractmethod
    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        """Raises CloudRefusal for an unknown path."""

    @abstractmethod
    def wanted(self, kind: str, body: Json) -> Wanted:
        """Raises CloudRefusal for a request that the provider refuses."""

    def check_key(self, headers: Mapping[str, str], key: str) -> str:
        """Return the cause of a refusal, or an empty string."""
        return check(bearer(headers), key)

    def check_headers(self, headers: Mapping[str, str]) -> None:  # noqa: B027  # most have none to check
        """Raises CloudRefusal."""

    def check_body(self, body: Json, headers: Mapping[str, str]) -> None:  # noqa: B027
        """Raises CloudRefusal for a body that does not suit the headers."""

    # Responses

    @abstractmethod
    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any: ...

    @abstractmethod
    def whole(self, kind: str, generation: Generation) -> Json: ...

    @abstractmethod
    def events(self, kind: str, generation: Generation) -> Iterator[Event]: ...

    @abstractmethod
    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        """Return the body of an error."""

    @abstractmethod
    def stream_error(self, kind: str, generation: Generation) -> bytes:
        """Return the event of an error in mid-stream."""

    def headers(self) -> dict[str, str]:
        """Headers of every response."""
        return {"x-request-id": f"req_{random.getrandbits(96):024x}"}

    def quota_headers(self, quota: Quota, now: float) -> dict[str, str]:
        return {}

    def retry_headers(self, seconds: float) -> dict[str, str]:
        return {"retry-after": f"{seconds:g}"}

    def limits(self, behaviour: CloudBehaviour) -> dict[str, int]:
        return {"requests": behaviour.requests_limit, "tokens": behaviour.tokens_limit}

    def units(self, generation: Generation) -> dict[str, int]:
        """Units of each limit that a request takes."""
        return {"requests": 1, "tokens": generation.tokens.total}

    def cause_of(self, fault: str) -> str:
        """Return the cause for a status, a cause or a variant; empty if the dialect has none."""
        if fault in self.problems:
            return fault
        return next((name for name, problem in self.problems.items() if str(problem.status) == fault), "")


def bearer(headers: Mapping[str, str]) -> str:
    return headers.get("Authorization", "").removeprefix("Bearer ").strip()


def check(given: str, key: str) -> str:
    if given == key:
        return ""
    return "key_refused" if given else "key_missing"


def openai_model(name: str, owner: str) -> Json:
    return {"id": name, "object": "model", "created": 1_760_000_000, "owned_by": owner}


def reads_image(address: object) -> bool:
    return isinstance(address, str) and IMAGE_ADDRESS.match(address) is not None


def callable_tools(tools: Sequence[Mapping[str, Any]], kind: object, name: str | None) -> tuple[Tool, ...]:
    """Return the tools that a choice (`none`, `auto`, …) or the name of one leaves."""
    offered = [Tool(str(tool.get("name")), tool.get("parameters") or tool.get("input_schema") or {}) for tool in tools]
    return () if kind == "none" else tuple(tool for tool in offered if name in (None, tool.name))


def now() -> int:
    return int(time.time())
