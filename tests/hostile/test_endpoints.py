"""Endpoints that send invalid responses to control's probes and to a gateway's requests."""

import contextlib
import gzip
import json
import time
from collections.abc import Callable, Iterator

import pytest

from endpoints.models import MAX_MODELS, TOO_MANY_MODELS
from gateway.upstream.response_parser import MAX_HEAD_BYTES, MAX_HEADER_LINES
from tests.gateway.inference.helpers import error_of
from tests.gateway.scripted import Talk, always, chunk, http_response, opening, stream, upstream
from tests.hostile.measured import Bystander, MeasuredGateway, assert_short_iterations, memory_mb
from tests.router import KEY, RouterDash, until

pytestmark = pytest.mark.timeout(300)


# Control's probes


def listing(count: int) -> bytes:
    models = (
        f'{{"id":"model-{number}","object":"model","created":1,"owned_by":"somebody"}}' for number in range(count)
    )
    return f'{{"object":"list","data":[{",".join(models)}]}}'.encode()


def flood(talk: Talk) -> None:
    """Send an endless list."""
    talk.request()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    talk.send(b'e\r\n{"data":[{"id"\r\n')
    with contextlib.suppress(OSError):
        while True:
            talk.send(b"10000\r\n%b\r\n" % (b':"a"},{"id"' * 5958)[:0x10000])


@contextlib.contextmanager
def watched(router: RouterDash) -> Iterator[Bystander]:
    """Request control's health during the block, and check that each response is 200."""
    client = Bystander(router.port, KEY, path="/health", address="127.0.0.1")
    with client.running():
        yield client
    client.assert_served()


@pytest.mark.one_database
def test_of_100000_models_of_an_endpoint_2000_are_kept_and_control_continues(router: RouterDash, full: bool) -> None:
    count = 100_000 if full else 20_000
    before = memory_mb(router.pid_of("control"))
    with upstream(always(http_response(listing(count)))) as server, watched(router):
        given = router.post("/api/endpoints", {"name": "huge", "base_url": server.url})
        assert given.status == 201, given
        path = f"/api/endpoints/{given.json()['id']}"
        router.post(f"{path}/sync", {})
        details = until(lambda: len((endpoint := router.get(path).json())["models"]) >= MAX_MODELS and endpoint, 60)
        assert len(details["models"]) == MAX_MODELS
        assert details["last_error"] == TOO_MANY_MODELS
        until(lambda: router.stats()["bound_hits"].get("endpoint_models"))
        until(lambda: router.get(path).json()["status"] == "online", 60)  # health checks keep the error text
        assert router.get(path).json()["last_error"] == TOO_MANY_MODELS
        assert sum(model["owned_by"] is not None for model in router.get("/v1/models").json()["data"]) >= MAX_MODELS
    assert memory_mb(router.pid_of("control"), "VmHWM") - before < 200


HOSTILE_LISTS = {
    "gzip bomb": http_response(gzip.compress(bytes(100 << 20)), 200, "application/json", "Content-Encoding: gzip"),
    "only brackets": http_response(b'{"data":[' + b"[]," * 2_600_000 + b"[]]}"),
    "depth": http_response(b'{"data":' + b"[" * (8 << 20)),
    "spaces": http_response(b" " * (8 << 20)),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "line breaks in names": http_response(json.dumps({"data": [{"id": "a\r\nX-Evil: 1"}]}).encode()),
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (8 << 20),
}


@pytest.mark.one_database
def test_detection_of_hostile_servers_ends_in_one_clear_error(router: RouterDash) -> None:
    before = memory_mb(router.pid_of("control"))
    with watched(router):
        for name, given in HOSTILE_LISTS.items():
            with upstream(always(given)) as server:
                response = router.post("/api/endpoints", {"name": name, "base_url": server.url})
            assert response.status in (201, 400, 422, 502), (name, response)
            assert "Traceback" not in response.body.decode()
        with upstream(flood) as server:
            assert router.post("/api/endpoints", {"name": "endless", "base_url": server.url}).status in (201, 400, 422)
    assert memory_mb(router.pid_of("control"), "VmHWM") - before < 250
    assert "Traceback" not in router.log_text()


# Responses to a gateway's requests

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = b'{"choices":[]}'


def forever(beginning: bytes, piece: bytes, pause: float = 0.0) -> Callable[[Talk], None]:
    """Script of a response that continues until the gateway closes the connection."""

    def script(talk: Talk) -> None:
        talk.request()
        with contextlib.suppress(OSError):
            talk.send(beginning)
            while True:
                talk.send(piece)
                time.sleep(pause)

    return script


def headers(count: int) -> bytes:
    return b"".join(b"X-%d: y\r\n" % number for number in range(count))


# Responses without another endpoint for a failover: each is reported as an error of the endpoint.
BROKEN: dict[str, Callable[[Talk], object]] = {
    "endless headers": forever(HEAD, headers(100)),
    "one endless header": forever(HEAD + b"X-A: ", b"a" * 10_000),
    "too many headers": always(HEAD + headers(MAX_HEAD_BYTES // 4) + b"Content-Length: 2\r\n\r\n{}"),
    "endless informational responses": forever(b"", b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n" * 50),
    "an endless chunk size": forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
    "endless chunk extensions": forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 1000),
    "endless trailers": forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-A: b\r\n" * 100),
    "a negative chunk size": always(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"),
    "a chunk size over 64 bits": always(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n{}"),
    "a negative length": always(HEAD + b"Content-Length: -1\r\n\r\n{}"),
    "two lengths": always(HEAD + b"Content-Length: 2\r\nContent-Length: 14\r\n\r\n" + GOOD),
    "a body shorter than its length": opening(HEAD + b"Content-Length: 99\r\n\r\n{}", b""),
    "a line break in a header's name": always(HEAD + b"X-A\r: b\r\nContent-Length: 2\r\n\r\n{}"),
    "a bare line feed in a header's value": always(HEAD + b"X-A: b\rX-Evil: c\r\nContent-Length: 2\r\n\r\n{}"),
    "a NUL in a header's value": always(HEAD + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}"),
    "no status": always(b"HTTP/1.1 \r\n\r\n"),
    "no HTTP": always(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "an upgrade": always(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
    "a byte at a time": forever(HEAD + b"Content-Length: 100000\r\n\r\n", b" ", 0.05),
    "a header block a byte at a time": forever(b"", b"H", 0.05),
    "silence": lambda talk: (talk.request(), talk.client_disconnected()),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
def test_an_invalid_response_is_one_clear_error(
    measured_gateway: MeasuredGateway, well_behaved: Bystander, script: Callable[[Talk], object]
) -> None:
    gateway = measured_gateway
    before = gateway.memory_mb()
    with upstream(script) as server:
        model = gateway.add(server, timeout_secs=2.0)

        def send_requests() -> None:
            for stream in (False, True):
                received = error_of(gateway.chat(model, stream=stream))
                assert received in ((502, "upstream_error"), (504, "upstream_timeout"))
            until(lambda: gateway.in_flight(model) == 0)

        assert_short_iterations(gateway, send_requests)
    assert "Traceback" not in gateway.log()
    assert gateway.memory_mb() - before < 50
    well_behaved.assert_served()


def test_no_header_of_an_endpoint_injects_another_header(measured_gateway: MeasuredGateway) -> None:
    """Values that a lenient parser accepts are refused or reach the client as one line."""
    values = [b"a\rSet-Cookie: x=1", b"a\r\n Set-Cookie: x=1", b"a\nSet-Cookie: x=1", b"a\x00Set-Cookie: x=1"]
    for value in values:
        given = HEAD + b"X-RateLimit-Limit: " + value + b"\r\nContent-Length: 14\r\n\r\n" + GOOD
        with upstream(always(given)) as server:
            response = measured_gateway.chat(measured_gateway.add(server))
        assert response.status in (200, 502)
        assert "set-cookie" not in response.headers
        assert all("\r" not in value and "\n" not in value for value in response.headers.values())


def test_a_redirect_is_neither_followed_nor_passed_on(measured_gateway: MeasuredGateway) -> None:
    with upstream(always(http_response(GOOD))) as elsewhere:
        redirect = b"HTTP/1.1 302 Found\r\nLocation: %b/\r\nContent-Length: 0\r\n\r\n" % elsewhere.url.encode()
        with upstream(always(redirect)) as server:
            response = measured_gateway.chat(measured_gateway.add(server))
        assert elsewhere.requests == []
    assert "location" not in response.headers


def test_a_second_response_on_a_connection_reaches_no_other_request(measured_gateway: MeasuredGateway) -> None:
    evil = http_response(b'{"choices":[{"evil":1}]}')
    with upstream(always(http_response(GOOD) + evil)) as server:
        model = measured_gateway.add(server)
        for _ in range(5):
            assert b"evil" not in measured_gateway.chat(model).body


def test_the_maximum_number_of_headers_does_not_block_the_event_loop(
    measured_gateway: MeasuredGateway, well_behaved: Bystander
) -> None:
    many = HEAD + b"a:\r\n" * (MAX_HEADER_LINES - 10) + b"Content-Length: 14\r\n\r\n" + GOOD
    with upstream(always(many)) as server:
        model = measured_gateway.add(server)

        def send_requests() -> None:
            for _ in range(3):
                assert measured_gateway.chat(model).status == 200

        assert_short_iterations(measured_gateway, send_requests)
    well_behaved.assert_served()


def test_an_endless_stream_does_not_affect_other_clients(
    measured_gateway: MeasuredGateway, well_behaved: Bystander
) -> None:
    gateway = measured_gateway
    before = gateway.memory_mb()
    endless = forever(stream(chunk("a"), end=False), b"%x\r\n%b\r\n" % (len(chunk("b") * 100), chunk("b") * 100))
    with upstream(endless) as server:
        model = gateway.add(server)

        def read_20_mib() -> None:
            with gateway.connect() as connection:
                connection.sendall(gateway.chat_bytes(model, stream=True))
                received = 0
                while received < 20 << 20:
                    received += len(connection.recv(1 << 20))
            until(lambda: gateway.in_flight(model) == 0)

        assert_short_iterations(gateway, read_20_mib)
    assert gateway.memory_mb() - before < 50
    well_behaved.assert_served()
