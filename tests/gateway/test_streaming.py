"""Bodies that are passed on as they come, from a client's socket to an endpoint's."""

import asyncio
import queue
import random
from contextlib import contextmanager
from typing import Any

import pytest

from gateway import protocol
from gateway.config import load
from gateway.errors import INVALID_REQUEST, Refusal
from gateway.exchange import BUFFER_BYTES
from gateway.multipart import Form
from gateway.upstream import Pool, UpstreamError
from tests.gateway.inside import PATH, inside
from tests.gateway.process import read_to_end, read_until
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import always, answer, opening, upstream
from tests.gateway.test_hostile import USUAL, attack, mutated
from tests.gateway.test_protocol import code, read_answer, read_answers, status, statuses
from tests.router import until

MIB = 1 << 20
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"


class Reader:
    """Reads a body to its end and tells how long it was. `seen`: its pieces; `go`: may the next be read?"""

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


def say(gateway, data):
    with gateway.connect() as connection:
        connection.sendall(data)
        return read_to_end(connection)


def fill(connection, data, held_up):
    """Send it until the gateway holds us up; how much was sent."""
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


# Whole bodies


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_of_known_length(reader, version):
    received = say(reader.gateway, reader.gateway.head("Content-Length: 5", CLOSE, version=version) + b"12345")
    assert (statuses(received), body_of(received)) == ([200], b"5")


def test_a_body_in_chunks(reader):
    received = say(reader.gateway, reader.gateway.head(CHUNKED, CLOSE) + chunk(b"123") + chunk(b"45") + b"0\r\n\r\n")
    assert (statuses(received), body_of(received)) == ([200], b"5")


@pytest.mark.parametrize("framing", ["Content-Length: 0", CHUNKED, "X-None: 0"])
def test_an_empty_body(reader, framing):
    end = b"0\r\n\r\n" if framing == CHUNKED else b""
    assert body_of(say(reader.gateway, reader.gateway.head(framing, CLOSE) + end)) == b"0"


def test_a_large_body_arrives_whole(reader):
    data = bytes(range(256)) * (40 << 12)
    received = say(reader.gateway, reader.gateway.head(f"Content-Length: {len(data)}", CLOSE) + data)
    assert body_of(received) == b"%d" % len(data)
    assert b"".join(reader.seen.queue) == data


def test_a_request_begins_before_its_body_is_here(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10", CLOSE) + b"12345")
        assert reader.seen.get(timeout=10) == b"12345"
        connection.sendall(b"67890")
        assert body_of(read_to_end(connection)) == b"10"


def test_an_offer_to_upgrade_does_not_hide_the_body(reader):
    head = reader.gateway.head("Content-Length: 5", "Connection: Upgrade", "Upgrade: h2c")
    assert body_of(say(reader.gateway, head + b"12345")) == b"5"


def test_requests_behind_one_another(reader):
    one = reader.gateway.head("Content-Length: 5") + b"12345"
    two = reader.gateway.head(CHUNKED) + chunk(b"x" * 100_000) + b"0\r\n\r\n"
    with reader.gateway.connect() as connection:
        connection.sendall(one + two + one)
        assert [body_of(received) for received in read_answers(connection, 3)] == [b"5", b"100000", b"5"]
        connection.sendall(one)
        assert body_of(read_answer(connection)) == b"5"


def test_a_request_behind_one_whose_body_is_not_here(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 5") + b"1")
        reader.seen.get(timeout=10)
        connection.sendall(b"2345" + reader.gateway.head("Content-Length: 1", CLOSE) + b"1")
        assert statuses(read_to_end(connection)) == [200, 200]


def test_a_large_body_behind_another_request_waits_for_its_turn(reader):
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
        assert [body_of(received) for received in read_answers(connection, 2)] == [b"0", b"%d" % (4 * MIB)]


# Going on


def test_a_client_that_waits_is_told_to_go_on_when_its_body_is_wanted(reader):
    reader.gateway.in_loop(reader.go.clear)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 5", "Expect: 100-continue", CLOSE))
        until(lambda: reader.exchange)
        reader.gateway.in_loop(reader.go.set)
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"12345")
        assert body_of(read_to_end(connection)) == b"5"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_does_not_wait_is_told_nothing(reader, version):
    head = reader.gateway.head("Content-Length: 1", "Expect: 100-continue", CLOSE, version=version)
    assert statuses(say(reader.gateway, head + b"1"))[-1:] == [200]


# Slow readers


def test_a_client_is_held_up_by_whoever_does_not_read(reader):
    reader.gateway.in_loop(reader.go.clear)
    data = bytes(20 * MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {len(data)}", CLOSE))
        until(lambda: reader.exchange)
        (held,) = reader.gateway.connections
        sent = fill(connection, data, lambda: held.paused_at)
        assert BUFFER_BYTES < reader.exchange.unread <= 2 * BUFFER_BYTES
        reader.gateway.in_loop(reader.go.set)
        connection.sendall(data[sent:])
        assert body_of(read_to_end(connection)) == b"%d" % len(data)


def test_the_time_in_which_a_client_is_held_up_is_not_its_own(reader):
    reader.gateway.in_loop(reader.go.clear)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {MIB}", CLOSE) + bytes(MIB))
        (held,) = until(lambda: reader.gateway.connections)
        until(lambda: held.paused_at)
        reader.gateway.in_loop(lambda: held.expire(1e9, stopping=False))
        reader.gateway.in_loop(reader.go.set)
        assert body_of(read_to_end(connection)) == b"%d" % MIB


# Clients that leave


def test_a_client_that_leaves_cancels_its_request(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10") + b"12345")
        reader.seen.get(timeout=10)
    until(lambda: reader.cancelled)


def test_a_body_that_goes_wrong_cancels_its_request(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(CHUNKED) + chunk(b"12345"))
        reader.seen.get(timeout=10)
        connection.sendall(b"nonsense\r\n")
        assert status(read_to_end(connection)) == 400
    until(lambda: reader.cancelled)


def test_a_client_that_sends_no_more_is_told_so(reader):
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head("Content-Length: 10") + b"12345")
        reader.seen.get(timeout=10)
        (slow,) = reader.gateway.connections
        reader.gateway.in_loop(lambda: slow.expire(slow.quiet_since + protocol.RECEIVE_SECONDS + 1, stopping=False))
        assert status(read_to_end(connection)) == 408
    until(lambda: reader.cancelled)


# Too much


def test_a_body_that_is_known_to_be_too_large(reader, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_STREAMED_BYTES", MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(f"Content-Length: {MIB + 1}"))
        received = read_until(connection, b"}}")
    assert (statuses(received), code(received), reader.exchange) == ([413], "request_too_large", None)


def test_a_body_that_turns_out_to_be_too_large(reader, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_STREAMED_BYTES", MIB)
    with reader.gateway.connect() as connection:
        connection.sendall(reader.gateway.head(CHUNKED))
        for _ in range(40):
            connection.sendall(chunk(bytes(100_000)))
        connection.sendall(b"0\r\n\r\n")
        received = read_to_end(connection)
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert b"connection: close\r\n" in received


def test_the_largest_body(reader, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_STREAMED_BYTES", MIB)
    received = say(reader.gateway, reader.gateway.head(CHUNKED, CLOSE) + chunk(bytes(MIB)) + b"0\r\n\r\n")
    assert body_of(received) == b"%d" % MIB


# Answers before the body is here


async def refuse(exchange):
    raise Refusal(400, INVALID_REQUEST, "No.")


async def answer_early(exchange):
    await exchange.read_body()
    exchange.reply(200, (), b"enough")


def test_a_refused_client_that_waits_is_not_told_to_go_on(config):
    with inside(config, refuse) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head("Content-Length: 5", "Expect: 100-continue"))
        received = read_until(connection, b"}}")
    assert statuses(received) == [400]
    assert b"connection: close\r\n" in received


@pytest.mark.parametrize(("handler", "expected"), [(refuse, 400), (answer_early, 200)])
def test_the_rest_of_a_body_runs_out(config, handler, expected):
    with inside(config, handler) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head(f"Content-Length: {20 * MIB}"))
        for _ in range(20):
            connection.sendall(bytes(MIB))  # nothing of it resets the answer on its way
        received = read_to_end(connection)
    assert statuses(received) == [expected]
    assert b"connection: close\r\n" in received


def test_what_stands_behind_a_request_that_was_answered_early_is_not_read(config):
    with inside(config, refuse) as gateway:
        one = gateway.head("Content-Length: 5") + b"12345"
        assert statuses(say(gateway, one * 3)) == [400]


def test_an_answer_to_a_body_that_was_here_keeps_the_connection(config):
    async def late(exchange):
        while await exchange.read_body():
            pass
        raise Refusal(400, INVALID_REQUEST, "No.")

    with inside(config, late) as gateway:
        one = gateway.head("Content-Length: 5") + b"12345"
        assert statuses(say(gateway, one + gateway.head("Content-Length: 0", CLOSE))) == [400, 400]


def test_a_handler_that_fails_in_the_body(config, caplog):
    async def fail(exchange):
        await exchange.read_body()
        raise ZeroDivisionError

    with inside(config, fail) as gateway, gateway.connect() as connection:
        connection.sendall(gateway.head("Content-Length: 9") + b"12345")
        assert status(read_until(connection, b"}}")) == 500


# To an endpoint


class Relay:
    """What passes a form on does this much."""

    def __init__(self, url, name):
        self.url = url
        self.name = name

    async def __call__(self, exchange):
        form = Form(exchange.fields.get(b"content-type", b""))
        while form.model is None:
            if not (piece := await exchange.read_body()):
                form.finish()
            form.feed(piece)
        length = None if exchange.length is None else exchange.length + form.growth(self.name)
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n%b\r\n\r\n"
        connection = await Pool(self.url, exchange.protocol.gateway.roster._sweeper).connect()
        try:
            connection.begin(head % (exchange.fields[b"content-type"], framing), 20, chunked=length is None)
            await self._pass(exchange, form, connection)
            await connection.head()
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
    """Tells how long the body was, and whether it bears the other name."""
    body = body_of(talk.request())
    talk.send(answer(b"%d %d" % (len(body), body.count(b"\r\nother\r\n"))))


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_a_form_reaches_its_endpoint_under_another_name(config, framing, size):
    form = FORM % bytes(size)
    with upstream(echo) as server, inside(config, Relay(server.url, "other")) as gateway:
        if framing == "length":
            data = gateway.head(TYPE, f"Content-Length: {len(form)}", CLOSE) + form
        else:
            data = gateway.head(TYPE, CHUNKED, CLOSE) + chunk(form[:200]) + chunk(form[200:]) + b"0\r\n\r\n"
        assert body_of(say(gateway, data)) == b"%d 1" % (len(form) - 4)


def test_an_endpoint_that_refuses_a_form_early_is_heard(config):
    def script(talk):
        talk._file.read(100)
        talk.send(answer(b"too long", 413))
        while talk._file.read(1 << 16):  # a server that closes at once may take its answer back
            pass

    with upstream(script) as server, inside(config, Relay(server.url, "other")) as gateway:
        form = FORM % bytes(50 * MIB)
        with gateway.connect() as connection:
            connection.sendall(gateway.head(TYPE, f"Content-Length: {len(form)}") + form)
            received = read_to_end(connection)
    assert (statuses(received), body_of(received)) == ([413], b"too long")


def test_an_endpoint_that_takes_nothing_holds_up_the_client(config):
    taken: queue.Queue[None] = queue.Queue()

    def script(talk):
        taken.get()
        echo(talk)

    form = FORM % bytes(60 * MIB)
    with upstream(script) as server, inside(config, Relay(server.url, "other")) as gateway:  # noqa: SIM117
        with gateway.connect() as connection:
            connection.sendall(gateway.head(TYPE, f"Content-Length: {len(form)}", CLOSE))
            sent = fill(connection, form, lambda: gateway.connections and gateway.connections[0].paused_at)
            assert sent < len(form)
            taken.put(None)
            connection.sendall(form[sent:])
            assert body_of(read_to_end(connection)) == b"%d 1" % (len(form) - 4)


def test_a_client_that_leaves_in_a_form_leaves_its_endpoint(config):
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


# Clients that read nothing


EVENT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 100_000)
ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT * 3000


@contextmanager
def reading_nothing(config):
    """The gateway, and its two connections of a stream that is too large for all buffers."""
    with upstream(opening(ENDLESS)) as server:
        body = b'{"model":"m","messages":[],"stream":true}'
        with (
            inside(config, refuse, make_endpoint("", "m", base_url=server.url)) as gateway,
            gateway.connect() as client,
        ):
            client.sendall(gateway.head(f"Content-Length: {len(body)}", path="/v1/chat/completions") + body)
            until(lambda: gateway.sweeper.connections)
            (above,), (below,) = gateway.sweeper.connections, gateway.connections
            until(lambda: above._paused)  # not just until the next turn
            yield gateway, above, below


def test_a_client_that_reads_nothing_fills_no_memory(config):
    with reading_nothing(config) as (gateway, above, below):
        held = gateway.in_loop(lambda: above._size + below.transport.get_write_buffer_size())
        assert BUFFER_BYTES < held < 4 * BUFFER_BYTES
        assert not above.transport.is_reading()


def test_a_client_that_reads_nothing_gives_its_endpoint_back(config):
    with reading_nothing(config) as (gateway, _, below):
        gateway.in_loop(lambda: below.expire(1e9, stopping=False))
        gateway.in_loop(lambda: below.expire(1e9 + protocol.SEND_SECONDS + 1, stopping=False))
        until(lambda: not (gateway.sweeper.connections or gateway.connections))
        (endpoint,) = gateway.gateway.roster.endpoints.values()
        assert endpoint.in_flight == 0


# Nonsense


def test_forms_that_were_changed(config, caplog):
    """What test_hostile tries with bodies that are received whole first."""
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
    control = upstream(always(answer(b"page")), config.control_socket)
    with control, upstream(echo) as server, inside(config, Relay(server.url, "other")) as gateway:
        attack(gateway, [mutated(random_, random_.choice(good)) for _ in range(1000)])
        attack(gateway, [data[:size] for data in good for size in range(0, len(data), 5)])
    assert not caplog.records


# Crowds


def test_one_client_may_have_so_many_connections(tmp_path):
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": "2"})
    with inside(config, Reader()) as gateway:
        data = gateway.head("Content-Length: 1", CLOSE) + b"1"
        with gateway.connect(), gateway.connect():
            assert statuses(say(gateway, data)) == [503]
        until(lambda: not gateway.connections)
        assert statuses(say(gateway, data)) == [200]


def test_a_trusted_proxy_may_have_more(tmp_path):
    environment = {"ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": "1", "ROUTERDASH_TRUSTED_PROXIES": "127.0.0.0/8"}
    with inside(load({"ROUTERDASH_DATA_DIR": str(tmp_path), **environment}), Reader()) as gateway, gateway.connect():
        assert statuses(say(gateway, gateway.head("Content-Length: 0", CLOSE))) == [200]
