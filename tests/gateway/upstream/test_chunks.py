"""Chunked bodies, however they are cut into reads: what a consumer receives, against a decoder of the tests' own.

The consumers take each read that they are offered as one chunk: if a chunk did not begin with it, the rest of the body
would be another one.
"""

import asyncio
import re
from itertools import pairwise
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.connection import BODY, HEAD, SENDING, Connection
from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import Pool, Sweeper
from tests.gateway.client import Consumer

HEADER_BLOCK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
WHOLE, BROKE_OFF, MALFORMED = "whole", "the connection broke off", "not a proper HTTP response"


def framed(body: bytes, size: bytes = b"") -> bytes:
    return b"%b\r\n%b\r\n" % (size or b"%x" % len(body), body)


def decode(data: bytes) -> tuple[bytes, str]:
    """Decode a chunked body by RFC 9112, section 7.1. Return what can be decoded, and how it ends."""
    body = bytearray()
    while True:
        line = re.match(rb"([0-9A-Fa-f]{1,15})(;[^\r\n]*)?\r\n", data)
        if line is None:
            incomplete = re.fullmatch(rb"([0-9A-Fa-f]+(;[^\r\n]*)?\r?)?", data)
            return bytes(body), BROKE_OFF if incomplete else MALFORMED
        size, data = int(line[1], 16), data[line.end() :]
        if not size:
            return bytes(body), WHOLE if data[:2] == b"\r\n" else BROKE_OFF if b"\r\n".startswith(data) else MALFORMED
        body += data[:size]
        end, data = data[size : size + 2], data[size + 2 :]
        if end != b"\r\n":
            return bytes(body), BROKE_OFF if b"\r\n".startswith(end) else MALFORMED


def only_chunks(data: bytes) -> bytes | None:
    """Return the body of a read that is nothing but whole chunks with their framing."""
    body = b""
    while data:
        line = re.match(rb"([1-9a-f][0-9a-f]*)\r\n", data)
        part = b"" if line is None else data[line.end() : line.end() + int(line[1], 16)]
        if not part or not data.startswith(framed(part)):
            return None
        body += part
        data = data[len(framed(part)) :]
    return body


def receive(
    reads: list[bytes], pause_every: int = 1 << 30, unparsed: list[bytes] | None = None
) -> tuple[list[bytes], str]:
    """Receive a response in these reads. Return what the consumer gets in each call, and how the response ends. The
    consumer applies back-pressure after every `pause_every` calls. `unparsed` gets the bodies of the chunks that it
    took without the parser.
    """

    taken = _Taken(pause_every, [] if unparsed is None else unparsed)

    async def read() -> str:
        try:
            await taken.connection.receive_head()
            while not await taken.connection.consume(Consumer(taken.take, taken.take_chunk)):
                await asyncio.sleep(0)
        except UpstreamError as error:
            return re.sub(r":.*", "", str(error))
        return WHOLE

    async def run() -> str:
        taken.connection = connection = Connection(Pool("http://127.0.0.1:9", Sweeper(asyncio.get_running_loop())))
        connection.connection_made(Mock(is_closing=lambda: False))
        connection.send(b"GET / HTTP/1.1\r\n\r\n", [b""], None)
        reading = asyncio.ensure_future(read())
        for data in reads:
            await asyncio.sleep(0)
            if SENDING <= connection.state <= BODY:
                connection.data_received(data)
        await asyncio.sleep(0)
        if connection.state in (HEAD, BODY):
            connection.connection_lost(None)
        return await reading

    end = asyncio.run(run())
    return taken.calls, end


class _Taken:
    """What a consumer takes."""

    connection: Connection

    def __init__(self, pause_every: int, unparsed: list[bytes]) -> None:
        self.calls: list[bytes] = []
        self._pause_every = pause_every
        self._unparsed = unparsed

    def take(self, data: bytes) -> bool:
        self.calls.append(data)
        return len(self.calls) % self._pause_every != 0

    def take_chunk(self, data: bytes) -> bool | None:
        body = only_chunks(data)
        if body is None:
            return None
        self._unparsed.append(body)
        return self.take(body)


def check(reads: list[bytes], pause_every: int = 1 << 30) -> str:
    """Compare a response whose header block is HEADER_BLOCK with the decoder. Return how it ends."""
    calls, end = receive(reads, pause_every)
    body, expected = decode(b"".join(reads).removeprefix(HEADER_BLOCK))
    assert end == expected
    if end == MALFORMED:
        assert body.startswith(b"".join(calls))
    else:
        assert b"".join(calls) == body
    return end


def test_each_chunk_is_passed_on_in_the_call_that_receives_it():
    reads = [HEADER_BLOCK + framed(b"one"), framed(b"two"), framed(b"three"), END]
    assert receive(reads) == ([b"one", b"two", b"three"], WHOLE)


def test_the_chunks_of_one_read_are_passed_on_together():
    reads = [HEADER_BLOCK, framed(b"one") + framed(b"two") + framed(b"three"), framed(b"four") + END]
    assert receive(reads) == ([b"onetwothree", b"four"], WHOLE)


EVENTS = [b"data: %d\n\n" % number for number in range(6)]


def test_a_chunk_after_the_end_of_an_event_is_offered_unparsed():
    unparsed: list[bytes] = []
    assert receive([HEADER_BLOCK, *map(framed, EVENTS), END], unparsed=unparsed) == (EVENTS, WHOLE)
    assert unparsed == EVENTS[1:]


def test_no_other_read_is_offered_unparsed():
    one, two, three, *_ = EVENTS
    unparsed: list[bytes] = []
    reads = [
        framed(b"no event"), framed(one)[:-2], b"\r\n", framed(two)[:-1], b"\n", b"8\r\n", b"1\r\n\n\n\r\n", b"\r\n",
        b"a\r\nno\n\n\r\n", b"more\r\n", framed(three) + b"5\r\n", b"none.\r\n",
    ]  # fmt: skip
    calls, end = receive([HEADER_BLOCK, *reads, END], unparsed=unparsed)
    assert (b"".join(calls), end) == decode(b"".join([*reads, END]))
    assert unparsed == []


def test_a_body_with_a_length_is_never_offered_unparsed():
    unparsed: list[bytes] = []
    reads = [b"5\r\nab\n\n\n\r\n", framed(EVENTS[0]), framed(EVENTS[1])]
    length = sum(map(len, reads))
    calls, end = receive([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length, *reads], unparsed=unparsed)
    assert (b"".join(calls), end, unparsed) == (b"".join(reads), WHOLE, [])


@pytest.mark.parametrize("size", [b"5", b"0005", b"000005", b"5;a=b", b"5;a"])
def test_forms_of_a_size(size):
    assert check([HEADER_BLOCK, framed(b"a\r\nbc", size), END]) == WHOLE


def test_a_body_that_contains_a_chunk():
    assert check([HEADER_BLOCK + b"f\r\n", b"5\r\nhello\r\nabcde", b"\r\n", framed(b"two"), END]) == WHOLE


def test_a_body_with_a_length_is_not_decoded():
    header_block = b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n"
    calls, end = receive([header_block + b"1\r\na\r\n", framed(b"b"), framed(b"c")])
    assert (b"".join(calls), end) == (b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n", WHOLE)


@pytest.mark.parametrize(
    "wrong",
    [
        b"zz\r\nhello\r\n", b"6\r\nhello\r\n", b"4\r\nhello\r\n", b"0x5\r\nhello\r\n", b"0_5\r\nhello\r\n",
        b"-5\r\nhello\r\n", b"+5\r\nhello\r\n", b"5\nhello\r\n", b"5\r\nhello\n\n", b"\r\n",
    ],
)  # fmt: skip
def test_a_malformed_chunk_ends_the_response(wrong):
    assert check([HEADER_BLOCK + framed(b"one"), wrong, framed(b"two"), END]) == MALFORMED


@pytest.mark.parametrize("part", [b"", b"5", b"5\r", b"5\r\n", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r", b"0\r\n\r"])
def test_a_chunk_that_breaks_off(part):
    assert check([HEADER_BLOCK + framed(b"one"), part]) == BROKE_OFF


@pytest.mark.parametrize("pause_every", [1, 2, 3])
def test_a_consumer_of_events_that_applies_back_pressure_receives_everything(pause_every):
    assert check([HEADER_BLOCK, *map(framed, EVENTS), END], pause_every) == WHOLE


@pytest.mark.parametrize("pause_every", [1, 2, 3])
def test_a_consumer_that_applies_back_pressure_receives_everything(pause_every):
    assert check([HEADER_BLOCK, *[framed(b"x" * size) for size in range(1, 9)], END], pause_every) == WHOLE


PARTS = st.one_of(
    st.binary(min_size=1, max_size=20).map(framed),
    st.sampled_from([*EVENTS, b"\n\n", b"\n", b"\n\n\r\n", b"4\r\nab\n\n\r\n"]).map(framed),
    st.sampled_from([b"5;a=b\r\nhello\r\n", b"1\r\n\n\r\n", b"2\r\n\r\n\r\n", b"A\r\n0123456789\r\n", b"x", b"\r\n"]),
)


@given(st.lists(PARTS, max_size=8), st.lists(st.integers(0, 200), max_size=6), st.integers(1, 4), st.booleans())
def test_any_response_cut_anywhere(parts, cuts, pause_every, uncut):
    reads = [HEADER_BLOCK, *parts, END]
    if not uncut:
        data = b"".join(reads)
        edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        reads = [data[a:b] for a, b in pairwise(edges)]
    check(reads, pause_every)
