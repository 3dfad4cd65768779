"""Coding agents as they are published, Claude Code and OpenCode, complete a tool loop through a real gateway.

The scripted server has chat completions alone, so that Claude Code's Messages are translated. It calls the agent's
shell, and reads what the command printed.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import clients
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.scripted import DONE, Talk, http_response, stream, upstream

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(900)]

COMMAND = "echo made-by-the-tool > proof.txt && cat proof.txt"
ARGUMENTS = json.dumps({"command": COMMAND, "description": "Write a file"})
LAST_TEXT = "The file is written."
ASKS, ENDS = (100, 20), (130, 7)  # usage of the response with a call, and of the last one


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return b"data: %b\n\n" % json.dumps({"id": "c", "model": "m", "choices": [], "usage": counts}).encode()


def call(name: str) -> list[bytes]:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ARGUMENTS[:9]}}
    rest = {"index": 0, "function": {"arguments": ARGUMENTS[9:]}}
    return [event({"role": "assistant", "content": None, "tool_calls": [first]}), event({"tool_calls": [rest]})]


@dataclass
class Server:
    """A server with chat completions alone: it calls the shell once, and then ends."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # paths that it lacks
    used: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, talk: Talk) -> None:
        while request := talk.request():
            head, _, body = request.partition(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            if path != "/v1/chat/completions":
                self.missing.append(path)
                talk.send(http_response(b'{"detail":"Not Found"}', 404))
                continue
            self.bodies.append(json.loads(body))
            talk.send(self.response(self.bodies[-1]))

    def response(self, body: dict[str, Any]) -> bytes:
        assert body["stream"] is True
        names = [tool["function"]["name"] for tool in body.get("tools", ())]
        shell = next((name for name in names if name.lower() == "bash"), None)
        calls = shell is not None and not self.results(body)
        self.used.append(ASKS if calls else ENDS)
        if calls:
            assert shell is not None
            return stream(*call(shell), event({}, "tool_calls"), usage(*ASKS), DONE)
        return stream(event({"role": "assistant", "content": LAST_TEXT}), event({}, "stop"), usage(*ENDS), DONE)

    @staticmethod
    def results(body: dict[str, Any]) -> list[str]:
        return [message["content"] for message in body["messages"] if message["role"] == "tool"]


@dataclass
class Loop:
    """A gateway in front of the server, and an empty home and folder for an agent."""

    gateway: GatewayProcess
    server: Server
    model: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def run(self, command: list[str], settings: dict[str, str]) -> str:
        """Run an agent in the folder, with no other settings than these. Return what it prints."""
        home = self.folder.parent / "home"
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8", **settings}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self) -> None:
        """The command ran, the server received its output, and the records have the usage that the server reported."""
        assert (self.folder / "proof.txt").read_text() == "made-by-the-tool\n"
        assert [text.strip() for text in self.server.results(self.server.bodies[-1])] == ["made-by-the-tool"]
        records = self.gateway.records()
        assert {record.outcome for record in records} == {"ok"}
        assert sorted((record.input_tokens, record.output_tokens) for record in records) == sorted(self.server.used)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    (tmp_path / "gateway").mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    gateway, server = GatewayProcess(tmp_path / "gateway").start(), Server()
    try:
        with upstream(server) as given:
            yield Loop(gateway, server, gateway.add(given), folder)
    finally:
        gateway.end()
    assert "Traceback" not in gateway.log()


def test_claude_code(loop: Loop) -> None:
    program = clients.agent("@anthropic-ai/claude-code", "claude")
    printed = loop.run(
        [str(program), "-p", "Write the file.", "--allowedTools", "Bash", "--output-format", "json"],
        {
            "ANTHROPIC_BASE_URL": loop.url,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "ANTHROPIC_MODEL": loop.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": loop.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )
    result = json.loads(printed)
    assert result["result"] == LAST_TEXT
    reported = result["usage"]["input_tokens"], result["usage"]["output_tokens"]
    assert reported == (ASKS[0] + ENDS[0], ASKS[1] + ENDS[1])
    assert loop.server.missing == ["/v1/messages?beta=true"]  # once: the gateway knows it then
    first = loop.server.bodies[0]
    # Its system turn behind the user's is part of the system prompt, which lacks the line that differs by session.
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "x-anthropic-billing-header" not in first["messages"][0]["content"]
    assert first["reasoning_effort"] in ("low", "medium", "high")  # its output_config.effort
    loop.check()


def test_opencode(loop: Loop) -> None:
    program = clients.agent("opencode", "bin/opencode")
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "RouterDash",
        "options": {"baseURL": f"{loop.url}/v1", "apiKey": KEY},
        "models": {loop.model: {"name": loop.model}},
    }
    settings = {"model": f"routerdash/{loop.model}", "provider": {"routerdash": provider}}
    (loop.folder / "opencode.json").write_text(json.dumps(settings))
    printed = loop.run(
        [str(program), "run", "Write the file."],
        {name: "1" for name in ("OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH",
                                "OPENCODE_DISABLE_DEFAULT_PLUGINS", "OPENCODE_DISABLE_LSP_DOWNLOAD")},
    )  # fmt: skip
    assert LAST_TEXT in printed
    assert loop.server.missing == []
    loop.check()
