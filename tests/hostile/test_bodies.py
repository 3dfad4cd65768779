"""Bodies that are slow to process: no loop iteration takes 50 ms of CPU time for them."""

import contextlib
import json
import socket
from collections.abc import Callable
from functools import partial

import pytest

from gateway.base.bounds import TRANSLATED_RESPONSE, UPSTREAM_RESPONSE, Bound
from gateway.dialects.json_outline import WHOLE_BYTES
from gateway.inference.hop import MAX_TRANSLATED_BYTES
from gateway.upstream.response_head import MAX_BODY_BYTES
from tests.gateway.process import KEY
from tests.gateway.scripted import Talk, upstream
from tests.hostile.measured import MeasuredGateway, assert_short_iterations, bystander
from tests.router import until

pytestmark = pytest.mark.timeout(300)
MIB = 1 << 20
GOOD = b'{"model":"up","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'


@pytest.fixture
def size(full: bool) -> int:
    """Length of a body in bytes."""
    return 31 * MIB if full else 5 * MIB


def filled(unit: bytes, size: int, beginning: bytes, end: bytes) -> bytes:
    """Fill a body with repeated units, the last without its comma, between a beginning and an end."""
    return beginning + (unit * (size // len(unit))).removesuffix(b",") + end


def field(unit: bytes, size: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """A chat request with one filled field."""
    return filled(
        unit,
        size,
        b'{"model":"MODEL","max_tokens":5,"messages":[{"role":"user","content":"a"}],"x":' + opening,
        closing + b"}",
    )


def messages(unit: bytes, size: int, opening: bytes = b"", closing: bytes = b"") -> bytes:
    return filled(unit, size, b'{"model":"MODEL","max_tokens":5,"messages":[' + opening, closing + b"]}")


def content(unit: bytes, size: int) -> bytes:
    return messages(unit, size, b'{"role":"user","content":[', b"]}")


def text(unit: bytes, size: int) -> bytes:
    return messages(unit, size, b'{"role":"user","content":[{"type":"text","text":"', b'"}]}')


def tools(unit: bytes, size: int, opening: bytes = b"", closing: bytes = b"") -> bytes:
    return filled(
        unit,
        size,
        b'{"model":"MODEL","max_tokens":5,"messages":[{"role":"user","content":"a"}],"tools":[' + opening,
        closing + b"]}",
    )


REQUESTS: dict[str, Callable[[int], bytes]] = {
    "empty arrays": lambda size: field(b"[],", size),
    "empty objects": lambda size: field(b"{},", size),
    "depth": lambda size: field(b"[", size),
    "repeated depth of 500": lambda size: field(b"[" * 500 + b"]" * 500 + b",", size),
    "numbers": lambda size: field(b"1,", size),
    "short strings": lambda size: field(b'"",', size),
    "nested names": lambda size: field(b'{"a":1},', size),
    "names at the top": lambda size: field(b'"k":1,', size, b"0,", b""),
    "a number of choices again and again": lambda size: field(b'"n":1,', size, b"0,", b""),
    "items with ids": lambda size: filled(
        b'{"id" : "a","role":"user","content":[]},', size, b'{"model":"MODEL","input":[', b"]}"
    ),
    "names of an item": lambda size: filled(b'"k":1,', size, b'{"model":"MODEL","input":[{"id":"a",', b"}]}"),
    "spaces": lambda size: field(b" ", size, b"[1", b"]"),
    "an endless name": lambda size: field(b"n", size, b'0,"', b'":1'),
    "an endless number": lambda size: field(b"1", size, b"", b""),
    "quotation marks": lambda size: text(b'\\"', size),
    "backslashes": lambda size: text(b"\\\\", size),
    "line breaks": lambda size: text(b"\\n", size),
    "non-Latin text": lambda size: text("あ".encode(), size),
    "halves of surrogate pairs": lambda size: text(b"\\ud800", size),
    "an endless model name": lambda size: filled(b"m", size, b'{"model":"', b'"}'),
    "options": lambda size: filled(b"[],", size, b'{"model":"MODEL","stream":true,"stream_options":{"x":[', b"]}}"),
    "messages": lambda size: messages(b'{"role":"user","content":[]},', size),
    "text blocks": lambda size: content(b'{"type":"text","text":"a"},', size),
    "tool results": lambda size: content(b'{"type":"tool_result","tool_use_id":"a","content":[]},', size),
    "tools": lambda size: tools(b'{"name":"n","input_schema":{}},', size),
    "names in a schema": lambda size: tools(b'"k":1,', size, b'{"name":"n","input_schema":{', b"}}"),
    "tool calls": lambda size: messages(
        b'{"type":"tool_use","id":"a","name":"n","input":{}},', size, b'{"role":"assistant","content":[', b"]}"
    ),
    "stop sequences": lambda size: field(b'"a",', size, b'0,"stop_sequences":["a",', b"]"),
    "no JSON": lambda size: b"\xff" * size,
    "zero bytes": lambda size: bytes(size),
}  # fmt: skip
IMAGES = {
    "/v1/chat/completions": lambda size: image_content(
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,', b'"}}', size
    ),
    "/v1/messages": lambda size: image_content(
        b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"', b'"}}', size
    ),
}
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/ollama/api/chat")


def image_content(beginning: bytes, end: bytes, size: int) -> bytes:
    return filled(
        b"A", size, b'{"model":"MODEL","max_tokens":5,"messages":[{"role":"user","content":[' + beginning, end + b"]}]}"
    )


def chat_completions_only(talk: Talk) -> None:
    """Script of a server that has chat completions and no other path."""
    while request := talk.request():
        if request.startswith(b"POST /v1/chat/completions"):
            talk.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(GOOD), GOOD
            )
        else:
            talk.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


def measured_response(gateway: MeasuredGateway, case: Callable[[], bytes], name: str = "") -> bytes:
    """Return the response of the case. No loop iteration takes 50 ms of CPU time, and another client is served."""

    def run() -> bytes:
        with bystander(gateway).running() as client:
            response = case()
        client.assert_served()
        return response

    response = assert_short_iterations(gateway, run, name)
    assert "Traceback" not in gateway.log()
    return response


def hits_once(gateway: MeasuredGateway, limit: Bound, case: Callable[[], bytes]) -> Callable[[], bytes]:
    """The case, which hits the limit exactly once in each run."""

    def run() -> bytes:
        before = gateway.page.hits(limit.number)
        response = case()
        assert gateway.page.hits(limit.number) == before + 1
        return response

    return run


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 18), b""))


def post(gateway: MeasuredGateway, path: str, body: bytes) -> bytes:
    """Send a request and return all received bytes."""
    head = gateway.head(f"POST {path}", f"Content-Length: {len(body)}", "Connection: close")
    with gateway.connect() as connection:
        connection.settimeout(60)
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
            connection.sendall(body)
        return read_to_end(connection)


@pytest.mark.parametrize("parsed_whole", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_body_blocks_the_event_loop_for_50_ms(measured_gateway, path, size, parsed_whole):
    send_all(measured_gateway, path, WHOLE_BYTES - 4096 if parsed_whole else size)  # up to that a parser may read it


@pytest.mark.parametrize("parsed_whole", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/ollama/api/chat"])
def test_no_body_that_is_checked_blocks_the_event_loop_for_50_ms(measured_gateway, path, size, parsed_whole):
    """Bodies of an API key with limits must be read alike by all servers."""
    measured_gateway.limit(requests=1_000_000)
    send_all(measured_gateway, path, WHOLE_BYTES - 4096 if parsed_whole else size)


def send_all(gateway: MeasuredGateway, path: str, size: int) -> None:
    """Send all bodies of this size. None blocks the event loop for 50 ms."""
    with upstream(chat_completions_only) as server:
        model = gateway.add(server, known_as="alias")  # the gateway has to replace the name
        for name, make in REQUESTS.items():
            body = make(size).replace(b"MODEL", b"alias", 1)
            response = measured_response(gateway, partial(post, gateway, path, body), name)
            assert response[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 413 "), (
                name,
                response,
            )
        until(lambda: gateway.in_flight(model) == 0)


@pytest.mark.parametrize("path", IMAGES)
def test_a_large_image_does_not_block_the_event_loop_for_50_ms(make_measured, path, full):
    gateway = make_measured(ROUTERDASH_STORE_BODIES="all").start()
    with upstream(chat_completions_only) as server:
        gateway.add(server, known_as="alias")
        body = IMAGES[path](20 * MIB if full else 5 * MIB).replace(b"MODEL", b"alias", 1)
        assert gateway.get("/v1/models").status == 200
        response = measured_response(gateway, partial(post, gateway, path, body))
        assert response.startswith(b"HTTP/1.1 200 ")
        assert server.requests[-1].count(b"A" * 1000) == len(body) // 1000 or b"A" * (4 * MIB) in server.requests[-1]
    stored = gateway.records()[-1].request_body
    assert stored is not None
    assert len(stored) < 70_000


# Responses


def response_body(unit: bytes, size: int, beginning: bytes, end: bytes = b"]}") -> bytes:
    return filled(unit, size, beginning, end)


RESPONSES: dict[str, Callable[[int], bytes]] = {
    "empty arrays": lambda size: response_body(b"[],", size, b'{"model":"up","x":['),
    "depth": lambda size: response_body(b"[", size, b'{"model":"up","x":['),
    "models": lambda size: response_body(b'{"model":"up"},', size, b'{"model":"up","x":['),
    "names": lambda size: response_body(b'"k":1,', size, b'{"model":"up",', b"}"),
    "usage": lambda size: response_body(b"{},", size, b'{"model":"up","usage":{"prompt_tokens":[', b"]}}"),
    "an error": lambda size: response_body(b"[],", size, b'{"error":[' ),
    "quotation marks": lambda size: response_body(b'\\"', size, b'{"choices":[{"message":{"content":"', b'"}}]}'),
    "line breaks": lambda size: response_body(b"\\n", size, b'{"choices":[{"message":{"content":"', b'"}}]}'),
    "parts": lambda size: response_body(b'{"text":"a"},', size, b'{"choices":[{"message":{"content":[', b"]}}]}"),
    "calls": lambda size: response_body(b"{},", size, b'{"choices":[{"message":{"tool_calls":[', b"]}}]}"),
    "choices": lambda size: response_body(b"{},", size, b'{"choices":['),
    "numbers": lambda size: response_body(b"-0.012345,", size, b'{"model":"up","data":[{"embedding":[', b"]}]}"),
    "an image": lambda size: response_body(b"A", size, b'{"model":"up","data":[{"b64_json":"', b'"}]}'),
    "spaces": lambda size: b" " * size,
    "no JSON": lambda size: b"\xff" * size,
}  # fmt: skip


def complete(body: bytes, status: bytes = b"200 OK") -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        while request := talk.request():
            if request.startswith(b"POST /v1/messages"):
                talk.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            with contextlib.suppress(OSError):
                talk.send(
                    b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % (status, len(body)),
                    body,
                )

    return script


def send_chat(gateway: MeasuredGateway, path: str, model: str, *, stream: bool = False) -> bytes:
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "a"}], "stream": stream}
    return post(gateway, path, json.dumps(body).encode())


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"500 Internal Server Error"])
@pytest.mark.parametrize("path", PATHS)
def test_no_response_body_blocks_the_event_loop_for_50_ms(measured_gateway, path, status, size):
    gateway = measured_gateway
    for name, make in RESPONSES.items():
        with upstream(complete(make(size), status)) as server:
            model = gateway.add(server, known_as=f"alias-{name}")
            response = measured_response(gateway, partial(send_chat, gateway, path, f"alias-{name}"), name)
            assert response[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 502 "), name
            until(lambda model=model: gateway.in_flight(model) == 0)


def test_a_response_over_the_buffer_limit_is_passed_on_unread(measured_gateway):
    gateway = measured_gateway
    body = response_body(b"A", MAX_BODY_BYTES, b'{"model":"up","data":[{"b64_json":"', b'"}]}')
    with upstream(complete(body)) as server:
        gateway.add(server, known_as="alias")
        response = measured_response(
            gateway, hits_once(gateway, UPSTREAM_RESPONSE, partial(send_chat, gateway, "/v1/embeddings", "alias"))
        )
    assert response.startswith(b"HTTP/1.1 200 ")
    assert 0 <= response.count(b"A") - body.count(b"A") < 50  # some are in the header block


def test_a_response_that_is_too_long_to_be_translated_fails_with_the_reason(measured_gateway):
    gateway = measured_gateway
    body = response_body(b"A", MAX_TRANSLATED_BYTES, b'{"choices":[{"message":{"content":"', b'"}}]}')
    with upstream(complete(body)) as server:
        gateway.add(server, known_as="alias")
        response = measured_response(
            gateway, hits_once(gateway, TRANSLATED_RESPONSE, partial(send_chat, gateway, "/v1/messages", "alias"))
        )
    assert response.startswith(b"HTTP/1.1 502 ")
    assert b"more than 4 MiB" in response


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


FIRST = event(b'{"model":"up","choices":[{"index":0,"delta":{"content":"a"}}]}')
END = event(b'{"model":"up","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}') + event(b"[DONE]")
DELTA = b'{"model":"up","choices":[{"index":0,"delta":{'


def one_event(text: bytes, size: int) -> bytes:
    return event(filled(text, size, DELTA + b'"content":"', b'"}}]}'))


STREAMS: dict[str, Callable[[int], bytes]] = {
    "tiny events": lambda size: event(b"{}") * (size // 10),
    "comments": lambda size: b":\n\n" * (size // 3),
    "empty lines": lambda size: b"\n" * size,
    "deltas": lambda size: event(DELTA + b'"content":"\\n"}}]}') * (size // 100),
    "models": lambda size: b"".join(event(b'{"model":"up-%d"}' % number) for number in range(size // 32)),
    "calls": lambda size: b"".join(
        event(DELTA + b'"tool_calls":[{"index":%d,"function":{"name":"n","arguments":"{"}}]}}]}' % number)
        for number in range(size // 150)
    ),
    "two alternating calls": lambda size: b"".join(
        event(
            DELTA + b'"tool_calls":[{"index":%d,"id":"c%d","function":{"name":"n","arguments":"{}"}}]}}]}'
            % (index, index)
        )
        for index in (0, 1) * (size // 300)
    ),
    "one event": lambda size: one_event(b"a", size),
    "one event with CR LF": lambda size: one_event(b"a", size).replace(b"\n", b"\r\n"),
    "one event of line breaks": lambda size: one_event(b"\\n", size),
    "one event of arrays": lambda size: event(filled(b"[],", size, DELTA + b'"content":[', b"]}}]}")),
    "one event of choices": lambda size: event(filled(b"{},", size, b'{"choices":[', b"]}")),
    "one event of models": lambda size: event(filled(b'{"model":"up"},', size, b'{"model":"up","x":[', b"]}")),
    "one event of lines": lambda size: b"data: a\n" * (size // 8) + b"\n",
    "one event of lines with CR LF": lambda size: b"data: a\r\n" * (size // 9) + b"\r\n",
    "one deeply nested event": lambda size: event(b'{"x":' + b"[" * size),
    "events of many calls": lambda size: event(DELTA + b'"tool_calls":[' + b"{}," * 1000 + b"{}]}}]}") * (size // 3100),
    "events of many choices": lambda size: event(b'{"choices":[' + b"{}," * 1000 + b"{}]}") * (size // 3100),
    "events after the end": lambda size: END + event(b"{}") * (size // 10),
}  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS, JSON = b"text/event-stream", b"application/json"


def streamed(body: bytes, chunk: int, kind: bytes = EVENTS) -> Callable[[Talk], None]:
    """Script that sends the body in chunks of `chunk` bytes."""
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def script(talk: Talk) -> None:
        while request := talk.request():
            if request.startswith(b"POST /v1/messages"):
                talk.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            with contextlib.suppress(OSError):
                talk.send(HEAD % kind, framed)

    return script


@pytest.mark.parametrize("path", PATHS[:2] + PATHS[3:])
def test_no_stream_blocks_the_event_loop_for_50_ms(measured_gateway, path, full):
    gateway = measured_gateway
    for name, make in STREAMS.items():
        body = FIRST + make(15 * MIB if full else 3 * MIB) + END
        with upstream(streamed(body, 64 << 10)) as server:
            model = gateway.add(server, known_as=f"alias-{name}")
            response = measured_response(gateway, partial(send_chat, gateway, path, f"alias-{name}", stream=True), name)
            assert response[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 502 "), name  # 502 if no byte was sent before
            until(lambda model=model: gateway.in_flight(model) == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_no_flood_of_one_byte_chunks_blocks_the_event_loop_for_50_ms(measured_gateway, stream, full):
    gateway = measured_gateway
    size = (4 if full else 1) * MIB
    body = FIRST + one_event(b"a", size) + END
    script = streamed(body, 1) if stream else streamed(filled(b"a", size, b'{"model":"up","x":"', b'"}'), 1, JSON)
    with upstream(script) as server:
        gateway.add(server, known_as="alias")
        response = measured_response(
            gateway, partial(send_chat, gateway, "/v1/chat/completions", "alias", stream=stream)
        )
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"a" * 1000 in response


def test_an_event_that_is_received_byte_by_byte_is_served(measured_gateway):
    """64 KiB in pieces of one byte: the gateway must not scan the buffered bytes again for each."""
    body = FIRST + one_event(b"a", 64 << 10) + END

    def script(talk: Talk) -> None:
        talk.request()
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        talk.send(*(body[position : position + 1] for position in range(len(body))))

    gateway = measured_gateway
    with upstream(script) as server:
        gateway.add(server, known_as="alias")
        response = measured_response(gateway, partial(send_chat, gateway, "/v1/chat/completions", "alias", stream=True))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"a" * (60 << 10) in response


def test_a_form_with_many_parts_and_near_boundaries_is_refused_or_served(measured_gateway, size):
    gateway = measured_gateway
    part = b'--XX\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    bodies = {
        "parts": part % (b"model", b"alias") + part % (b"a", b"") * (size // 60) + b"--XX--\r\n",
        "near boundaries": part % (b"model", b"alias") + part % (b"a", b"\r\n--X" * (size // 6)) + b"--XX--\r\n",
        "a preamble": b"a" * size,
        "header lines": b"--XX\r\n" + b"a: b\r\n" * (size // 6),
    }
    with upstream(chat_completions_only) as server:
        gateway.add(server, known_as="alias")
        for name, body in bodies.items():
            head = (
                f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
                f"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n"
            )
            response = measured_response(gateway, partial(send, gateway, head.encode() + body), name)
            assert response[:13] in (b"", b"HTTP/1.1 400 ", b"HTTP/1.1 404 "), name


def send(gateway: MeasuredGateway, data: bytes) -> bytes:
    """Return the response, or nothing if the gateway closed the connection early."""
    with gateway.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            return read_to_end(connection)
    return b""
