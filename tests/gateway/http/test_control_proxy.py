"""Requests that are forwarded to control. A scripted server listens on control's socket."""

import json
import threading
from contextlib import ExitStack, contextmanager

import pytest

from gateway.http.control_proxy import FORWARDED_AT_ONCE, MAX_REFERER_BYTES, end_to_end
from gateway.ipc.bound_hits import Hits
from tests.gateway.process import read_to_end, read_until
from tests.gateway.scripted import Talk, always, each_time, http_response, nothing, opening, stream, upstream
from tests.router import until


@pytest.fixture
def control_script(gateway):
    """Return a context manager that runs a script as control."""

    @contextmanager
    def run(script):
        path = gateway.config.control_socket
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            with upstream(script, path) as control:
                yield control
        finally:
            path.unlink()

    return run


def headers_of(request: bytes) -> dict[bytes, bytes]:
    lines = request.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.split(b": ", 1) for line in lines]
    assert len(dict(pairs)) == len(pairs)  # each once
    return {name: value for name, value in pairs}


PAGE = http_response(b"<html>", 200, "text/html")


# Requests


def test_a_request_arrives_completely(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.post("/api/endpoints?a=b&c", {"name": "ü"}, headers={"Cookie": "session=1", "X-CSRFToken": "t"})
    (request,) = control.requests
    head, body = request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /api/endpoints?a=b&c HTTP/1.1\r\n")
    assert json.loads(body) == {"name": "ü"}
    headers = headers_of(request)
    assert headers[b"content-length"] == b"%d" % len(body)
    assert (headers[b"cookie"], headers[b"x-csrftoken"]) == (b"session=1", b"t")
    assert headers[b"host"] == b"127.0.0.1:%d" % gateway.port
    assert headers[b"authorization"].startswith(b"Bearer ")


def test_control_receives_the_client_address_and_scheme(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.get("/", headers={"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"})
        gateway.get("/")
    received = [headers_of(request) for request in control.requests]
    forwarded = [(headers[b"x-routerdash-client"], headers[b"x-routerdash-scheme"]) for headers in received]
    assert forwarded == [(b"192.0.2.9", b"https"), (b"127.0.0.1", b"http")]


@pytest.mark.parametrize(
    ("lines", "version", "host"),
    [
        (("Connection: host",), "1.1", b"127.0.0.1"),
        (("Connection: close, Host, Cookie",), "1.1", b"127.0.0.1"),
        ((), "1.0", b"127.0.0.1"),
    ],
)
def test_control_always_gets_one_host(gateway, control_script, lines, version, host):
    with control_script(always(PAGE)) as control:
        gateway.send(gateway.head("GET /", "Cookie: a=b", *lines, "Connection: close", version=version))
    headers = headers_of(control.requests[0])
    assert headers[b"host"].startswith(host)
    assert headers[b"cookie"] == b"a=b"


def test_a_page_without_a_host_is_requested_from_localhost(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.send(b"GET / HTTP/1.0\r\n\r\n")
    assert headers_of(control.requests[0])[b"host"] == b"localhost"


def test_the_host_of_an_absolute_target_is_the_host(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.send(
            b"GET http://router.example:80/login?a HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        refused = gateway.send(b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    (request,) = control.requests
    assert request.startswith(b"GET /login?a HTTP/1.1\r\n")
    assert headers_of(request)[b"host"] == b"router.example:80"
    assert b"host_not_allowed" in refused


@pytest.mark.parametrize(
    "host", ["localhost:x", "localhost:", "localhost:99999", "localhost:80:80", "local host", "[::1"]
)
def test_an_odd_host_does_not_reach_control(gateway, control_script, host):
    with control_script(always(PAGE)) as control:
        received = gateway.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 400 ")
    assert control.requests == []


def test_a_target_that_is_too_long_does_not_reach_control(gateway, control_script):
    with control_script(always(PAGE)) as control:
        received = gateway.send(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 8192))
    assert received.startswith(b"HTTP/1.1 414 ")
    assert control.requests == []


def test_a_client_cannot_set_its_own_address(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.get("/", headers={"X-RouterDash-Client": "1.2.3.4", "X-RouterDash-Scheme": "https"})
    headers = headers_of(control.requests[0])
    assert (headers[b"x-routerdash-client"], headers[b"x-routerdash-scheme"]) == (b"127.0.0.1", b"http")


def test_hop_by_hop_headers_are_not_forwarded(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.send(gateway.head("GET /", "Connection: close, X-Hop", "X-Hop: 1", "TE: trailers", "X-End: 1"))
    headers = headers_of(control.requests[0])
    assert not headers.keys() & {b"connection", b"x-hop", b"te"}
    assert headers[b"x-end"] == b"1"


def test_a_referer_has_no_api_key(gateway, control_script):
    with control_script(always(PAGE)) as control:
        gateway.get("/favicon.ico", headers={"Referer": f"http://router/ollama/{gateway.key}/"})
    assert headers_of(control.requests[0])[b"referer"] == b"http://router/ollama/key/"


def test_a_long_referer_is_left_out(gateway, control_script):
    with control_script(always(PAGE)) as control:
        for size in (MAX_REFERER_BYTES, MAX_REFERER_BYTES + 1):
            gateway.get("/favicon.ico", headers={"Referer": "http://router/".ljust(size, "/")})
    assert [b"referer" in headers_of(request) for request in control.requests] == [True, False]


def test_a_chunked_body_gets_a_length(gateway, control_script):
    head = gateway.head("POST /login", "Connection: close", "Transfer-Encoding: chunked")
    with control_script(always(PAGE)) as control:
        gateway.send(head + b"3\r\na=b\r\n2\r\n&c\r\n0\r\n\r\n")
    assert headers_of(control.requests[0])[b"content-length"] == b"5"
    assert control.requests[0].endswith(b"\r\n\r\na=b&c")


def test_a_body_has_a_limit(gateway):
    received = gateway.send(gateway.head("POST /api/endpoints", f"Content-Length: {9 << 20}") + b"x" * (9 << 20))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert gateway.records() == []


# Responses


def test_a_response_is_relayed_completely(gateway, control_script):
    headers = ("Set-Cookie: a=1", "Set-Cookie: b=2", "Location: /there", "Date: never", "Connection: X-Hop", "X-Hop: 1")
    with control_script(always(http_response(b"moved", 302, "text/plain", *headers))):
        received = gateway.send(gateway.head("GET /", "Connection: close"))
    head, body = received.split(b"\r\n\r\n")
    assert (head.split(b" ")[1], body) == (b"302", b"moved")
    assert head.count(b"set-cookie: ") == 2
    assert b"location: /there" in head
    assert (head.count(b"date: "), b"never" in head, b"x-hop" in head) == (1, False, False)


def test_head_has_no_body(gateway, control_script):
    with control_script(always(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n")):
        received = gateway.send(gateway.head("HEAD /", "Connection: close"))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body(gateway, control_script, status):
    with control_script(always(http_response(b"", status))):
        received = gateway.send(gateway.head("GET /") + gateway.head("GET /v1/nothing", "Connection: close"))
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"HTTP/1.1 404 ") == 1


def test_a_page_leaves_no_record(gateway, control_script):
    with control_script(always(PAGE)):
        gateway.get("/")
    assert gateway.records() == []


def test_a_connection_to_control_is_kept(gateway, control_script):
    with control_script(always(PAGE)) as control:
        assert [gateway.get("/").body for _ in range(3)] == [b"<html>"] * 3
        assert control.connections == 1


def test_a_connection_that_control_has_closed_is_replaced(gateway, control_script):
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(PAGE)
        talk.request()

    with control_script(script) as control:
        assert [gateway.get("/").status for _ in range(3)] == [200] * 3
        assert control.connections == 3


def test_events_are_passed_on_immediately(gateway, control_script):
    go_on = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(b"data: 1\n\n", end=False))
        go_on.wait(30)
        talk.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    with control_script(script), gateway.connect() as connection:
        connection.sendall(gateway.head("GET /events", "Connection: close"))
        assert b"content-type: text/event-stream\r\n" in read_until(connection, b"data: 1\n\n\r\n")
        go_on.set()
        assert read_to_end(connection) == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


def test_a_client_disconnect_ends_a_stream_of_control(gateway, control_script):
    left = threading.Event()

    def script(talk: Talk) -> None:
        opening(stream(b"data: 1\n\n", end=False))(talk)
        left.set()

    with control_script(script):
        with gateway.connect() as connection:
            connection.sendall(gateway.head("GET /events"))
            read_until(connection, b"data: 1\n\n\r\n")
        assert left.wait(10)


def test_events_that_break_off_do_not_seem_to_end(gateway, control_script):
    with control_script(each_time(stream(b"data: 1\n\n", end=False))), gateway.connect() as connection:
        connection.sendall(gateway.head("GET /events"))
        try:
            received = read_to_end(connection)
        except ConnectionResetError:
            return  # degraded
    assert not received.endswith(b"0\r\n\r\n")


# Without control


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez"])
def test_without_control_health_is_degraded_with_the_reason(gateway, path):
    given = gateway.get(path, key=None)
    assert given.status == 200
    assert given.json()["status"] == "degraded"
    assert "control process does not respond" in given.json()["reasons"][0]


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_without_control_the_gateway_is_ready_all_the_same(gateway, path):
    given = gateway.get(path, key=None)
    assert (given.status, given.json()["ready"]) == (200, True)


@pytest.mark.parametrize("path", ["/", "/dashboard/", "/api/dashboard/stats", "/v1", "/healthy", "/livezz"])
def test_without_control_pages_get_503_with_retry_after(gateway, path):
    given = gateway.get(path)
    assert (given.status, given.headers["retry-after"]) == (503, "2")
    assert "try again" in given.json()["error"]


def test_without_control_inference_continues(gateway, sim):
    gateway.get("/")
    assert gateway.chat(gateway.add(sim.add())).status == 200


@pytest.mark.parametrize("script", [Talk.request, each_time(PAGE[:-1]), each_time(b"nonsense")])
def test_an_incomplete_response_of_control_counts_as_unavailable(gateway, control_script, script):
    with control_script(script):
        assert gateway.get("/").status == 503


@pytest.mark.parametrize("path", ["/health", "/livez"])
def test_health_does_not_wait_for_a_hanging_control(gateway, control_script, path):
    with control_script(nothing):
        assert gateway.get(path).json()["status"] == "degraded"


def hang_up_on_the_second(talk):
    each_time(PAGE)(talk)
    talk.request()


def test_a_request_that_changes_state_is_sent_once(gateway, control_script):
    with control_script(hang_up_on_the_second) as control:
        gateway.get("/")
        assert gateway.post("/api/endpoints", {}).status == 503
    assert [request.split(b" ")[0] for request in control.requests] == [b"GET", b"POST"]


def test_head_has_the_content_length_of_get(gateway, control_script):
    with control_script(always(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n")):
        received = gateway.send(gateway.head("HEAD /", "Connection: close"))
    assert b"content-length: 6\r\n" in received


def test_the_requests_of_one_client_at_control_are_limited(gateway, control_script):
    released = threading.Event()

    def script(talk: Talk) -> None:
        while talk.request():
            released.wait(30)
            talk.send(PAGE)

    with control_script(script) as control, ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(FORWARDED_AT_ONCE + 10)]
        for connection in connections:
            connection.sendall(gateway.head("GET /login"))
        until(lambda: len(control.requests) == FORWARDED_AT_ONCE)
        until(lambda: Hits(gateway.page).totals().get("forwarded_requests", 0) >= 10)
        with gateway.connect() as other:
            other.sendall(gateway.head("GET /login", "X-Forwarded-For: 192.0.2.7"))
            until(lambda: len(control.requests) == FORWARDED_AT_ONCE + 1)
        released.set()
        assert {connection.recv(12) for connection in connections} == {b"HTTP/1.1 200"}
        assert len(control.requests) == FORWARDED_AT_ONCE + 11


def test_a_client_disconnect_releases_a_slot_at_control_or_its_wait(gateway, control_script):
    released = threading.Event()

    def script(talk: Talk) -> None:
        while request := talk.request():
            if b"/slow" in request:
                released.wait(30)
            talk.send(PAGE)

    with control_script(script) as control:
        for _ in range(2):
            with ExitStack() as stack:
                connections = [stack.enter_context(gateway.connect()) for _ in range(FORWARDED_AT_ONCE + 10)]
                for connection in connections:
                    connection.sendall(gateway.head("GET /slow"))
                until(lambda: sum(b"/slow" in request for request in control.requests) >= FORWARDED_AT_ONCE)
            assert gateway.get("/login").status == 200
            control.requests.clear()
        released.set()


def test_event_streams_use_no_slot_at_control(gateway, control_script):
    def script(talk: Talk) -> None:
        while request := talk.request():
            if b"/events" in request:
                talk.send(stream(b"data: 1\n\n", end=False))
                talk.request()
            else:
                talk.send(PAGE)

    with control_script(script), ExitStack() as stack:
        for _ in range(FORWARDED_AT_ONCE + 5):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(gateway.head("GET /events"))
            read_until(connection, b"data: 1\n\n\r\n")
        assert gateway.get("/login").status == 200


# Hop-by-hop headers


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ],
)
def test_a_hop_by_hop_header_is_dropped(name):
    assert end_to_end([(name, b"x"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


def test_connection_lists_further_hop_by_hop_headers():
    headers = [(b"x-one", b"1"), (b"connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-two", b"2")]
    assert end_to_end([*headers, (b"x-three", b"3")]) == [(b"x-three", b"3")]


def test_all_other_headers_stay_in_their_order():
    headers = [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"date", b"now")]
    assert end_to_end(headers) == headers


@pytest.mark.parametrize("name", [b"host", b"cookie", b"content-type", b"authorization"])
def test_connection_cannot_remove_required_headers(name):
    assert end_to_end([(b"connection", name), (name, b"x")]) == [(name, b"x")]
