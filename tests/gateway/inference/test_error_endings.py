"""Responses of endpoints that end with an error after their first byte, through a real gateway."""

import json
import time
from typing import Any

import pytest

from tests.gateway.inference.helpers import event_data, outcomes
from tests.gateway.inference.test_cloud_errors import pause_of
from tests.gateway.inference.test_clouds import ANSWER, add_cloud
from tests.gateway.scripted import DONE, always, chunk, http_response, stream, upstream

TEXT = chunk("a")


def ending(reason, **more):
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def error_event(error, **more):
    return b"data: " + json.dumps({"error": error, **more}).encode() + b"\n\n"


def whole(content, reason):
    choice = {"index": 0, "message": {"content": content}, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return http_response(json.dumps({"choices": [choice], "usage": usage}).encode())


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("mistral", "error", "finish_reason, error"),
        ("deepseek", "insufficient_system_resource", "finish_reason, insufficient_system_resource"),
        ("vllm", "abort", "finish_reason, abort"),
    ],
)
def test_a_stream_whose_finish_reason_is_an_error_has_failed(gateway, kind, reason, words):
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    pieces = TEXT + ending(reason, **usage) + DONE
    with upstream(always(stream(pieces))) as server:
        given = gateway.chat(add_cloud(gateway, server, kind), stream=True)
    assert (given.status, event_data(given)[-1]["choices"][0]["finish_reason"]) == (200, reason)
    record = gateway.record()
    assert (record.outcome, record.finish_reason, record.error) == (
        "failed",
        "error",
        f"an error in its response ({words})",
    )
    assert (record.input_tokens, record.output_tokens, record.estimated) == (7, 3, False)


@pytest.mark.parametrize("kind", ["mistral", "vllm"])
def test_without_output_another_endpoint_gets_the_request(gateway, kind):
    with upstream(always(stream(ending("error") + DONE))) as first, upstream(always(ANSWER)) as other:
        assert gateway.chat(gateway.add(first, other, kind=kind), stream=True).status == 200
    assert outcomes(gateway.record())[-1] == ("ok", 200)
    assert (len(first.requests), len(other.requests)) == (1, 1)
    with upstream(always(whole("", "error"))) as first, upstream(always(ANSWER)) as other:
        assert gateway.chat(gateway.add(first, other, kind=kind)).status == 200
    assert [outcome for outcome, _ in outcomes(gateway.record())] == ["failed", "ok"]


@pytest.mark.parametrize("kind", ["mistral", "vllm"])
def test_a_whole_response_that_an_error_has_ended_arrives_and_has_failed(gateway, kind):
    with upstream(always(whole("half", "error"))) as server:
        given = gateway.chat(add_cloud(gateway, server, kind))
    assert (given.status, given.json()["choices"][0]["message"]["content"]) == (200, "half")
    record = gateway.record()
    assert (record.outcome, record.status, record.output_tokens) == ("failed", 200, 3)
    assert record.error == "an error in its response (finish_reason, error)"


def test_messages_have_an_error_instead_of_such_a_reason(gateway):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    with upstream(always(stream(TEXT + ending("error") + DONE))) as server:
        given = gateway.post("/v1/messages", {"model": add_cloud(gateway, server, "mistral"), **body, "stream": True})
    assert b'event: error\ndata: {"type":"error"' in given.body
    assert b"message_stop" not in given.body
    with upstream(always(whole("half", "error"))) as server:
        given = gateway.post("/v1/messages", {"model": add_cloud(gateway, server, "mistral"), **body})
    assert (given.status, given.json()["type"]) == (502, "error")
    assert [record.outcome for record in gateway.records()] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("kind", "event", "cause", "seconds"),
    [
        ("openai", error_event({"message": "…", "code": "insufficient_quota"}), "money", 600),
        (
            "openai",
            error_event({"message": "…", "type": "invalid_request_error", "code": "invalid_api_key"}),
            "key_refused",
            60,
        ),
        (
            "openrouter",
            error_event(
                {
                    "code": 429,
                    "message": "…",
                    "metadata": {
                        "error_type": "rate_limit_exceeded",
                        "headers": {
                            "X-RateLimit-Limit": "20",
                            "X-RateLimit-Remaining": "0",
                            "X-RateLimit-Reset": str(int((time.time() + 3000) * 1000)),
                        },
                    },
                },
                choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
            ),
            "limited",
            900,
        ),
        (
            "gemini",
            b"data: "
            + json.dumps(
                [
                    {
                        "error": {
                            "code": 429,
                            "status": "RESOURCE_EXHAUSTED",
                            "message": "…",
                            "details": [{"retryDelay": "36s"}],
                        }
                    }
                ]
            ).encode()
            + b"\n\n",
            "limited",
            36,
        ),
    ],
)
def test_an_error_in_mid_stream_sets_the_provider_aside(gateway, kind, event, cause, seconds):
    with upstream(always(stream(TEXT + event))) as cloud, upstream(always(ANSWER)) as server:
        model = gateway.add(cloud, server, kind=kind)
        given = gateway.chat(model, stream=True)
        assert event.partition(b'"message"')[0] in given.body
        assert [gateway.chat(model).status for _ in range(2)] == [200, 200]
    assert (len(cloud.requests), len(server.requests)) == (1, 2)
    pause_cause, left = pause_of(gateway, model)
    assert (pause_cause, abs(left - seconds) <= 3) == (cause, True)
    assert gateway.records()[0].outcome == "failed"


def test_an_error_of_the_request_in_mid_stream_is_not_the_endpoints_fault(gateway):
    event = error_event({"message": "…", "code": "context_length_exceeded"})
    with upstream(always(stream(TEXT + event))) as cloud:
        model = add_cloud(gateway, cloud, "openai")
        for _ in range(6):  # more than open a circuit breaker
            assert gateway.chat(model, stream=True).status == 200
    assert len(cloud.requests) == 6


def test_ids_of_the_account_are_removed_from_an_error_in_mid_stream(gateway):
    event = error_event({"message": "Limit reached in org-a1b2c3d4", "code": "rate_limit_exceeded"})
    with upstream(always(stream(TEXT + event))) as cloud:
        given = gateway.chat(add_cloud(gateway, cloud, "openai"), stream=True)
    assert event_data(given)[-1]["error"]["message"] == "Limit reached in [redacted]"


def test_a_stored_response_that_has_failed_is_read_with_success(gateway):
    failed: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "status": "failed",
        "model": "m",
        "output": [],
        "usage": None,
    }
    body = json.dumps({**failed, "error": {"code": "server_error", "message": "…"}}).encode()
    with upstream(always(http_response(body))) as server:
        model = gateway.add(server)
        created = gateway.post("/v1/responses", {"model": model, "input": "hi"})
        assert (created.status, created.json()["status"]) == (200, "failed")
        read = gateway.get(f"/v1/responses/{created.json()['id']}")
    assert (read.status, read.json()["status"]) == (200, "failed")
    assert [record.outcome for record in gateway.records()] == ["failed", "ok"]
