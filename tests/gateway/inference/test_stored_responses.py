"""Stored responses stay at their endpoint, and belong to their API key."""

import json
from collections import Counter

import pytest

from gateway.registry.schema import ModelName, Step, Target
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import (
    add_equals,
    change,
    error_of,
    event_data,
    events,
)
from tests.gateway.process import KEY
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
    stored = http_response(json.dumps({"id": response_id, "object": "response", "model": "m"}).encode())
    missing = http_response(b'{"error":{"message":"no such response"}}', 404)

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(stored if request.split(b" ")[1].startswith(f"/v1/responses/{response_id}".encode()) else missing)

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
    assert events(given)[-1].startswith(b"event: response.failed\n")
    assert b"[DONE]" not in given.body
    assert LAST not in given.body


# External endpoints


def test_a_response_at_an_external_endpoint_is_for_keys_that_may_use_it(make_gateway, sim):
    gateway = make_gateway().start()
    gateway.add_key(KEY)
    model = gateway.add(sim.add())
    stored = gateway.post("/v1/responses", {"model": model, "input": "a"}).json()["id"]
    assert gateway.get(f"/v1/responses/{stored}").status == 200
    change(gateway, model, external=True)
    until(lambda: gateway.get(f"/v1/responses/{stored}").status == 403)
    given = gateway.post("/v1/responses", {"model": model, "input": "b", "previous_response_id": stored})
    assert error_of(given) == (403, "external_not_allowed")


def test_unknown_responses_are_not_searched_for_at_external_endpoints(make_gateway):
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    gateway.add_key(KEY)
    with upstream(serves("resp_a")) as server:
        gateway.add(server, external=True)
        until(lambda: gateway.get("/v1/models").status == 200)
        assert gateway.get("/v1/responses/resp_a").status == 404
        assert server.requests == []


def test_a_response_continues_at_the_step_whose_endpoint_stores_it(gateway, sim):
    first, second = gateway.add(sim.add()), gateway.add(sim.add())
    steps = (Step((Target(first),)), Step((Target(second),)))
    gateway.registry.writer.apply(Changes(model_names={"stored": ModelName(id="stored", name="stored", steps=steps)}))
    stored = gateway.post("/v1/responses", {"model": second, "input": "a"}).json()["id"]
    given = gateway.post("/v1/responses", {"model": "stored", "input": "b", "previous_response_id": stored})
    assert given.headers["x-routerdash-step"] == "2"
    assert gateway.records()[-1].left_steps == ((1, "stored_elsewhere"),)
    gateway.registry.writer.apply(Changes(model_names={"stored": None}))
