"""Very many connections of one address that hold back, trickle, flood or do not read, while another address is served.

The gateway's memory and loop iterations stay bounded, and every request of the other address is served.
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from gateway.ipc.bound_hits import Hits
from tests.gateway import certificates
from tests.gateway.process import KEY
from tests.gateway.scripted import Talk, always, http_response, upstream
from tests.hostile.crowd import ADDRESS, Crowd, crowd
from tests.hostile.measured import MAX_MEMORY_MB, MeasuredGateway, bystander, max_iteration_ms
from tests.router import until

KIB, MIB = 1 << 10, 1 << 20
CHAT = "POST /v1/chat/completions"
SECONDS = 20.0


def head(line: str, length: int | None = None, *lines: str, key: bool = False) -> bytes:
    head_lines = [f"{line} HTTP/1.1", "Host: localhost", *lines]
    if key:
        head_lines.append(f"Authorization: Bearer {KEY}")
    if length is not None:
        head_lines.append(f"Content-Length: {length}")
    return "\r\n".join((*head_lines, "", "")).encode()


def all_but_the_last_byte(line: str, length: int, *lines: str, key: bool = False) -> bytes:
    return head(line, length, *lines, key=key) + b"[" + b" " * (length - 2)


CHUNKED = "Transfer-Encoding: chunked"
ATTACKS = {
    "nothing": b"",
    "half a header block": head("GET /v1/models", None, *(f"X-{number}: {'y' * 600}" for number in range(98)))[:-2],
    "very many header lines": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 25_000,
    "a login without its last byte": all_but_the_last_byte("POST /login", 64 * KIB),
    "a login of 8 MiB": all_but_the_last_byte("POST /login", 8 * MIB),
    "8 MiB for the JSON API with a cookie": all_but_the_last_byte("POST /api/endpoints", 8 * MIB, "Cookie: a=b"),
    "31 MiB without a key": all_but_the_last_byte(CHAT, 31 * MIB),
    "31 MiB with a key": all_but_the_last_byte(CHAT, 31 * MIB, key=True),
    "chunks of one byte": head("POST /login", None, CHUNKED) + b"1\r\na\r\n" * 40_000,
    "chunks of one byte with a key": head(CHAT, None, CHUNKED, key=True) + b"1\r\na\r\n" * 200_000,
    "5,000 pipelined requests": head("GET /v1/models") * 5000,
    "5,000 pipelined requests with a key": head("GET /v1/models", key=True) * 5000,
    "random bytes": bytes(range(256)) * 1000,
}


@contextmanager
def measured(gateway: MeasuredGateway) -> Iterator[None]:
    """Check after the block that loop iterations and memory stayed bounded and the bystander was served."""
    gateway.iterations.clear()
    with bystander(gateway).running() as client:
        yield
        client.wait_for_responses(20)
    client.assert_served()
    assert gateway.iterations.longest_ms < max_iteration_ms()
    assert gateway.memory_mb("VmHWM") < MAX_MEMORY_MB
    assert "Traceback" not in gateway.log()


def attack(gateway: MeasuredGateway, data: bytes, number: int, seconds: float = SECONDS) -> Crowd:
    with measured(gateway), crowd(gateway.port, data, number) as made:
        made.run(seconds)
    return made


@pytest.fixture
def number(full: bool) -> int:
    return 1000 if full else 200


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_from_one_address_stay_bounded(
    measured_gateway: MeasuredGateway, number: int, full: bool, name: str
) -> None:
    attack(measured_gateway, ATTACKS[name], number, SECONDS if full else 3)


def test_bodies_without_buffer_space_are_refused_or_wait_and_other_clients_are_served(
    measured_gateway: MeasuredGateway, number: int
) -> None:
    other = measured_gateway.add_key("sk_" + "AnotherKey" * 4)
    measured_gateway.publish()
    with crowd(measured_gateway.port, all_but_the_last_byte(CHAT, 31 * MIB, key=True), number) as made:
        made.run(10, until=lambda: "client_buffers" in Hits(measured_gateway.page).totals())
        received = measured_gateway.post("/v1/chat/completions", b"[" + b" " * (8 * MIB), key=other)
    assert received.status == 400  # the body was read to its end


def test_a_burst_does_not_extend_the_deadline_beyond_the_window(measured_gateway: MeasuredGateway, full: bool) -> None:
    if not full:
        pytest.skip("takes 35 seconds; in the short form, tests/gateway/http/test_protocol.py has it by a fake clock")
    data = head("POST /login", 64 * KIB) + b"x" * 60_000
    with measured(measured_gateway), crowd(measured_gateway.port, data, 100) as made:
        made.run(5)
        made.run(40, until=lambda: all(sender.closed for sender in made.senders))
    assert made.statuses() == {408: 100}


# Clients that do not read


def test_unread_responses_use_bounded_memory(measured_gateway: MeasuredGateway, number: int) -> None:
    large = http_response(b'{"model":"m","data":"' + b"x" * (6 * MIB) + b'"}')
    with upstream(always(large)) as server:
        model = measured_gateway.add(server)
        body = f'{{"model":"{model}"}}'.encode()
        data = head(CHAT, len(body), key=True) + body
        with measured(measured_gateway), crowd(measured_gateway.port, data, number // 2) as made:
            for sender in made.senders:
                sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.run(SECONDS, read=False)
            made.run(5, read=False, until=lambda: False)
            assert server.requests


def test_unread_pages_use_bounded_memory(measured_gateway: MeasuredGateway, number: int) -> None:
    control = measured_gateway.config.control_socket
    control.parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(upstream(always(http_response(b"x" * (6 * MIB))), control))
        stack.enter_context(measured(measured_gateway))
        made = stack.enter_context(crowd(measured_gateway.port, head("GET /static/app.js"), number))
        for sender in made.senders:
            sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.run(5, read=False, until=lambda: False)


# Clients that leave


def test_many_clients_that_disconnect_at_once_during_requests(measured_gateway: MeasuredGateway, number: int) -> None:
    def hang(talk: Talk) -> None:
        talk.request()
        talk.request()

    with upstream(hang) as server:
        model = measured_gateway.add(server)
        body = f'{{"model":"{model}"}}'.encode()
        data = head(CHAT, len(body), key=True) + body
        with measured(measured_gateway), crowd(measured_gateway.port, data, number) as made:
            made.run(SECONDS)
            until(lambda: measured_gateway.in_flight(model) == number)
            for sender in made.senders:
                sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.close()
            until(lambda: measured_gateway.in_flight(model) == 0)


# TLS


@pytest.fixture
def tls_gateway(make_measured: Any, tmp_path: Any) -> MeasuredGateway:
    certificate, key = certificates.make(tmp_path)
    made: MeasuredGateway = make_measured(
        ROUTERDASH_TLS_CERTIFICATE=str(certificate),
        ROUTERDASH_TLS_KEY=str(key),
        ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT="50",
    )
    made.start()
    return made


def test_handshakes_that_have_not_begun_count_and_do_not_block_other_clients(tls_gateway: MeasuredGateway) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with crowd(tls_gateway.port, b"", 200) as made, ExitStack() as stack:
        made.run(10, until=lambda: sum(sender.closed for sender in made.senders) == 150)
        assert Hits(tls_gateway.page).totals() == {"connections": 150}
        raw = stack.enter_context(
            socket.create_connection(("127.0.0.1", tls_gateway.port), timeout=30, source_address=("127.0.0.3", 0))
        )
        with context.wrap_socket(raw) as connection:
            connection.sendall(head("GET /v1/models", key=True))
            assert connection.recv(12) == b"HTTP/1.1 200"
        made.run(20, until=lambda: all(sender.closed for sender in made.senders))
    assert all(sender.closed for sender in made.senders)
    # A handshake that has begun is closed before its task counts it.
    until(lambda: Hits(tls_gateway.page).totals().get("handshakes") == 50)


def test_many_handshakes_at_once_do_not_block_the_event_loop(tls_gateway: MeasuredGateway) -> None:
    hello = client_hello()
    with crowd(tls_gateway.port, hello, 50, ADDRESS) as made:
        tls_gateway.iterations.clear()
        made.run(5)
        made.run(2, until=lambda: all(sender.received for sender in made.senders))
    assert tls_gateway.iterations.longest_ms < max_iteration_ms()


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()
