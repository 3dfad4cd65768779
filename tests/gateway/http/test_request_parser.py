"""The parser of requests, and the fast path that skips it: both must read the same bytes alike."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fast import repeated_header_block
from gateway.fast.repeated_request import PartialBody, RepeatedRequest
from gateway.http.exchange import RequestHead, RequestLine
from gateway.http.grammar import Malformed
from gateway.http.protocol import RequestParts, _remembered
from gateway.http.request_bounds import MAX_HEADER_LINES
from gateway.http.request_parser import RequestParser, TooManyHeaderLines

HEADER_BLOCK = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"
REQUEST = HEADER_BLOCK % 4 + b"body"


class Sink:
    """A receiver that records parsed requests."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []

    def begin_request(self, method: bytes, target: bytes, head: RequestHead, length: int | None, version: str) -> None:
        self.requests.append([method, target, head.headers, length, version, b"", False])

    def receive_body(self, body: bytes) -> None:
        self.requests[-1][5] += body

    def end_request(self) -> None:
        self.requests[-1][6] = True


def parse(reads: list[bytes]) -> tuple[list[list[Any]], str]:
    """Parse a request in these reads. Return the requests, and the name of the error."""
    sink = Sink()
    parser = RequestParser(sink)
    try:
        for data in reads:
            parser.feed(data)
    except (Malformed, TooManyHeaderLines) as error:
        return sink.requests, type(error).__name__
    finally:
        parser.close()
    return sink.requests, ""


def test_a_request() -> None:
    headers = [(b"host", b"localhost"), (b"accept", b"*/*")]
    assert parse([REQUEST]) == ([[b"POST", b"/v1/chat/completions", headers, 4, "1.1", b"body", True]], "")


@given(st.lists(st.integers(0, 2 * len(REQUEST)), max_size=5))
def test_requests_are_parsed_alike_however_they_are_cut(cuts: list[int]) -> None:
    data = REQUEST + REQUEST
    edges = sorted({0, *cuts, len(data)})
    assert parse([data[a:b] for a, b in pairwise(edges)]) == parse([data])


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%b"
CHUNKS = b"2;a=b\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
BEFORE = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "a body": REQUEST,
    "no body": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no header": b"GET / HTTP/1.1\r\n\r\n",
    "chunks": CHUNKED % CHUNKS,
}


@given(st.sampled_from(sorted(BEFORE)), st.lists(st.integers(0, 400), max_size=5))
def test_pipelined_requests_are_parsed_alike_however_they_are_cut(before: str, cuts: list[int]) -> None:
    data = BEFORE[before] + REQUEST
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    requests, error = parse([data[a:b] for a, b in pairwise(edges)])
    assert (requests[-1][5:], error) == ([b"body", True], "")


@pytest.mark.parametrize("before", sorted(BEFORE))
@pytest.mark.parametrize("whole", [False, True])
def test_a_proper_first_line_elsewhere_is_no_first_line(before: str, whole: bool) -> None:
    """The parser accepts several blanks; a header or a body that has the line does not make them proper."""
    line = b"GET /health HTTP/1.1\r\n"
    evil = line.replace(b" ", b"  ", 1) + b"X: " + line + b"\r\n"
    bodies = (
        REQUEST.replace(b"body", line).replace(b": 4", b": %d" % len(line)),
        CHUNKED % (b"16\r\n%b\r\n0\r\n\r\n" % line),
    )
    for first in (BEFORE[before], *(BEFORE[before] + body for body in bodies)):
        reads = [first + evil] if whole else [first, evil]
        requests, error = parse(reads)
        assert error == "Malformed"
        assert b"/health" not in [request[1] for request in requests]


def test_a_request_behind_trailers() -> None:
    requests, error = parse([CHUNKED % CHUNKS.replace(b"0\r\n", b"0\r\nA: b\r\nC: d\r\n") + REQUEST])
    assert ([request[5] for request in requests], error) == ([b"body", b"body"], "")


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: b\r\n",
        b"Content-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: a\r\nExpect: b\r\n",
        b"A\r\n",
    ],
)
def test_ambiguous_header_blocks_are_malformed(lines: bytes) -> None:
    assert parse([REQUEST.replace(b"Accept", lines + b"Accept")])[1] == "Malformed"


def test_a_header_block_of_too_many_lines() -> None:
    assert parse([REQUEST.replace(b"Accept", b"a: b\r\n" * MAX_HEADER_LINES + b"Accept")])[1] == "TooManyHeaderLines"


def test_nothing_is_parsed_after_the_stop() -> None:
    sink = Sink()
    parser = RequestParser(sink)
    parser.feed(REQUEST[:-1])
    parser.stop()
    parser.feed(REQUEST[-1:] + REQUEST)
    assert [(request[5], request[6]) for request in sink.requests] == [(b"body", True)]


# Fast path


def remembered(data: bytes = REQUEST, **fields: Any) -> RepeatedRequest[RequestParts] | None:
    exchange: dict[str, Any] = {
        "length": 4, "keep_alive": True, "reader": None, "expects_continue": False, "head": None,
        "line": RequestLine(b"POST", b"/v1/chat/completions", "1.1"),
    }  # fmt: skip
    return _remembered(data, SimpleNamespace(**{**exchange, **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"length": None},
        {"keep_alive": False},
        {"line": RequestLine(b"POST", b"/", "1.0")},
        {"reader": object()},
        {"expects_continue": True},
    ],
)
def test_requests_that_are_not_remembered(fields: dict[str, Any]) -> None:
    assert remembered() is not None
    assert remembered(**fields) is None


def test_the_fast_path_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_header_block, "ENABLED", False)
    assert remembered() is None


@st.composite
def follow_ups(draw: st.DrawFn) -> bytes:
    """Return a request like REQUEST with another body and Content-Length, with some bytes changed, and cut."""
    body = draw(st.binary(max_size=20))
    length = draw(st.sampled_from([len(body), len(body) + 3, 0, 10**6, 2 * 10**6, 10**9]))
    data = bytearray(HEADER_BLOCK % length + body)
    for position in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[position] = draw(st.sampled_from(b"\r\n 0:aC\x00\xff"))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(follow_ups())
def test_the_fast_path_reads_a_request_as_the_parser_does(data: bytes) -> None:
    repeated = remembered()
    assert repeated is not None
    matched = repeated.match(data)
    if matched is None:
        return
    body, length = matched
    requests, error = parse([data])
    assert error == ""
    (request,) = requests
    assert request[:2] == [b"POST", b"/v1/chat/completions"]
    assert request[2] == parse([REQUEST])[0][0][2]
    assert (request[3], request[5], request[6]) == (length, body, len(body) == length)


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=60), st.binary(max_size=5))
def test_a_partial_body_is_complete_and_leaves_the_rest(body: bytes, cuts: list[int], rest: bytes) -> None:
    data = body + rest
    edges = sorted({0, *(cut for cut in cuts if cut < len(body)), len(data)})
    reads = [data[a:b] for a, b in pairwise(edges)]
    first, *others = reads
    if len(first) > len(body):
        first, others = first[: len(body)], [first[len(body) :]]
    partial = PartialBody(first, len(body) - len(first))
    left = [partial.add(read) for read in others]
    assert (partial.whole(), partial.missing) == (body, 0)
    assert b"".join(left) == rest
