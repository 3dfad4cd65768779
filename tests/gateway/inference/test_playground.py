"""Chats of the playground: control admits them, then they are requests like any other."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.registry import schema
from gateway.registry.key_rules import KeyRules
from tests.gateway.http.test_control_proxy import control_script  # noqa: F401  # a fixture
from tests.gateway.inference.helpers import error_of
from tests.gateway.process import read_until
from tests.gateway.scripted import Talk, always, http_response
from tests.router import until

PATH = "/api/playground/chat"
KEY_ID = "cccccccc-0000-4000-8000-00000000000c"


def admits(**fields):
    return always(http_response(json.dumps({"api_key_id": KEY_ID, **fields}).encode(), 200, "application/json"))


def play(gateway, model, **fields):
    if KEY_ID not in gateway.keys:  # control publishes it before it admits the first chat
        gateway.keys[KEY_ID] = schema.PublishedKey(KEY_ID, "00" * 32, ())
        gateway.publish()
    headers = {"Cookie": "routerdash_session=s", "X-CSRFToken": "t"}
    return gateway.post(PATH, {"model": model, "messages": [], **fields}, key=None, headers=headers)


def test_an_admitted_chat_counts_under_its_key(gateway, sim, control_script):  # noqa: F811
    simulated = sim.add()
    model = gateway.add(simulated)
    with control_script(admits(endpoint_id=None)) as control:
        given = play(gateway, model)
    assert (given.status, given.json()["model"]) == (200, model)
    record = gateway.record()
    assert (record.kind, record.api_key_id, record.outcome) == ("chat_completions", KEY_ID, "ok")
    assert simulated.seen.paths[-1] == "/v1/chat/completions"
    assert "cookie" not in simulated.seen.headers[-1]
    (request,) = control.requests
    assert request.startswith(b"POST /api/playground/chat HTTP/1.1\r\n")
    assert b"content-length: 0\r\n\r\n" in request  # control needs only the header block
    assert b"routerdash_session=s" in request


def test_it_streams(gateway, sim, control_script):  # noqa: F811
    model = gateway.add(sim.add())
    with control_script(admits()):
        given = play(gateway, model, stream=True)
    assert given.body.endswith(b"data: [DONE]\n\n")
    assert given.headers["x-routerdash-endpoint"]


@pytest.mark.parametrize("status", [400, 401, 403, 503])
def test_a_refused_chat_gets_the_response_of_control(gateway, sim, control_script, status):  # noqa: F811
    simulated = sim.add()
    model = gateway.add(simulated)
    with control_script(always(http_response(b'{"error":"No."}', status, "application/json"))):
        given = play(gateway, model)
    assert (given.status, given.json()) == (status, {"error": "No."})
    assert (gateway.records(), simulated.seen.started) == ([], 0)


def test_without_control_no_chat_is_admitted(gateway, sim):
    assert play(gateway, gateway.add(sim.add())).status == 503


def test_a_pinned_chat_uses_no_other_endpoint(gateway, sim, control_script):  # noqa: F811
    best, pinned = sim.add(), sim.add()
    model = gateway.add(best, pinned)
    second = gateway.endpoints_of(model)[1]
    with control_script(admits(endpoint_id=second.id)):
        assert play(gateway, model).status == 200
        pinned.set(fault="500")
        given = play(gateway, model)
    assert given.json()["error"]["code"] == "upstream_error"
    assert best.seen.started == 0
    attempts = [
        [(attempt.endpoint_id, attempt.reason, attempt.outcome) for attempt in record.attempts]
        for record in gateway.records()
    ]
    assert attempts == [[(second.id, "pinned", "ok")], [(second.id, "pinned", "failed")]]


def test_a_chat_cannot_be_pinned_to_an_endpoint_without_the_model(gateway, sim, control_script):  # noqa: F811
    model, other = gateway.add(sim.add()), gateway.add(sim.add())
    with control_script(admits(endpoint_id=gateway.endpoints_of(other)[0].id)):
        given = play(gateway, model)
    assert (given.status, given.json()["error"]["code"]) == (503, "no_capable_endpoints")
    assert gateway.record().outcome == "no_endpoint"


def test_a_full_endpoint_is_waited_for(gateway, sim, control_script):  # noqa: F811
    pinned = sim.add(tokens=10, tokens_per_second=30)
    model = gateway.add(pinned, sim.add(), max_concurrency=1)
    first = gateway.endpoints_of(model)[0]
    with control_script(admits(endpoint_id=first.id)), gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, stream=True))
        read_until(connection, b"\n\n\r\n")
        assert play(gateway, model).status == 200
    waited = next(record for record in gateway.records() if record.api_key_id == KEY_ID)
    assert waited.queue_us > 0
    assert waited.attempts[0].endpoint_id == first.id


def test_a_client_disconnect_ends_a_chat(gateway, sim, control_script):  # noqa: F811
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    model = gateway.add(simulated)
    body = json.dumps({"model": model, "messages": [], "stream": True, "max_tokens": 100_000}).encode()
    with control_script(admits()), gateway.connect() as connection:
        connection.sendall(gateway.head(f"POST {PATH}", f"Content-Length: {len(body)}") + body)
        read_until(connection, b"\n\n\r\n")
    assert gateway.record_soon().outcome == "cancelled"
    until(lambda: simulated.seen.cancelled == 1)


def test_a_bad_body_is_refused_and_counted(gateway, control_script):  # noqa: F811
    with control_script(admits()):
        given = play(gateway, "nobody-has-this")
    assert given.json()["error"]["code"] == "model_not_found"
    record = gateway.record()
    assert (record.outcome, record.api_key_id) == ("rejected", KEY_ID)


def test_other_methods_are_forwarded_to_control(gateway, control_script):  # noqa: F811
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(http_response(b'{"error":"Not so."}', 405, "application/json"))

    with control_script(script):
        assert gateway.get(PATH).status == 405


def test_a_body_has_a_limit(gateway):
    assert gateway.post(PATH, b"x" * (9 << 20)).status == 413


def test_a_chat_ends_when_its_user_is_deleted(gateway, sim, control_script):  # noqa: F811
    model = gateway.add(sim.add(tokens=100_000, tokens_per_second=50))
    with control_script(admits()), ThreadPoolExecutor(1) as threads:
        chat = threads.submit(play, gateway, model, stream=True)
        until(lambda: gateway.in_flight(model) == 1 or (chat.done() and chat.result()))
        del gateway.keys[KEY_ID]
        gateway.publish()
        assert b"The API key of this request was revoked." in chat.result().body
    record = gateway.record()
    assert (record.outcome, record.error) == ("cancelled", "its API key was revoked")


@pytest.mark.parametrize(("external", "status"), [(True, 200), (False, 403)])
def test_control_says_whether_external_endpoints_may_be_used(gateway, sim, control_script, external, status):  # noqa: F811
    model = gateway.add(sim.add(), external=True)
    (endpoint,) = gateway.endpoints_of(model)
    for endpoint_id in (None, endpoint.id):
        with control_script(admits(external=external, endpoint_id=endpoint_id)):
            assert play(gateway, model).status == status
    assert [record.outcome for record in gateway.records()] == 2 * ["ok" if external else "rejected"]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"rules": KeyRules(forbidden_models=("model-*",))}, (403, "model_not_allowed")),
        ({"enabled": False}, (401, "key_disabled")),
    ],
)
def test_the_key_of_the_playground_is_restricted_like_others(gateway, sim, control_script, fields, refusal):  # noqa: F811
    model = gateway.add(sim.add())
    digest = "00" * 32
    gateway.keys[KEY_ID] = schema.PublishedKey(KEY_ID, digest, (), **fields)
    gateway.publish()
    gateway.wait_until_followed()
    with control_script(admits(api_key_hash=digest)):
        assert error_of(play(gateway, model)) == refusal
    del gateway.keys[KEY_ID]
