"""Requests to cloud providers: addresses, keys and headers, on real sockets."""

import json

import pytest

from gateway.base.sealing import Sealer
from tests.gateway import certificates
from tests.gateway.inference.helpers import CHAT
from tests.gateway.scripted import DONE, always, each_time, http_response, stream, upstream
from tests.router import until

SECRET = "sk-cloud-secret-0123456789"
ANSWER = http_response(b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}')

HELLO = [{"role": "user", "content": "Hi"}]


def sealed(gateway):
    until(gateway.config.key_file.exists)  # the gateway creates it
    return Sealer([gateway.config.key_file.read_bytes()]).seal(SECRET)


def add_cloud(gateway, server, kind, **facts):
    return gateway.add(server, kind=kind, sealed_key=sealed(gateway), **facts)


def head_of(request):
    line, *lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return line, dict(each.lower().split(b": ", 1) for each in lines)


def body_of(request):
    return json.loads(request.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    ("kind", "facts", "path", "header"),
    [
        ("openai", {}, b"/v1/chat/completions", b"authorization"),
        ("gemini", {}, b"/chat/completions", b"authorization"),
        ("azure", {}, b"/v1/chat/completions", b"api-key"),
        (
            "azure",
            {"api_version": "2024-10-21"},
            b"/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
            b"api-key",
        ),
    ],
)
def test_each_provider_gets_its_path_and_its_key_in_its_header(gateway, kind, facts, path, header):
    with upstream(always(ANSWER)) as server:
        model = add_cloud(gateway, server, kind, known_as="my gpt", **facts)
        assert gateway.chat(model).status == 200
    line, headers = head_of(server.requests[0])
    assert line == b"POST %b HTTP/1.1" % path
    assert headers[header].decode().removeprefix("bearer ") == SECRET
    assert [name for name, value in headers.items() if SECRET.encode() in value] == [header]


def test_a_client_of_anthropic_keeps_its_version_and_nobody_elses_key(gateway):
    sent = {
        "Anthropic-Version": "2026-10-21",
        "Anthropic-Beta": "context-1m",
        "X-Api-Key": gateway.key,
        "Anthropic-Organization-Id": "mine",
        "OpenAI-Organization": "mine",
        "Traceparent": "00-1-1-01",
        "Cookie": "a=b",
    }
    body = {"messages": [], "max_tokens": 1}
    with upstream(always(http_response(b'{"type":"message","content":[]}'))) as server:
        model = add_cloud(gateway, server, "anthropic")
        for headers in (sent, {}):
            assert gateway.post("/v1/messages?beta=true", {"model": model, **body}, headers=headers).status == 200
    (line, first), (_, second) = map(head_of, server.requests)
    assert line == b"POST /v1/messages?beta=true HTTP/1.1"
    assert (first[b"x-api-key"].decode(), first[b"anthropic-version"]) == (SECRET, b"2026-10-21")
    assert first[b"anthropic-beta"] == b"context-1m"
    assert second[b"anthropic-version"] == b"2023-06-01"
    assert not {b"authorization", b"anthropic-organization-id", b"openai-organization", b"traceparent", b"cookie"} & {
        *first
    }


def test_nothing_about_the_account_reaches_the_client(gateway):
    private = (
        "Set-Cookie: __cf_bm=x",
        "OpenAI-Organization: org-1",
        "OpenAI-Processing-Ms: 3",
        "X-RateLimit-Remaining-Requests: 9",
        "Anthropic-Organization-Id: o",
        "Anthropic-RateLimit-Tokens-Remaining: 9",
        "X-Request-Id: req_1",
        "CF-Ray: 1",
    )
    with upstream(always(http_response(b'{"choices":[]}', 200, "application/json", *private))) as server:
        given = gateway.chat(add_cloud(gateway, server, "openai"))
    ours = {"x-content-type-options", "content-security-policy", "x-request-id", "content-length", "date"}
    way = {"x-routerdash-endpoint", "x-routerdash-reason", "x-routerdash-attempts", "x-routerdash-queue-ms"}
    assert given.headers.keys() == {"content-type"} | ours | way
    assert given.headers["x-request-id"] != "req_1"


def test_reasoning_models_get_the_name_of_a_parameter_that_they_take(gateway):
    with upstream(always(ANSWER)) as server:
        model = add_cloud(gateway, server, "openai", known_as="gpt-5.1")
        gateway.post(CHAT, {"model": model, "messages": [], "max_tokens": 7})
        gateway.post(CHAT, {"model": model, "messages": [{"content": "x" * 150_000}], "max_tokens": 7})
    for request in server.requests:
        fields = body_of(request)
        assert (fields["model"], fields["max_completion_tokens"], "max_tokens" in fields) == ("gpt-5.1", 7, False)


def test_mistral_gets_no_option_for_usage(gateway):
    with upstream(always(http_response(b"data: [DONE]\n\n", 200, "text/event-stream"))) as server:
        model = add_cloud(gateway, server, "mistral")
        gateway.chat(model, stream=True)
        gateway.chat(model, stream=True, stream_options={"include_usage": True})
    assert ["stream_options" in body_of(request) for request in server.requests] == [False, False]


# TLS


@pytest.fixture
def certificate(tmp_path):
    return certificates.make(tmp_path)


def test_clouds_are_verified_and_their_connections_reused(make_gateway, certificate):
    gateway = make_gateway(SSL_CERT_FILE=str(certificate[0])).start()
    names = []
    tls = certificates.serving(*certificate)
    tls.sni_callback = lambda connection, name, context: names.append(name)
    with upstream(always(ANSWER), tls=tls) as server:
        model = gateway.add(LocalName(server), kind="openai", sealed_key=sealed(gateway))
        assert [gateway.chat(model).status for _ in range(2)] == [200, 200]
    assert server.connections == 1
    assert names == ["localhost"]


def test_a_cloud_with_another_certificate_gets_no_key(make_gateway, certificate):
    gateway = make_gateway().start()
    with upstream(each_time(ANSWER), tls=certificates.serving(*certificate)) as server:
        given = gateway.chat(gateway.add(LocalName(server), kind="openai", sealed_key=sealed(gateway)))
    assert (given.status, given.json()["error"]["code"]) == (502, "upstream_error")
    assert "unknown issuer" in given.json()["error"]["message"]
    assert server.requests == []


class LocalName:
    """A server by a host name instead of its address."""

    def __init__(self, server) -> None:
        self.url = server.url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": HELLO, "max_tokens": 7}),
        ("/ollama/api/chat", {"messages": HELLO, "options": {"num_predict": 7}, "stream": False}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 7}),
    ],
)
@pytest.mark.parametrize(
    ("kind", "model"), [("openai", "o4-mini"), ("openai", "ft:o4-mini:me::a1"), ("azure", "team-o4-mini")]
)
def test_reasoning_models_get_their_limit_of_tokens_in_every_dialect(gateway, kind, model, path, body):
    with upstream(always(ANSWER)) as server:
        name = add_cloud(gateway, server, kind, known_as=model)
        assert gateway.post(path, {"model": name, **body}).status == 200
    sent = body_of(server.requests[-1])
    assert sent["max_completion_tokens"] == 7
    assert "max_tokens" not in sent


WORD = b'{"model":"m","choices":[{"index":0,"delta":{"content":"\\"finish_reason\\":\\"eos\\""},"finish_reason":null}]}'
END = b'{"model":"m","choices":[{"index":0,"delta":{},"finish_reason": "eos"}]}'


def test_finish_reasons_of_together_are_those_of_openai(gateway):
    whole = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"eos"},{"finish_reason":"length"}]}'
    with upstream(each_time(http_response(whole), stream(b"data: %b\n\n" * 2 % (WORD, END), DONE))) as server:
        model = add_cloud(gateway, server, "together")
        choices = gateway.chat(model).json()["choices"]
        events = gateway.chat(model, stream=True).body
    assert [choice["finish_reason"] for choice in choices] == ["stop", "length"]
    assert b'"finish_reason": "stop"' in events or b'"finish_reason":"stop"' in events
    assert b'\\"finish_reason\\":\\"eos\\"' in events  # a text that quotes it
    assert [record.finish_reason for record in gateway.records()] == ["stop", "stop"]


def test_a_finish_reason_of_another_server_stays(gateway):
    whole = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"eos"}]}'
    with upstream(always(http_response(whole))) as server:
        assert gateway.chat(gateway.add(server)).json()["choices"][0]["finish_reason"] == "eos"
