"""A gateway's client of upstreams, in the event loop that gateways run."""

import asyncio
import functools
from contextlib import asynccontextmanager

import uvloop

from gateway.upstream import Pool, Sweeper
from tests.gateway.scripted import upstream

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


def in_loop(test):
    """Run an async test as gateways run."""

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


async def ask(pool, *, body=b"body", timeout=20.0, fresh=False):
    """Send a request; the connection with the head of its answer."""
    connection = await pool.acquire(fresh=fresh)
    connection.send(HEAD % len(body), (body,), timeout)
    try:
        await connection.head()
    except BaseException:
        connection.abort()
        raise
    return connection


async def fetch(pool, **options):
    return await (await ask(pool, **options)).read_all()


async def pieces(connection):
    """The body as it comes."""
    found = []
    while data := await connection.read():
        found.append(data)
    return found


async def soon(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
