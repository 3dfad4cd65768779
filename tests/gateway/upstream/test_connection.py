"""Connections: requests, responses, errors and back-pressure, with servers that follow scripts."""

import asyncio
import gc
import threading
import weakref

import pytest

from gateway.base import bounds
from gateway.upstream import connection as connections
from gateway.upstream import pool as pools
from gateway.upstream import response_head, response_parser
from gateway.upstream.connection import AWAITING, BODY, BUFFER_BYTES, CLOSED, COMPLETE, IDLE, NEVER, SENDING
from gateway.upstream.errors import BROKEN, TIMEOUT, UpstreamError
from gateway.upstream.response_parser import MAX_HEAD_BYTES
from tests.gateway import captures
from tests.gateway.client import HEAD, Consumer, failing, fetch, in_loop, pool_to, send_request, serving, wait_until
from tests.gateway.scripted import always, each_time, http_response, nothing, opening, upstream

OK = http_response(b"whole")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(pools, "SWEEP_SECONDS", 0.01)


# Responses


@in_loop
async def test_a_complete_response():
    async with serving(always(http_response(b"{}", 201, "application/json", "X-Note: A"))) as (pool, _):
        connection = await send_request(pool)
        assert (connection.status, dict(connection.headers)[b"x-note"]) == (201, b"A")
        assert await connection.read_all() == b"{}"


@in_loop
async def test_a_request_arrives_as_it_was_sent():
    async with serving(always(OK)) as (pool, server):
        for body in (b"", b"small", b"x" * 1_000_000):
            await fetch(pool, body=body)
            assert server.requests[-1] == HEAD % len(body) + body


@pytest.mark.parametrize("capture", captures.relayed(), ids=str)
@in_loop
async def test_a_captured_response(capture):
    async with serving(always(capture.http)) as (pool, _):
        connection = await send_request(pool)
        assert connection.status == capture.status
        assert await connection.read_all() == capture.body


@in_loop
async def test_a_body_is_read_while_it_is_received():
    async with serving(paced) as (pool, server):
        connection = await send_request(pool)
        for number in range(3):
            assert await connection.read() == b"%d" % number
            connection.transport.write(b"next\r\n\r\n")
        assert await connection.read() == b""
        assert len(server.requests) == 4


def paced(talk):
    """Send a body in three parts, each when it is requested."""
    talk.request()
    talk.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(3):
        talk.send(b"1\r\n%d\r\n" % number)
        talk.request()
    talk.send(b"0\r\n\r\n")
    talk.client_disconnected()


def taking(connection, consumed, *, pause_after=None):
    """Return a consumer that requests the next part. It applies back-pressure after `pause_after` parts."""

    def take(data):
        consumed.append(data)
        connection.transport.write(b"next\r\n\r\n")
        return len(consumed) != pause_after

    return take


@in_loop
async def test_a_body_is_consumed_while_it_is_received():
    async with serving(paced) as (pool, _):
        connection = await send_request(pool)
        consumed: list[bytes] = []
        assert await connection.consume(Consumer(taking(connection, consumed)))
        assert consumed == [b"0", b"1", b"2"]
        assert len(pool.idle) == 1


@in_loop
async def test_a_consumer_applies_back_pressure():
    async with serving(paced) as (pool, _):
        connection = await send_request(pool)
        consumed: list[bytes] = []
        consumer = Consumer(taking(connection, consumed, pause_after=2))
        assert not await connection.consume(consumer)
        assert consumed == [b"0", b"1"]
        assert await connection.consume(consumer)
        assert consumed == [b"0", b"1", b"2"]


@in_loop
async def test_the_received_part_of_a_body_that_breaks_off_is_consumed():
    beginning = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg"
    async with serving(each_time(beginning)) as (pool, _):
        connection, consumed = await send_request(pool), bytearray()

        def take(data):
            consumed.extend(data)
            return True

        error = await failing(connection.consume(Consumer(take)))
        assert (error.kind, bytes(consumed)) == (BROKEN, b"beg")


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
async def test_interim_responses_are_skipped(first):
    async with serving(always(first * 2 + OK)) as (pool, _):
        connection = await send_request(pool)
        assert b"link" not in dict(connection.headers)
        assert (connection.status, await connection.read_all()) == (200, b"whole")
        assert len(pool.idle) == 1


@in_loop
async def test_a_response_long_after_an_interim_one():
    def script(talk):
        talk.request()
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        talk.request()
        talk.send(OK)

    async with serving(script) as (pool, _):
        connection = await pool.connect()
        connection.send(HEAD % 0, b"", 20)
        heading = asyncio.ensure_future(connection.receive_head())
        connection.transport.write(b"go on\r\n\r\n")
        await heading
        assert await connection.read_all() == b"whole"


@pytest.mark.parametrize("status", [204, 304])
@in_loop
async def test_a_response_without_a_body(status):
    async with serving(always(b"HTTP/1.1 %d Nothing\r\n\r\n" % status)) as (pool, _):
        for _ in range(2):
            assert await fetch(pool) == b""
        assert len(pool.idle) == 1


@in_loop
async def test_received_bytes_are_reported():
    consumed = []
    with upstream(always(OK)) as server:
        async with pool_to(server, received=lambda: consumed.append(1)) as pool:
            await fetch(pool)
            await wait_until(lambda: consumed)


@in_loop
async def test_received_bytes_are_reported_when_the_connection_is_lost():
    consumed = []
    with upstream(always(OK)) as server:
        async with pool_to(server, received=lambda: consumed.append(1)) as pool:
            pool.sweeper.stop()
            await fetch(pool)
            pool.close()
            await wait_until(lambda: consumed)


# Failures


@in_loop
async def test_a_header_block_that_times_out(impatient):
    async with serving(opening()) as (pool, _):
        error = await failing(send_request(pool, timeout=0.05))
        assert (error.kind, str(error)) == (TIMEOUT, "timed out")
        await wait_until(lambda: not pool.sweeper.connections)


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbeg\r\n",
    ],
)
@in_loop
async def test_a_body_that_times_out(impatient, beginning):
    async with serving(opening(beginning)) as (pool, _):
        connection = await send_request(pool)
        connection.wait_at_most(0.05)
        assert await connection.read() == b"beg"
        assert (await failing(connection.read())).kind == TIMEOUT


@in_loop
async def test_a_timeout_applies_to_the_whole_response(impatient):
    async with serving(opening(OK[:-1])) as (pool, _):
        assert (await failing(fetch(pool, timeout=0.2))).kind == TIMEOUT


@in_loop
async def test_a_reused_connection_that_times_out_is_not_stale(impatient):
    def script(talk):
        talk.request()
        talk.send(OK)
        talk.request()
        talk.client_disconnected()

    async with serving(script) as (pool, _):
        await fetch(pool)
        assert (await failing(send_request(pool, timeout=0.05))).kind == TIMEOUT


@in_loop
async def test_without_a_timeout_a_connection_waits(impatient):
    async with serving(opening(OK[:-1])) as (pool, _):
        waits, expires = await send_request(pool), await send_request(pool)
        waits.wait_at_most(None)
        expires.wait_at_most(0.05)
        assert (await failing(expires.read_all())).kind == TIMEOUT
        assert await waits.read() == b"whol"
        waits.abort()


@in_loop
async def test_a_response_that_has_ended_does_not_time_out():
    async with serving(always(OK)) as (pool, _):
        connection = await send_request(pool)
        assert connection.deadline < NEVER
        await connection.read_all()
        assert connection.deadline == NEVER
        (await send_request(pool)).abort()
        await wait_until(lambda: not pool.sweeper.connections)


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
async def test_a_response_that_breaks_off(part):
    async with serving(each_time(part)) as (pool, _):
        connection = await send_request(pool)
        error = await failing(connection.read_all())
        assert (error.kind, str(error)) == (BROKEN, "the connection broke off")
        assert not pool.idle


@in_loop
async def test_a_broken_connection_leaves_no_reference_cycle():
    """It is freed without the garbage collector: its error must not hold the frames that hold it."""
    broken = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    async with serving(each_time(broken)) as (pool, _):
        connection = await send_request(pool)
        with pytest.raises(UpstreamError):
            await connection.read_all()
        left = weakref.ref(connection)
        gc.disable()
        try:
            connection.abort()
            del connection
            await wait_until(lambda: left() is None)
        finally:
            gc.enable()


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\ncontent-len", b""])
@in_loop
async def test_a_header_block_that_breaks_off(part):
    async with serving(each_time(part)) as (pool, _):
        assert (await failing(send_request(pool))).kind == BROKEN


@in_loop
async def test_the_received_part_of_a_broken_body_is_read_first():
    async with serving(each_time(OK[:-2])) as (pool, _):
        connection = await send_request(pool)
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
        connection = await send_request(pool)
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
async def test_bytes_that_are_no_http_are_an_error(nonsense):
    async with serving(opening(nonsense)) as (pool, _):
        error = await failing(send_request(pool))
        assert error.kind == BROKEN
        assert str(error).startswith("not a proper HTTP response: ")


@in_loop
async def test_a_malformed_body_is_an_error():
    async with serving(opening(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n")) as (pool, _):
        connection = await send_request(pool)
        assert (await failing(connection.read())).kind == BROKEN


@in_loop
async def test_a_whole_body_has_a_limit(monkeypatch):
    monkeypatch.setattr(response_head, "MAX_BODY_BYTES", 1 << 20)
    async with serving(opening(http_response(b"x" * (2 << 20)))) as (pool, _):
        connection = await send_request(pool)
        error = await failing(connection.read_all())
        assert (error.kind, str(error)) == (BROKEN, "the response has more than 1 MiB")
        assert error.bound is bounds.UPSTREAM_RESPONSE


@in_loop
async def test_a_header_block_of_very_many_lines_is_an_error():
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(response_parser.MAX_HEADER_LINES + 1))
    async with serving(opening(b"HTTP/1.1 200 OK\r\n" + lines + b"content-length: 2\r\n\r\n{}")) as (pool, _):
        assert (await failing(send_request(pool))).bound is bounds.UPSTREAM_HEAD


@in_loop
async def test_the_chunks_of_one_read_are_joined_and_reading_continues_later():
    body = b"x" * 300_000
    framed = b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n"
    async with serving(opening(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed)) as (pool, _):
        connection = await send_request(pool)
        most = 0
        while connection.state is not COMPLETE:
            await connection.wait()
            most = max(most, len(connection._parser.more))
            connection.transport.resume_reading()
        assert await connection.read_all() == body
        assert most < 3000


# Abort and back-pressure


@in_loop
async def test_the_server_notices_an_abort_at_once():
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(talk):
        talk.request()
        talk.send(captures.load("vllm", "chat_stream").http[:500])
        assert talk.client_disconnected()
        loop.call_soon_threadsafe(left.set)

    async with serving(script) as (pool, _):
        connection = await send_request(pool)
        await connection.read()
        connection.abort()
        async with asyncio.timeout(10):
            await left.wait()


@in_loop
async def test_a_slow_reader_applies_back_pressure():
    size = 30 * BUFFER_BYTES
    async with serving(opening(http_response(b"x" * size))) as (pool, _):
        connection = await send_request(pool)
        received = 0
        while received < size:
            room = size - received > 4 * BUFFER_BYTES  # at the end everything may have arrived
            await wait_until(lambda room=room: not room or not connection.transport.is_reading())
            received += len(await connection.read())
        assert (await connection.read(), received) == (b"", size)


@in_loop
async def test_reading_a_whole_body_applies_no_back_pressure():
    size = 30 * BUFFER_BYTES
    async with serving(opening(http_response(b"x" * size))) as (pool, _):
        connection = await send_request(pool)
        await wait_until(lambda: not connection.transport.is_reading())
        assert len(await connection.read_all()) == size


# Bodies that are pushed


async def push_without_end(pool, timeout):
    connection = await pool.connect()
    connection.begin(HEAD % (1 << 30), timeout)
    while await connection.push(bytes(1 << 20)):
        await asyncio.sleep(0)
    return connection


@in_loop
async def test_a_pushed_body_arrives_complete():
    async with serving(always(OK)) as (pool, server):
        connection = await pool.connect()
        connection.begin(HEAD % 300_000, 20.0)
        for piece in (b"a" * 100_000, memoryview(b"b" * 199_000), b"", bytearray(b"c" * 1000)):
            assert await connection.push(piece)
        connection.finish()
        await connection.receive_head()
        assert await connection.read_all() == b"whole"
        assert server.requests[0].endswith(b"a" * 100_000 + b"b" * 199_000 + b"c" * 1000)
        assert list(pool.idle) == [connection]


@in_loop
async def test_an_early_response_is_read_and_the_connection_not_reused():
    def script(talk):
        talk._file.read(50)
        talk.send(http_response(b"no", 413))
        talk.client_disconnected()

    async with serving(script) as (pool, _):
        connection = await push_without_end(pool, 20.0)
        await connection.receive_head()
        assert (connection.status, await connection.read_all(), list(pool.idle)) == (413, b"no", [])


@in_loop
async def test_a_server_that_reads_nothing_times_out(impatient):
    over = threading.Event()
    async with serving(lambda talk: over.wait(30)) as (pool, _):
        error = await failing(push_without_end(pool, 0.2))
        over.set()
        assert error.kind == TIMEOUT


@in_loop
async def test_a_server_that_disconnects_in_a_body_is_an_error():
    async with serving(lambda talk: (talk._file.read(10), talk.reset())) as (pool, _):
        assert (await failing(push_without_end(pool, 20.0))).kind == BROKEN


@pytest.mark.parametrize("pushed", [True, False])
@in_loop
async def test_a_connection_that_is_lost_before_its_first_request_is_an_error(pushed):
    connected = threading.Event()  # an earlier reset would be a connect error
    async with serving(lambda talk: (connected.wait(5), talk.reset())) as (pool, _):
        connection = await pool.connect()
        connected.set()
        await wait_until(lambda: connection.transport.is_closing())
        if pushed:
            connection.begin(HEAD % 4, 600.0)
            assert (await failing(connection.push(b"body"))).kind == BROKEN
        else:
            connection.send(HEAD % 4, (b"body",), 600.0)
            assert (await failing(connection.receive_head())).kind == BROKEN


@in_loop
async def test_the_timeout_of_the_server_begins_at_the_end_of_the_body(impatient):
    async with serving(opening(b"")) as (pool, _):
        connection = await pool.connect()
        connection.begin(HEAD % 4, 0.1)
        await asyncio.sleep(0.3)  # requested by the client
        assert await connection.push(b"body")
        connection.finish()
        assert (await failing(connection.receive_head())).kind == TIMEOUT


# Malicious endpoints


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "]
)
@in_loop
async def test_a_header_block_or_trailer_without_end_is_an_error(start):
    async with serving(opening(start, b"y" * (2 * MAX_HEAD_BYTES))) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool)
        assert (caught.value.kind, str(caught.value)) == (BROKEN, "a header block or trailer without end")


@in_loop
async def test_trailers_are_no_headers():
    body = b"1\r\na\r\n0\r\nretry-after: 9\r\n\r\n"
    async with serving(always(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)) as (pool, _):
        connection = await send_request(pool)
        await connection.read_all()
        assert b"retry-after" not in dict(connection.headers)


@in_loop
async def test_a_partial_response_on_a_reused_connection_is_not_repeated():
    async with serving(each_time(OK, b"HTTP/1.1 200")) as (pool, _):
        await fetch(pool)
        error = await failing(send_request(pool))
        assert (error.kind, str(error)) == (BROKEN, "the connection broke off")


@in_loop
async def test_a_reused_connection_that_closes_long_after_the_request_is_not_stale(monkeypatch):
    monkeypatch.setattr(connections, "STALE_SECONDS", 0.0)
    async with serving(each_time(OK, b"")) as (pool, _):
        await fetch(pool)
        assert (await failing(send_request(pool))).kind == BROKEN


# States


@in_loop
async def test_the_states_of_a_request():
    async with serving(nothing) as (pool, _):
        connection = await pool.connect()
        states = [connection.state]
        connection.send(HEAD % 0, (b"",), 20.0)
        states.append(connection.state)
        for data in (b"HTTP/1.1 200 OK\r\n", b"content-length: 2\r\n\r\n", b"{}"):
            connection.data_received(data)
            states.append(connection.state)
        assert await connection.read_all() == b"{}"
        states.append(connection.state)
        connection.abort()
        assert [*states, connection.state] == [IDLE, AWAITING, connections.HEAD, BODY, COMPLETE, IDLE, CLOSED]


@in_loop
async def test_the_states_of_a_request_whose_body_is_pushed():
    async with serving(nothing) as (pool, _):
        connection = await pool.connect()
        connection.begin(HEAD % 4, 20.0)
        assert connection.state is SENDING
        assert await connection.push(b"body")
        connection.finish()
        assert connection.state is AWAITING
        connection.abort()


@pytest.mark.parametrize("finished", [True, False])
@in_loop
async def test_an_early_response_ends_the_request(finished):
    """The connection is reused only if the whole request was sent."""
    async with serving(nothing) as (pool, _):
        connection = await pool.connect()
        connection.begin(HEAD % 4, 20.0)
        connection.data_received(OK)
        assert connection.state is COMPLETE
        if finished:
            connection.finish()
        assert connection.whole() == b"whole"
        assert connection.state is (IDLE if finished else CLOSED)
        connection.abort()


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-1]])
@in_loop
async def test_a_failed_request_closes_the_connection(received):
    async with serving(nothing) as (pool, _):
        connection = await pool.connect()
        connection.send(HEAD % 0, (b"",), 20.0)
        if received:
            connection.data_received(received)
        connection.fail(UpstreamError(TIMEOUT, "timed out"))
        assert connection.state is CLOSED
        with pytest.raises(UpstreamError, match="timed out"):
            connection.raise_if_broken()
        await wait_until(lambda: not pool.sweeper.connections)


@in_loop
async def test_an_aborted_connection_cannot_be_read():
    async with serving(nothing) as (pool, _):
        connection = await pool.connect()
        connection.send(HEAD % 0, (b"",), 20.0)
        connection.abort()
        assert (await failing(connection.read())).kind == BROKEN
