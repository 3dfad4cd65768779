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
    "the same": lambda it: it,
    "a large body": lambda it: with_length(it, b"%d" % (size(it) + 100_000)) + b" " * 100_000,
    "a larger one": lambda it: with_length(it, b"%d" % (size(it) + 2_000_000)) + b" " * 2_000_000,
    "two at once": lambda it: it + it,
    "a large one, and another": lambda it: with_length(it, b"%d" % (size(it) + 300_000)) + b" " * 300_000 + it,
    "another head": lambda it: it.replace(LENGTH, b"X-Else: 1\r\n" + LENGTH),
    "too short": lambda it: with_length(it, b"%d" % (size(it) - 1)),
    "leading zeros": lambda it: with_length(it, b"00%d" % size(it)),
    "no length": lambda it: with_length(it, b""),
    "letters": lambda it: with_length(it, b"12a"),
    "a sign": lambda it: with_length(it, b"+%d" % size(it)),
    "many digits": lambda it: with_length(it, b"9" * 30),
    "other digits": lambda it: with_length(it, "١٢".encode()),
    "two lengths": lambda it: it.replace(LENGTH, b"Content-Length: 5\r\n" + LENGTH),
    "a bare line feed": lambda it: it.replace(b"\r\n\r\n", b"\n\n"),
    "chunks, too": lambda it: it.replace(LENGTH, b"Transfer-Encoding: chunked\r\n" + LENGTH),
    "another key": lambda it: it.replace(b"Bearer sk_", b"Bearer sk-"),
    "a blank line before": lambda it: b"\r\n" + it,
    "no JSON": lambda it: it[: -size(it)] + b"{" * size(it),
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
        for at in range(start, len(request)):
            connection.sendall(request[at : at + 1])
        assert statuses(read_response(connection)) == [200]


def test_a_large_body_without_a_key_is_refused_before_it_is_received(gateway: GatewayProcess, model: str) -> None:
    request = gateway.chat_bytes(model).replace(b"Bearer sk_", b"Bearer sk-")
    with gateway.connect() as connection:
        connection.sendall(request)
        assert statuses(read_response(connection)) == [401]
        connection.sendall(with_length(request, b"900000"))
        assert statuses(read_response(connection)) == [401]


@pytest.mark.parametrize("at", [1, 60, -1])
def test_a_repeated_request_may_arrive_in_parts(gateway: GatewayProcess, model: str, at: int) -> None:
    request = gateway.chat_bytes(model)
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        read_response(connection)
        connection.sendall(request[:at])
        connection.sendall(request[at:])
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
