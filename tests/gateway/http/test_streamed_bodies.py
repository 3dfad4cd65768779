"""Bodies that are passed on as they are received, from a client's socket to an endpoint's."""

import asyncio
import queue
import random
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.base.config import load
from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.dialects.multipart import Form
from gateway.fast.coroutine_runner import PLAIN_TASKS
from gateway.http import request_bounds
from gateway.http.deadlines import RECEIVE_SECONDS, SEND_SECONDS
from gateway.http.exchange import BUFFER_BYTES
from gateway.http.expiry import expire
from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import Pool
from tests.gateway.http.test_hostile_input import USUAL, attack, mutated
from tests.gateway.http.test_protocol import code, read_response, read_responses, status, statuses
from tests.gateway.inside import PATH, inside
from tests.gateway.process import read_to_end, read_until
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import always, http_response, opening, upstream
from tests.router import until

MIB = 1 << 20
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"


class Reader:
    """Reads a body and responds with its length. `seen` has its pieces; `go` permits the next read."""

    def __init__(self):
        self.gateway: Any = None
        self.seen: queue.Queue[bytes] = queue.Queue()
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = False
        self.exchange = None

    async def __call__(self, exchange):
        self.exchange = exchange
        size = 0
        try:
            await self.go.wait()
            while piece := await exchange.read_body():
                size += len(piece)
                self.seen.put(bytes(piece))
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        exchange.reply(200, (), b"%d" % size)


@pytest.fixture
def reader(config):
    made = Reader()
    with inside(config, made) as made.gateway:
        yield made


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def body_of(message):
    return message.partition(b"\r\n\r\n")[2]


def send(gateway, data):
    with gateway.connect() as connection:
        connection.sendall(data)
        return read_to_end(connection)


def fill(connection, data, held_up):
    """Send until the gateway applies back-pressure. Return the number of sent bytes."""
    sent = 0

    def full():
        nonlocal sent
        try:
            sent += connection.send(data[sent : sent + MIB])
        except BlockingIOError:
            pass
        return held_up()

    connection.setblocking(False)
    until(full, pause=0.001)
    connection.settimeout(30)
    return sent


# Complete bodies


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_of_known_length(reader, version):
    received = send(reader.gateway, reader.gateway.head("Content-Length: 5", CLOSE, version=version) + b"12345")
    assert (statuses(received), body_of(received)) == ([200], b"5")


def test_a_body_in_chunks(reader):
    received = send(reader.gateway, reader.gateway.head(CHUNKED, CLOSE) + chunk(b"123") + chunk(b"45") + b"0\r\n\r\n")
    assert (statuses(received), body_of(received)) == ([200], b"5")


@pytest.mark.parametrize("framing", ["Content-Length: 0", CHUNKED, "X-None: 0"])
def test_an_empty_body(reader, framing):
    end = b"0\r\n\r\n" if framing == CHUNKED else b""
    assert body_of(send(reader.gateway, reader.gateway.head(framing, CLOSE) + end)) == b"0"


def test_a_large_body_arrives_completely(reader):
    data = bytes(range(256)) * (40 << 12)
    received = send(reader.gateway, reader.gateway.head(f"Content-Length: {len(data)}", CLOSE) + data)
    assert body_of(received) == b"%d" % len(data)
    assert b"".join(reader.seen.queue) == data


def test_a_request_begins_before_its_body_has_arrived(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10", CLOSE) + b"12345")
        assert reader.seen.get(timeout=10) == b"12345"
        connection.sendall(b"67890")
        assert body_of(read_to_end(connection)) == b"10"


def test_an_offer_to_upgrade_does_not_hide_the_body(reader):
    head = reader.gateway.head("Content-Length: 5", "Connection: Upgrade", "Upgrade: h2c")
    assert body_of(send(reader.gateway, head + b"12345")) == b"5"


def test_pipelined_requests(reader):
    one = reader.gateway.head("Content-Length: 5") + b"12345"
    two = reader.gateway.head(CHUNKED) + chunk(b"x" * 100_000) + b"0\r\n\r\n"
    with reader.gateway.connect() as connection:
        connection.sendall(one + two + one)
        assert [body_of(received) for received in read_responses(connection, 3)] == [b"5", b"100000", b"5"]
        connection.sendall(one)
        assert body_of(read_response(connection)) == b"5"


def test_a_request_after_one_with_an_unfinished_body(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 5") + b"1")
        reader.seen.get(timeout=10)
        connection.sendall(b"2345" + reader.gateway.head("Content-Length: 1", CLOSE) + b"1")
        assert statuses(read_to_end(connection)) == [200, 200]


def test_a_large_pipelined_body_waits_for_the_previous_request(reader):
    reader.gateway.in_loop(reader.go.clear)
    large = reader.gateway.head(f"Content-Length: {4 * MIB}", CLOSE) + bytes(4 * MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 0"))
        until(lambda: reader.exchange)
        connection.setblocking(False)
        sent = connection.send(large)
        (held,) = reader.gateway.connections
        until(lambda: held.flow.read_paused)
        reader.gateway.in_loop(reader.go.set)
        connection.settimeout(30)
        connection.sendall(large[sent:])
        assert [body_of(received) for received in read_responses(connection, 2)] == [b"0", b"%d" % (4 * MIB)]


# Expect: 100-continue


def test_a_100_continue_is_sent_when_the_body_is_read(reader):
    reader.gateway.in_loop(reader.go.clear)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 5", "Expect: 100-continue", CLOSE))
        until(lambda: reader.exchange)
        reader.gateway.in_loop(reader.go.set)
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"12345")
        assert body_of(read_to_end(connection)) == b"5"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_without_expect_there_is_no_100_continue(reader, version):
    head = reader.gateway.head("Content-Length: 1", "Expect: 100-continue", CLOSE, version=version)
    assert statuses(send(reader.gateway, head + b"1"))[-1:] == [200]


# Slow readers


def test_a_slow_reader_applies_back_pressure_to_the_client(reader):
    reader.gateway.in_loop(reader.go.clear)
    data = bytes(20 * MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {len(data)}", CLOSE))
        until(lambda: reader.exchange)
        (held,) = reader.gateway.connections
        sent = fill(connection, data, lambda: held.deadlines.paused_since)
        assert BUFFER_BYTES < reader.exchange.unread <= 2 * BUFFER_BYTES
        reader.gateway.in_loop(reader.go.set)
        connection.sendall(data[sent:])
        assert body_of(read_to_end(connection)) == b"%d" % len(data)


def test_back_pressure_does_not_time_out_the_client(reader):
    reader.gateway.in_loop(reader.go.clear)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {MIB}", CLOSE) + bytes(MIB))
        (held,) = until(lambda: reader.gateway.connections)
        until(lambda: held.deadlines.paused_since)
        reader.gateway.in_loop(lambda: expire(held, 1e9, stopping=False))
        reader.gateway.in_loop(reader.go.set)
        assert body_of(read_to_end(connection)) == b"%d" % MIB


# Client disconnects


def test_a_client_disconnect_cancels_the_request(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10") + b"12345")
        reader.seen.get(timeout=10)
    until(lambda: reader.cancelled)


def test_a_malformed_body_cancels_the_request(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(CHUNKED) + chunk(b"12345"))
        reader.seen.get(timeout=10)
        connection.sendall(b"nonsense\r\n")
        assert status(read_to_end(connection)) == 400
    until(lambda: reader.cancelled)


def test_a_body_that_times_out_gets_an_error(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10") + b"12345")
        reader.seen.get(timeout=10)
        (slow,) = reader.gateway.connections
        reader.gateway.in_loop(lambda: expire(slow, slow.deadlines.quiet_since + RECEIVE_SECONDS + 1, stopping=False))
        assert status(read_to_end(connection)) == 408
    until(lambda: reader.cancelled)


# Limits


def test_a_content_length_over_the_limit(reader, monkeypatch):
    monkeypatch.setattr(request_bounds, "MAX_STREAMED_BYTES", MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {MIB + 1}"))
        received = read_until(connection, b"}}")
    assert (statuses(received), code(received), reader.exchange) == ([413], "request_too_large", None)


def test_a_chunked_body_over_the_limit(reader, monkeypatch):
    monkeypatch.setattr(request_bounds, "MAX_STREAMED_BYTES", MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(CHUNKED))
        for _ in range(40):
            connection.sendall(chunk(bytes(100_000)))
        connection.sendall(b"0\r\n\r\n")
        received = read_to_end(connection)
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert b"connection: close\r\n" in received


def test_a_body_at_the_limit(reader, monkeypatch):
    monkeypatch.setattr(request_bounds, "MAX_STREAMED_BYTES", MIB)
    received = send(reader.gateway, reader.gateway.head(CHUNKED, CLOSE) + chunk(bytes(MIB)) + b"0\r\n\r\n")
    assert body_of(received) == b"%d" % MIB


# Responses before the end of the body


async def refuse(exchange):
    raise Refusal(400, INVALID_REQUEST, "No.")


async def respond_early(exchange):
    await exchange.read_body()
    exchange.reply(200, (), b"enough")


def test_a_refused_request_gets_no_100_continue(config):
    with inside(config, refuse) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head("Content-Length: 5", "Expect: 100-continue"))
        received = read_until(connection, b"}}")
    assert statuses(received) == [400]
    assert b"connection: close\r\n" in received


@pytest.mark.parametrize(("handler", "expected"), [(refuse, 400), (respond_early, 200)])
def test_the_rest_of_a_refused_body_is_discarded(config, handler, expected):
    with inside(config, handler) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head(f"Content-Length: {20 * MIB}"))
        for _ in range(20):
            connection.sendall(bytes(MIB))  # these bytes must not reset the connection before the response arrives
        received = read_to_end(connection)
    assert statuses(received) == [expected]
    assert b"connection: close\r\n" in received


@pytest.mark.skipif(PLAIN_TASKS, reason="a Task starts when the body of this request has arrived, so it is not early")
def test_bytes_after_an_early_response_are_not_parsed(config):
    with inside(config, refuse) as gateway:
        one = gateway.head("Content-Length: 5") + b"12345"
        assert statuses(send(gateway, one * 3)) == [400]


def test_a_response_after_the_complete_body_keeps_the_connection(config):
    async def late(exchange):
        while await exchange.read_body():
            pass
        raise Refusal(400, INVALID_REQUEST, "No.")

    with inside(config, late) as gateway:
        one = gateway.head("Content-Length: 5") + b"12345"
        assert statuses(send(gateway, one + gateway.head("Content-Length: 0", CLOSE))) == [400, 400]


def test_a_handler_exception_during_the_body(config, caplog):
    async def fail(exchange):
        await exchange.read_body()
        raise ZeroDivisionError

    with inside(config, fail) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head("Content-Length: 9") + b"12345")
        assert status(read_until(connection, b"}}")) == 500


# To an endpoint


class Relay:
    """Read and rename a form as the inference code does."""

    def __init__(self, url, name):
        self.url = url
        self.name = name

    async def __call__(self, exchange):
        form = Form(exchange.head.fields.get(b"content-type", b""))
        while form.model is None:
            if not (piece := await exchange.read_body()):
                form.finish()
            form.feed(piece)
        length = None if exchange.length is None else exchange.length + form.growth(self.name)
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n%b\r\n\r\n"
        connection = await Pool(self.url, exchange.protocol.gateway.services.roster.sweeper).connect()
        try:
            connection.begin(head % (exchange.head.fields[b"content-type"], framing), 20, chunked=length is None)
            await self._pass(exchange, form, connection)
            await connection.receive_head()
            exchange.reply(connection.status, (), await connection.read_all())
        except UpstreamError as error:
            exchange.reply(502, (), str(error).encode())
        except BaseException:
            connection.abort()
            raise

    async def _pass(self, exchange, form, connection):
        for piece in form.pieces(self.name):
            if not await connection.push(piece):
                return
        form.let_go()
        while piece := await exchange.read_body():
            form.feed(piece)
            if not await connection.push(piece):
                return
        form.finish()
        connection.finish()


FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n%b\r\n--XX--\r\n'
)
TYPE = "Content-Type: multipart/form-data; boundary=XX"


def echo(talk):
    """Script that responds with the length of the body and whether it has the other model name."""
    body = body_of(talk.request())
    talk.send(http_response(b"%d %d" % (len(body), body.count(b"\r\nother\r\n"))))


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_a_form_reaches_its_endpoint_under_another_name(config, framing, size):
    form = FORM % bytes(size)
    with upstream(echo) as server, inside(config, Relay(server.url, "other")) as gateway:
        if framing == "length":
            data = gateway.head(TYPE, f"Content-Length: {len(form)}", CLOSE) + form
        else:
            data = gateway.head(TYPE, CHUNKED, CLOSE) + chunk(form[:200]) + chunk(form[200:]) + b"0\r\n\r\n"
        assert body_of(send(gateway, data)) == b"%d 1" % (len(form) - 4)


def test_an_early_refusal_of_a_form_is_passed_on(config):
    def script(talk):
        talk._file.read(100)
        talk.send(http_response(b"too long", 413))
        while talk._file.read(
            1 << 16
        ):  # a server that closes at once may reset the connection before its response arrives
            pass

    with upstream(script) as server, inside(config, Relay(server.url, "other")) as gateway:
        form = FORM % bytes(50 * MIB)
        with gateway.connect() as connection:
            connection.sendall(gateway.head(TYPE, f"Content-Length: {len(form)}") + form)
            received = read_to_end(connection)
    assert (statuses(received), body_of(received)) == ([413], b"too long")


def test_an_endpoint_that_does_not_read_applies_back_pressure_to_the_client(config):
    taken: queue.Queue[None] = queue.Queue()

    def script(talk):
        taken.get()
        echo(talk)

    form = FORM % bytes(60 * MIB)
    with upstream(script) as server, inside(config, Relay(server.url, "other")) as gateway:  # noqa: SIM117
        with gateway.connect() as connection:
            connection.sendall(gateway.head(TYPE, f"Content-Length: {len(form)}", CLOSE))
            sent = fill(connection, form, lambda: gateway.connections and gateway.connections[0].deadlines.paused_since)
            assert sent < len(form)
            taken.put(None)
            connection.sendall(form[sent:])
            assert body_of(read_to_end(connection)) == b"%d 1" % (len(form) - 4)


def test_a_client_disconnect_in_a_form_closes_the_upstream_connection(config):
    left: queue.Queue[bool] = queue.Queue()

    def script(talk):
        talk._file.read(200)
        while talk._file.read(1):
            pass
        left.put(True)

    with upstream(script) as server, inside(config, Relay(server.url, "other")) as gateway:
        with gateway.connect() as connection:
            connection.sendall(gateway.head(TYPE, f"Content-Length: {MIB}") + (FORM % bytes(MIB))[:1000])
            until(lambda: server.connections)
        assert left.get(timeout=10)


# Clients that do not read


EVENT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 100_000)
ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT * 3000


@contextmanager
def reading_nothing(config):
    """A gateway and its two connections, for a stream that is too large for all buffers."""
    with upstream(opening(ENDLESS)) as server:
        body = b'{"model":"m","messages":[],"stream":true}'
        with (
            inside(config, refuse, make_endpoint("", "m", base_url=server.url)) as gateway,
            gateway.connect() as client,
        ):
            client.sendall(gateway.head(f"Content-Length: {len(body)}", path="/v1/chat/completions") + body)
            until(lambda: gateway.sweeper.connections)
            (above,), (below,) = gateway.sweeper.connections, gateway.connections
            # Before the request's Task runs, reading may be paused until the next iteration of the event loop.
            until(lambda: gateway.in_loop(lambda: below.flow.write_paused and above._read_paused))
            yield gateway, above, below


def test_a_client_that_does_not_read_uses_bounded_memory(config):
    with reading_nothing(config) as (gateway, above, below):
        held = gateway.in_loop(lambda: above._parser.size + below.transport.get_write_buffer_size())
        # uvloop may read 256 KiB before a Task of this request runs. Some bytes may have left since reading paused.
        assert BUFFER_BYTES // 2 < held < (5 if PLAIN_TASKS else 4) * BUFFER_BYTES
        assert not above.transport.is_reading()


def test_a_client_that_does_not_read_times_out_and_releases_its_endpoint(config):
    with reading_nothing(config) as (gateway, _, below):
        gateway.in_loop(lambda: expire(below, 1e9, stopping=False))
        gateway.in_loop(lambda: expire(below, 1e9 + SEND_SECONDS + 1, stopping=False))
        until(lambda: not (gateway.sweeper.connections or gateway.connections))
        (endpoint,) = gateway.gateway.services.roster.endpoints.values()
        assert endpoint.in_flight == 0


# Hostile input


def test_mutated_forms(config, caplog):
    """The mutations of test_hostile_input, with streamed bodies."""
    form = FORM % b"RIFF\r\n--X\r\n"
    known = f"POST {PATH} HTTP/1.1\r\n".encode() + USUAL + f"{TYPE}\r\n{CLOSE}\r\n".encode()
    good = [
        known + b"Content-Length: %d\r\n\r\n" % len(form) + form,
        known
        + b"Expect: 100-continue\r\n"
        + f"{CHUNKED}\r\n\r\n".encode()
        + chunk(form[:90])
        + chunk(form[90:])
        + b"0\r\n\r\n",
    ]
    random_ = random.Random(5)
    control = upstream(always(http_response(b"page")), config.control_socket)
    with control, upstream(echo) as server, inside(config, Relay(server.url, "other")) as gateway:
        attack(gateway, [mutated(random_, random_.choice(good)) for _ in range(1000)])
        attack(gateway, [data[:size] for data in good for size in range(0, len(data), 5)])
    assert not caplog.records


# Crowds


def test_the_connections_of_one_client_are_limited(tmp_path):
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": "2"})
    with inside(config, Reader()) as gateway:
        data = gateway.head("Content-Length: 1", CLOSE) + b"1"
        with gateway.connect(), gateway.connect():
            assert statuses(send(gateway, data)) == [503]
        until(lambda: not gateway.connections)
        assert statuses(send(gateway, data)) == [200]


def test_a_trusted_proxy_may_have_more_connections(tmp_path):
    environment = {"ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": "1", "ROUTERDASH_TRUSTED_PROXIES": "127.0.0.0/8"}
    with inside(load({"ROUTERDASH_DATA_DIR": str(tmp_path), **environment}), Reader()) as gateway, gateway.connect():
        assert statuses(send(gateway, gateway.head("Content-Length: 0", CLOSE))) == [200]
