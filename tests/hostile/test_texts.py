"""Texts of clients and endpoints that are slow to search, and errors that are long and slow."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gateway.http.request_bounds import MAX_HEADER_BYTES
from gateway.inference.failures.error_bodies import MAX_ERROR_BYTES
from tests.gateway.scripted import DONE, LAST, Talk, chunk, http_response, stream, upstream
from tests.hostile.crowd import crowd
from tests.hostile.measured import MAX_MEMORY_MB, Bystander, MeasuredGateway, assert_short_iterations
from tests.router import until

pytestmark = pytest.mark.timeout(300)

HELLO = [{"role": "user", "content": "Hi"}]
REFERERS = {
    "slashes": "/",
    "hosts": "//a",
    "keys": "/sk_a",
    "paths of Ollama": "/ollama/",
}


@pytest.mark.parametrize("unit", REFERERS.values(), ids=REFERERS.keys())
def test_no_referer_of_a_page_request_blocks_the_event_loop(
    measured_gateway: MeasuredGateway, well_behaved: Bystander, unit: str
) -> None:
    """Such a request needs no API key."""

    def send_requests() -> None:
        for size, statuses in ((2000, (502, 503)), (MAX_HEADER_BYTES - 1, (502, 503)), (60 << 10, (431,))):
            headers = {"Referer": (unit * size)[:size]}
            assert measured_gateway.get("/login", headers=headers, key=None).status in statuses

    assert_short_iterations(measured_gateway, send_requests)
    well_behaved.assert_served()


def refusing(talk: Talk) -> None:
    """Refuse tools of unknown types in llama.cpp's words, with the beginning of the request."""
    while request := talk.request():
        quoted = request.partition(b"\r\n\r\n")[2][: MAX_ERROR_BYTES >> 1].decode()
        error = {"code": 400, "message": f"'type' of tool must be 'function': {quoted}"}
        talk.send(http_response(json.dumps({"error": error}).encode(), 400))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_no_types_of_tools_block_the_event_loop(
    measured_gateway: MeasuredGateway, well_behaved: Bystander, full: bool, path: str
) -> None:
    types = [{"type": f"t{number}"} for number in range(110_000 if full else 20_000)]
    with upstream(refusing) as server:
        model = measured_gateway.add(server)
        fields = {"model": model, "messages": [], "input": "", "max_tokens": 9, "tools": types}
        body = json.dumps(fields, separators=(",", ":")).encode()

        def send_request() -> None:
            assert measured_gateway.post(path, body).status == 400

        assert_short_iterations(measured_gateway, send_request)
    well_behaved.assert_served()


ERROR_TEXTS = {
    "bearer tokens": b"bearer+",
    "short bearer tokens": b"bearer a1b2c3d4 ",
    "one long bearer token": b"+",
    "models": b"model ",
    "percent signs": b"%25",
    "backslashes": b"\\\\",
    "ids": b"org-a ",
    "lengths": b"1",
}


def failing(text: bytes, status: int) -> Callable[[Talk], None]:
    """Script of a server whose errors and streams have this text."""
    event = b'data: {"error":{"message":"%b","type":"x"}}\n\n' % text
    responses = {
        b"error": http_response(b'{"error":{"message":"%b"}}' % text, status),
        b"comment": stream(chunk("a"), b": %b\n\n" % text, LAST, DONE),
        b"unread": stream(chunk("a"), b"data: %b\n\n" % text, LAST, DONE),
        b"event": stream(chunk("a"), event),
    }

    def script(talk: Talk) -> None:
        while request := talk.request():
            names = [name for name in responses if b'"%b"' % name in request]
            talk.send(responses[names[0]] if names else http_response(text, status, "text/plain"))

    return script


@pytest.mark.parametrize("text", ERROR_TEXTS.values(), ids=ERROR_TEXTS.keys())
def test_no_text_of_an_endpoint_blocks_the_event_loop(
    measured_gateway: MeasuredGateway, well_behaved: Bystander, full: bool, text: bytes
) -> None:
    beginning = b"bearer" if text == b"+" else b"bearer 'type' of tool: prompt is too long "
    for status in (400, 404) if full else (404,):
        for size in (MAX_ERROR_BYTES - 100, 1 << 20):
            long = beginning + text * ((size - len(beginning)) // len(text))
            with upstream(failing(long, status)) as server:
                model = measured_gateway.add(server, sealed_key=None)
                for name in ("plain", "error", "comment", "unread", "event"):
                    is_stream = name not in ("plain", "error")
                    ask = partial(measured_gateway.chat, model, user=name, stream=is_stream, messages=HELLO)
                    given = assert_short_iterations(measured_gateway, ask, f"{name} {status} {size}")
                    assert given.status in (status, 200, 502)
    well_behaved.assert_served()


def slow_error(status: int) -> Callable[[Talk], None]:
    """Script that sends all but the end of an error of 60 MiB, and holds it back."""
    opening = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, 60 << 20)
    piece = b"x" * (1 << 20)

    def script(talk: Talk) -> None:
        talk.request()
        with contextlib.suppress(OSError):
            talk.send(opening)
            for _ in range(59):
                talk.send(piece)
            talk.client_disconnected()

    return script


SLOW_ERRORS = {
    "chat": ("/v1/chat/completions", False, 500),
    "a stream with usage": ("/v1/chat/completions", True, 400),
    "messages": ("/v1/messages", False, 404),
    "responses": ("/v1/responses", False, 404),
    "Ollama": ("/ollama/api/chat", False, 500),
}


def assert_little_memory(
    gateway: MeasuredGateway, path: str, fields: dict[str, Any], *, full: bool, status: int
) -> None:
    """Send requests at once whose 60 MiB each would need more than a gateway may have."""
    number = 60 if full else 14
    body = json.dumps(fields).encode()
    data = gateway.head(f"POST {path}", f"Content-Length: {len(body)}") + body
    with crowd(gateway.port, data, number) as clients:
        clients.run(60.0, until=lambda: all(sender.received for sender in clients.senders))
        assert clients.statuses() == {status: number}
    assert gateway.memory_mb("VmHWM") < MAX_MEMORY_MB / 2


@pytest.mark.parametrize(("path", "streamed", "status"), SLOW_ERRORS.values(), ids=SLOW_ERRORS.keys())
def test_many_slow_errors_take_little_memory(
    measured_gateway: MeasuredGateway, well_behaved: Bystander, full: bool, path: str, streamed: bool, status: int
) -> None:
    gateway = measured_gateway
    with upstream(slow_error(status)) as server:
        model = gateway.add(server, timeout_secs=20.0)
        fields = {"model": model, "messages": HELLO, "input": "Hi", "max_tokens": 9, "stream": streamed}
        assert_little_memory(gateway, path, fields, full=full, status=502 if status == 500 else status)
        until(lambda: gateway.in_flight(model) == 0)
    well_behaved.assert_served()


def test_the_details_of_a_model_take_little_memory(measured_gateway: MeasuredGateway, full: bool) -> None:
    with upstream(slow_error(200)) as server:
        model = measured_gateway.add(server, kind="ollama")
        assert_little_memory(measured_gateway, "/ollama/api/show", {"model": model}, full=full, status=200)
