"""Requests that repeat the header block of the one before skip the parser, with the same result."""

import socket
from collections.abc import Callable

import pytest

from tests.gateway.http.test_protocol import model as model
from tests.gateway.http.test_protocol import read_response, statuses
from tests.gateway.process import GatewayProcess, read_to_end
from tests.router import until

LENGTH = b"Content-Length: "


def with_length(request: bytes, length: bytes) -> bytes:
    """Return the same request with another Content-Length."""
    before, _, rest = request.partition(LENGTH)
    return before + LENGTH + length + rest[rest.index(b"\r\n") :]


def size(request: bytes) -> int:
    return len(request.partition(b"\r\n\r\n")[2])


# Bytes that follow a request, made from its bytes.
FOLLOW_UPS: dict[str, Callable[[bytes], bytes]] = {
    "the same": lambda request: request,
    "a large body": lambda request: with_length(request, b"%d" % (size(request) + 100_000)) + b" " * 100_000,
    "a larger one": lambda request: with_length(request, b"%d" % (size(request) + 2_000_000)) + b" " * 2_000_000,
    "two at once": lambda request: request + request,
    "a large one, and another": lambda request: (
        with_length(request, b"%d" % (size(request) + 300_000)) + b" " * 300_000 + request
    ),
    "another head": lambda request: request.replace(LENGTH, b"X-Else: 1\r\n" + LENGTH),
    "too short": lambda request: with_length(request, b"%d" % (size(request) - 1)),
    "leading zeros": lambda request: with_length(request, b"00%d" % size(request)),
    "no length": lambda request: with_length(request, b""),
    "letters": lambda request: with_length(request, b"12a"),
    "a sign": lambda request: with_length(request, b"+%d" % size(request)),
    "many digits": lambda request: with_length(request, b"9" * 30),
    "other digits": lambda request: with_length(request, "١٢".encode()),
    "two lengths": lambda request: request.replace(LENGTH, b"Content-Length: 5\r\n" + LENGTH),
    "a bare line feed": lambda request: request.replace(b"\r\n\r\n", b"\n\n"),
    "chunks, too": lambda request: request.replace(LENGTH, b"Transfer-Encoding: chunked\r\n" + LENGTH),
    "another key": lambda request: request.replace(b"Bearer sk_", b"Bearer sk-"),
    "a blank line before": lambda request: b"\r\n" + request,
    "no JSON": lambda request: request[: -size(request)] + b"{" * size(request),
}


def alone(gateway: GatewayProcess, request: bytes) -> list[int]:
    """Return the responses to the first request of a connection and, if it stays open, to a second one."""
    return statuses(gateway.send(request + gateway.head("GET /v1/models", "Connection: close")))


def statuses_after(gateway: GatewayProcess, first: bytes, request: bytes, expected: list[int]) -> list[int]:
    """Return the statuses of the same request after another one."""
    received = b""
    with gateway.connect() as connection:
        connection.sendall(first)
        read_response(connection)
        connection.sendall(request)
        if expected[-1] == 200:  # sending to a closed connection would discard its last bytes
            while len(statuses(received)) < len(expected) - 1:
                received += connection.recv(1 << 16)
            connection.sendall(gateway.head("GET /v1/models", "Connection: close"))
        return statuses(received + read_to_end(connection))


@pytest.mark.parametrize("make", FOLLOW_UPS.values(), ids=FOLLOW_UPS)
def test_a_second_request_is_handled_like_a_first_one(
    gateway: GatewayProcess, model: str, make: Callable[[bytes], bytes]
) -> None:
    request = gateway.chat_bytes(model)
    expected = alone(gateway, make(request))
    assert statuses_after(gateway, request, make(request), expected) == expected


def test_a_body_that_looks_like_a_request_is_a_body(gateway: GatewayProcess, model: str) -> None:
    inner = gateway.chat_bytes(model)
    outer = gateway.head("POST /v1/chat/completions", f"Content-Length: {len(inner)}")
    with gateway.connect() as connection:
        connection.sendall(inner)
        read_response(connection)
        connection.sendall(outer)
        connection.sendall(inner)
        assert statuses(read_response(connection)) == [400]


def test_a_repeated_large_request(gateway: GatewayProcess, model: str) -> None:
    request = FOLLOW_UPS["a large body"](gateway.chat_bytes(model))
    with gateway.connect() as connection:
        for _ in range(3):
            connection.sendall(request)
            assert statuses(read_response(connection)) == [200]


def test_a_body_in_very_many_reads_is_complete(gateway: GatewayProcess, model: str) -> None:
    request = gateway.chat_bytes(model)
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        read_response(connection)
        start = len(request) - size(request)
        connection.sendall(request[:start])
        for position in range(start, len(request)):
            connection.sendall(request[position : position + 1])
        assert statuses(read_response(connection)) == [200]


def test_a_large_body_without_a_key_is_refused_before_it_is_received(gateway: GatewayProcess, model: str) -> None:
    request = gateway.chat_bytes(model).replace(b"Bearer sk_", b"Bearer sk-")
    with gateway.connect() as connection:
        connection.sendall(request)
        assert statuses(read_response(connection)) == [401]
        connection.sendall(with_length(request, b"900000"))
        assert statuses(read_response(connection)) == [401]


@pytest.mark.parametrize("cut", [1, 60, -1])
def test_a_repeated_request_may_arrive_in_parts(gateway: GatewayProcess, model: str, cut: int) -> None:
    request = gateway.chat_bytes(model)
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        read_response(connection)
        connection.sendall(request[:cut])
        connection.sendall(request[cut:])
        assert statuses(read_response(connection)) == [200]


def test_a_revoked_key_fails_for_the_next_request(gateway: GatewayProcess, model: str) -> None:
    request = gateway.chat_bytes(model)
    with gateway.connect() as connection:
        connection.sendall(request)
        read_response(connection)
        kept = dict(gateway.keys)
        gateway.keys.clear()
        gateway.publish()
        try:
            until(lambda: _status(connection, request) == 401)
        finally:
            gateway.keys.update(kept)
            gateway.publish()


def _status(connection: socket.socket, request: bytes) -> int:
    connection.sendall(request)
    return statuses(read_response(connection))[0]
