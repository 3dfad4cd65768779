"""An endpoint that quotes its own key wherever it can. Only the administrator may read it."""

import gzip
import html
import json
import re
from urllib.parse import quote, unquote

import msgspec
import pytest

from gateway.base.sealing import Sealer
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import DONE, Talk, always, chunk, http_response, stream, upstream
from tests.router import until

SECRET = "sk-upstream/master+key_0123456789"
TOKEN = "eyJhbGciOi.J9-of_another"

CHAT, MESSAGES, RESPONSES, SPEECH = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/audio/speech"
BODY = {"messages": [{"role": "user", "content": "a"}], "input": "a", "prompt": "a", "max_tokens": 1, "voice": "x"}


def every_escape(text: str) -> str:
    return "".join(f"\\u{ord(letter):04X}" for letter in text)


SPELLINGS = {
    "plain": SECRET,
    "URL": quote(SECRET, safe=""),
    "URL, small letters": quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "URL twice": quote(quote(SECRET, safe=""), safe=""),
    "JSON": every_escape(SECRET),
    "JSON slash": SECRET.replace("/", "\\/"),
    "JSON in JSON": every_escape(SECRET).replace("\\", "\\\\"),
    "HTML": "".join(f"&#{ord(letter)};" for letter in SECRET),
    "HTML, hexadecimal": "".join(f"&#x{ord(letter):X};" for letter in SECRET),
}


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    process = GatewayProcess(tmp_path_factory.mktemp("secrets"), ROUTERDASH_STORE_BODIES="all").start()
    yield process
    log = process.log()
    process.kill()
    assert "Traceback" not in log
    assert SECRET not in log


@pytest.fixture
def gateway(serving):
    serving.records()
    return serving


def add(gateway, server, secret=SECRET, **facts):
    until(gateway.config.key_file.exists)
    sealer = Sealer([gateway.config.key_file.read_bytes()])
    return gateway.add(server, sealed_key=sealer.seal(secret), **facts)


def leaked(text: str) -> bool:
    """True if the key can be read in the text, in any encoding."""
    seen = {text}
    for _ in range(4):
        more = set()
        for decoded in seen:
            more |= {unquote(decoded), unescaped(decoded), html.unescape(decoded), decoded.replace("\\/", "/")}
        seen |= more
    return any(SECRET in decoded for decoded in seen)


def unescaped(text: str) -> str:
    return re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


def check_redacted(gateway, given, *, records=1):
    """Check that neither the response nor the journal contains the key, and return the response."""
    head = "".join(f"{name}: {value}\n" for name, value in given.headers.items())
    assert not leaked(head + given.body.decode("utf-8", "replace"))
    entries = gateway.records()
    assert len(entries) == records
    for entry in entries:
        assert not leaked(msgspec.json.encode(entry).decode())
    return given


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 501, 502, 503, 599])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_no_error_contains_the_upstream_key(gateway, status, path):
    error = {"error": {"message": f"the key {SECRET} may not", "type": SECRET, "code": f"Bearer {SECRET}"}}
    with upstream(always(http_response(json.dumps(error).encode(), status))) as server:
        given = check_redacted(gateway, gateway.post(path, {"model": add(gateway, server), **BODY}))
    assert given.status in (status, 502)
    assert "error" in given.json()


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain", "text/event-stream"])
def test_no_encoding_of_the_key_is_passed_on(gateway, name, kind):
    body = b'{"error":{"message":"the key %b may not"}}' % SPELLINGS[name].encode()
    assert leaked(body.decode())
    with upstream(always(http_response(body, 403, kind))) as server:
        given = check_redacted(gateway, gateway.post(CHAT, {"model": add(gateway, server), **BODY}))
    assert given.status == 403
    assert "[redacted]" in given.body.decode()


def test_no_bearer_token_in_an_error_is_passed_on(gateway):
    error = {"error": {"message": f"sent Authorization: Bearer {TOKEN}, no bearer authentication"}}
    with upstream(always(http_response(json.dumps(error).encode(), 403))) as server:
        given = gateway.post(CHAT, {"model": gateway.add(server), **BODY})
    message = "sent Authorization: Bearer [redacted], no bearer authentication"
    assert given.json()["error"]["message"] == message
    (entry,) = gateway.records()
    assert TOKEN not in msgspec.json.encode(entry).decode()


@pytest.mark.parametrize("status", [200, 403, 429])
def test_no_header_contains_the_key(gateway, status):
    headers = (f"OpenAI-Organization: {SECRET}", f"X-RateLimit-Key: Bearer {SECRET}", f"Cache-Control: x={SECRET}")
    with upstream(always(http_response(b'{"model":"m","error":null}', status, "application/json", *headers))) as server:
        given = check_redacted(gateway, gateway.post(CHAT, {"model": add(gateway, server), **BODY}))
    assert given.status == status
    assert given.headers["openai-organization"] == "[redacted]"


def test_the_reason_in_a_status_line_is_not_passed_on(gateway):
    reason = b"HTTP/1.1 403 the key %b may not\r\ncontent-length: 2\r\n\r\n{}" % SECRET.encode()
    with upstream(always(reason)) as server:
        model = add(gateway, server)
        body = json.dumps({"model": model, **BODY}).encode()
        received = gateway.send(
            gateway.head(f"POST {CHAT}", f"Content-Length: {len(body)}", "Connection: close") + body
        )
    assert received.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert SECRET.encode() not in received


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_no_response_contains_the_key_in_plain_text(gateway, path):
    text = f"my key is {SECRET}"
    body = {
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "content": text,
        "output": [],
    }
    with upstream(always(http_response(json.dumps(body).encode()))) as server:
        given = check_redacted(gateway, gateway.post(path, {"model": add(gateway, server), **BODY}))
    assert given.status == 200
    assert "my key is [redacted]" in given.body.decode()


def test_a_key_that_is_a_common_word_is_not_redacted_in_responses(gateway):
    body = b'{"model":"m","choices":[{"message":{"content":"ollama is a server"}}]}'
    with upstream(always(http_response(body))) as server:
        given = gateway.post(CHAT, {"model": add(gateway, server, secret="ollama"), **BODY})
    assert b"ollama is a server" in given.body


FIRST = chunk("a")
ERRORS_IN_STREAMS = {
    "chat": (CHAT, (FIRST, b'data: {"error":{"message":"%b"}}\n\n')),
    "chat, at once": (CHAT, (b'data: {"error":{"message":"%b","type":"%b"}}\n\n',)),
    "chat, no JSON": (CHAT, (FIRST, b"data: the key %b\n\n", chunk(finish='"stop"'), DONE)),
    "chat, a comment": (CHAT, (FIRST, b": the key %b\n\n", chunk(finish='"stop"'), DONE)),
    "responses": (RESPONSES, (b'data: {"type":"response.failed","response":{"error":{"message":"%b"}}}\n\n',)),
    "responses, error": (
        RESPONSES,
        (
            b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
            b'data: {"type":"error","message":"%b","code":"%b"}\n\n',
        ),
    ),
    "messages": (
        MESSAGES,
        (
            b'event: message_start\ndata: {"type":"message_start","message":{"model":"m"}}\n\n',
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
            b'event: error\ndata: {"type":"error","error":{"type":"%b","message":"%b"}}\n\n',
        ),
    ),
}


@pytest.mark.parametrize("name", ERRORS_IN_STREAMS)
@pytest.mark.parametrize("spelling", ["plain", "JSON"])
def test_no_error_in_a_stream_contains_the_key(gateway, name, spelling):
    path, events = ERRORS_IN_STREAMS[name]
    events = tuple(event.replace(b"%b", SPELLINGS[spelling].encode()) for event in events)

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(stream(*events))

    with upstream(script) as server:
        given = check_redacted(gateway, gateway.post(path, {"model": add(gateway, server), **BODY, "stream": True}))
    assert given.status in (200, 502)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_no_error_of_a_translated_stream_contains_the_key(gateway, path):
    def script(talk: Talk) -> None:
        while request := talk.request():
            if b" %b " % path.encode() in request.partition(b"\r\n")[0]:
                talk.send(http_response(b"{}", 404))
            elif b'"stream":true' in request.replace(b" ", b""):
                talk.send(stream(FIRST, b'data: {"error":{"message":"%b","code":"%b"}}\n\n' % ((SECRET.encode(),) * 2)))
            else:
                talk.send(http_response(json.dumps({"error": {"message": SECRET, "type": SECRET}}).encode()))

    with upstream(script) as server:
        model = add(gateway, server)
        streamed = check_redacted(gateway, gateway.post(path, {"model": model, **BODY, "stream": True}))
        assert b"[redacted]" in streamed.body
        check_redacted(gateway, gateway.post(path, {"model": model, **BODY}))


def test_a_compressed_error_that_was_not_requested_is_replaced(gateway):
    body = gzip.compress(json.dumps({"error": {"message": SECRET}}).encode())
    with upstream(always(http_response(body, 403, "application/json", "Content-Encoding: gzip"))) as server:
        given = check_redacted(gateway, gateway.post(CHAT, {"model": add(gateway, server), **BODY}))
    assert given.json()["error"]["message"] == "The endpoint returned status 403."
    assert "content-encoding" not in given.headers


@pytest.mark.parametrize("size", [300_000, 20_000_000])
def test_a_huge_error_is_cut_and_contains_no_key(gateway, size):
    body = b'{"error":{"message":"%b %b"}}' % (SECRET.encode(), b"[%," * (size // 3))
    with upstream(always(http_response(body, 400))) as server:
        given = check_redacted(gateway, gateway.post(CHAT, {"model": add(gateway, server), **BODY}))
    assert given.status == 400
    assert len(given.body) < 2000


def test_text_that_almost_equals_the_key_is_passed_on(gateway):
    near = every_escape(SECRET[:-1]) + "%25" * 20_000 + "\\\\" * 20_000
    body = b'{"error":{"message":"%b"}}' % near.encode()
    with upstream(always(http_response(body, 400))) as server:
        given = gateway.post(CHAT, {"model": add(gateway, server), **BODY})
    assert given.json()["error"]["message"] == json.loads(body)["error"]["message"]


# Responses in a browser


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=json", "image/svg+xml", "", "application/xhtml+xml"])
@pytest.mark.parametrize("status", [403, 404, 429])
def test_no_html_of_an_endpoint_is_served_from_routerdashs_origin(gateway, path, kind, status):
    page = b"<html><script>alert(1)</script></html>"
    with upstream(always(http_response(page, status, kind))) as server:
        given = gateway.post(path, {"model": gateway.add(server), **BODY})
    assert given.headers["content-type"] == "application/json"
    assert given.status == status
    error = given.json()["error"]
    assert error["message"] == page.decode()
    assert given.json().get("type") == ("error" if path == MESSAGES else None)


def test_every_api_response_has_security_headers_for_browsers(gateway, sim):
    model = gateway.add(sim.add())
    for given in (
        gateway.chat(model),
        gateway.chat(model, stream=True),
        gateway.chat("no such model"),
        gateway.get("/v1/models"),
        gateway.get("/v1/nothing"),
        gateway.get("/v1/models", key=None),
        gateway.post(SPEECH, {"model": model, **BODY}),
    ):
        assert given.headers["x-content-type-options"] == "nosniff"
        assert given.headers["content-security-policy"] == "sandbox"
