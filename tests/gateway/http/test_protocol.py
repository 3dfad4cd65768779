"""HTTP/1.1 and HTTP/1.0 towards clients: keep-alive, pipelining, bodies, limits and malformed requests."""

import contextlib
import json
import re
import socket
from typing import BinaryIO

import pytest

from benchmarks.simulator import Simulator
from gateway.http.request_bounds import MAX_HEADER_BYTES
from gateway.ipc.bound_hits import Hits
from tests.gateway.process import GatewayProcess, read_to_end, read_until
from tests.gateway.scripted import DONE, LAST, always, chunk, http_response, stream, upstream
from tests.router import until

MIB = 1 << 20
CLOSE = "Connection: close"
ENDLESS = 60_000


def status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


def statuses(data: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def code(data: bytes) -> str:
    error_code: str = json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["code"]
    return error_code


def read_response(connection: socket.socket) -> bytes:
    """Read one response that has a Content-Length, if no bytes follow it yet."""
    (response,) = read_responses(connection, 1)
    return response


def read_responses(connection: socket.socket, number: int) -> list[bytes]:
    """Read several responses through one buffer: a second one would miss the bytes that the first has read."""
    with connection.makefile("rb") as file:
        return [_read_response(file) for _ in range(number)]


def _read_response(file: BinaryIO) -> bytes:
    head = b"".join(iter(file.readline, b"\r\n"))
    return head + b"\r\n" + file.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


@pytest.fixture
def model(gateway: GatewayProcess, sim: Simulator) -> str:
    return gateway.add(sim.add())


# Versions and methods


def test_http_1_0_gets_a_complete_response_and_the_connection_closes(gateway, model):
    received = gateway.send(gateway.chat_bytes(model, version="1.0"))
    assert status(received) == 200
    assert b"connection: close\r\n" in received
    assert json.loads(received.split(b"\r\n\r\n", 1)[1])["model"] == model


def test_http_1_0_gets_a_stream_without_chunks(gateway, model):
    head, body = gateway.send(gateway.chat_bytes(model, version="1.0", stream=True)).split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"data: {")
    assert body.endswith(DONE)


def test_http_1_0_may_keep_its_connection(gateway, model):
    again = gateway.chat_bytes(model, "Connection: keep-alive", version="1.0")
    received = gateway.send(again + gateway.chat_bytes(model, version="1.0"))
    assert statuses(received) == [200, 200]
    assert b"connection: keep-alive\r\n" in received


def test_http_1_0_needs_no_host(gateway):
    assert status(gateway.send(b"GET /v1/nothing HTTP/1.0\r\n\r\n")) == 404


def test_http_1_1_needs_a_host(gateway):
    received = gateway.send(b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (status(received), code(received)) == (400, "invalid_request")


def test_head_is_get_without_a_body(gateway, model):
    whole, body = gateway.send(gateway.head(f"GET /v1/models/{model}", CLOSE)).split(b"\r\n\r\n")
    head, nothing = gateway.send(gateway.head(f"HEAD /v1/models/{model}", CLOSE)).split(b"\r\n\r\n")
    assert without_date(head) == without_date(whole)
    assert b"content-length: %d" % len(body) in head
    assert nothing == b""


def without_date(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]


# One connection, many requests


def test_a_connection_is_kept_alive(gateway, model):
    with gateway.connect() as connection:
        for _ in range(3):
            connection.sendall(gateway.chat_bytes(model, stream=True))
            assert read_until(connection, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_connection_close_is_obeyed(gateway, model):
    assert statuses(gateway.send(gateway.chat_bytes(model, CLOSE))) == [200]


def test_pipelined_requests_get_responses_in_their_order(gateway, sim):
    slow, quick = gateway.add(sim.add(ttft=0.2)), gateway.add(sim.add())
    models = [slow, quick, slow, quick, quick]
    received = gateway.send(b"".join(gateway.chat_bytes(name) for name in models) + gateway.head("GET /v1/x", CLOSE))
    assert re.findall(rb'"model": ?"([^"]+)"', received) == [name.encode() for name in models]
    assert statuses(received) == [200] * 5 + [404]
    assert [record.model for record in gateway.records()] == [*models, ""]


def test_pipelined_requests_and_streams_do_not_mix(gateway, model):
    whole, streamed = gateway.chat_bytes(model), gateway.chat_bytes(model, stream=True)
    received = gateway.send(streamed + whole + streamed + gateway.chat_bytes(model, CLOSE))
    assert statuses(received) == [200] * 4
    assert received.count(DONE + b"\r\n0\r\n\r\n") == 2


def test_a_pipelined_request_whose_body_comes_later(gateway, model):
    first, second = gateway.chat_bytes(model), gateway.chat_bytes(model, CLOSE)
    with gateway.connect() as connection:
        connection.sendall(first + second[:-10])
        assert status(read_response(connection)) == 200
        connection.sendall(second[-10:])
        assert status(read_to_end(connection)) == 200


def test_requests_behind_the_last_one_of_a_connection_are_ignored(gateway, model):
    received = gateway.send(gateway.head("GET /v1/nothing", CLOSE) + gateway.chat_bytes(model, CLOSE))
    assert statuses(received) == [404]
    assert gateway.chat(model).status == 200
    assert [record.status for record in gateway.records()] == [404, 200]


def test_a_refused_request_leaves_the_connection_to_the_next(gateway, model):
    refused = gateway.head("GET /v1/nothing")
    assert statuses(gateway.send(refused * 3 + gateway.chat_bytes(model, CLOSE))) == [404, 404, 404, 200]


# Bodies


def test_a_chunked_request(gateway, sim):
    simulated = sim.add()
    body = json.dumps({"model": gateway.add(simulated), "messages": [{"content": "x" * 1000}]}).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    received = gateway.send(gateway.head("POST /v1/chat/completions", CLOSE, "Transfer-Encoding: chunked") + chunked)
    assert status(received) == 200
    assert simulated.seen.bodies == [json.loads(body)]


def test_a_large_body_arrives_completely(gateway, sim):
    simulated = sim.add()
    content = "ü" * (5 * MIB)
    assert gateway.chat(gateway.add(simulated), messages=[{"content": content}]).status == 200
    assert simulated.seen.bodies[0]["messages"][0]["content"] == content


def test_a_client_that_expects_100_continue_gets_it(gateway, model):
    head, body = gateway.chat_bytes(model, CLOSE, "Expect: 100-continue").split(b"\r\n\r\n")
    with gateway.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status(read_to_end(connection)) == 200


def test_a_client_that_expects_100_continue_is_refused_before_its_body(gateway):
    head = gateway.head("POST /v1/chat/completions", "Expect: 100-continue", f"Content-Length: {50 * MIB}")
    with gateway.connect() as connection:
        connection.sendall(head)
        received = read_until(connection, b"}}")
    assert (statuses(received), code(received)) == ([413], "request_too_large")
    assert b"connection: close\r\n" in received


def test_a_body_that_is_too_large_is_refused_while_it_is_received(gateway):
    body = b"x" * MIB
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /v1/chat/completions", f"Content-Length: {50 * MIB}"))
        for _ in range(50):
            connection.sendall(body)  # these bytes must not reset the connection before the response arrives
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
def test_an_unauthenticated_request_is_refused_before_a_large_body(gateway, framing):
    head = gateway.head("POST /v1/chat/completions", framing).replace(b"Bearer sk_", b"Bearer no_")
    with gateway.connect() as connection:
        connection.sendall(head)
        assert status(read_until(connection, b"}}")) == 401


def test_a_client_disconnect_in_a_body_leaves_no_record(gateway, model):
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
def test_bytes_that_are_no_http_get_400(gateway, data):
    assert gateway.send(data).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert gateway.records() == []


def test_a_header_block_that_is_too_large(gateway):
    received = gateway.send(gateway.head("GET /v1/models", *(f"X-Filler-{n}: {'x' * 1000}" for n in range(70))))
    assert (statuses(received), code(received)) == ([431], "request_too_large")


@pytest.mark.parametrize(("size", "status"), [(MAX_HEADER_BYTES, 200), (MAX_HEADER_BYTES + 1, 431)])
def test_a_header_line_has_a_limit(gateway, size, status):
    received = gateway.send(gateway.head("GET /v1/models", CLOSE, f"X-Filler: {'x' * size}"))
    assert statuses(received) == [status]
    if status == 431:
        assert "'x-filler' has more than 16 KiB" in received.decode()


def test_a_header_block_of_many_lines(gateway):
    lines = [f"X-Line-{number}: x" for number in range(97)]  # and three client address headers
    assert statuses(gateway.send(gateway.head("GET /v1/models", *lines, version="1.0"))) == [200]
    received = gateway.send(gateway.head("GET /v1/models", *lines, CLOSE))
    assert (statuses(received), code(received)) == ([431], "request_too_large")


@pytest.mark.parametrize(
    "line", ["GET ftp://localhost/v1/models", "GET *", "GET /v1/models#x", "get /v1/models", "PROPFIND /v1/models"]
)
def test_unsupported_targets_and_methods(gateway, line):
    assert statuses(gateway.send(gateway.head(line))) == [400]


@pytest.mark.parametrize("lines", [["Host: localhost"], ["Transfer-Encoding: gzip, chunked"], ["Content-Type: a/b"]])
def test_ambiguous_lines_are_refused(gateway, lines):
    assert statuses(gateway.send(gateway.head("POST /v1/completions", *lines) + b"0\r\n\r\n")) == [400]


def test_a_header_block_that_repeats_except_for_its_length_is_checked_again(gateway, model):
    chunked = gateway.head("POST /v1/completions", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"
    both_lengths = gateway.head("POST /v1/completions", "Transfer-Encoding: chunked", "Content-Length: 5")
    assert statuses(gateway.send(chunked + both_lengths + b"0\r\n\r\n")) == [400, 400]


@pytest.mark.parametrize("behind", ["", "Transfer-Encoding: chunked"])
def test_malformed_bytes_behind_an_upgrade_get_400(gateway, behind):
    head = gateway.head("GET /v1/models", "Connection: Upgrade", "Upgrade: h2c", *([behind] if behind else []))
    assert statuses(gateway.send(head + b"0\r\n\r\nPRI * HTTP/2.0\r\n\r\n")) == [200]
    assert "a fault of ours" not in gateway.log()


def test_a_target_that_is_too_long(gateway):
    assert statuses(gateway.send(gateway.head(f"GET /v1/models?{'x' * 70_000}"))) == [431]


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_upgrade_is_ignored(gateway, upgrade):
    received = gateway.send(gateway.head("GET /v1/models", "Connection: Upgrade", f"Upgrade: {upgrade}"))
    assert statuses(received) == [200]
    assert b"connection: close\r\n" in received


def websocket_request(gateway, path):
    return gateway.send(gateway.head(f"GET {path}", "Connection: Upgrade", "Upgrade: websocket"))


def test_a_client_of_responses_that_tries_a_websocket_is_sent_to_http_at_once(gateway):
    """Codex goes on over HTTP after a 426, and tries for seconds after a 404 or a 405."""
    received = websocket_request(gateway, "/v1/responses")
    assert statuses(received) == [426]
    assert b"upgrade: HTTP/1.1\r\n" in received
    assert b'"code":"upgrade_required"' in received
    assert gateway.records() == []
    assert statuses(websocket_request(gateway, "/v1/chat/completions")) == [405]


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


def test_a_large_response_arrives_complete(gateway):
    body = json.dumps({"model": "tiny", "data": "x" * (20 * MIB)}).encode()
    with upstream(always(http_response(body))) as server:
        assert gateway.chat(gateway.add(server)).json()["data"] == "x" * (20 * MIB)


def test_responses_to_a_client_that_does_not_read_fill_no_memory(gateway):
    body = json.dumps({"model": "tiny", "data": "x" * (4 * MIB)}).encode()
    with upstream(always(http_response(body))) as server, gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(gateway.add(server)) * 10)
        until(lambda: server.requests)
        assert gateway.get("/v1/nothing").status == 404  # a loop iteration later
        assert len(server.requests) <= 2
        received = read_responses(connection, 10)
    assert [status(response) for response in received] == [200] * 10


# Endless requests


@pytest.mark.parametrize("path", ["/login", "/v1/chat/completions"])
def test_a_trailer_without_end_is_refused(gateway, path):
    head = gateway.head(f"POST {path}", "Transfer-Encoding: chunked")
    with gateway.connect() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(ENDLESS):  # the bytes in the socket buffers are sent in any case
                connection.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))
        assert number < ENDLESS - 1


def test_a_large_body_and_the_start_of_the_next_request_are_accepted(gateway, model):
    large = gateway.chat_bytes(model, messages=[{"content": "x" * MIB}])
    following = gateway.chat_bytes(model, CLOSE)
    with gateway.connect() as connection:
        connection.sendall(large + following[:20])
        assert status(read_response(connection)) == 200
        connection.sendall(following[20:])
        assert status(read_to_end(connection)) == 200


def test_a_refusal_for_a_bound_is_counted_as_a_hit_of_it(make_gateway):
    gateway = make_gateway().start()
    hits = Hits(gateway.page)
    with gateway.connect() as connection:
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        received = read_until(connection, b"}}")
    assert (statuses(received), hits.totals()) == ([413], {"forwarded_body": 1})


def test_repeated_absolute_targets_are_served(gateway, model):
    body = b'{"model":"%b","messages":[]}' % model.encode()
    head = gateway.head(f"POST http://127.0.0.1:{gateway.port}/v1/chat/completions", f"Content-Length: {len(body)}")
    with gateway.connect() as connection:
        for _ in range(3):
            connection.sendall(head + body)
            assert status(read_response(connection)) == 200


@pytest.mark.parametrize("cut", [1, 5, 30, 31, 60])
def test_blanks_in_the_first_line_are_refused_however_it_is_cut(gateway, cut):
    data = b"GET /v1/models/xxxxxxxxxxxxxxx  HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with gateway.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data[:cut])
        assert gateway.get("/v1/models").status == 200  # the piece was read in the meantime
        connection.sendall(data[cut:])
        assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")
