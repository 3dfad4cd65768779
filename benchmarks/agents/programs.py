"""Claude Code, Codex and OpenCode as programs: one turn of a session, without a person, in an empty home."""

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests import clients
from tests.router import KEY

SECONDS = 600  # for a turn
_CODEX = """
model = "{model}"
model_provider = "routerdash"
approval_policy = "never"
sandbox_mode = "danger-full-access"

[model_providers.routerdash]
name = "RouterDash"
base_url = "{url}/v1"
env_key = "ROUTERDASH_API_KEY"
wire_api = "responses"
"""


class Turn(NamedTuple):
    """What an agent printed about a turn."""

    session: str
    text: str
    input: int  # tokens, with those from a cache
    output: int


class Agent(ABC):
    """A program with its settings for one RouterDash and one model."""

    name = ""

    def __init__(self, folder: Path, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir(parents=True)
        self.work.mkdir()

    @abstractmethod
    def turn(self, prompt: str, session: str = "") -> Turn:
        """Run one turn, of a new session without `session`."""

    def run(self, command: Sequence[str], settings: Mapping[str, str]) -> str:
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        done = subprocess.run(  # noqa: S603  # a program that was just installed
            command,
            cwd=self.work,
            env={**kept, "HOME": str(self.home), "TERM": "dumb", "LANG": "C.UTF-8", **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout


class ClaudeCode(Agent):
    name = "Claude Code"

    def turn(self, prompt: str, session: str = "") -> Turn:
        program = clients.agent("@anthropic-ai/claude-code", "claude")
        command = [str(program), "-p", prompt, "--allowedTools", "Bash", "--output-format", "json"]
        printed = self.run(
            [*command, "--resume", session] if session else command,
            {
                "ANTHROPIC_BASE_URL": self.url,
                "ANTHROPIC_AUTH_TOKEN": KEY,
                "ANTHROPIC_MODEL": self.model,
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": self.model,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
        )
        result = json.loads(printed)
        usage = result["usage"]
        read = usage["input_tokens"] + usage["cache_read_input_tokens"]
        return Turn(result["session_id"], result["result"], read, usage["output_tokens"])


class Codex(Agent):
    name = "Codex"
    _printed = (0, 0)  # tokens of its session, which it prints instead of those of the turn

    def turn(self, prompt: str, session: str = "") -> Turn:
        (self.home / "config.toml").write_text(_CODEX.format(model=self.model, url=self.url))
        (program,) = clients.agent("@openai/codex", "vendor").glob("*/bin/codex")
        command = [str(program), "exec", "--json", "--skip-git-repo-check"]
        printed = self.run(
            [*command, "resume", session, prompt] if session else [*command, prompt],
            {"CODEX_HOME": str(self.home), "ROUTERDASH_API_KEY": KEY},
        )
        events = [json.loads(line) for line in printed.splitlines()]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        texts = [item["text"] for item in items if item["type"] == "agent_message"]
        (total,) = [event["usage"] for event in events if event["type"] == "turn.completed"]
        started = next(event["thread_id"] for event in events if event["type"] == "thread.started")
        before, self._printed = self._printed, (total["input_tokens"], total["output_tokens"])
        return Turn(started, "\n".join(texts), self._printed[0] - before[0], self._printed[1] - before[1])


class OpenCode(Agent):
    name = "OpenCode"

    def turn(self, prompt: str, session: str = "") -> Turn:
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "RouterDash",
            "options": {"baseURL": f"{self.url}/v1", "apiKey": KEY},
            "models": {self.model: {"name": self.model}},
        }
        settings = {"model": f"routerdash/{self.model}", "provider": {"routerdash": provider}}
        (self.work / "opencode.json").write_text(json.dumps(settings))
        program = clients.agent("opencode", "bin/opencode")
        command = [str(program), "run", "--format", "json", prompt]
        printed = self.run(
            [*command, "--session", session] if session else command,
            {f"OPENCODE_{name}": "1" for name in ("DISABLE_AUTOUPDATE", "DISABLE_MODELS_FETCH",
                                                  "DISABLE_DEFAULT_PLUGINS", "DISABLE_LSP_DOWNLOAD")},
        )  # fmt: skip
        return _turn_of_opencode([json.loads(line) for line in printed.splitlines()])


def _turn_of_opencode(events: Iterable[Mapping[str, Any]]) -> Turn:
    """Read the events of a turn. Its own request for the title of a session is not in their tokens."""
    session, texts, read, written = "", [], 0, 0
    for event in events:
        session = event.get("sessionID") or session
        if event["type"] == "text":
            texts.append(event["part"]["text"])
        elif event["type"] == "step_finish":
            tokens = event["part"]["tokens"]
            read += tokens["input"] + tokens["cache"]["read"]
            written += tokens["output"] + tokens["reasoning"]
    return Turn(session, "\n".join(texts), read, written)


AGENTS: tuple[type[Agent], ...] = (ClaudeCode, Codex, OpenCode)
