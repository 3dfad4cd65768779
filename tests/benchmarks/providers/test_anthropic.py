"""The simulated Anthropic: versions, thinking and its signatures, streams, counts."""

from typing import Any

import pytest

from benchmarks.providers import add
from benchmarks.providers.anthropic import NEW, OLD, signature
from benchmarks.simulator import Simulator
from tests.benchmarks.providers.client import MESSAGES_TOOL, PIXEL, CloudClient, events
from tests.http import Response

THINKING = {"type": "adaptive"}
ASK = {"role": "user", "content": "Weather?"}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}]}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}


@pytest.fixture
def client(sim: Simulator) -> CloudClient:
    return CloudClient(add(sim, "anthropic"))


def refusal(response: Response) -> str:
    assert response.status == 400, response
    assert response.json()["type"] == "error"
    message: str = response.json()["error"]["message"]
    return message


def test_a_version_is_required(client: CloudClient) -> None:
    client.headers = {}
    assert "header is required" in refusal(client.send())
    assert "not a valid version" in refusal(client.send(headers={"anthropic-version": "2020-01-01"}))


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_only_the_newest_version_refuses_sampling_parameters(client: CloudClient, name: str) -> None:
    sampling: dict[str, Any] = {name: 1}
    assert client.send(**sampling).status == 200
    assert name in refusal(client.send(headers={"anthropic-version": NEW}, **sampling))


@pytest.mark.parametrize("header", ["x-api-key", "Authorization"])
def test_both_headers_of_a_key_are_accepted(client: CloudClient, header: str) -> None:
    value = client.key if header == "x-api-key" else f"Bearer {client.key}"
    headers = {header: value, "anthropic-version": OLD}
    body = {"model": "claude-sonnet-5", "max_tokens": 5, "messages": [ASK]}
    assert client.post("/v1/messages", body, headers=headers, key=None).status == 200


def test_max_tokens_is_required(client: CloudClient) -> None:
    assert refusal(client.send(max_tokens=None)) == "max_tokens: Field required"


def test_the_events_of_a_stream_with_thinking(client: CloudClient) -> None:
    client.cloud.set(reasoning=1, tokens=1)
    streamed = events(client.send(stream=True, thinking=THINKING))
    assert [event["type"] for event in streamed] == [
        "message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
        "content_block_stop", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    kinds = [event["delta"]["type"] for event in streamed if event["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta", "signature_delta", "text_delta"]


def test_the_last_usage_has_no_input(client: CloudClient) -> None:
    streamed = events(client.send(stream=True, thinking=THINKING))
    assert streamed[0]["message"]["usage"]["input_tokens"] == client.cloud.tally[0].tokens.input
    assert streamed[-2]["usage"]["input_tokens"] is None
    assert streamed[-2]["usage"]["output_tokens"] == client.cloud.tally[0].tokens.output
    assert streamed[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 6}


def test_cached_tokens_are_apart_from_the_input(client: CloudClient) -> None:
    content = [{"type": "text", "text": "one two three four five", "cache_control": {"type": "ephemeral"}}]
    usage = client.send(messages=[{"role": "user", "content": content}]).json()["usage"]
    parts = usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    assert sum(parts) == client.cloud.tally[0].tokens.input
    assert all(parts)


def test_thinking_must_come_back_in_a_tool_loop(client: CloudClient) -> None:
    first = client.send(messages=[ASK], tools=[MESSAGES_TOOL], thinking=THINKING).json()
    turn = {"role": "assistant", "content": first["content"]}
    tool = first["content"][1]["id"]
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": tool, "content": "Sunny."}]}
    common: dict[str, Any] = {"tools": [MESSAGES_TOOL], "thinking": THINKING}
    assert client.send(messages=[ASK, turn, result], **common).status == 200
    without = {"role": "assistant", "content": first["content"][1:]}
    assert "Expected `thinking`" in refusal(client.send(messages=[ASK, without, result], **common))


def test_a_changed_thought_is_noticed(client: CloudClient) -> None:
    thought = {"type": "thinking", "thinking": "other", "signature": signature("this")}
    turn = {"role": "assistant", "content": [thought, USE]}
    messages = [ASK, turn, RESULT]
    assert "Invalid `signature`" in refusal(client.send(messages=messages, thinking=THINKING))


def test_images_of_known_types_are_accepted(client: CloudClient) -> None:
    for media, status in (("image/png", 200), ("image/tiff", 400)):
        block = {"type": "image", "source": {"type": "base64", "media_type": media, "data": PIXEL}}
        assert client.send(messages=[{"role": "user", "content": [block]}]).status == status


def test_tokens_are_counted_as_they_are_reported(client: CloudClient) -> None:
    counted = client.send(path="/v1/messages/count_tokens").json()["input_tokens"]
    assert counted == client.send().json()["usage"]["input_tokens"]
    assert len(client.cloud.tally) == 1


def test_structured_output_follows_the_schema(client: CloudClient) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    form = {"format": {"type": "json_schema", "schema": schema}}
    assert client.send(output_config=form).json()["content"][0]["text"] == '{"city": "quick"}'


def test_a_refusal_has_an_explanation(client: CloudClient) -> None:
    message = client.send("sim-finish-refusal").json()
    assert (message["stop_reason"], message["stop_details"]["type"]) == ("refusal", "refusal")


@pytest.mark.parametrize(
    ("cause", "status", "kind"),
    [
        ("overloaded", 529, "overloaded_error"),
        ("money", 402, "billing_error"),
        ("too_long.bytes", 413, "request_too_large"),
    ],
)
def test_errors(client: CloudClient, cause: str, status: int, kind: str) -> None:
    response = client.send(f"sim-{cause}")
    assert (response.status, response.json()["error"]["type"]) == (status, kind)
