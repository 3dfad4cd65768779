"""How a client sends its first request here: for curl and for OpenAI's own libraries."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from endpoints.capabilities import normalise
from endpoints.models import OperatorState, Status
from endpoints.registry import registry
from gateway.kinds import CAN_CHAT

UNKNOWN_KEY = "sk_…"
UNKNOWN_MODEL = "…"

Piece = tuple[str, str]  # what it is (`url`, `key`, `model`, else empty), and the text


@dataclass(frozen=True, slots=True)
class Snippet:
    name: str
    label: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(text for _what, text in self.pieces)


def snippets(url: str, key: str = UNKNOWN_KEY, model: str = "") -> list[Snippet]:
    model = model or first_model() or UNKNOWN_MODEL
    values = {"url": f"{url}/v1", "key": key, "model": model}
    return [Snippet(name, label, tuple(_pieces(text, values, name))) for name, label, text in _TEXTS]


def first_model() -> str | None:
    """One that answers to chats now, if there is one; else any."""
    entries = [entry for entry in registry.all() if entry.operator_state == OperatorState.ENABLED]
    entries.sort(key=lambda entry: entry.status != Status.ONLINE)
    models = [model for entry in entries for model in entry.models]
    chats = (model.id for model in models if CAN_CHAT in normalise(model.capabilities))
    return next(chats, models[0].id if models else None)


def _pieces(text: str, values: dict[str, str], name: str) -> Iterator[Piece]:
    """The text with its values in place, each escaped as its language wants it."""
    for at, part in enumerate(text.split("@")):
        if at % 2 == 0:
            yield "", part
        else:
            yield part, _escaped(part, values[part], name)


def _escaped(what: str, value: str, name: str) -> str:
    """Inside of double quotes, and in the shell inside of single ones too, where the body stands."""
    inner = json.dumps(value, ensure_ascii=False)[1:-1]
    return inner.replace("'", "'\\''") if name == "curl" and what == "model" else inner


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
