"""Code snippets for a client's first request, for curl and for OpenAI's libraries."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from endpoints.capabilities import normalise
from endpoints.models import OperatorState, Status
from endpoints.registry import ModelEntry, registry
from gateway.base.request_kinds import CAN_CHAT

UNKNOWN_KEY = "sk_…"
UNKNOWN_MODEL = "…"

Piece = tuple[str, str]  # kind (`url`, `key`, `model`, else empty) and text


@dataclass(frozen=True, slots=True)
class Snippet:
    name: str
    label: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(text for _kind, text in self.pieces)


def snippets(url: str, key: str = UNKNOWN_KEY, model: str = "") -> list[Snippet]:
    model = model or first_model() or UNKNOWN_MODEL
    values = {"url": f"{url}/v1", "key": key, "model": model}
    return [Snippet(name, label, tuple(_pieces(text, values, name))) for name, label, text in _TEXTS]


def first_model() -> str | None:
    """Return the first chat model of the enabled endpoints, else any model of theirs, else None.

    Models of online endpoints come first, and those of external endpoints last: few API keys may use them.
    """
    models = _models()
    chats = (model.id for model in models if CAN_CHAT in normalise(model.capabilities))
    return next(chats, models[0].id if models else None)


def chat_models() -> list[str]:
    """Return the ids of all chat models, in the same order."""
    return list(dict.fromkeys(model.id for model in _models() if CAN_CHAT in normalise(model.capabilities)))


def context_of(model: str) -> int | None:
    """Return the smallest context of a model, in tokens, at the enabled endpoints that report one."""
    return min((entry.max_tokens for entry in _models() if entry.id == model and entry.max_tokens), default=None)


def output_of(model: str) -> int | None:
    """Return the least limit of output tokens of a model at the enabled endpoints that report one."""
    limits = (entry.max_output_tokens for entry in _models() if entry.id == model)
    return min((limit for limit in limits if limit), default=None)


def _models() -> list[ModelEntry]:
    """Return the models of enabled endpoints, in the order in which they are offered."""
    entries = [entry for entry in registry.all() if entry.operator_state == OperatorState.ENABLED]
    entries.sort(key=lambda entry: (entry.is_external, entry.status != Status.ONLINE))
    return [model for entry in entries for model in entry.models]


def _pieces(text: str, values: dict[str, str], name: str) -> Iterator[Piece]:
    """Yield the parts of the text with the values inserted, each escaped for the language of the snippet."""
    for index, part in enumerate(text.split("@")):
        if index % 2 == 0:
            yield "", part
        else:
            yield part, _escaped(part, values[part], name)


def _escaped(kind: str, value: str, name: str) -> str:
    """Escape the value for double quotes; in the body for curl also for the single quotes of the shell."""
    inner = quoted(value)
    return inner.replace("'", "'\\''") if name == "curl" and kind == "model" else inner


def quoted(value: str) -> str:
    """Escape a value between double quotes, as JSON, TOML, YAML, Python and JavaScript read them."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


_TEXTS = (
    (
        "curl",
        "curl",
        """curl @url@/chat/completions \\
  -H "Authorization: Bearer @key@" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "@model@",
       "messages": [{"role": "user", "content": "Hello"}]}'""",
    ),
    (
        "python",
        "Python",
        """from openai import OpenAI

client = OpenAI(base_url="@url@", api_key="@key@")
answer = client.chat.completions.create(
    model="@model@",
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)""",
    ),
    (
        "javascript",
        "JavaScript",
        """import OpenAI from "openai";

const client = new OpenAI({ baseURL: "@url@", apiKey: "@key@" });
const answer = await client.chat.completions.create({
  model: "@model@",
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);""",
    ),
)
