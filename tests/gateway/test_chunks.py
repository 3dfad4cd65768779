"""Chunks that are told by their bytes bring what the parser would have told of them."""

import asyncio
import re
from itertools import pairwise
from unittest.mock import Mock, patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import upstream as upstreams
from gateway.upstream import Pool, Sweeper, UpstreamError, _whole_chunk

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def framed(body: bytes, size: bytes = b"") -> bytes:
    return b"%b\r\n%b\r\n" % (size or b"%x" % len(body), body)


@pytest.mark.parametrize("size", [b"5", b"0005", b"000005"])
def test_one_chunk(size):
    assert _whole_chunk(framed(b"a\r\nbc", size)) == b"a\r\nbc"
    assert _whole_chunk(framed(b"x" * 171, b"Ab")) == b"x" * 171


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\r\n", b"5\r\n", b"5\r\nhell\r\n", b"5\r\nhello!\r\n", b"5\r\nhello\n\n", b"5\nhello\r\n", END,
        b"5;a=b\r\nhello\r\n", b"5 \r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"0_5\r\nhello\r\n",
        b"00000005\r\nhello\r\n", framed(b"hello") * 2, framed(b"hello") + END,
    ],
)  # fmt: skip
def test_what_the_parser_has_to_see(data):
    assert _whole_chunk(data) is None


def received(pieces: list[bytes], takes: int = 1 << 30) -> tuple[bytes, int, str]:
    """What is given of an answer that comes in these pieces: its bytes, in how many calls, how it ends. Whoever takes
    it cannot, for a moment, each time that it has taken so many.
    """

    async def run() -> tuple[bytes, int, str]:
        connection = upstreams.Connection(Pool("http://127.0.0.1:9", Sweeper(asyncio.get_running_loop())))
        connection.connection_made(Mock(is_closing=lambda: False))
        connection.send(b"GET / HTTP/1.1\r\n\r\n", [b""], None)
        given: list[bytes] = []

        def take(data: bytes) -> bool:
            given.append(data)
            return len(given) % takes != 0

        async def read() -> str:
            try:
                await connection.head()
                while not await connection.hand_on(take):
                    await asyncio.sleep(0)
            except UpstreamError as error:
                return re.sub(r":.*", "", str(error))
            return "whole"

        reading = asyncio.ensure_future(read())
        for piece in pieces:
            await asyncio.sleep(0)
            if not connection.complete and connection.error is None:
                connection.data_received(piece)
        await asyncio.sleep(0)
        if not reading.done():
            connection.connection_lost(None)
        return b"".join(given), len(given), await reading

    return asyncio.run(run())


def told_alike(pieces: list[bytes], takes: int = 1 << 30) -> str:
    found = received(pieces, takes)
    with patch.object(upstreams, "_whole_chunk", lambda data: None):
        assert received(pieces, takes) == found
    return found[2]


def test_each_chunk_is_given_at_once():
    assert received([HEAD + framed(b"one"), framed(b"two"), framed(b"three"), END]) == (b"onetwothree", 3, "whole")


def test_the_parser_sees_the_head_and_the_end_alone():
    with patch.object(upstreams.Connection, "_parse", autospec=True, side_effect=upstreams.Connection._parse) as parse:
        received([HEAD + framed(b"one"), framed(b"two"), framed(b"three"), END])
    assert parse.call_count == 2


def test_a_body_that_looks_like_a_chunk_is_none():
    """Its first bytes came before: what follows is the middle of a chunk."""
    assert told_alike([HEAD + b"f\r\n", b"5\r\nhello\r\nabcde\r\n"[:15], b"\r\n", framed(b"two"), END]) == "whole"


def test_a_length_keeps_its_bytes():
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n"
    assert received([head + b"1\r\na\r\n", framed(b"b"), framed(b"c")])[0] == b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n"


@pytest.mark.parametrize("wrong", [b"zz\r\nhello\r\n", b"6\r\nhello\r\n", b"0x5\r\nhello\r\n", b"-5\r\nhello\r\n"])
def test_a_wrong_chunk_ends_the_answer(wrong):
    assert told_alike([HEAD + framed(b"one"), wrong, framed(b"two"), END]) != "whole"


@pytest.mark.parametrize("takes", [1, 2, 3])
def test_whoever_cannot_take_more_is_waited_for(takes):
    assert told_alike([HEAD, *[framed(b"x" * size) for size in range(1, 9)], END], takes) == "whole"


PARTS = st.one_of(
    st.binary(min_size=1, max_size=20).map(framed),
    st.sampled_from([b"5;a=b\r\nhello\r\n", b"1\r\n\n\r\n", b"2\r\n\r\n\r\n", b"A\r\n0123456789\r\n", b"x", b"\r\n"]),
)


@given(st.lists(PARTS, max_size=8), st.lists(st.integers(0, 200), max_size=6), st.integers(1, 4), st.booleans())
def test_any_answer(parts, cuts, takes, whole_parts):
    pieces = [HEAD, *parts, END + b"tail"[: len(cuts) % 2]]
    if not whole_parts:
        body = b"".join(pieces)
        edges = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
        pieces = [body[a:b] for a, b in pairwise(edges)]
    told_alike(pieces, takes)
