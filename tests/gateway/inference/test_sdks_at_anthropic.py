"""Official SDKs as clients of a gateway whose endpoint is a simulated Anthropic, and their types for its requests."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.providers import Cloud, add
from gateway.dialects.anthropic.chat_requests import to_messages
from tests import clients, llamacpp
from tests.gateway.dialects.anthropic.test_chat_requests import (
    CALL,
    EPHEMERAL,
    HELLO,
    LOOK,
    MANUAL,
    PDF,
    PNG,
    RUN,
    assistant,
    file,
    image,
    result,
    text,
)
from tests.gateway.inference.test_chat_as_messages import add_cloud

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent


@pytest.fixture(scope="session")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture
def cloud(sim) -> Cloud:
    return add(sim, "anthropic")


def address(gateway):
    return f"http://127.0.0.1:{gateway.port}/v1"


def run(python: Path, script: str, *arguments: str, given: str | None = None) -> Any:
    return output([str(python), str(HERE / script), *arguments], given)


def output(command: list[str], given: str | None = None) -> Any:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai_python(gateway, cloud, python):
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")
    usages = run(python, "cloud_openai.py", address(gateway), gateway.key, model, "responses")["usages"]
    for usage, made in zip(usages, cloud.tally, strict=True):
        tokens = made.tokens
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (tokens.input, tokens.output)
        assert usage["prompt_tokens_details"]["cached_tokens"] == tokens.cached
        assert usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0) == tokens.reasoning
    assert any(made.tokens.reasoning for made in cloud.tally)
    assert sum(record.output_tokens or 0 for record in gateway.records()) == sum(
        made.tokens.output for made in cloud.tally
    )
    check_types(python, cloud.seen.bodies)


def test_anthropic_python(gateway, cloud, python):
    """The SDK sends its key as `Authorization: Bearer`, and the newest version of the API."""
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")
    report = run(python, "cloud_anthropic.py", f"http://127.0.0.1:{gateway.port}", gateway.key, model)
    assert [usage["output_tokens"] for usage in report["usages"]] == [made.tokens.output for made in cloud.tally]
    assert report["counted"] == cloud.tally[0].tokens.input
    assert model in report["models"]


def test_node(gateway, cloud):
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")
    usages = output(clients.node("cloud_openai.mjs", address(gateway), gateway.key, model, "responses"))["usages"]
    assert [usage["completion_tokens"] for usage in usages] == [made.tokens.output for made in cloud.tally]
    base_url = address(gateway).removesuffix("/v1")
    usages = output(clients.node("cloud_anthropic.mjs", base_url, gateway.key, model))["usages"]
    assert [usage["output_tokens"] for usage in usages] == [made.tokens.output for made in cloud.tally[-3:]]


def test_a_loop_of_tools_with_thinking(gateway, cloud, python):
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")
    texts = run(python, "thinking_loop.py", address(gateway), gateway.key, model)
    made = cloud.tally
    assert texts == [[made[index].thoughts, made[index + 1].content] for index in (0, 2)]
    assert all(generation.thoughts for generation in made)
    check_types(python, cloud.seen.bodies)


SIGNED = [{"type": "reasoning.text", "text": "Hm", "signature": "EqQB"}, {"type": "reasoning.encrypted", "data": "x"}]
NEVER = {"type": "function", "function": {"name": "look", "arguments": None}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
REQUESTS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": [text("a", cache_control={**EPHEMERAL, "ttl": "1h"}), text("b")]},
            {"role": "user", "content": [text("c"), image(PNG), file(PDF, filename="d")]},
            {"role": "user", "content": [image("https://x.test/a.png")]},
            {**assistant(CALL, {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}}),
             "reasoning_details": SIGNED, "content": "e"},
            result([text("f"), image(PNG)], cache_control=EPHEMERAL),
            result("", "c2"),
            {"role": "developer", "content": "g"},
            {"role": "user", "content": [file("data:text/plain;base64,YQ==")]},
        ],
        "tools": [{**LOOK, "cache_control": EPHEMERAL}, RUN],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "xhigh",
        "response_format": SCHEMA,
        "stop": ["h"],
        "service_tier": "default",
        "cache_control": EPHEMERAL,
        "stream": True,
    },
    {"messages": [HELLO, {"role": "assistant", "function_call": NEVER["function"]}], "functions": [LOOK["function"]]},
    {"messages": [HELLO, assistant(CALL), result()], "temperature": 0.5, "top_p": 0.5, "top_k": 3},
    {"messages": [HELLO], "tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"messages": [HELLO], "tools": [LOOK], "tool_choice": "none", "reasoning_effort": "none", "service_tier": "auto"},
]  # fmt: skip


def test_the_types_of_the_sdk_know_each_field(python):
    bodies = [
        json.loads(to_messages(json.dumps(request).encode(), model)[0])
        for request in REQUESTS
        for model in ("claude-opus-5", MANUAL)
    ]
    check_types(python, bodies)


def check_types(python: Path, bodies: list[dict[str, Any]]) -> None:
    assert bodies
    assert run(python, "messages_types.py", given=json.dumps(bodies)) == []
