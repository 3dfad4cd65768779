"""Codex, which knows only Responses, as the client of a gateway whose endpoint has only chat completions."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import clients
from tests.gateway.inference.test_responses_as_chat import MISSING
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import DONE, Talk, stream, upstream

pytestmark = [pytest.mark.slow, pytest.mark.one_database, pytest.mark.timeout(600)]

CONFIG = """
model = "{model}"
model_provider = "routerdash"
approval_policy = "never"
sandbox_mode = "danger-full-access"

[model_providers.routerdash]
name = "RouterDash"
base_url = "http://127.0.0.1:{port}/v1"
env_key = "ROUTERDASH_KEY"
wire_api = "responses"
"""
BUILT_IN = """
model = "{model}"
openai_base_url = "http://127.0.0.1:{port}/v1"
approval_policy = "never"
"""
USAGE = {"prompt_tokens": 900, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 500}}


def chunk(delta: Any, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def called(name: str, arguments: str) -> bytes:
    """Return a stream that calls a function, with its arguments in two parts."""
    begun = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:9], arguments[9:])]
    calls = [chunk({"tool_calls": [call]}) for call in (begun, *parts)]
    return stream(chunk({"reasoning_content": "I have to run it."}), *calls, chunk({}, "tool_calls"), DONE)


def replied() -> bytes:
    counted = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    return stream(chunk({"content": "The tool "}), chunk({"content": "has run."}), chunk({}, "stop"), counted, DONE)


def serving(seen: list[Any], tool: str, arguments: str) -> Any:
    """Return a script of a server whose model calls a tool once. It keeps the requests in `seen`."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            if b" /v1/responses " in request[:100]:
                talk.send(MISSING)
                continue
            seen.append(json.loads(request.partition(b"\r\n\r\n")[2]))
            talk.send(replied() if seen[-1]["messages"][-1]["role"] == "tool" else called(tool, arguments))

    return script


def run(gateway: GatewayProcess, model: str, folder: Path, config: str = CONFIG) -> list[dict[str, Any]]:
    """Return the items and the end of a turn of Codex."""
    (folder / "config.toml").write_text(config.format(model=model, port=gateway.port))
    (folder / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": gateway.key, "auth_mode": "apikey"}))
    folder.joinpath("work").mkdir()
    (program,) = clients.agent("@openai/codex", "vendor").glob("*/bin/codex")
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "CODEX_HOME": str(folder)}
    done = subprocess.run(
        [str(program), "exec", "--json", "--skip-git-repo-check", "Run it."],
        cwd=folder / "work",
        env={**variables, "ROUTERDASH_KEY": gateway.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("model", "tool", "arguments"),
    [
        # A model that Codex does not know: functions in `tools`.
        ("", "exec_command", '{"cmd":"echo it-has-run"}'),
        # One that it knows: a custom tool of a namespace, in an item of the input.
        ("gpt-6.2-sol", "functions__exec", """{"input":"text('it-has-' + 'run')"}"""),
    ],
    ids=["function", "custom tool"],
)
def test_a_loop_of_tools(gateway, tmp_path, model, tool, arguments):
    seen: list[Any] = []
    with upstream(serving(seen, tool, arguments)) as server:
        named = gateway.add(server, known_as=model)
        events = run(gateway, model or named, tmp_path)
    first, second = seen
    assert tool in {each["function"]["name"] for each in first["tools"]}
    assert first["messages"][0]["role"] == "system"
    call, result = second["messages"][-2:]
    assert (call["reasoning_content"], result["role"]) == ("I have to run it.", "tool")
    assert call["tool_calls"][0]["function"] == {"name": tool, "arguments": arguments}
    assert "it-has-run" in result["content"]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert items[-1]["text"] == "The tool has run."
    assert events[-1]["type"] == "turn.completed"
    assert {name: events[-1]["usage"][name] for name in ("input_tokens", "cached_input_tokens", "output_tokens")} == {
        "input_tokens": 900, "cached_input_tokens": 500, "output_tokens": 30,
    }  # fmt: skip
    assert [record.outcome for record in gateway.records()] == ["ok", "ok"]


def test_its_own_provider_goes_on_over_http_at_once(gateway, tmp_path):
    """It tries a WebSocket first, and would try it seven times after a 404."""
    seen: list[Any] = []
    with upstream(serving(seen, "exec_command", '{"cmd":"true"}')) as server:
        gateway.add(server, known_as="gpt-5.5")
        events = run(gateway, "gpt-5.5", tmp_path, BUILT_IN)
    assert events[-1]["type"] == "turn.completed"
    assert ("error" in [event["type"] for event in events], len(seen)) == (False, 2)
    assert [(record.kind, record.outcome) for record in gateway.records()] == [("responses", "ok")] * len(seen)


def test_it_understands_an_error_in_mid_stream(gateway, tmp_path):
    broken = stream(chunk({"content": "The to"}), b'data: {"error":{"message":"out of memory"}}\n\n')
    streams = [broken, replied()]

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(MISSING if b" /v1/responses " in request[:100] else streams.pop(0))

    with upstream(script) as server:
        events = run(gateway, gateway.add(server), tmp_path)
    (error,) = [event["message"] for event in events if event["type"] == "error"]
    assert "out of memory" in error
    assert events[-1]["type"] == "turn.completed"
    assert [record.outcome for record in gateway.records()] == ["failed", "ok"]
