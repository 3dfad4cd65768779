"""Endpoints that lack the kind of a request, or its model: the next endpoint is asked."""

import pytest

from gateway.routing.set_aside import kinds_of
from tests.gateway.inference.helpers import outcomes
from tests.gateway.scripted import always, http_response, upstream

MISSING = http_response(b'{"detail":"Not Found"}', 404)
ANSWER = http_response(b'{"id":"resp_1","object":"response","output":[]}')


def respond(gateway, model):
    return gateway.post("/v1/responses", {"model": model, "input": "Hi"})


@pytest.mark.parametrize(
    "missing", [MISSING, http_response(b"", 405), http_response(b'{"error":{"message":"no"}}', 501)]
)
def test_the_next_endpoint_is_asked_and_the_first_is_last_from_then_on(gateway, missing):
    with upstream(always(missing)) as without, upstream(always(ANSWER)) as having:
        model = gateway.add(without, having)
        assert [respond(gateway, model).status for _ in range(3)] == [200] * 3
    assert (len(without.requests), len(having.requests)) == (1, 3)
    first, *others = gateway.records()
    assert [attempt.outcome for attempt in first.attempts] == ["refused", "ok"]
    assert first.attempts[0].error == "it lacks this kind of request"
    assert [len(record.attempts) for record in others] == [1, 1]
    assert first.outcome == "ok"


def test_other_kinds_of_the_endpoint_are_not_affected(gateway):
    with upstream(always(MISSING)) as without, upstream(always(ANSWER)) as having:
        model = gateway.add(without, having)
        respond(gateway, model)
        gateway.chat(model)
    assert [request.split(b" ")[1] for request in without.requests] == [b"/v1/responses", b"/v1/chat/completions"]


def test_a_missing_kind_is_in_the_live_page_and_no_failure_of_the_endpoint(gateway):
    with upstream(always(MISSING)) as without:
        model = gateway.add(without)
        for _ in range(6):
            given = respond(gateway, model)
    (endpoint,) = gateway.endpoints_of(model)
    assert (given.status, given.json()) == (404, {"detail": "Not Found"})
    assert kinds_of(gateway.page.notes.lacking(endpoint.slot, endpoint.id)[1]) == [
        "chat_completions", "responses", "messages",
    ]  # fmt: skip
    assert gateway.page.breakers.trial_due(endpoint.slot) == 0
    assert {(record.outcome, record.status) for record in gateway.records()} == {("refused", 404)}


def test_all_endpoints_are_asked_before_a_client_hears_that_there_is_no_path(gateway):
    with upstream(always(MISSING)) as one, upstream(always(MISSING)) as two, upstream(always(MISSING)) as three:
        model = gateway.add(one, two, three)
        given = respond(gateway, model)
    assert given.status == 404
    assert outcomes(gateway.record()) == [("refused", 404)] * 3


def test_a_failure_says_more_than_a_missing_path(gateway):
    broken = http_response(b'{"error":{"message":"broken"}}', 500)
    with upstream(always(broken)) as failing, upstream(always(MISSING)) as without:
        given = respond(gateway, gateway.add(failing, without))
    assert (given.status, given.json()["error"]["message"]) == (502, "The endpoint failed: broken.")
    assert outcomes(gateway.record()) == [("failed", 500), ("refused", 404)]


def test_an_unknown_model_is_asked_of_the_next_endpoint_and_nothing_is_remembered(gateway):
    unknown = http_response(b'{"error":{"message":"The model `x` does not exist.","param":"model"}}', 404)
    with upstream(always(unknown)) as without, upstream(always(ANSWER)) as having:
        model = gateway.add(without, having, known_as="x")
        assert [respond(gateway, model).status for _ in range(2)] == [200] * 2
    assert len(without.requests) == 2
    assert [record.attempts[0].error for record in gateway.records()] == ["it does not know the model"] * 2


@pytest.mark.parametrize("status", [400, 404])
def test_an_unknown_object_of_the_request_is_its_clients_fault(gateway, status):
    body = b'{"error":{"message":"No such file","param":"input","code":"file_not_found"}}'
    with upstream(always(http_response(body, status))) as server, upstream(always(ANSWER)) as other:
        given = respond(gateway, gateway.add(server, other))
    assert (given.status, given.json()["error"]["code"]) == (status, "file_not_found")
    assert other.requests == []


def test_a_provider_is_not_asked_for_what_it_does_not_offer(gateway):
    with upstream(always(ANSWER)) as cloud:
        model = gateway.add(cloud, kind="deepseek")
        given = gateway.post("/v1/embeddings", {"model": model, "input": "Hi"})
    assert (given.status, given.json()["error"]["code"]) == (400, "model_not_capable")
    assert given.json()["error"]["message"].endswith("offers /v1/embeddings.")
    assert cloud.requests == []
