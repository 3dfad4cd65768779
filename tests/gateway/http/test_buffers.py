"""Memory that a gateway buffers for its clients: counted, limited, and given back however a connection ends."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.base.config import Config, load
from gateway.http import http_connection
from gateway.http.client_shares import MAX_STEPS, Buffers
from gateway.http.exchange import Exchange
from gateway.http.http_connection import FINISHING
from gateway.http.protocol import GatewayProtocol
from gateway.http.request_bounds import MAX_PIPELINED, SMALL_BODY_BYTES
from gateway.http.reservations import CHUNK_RESERVE_BYTES
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from tests.gateway.inside import PATH, Inside, inside
from tests.gateway.process import KEY, read_to_end, read_until
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import always, http_response, nothing, upstream
from tests.router import until

KIB, MIB = 1 << 10, 1 << 20
CHAT = "/v1/chat/completions"


async def read_all(exchange: Exchange) -> None:
    while await exchange.read_body():
        pass
    exchange.reply(204, (), b"")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Inside]:
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_MAX_BUFFERED_MB": "128"})
    with inside(config, read_all) as made:
        yield made


def buffers(gateway: Inside) -> Buffers:
    with gateway.connect():
        (protocol, *_) = until(lambda: gateway.connections)
    until(lambda: not gateway.connections)  # so that the next one found is the test's
    return protocol.shared.buffers  # type: ignore[no-any-return]


def held(gateway: Inside, of: Buffers) -> int:
    return gateway.in_loop(lambda: of.held)  # type: ignore[no-any-return]


def hits(gateway: Inside) -> dict[str, int]:
    return Hits(LivePage(gateway.config.live_page_path)).totals()


def page(path: str, length: int, *lines: str) -> bytes:
    return "\r\n".join(
        (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *lines, "", "")
    ).encode()


def chat(length: int) -> bytes:
    return page(CHAT, length, f"Authorization: Bearer {KEY}")


CHUNKED = chat(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")

PARTS = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000, 1000, id="half a head"),
    pytest.param(page("/login", 1000) + b"x" * 900, 1000, id="half a small body"),
    pytest.param(chat(MIB) + b"x" * 900, MIB, id="the beginning of a large body"),
    pytest.param(chat(MIB) + b"x" * (MIB - 1), MIB, id="all of a large body but its last byte"),
    pytest.param(CHUNKED + b"%x\r\n%b\r\n" % (MIB, b"x" * MIB), MIB + CHUNK_RESERVE_BYTES, id="chunks"),
    pytest.param(chat(2) + b"{}" + chat(MIB) + b"x", MIB, id="a large body behind a request"),
    pytest.param(page("/v1/streamed", MIB, f"Authorization: Bearer {KEY}") + b"x", MIB, id="a form"),
    pytest.param(
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: %b\r\nY: %b\r\n\r\n" % (b"x" * 15_000, b"y" * 15_000)
        + chat(9),
        9,
        id="two heads",
    ),
]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def send_nonsense(connection: socket.socket) -> None:
    connection.settimeout(1)
    try:
        connection.sendall(b"\x00\r\n\r\n" * 100_000)
    except OSError:
        pass


ENDS = [lambda connection: None, reset, half_close, send_nonsense]


@pytest.mark.parametrize("end", ENDS, ids=["close", "reset", "half close", "nonsense"])
@pytest.mark.parametrize(("data", "least"), PARTS)
def test_the_memory_of_an_unfinished_request_is_counted_and_given_back(
    gateway: Inside, data: bytes, least: int, end: Callable[[socket.socket], None]
) -> None:
    counted = buffers(gateway)
    with gateway.connect() as connection:
        connection.sendall(data)
        until(lambda: least <= held(gateway, counted) <= least + 2 * CHUNK_RESERVE_BYTES)
        end(connection)
    until(lambda: not gateway.connections)
    assert gateway.in_loop(lambda: (counted.held, counted.shares, counted.waiting)) == (0, {}, 0)


def test_a_completed_request_reserves_nothing(gateway: Inside) -> None:
    counted = buffers(gateway)
    with gateway.connect() as connection:
        for length in (2, SMALL_BODY_BYTES, MIB, 3 * MIB):
            body = b"[" + b" " * (length - 1)
            connection.sendall(chat(length) + body[:-1])
            until(lambda: held(gateway, counted))
            connection.sendall(body[-1:])
            assert read_until(connection, b"}}").startswith(b"HTTP/1.1 400")
            assert held(gateway, counted) == 0


@pytest.mark.parametrize("path", ["/login", "/logout", "/i18n/setlang/", "/api/endpoints", "/"])
def test_without_a_login_a_body_has_64_kib(gateway: Inside, path: str) -> None:
    with gateway.connect() as connection:
        connection.sendall(page(path, SMALL_BODY_BYTES + 1))
        received = read_until(connection, b"}}")
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"more than 64 KiB" in received
    assert hits(gateway) == {"stranger_body": 1}


@pytest.mark.parametrize("line", ["Cookie: routerdash_session=x", f"Authorization: Bearer {KEY}", f"X-API-Key: {KEY}"])
def test_with_a_cookie_or_a_key_a_body_for_the_api_has_8_mib(gateway: Inside, line: str) -> None:
    body = b"x" * 100_000
    with gateway.connect() as connection:
        connection.sendall(page("/api/endpoints", len(body), line) + body)
        assert connection.recv(12) == b"HTTP/1.1 503"  # no control process runs in this test
    with gateway.connect() as connection:
        connection.sendall(page("/login", len(body), line) + body)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_an_unknown_key_does_not_raise_the_limit(gateway: Inside) -> None:
    with gateway.connect() as connection:
        connection.sendall(page("/api/endpoints", 100_000, "Authorization: Bearer sk_" + "x" * 40))
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_an_unauthenticated_chunked_body_has_64_kib(gateway: Inside) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(head + b"%x\r\n%b\r\n" % (SMALL_BODY_BYTES + 1, b"x" * (SMALL_BODY_BYTES + 1)))
        assert connection.recv(12) == b"HTTP/1.1 413"


def large(gateway: Inside, counted: Buffers) -> list[socket.socket]:
    """Send as many bodies as fit, each without its last byte."""
    connections: list[socket.socket] = []
    until(lambda: held(gateway, counted) == 0)
    for size in (30 * MIB, 26 * MIB):
        connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        connections.append(connection)
        before = held(gateway, counted)
        connection.sendall(chat(size) + b"[")
        until(lambda before=before, size=size: held(gateway, counted) - before == size)
    return connections


def test_a_body_without_room_waits_unread(gateway: Inside) -> None:
    counted = buffers(gateway)
    connections = large(gateway, counted)
    body = b"[" + b" " * (MIB - 1)
    with gateway.connect() as waiting:
        waiting.sendall(chat(len(body)))
        until(lambda: gateway.in_loop(lambda: counted.waiting))
        waiting.sendall(body)
        assert hits(gateway) == {"client_buffers": 1}
        connections.pop().close()
        assert read_until(waiting, b"}}").startswith(b"HTTP/1.1 400 ")
    for connection in connections:
        connection.close()
    until(lambda: held(gateway, counted) == 0)


def test_a_client_that_waits_for_room_gets_no_100_continue(gateway: Inside) -> None:
    counted = buffers(gateway)
    connections = large(gateway, counted)
    with gateway.connect() as waiting:
        waiting.sendall(page(CHAT, MIB, f"Authorization: Bearer {KEY}", "Expect: 100-continue"))
        until(lambda: gateway.in_loop(lambda: counted.waiting))
        connections.pop().close()
        assert waiting.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for connection in connections:
        connection.close()


def test_a_request_without_room_gets_503_with_retry_after(gateway: Inside) -> None:
    counted = buffers(gateway)
    connections = large(gateway, counted)
    with gateway.connect() as waiting:
        waiting.sendall(chat(MIB) + b"[")
        until(lambda: gateway.in_loop(lambda: counted.waiting))
        gateway.in_loop(lambda: counted.expire(time.monotonic() + 31))
        received = read_until(waiting, b"}}")
    assert received.startswith(b"HTTP/1.1 503 ")
    for part in (b"retry-after: 2\r\n", b"connection: close\r\n", b'"code":"buffers_full"'):
        assert part in received
    for connection in connections:
        connection.close()
    until(lambda: held(gateway, counted) == 0)


def test_small_requests_of_the_same_key_are_served_while_large_ones_wait(gateway: Inside) -> None:
    counted = buffers(gateway)
    connections = large(gateway, counted)
    assert gateway.post(CHAT, {"model": "none"}).status == 404
    for connection in connections:
        connection.close()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Inside, threading.Event]]:
    """Run a gateway that responds to forms when the event is set."""
    done = threading.Event()

    async def wait(exchange: Exchange) -> None:
        while await exchange.read_body():
            pass
        await asyncio.ensure_future(asyncio.to_thread(done.wait, 30))
        exchange.reply(204, (), b"")

    with inside(load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_MAX_BUFFERED_MB": "128"}), wait) as made:
        yield made, done


FORM = page(PATH, 1, f"Authorization: Bearer {KEY}") + b"x"


def test_pipelined_bodies_are_counted(busy: tuple[Inside, threading.Event]) -> None:
    gateway, done = busy
    counted = buffers(gateway)
    behind = b"".join(chat(60_000) + b"[" + b" " * 59_999 for _ in range(12))
    with gateway.connect() as connection:
        connection.sendall(FORM)
        until(lambda: gateway.connections and gateway.connections[0].running)
        connection.setblocking(False)
        connection.send(behind)
        until(lambda: held(gateway, counted) > SMALL_BODY_BYTES)
        assert held(gateway, counted) <= 512 * KIB  # no more than two reads
        until(lambda: gateway.in_loop(lambda: gateway.connections[0].reading.reasons))
        connection.settimeout(30)
        done.set()
        read_until(connection, b"}}")
    until(lambda: held(gateway, counted) == 0)


def test_bytes_behind_too_many_pipelined_requests_are_not_parsed(
    busy: tuple[Inside, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, done = busy
    monkeypatch.setattr(http_connection, "LINGER_SECONDS", 0.2)
    admit = Mock(wraps=gateway.gateway.admission.admit)
    monkeypatch.setattr(gateway.gateway.admission, "admit", admit)
    with gateway.connect() as connection:
        connection.sendall(FORM + b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
        until(lambda: gateway.connections and gateway.in_loop(lambda: gateway.connections[0].state is FINISHING))
        assert gateway.in_loop(lambda: len(gateway.connections[0].waiting)) == MAX_PIPELINED + 1
        done.set()
        received = read_to_end(connection)
    assert [received.count(b"HTTP/1.1 %d " % code) for code in (204, 401, 429)] == [1, MAX_PIPELINED, 1]
    assert admit.call_count == MAX_PIPELINED + 1
    assert hits(gateway) == {"pipelined": 1}


def test_a_header_block_of_very_many_lines_is_not_read_to_its_end(gateway: Inside) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 10_000)
        received = read_until(connection, b"}}")
        assert received.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"request_too_large"' in received
        (protocol,) = until(lambda: gateway.connections)
        assert gateway.in_loop(lambda: len(protocol.requests._headers)) == 0
    assert hits(gateway) == {"header_lines": 1}


def test_a_lost_connection_of_a_slowed_client_is_not_read_again(gateway: Inside) -> None:
    """The connection is lost while its client is slowed. Its accounts must stay closed."""
    counted = buffers(gateway)
    with gateway.connect() as connection:
        connection.sendall(chat(MIB))
        (protocol,) = until(lambda: gateway.connections)
        gateway.in_loop(
            lambda: (
                protocol.shared.pacer.slow_down(protocol.reservations.share, protocol.reading),
                protocol.transport.abort(),
            )
        )
    until(lambda: not gateway.connections)
    assert isinstance(protocol, GatewayProtocol)
    assert gateway.in_loop(lambda: (counted.held, counted.shares)) == (0, {})
    assert gateway.get("/v1/models").status == 200


def received_bytes(connections: list[GatewayProtocol]) -> int:
    return sum(connection.latest.body_bytes for connection in connections if connection.latest is not None)


@pytest.mark.parametrize("size", [MIB, 3 * MIB])
def test_a_client_sends_few_mib_of_bodies_in_an_iteration_of_the_event_loop(gateway: Inside, size: int) -> None:
    """Memory that nobody has used yet is slow on a virtual machine. A body of 1 MiB skips the parser, a larger not."""
    with ExitStack() as stack:
        for number in range(5):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(chat(2) + b"{")
            until(lambda number=number: sum(protocol.repeated is not None for protocol in gateway.connections) > number)
            connection.sendall(b"}")
            assert read_until(connection, b"}}").startswith(b"HTTP/1.1 400 ")
            connection.sendall(chat(size) + b"x")
        protocols = gateway.connections
        until(lambda: gateway.in_loop(lambda: received_bytes(protocols)) == 5)
        assert [protocol.partial is not None for protocol in protocols] == [size == MIB] * 5

        def receive() -> tuple[int, int]:
            for protocol in protocols * (size // MIB):
                for _ in range(3):
                    protocol.data_received(b"x" * (256 * KIB))
            return protocols[0].reservations.share.slowed, received_bytes(protocols)

        slowed, received = gateway.in_loop(receive)
        assert slowed == 1
        assert received <= 4 * MIB
        until(lambda: not gateway.in_loop(lambda: any(bool(protocol.reading.postponed) for protocol in protocols)))
        assert gateway.in_loop(lambda: received_bytes(protocols)) == 5 + 15 * size // 4


def test_requests_whose_responses_all_wait_do_not_slow_their_client(config: Config) -> None:
    """Nothing is written that would count the iterations of the event loop in which they arrive."""
    with ExitStack() as stack:
        server = stack.enter_context(upstream(nothing))
        gateway = stack.enter_context(inside(config, read_all, make_endpoint("", "m", base_url=server.url)))
        body = b'{"model":"m"}'
        for number in range(1, MAX_STEPS + 3):
            stack.enter_context(gateway.connect()).sendall(chat(len(body)) + body)
            until(lambda number=number: len(gateway.sweeper.connections) == number)
        share = gateway.connections[0].reservations.share
        assert (share.slowed, len(share.connections)) == (0, MAX_STEPS + 2)
    assert hits(gateway) == {}


@pytest.fixture
def with_large_response(tmp_path: Path) -> Iterator[Inside]:
    """A gateway whose endpoint sends responses of 20 MiB."""
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_MAX_BUFFERED_MB": "128"})
    with ExitStack() as stack:
        server = stack.enter_context(
            upstream(always(http_response(b'{"model":"m","data":"' + b"x" * (20 * MIB) + b'"}')))
        )
        yield stack.enter_context(inside(config, read_all, make_endpoint("", "m", base_url=server.url)))


def test_a_large_response_without_room_is_not_read_further(with_large_response: Inside) -> None:
    counted = buffers(with_large_response)
    assert with_large_response.post(CHAT, {"model": "m"}).status == 200
    connections = large(with_large_response, counted)
    refused = with_large_response.post(CHAT, {"model": "m"})
    for connection in connections:
        connection.close()
    assert (refused.status, refused.json()["error"]["code"]) == (503, "buffers_full")
    until(lambda: held(with_large_response, counted) == 0)
    assert with_large_response.post(CHAT, {"model": "m"}).status == 200


def test_a_large_response_is_counted_until_its_client_has_read_it(with_large_response: Inside) -> None:
    counted = buffers(with_large_response)
    body = b'{"model":"m"}'
    with with_large_response.connect() as connection:
        connection.sendall(chat(len(body)) + body)
        until(lambda: held(with_large_response, counted) > 16 * MIB)
        assert with_large_response.get("/v1/models").status == 200
        assert held(with_large_response, counted) > 16 * MIB
        size = 0
        while size < 20 * MIB:
            size += len(connection.recv(1 << 20))
        until(lambda: held(with_large_response, counted) == 0)
