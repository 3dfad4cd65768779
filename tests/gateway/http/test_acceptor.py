"""Connections are counted for their clients as soon as they are accepted."""

import asyncio
import resource
import socket
import ssl
from contextlib import ExitStack

import pytest

from gateway.http import acceptor
from gateway.http.acceptor import HANDSHAKES_AT_ONCE, Acceptor
from gateway.http.clients import ConnectionBound, TrustedProxies
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from tests.gateway import certificates
from tests.gateway.client import in_loop, wait_until
from tests.gateway.process import KEY, read_to_end
from tests.router import until


class ConnectedProtocol(asyncio.Protocol):
    admitted = None
    transport = None

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"connected" if self.admitted else b"rejected")

    def connection_lost(self, error):
        self.lost = True


class AcceptorServer:
    """An acceptor and its connections."""

    def __init__(self, page, limit=0, tls=None):
        self.listen = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.connection_bound = ConnectionBound(limit, TrustedProxies(()))
        self.hits = Hits(page)
        self.made = []
        self.acceptor = Acceptor(self.listen, self.make, self.connection_bound, self.hits, tls)
        self.acceptor.start()

    def make(self):
        self.made.append(ConnectedProtocol())
        return self.made[-1]

    @property
    def connected(self):
        return [protocol for protocol in self.made if protocol.transport is not None]

    async def close(self):
        await self.acceptor.stop(0.1)
        self.listen.close()

    def connect(self):
        return socket.create_connection(self.listen.getsockname(), timeout=10)


@pytest.fixture
def page(tmp_path):
    return LivePage(tmp_path / "live")


@pytest.fixture
def tls(tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates.make(tmp_path))
    return context


@in_loop
async def test_a_handshake_that_has_not_begun_counts_as_a_connection(page, tls):
    door = AcceptorServer(page, 3, tls)
    with ExitStack() as stack:
        clients = [stack.enter_context(door.connect()) for _ in range(5)]
        await wait_until(lambda: door.hits.totals() == {"connections": 2})
        assert [await asyncio.to_thread(client.recv, 1) for client in clients[3:]] == [b"", b""]
        assert not door.connection_bound.enter("127.0.0.1")
        await door.close()
    assert not door.connection_bound._connections


@in_loop
async def test_a_handshake_that_takes_too_long_is_ended(page, tls, monkeypatch):
    monkeypatch.setattr(acceptor, "HANDSHAKE_SECONDS", 0.2)
    door = AcceptorServer(page, 100, tls)
    with ExitStack() as stack:
        clients = [stack.enter_context(door.connect()) for _ in range(HANDSHAKES_AT_ONCE + 3)]
        for client in clients:
            assert await asyncio.to_thread(client.recv, 1) == b""
    await wait_until(lambda: not door.connection_bound._connections)
    assert not door.acceptor._handshakes
    assert door.hits.totals()["handshakes"] >= 3
    await door.close()


@in_loop
async def test_a_few_handshakes_of_one_client_run_at_a_time(page, tls):
    door = AcceptorServer(page, 100, tls)
    with ExitStack() as stack:
        for _ in range(HANDSHAKES_AT_ONCE + 3):
            stack.enter_context(door.connect())
        await wait_until(lambda: len(door.made) == HANDSHAKES_AT_ONCE + 3)
        (handshakes,) = door.acceptor._handshakes.values()
        assert (handshakes.slots.locked(), handshakes.number) == (True, HANDSHAKES_AT_ONCE + 3)
        await door.close()


@in_loop
async def test_a_client_with_too_many_connections_gets_a_response(page):
    door = AcceptorServer(page, 1)
    with door.connect() as first, door.connect() as second:
        assert await asyncio.to_thread(first.recv, 100) == b"connected"
        assert await asyncio.to_thread(second.recv, 100) == b"rejected"
        await door.close()


@in_loop
async def test_connections_that_wait_at_the_stop_are_accepted(page):
    door = AcceptorServer(page)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(door.connect())
        await door.close()
        assert len(door.connected) == 100


@in_loop
async def test_connections_wait_while_descriptors_have_run_out_and_are_accepted_afterwards(page, caplog):
    door = AcceptorServer(page)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with door.connect() as client:
        lowest = client.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            await wait_until(lambda: door.hits.totals().get("descriptors", 0) > 1)
            assert not door.made
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert await asyncio.to_thread(client.recv, 100) == b"connected"
        assert [record.message for record in caplog.records] == [
            "no connection can be accepted (Too many open files); the next attempt follows in 0.1 s. "
            "Raise the limit of open files"
        ]
        await door.close()


def test_a_gateway_without_descriptors_logs_it_and_continues(make_gateway):
    gateway = make_gateway().start()
    assert gateway.get("/v1/models").status == 200
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (75, 75))
    request = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(80)]
        until(lambda: Hits(gateway.page).totals().get("descriptors"))
        for client in clients[:40]:
            client.close()
        clients[-1].sendall(request.encode())
        assert read_to_end(clients[-1]).startswith(b"HTTP/1.1 200 ")
    assert gateway.log().count("no connection can be accepted") == 1
