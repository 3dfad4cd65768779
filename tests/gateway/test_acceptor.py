"""Connections are counted from the moment at which they are accepted."""

import asyncio
import resource
import socket
import ssl
from contextlib import ExitStack

import pytest

from gateway import acceptor
from gateway.acceptor import HANDSHAKES_AT_ONCE, Acceptor
from gateway.bounds import Hits
from gateway.livepage import LivePage
from gateway.peer import Crowd, Peers
from tests.gateway import certificates
from tests.gateway.client import in_loop, soon
from tests.gateway.process import KEY, read_to_end
from tests.router import until


class Connected(asyncio.Protocol):
    admitted = None
    transport = None

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"connected" if self.admitted else b"turned away")

    def connection_lost(self, error):
        self.lost = True


class Door:
    """An acceptor and those that went through."""

    def __init__(self, page, limit=0, tls=None):
        self.listen = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.crowd = Crowd(limit, Peers(()))
        self.hits = Hits(page)
        self.made = []
        self.acceptor = Acceptor(self.listen, self.make, self.crowd, self.hits, tls)
        self.acceptor.start()

    def make(self):
        self.made.append(Connected())
        return self.made[-1]

    @property
    def connected(self):
        return [it for it in self.made if it.transport is not None]

    async def close(self):
        await self.acceptor.stop(0.1)
        self.listen.close()

    def come(self):
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
async def test_a_handshake_that_is_not_begun_counts_as_a_connection(page, tls):
    door = Door(page, 3, tls)
    with ExitStack() as stack:
        clients = [stack.enter_context(door.come()) for _ in range(5)]
        await soon(lambda: door.hits.totals() == {"connections": 2})
        assert [await asyncio.to_thread(it.recv, 1) for it in clients[3:]] == [b"", b""]
        assert not door.crowd.enter("127.0.0.1")
        await door.close()
    assert not door.crowd._connections


@in_loop
async def test_a_handshake_that_takes_too_long_is_ended(page, tls, monkeypatch):
    monkeypatch.setattr(acceptor, "HANDSHAKE_SECONDS", 0.2)
    door = Door(page, 100, tls)
    with ExitStack() as stack:
        clients = [stack.enter_context(door.come()) for _ in range(HANDSHAKES_AT_ONCE + 3)]
        for it in clients:
            assert await asyncio.to_thread(it.recv, 1) == b""
    await soon(lambda: not door.crowd._connections)
    assert not door.acceptor._lines
    assert door.hits.totals()["handshakes"] >= 3
    await door.close()


@in_loop
async def test_handshakes_of_one_client_are_made_a_few_at_a_time(page, tls):
    door = Door(page, 100, tls)
    with ExitStack() as stack:
        for _ in range(HANDSHAKES_AT_ONCE + 3):
            stack.enter_context(door.come())
        await soon(lambda: len(door.made) == HANDSHAKES_AT_ONCE + 3)
        (line,) = door.acceptor._lines.values()
        assert (line.turn.locked(), line.length) == (True, HANDSHAKES_AT_ONCE + 3)
        await door.close()


@in_loop
async def test_a_client_with_too_many_connections_is_told_so(page):
    door = Door(page, 1)
    with door.come() as first, door.come() as second:
        assert await asyncio.to_thread(first.recv, 100) == b"connected"
        assert await asyncio.to_thread(second.recv, 100) == b"turned away"
        await door.close()


@in_loop
async def test_whoever_waits_at_the_end_is_accepted(page):
    door = Door(page)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(door.come())
        await door.close()
        assert len(door.connected) == 100


@in_loop
async def test_connections_wait_while_descriptors_have_run_out_and_are_accepted_afterwards(page, caplog):
    door = Door(page)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with door.come() as client:
        lowest = client.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            await soon(lambda: door.hits.totals().get("descriptors", 0) > 1)
            assert not door.made
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert await asyncio.to_thread(client.recv, 100) == b"connected"
        assert [record.message for record in caplog.records] == [
            "no more connections can be accepted for now (Too many open files); raise the limit of open files"
        ]
        await door.close()


def test_a_gateway_without_descriptors_says_so_and_goes_on(make_gateway):
    gateway = make_gateway().start()
    assert gateway.get("/v1/models").status == 200
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (60, 60))
    request = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(80)]
        until(lambda: Hits(gateway.page).totals().get("descriptors"))
        for it in clients[:40]:
            it.close()
        clients[-1].sendall(request.encode())
        assert read_to_end(clients[-1]).startswith(b"HTTP/1.1 200 ")
    assert gateway.log().count("no more connections can be accepted") == 1
