"""Requests as endpoints receive them: the name of the model, headers, path and query."""

from types import SimpleNamespace

import pytest

from gateway.base.sealing import Sealer
from tests.gateway.inference.helpers import (
    PATHS,
    event_data,
)
from tests.gateway.scripted import always, http_response, upstream

# Names of models


def test_a_model_is_requested_by_the_endpoints_own_name(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated, known_as="tiny:latest")
    assert gateway.chat(model).json()["model"] == model
    assert simulated.seen.bodies[0]["model"] == "tiny:latest"
    assert gateway.record().model == model


def test_a_stream_has_the_requested_name_of_the_model(gateway, sim):
    model = gateway.add(sim.add(), known_as="tiny:latest")
    given = gateway.chat(model, stream=True, stream_options={"include_usage": True})
    assert {event["model"] for event in event_data(given)} == {model}


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_may_use_another_name_in_its_response(gateway, sim, stream):
    model = gateway.add(sim.add(response_model="/models/tiny.gguf"))
    given = gateway.chat(model, stream=stream)
    assert b"tiny.gguf" not in given.body
    assert model.encode() in given.body


def test_the_case_of_a_name_does_not_matter(gateway, sim):
    model = gateway.add(sim.add(), known_as="x").upper()
    assert gateway.chat(model).json()["model"] == model
    assert gateway.record().model == model


# Headers


def test_request_headers_pass_an_allow_list(gateway, sim):
    simulated = sim.add()
    sent = {
        "Accept": "text/event-stream",
        "User-Agent": "client/1",
        "OpenAI-Organization": "org",
        "Anthropic-Version": "1",
        "Traceparent": "00-1-1-01",
        "X-Request-Id": "mine-7",
        "Cookie": "session=secret",
        "X-Api-Key": gateway.add_key("sk_in_another_header"),
        "X-Forwarded-For": "192.0.2.1",
        "Accept-Encoding": "gzip",
    }
    gateway.publish()
    gateway.post(PATHS["completions"], {"model": gateway.add(simulated), "prompt": ""}, headers=sent)
    got = {name.lower(): value for name, value in simulated.seen.headers[0].items()}
    got.pop("content-length")
    assert got.pop("via").startswith("1.1 routerdash-")
    kept = ("Accept", "User-Agent", "OpenAI-Organization", "Anthropic-Version", "Traceparent", "X-Request-Id")
    expected = {name.lower(): sent[name] for name in kept} | {"accept-encoding": "identity"}
    assert got == {**expected, "host": simulated.url[7:], "content-type": "application/json"}


def test_an_endpoint_gets_its_own_key(gateway, sim):
    simulated = sim.add(api_key="upstream-secret")
    sealer = Sealer([gateway.config.key_file.read_bytes()])
    model = gateway.add(simulated, sealed_key=sealer.seal("upstream-secret"))
    assert gateway.chat(model).status == 200
    assert "upstream-secret" not in gateway.log()


def test_response_headers_pass_an_allow_list(gateway):
    kept = ("Cache-Control: no-store", "OpenAI-Version: 1", "X-RateLimit-Remaining: 9", "Retry-After: 3")
    dropped = ("Set-Cookie: a=b", "Access-Control-Allow-Origin: *", "Server: secret", "Location: /x", "X-Other: 1")
    with upstream(always(http_response(b"{}", 200, "application/json", *kept, *dropped))) as server:
        given = gateway.chat(gateway.add(server))
    way = {"x-routerdash-endpoint", "x-routerdash-reason", "x-routerdash-attempts", "x-routerdash-queue-ms"}
    harmless = {"x-content-type-options", "content-security-policy"}
    ours = {"date", "content-type", "content-length", "x-request-id", *harmless, *way}
    assert given.headers.keys() == {header.partition(":")[0].lower() for header in kept} | ours


def test_a_path_below_an_endpoints_address_is_kept_and_an_unknown_query_is_not(gateway):
    with upstream(always(http_response(b"{}"))) as server:
        model = gateway.add(SimpleNamespace(url=f"{server.url}/below/"))
        gateway.post("/v1/completions?a=b&c", {"model": model})
        gateway.post("/v1/messages?beta=true&c", {"model": model, "messages": [], "max_tokens": 1})
    first, second = server.requests
    assert first.startswith(b"POST /below/v1/completions HTTP/1.1\r\n")
    assert second.startswith(b"POST /below/v1/messages?beta=true HTTP/1.1\r\n")


def test_a_query_with_an_odd_value_is_refused_with_its_name(gateway, sim):
    body = {"model": gateway.add(sim.add()), "messages": [], "max_tokens": 1}
    given = gateway.post("/v1/messages?beta=a%0d%0ab", body)
    assert (given.status, given.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "`beta`" in given.json()["error"]["message"]


@pytest.mark.parametrize(("given_id", "taken"), [("trace-1", True), ("x" * 129, False), ("", False), ("é", False)])
def test_a_valid_request_id_is_kept(gateway, sim, given_id, taken):
    body = {"model": gateway.add(sim.add()), "messages": []}
    given = gateway.post(PATHS["chat_completions"], body, headers={"X-Request-Id": given_id})
    record = gateway.record()
    assert given.headers["x-request-id"] == (given_id if taken else record.id)
