"""Errors of cloud providers, through a real gateway: failover, pauses, and what clients receive."""

import json
import time

import pytest

from gateway.routing.set_aside import CAUSES
from tests.gateway.inference.helpers import error_of, outcomes
from tests.gateway.inference.test_clouds import ANSWER, SECRET, add_cloud, sealed
from tests.gateway.scripted import always, each_time, http_response, stream, upstream


def refusal(status, error, *headers):
    return http_response(json.dumps(error).encode(), status, "application/json", *headers)


def openai(code, kind="invalid_request_error", message="…"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


MONEY = refusal(429, openai("insufficient_quota", "insufficient_quota"))
LIMITED = refusal(429, openai("rate_limit_exceeded", "tokens", "Limit reached in org-a1b2c3d4"), "Retry-After: 20")
KEY = refusal(401, openai("invalid_api_key", message=f"Incorrect API key provided: {SECRET}"))


def pause_of(gateway, model):
    endpoint = gateway.endpoints_of(model)[0]
    until, number = gateway.page.notes.pause(endpoint.slot, endpoint.id)
    return (None, 0) if not until else (CAUSES[number], round(until - time.time()))


@pytest.mark.parametrize(
    ("response", "cause", "seconds"),
    [
        (MONEY, "money", 600),
        (LIMITED, "limited", 20),
        (KEY, "key_refused", 60),
        (refusal(503, openai("server_is_overloaded"), "retry-after-ms: 7000"), "overloaded", 7),
        (refusal(429, openai("rate_limit_exceeded"), "Retry-After: 86400"), "limited", 900),
        (
            refusal(
                429,
                openai("rate_limit_exceeded"),
                "x-ratelimit-remaining-requests: 5",
                "x-ratelimit-reset-requests: 9m0s",
                "x-ratelimit-remaining-tokens: 0",
                "x-ratelimit-reset-tokens: 2m0s",
            ),
            "limited",
            120,
        ),
    ],
)
def test_a_provider_is_set_aside_and_another_endpoint_answers(gateway, response, cause, seconds):
    with upstream(always(response)) as cloud, upstream(always(ANSWER)) as server:
        model = gateway.add(cloud, server, kind="openai", sealed_key=sealed(gateway))
        assert [gateway.chat(model).status for _ in range(3)] == [200] * 3
    assert (len(cloud.requests), len(server.requests)) == (1, 3)
    pause_cause, left = pause_of(gateway, model)
    assert (pause_cause, abs(left - seconds) <= 3) == (cause, True)
    assert gateway.page.breakers.trial_due(gateway.endpoints_of(model)[0].slot) == 0


def test_the_last_request_of_a_quota_sets_the_provider_aside(gateway):
    used_up = ("x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 30s")
    answer = http_response(b'{"choices":[]}', 200, "application/json", *used_up)
    with upstream(always(answer)) as cloud:
        model = add_cloud(gateway, cloud, "openai")
        assert gateway.chat(model).status == 200
        given = gateway.chat(model)
    assert error_of(given) == (429, "rate_limit_exceeded")
    assert 26 <= int(given.headers["retry-after"]) <= 31
    assert len(cloud.requests) == 1
    assert [(record.outcome, record.status) for record in gateway.records()] == [("ok", 200), ("no_endpoint", 429)]


def test_a_reset_with_something_left_is_no_pause(gateway):
    left = ("x-ratelimit-remaining-requests: 1", "x-ratelimit-reset-requests: 30s")
    with upstream(always(http_response(b'{"choices":[]}', 200, "application/json", *left))) as cloud:
        model = add_cloud(gateway, cloud, "openai")
        assert [gateway.chat(model).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("response", "status", "code", "retries"),
    [(MONEY, 429, "insufficient_quota", None), (KEY, 502, "upstream_auth", None), (LIMITED, 429, None, 20)],
)
def test_final_refusals_say_whether_to_try_again(gateway, response, status, code, retries):
    with upstream(always(response)) as cloud:
        model = add_cloud(gateway, cloud, "openai")
        answers = [gateway.chat(model) for _ in range(2)]
    assert len(cloud.requests) == 1
    for given in answers:
        assert given.status == status
        assert given.json()["error"]["code"] == (code or "rate_limit_exceeded")
        assert SECRET not in given.body.decode()
        assert b"org-a1b2c3d4" not in given.body
        if retries is None:
            assert given.headers["x-should-retry"] == "false"
            assert "retry-after" not in given.headers
        else:
            assert abs(int(given.headers["retry-after"]) - retries) <= 2


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("openrouter", 429, {"error": {"code": 429, "message": "slow", "metadata": {}}}),
        ("mistral", 429, {"object": "error", "message": "slow", "type": "rate_limited", "code": "1300"}),
        ("gemini", 429, [{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}]),
        ("groq", 498, openai("capacity_exceeded", "requests")),
    ],
)
def test_the_first_429_of_a_provider_has_the_documented_code(gateway, kind, status, body):
    with upstream(always(refusal(status, body, "Retry-After: 20"))) as cloud:
        model = add_cloud(gateway, cloud, kind)
        answers = [gateway.chat(model) for _ in range(2)]  # the provider's, and ours while it is set aside
    assert [error_of(given) for given in answers] == [(429, "rate_limit_exceeded")] * 2
    assert len(cloud.requests) == 1


def test_an_overloaded_provider_is_no_rate_limit(gateway):
    busy = refusal(429, openai("429", message="The service is experiencing high demand."), "Retry-After: 3")
    with upstream(always(busy)) as cloud:
        given = gateway.chat(add_cloud(gateway, cloud, "azure"))
    assert error_of(given) == (503, "upstream_error")
    assert given.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("gemini", 400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}]),
        ("xai", 400, {"code": "x", "error": "Incorrect API key provided: xa***7."}),
        ("anthropic", 403, {"type": "error", "error": {"type": "permission_error", "message": "no"}}),
        ("azure", 401, openai("401")),
    ],
)
def test_a_refused_key_is_not_the_clients(gateway, kind, status, body):
    path = "/v1/messages" if kind == "anthropic" else "/v1/chat/completions"
    with upstream(always(refusal(status, body))) as cloud, upstream(always(ANSWER)) as server:
        only = add_cloud(gateway, cloud, kind)
        given = gateway.post(path, {"model": only, "messages": [], "max_tokens": 1})
        model = gateway.add(cloud, server, kind=kind)
        assert gateway.post(path, {"model": model, "messages": [], "max_tokens": 1}).status == 200
    assert given.status == 502
    assert b"upstream_auth" in given.body or kind == "anthropic"


@pytest.mark.parametrize(
    ("kind", "status", "body", "message", "code"),
    [
        (
            "gemini",
            400,
            [{"error": {"code": 400, "message": "Unknown name", "status": "INVALID_ARGUMENT", "details": []}}],
            "Unknown name",
            "INVALID_ARGUMENT",
        ),
        ("xai", 422, {"code": "bad_value", "error": "no such value"}, "no such value", "bad_value"),
        (
            "openrouter",
            400,
            {"error": {"code": 400, "message": "odd", "metadata": {"raw": "x"}}, "user_id": "user_123456"},
            "odd",
            None,
        ),
        ("mistral", 422, {"detail": [{"loc": ["body"], "msg": "odd", "type": "missing"}]}, None, None),
        ("openai", 400, openai("context_length_exceeded"), "…", "context_length_exceeded"),
    ],
)
def test_errors_of_the_request_have_openais_format(gateway, kind, status, body, message, code):
    with upstream(always(refusal(status, body))) as cloud, upstream(always(ANSWER)) as other:
        given = gateway.chat(gateway.add(cloud, other, kind=kind))
    error = given.json()["error"]
    assert (given.status, error["code"], other.requests) == (status, code, [])
    assert given.json().keys() == {"error"}
    assert error["message"] == message or (message is None and error["message"])
    assert gateway.record().outcome == "refused"


def test_an_error_within_a_success_is_a_failure(gateway):
    inside = http_response(b'{"error":{"code":429,"message":"Rate limited upstream"},"user_id":"user_1"}')
    with upstream(always(inside)) as cloud, upstream(always(ANSWER)) as server:
        model = gateway.add(cloud, server, kind="openrouter")
        assert gateway.chat(model).status == 200
    assert outcomes(gateway.record()) == [("failed", 429), ("ok", 200)]


def test_a_redirect_is_not_followed(gateway):
    with upstream(always(ANSWER)) as target:
        location = f"Location: {target.url}/v1/chat/completions?key={SECRET}"
        with upstream(each_time(http_response(b"", 307, "text/plain", location))) as cloud:
            given = gateway.chat(add_cloud(gateway, cloud, "openai"))
    assert (error_of(given), target.requests) == ((502, "upstream_error"), [])
    assert given.json()["error"]["message"] == "The endpoint failed: its address has moved (HTTP 307)."
    assert "location" not in given.headers
    log = gateway.log()
    assert "/v1/chat/completions', which is not followed" in log
    assert SECRET not in log


def test_a_stream_that_begins_with_an_error_has_its_cause(gateway):
    error = b'data: {"error":{"message":"no credit","type":"insufficient_quota","code":"insufficient_quota"}}\n\n'
    with upstream(always(stream(error))) as cloud, upstream(always(ANSWER)) as server:
        model = gateway.add(cloud, server, kind="openai")
        assert gateway.chat(model, stream=True).status == 200
    assert gateway.record().attempts[0].error == "its account has no credit left"
    assert pause_of(gateway, model)[0] == "money"
