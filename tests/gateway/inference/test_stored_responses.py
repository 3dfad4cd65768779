"""Stored responses stay at their endpoint, and belong to their API key."""

import json
from collections import Counter

import pytest

from tests.gateway.inference.helpers import (
    add_equals,
    event_data,
    events,
)
from tests.gateway.scripted import LAST, Talk, http_response, opening, stream, upstream
from tests.router import until


def made_by(gateway, model):
    return Counter(record.endpoint_id for record in gateway.records() if record.model == model)


def test_a_response_continues_at_the_endpoint_of_the_previous_one(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    first = gateway.post("/v1/responses", {"model": model, "input": "a"}).json()["id"]
    (maker,) = made_by(gateway, model)
    for _ in range(8):
        gateway.post("/v1/responses", {"model": model, "input": "b", "previous_response_id": first})
    assert made_by(gateway, model) == {maker: 8}


def test_a_streamed_response_continues_at_its_endpoint(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    given = gateway.post("/v1/responses", {"model": model, "input": "a", "stream": True})
    first = event_data(given)[0]["response"]["id"]
    (maker,) = made_by(gateway, model)
    for _ in range(8):
        gateway.post("/v1/responses", {"model": model, "input": "b", "previous_response_id": first})
    assert made_by(gateway, model) == {maker: 8}


def serves(response_id):
    """An endpoint that has one response."""
    found = http_response(json.dumps({"id": response_id, "object": "response", "model": "m"}).encode())
    missing = http_response(b'{"error":{"message":"no such response"}}', 404)

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(found if request.split(b" ")[1].startswith(f"/v1/responses/{response_id}".encode()) else missing)

    return script


def test_a_response_of_unknown_endpoint_is_searched_for(make_gateway):
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    with upstream(serves("resp_a")) as one, upstream(serves("resp_b")) as other:
        gateway.add(one)
        gateway.add(other)
        until(lambda: gateway.get("/v1/responses/resp_a").status == 200)
        given = gateway.get("/v1/responses/resp_b")
        assert (given.status, given.json()["id"]) == (200, "resp_b")
        record = gateway.records()[-1]
    assert (record.kind, record.outcome, record.model, len(record.attempts)) == ("stored_responses", "ok", "m", 1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses/resp_c/cancel", 200),
        ("GET", "/v1/responses/resp_c/input_items", 200),
        ("DELETE", "/v1/responses/resp_c", 200),
        ("POST", "/v1/responses/resp_c", 405),
        ("GET", "/v1/responses/resp_c/cancel", 405),
        ("GET", "/v1/responses/resp_c/other", 404),
        ("GET", "/v1/responses/", 404),
    ],
)
def test_methods_and_paths_of_a_stored_response(make_gateway, method, path, status):
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    with upstream(serves("resp_c")) as server:
        gateway.add(server)
        until(lambda: gateway.get("/v1/responses/resp_c").status == 200)
        assert gateway.request(method, path).status == status


def test_events_of_a_broken_response_are_of_its_dialect(gateway):
    with upstream(opening(stream(b'data: {"type":"response.output_text.delta"}\n\n', end=False))) as server:
        model = gateway.add(server, timeout_secs=1)
        given = gateway.post("/v1/responses", {"model": model, "input": "", "stream": True})
    assert events(given)[-1].startswith(b"event: error\n")
    assert b"[DONE]" not in given.body
    assert LAST not in given.body
