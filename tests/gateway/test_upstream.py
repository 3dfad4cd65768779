import asyncio
import gc
import ipaddress
import threading
import weakref

import pytest

from gateway import bounds, destinations
from gateway import upstream as upstreams
from gateway.destinations import Destinations
from gateway.upstream import (
    BROKEN,
    BUFFER_BYTES,
    CONNECT,
    MAX_HEAD_BYTES,
    NEVER,
    TIMEOUT,
    Pool,
    StaleConnection,
    Sweeper,
    UpstreamError,
)
from tests.gateway import captures
from tests.gateway.client import HEAD, ask, fetch, in_loop, pieces, pool_to, serving, soon
from tests.gateway.scripted import always, answer, each_time, nothing, opening, upstream

OK = answer(b"whole")


# Answers


@in_loop
async def test_a_whole_answer():
    async with serving(always(answer(b"{}", 201, "application/json", "X-Note: A"))) as (pool, _):
        connection = await ask(pool)
        assert (connection.status, dict(connection.headers)[b"x-note"]) == (201, b"A")
        assert await connection.read_all() == b"{}"


@in_loop
async def test_a_request_arrives_as_it_was_sent():
    async with serving(always(OK)) as (pool, server):
        for body in (b"", b"small", b"x" * 1_000_000):
            await fetch(pool, body=body)
            assert server.requests[-1] == HEAD % len(body) + body


@pytest.mark.parametrize("capture", captures.everything(), ids=str)
@in_loop
async def test_a_real_answer(capture):
    async with serving(always(capture.http)) as (pool, _):
        connection = await ask(pool)
        assert connection.status == capture.status
        assert await connection.read_all() == capture.body


@in_loop
async def test_a_body_is_read_as_it_comes():
    async with serving(paced) as (pool, server):
        connection = await ask(pool)
        for number in range(3):
            assert await connection.read() == b"%d" % number
            connection.transport.write(b"next\r\n\r\n")
        assert await connection.read() == b""
        assert len(server.requests) == 4


def paced(talk):
    """A body in three pieces, each when it is asked for."""
    talk.request()
    talk.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(3):
        talk.send(b"1\r\n%d\r\n" % number)
        talk.request()
    talk.send(b"0\r\n\r\n")
    talk.client_left()


def taking(connection, told, *, pause_after=None):
    """Takes pieces of a body and asks for the next ones; wants no more for now after so many."""

    def take(data):
        told.append(data)
        connection.transport.write(b"next\r\n\r\n")
        return len(told) != pause_after

    return take


@in_loop
async def test_a_body_is_handed_on_as_it_comes():
    async with serving(paced) as (pool, _):
        connection = await ask(pool)
        told: list[bytes] = []
        assert await connection.hand_on(taking(connection, told))
        assert told == [b"0", b"1", b"2"]
        assert len(pool.idle) == 1


@in_loop
async def test_who_is_handed_a_body_may_want_no_more_for_now():
    async with serving(paced) as (pool, _):
        connection = await ask(pool)
        told: list[bytes] = []
        take = taking(connection, told, pause_after=2)
        assert not await connection.hand_on(take)
        assert told == [b"0", b"1"]
        assert await connection.hand_on(take)
        assert told == [b"0", b"1", b"2"]


@in_loop
async def test_a_body_that_breaks_off_is_handed_on_as_far_as_it_came():
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg"
    async with serving(each_time(begun)) as (pool, _):
        connection, told = await ask(pool), bytearray()

        def take(data):
            told.extend(data)
            return True

        error = await failing(connection.hand_on(take))
        assert (error.kind, bytes(told)) == (BROKEN, b"beg")


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"],
)
@in_loop
async def test_a_body_without_length_ends_with_its_connection(head):
    async with serving(each_time(head + b"until the end")) as (pool, _):
        assert await fetch(pool) == b"until the end"
        assert not pool.idle


@in_loop
async def test_a_chunked_body():
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    async with serving(always(chunked)) as (pool, _):
        assert await fetch(pool) == b"abcde"
        assert len(pool.idle) == 1


@pytest.mark.parametrize("first", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"])
@in_loop
async def test_what_is_said_before_the_answer_is_passed_over(first):
    async with serving(always(first * 2 + OK)) as (pool, _):
        connection = await ask(pool)
        assert b"link" not in dict(connection.headers)
        assert (connection.status, await connection.read_all()) == (200, b"whole")
        assert len(pool.idle) == 1


@in_loop
async def test_an_answer_long_after_a_first_word():
    def script(talk):
        talk.request()
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        talk.request()
        talk.send(OK)

    async with serving(script) as (pool, _):
        connection = await pool.acquire()
        connection.send(HEAD % 0, b"", 20)
        heading = asyncio.ensure_future(connection.head())
        connection.transport.write(b"go on\r\n\r\n")
        await heading
        assert await connection.read_all() == b"whole"


@pytest.mark.parametrize("status", [204, 304])
@in_loop
async def test_an_answer_without_a_body(status):
    async with serving(always(b"HTTP/1.1 %d Nothing\r\n\r\n" % status)) as (pool, _):
        for _ in range(2):
            assert await fetch(pool) == b""
        assert len(pool.idle) == 1


@in_loop
async def test_that_an_upstream_was_heard_of_is_told():
    told = []
    with upstream(always(OK)) as server:
        async with pool_to(server, received=lambda: told.append(1)) as pool:
            await fetch(pool)
            await soon(lambda: told)


@in_loop
async def test_that_an_upstream_was_heard_of_is_told_at_its_end_at_the_latest():
    told = []
    with upstream(always(OK)) as server:
        async with pool_to(server, received=lambda: told.append(1)) as pool:
            pool.sweeper.stop()
            await fetch(pool)
            pool.close()
            await soon(lambda: told)


# Kept connections


@in_loop
async def test_a_connection_is_used_again():
    async with serving(always(OK)) as (pool, server):
        for _ in range(5):
            await fetch(pool)
        assert (server.connections, len(pool.idle)) == (1, 1)


@in_loop
async def test_a_connection_is_used_again_after_a_stream():
    async with serving(always(captures.load("vllm", "chat_stream").http)) as (pool, server):
        for _ in range(2):
            await pieces(await ask(pool))
        assert server.connections == 1


@in_loop
async def test_a_connection_is_for_one_exchange_at_a_time():
    async with serving(always(OK)) as (pool, server):
        both = await asyncio.gather(ask(pool), ask(pool))
        assert [await connection.read_all() for connection in both] == [b"whole", b"whole"]
        assert (server.connections, len(pool.idle)) == (2, 2)


@in_loop
async def test_a_connection_grows_old_in_use_too(monkeypatch):
    """Its address may lead elsewhere by now."""
    monkeypatch.setattr(upstreams, "MAX_AGE_SECONDS", 0.0)
    async with serving(always(OK)) as (pool, server):
        for _ in range(2):
            await fetch(pool)
        assert server.connections == 2


@in_loop
async def test_a_fresh_connection_can_be_asked_for():
    async with serving(always(OK)) as (pool, server):
        await fetch(pool)
        await fetch(pool, fresh=True)
        assert server.connections == 2


@in_loop
async def test_connection_close_is_obeyed():
    async with serving(always(answer(b"whole", 200, "text/plain", "Connection: close"))) as (pool, server):
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
async def test_a_kept_connection_that_closes_before_its_answer_is_stale(script):
    async with serving(script) as (pool, _):
        await fetch(pool)
        with pytest.raises(StaleConnection):
            await ask(pool)
        assert await fetch(pool, fresh=True) == b"whole"


@in_loop
async def test_a_new_connection_that_closes_is_broken_and_not_stale():
    async with serving(lambda talk: talk.request()) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await ask(pool)
        assert caught.value.kind == BROKEN


@in_loop
async def test_a_kept_connection_that_breaks_in_its_answer_is_not_stale():
    async with serving(each_time(OK, OK[:-1])) as (pool, _):
        await fetch(pool)
        connection = await ask(pool)
        with pytest.raises(UpstreamError) as caught:
            await connection.read_all()
        assert caught.value.kind == BROKEN


@in_loop
async def test_a_connection_that_closes_while_idle_is_forgotten():
    async with serving(each_time(OK)) as (pool, server):
        await fetch(pool)
        await soon(lambda: not pool.idle)
        await fetch(pool)
        assert server.connections == 2


@in_loop
async def test_bytes_that_nobody_asked_for_end_an_idle_connection():
    idle = threading.Event()

    def script(talk):
        talk.request()
        talk.send(OK)
        idle.wait()
        talk.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        talk.client_left()

    async with serving(script) as (pool, _):
        await fetch(pool)
        assert len(pool.idle) == 1
        idle.set()
        await soon(lambda: not pool.idle)


@in_loop
async def test_nonsense_behind_an_answer_ends_its_connection():
    async with serving(opening(OK + b"nonsense")) as (pool, _):
        assert await fetch(pool) == b"whole"
        assert not pool.idle


@in_loop
async def test_a_server_that_says_it_closes_soon_is_believed():
    async with serving(always(answer(b"whole", 200, "text/plain", "Keep-Alive: timeout=1"))) as (pool, server):
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
def test_how_long_a_server_keeps_a_connection(value, seconds):
    assert upstreams._kept_for(value) == seconds


@in_loop
async def test_closing_a_pool_closes_what_is_idle():
    async with serving(always(OK)) as (pool, _):
        await fetch(pool)
        (connection,) = pool.idle
        pool.close()
        assert (list(pool.idle), connection.transport.is_closing()) == ([], True)


@in_loop
async def test_a_connection_in_use_survives_the_closing_of_its_pool():
    async with serving(always(OK)) as (pool, _):
        connection = await ask(pool)
        pool.close()
        assert await connection.read_all() == b"whole"
        assert connection.transport.is_closing()


# Failures


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(upstreams, "SWEEP_SECONDS", 0.01)


async def failing(waiting):
    with pytest.raises(UpstreamError) as caught:
        await waiting
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


@in_loop
async def test_a_head_that_does_not_come(impatient):
    async with serving(opening()) as (pool, _):
        error = await failing(ask(pool, timeout=0.05))
        assert (error.kind, str(error)) == (TIMEOUT, "timed out")
        await soon(lambda: not pool.sweeper.connections)


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbeg\r\n",
    ],
)
@in_loop
async def test_a_body_that_does_not_go_on(impatient, begun):
    async with serving(opening(begun)) as (pool, _):
        connection = await ask(pool)
        connection.wait_at_most(0.05)
        assert await connection.read() == b"beg"
        assert (await failing(connection.read())).kind == TIMEOUT


@in_loop
async def test_a_timeout_counts_for_the_whole_of_an_answer(impatient):
    async with serving(opening(OK[:-1])) as (pool, _):
        assert (await failing(fetch(pool, timeout=0.2))).kind == TIMEOUT


@in_loop
async def test_a_kept_connection_that_times_out_is_not_stale(impatient):
    def script(talk):
        talk.request()
        talk.send(OK)
        talk.request()
        talk.client_left()

    async with serving(script) as (pool, _):
        await fetch(pool)
        assert (await failing(ask(pool, timeout=0.05))).kind == TIMEOUT


@in_loop
async def test_without_a_timeout_a_connection_waits(impatient):
    async with serving(opening(OK[:-1])) as (pool, _):
        waits, expires = await ask(pool), await ask(pool)
        waits.wait_at_most(None)
        expires.wait_at_most(0.05)
        assert (await failing(expires.read_all())).kind == TIMEOUT
        assert await waits.read() == b"whol"
        waits.abort()


@in_loop
async def test_nothing_expires_after_its_end():
    async with serving(always(OK)) as (pool, _):
        connection = await ask(pool)
        assert connection.deadline < NEVER
        await connection.read_all()
        assert connection.deadline == NEVER
        (await ask(pool)).abort()
        await soon(lambda: not pool.sweeper.connections)


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
        error = await failing(ask(pool))
        assert (error.kind, str(error)) == (CONNECT, "connection refused")


@in_loop
async def test_a_server_without_tls():
    with upstream(lambda talk: talk.send(answer(b"", 400))) as server:
        async with pool_to(server) as plain:
            pool = Pool(server.url.replace("http:", "https:"), plain.sweeper)
            error = await failing(ask(pool))
    assert error.kind == CONNECT
    assert str(error).startswith("TLS failed: ")


@in_loop
async def test_a_connection_that_takes_too_long():
    with upstream(nothing) as server:
        async with pool_to(server) as plain:
            pool = Pool(server.url.replace("http:", "https:"), plain.sweeper, connect_timeout=20.0)
            pool.connect_timeout = 0.05
            error = await failing(ask(pool))
    assert (error.kind, str(error)) == (CONNECT, "no connection within 0.05 s")


@in_loop
async def test_a_missing_unix_socket(tmp_path):
    pool = Pool("http://control", Sweeper(asyncio.get_running_loop()), unix_path=str(tmp_path / "never"))
    error = await failing(ask(pool))
    assert (error.kind, str(error)) == (CONNECT, "no connection")


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbeg\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nbeg",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
    ],
)
@in_loop
async def test_an_answer_that_breaks_off(part):
    async with serving(each_time(part)) as (pool, _):
        connection = await ask(pool)
        error = await failing(connection.read_all())
        assert (error.kind, str(error)) == (BROKEN, "the connection broke off")
        assert not pool.idle


@in_loop
async def test_what_broke_off_is_let_go_of_at_once():
    """Not when the collector comes by: its error must not keep the frames that keep it."""
    broken = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    async with serving(each_time(broken)) as (pool, _):
        connection = await ask(pool)
        with pytest.raises(UpstreamError):
            await connection.read_all()
        left = weakref.ref(connection)
        gc.disable()
        try:
            connection.abort()
            del connection
            await soon(lambda: left() is None)
        finally:
            gc.enable()


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\ncontent-len", b""])
@in_loop
async def test_a_head_that_breaks_off(part):
    async with serving(each_time(part)) as (pool, _):
        assert (await failing(ask(pool))).kind == BROKEN


@in_loop
async def test_what_has_arrived_of_a_broken_body_is_read_first():
    async with serving(each_time(OK[:-2])) as (pool, _):
        connection = await ask(pool)
        assert await connection.read() == b"who"
        assert (await failing(connection.read())).kind == BROKEN


@in_loop
async def test_a_body_without_length_that_is_reset_is_broken():
    def script(talk):
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\nbeg")
        talk.request()
        talk.reset()

    async with serving(script) as (pool, _):
        connection = await ask(pool)
        assert await connection.read() == b"beg"
        connection.transport.write(b"now\r\n\r\n")
        assert (await failing(connection.read())).kind == BROKEN


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
)
@in_loop
async def test_what_is_no_http_is_broken(nonsense):
    async with serving(opening(nonsense)) as (pool, _):
        error = await failing(ask(pool))
        assert error.kind == BROKEN
        assert str(error).startswith("not a proper HTTP answer: ")


@in_loop
async def test_a_body_that_goes_wrong_is_broken():
    async with serving(opening(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n")) as (pool, _):
        connection = await ask(pool)
        assert (await failing(connection.read())).kind == BROKEN


@in_loop
async def test_a_whole_body_has_a_limit(monkeypatch):
    monkeypatch.setattr(upstreams, "MAX_BODY_BYTES", 1 << 20)
    async with serving(opening(answer(b"x" * (2 << 20)))) as (pool, _):
        connection = await ask(pool)
        error = await failing(connection.read_all())
        assert (error.kind, str(error)) == (BROKEN, "the answer has more than 1 MiB")
        assert error.bound is bounds.UPSTREAM_RESPONSE


@in_loop
async def test_a_head_of_very_many_lines_is_broken():
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(upstreams.MAX_HEADER_LINES + 1))
    async with serving(opening(b"HTTP/1.1 200 OK\r\n" + lines + b"content-length: 2\r\n\r\n{}")) as (pool, _):
        assert (await failing(ask(pool))).bound is bounds.UPSTREAM_HEAD


@in_loop
async def test_the_chunks_of_one_read_are_joined_and_reading_goes_on_in_the_next_turn():
    body = b"x" * 300_000
    framed = b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n"
    async with serving(opening(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed)) as (pool, _):
        connection = await ask(pool)
        most = 0
        while not connection.complete:
            await connection.wait()
            most = max(most, len(connection._chunks))
            connection.transport.resume_reading()
        assert await connection.read_all() == body
        assert most < 3000


# Leaving, and slow readers


@in_loop
async def test_aborting_tells_the_server_at_once():
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(talk):
        talk.request()
        talk.send(captures.load("vllm", "chat_stream").http[:500])
        assert talk.client_left()
        loop.call_soon_threadsafe(left.set)

    async with serving(script) as (pool, _):
        connection = await ask(pool)
        await connection.read()
        connection.abort()
        async with asyncio.timeout(10):
            await left.wait()


@in_loop
async def test_a_slow_reader_makes_the_server_wait():
    size = 30 * BUFFER_BYTES
    async with serving(opening(answer(b"x" * size))) as (pool, _):
        connection = await ask(pool)
        received = 0
        while received < size:
            room = size - received > 4 * BUFFER_BYTES  # at the end everything may have arrived
            await soon(lambda room=room: not room or not connection.transport.is_reading())
            received += len(await connection.read())
        assert (await connection.read(), received) == (b"", size)


@in_loop
async def test_whoever_wants_the_whole_body_does_not_make_the_server_wait():
    size = 30 * BUFFER_BYTES
    async with serving(opening(answer(b"x" * size))) as (pool, _):
        connection = await ask(pool)
        await soon(lambda: not connection.transport.is_reading())
        assert len(await connection.read_all()) == size


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
def test_an_address(url, address, prefix, authority, sweeper):
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


LINK_LOCAL = ["http://169.254.169.254", "https://[fe80::1]:9", "http://[::ffff:169.254.0.1]", "http://0xa9fea9fe"]


@pytest.mark.parametrize("url", LINK_LOCAL)
@in_loop
async def test_a_cloud_is_not_asked_for_its_secrets(url):
    sweeper = Sweeper(asyncio.get_running_loop())
    error = await failing(Pool(url, sweeper).acquire())
    sweeper.stop()
    assert (error.kind, str(error)) == (CONNECT, destinations.LINK_LOCAL)


@pytest.mark.parametrize("url", LINK_LOCAL)
@in_loop
async def test_a_link_local_address_can_be_allowed(url):
    sweeper = Sweeper(asyncio.get_running_loop(), Destinations(allow_link_local=True))
    assert len(await Pool(url, sweeper)._addresses()) == 1
    sweeper.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
@in_loop
async def test_an_address_outside_of_the_allowed_networks_is_not_connected_to(host):
    with upstream(always(OK)) as server:
        port = server.server_address[1]
        for networks, kind in ((["10.0.0.0/8"], CONNECT), (["10.0.0.0/8", "127.0.0.0/8"], None)):
            allowed = Destinations([ipaddress.ip_network(it) for it in networks])
            sweeper = Sweeper(asyncio.get_running_loop(), allowed)
            pool = Pool(f"http://{host}:{port}", sweeper)
            if kind is None:
                assert await fetch(pool) == b"whole"
            else:
                error = await failing(pool.acquire())
                assert (error.kind, str(error)) == (kind, destinations.OUTSIDE)
            pool.close()
            sweeper.stop()


@in_loop
async def test_a_name_that_leads_to_several_addresses_is_tried_at_each():
    with upstream(always(OK), host="127.0.0.1") as server:  # not at ::1, where localhost may lead first
        async with pool_to(server) as plain:
            pool = Pool(f"http://localhost:{plain.port}", plain.sweeper)
            assert await fetch(pool) == b"whole"
            pool.close()


@in_loop
async def test_connections_that_nobody_waits_for_any_more_are_let_go_of():
    async with serving(nothing) as (pool, server):
        for turns in range(40):
            connecting = asyncio.create_task(pool.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            if not connecting.cancel():
                connecting.result().abort()
        await soon(lambda: not (pool.sweeper.connections or server.open))


# Bodies in pieces


async def push_without_end(pool, timeout):
    connection = await pool.connect()
    connection.begin(HEAD % (1 << 30), timeout)
    while await connection.push(bytes(1 << 20)):
        await asyncio.sleep(0)
    return connection


@in_loop
async def test_a_body_that_is_pushed_arrives_whole():
    async with serving(always(OK)) as (pool, server):
        connection = await pool.connect()
        connection.begin(HEAD % 300_000, 20.0)
        for piece in (b"a" * 100_000, memoryview(b"b" * 199_000), b"", bytearray(b"c" * 1000)):
            assert await connection.push(piece)
        connection.finish()
        await connection.head()
        assert await connection.read_all() == b"whole"
        assert server.requests[0].endswith(b"a" * 100_000 + b"b" * 199_000 + b"c" * 1000)
        assert list(pool.idle) == [connection]


@in_loop
async def test_a_server_that_answers_early_is_heard_and_not_asked_again():
    def script(talk):
        talk._file.read(50)
        talk.send(answer(b"no", 413))
        talk.client_left()

    async with serving(script) as (pool, _):
        connection = await push_without_end(pool, 20.0)
        await connection.head()
        assert (connection.status, await connection.read_all(), list(pool.idle)) == (413, b"no", [])


@in_loop
async def test_a_server_that_takes_nothing_is_given_up(impatient):
    over = threading.Event()
    async with serving(lambda talk: over.wait(30)) as (pool, _):
        error = await failing(push_without_end(pool, 0.2))
        over.set()
        assert error.kind == TIMEOUT


@in_loop
async def test_a_server_that_leaves_in_a_body_is_broken():
    async with serving(lambda talk: (talk._file.read(10), talk.reset())) as (pool, _):
        assert (await failing(push_without_end(pool, 20.0))).kind == BROKEN


@pytest.mark.parametrize("pushed", [True, False])
@in_loop
async def test_a_connection_that_is_lost_before_it_is_used_is_broken(pushed):
    connected = threading.Event()  # a reset before that would be one of connecting
    async with serving(lambda talk: (connected.wait(5), talk.reset())) as (pool, _):
        connection = await pool.connect()
        connected.set()
        await soon(lambda: connection.transport.is_closing())
        if pushed:
            connection.begin(HEAD % 4, 600.0)
            assert (await failing(connection.push(b"body"))).kind == BROKEN
        else:
            connection.send(HEAD % 4, (b"body",), 600.0)
            assert (await failing(connection.head())).kind == BROKEN


@in_loop
async def test_time_runs_for_the_server_once_the_body_is_whole(impatient):
    async with serving(opening(b"")) as (pool, _):
        connection = await pool.connect()
        connection.begin(HEAD % 4, 0.1)
        await asyncio.sleep(0.3)  # of the client's own
        assert await connection.push(b"body")
        connection.finish()
        assert (await failing(connection.head())).kind == TIMEOUT


# What an endpoint does to a client that trusts it


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "]
)
@in_loop
async def test_a_head_or_trailer_without_end_is_not_read_for_ever(start):
    async with serving(opening(start, b"y" * (2 * MAX_HEAD_BYTES))) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool)
        assert (caught.value.kind, str(caught.value)) == (BROKEN, "a head or trailer without end")


@in_loop
async def test_trailers_are_no_headers():
    body = b"1\r\na\r\n0\r\nretry-after: 9\r\n\r\n"
    async with serving(always(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)) as (pool, _):
        connection = await ask(pool)
        await connection.read_all()
        assert b"retry-after" not in dict(connection.headers)


@in_loop
async def test_half_an_answer_on_a_kept_connection_is_not_asked_for_again():
    async with serving(each_time(OK, b"HTTP/1.1 200")) as (pool, _):
        await fetch(pool)
        error = await failing(ask(pool))
        assert (error.kind, str(error)) == (BROKEN, "the connection broke off")


@in_loop
async def test_a_kept_connection_that_closes_long_after_the_request_is_not_stale(monkeypatch):
    monkeypatch.setattr(upstreams, "STALE_SECONDS", 0.0)
    async with serving(each_time(OK, b"")) as (pool, _):
        await fetch(pool)
        assert (await failing(ask(pool))).kind == BROKEN


@in_loop
async def test_a_host_that_is_no_name_is_no_connection():
    sweeper = Sweeper(asyncio.get_running_loop())
    error = await failing(Pool("http://a..b:1", sweeper).acquire())
    sweeper.stop()
    assert (error.kind, str(error)) == (CONNECT, "no connection")


@in_loop
async def test_kept_connections_are_closed_when_they_are_old(monkeypatch):
    monkeypatch.setattr(upstreams, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(upstreams, "SWEEP_SECONDS", 0.01)
    async with serving(always(OK)) as (pool, server):
        await asyncio.gather(*(fetch(pool) for _ in range(5)))
        await soon(lambda: not (pool.idle or server.open))
        assert not pool.sweeper.pools


@in_loop
async def test_a_closed_connection_is_not_waited_for():
    async with serving(each_time(b"")) as (pool, _):
        await failing(ask(pool))
        assert not pool.sweeper.connections
