"""Pools: connecting, reuse of idle connections, and requests that are sent again."""

import asyncio
import ipaddress
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.base import destinations
from gateway.base.destinations import Destinations
from gateway.upstream import connection as connections
from gateway.upstream import pool as pools
from gateway.upstream import response_head
from gateway.upstream.connection import AWAITING
from gateway.upstream.dialer import Dialer
from gateway.upstream.errors import BROKEN, CONNECT, EndpointWithdrawn, StaleConnection, UpstreamError
from gateway.upstream.pool import Pool, Sweeper
from gateway.upstream.response_head import ResponseHead
from tests.gateway import captures
from tests.gateway.client import HEAD, failing, fetch, in_loop, pieces, pool_to, send_request, serving, wait_until
from tests.gateway.scripted import always, each_time, http_response, nothing, opening, upstream

OK = http_response(b"whole")


# Idle connections


@in_loop
async def test_a_connection_is_reused():
    async with serving(always(OK)) as (pool, server):
        for _ in range(5):
            await fetch(pool)
        assert (server.connections, len(pool.idle)) == (1, 1)


@in_loop
async def test_a_connection_is_reused_after_a_stream():
    async with serving(always(captures.load("vllm", "chat_stream").http)) as (pool, server):
        for _ in range(2):
            await pieces(await send_request(pool))
        assert server.connections == 1


@in_loop
async def test_a_connection_has_one_request_at_a_time():
    async with serving(always(OK)) as (pool, server):
        both = await asyncio.gather(send_request(pool), send_request(pool))
        assert [await connection.read_all() for connection in both] == [b"whole", b"whole"]
        assert (server.connections, len(pool.idle)) == (2, 2)


@in_loop
async def test_a_connection_is_not_reused_after_its_maximum_age(monkeypatch):
    """The host name may have another address by then."""
    monkeypatch.setattr(connections, "MAX_AGE_SECONDS", 0.0)
    async with serving(always(OK)) as (pool, server):
        for _ in range(2):
            await fetch(pool)
        assert server.connections == 2


@in_loop
async def test_a_new_connection_can_be_requested():
    async with serving(always(OK)) as (pool, server):
        await fetch(pool)
        await fetch(pool, fresh=True)
        assert server.connections == 2


@in_loop
async def test_connection_close_is_obeyed():
    async with serving(always(http_response(b"whole", 200, "text/plain", "Connection: close"))) as (pool, server):
        for _ in range(2):
            assert await fetch(pool) == b"whole"
        assert (server.connections, list(pool.idle)) == (2, [])


def closes_at_the_second_request(talk):
    talk.request()
    talk.send(OK)
    talk.request()


def resets_at_the_second_request(talk):
    closes_at_the_second_request(talk)
    talk.reset()


@pytest.mark.parametrize("script", [closes_at_the_second_request, resets_at_the_second_request])
@in_loop
async def test_an_idle_connection_that_closes_before_a_response_is_stale(script):
    async with serving(script) as (pool, _):
        await fetch(pool)
        with pytest.raises(StaleConnection):
            await send_request(pool)
        assert await fetch(pool, fresh=True) == b"whole"


@in_loop
async def test_a_new_connection_that_closes_is_broken_and_not_stale():
    async with serving(lambda talk: talk.request()) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await send_request(pool)
        assert caught.value.kind == BROKEN


@in_loop
async def test_a_reused_connection_that_breaks_in_a_response_is_not_stale():
    async with serving(each_time(OK, OK[:-1])) as (pool, _):
        await fetch(pool)
        connection = await send_request(pool)
        with pytest.raises(UpstreamError) as caught:
            await connection.read_all()
        assert caught.value.kind == BROKEN


@in_loop
async def test_a_connection_that_closes_while_idle_leaves_the_pool():
    async with serving(each_time(OK)) as (pool, server):
        await fetch(pool)
        await wait_until(lambda: not pool.idle)
        await fetch(pool)
        assert server.connections == 2


@in_loop
async def test_bytes_without_a_request_close_an_idle_connection():
    idle = threading.Event()

    def script(talk):
        talk.request()
        talk.send(OK)
        idle.wait()
        talk.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        talk.client_disconnected()

    async with serving(script) as (pool, _):
        await fetch(pool)
        assert len(pool.idle) == 1
        idle.set()
        await wait_until(lambda: not pool.idle)


@in_loop
async def test_bytes_behind_a_response_close_the_connection():
    async with serving(opening(OK + b"nonsense")) as (pool, _):
        assert await fetch(pool) == b"whole"
        assert not pool.idle


@in_loop
async def test_a_connection_is_not_reused_after_the_keep_alive_time_of_the_server():
    async with serving(always(http_response(b"whole", 200, "text/plain", "Keep-Alive: timeout=1"))) as (pool, server):
        for _ in range(2):
            await fetch(pool)
        assert server.connections == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5, max=100", 4.0),
        (b"max=100, Timeout=5", 4.0),
        (b"timeout=0", 0.0),
        (b"timeout=9999", 30.0),
        (b"max=100", 30.0),
        (b"timeout=soon", 30.0),
        (b"", 30.0),
    ],
)
def test_keep_alive_times_of_servers(value, seconds):
    assert ResponseHead(200, [(b"keep-alive", value)]).idle_seconds() == seconds


@in_loop
async def test_closing_a_pool_closes_idle_connections():
    async with serving(always(OK)) as (pool, _):
        await fetch(pool)
        (connection,) = pool.idle
        pool.close()
        assert (list(pool.idle), connection.transport.is_closing()) == ([], True)


@in_loop
async def test_a_connection_in_use_survives_the_closing_of_its_pool():
    async with serving(always(OK)) as (pool, _):
        connection = await send_request(pool)
        pool.close()
        assert await connection.read_all() == b"whole"
        assert connection.transport.is_closing()


# Failures


@in_loop
async def test_a_server_at_an_ipv6_address():
    with upstream(always(OK), host="::1") as server:
        async with pool_to(server) as pool:
            assert await fetch(pool) == b"whole"
            assert pool.authority == b"[::1]:%d" % pool.port


@in_loop
async def test_a_refused_connection():
    with upstream(always(OK)) as server:
        pass
    async with pool_to(server) as pool:
        error = await failing(send_request(pool))
        assert (error.kind, str(error)) == (CONNECT, "connection refused")


@in_loop
async def test_a_server_without_tls():
    with upstream(lambda talk: talk.send(http_response(b"", 400))) as server:
        async with pool_to(server) as plain:
            pool = Pool(server.url.replace("http:", "https:"), plain.sweeper)
            error = await failing(send_request(pool))
    assert error.kind == CONNECT
    assert str(error).startswith("TLS failed; does it speak http://")


@in_loop
async def test_a_connection_that_takes_too_long():
    with upstream(nothing) as server:
        async with pool_to(server) as plain:
            pool = Pool(server.url.replace("http:", "https:"), plain.sweeper, connect_timeout=20.0)
            pool.connect_timeout = 0.05
            error = await failing(send_request(pool))
    assert (error.kind, str(error)) == (CONNECT, "no connection within 0.05 s")


@in_loop
async def test_a_missing_unix_socket(tmp_path):
    pool = Pool("http://control", Sweeper(asyncio.get_running_loop()), unix_path=str(tmp_path / "never"))
    error = await failing(send_request(pool))
    assert (error.kind, str(error)) == (CONNECT, "no connection")


# Addresses


@pytest.mark.parametrize(
    ("url", "address", "prefix", "authority"),
    [
        ("http://a.example:8000", ("a.example", 8000, False), b"", b"a.example:8000"),
        ("http://a.example", ("a.example", 80, False), b"", b"a.example"),
        ("https://a.example/", ("a.example", 443, True), b"", b"a.example"),
        ("http://a.example/sub/path/", ("a.example", 80, False), b"/sub/path", b"a.example"),
        ("http://[::1]:9", ("::1", 9, False), b"", b"[::1]:9"),
        ("http://me:secret@a.example", ("a.example", 80, False), b"", b"a.example"),
    ],
)
def test_parts_of_a_url(url, address, prefix, authority, sweeper):
    pool = Pool(url, sweeper)
    assert (pool.host, pool.port, pool.tls) == address
    assert (pool.prefix, pool.authority) == (prefix, authority)
    assert "secret" not in repr(pool)


@in_loop
async def test_a_unix_socket(tmp_path):
    with upstream(always(OK), tmp_path / "socket"):
        pool = Pool("http://control", Sweeper(asyncio.get_running_loop()), unix_path=str(tmp_path / "socket"))
        assert await fetch(pool) == b"whole"
        assert repr(pool) == "<Pool control 1 idle>"
        pool.close()


@in_loop
async def test_a_resting_process_sweeps_at_whole_seconds(monkeypatch):
    monkeypatch.setattr("gateway.loop.rest.time", SimpleNamespace(monotonic=lambda: 1000.25))
    paused: list[float] = []
    loop: Any = SimpleNamespace(call_later=lambda seconds, call: paused.append(seconds))
    sweeper = Sweeper(loop)
    sweeper._sweep()
    sweeper.is_resting = lambda: True
    sweeper._sweep()
    assert paused == [pools.SWEEP_SECONDS, pools.SWEEP_SECONDS, 0.75]


LINK_LOCAL = ["http://169.254.169.254", "https://[fe80::1]:9", "http://[::ffff:169.254.0.1]", "http://0xa9fea9fe"]


@pytest.mark.parametrize("url", LINK_LOCAL)
@in_loop
async def test_link_local_addresses_are_refused(url):
    sweeper = Sweeper(asyncio.get_running_loop())
    error = await failing(Pool(url, sweeper).connect())
    sweeper.stop()
    assert (error.kind, str(error)) == (CONNECT, destinations.LINK_LOCAL)


@pytest.mark.parametrize("url", LINK_LOCAL)
@in_loop
async def test_a_link_local_address_can_be_allowed(url):
    sweeper = Sweeper(asyncio.get_running_loop(), Dialer(Destinations(allow_link_local=True)))
    assert len(await sweeper.dialer.addresses(Pool(url, sweeper).host, 80)) == 1
    sweeper.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
@in_loop
async def test_an_address_outside_of_the_allowed_networks_is_refused(host):
    with upstream(always(OK)) as server:
        port = server.server_address[1]
        for networks, kind in ((["10.0.0.0/8"], CONNECT), (["10.0.0.0/8", "127.0.0.0/8"], None)):
            allowed = Destinations([ipaddress.ip_network(network) for network in networks])
            sweeper = Sweeper(asyncio.get_running_loop(), Dialer(allowed))
            pool = Pool(f"http://{host}:{port}", sweeper)
            if kind is None:
                assert await fetch(pool) == b"whole"
            else:
                error = await failing(pool.connect())
                assert (error.kind, str(error)) == (kind, destinations.OUTSIDE)
            pool.close()
            sweeper.stop()


@in_loop
async def test_all_addresses_of_a_name_are_tried():
    with upstream(always(OK), host="127.0.0.1") as server:  # not at ::1, the first address of localhost on some systems
        async with pool_to(server) as plain:
            pool = Pool(f"http://localhost:{plain.port}", plain.sweeper)
            assert await fetch(pool) == b"whole"
            pool.close()


@in_loop
async def test_a_connection_is_closed_if_its_request_was_cancelled():
    async with serving(nothing) as (pool, server):
        for turns in range(40):
            connecting = asyncio.create_task(pool.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            if not connecting.cancel():
                connecting.result().abort()
        await wait_until(lambda: not (pool.sweeper.connections or server.open))


# Malicious endpoints


@in_loop
async def test_an_invalid_host_name_is_a_connect_error():
    sweeper = Sweeper(asyncio.get_running_loop())
    error = await failing(Pool("http://a..b:1", sweeper).connect())
    sweeper.stop()
    assert (error.kind, str(error)) == (CONNECT, "no connection")


@in_loop
async def test_old_idle_connections_are_closed(monkeypatch):
    monkeypatch.setattr(response_head, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(pools, "SWEEP_SECONDS", 0.01)
    async with serving(always(OK)) as (pool, server):
        await asyncio.gather(*(fetch(pool) for _ in range(5)))
        await wait_until(lambda: not (pool.idle or server.open))
        assert not pool.sweeper.pools


@in_loop
async def test_a_closed_connection_is_not_swept():
    async with serving(each_time(b"")) as (pool, _):
        await failing(send_request(pool))
        assert not pool.sweeper.connections


# Requests


@pytest.mark.parametrize("script", [closes_at_the_second_request, resets_at_the_second_request])
@in_loop
async def test_a_request_on_a_stale_connection_is_sent_again(script):
    async with serving(script) as (pool, server):
        await fetch(pool)
        connection = await pool.request(HEAD % 4, (b"body",), 20.0)
        assert (await connection.read_all(), server.connections) == (b"whole", 2)


@in_loop
async def test_a_request_that_is_not_repeatable_is_not_sent_again():
    async with serving(closes_at_the_second_request) as (pool, server):
        await fetch(pool)
        error = await failing(pool.request(HEAD % 4, (b"body",), 20.0, repeatable=False))
        assert (error.kind, str(error), server.connections) == (BROKEN, "the connection broke off", 1)


@in_loop
async def test_a_request_fails_by_the_holder_of_its_connection():
    holder = SimpleNamespace(connection=None, connect_us=0, check_endpoint=lambda: None)
    async with serving(nothing) as (pool, _):
        requesting = asyncio.ensure_future(pool.request(HEAD % 0, (b"",), 20.0, holder=holder))
        await wait_until(lambda: holder.connection is not None and holder.connection.state is AWAITING)
        holder.connection.fail(UpstreamError(BROKEN, "cancelled"))
        assert str(await failing(requesting)) == "cancelled"
        await wait_until(lambda: not pool.sweeper.connections)


@in_loop
async def test_a_cancelled_request_closes_its_connection():
    async with serving(nothing) as (pool, _):
        requesting = asyncio.ensure_future(pool.request(HEAD % 0, (b"",), 20.0))
        await wait_until(lambda: pool.sweeper.connections)
        requesting.cancel()
        await wait_until(lambda: not pool.sweeper.connections)


# Endpoints that were edited while a connection was opened


class Withdrawn:
    """The holder of a request whose endpoint was disabled."""

    connection = None
    connect_us = 0

    def check_endpoint(self):
        raise EndpointWithdrawn


@in_loop
async def test_nothing_is_sent_to_an_endpoint_that_was_disabled_meanwhile():
    async with serving(always(OK)) as (pool, server):
        with pytest.raises(EndpointWithdrawn):
            await pool.request(HEAD, (b"",), 5.0, holder=Withdrawn())
        await wait_until(lambda: not pool.sweeper.connections)
        assert (server.requests, len(pool.idle)) == ([], 0)


@in_loop
async def test_nothing_is_sent_to_an_address_that_was_left_meanwhile():
    async with serving(always(OK)) as (pool, server):
        pool.close()
        with pytest.raises(EndpointWithdrawn):
            await pool.request(HEAD, (b"",), 5.0)
        await wait_until(lambda: not pool.sweeper.connections)
        assert server.requests == []
