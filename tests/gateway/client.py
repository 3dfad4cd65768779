"""Helpers of tests that send requests to upstream servers, in the event loop of gateways."""

import asyncio
import functools
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import uvloop

from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import Pool, Sweeper
from tests.gateway.scripted import upstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


def in_loop(test):
    """Run an async test in the event loop of gateways."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        uvloop.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def pool_to(server, **options):
    sweeper = Sweeper(asyncio.get_running_loop())
    pool = Pool(server.url, sweeper, **options)
    try:
        yield pool
    finally:
        pool.close()
        sweeper.stop()


@asynccontextmanager
async def serving(script):
    """A pool of connections to a server that follows the script."""
    with upstream(script) as server:
        async with pool_to(server) as pool:
            yield pool, server


async def send_request(pool, *, body=b"body", timeout=20.0, fresh=False):
    """Send a request once, and return the connection when the header block of the response was received."""
    connection = (None if fresh else pool.take_idle()) or await pool.connect()
    connection.send(HEAD % len(body), (body,), timeout)
    try:
        await connection.receive_head()
    except BaseException:
        connection.abort()
        raise
    return connection


async def fetch(pool, **options):
    return await (await send_request(pool, **options)).read_all()


async def pieces(connection):
    """Return the pieces of the body in the order of their arrival."""
    received = []
    while data := await connection.read():
        received.append(data)
    return received


async def wait_until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Consumer:
    """A consumer of a body. `take` receives the parsed parts, and `take_chunk` the reads that may be one chunk."""

    def __init__(self, take, take_chunk=lambda data: None):
        self.take = take
        self.take_chunk = take_chunk
        self.extended = 0

    def chunk_taker(self):
        return SimpleNamespace(take=self.take_chunk)

    def extend(self):
        self.extended += 1


async def failing(waiting):
    """Return the error with which a request fails. Its text must not contain the address."""
    with pytest.raises(UpstreamError) as caught:
        await waiting
    assert "127.0.0.1" not in str(caught.value)
    return caught.value
