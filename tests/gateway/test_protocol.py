"""HTTP on the wire, as clients of all kinds speak it."""

import contextlib
import json
import re
import socket
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from benchmarks.simulator import Simulator
from gateway.bounds import Hits
from gateway.protocol import (
    KEEP_ALIVE_SECONDS,
    MAX_BODY_SECONDS,
    MAX_STREAMED_SECONDS,
    RECEIVE_SECONDS,
    ROOM,
    SEND_SECONDS,
    SLOW_SECONDS,
    SLOWEST,
    TURN,
    GatewayProtocol,
)
from tests.gateway.process import GatewayProcess, read_to_end, read_until
from tests.gateway.scripted import DONE, LAST, always, answer, chunk, stream, upstream
from tests.router import until

MIB = 1 << 20
CLOSE = "Connection: close"
ENDLESS = 60_000


def status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


def statuses(data: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def code(data: bytes) -> str:
    found: str = json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["code"]
    return found


def read_answer(connection: socket.socket) -> bytes:
    """One answer with a content-length, behind which nothing else comes yet."""
    (answer,) = read_answers(connection, 1)
    return answer


def read_answers(connection: socket.socket, number: int) -> list[bytes]:
    """Through one buffer: another would lack what this one has read ahead."""
    with connection.makefile("rb") as file:
        return [_read_answer(file) for _ in range(number)]


def _read_answer(file: BinaryIO) -> bytes:
    head = b"".join(iter(file.readline, b"\r\n"))
    return head + b"\r\n" + file.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


@pytest.fixture
def model(gateway: GatewayProcess, sim: Simulator) -> str:
    return gateway.add(sim.add())


# Versions and methods


def test_http_1_0_gets_a_whole_answer_and_the_end_of_its_connection(gateway, model):
    received = gateway.say(gateway.chat_bytes(model, version="1.0"))
    assert status(received) == 200
    assert b"connection: close\r\n" in received
    assert json.loads(received.split(b"\r\n\r\n", 1)[1])["model"] == model


def test_http_1_0_gets_a_stream_without_chunks(gateway, model):
    head, body = gateway.say(gateway.chat_bytes(model, version="1.0", stream=True)).split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"data: {")
    assert body.endswith(DONE)


def test_http_1_0_may_keep_its_connection(gateway, model):
    again = gateway.chat_bytes(model, "Connection: keep-alive", version="1.0")
    received = gateway.say(again + gateway.chat_bytes(model, version="1.0"))
    assert statuses(received) == [200, 200]
    assert b"connection: keep-alive\r\n" in received


def test_http_1_0_needs_no_host(gateway):
    assert status(gateway.say(b"GET /v1/nothing HTTP/1.0\r\n\r\n")) == 404


def test_http_1_1_needs_a_host(gateway):
    received = gateway.say(b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (status(received), code(received)) == (400, "invalid_request")


def test_head_is_get_without_a_body(gateway, model):
    whole, body = gateway.say(gateway.head(f"GET /v1/models/{model}", CLOSE)).split(b"\r\n\r\n")
    head, nothing = gateway.say(gateway.head(f"HEAD /v1/models/{model}", CLOSE)).split(b"\r\n\r\n")
    assert without_date(head) == without_date(whole)
    assert b"content-length: %d" % len(body) in head
    assert nothing == b""


def without_date(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]


# One connection, many requests


def test_a_connection_is_kept(gateway, model):
    with gateway.connect() as connection:
        for _ in range(3):
            connection.sendall(gateway.chat_bytes(model, stream=True))
            assert read_until(connection, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_connection_close_is_obeyed(gateway, model):
    assert statuses(gateway.say(gateway.chat_bytes(model, CLOSE))) == [200]


def test_pipelined_requests_are_answered_in_their_order(gateway, sim):
    slow, quick = gateway.add(sim.add(ttft=0.2)), gateway.add(sim.add())
    asked = [slow, quick, slow, quick, quick]
    received = gateway.say(b"".join(gateway.chat_bytes(name) for name in asked) + gateway.head("GET /v1/x", CLOSE))
    assert re.findall(rb'"model": ?"([^"]+)"', received) == [name.encode() for name in asked]
    assert statuses(received) == [200] * 5 + [404]
    assert [record.model for record in gateway.records()] == [*asked, ""]


def test_pipelined_requests_and_streams_do_not_mix(gateway, model):
    whole, streamed = gateway.chat_bytes(model), gateway.chat_bytes(model, stream=True)
    received = gateway.say(streamed + whole + streamed + gateway.chat_bytes(model, CLOSE))
    assert statuses(received) == [200] * 4
    assert received.count(DONE + b"\r\n0\r\n\r\n") == 2


def test_a_pipelined_request_whose_body_comes_later(gateway, model):
    first, second = gateway.chat_bytes(model), gateway.chat_bytes(model, CLOSE)
    with gateway.connect() as connection:
        connection.sendall(first + second[:-10])
        assert status(read_answer(connection)) == 200
        connection.sendall(second[-10:])
        assert status(read_to_end(connection)) == 200


def test_nothing_behind_the_last_request_of_a_connection_is_served(gateway, model):
    received = gateway.say(gateway.head("GET /v1/nothing", CLOSE) + gateway.chat_bytes(model, CLOSE))
    assert statuses(received) == [404]
    assert gateway.chat(model).status == 200
    assert [record.status for record in gateway.records()] == [404, 200]


def test_a_refused_request_leaves_the_connection_to_the_next(gateway, model):
    refused = gateway.head("GET /v1/nothing")
    assert statuses(gateway.say(refused * 3 + gateway.chat_bytes(model, CLOSE))) == [404, 404, 404, 200]


# Bodies


def test_a_chunked_request(gateway, sim):
    simulated = sim.add()
    body = json.dumps({"model": gateway.add(simulated), "messages": [{"content": "x" * 1000}]}).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    received = gateway.say(gateway.head("POST /v1/chat/completions", CLOSE, "Transfer-Encoding: chunked") + chunked)
    assert status(received) == 200
    assert simulated.seen.bodies == [json.loads(body)]


def test_a_large_body_arrives_whole(gateway, sim):
    simulated = sim.add()
    content = "ü" * (5 * MIB)
    assert gateway.chat(gateway.add(simulated), messages=[{"content": content}]).status == 200
    assert simulated.seen.bodies[0]["messages"][0]["content"] == content


def test_a_client_that_waits_is_told_to_go_on(gateway, model):
    head, body = gateway.chat_bytes(model, CLOSE, "Expect: 100-continue").split(b"\r\n\r\n")
    with gateway.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status(read_to_end(connection)) == 200


def test_a_client_that_waits_is_refused_before_its_body(gateway):
    head = gateway.head("POST /v1/chat/completions", "Expect: 100-continue", f"Content-Length: {50 * MIB}")
    with gateway.connect() as connection:
        connection.sendall(head)
        received = read_until(connection, b"}}")
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert b"connection: close\r\n" in received


def test_a_body_that_is_too_large_is_refused_while_it_comes(gateway):
    body = b"x" * MIB
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /v1/chat/completions", f"Content-Length: {50 * MIB}"))
        for _ in range(50):
            connection.sendall(body)  # nothing of it resets the answer on its way
        received = read_to_end(connection)
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert [(record.outcome, record.status) for record in gateway.records()] == [("rejected", 413)]


def test_a_chunked_body_is_refused_once_it_is_too_large(gateway):
    part = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /v1/chat/completions", "Transfer-Encoding: chunked"))
        for _ in range(40):
            connection.sendall(part)
        connection.sendall(b"0\r\n\r\n")
        received = read_to_end(connection)
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert gateway.record().status == 413


@pytest.mark.parametrize("framing", [f"Content-Length: {50 * MIB}", "Transfer-Encoding: chunked"])
def test_a_stranger_is_refused_before_a_large_body(gateway, framing):
    head = gateway.head("POST /v1/chat/completions", framing).replace(b"Bearer sk_", b"Bearer no_")
    with gateway.connect() as connection:
        connection.sendall(head)
        assert status(read_until(connection, b"}}")) == 401


def test_a_client_that_leaves_in_its_body_leaves_nothing(gateway, model):
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model)[:-5])
    assert gateway.chat(model).status == 200
    assert gateway.record().outcome == "ok"


# Nonsense


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_gets_400(gateway, data):
    assert gateway.say(data).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert gateway.records() == []


def test_a_head_that_is_too_large(gateway):
    received = gateway.say(gateway.head("GET /v1/models", *(f"X-Filler-{n}: {'x' * 1000}" for n in range(70))))
    assert (statuses(received), code(received)) == ([431], "request_too_large")


def test_a_head_of_many_lines(gateway):
    lines = [f"X-Line-{number}: x" for number in range(97)]  # and three that say who asks
    assert statuses(gateway.say(gateway.head("GET /v1/models", *lines, version="1.0"))) == [200]
    received = gateway.say(gateway.head("GET /v1/models", *lines, CLOSE))
    assert (statuses(received), code(received)) == ([431], "request_too_large")


@pytest.mark.parametrize(
    "line", ["GET ftp://localhost/v1/models", "GET *", "GET /v1/models#x", "get /v1/models", "PROPFIND /v1/models"]
)
def test_a_target_that_is_no_path_and_a_method_that_is_not_ours(gateway, line):
    assert statuses(gateway.say(gateway.head(line))) == [400]


@pytest.mark.parametrize("lines", [["Host: localhost"], ["Transfer-Encoding: gzip, chunked"], ["Content-Type: a/b"]])
def test_lines_that_could_be_read_in_two_ways(gateway, lines):
    assert statuses(gateway.say(gateway.head("POST /v1/completions", *lines) + b"0\r\n\r\n")) == [400]


def test_a_head_that_repeats_but_for_its_length_is_looked_at_again(gateway, model):
    chunked = gateway.head("POST /v1/completions", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"
    told_twice = gateway.head("POST /v1/completions", "Transfer-Encoding: chunked", "Content-Length: 5")
    assert statuses(gateway.say(chunked + told_twice + b"0\r\n\r\n")) == [400, 400]


@pytest.mark.parametrize("behind", ["", "Transfer-Encoding: chunked"])
def test_garbage_behind_an_upgrade_is_no_fault_of_ours(gateway, behind):
    head = gateway.head("GET /v1/models", "Connection: Upgrade", "Upgrade: h2c", *([behind] if behind else []))
    assert statuses(gateway.say(head + b"0\r\n\r\nPRI * HTTP/2.0\r\n\r\n")) == [200]
    assert "a fault of ours" not in gateway.log()


def test_an_address_that_is_too_long(gateway):
    assert statuses(gateway.say(gateway.head(f"GET /v1/models?{'x' * 70_000}"))) == [431]


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_upgrade_is_ignored(gateway, upgrade):
    received = gateway.say(gateway.head("GET /v1/models", "Connection: Upgrade", f"Upgrade: {upgrade}"))
    assert statuses(received) == [200]
    assert b"connection: close\r\n" in received


# Slow clients


def test_a_slow_client_slows_the_endpoint_and_gets_everything(gateway):
    event = chunk("x" * 100_000)
    with upstream(always(stream(*[event] * 300, LAST, DONE))) as server:
        model = gateway.add(server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, CLOSE, stream=True))
            until(lambda: server.requests)
            received = read_to_end(connection)
    assert received.count(b"x" * 100_000) == 300
    assert received.endswith(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))
    assert gateway.record().outcome == "ok"


def test_a_large_answer_arrives_whole(gateway):
    body = json.dumps({"model": "tiny", "data": "x" * (20 * MIB)}).encode()
    with upstream(always(answer(body))) as server:
        assert gateway.chat(gateway.add(server)).json()["data"] == "x" * (20 * MIB)


def test_answers_that_nobody_reads_do_not_pile_up(gateway):
    body = json.dumps({"model": "tiny", "data": "x" * (4 * MIB)}).encode()
    with upstream(always(answer(body))) as server, gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(gateway.add(server)) * 10)
        until(lambda: server.requests)
        assert gateway.get("/v1/nothing").status == 404  # a turn of the loop later
        assert len(server.requests) <= 2
        received = read_answers(connection, 10)
    assert [status(answer) for answer in received] == [200] * 10


# Clients that do not end


@pytest.mark.parametrize("path", ["/login", "/v1/chat/completions"])
def test_a_trailer_without_end_is_not_read_for_ever(gateway, path):
    head = gateway.head(f"POST {path}", "Transfer-Encoding: chunked")
    with gateway.connect() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(ENDLESS):  # what the sockets' own buffers hold is sent in any case
                connection.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))
        assert number < ENDLESS - 1


def test_a_large_body_and_the_beginning_of_the_next_request_are_no_head_without_end(gateway, model):
    large = gateway.chat_bytes(model, messages=[{"content": "x" * MIB}])
    following = gateway.chat_bytes(model, CLOSE)
    with gateway.connect() as connection:
        connection.sendall(large + following[:20])
        assert status(read_answer(connection)) == 200
        connection.sendall(following[20:])
        assert status(read_to_end(connection)) == 200


class HalfOpen(GatewayProtocol):
    """A connection as its timeouts see it, last heard of at second 0."""

    def __init__(self, **fields: Any) -> None:
        self.running, self.in_head, self.quiet_since, self.begun, self.paused_at = None, False, 0.0, 0.0, 0.0
        self.unsent, self.stuck_since, self.unsent_hold = 0, 0.0, None
        self.claim, self.held_back, self.judged = None, 0, -1.0
        self.gateway: Any = SimpleNamespace(bounds=Hits())
        self.waiting_for_client = 0.0
        self.done: list[bytes] = []
        self.loop: Any = SimpleNamespace(call_soon=lambda function, *given: function(*given))
        self.transport: Any = SimpleNamespace(
            get_write_buffer_size=lambda: self.waiting_for_client, abort=lambda: self.done.append(b"aborted")
        )
        vars(self).update(fields)

    def close(self) -> None:
        self.done.append(b"closed")

    def _charge_unsent(self, unsent: int) -> bool:
        return True

    def _say(self, status: bytes, text: bytes, kind: bytes = b"") -> None:
        self.done.append(status)


BODY_MISSING = SimpleNamespace(received=False, started=False, streams=False, body_bytes=0)
RUNNING = SimpleNamespace(received=True, started=False, streams=False, body_bytes=0)
STREAMING = SimpleNamespace(received=False, started=True, streams=True, body_bytes=9)
REFUSED = SimpleNamespace(received=False, started=True, streams=False, body_bytes=9)


@pytest.mark.parametrize(
    ("fields", "seconds", "stopping", "expected"),
    [
        ({}, KEEP_ALIVE_SECONDS - 1, False, []),
        ({}, KEEP_ALIVE_SECONDS + 1, False, [b"closed"]),
        ({}, 2, True, [b"closed"]),
        ({"in_head": True}, RECEIVE_SECONDS + 1, False, [b"408 Request Timeout", b"closed"]),
        ({"in_head": True}, RECEIVE_SECONDS - 1, False, []),
        ({"running": BODY_MISSING}, SLOW_SECONDS - 1, False, []),
        ({"running": BODY_MISSING}, SLOW_SECONDS + 1, False, [b"408 Request Timeout", b"closed"]),
        ({"running": BODY_MISSING}, 2, True, [b"408 Request Timeout", b"closed"]),
        ({"running": BODY_MISSING, "paused_at": 1.0}, 1e6, False, []),
        ({"running": BODY_MISSING, "held_back": ROOM}, 1e6, False, []),
        ({"running": BODY_MISSING, "held_back": TURN}, 1e6, False, []),
        ({"running": STREAMING}, SLOW_SECONDS + 1, False, [b"closed"]),
        ({"running": REFUSED}, 1e6, False, []),
        ({"running": RUNNING}, 1e6, False, []),
        ({"running": RUNNING}, 1e6, True, []),
    ],
)
def test_a_silent_client_is_waited_for_so_long(fields, seconds, stopping, expected):
    connection = HalfOpen(**fields)
    connection.expire(float(seconds), stopping=stopping)
    assert connection.done == expected


TIMED_OUT = [b"408 Request Timeout", b"closed"]


class Receiving:
    """A connection whose body comes as the test says, looked at twice a second by a clock of the test's own."""

    def __init__(self, **fields: Any) -> None:
        self.now = 0.0
        self.request = SimpleNamespace(**{**vars(BODY_MISSING), **fields})
        self.connection = HalfOpen(running=self.request)

    def go_on(self, seconds: float, bytes_a_second: float) -> list[bytes]:
        """What was done to it in the end."""
        until = self.now + seconds
        while self.now < until and not self.connection.done:
            self.now += 0.5
            if bytes_a_second:
                self.request.body_bytes += bytes_a_second / 2
                self.connection.quiet_since = self.now
            self.connection.expire(self.now, stopping=False)
        return self.connection.done


@pytest.mark.parametrize(("seconds", "expected"), [(RECEIVE_SECONDS - 1, []), (RECEIVE_SECONDS + 1, TIMED_OUT)])
def test_a_header_block_that_comes_byte_by_byte_is_waited_for_so_long(seconds, expected):
    connection = HalfOpen(in_head=True, quiet_since=float(seconds))
    connection.expire(float(seconds), stopping=False)
    assert connection.done == expected


def test_a_body_of_a_kilobyte_a_second_is_received():
    assert Receiving().go_on(MAX_BODY_SECONDS - 1, SLOWEST + 1) == []


def test_a_body_that_comes_byte_by_byte_is_not_waited_for():
    receiving = Receiving()
    assert receiving.go_on(SLOW_SECONDS - 1, 1) == []
    assert receiving.go_on(2, 1) == TIMED_OUT


def test_a_burst_at_the_beginning_of_a_body_does_not_buy_hours():
    receiving = Receiving()
    assert receiving.go_on(1, 7_900_000) == []
    assert receiving.go_on(SLOW_SECONDS - 2, 1) == []
    assert receiving.go_on(4, 1) == TIMED_OUT


def test_a_slow_part_of_a_fast_body_is_forgiven_for_less_than_the_window():
    receiving = Receiving()
    for _ in range(5):
        assert receiving.go_on(2, 100 * SLOWEST) == []
        assert receiving.go_on(SLOW_SECONDS - 5, 0) == []


@pytest.mark.parametrize(("streams", "most"), [(False, MAX_BODY_SECONDS), (True, MAX_STREAMED_SECONDS)])
def test_a_body_has_an_absolute_limit_of_time(streams, most):
    receiving = Receiving(streams=streams)
    assert receiving.go_on(most - 1, 2 * SLOWEST) == []
    assert receiving.go_on(2, 2 * SLOWEST) == TIMED_OUT


def test_a_body_that_its_endpoint_does_not_take_is_not_late():
    receiving = Receiving(streams=True, started=True)
    receiving.go_on(1, 2 * SLOWEST)
    receiving.connection.paused_at = 1.0
    assert receiving.go_on(1000, 0) == []


def test_a_client_that_takes_nothing_is_given_up():
    connection = HalfOpen(running=RUNNING, waiting_for_client=100)
    connection.expire(10.0, stopping=False)
    connection.expire(10.0 + SEND_SECONDS, stopping=False)
    assert connection.done == []
    connection.expire(11.0 + SEND_SECONDS, stopping=False)
    assert connection.done == [b"aborted"]


class Taking:
    """A connection whose client takes so many bytes a second of what waits for it."""

    def __init__(self, waiting: int) -> None:
        self.now = 0.0
        self.connection = HalfOpen(running=RUNNING, waiting_for_client=waiting)

    def go_on(self, seconds: float, bytes_a_second: float) -> list[bytes]:
        until = self.now + seconds
        while self.now < until and not self.connection.done:
            self.now += 0.5
            self.connection.waiting_for_client -= bytes_a_second / 2
            self.connection.expire(self.now, stopping=False)
        return self.connection.done


def test_a_client_that_takes_a_kilobyte_a_second_is_waited_for():
    assert Taking(1 << 20).go_on(5 * SEND_SECONDS, 1.1 * SLOWEST) == []


def test_a_client_that_takes_a_byte_now_and_then_is_given_up():
    taking = Taking(1 << 15)
    assert taking.go_on(SEND_SECONDS - 1, 1) == []
    assert taking.go_on(2, 1) == [b"aborted"]


def test_what_is_written_meanwhile_does_not_make_a_client_look_alive():
    taking = Taking(100)
    assert taking.go_on(SEND_SECONDS + 1, -1) == [b"aborted"]


def test_a_refusal_for_a_bound_is_counted_as_a_hit_of_it(make_gateway):
    gateway = make_gateway().start()
    hits = Hits(gateway.page)
    with gateway.connect() as connection:
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        received = read_until(connection, b"}}")
    assert (statuses(received), hits.totals()) == ([413], {"forwarded_body": 1})


def test_an_absolute_target_is_served_like_any_other_also_when_it_repeats(gateway, model):
    body = b'{"model":"%b","messages":[]}' % model.encode()
    head = gateway.head(f"POST http://127.0.0.1:{gateway.port}/v1/chat/completions", f"Content-Length: {len(body)}")
    with gateway.connect() as connection:
        for _ in range(3):
            connection.sendall(head + body)
            assert status(read_answer(connection)) == 200


@pytest.mark.parametrize("at", [1, 5, 30, 31, 60])
def test_blanks_in_the_first_line_are_seen_in_whatever_pieces_it_comes(gateway, at):
    data = b"GET /v1/models/xxxxxxxxxxxxxxx  HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data[:at])
        assert gateway.get("/v1/models").status == 200  # the piece was read meanwhile
        connection.sendall(data[at:])
        assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")
