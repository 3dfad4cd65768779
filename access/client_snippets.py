"""Settings of clients, coding agents first, with the address of this RouterDash and a model of its fleet."""

import re
from collections.abc import Callable, Iterator

from access.snippets import (
    UNKNOWN_KEY,
    UNKNOWN_MODEL,
    Piece,
    Snippet,
    context_of,
    first_model,
    output_of,
    quoted,
    snippets,
)

Quote = Callable[[str], str]
_PLACE = re.compile(r"@(root|url|key|model|codex-context|opencode-context|cline-context|continue-context)@")
_MOST_OUTPUT = 32_000  # tokens of the context that agents keep free for a response, if the model has no limit


def _shell(value: str) -> str:
    """Escape a value between single quotes of a shell."""
    return value.replace("'", "'\\''")


def _plain(value: str) -> str:
    return value


def client_snippets(url: str, key: str = UNKNOWN_KEY, model: str = "") -> list[Snippet]:
    """Return the settings of every client; those of libraries are last.

    `url` is the address without a path. Without `model`, it is the one for a first request.
    """
    model = model or first_model() or UNKNOWN_MODEL
    values = {
        "root": url,
        "url": f"{url}/v1",
        "key": key,
        "model": model,
        **_contexts(context_of(model), output_of(model)),
    }
    own = [Snippet(name, label, tuple(_pieces(text, values, quote))) for name, label, quote, text in _TEXTS]
    return own + snippets(url, key, model)


def _contexts(context: int | None, limit: int | None) -> dict[str, str]:
    """Return the settings of agents that have to know the context of a model, to compact a conversation in time.

    `limit`: its most output tokens.
    """
    if context is None:
        return dict.fromkeys(("codex-context", "opencode-context", "cline-context", "continue-context"), "")
    output = min(context // 4, limit or _MOST_OUTPUT)
    return {
        "codex-context": f"\nmodel_context_window = {context}",
        "opencode-context": f', "limit": {{ "context": {context}, "output": {output} }}',
        "cline-context": f"\nContext Window Size: {context}\nMax Output Tokens: {output}",
        "continue-context": "\n    defaultCompletionOptions:"
        f"\n      contextLength: {context}\n      maxTokens: {output}",
    }


def _pieces(text: str, values: dict[str, str], quote: Quote) -> Iterator[Piece]:
    for index, part in enumerate(_PLACE.split(text)):
        if index % 2 == 0:
            yield "", part
        elif part.endswith("-context"):
            yield "", values[part]
        else:
            yield "url" if part == "root" else part, quote(values[part])


_TEXTS: tuple[tuple[str, str, Quote, str], ...] = (
    (
        "claude-code",
        "Claude Code",
        _shell,
        """export ANTHROPIC_BASE_URL='@root@'
export ANTHROPIC_AUTH_TOKEN='@key@'
export ANTHROPIC_MODEL='@model@'
export ANTHROPIC_DEFAULT_HAIKU_MODEL='@model@'
claude""",
    ),
    (
        "codex",
        "Codex",
        quoted,
        """# ~/.codex/config.toml; start it with ROUTERDASH_API_KEY="@key@" codex
model = "@model@"@codex-context@
model_provider = "routerdash"

[model_providers.routerdash]
name = "RouterDash"
base_url = "@url@"
env_key = "ROUTERDASH_API_KEY"
wire_api = "responses\"""",
    ),
    (
        "opencode",
        "OpenCode (opencode.json)",
        quoted,
        """{
  "$schema": "https://opencode.ai/config.json",
  "model": "routerdash/@model@",
  "provider": {
    "routerdash": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "RouterDash",
      "options": { "baseURL": "@url@", "apiKey": "@key@" },
      "models": { "@model@": { "name": "@model@"@opencode-context@ } }
    }
  }
}""",
    ),
    (
        "cline",
        "Cline",
        _plain,
        """API Provider: OpenAI Compatible
Base URL: @url@
API Key: @key@
Model ID: @model@@cline-context@""",
    ),
    (
        "continue",
        "Continue",
        quoted,
        """# ~/.continue/config.yaml
name: RouterDash
version: 1.0.0
schema: v1
models:
  - name: "@model@"
    provider: openai
    model: "@model@"
    apiBase: "@url@"
    apiKey: "@key@"
    roles: [chat, edit, apply]@continue-context@""",
    ),
    (
        "open-webui",
        "Open WebUI",
        _shell,
        """docker run -d -p 3000:8080 \\
  -e OPENAI_API_BASE_URL='@url@' \\
  -e OPENAI_API_KEY='@key@' \\
  -v open-webui:/app/backend/data \\
  ghcr.io/open-webui/open-webui:main""",
    ),
    (
        "aider",
        "aider",
        _shell,
        """export OPENAI_API_BASE='@url@'
export OPENAI_API_KEY='@key@'
aider --model 'openai/@model@'""",
    ),
    (
        "langchain",
        "LangChain",
        quoted,
        """from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="@url@", api_key="@key@", model="@model@")
print(model.invoke("Hello").content)""",
    ),
)
