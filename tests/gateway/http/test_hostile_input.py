"""Ten thousand hostile inputs on the socket of a running gateway.

None may crash or block the gateway, cause an internal error, or reach an endpoint if it should have been refused.
Valid requests are served afterwards. HOSTILE_TIMES=10 sends ten times as many.
"""

import json
import os
import random
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.process import KEY, GatewayProcess, read_to_end
from tests.gateway.scripted import always, http_response, upstream
from tests.router import until

MANY = int(os.environ.get("HOSTILE_TIMES", "1"))
BATCH = 50
USUAL = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
OWN_FAULT = re.compile(rb"(?:^|\n)HTTP/1\.1 5")


def statuses(received):
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.fixture(scope="module")
def _target(tmp_path_factory):
    """Run a gateway with a control process and an endpoint."""
    process = GatewayProcess(
        tmp_path_factory.mktemp("hostile"), ROUTERDASH_CORS_ORIGINS="https://chat.example.com"
    ).start()
    control = process.config.control_socket
    with (
        upstream(always(http_response(b"page")), control),
        upstream(always(http_response(b'{"model":"tiny"}'))) as server,
    ):
        model = process.add(server)
        yield process, server, model
        until(lambda: process.in_flight(model) == 0)
        log = process.log()
        process.end()
    assert "Traceback" not in log


@pytest.fixture
def target(_target):
    """Return a gateway, its endpoint and the model."""
    return _target


def chat(model, *lines):
    body = json.dumps({"model": model, "messages": []}).encode()
    head = (b"POST /v1/chat/completions HTTP/1.1\r\n" + USUAL, b"Content-Type: application/json\r\n", *lines)
    return b"".join(head) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def send_all(gateway, inputs):
    """Return the responses to each, on separate connections. Half of them stay open until all were sent."""
    connections = []
    for data in inputs:
        connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        connections.append(connection)
        try:
            connection.sendall(data)
        except ConnectionError:
            pass  # the gateway has closed the connection
    assert gateway.get("/v1/models").status == 200  # after all pipelined requests of one packet were read
    return [listen(connection) for connection in connections]


def listen(connection):
    with connection:
        try:
            connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)
        except ConnectionError:
            return b""


def attack(gateway, inputs):
    """Send them, and check that the gateway still works."""
    for start in range(0, len(inputs), BATCH):
        sent = inputs[start : start + BATCH]
        for data, received in zip(sent, send_all(gateway, sent), strict=True):
            assert not OWN_FAULT.search(received), (data, received)
            assert received == b"" or received.startswith(b"HTTP/1.1 "), (data, received)


# Requests that two servers could parse in different ways


def post(*lines, body=b"", line=b"POST /v1/chat/completions HTTP/1.1"):
    return b"\r\n".join((line, USUAL + b"\r\n".join(lines), b"", b"")).replace(b"\r\n\r\n\r\n", b"\r\n\r\n") + body


CHUNKED = b"Transfer-Encoding: chunked"
FRAMINGS = [
    (CHUNKED, b"Content-Length: 5"),
    (b"Content-Length: 5", CHUNKED),
    (CHUNKED, CHUNKED),
    (CHUNKED, b"Transfer-Encoding: identity"),
    (b"Transfer-Encoding: identity", CHUNKED),
    *((b"Transfer-Encoding: " + coding,) for coding in (
        b"chunked, identity", b"identity, chunked", b"identity", b"gzip", b"gzip, chunked", b"chunked, chunked",
        b"xchunked", b"chunkedx", b"chunked;q=1", b'"chunked"', b"chunked,", b",chunked", b"\x0bchunked",
        b"chunked\x0b", b"chunked\x00", b"chunked\xa0", b"\xefchunked", b"", b" ", b"c hunked", b"chunked chunked",
        b"chunke", b"x: chunked",
    )),
    (b"Transfer-Encoding : chunked",),
    (b"Transfer-Encoding\t: chunked",),
    (b"Transfer-Encoding\x00: chunked",),
    (b" Transfer-Encoding: chunked",),
    (b"X: y\r\n Transfer-Encoding: chunked",),
    (b"Transfer-Encoding:\r\n chunked",),
    (b"Transfer-Encoding: chunked\r\n ",),
    (b"X: y\nTransfer-Encoding: chunked",),
    (b"X: y\rTransfer-Encoding: chunked",),
    (b"X: y\r\rTransfer-Encoding: chunked",),
    *((b"Content-Length: " + length,) for length in (
        b"+5", b"-5", b"0x5", b"5 5", b"5,5", b"5, 5", b"", b" ", b"5;", b"5.0", b"1e1", b"5_0", b"\xd9\xa5", b"5\x00",
        b"5\x0b", b"18446744073709551616", b"18446744073709551621", b"9" * 40, b"five", b"'5'", b"0b1", b"5\xa0",
        b"(5)",
    )),
    (b"Content-Length: 5", b"Content-Length: 6"),
    (b"Content-Length: 5", b"content-length: 5"),
    (b"Content-Length: 0", b"Content-Length: 5"),
    (b"Content-Length : 5",),
    (b"Content-Length\x0b: 5",),
    (b"Content-Length: 5\r\n 0",),
    (b"Content-Length:\r\n 5",),
    (b"Host: other.example",),
    (b"Host: localhost",),
]  # fmt: skip
HEADS = [
    b"No colon", b": no name", b" : no name", b"X : y", b"X\t: y", b"X y: z", b"X(y): z", b"X\x00: y", b"\xc3\xa4: y",
    b"X: a\x00b", b"X: a\x0bb", b"X: a\x1fb", b"X: a\x7fb", b"X: a\rb", b"X: a\nb", b"X: a\n b", b"X: a\r\n b",
    b"X: a\r\n\tb", b"X: a\r\r\n b", b"X: a\r", b"X: a\n", b"\x00", b"@: x", b"X[]: y", b"X\xa0: y", b"X:\r\n y",
    b"X: y\r\n ",
]  # fmt: skip
LINES = [
    b"POST ftp://localhost/v1/chat/completions HTTP/1.1", b"POST http://a@localhost/v1/models HTTP/1.1",
    b"POST http:///v1/models HTTP/1.1", b"GET http://localhost/v1/models#part HTTP/1.1",
    b"GET //[::1 HTTP/1.1 HTTP/1.1",
    b"GET /v1/models  HTTP/1.1", b"GET  /v1/models HTTP/1.1", b"GET /v1/models HTTP/1.1 ",
    b"GET http://localhost/v1/models  HTTP/1.1",
    b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET localhost:443 HTTP/1.1", b"CONNECT localhost:443 HTTP/1.1",
    b"CONNECT /v1/models HTTP/1.1", b"GET v1/models HTTP/1.1", b"GET \\v1\\models HTTP/1.1",
    b"GET /v1/models#part HTTP/1.1", b"GET /v1/mod els HTTP/1.1", b"GET /v1/\x00 HTTP/1.1", b"GET /v1/\x7f HTTP/1.1",
    b"GET /v1/m\xc3\xb6del HTTP/1.1", b"GET /v1/\xff HTTP/1.1", b"GET  HTTP/1.1", b"GET HTTP/1.1",
    b"GET /v1/models\tHTTP/1.1", b"GET /v1/\tmodels HTTP/1.1", b"GET ?x HTTP/1.1", b"get /v1/models HTTP/1.1",
    b"GeT /v1/models HTTP/1.1", b"PRI * HTTP/2.0", b"SOURCE /v1/models HTTP/1.1", b"XYZZY / HTTP/1.1",
    b"M-SEARCH /v1/models HTTP/1.1", b"PROPFIND /v1/models HTTP/1.1", b"DESCRIBE /v1/models RTSP/1.0",
    b"SOURCE / ICE/1.0", b"G\x00ET /v1/models HTTP/1.1", b" /v1/models HTTP/1.1", b"GET /v1/models HTTP/0.9",
    b"GET /v1/models HTTP/2.0", b"GET /v1/models HTTP/1.2", b"GET /v1/models HTTP/1", b"GET /v1/models HTTP/1.10",
    b"GET /v1/models http/1.1", b"GET /v1/models HTTPS/1.1", b"GET /v1/models HTTP/11", b"GET /v1/models HTTP /1.1",
    b"GET /v1/models HTTP/1.1 x", b"GET /v1/models", b"GET", b"QUERY /v1/models HTTP/1.1",
    b"UNLOCK /v1/models HTTP/1.1",
]  # fmt: skip
CHUNKS = [
    b"0x5\r\nhello", b"-5\r\nhello", b"+5\r\nhello", b"g\r\nhello", b"\r\nhello", b" 5\r\nhello", b"5 x\r\nhello",
    b"5\nhello", b"5\rhello", b"F" * 17 + b"\r\nhello", b"1" + b"0" * 16 + b"\r\nhello", b"5\r\nhello0\r\n",
    b"5\r\nhello\n0\r\n", b"5\r\nhelloX\r\n0", b"5;a\nb\r\nhello", b"5;a\x00\r\nhello", b"5,5\r\nhello",
    b"\xb5\r\nhello", b"5h\r\nhello", b"5\x00\r\nhello", b"5\r\nhello\r\r\n0\r\n", b"5\x0b\r\nhello", b"0\r\nX y\r\n",
    b"0\r\n: x\r\n", b"0\r\nX : y\r\n", b"0\r\nX: a\x00b\r\n", b"0\r\nX: a\r\n b\r\n",
]  # fmt: skip
PREFACES = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-OpenSSH_9.9\r\n",
    b"\x00" * 50, b"GET /v1/models\r\n\r\n", b"GET / HTTP/1.1\n\n", b"GET /v1/models HTTP/1.1\nHost: localhost\n\n",
    b"HTTP/1.1 200 OK\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\n\r\n", b"GET /v1/models HTTP/1.1\nHost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1\rHost: localhost\r\r", b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"EHLO example\r\n", b"*1\r\n$4\r\nPING\r\n",
    b"{}", b"GET /v1/models HTTP/1.1\r\n Host: localhost\r\n\r\n", b"GET /v1/models HTTP/1.1\r\n\tX: y\r\n\r\n",
]  # fmt: skip


def smuggling(model):
    """Each body ends with a valid request, which must not be handled."""
    hidden = chat(model)
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    for lines in FRAMINGS:
        yield post(*lines, body=chunks + hidden)
        yield post(*lines, body=b"0\r\n\r\n" + hidden)
    for line in HEADS:
        yield post(line, b"Content-Length: 0", body=hidden)
        yield post(b"Content-Length: 0", line, body=hidden)
    for line in LINES:
        yield post(b"Content-Length: 0", line=line, body=hidden)
    for chunk in CHUNKS:
        yield post(CHUNKED, body=chunk + b"\r\n0\r\n\r\n" + hidden)
    for preface in PREFACES:
        yield preface + hidden


def test_ambiguous_requests_are_refused(target):
    gateway, server, model = target
    before = len(server.requests)
    inputs = list(smuggling(model))
    for start in range(0, len(inputs), BATCH):
        sent = inputs[start : start + BATCH]
        for data, received in zip(sent, send_all(gateway, sent), strict=True):
            assert (statuses(received), len(server.requests) - before) == ([400], 0), (data, received)


def test_an_ambiguous_request_behind_a_valid_one_closes_the_connection(target):
    """The valid request may get a response, or lose its connection. The request after it gets none."""
    gateway, server, model = target
    before = len(server.requests)
    good = b"GET /v1/models HTTP/1.1\r\n" + USUAL + b"\r\n"
    inputs = [good + data for data in smuggling(model)]
    for start in range(0, len(inputs), BATCH):
        sent = inputs[start : start + BATCH]
        for data, received in zip(sent, send_all(gateway, sent), strict=True):
            assert statuses(received) in ([200, 400], [200], []), (data, received)
    assert len(server.requests) == before


# Fragments with and without meaning in HTTP


def mutated(random_, data):
    """Return the request with a few bytes changed, doubled, moved or dropped."""
    data = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 8))):
        position, size = random_.randrange(len(data)), random_.choice((1, 1, 2, 4, 16, 64))
        kind = random_.randrange(5)
        if kind == 0:
            data[position] = random_.choice(b"\r\n\t\0 :;,/?#%\"'\\0159afAFzZ\x7f\x80\xff")
        elif kind == 1:
            data[position:position] = random_.choice(
                (b"\r\n", b"\n", b"\r", b" ", b"\0", b"\r\n\r\n", b"0\r\n\r\n", b"chunked", b"\xc3\x28")
            )
        elif kind == 2:
            del data[position : position + size]
        elif kind == 3:
            data[position:position] = data[position : position + size]
        else:
            other = random_.randrange(len(data))
            data[position : position + size] = data[other : other + size]
        data = data or bytearray(b"\n")
    return bytes(data)


FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--XX--\r\n'
)


def good_requests(model):
    end = b"Connection: close"
    whole = chat(model, end + b"\r\n")
    body = whole.split(b"\r\n\r\n", 1)[1]
    form = FORM % model.encode()
    typed = b"Content-Type: multipart/form-data; boundary=XX"
    yield whole
    yield chat(model) * 2 + whole
    yield post(CHUNKED, b"Content-Type: application/json", end, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    yield post(CHUNKED, b"Trailer: X", end, body=b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n")
    yield post(b"Expect: 100-continue", b"Content-Length: 2", end, body=b"{}")
    yield post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"{}")
    yield post(end, line=b"GET /v1/models?limit=5 HTTP/1.1")
    yield post(end, line=b"GET /v1/models/%s HTTP/1.1" % model.encode())
    yield post(line=b"HEAD /v1/models HTTP/1.0")
    for path in (b"/v1/audio/transcriptions", b"/v1/images/edits"):
        line = b"POST %b HTTP/1.1" % path
        yield post(typed, b"Content-Length: %d" % len(form), end, line=line, body=form)
        yield post(typed, CHUNKED, end, line=line, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(form), form))


def test_valid_requests_are_served(target):
    gateway, server, model = target
    before = len(server.requests)
    last_statuses = [statuses(gateway.send(data))[-1] for data in good_requests(model)]
    assert last_statuses == [200, 200, 200, 400, 400, 400, 200, 200, 200, 200, 200, 200, 200]
    assert len(server.requests) - before == 9


def test_mutated_requests(target):
    gateway, _, model = target
    random_ = random.Random(4)
    good = list(good_requests(model))
    attack(gateway, [mutated(random_, random_.choice(good)) for _ in range(6500 * MANY)])


def test_requests_that_end_early(target):
    gateway, _, model = target
    attack(gateway, [data[:size] for data in good_requests(model) for size in range(0, len(data), 3)])


def test_bodies_that_are_no_requests(target):
    gateway, _, model = target
    name = json.dumps(model)
    bodies = [
        b"", b"{", b"[]", b"null", b"0", b'"', b"\xff\xfe", b"\xc3\x28", b'{"model":"\xff"}', b'{"model":"\\ud800"}',
        b'{"model":null}', b'{"model":[]}', b'{"model":""}', b'{"model":"' + b"x" * 300 + b'"}', b'{"model":1e999}',
        b"[" * 100_000, b'{"a":' * 50_000, b'{"model":"a","model":"b"}', b"\xef\xbb\xbf{}", b"{}" * 1000, b"\0" * 5000,
        b'{"model":' + b"9" * 10_000 + b"}",
        *(f'{{"model":{name},"stream":{value}}}'.encode() for value in ("1", '"yes"', "[]", "{}", "1e400", "-0",
        "nul")),
        *(f'{{"model":{name},"stream":true,"stream_options":{value}}}'.encode() for value in ("1", '"x"', "[]", "[{}]",
        '{"a":', "tru")),
    ]  # fmt: skip
    kinds = (
        "chat/completions",
        "completions",
        "embeddings",
        "responses",
        "messages",
        "audio/speech",
        "images/edits",
        "rerank",
    )
    lengths = [b"1", b"70000", b"9" * 10, b"9" * 18, b"18446744073709551615"]
    attack(gateway, [post(b"Content-Length: " + length, body=b"{}") for length in lengths for _ in range(5)])
    attack(gateway, [post(CHUNKED, body=size + b"\r\n{}") for size in (b"3", b"FFFF", b"F" * 8, b"F" * 15, b"F" * 16)])
    inputs = [
        post(
            b"Content-Length: %d" % len(body),
            b"Connection: close",
            line=f"POST /v1/{kind} HTTP/1.1".encode(),
            body=body,
        )
        for body in bodies
        for kind in kinds
    ]
    attack(gateway, inputs)


NAMES = st.one_of(
    st.sampled_from(
        ["Content-Length", "Transfer-Encoding", "Host", "Connection", "Expect", "Upgrade", "Content-Type", "X-API-Key",
        "Via",
         "Authorization", "X-Forwarded-For", "X-Request-Id", "Trailer", "Origin", "Access-Control-Request-Method"]
    ).map(str.encode),
    st.binary(max_size=20),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([b"chunked", b"0", b"5", b"close", b"keep-alive", b"100-continue", b"localhost", b"h2c", b"[",
    b"http://[", b"1.1 x"]),
    st.binary(max_size=30),
)  # fmt: skip
LINE = st.tuples(
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"HEAD", b"DELETE"]),
    st.one_of(
        st.sampled_from([b"/v1/models", b"/v1/chat/completions", b"/v1/models/%ff%00", b"/v1/"]), st.binary(max_size=20)
    ),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]),
).map(b" ".join)
REQUEST = st.builds(
    lambda line, headers, body: b"\r\n".join((line, *(b": ".join(header) for header in headers), b"", body)),
    LINE,
    st.lists(st.tuples(NAMES, VALUES), max_size=6),
    st.binary(max_size=60),
)


@settings(max_examples=60 * MANY, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(REQUEST, min_size=20, max_size=30))
def test_header_blocks_and_bodies_of_all_kinds(target, inputs):
    attack(target[0], inputs)
