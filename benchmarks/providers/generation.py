"""What a simulated model generates for a request, before a dialect writes it down. No I/O."""

import json
import random
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.providers.behaviour import CloudBehaviour
from benchmarks.providers.tokens import TOTALS_OFF_BY, Json, Tokens
from benchmarks.responses import FRAGMENT, WORDS

STOP, LENGTH, TOOL_CALLS = "stop", "length", "tool_calls"
REASONS = "first weigh every word of it then decide with care".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers. `schema` is the JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request without its dialect."""

    model: str
    prompt: int  # tokens
    most: int | None = None  # maximum of output tokens
    tools: tuple[Tool, ...] = ()  # that the model may call now
    is_parallel: bool = True
    schema: Mapping[str, Any] | None = None  # of structured output; empty: any JSON object
    reasons: bool = False
    caches: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; one token for each piece of its arguments."""

    id: str
    name: str
    pieces: list[str]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated output. Each piece is one token."""

    id: str  # 24 hexadecimal digits
    model: str
    created: int
    reasoning: list[str]
    text: list[str]
    calls: list[Call]
    finish: str  # stop, length or tool_calls, or another one that the behaviour names
    tokens: Tokens
    usage: str = ""  # see CloudBehaviour
    body: Json = field(default_factory=dict)  # of the request

    @property
    def content(self) -> str:
        return "".join(self.text)

    @property
    def thoughts(self) -> str:
        return "".join(self.reasoning)

    @property
    def count(self) -> int:
        return len(self.reasoning) + len(self.text) + sum(len(call.pieces) for call in self.calls)

    @property
    def has_usage(self) -> bool:
        return self.usage != "absent"

    @property
    def total(self) -> int:
        """Total in `usage`, which may contradict its parts."""
        return self.tokens.total + (TOTALS_OFF_BY if self.usage == "contradictory" else 0)


def generate(behaviour: CloudBehaviour, wanted: Wanted, body: Json, finish: str = "") -> Generation:
    """Generate calls of the offered tools, structured output, or words; reasoning comes first."""
    most = 1 << 30 if wanted.most is None else wanted.most
    reasoning = [f"{REASONS[index % len(REASONS)]} " for index in range(behaviour.reasoning if wanted.reasons else 0)][
        :most
    ]
    room = most - len(reasoning)
    calls = _calls(behaviour, wanted) if room else []
    text = [] if calls else _text(behaviour, wanted)
    if len(text) > room:
        text, reason = text[:room], LENGTH
    else:
        reason = TOOL_CALLS if calls else STOP
    output = len(reasoning) + len(text) + sum(len(call.pieces) for call in calls)
    model = behaviour.response_model or wanted.model
    tokens = _tokens(behaviour, wanted, output, len(reasoning))
    created = int(time.time())
    name = f"{random.getrandbits(96):024x}"
    return Generation(name, model, created, reasoning, text, calls, finish or reason, tokens, behaviour.usage, body)


def _tokens(behaviour: CloudBehaviour, wanted: Wanted, output: int, reasoning: int) -> Tokens:
    made = behaviour.prompt_tokens or wanted.prompt
    cached = int(made * behaviour.cached_share) if wanted.caches else 0
    written = int(made * behaviour.written_share) if wanted.caches else 0
    if behaviour.usage == "cached_over":
        cached, written = made + 10, 0
    return Tokens(made, cached, written, output, reasoning)


def _calls(behaviour: CloudBehaviour, wanted: Wanted) -> list[Call]:
    if not wanted.tools or not behaviour.tools:
        return []
    count = behaviour.calls if wanted.is_parallel else 1
    calls = []
    for number in range(count):
        tool = wanted.tools[number % len(wanted.tools)]
        arguments = json.dumps(example(tool.schema))
        pieces = [arguments[start : start + FRAGMENT] for start in range(0, len(arguments), FRAGMENT)]
        calls.append(Call("".join(random.choices(string.ascii_letters + string.digits, k=9)), tool.name, pieces))
    return calls


def _text(behaviour: CloudBehaviour, wanted: Wanted) -> list[str]:
    if wanted.schema is None:
        return [f"{WORDS[index % len(WORDS)]} " for index in range(behaviour.tokens)]
    text = json.dumps(example(wanted.schema) if wanted.schema else {"word": WORDS[1]})
    return [text[start : start + FRAGMENT] for start in range(0, len(text), FRAGMENT)]


def example(schema: Mapping[str, Any]) -> Any:
    """Return a value that is valid for a schema of objects, arrays, enums and plain values."""
    if "const" in schema:
        return schema["const"]
    if choices := schema.get("enum"):
        return choices[0]
    if options := schema.get("anyOf"):
        return example(options[0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        return {name: example(part) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [example(schema.get("items") or {})]
    values: dict[str, Any] = {"integer": 7, "number": 0.5, "boolean": True, "null": None}
    return values.get(str(kind), WORDS[1])
