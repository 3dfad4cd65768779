"""Responses that repeat the header block of one before skip the parser, with the same result."""

from collections.abc import Callable
from unittest.mock import patch

import pytest

from gateway.upstream import response_head
from gateway.upstream.errors import StaleConnection, UpstreamError
from gateway.upstream.pool import Pool
from gateway.upstream.response_parser import ResponseParser
from tests.gateway.client import in_loop, send_request, serving
from tests.gateway.scripted import Talk, http_response

FIRST = http_response(b'{"first": 1}', 200, "application/json", "X-Note: A")
HEAD, _, BODY = FIRST.partition(b"\r\n\r\n")
LENGTH = b"content-length: 12"

# The second response, in parts.
RESPONSES: dict[str, list[bytes]] = {
    "the same": [FIRST],
    "another length": [http_response(b"[" + b" " * 20_000 + b"]", 200, "application/json", "X-Note: A")],
    "in two pieces": [FIRST[:-5], FIRST[-5:]],
    "another status": [FIRST.replace(b"200", b"503")],
    "another header": [FIRST.replace(b"X-Note: A", b"X-Note: B")],
    "one more header": [FIRST.replace(LENGTH, b"x-more: 1\r\n" + LENGTH)],
    "after 100 Continue": [b"HTTP/1.1 100 Continue\r\n\r\n" + FIRST],
    "bytes after it": [FIRST + b"more"],
    "another response after it": [FIRST + FIRST],
    "an empty body": [FIRST.replace(LENGTH, b"content-length: 0")[: -len(BODY)]],
    "leading zeros": [FIRST.replace(LENGTH, b"content-length: 0012")],
    "letters": [FIRST.replace(LENGTH, b"content-length: 1x2")],
    "a sign": [FIRST.replace(LENGTH, b"content-length: +12")],
    "two lengths": [FIRST.replace(LENGTH, LENGTH + b"\r\ncontent-length: 11")],
    "chunks": [FIRST.replace(LENGTH, b"transfer-encoding: chunked").replace(BODY, b"c\r\n%b\r\n0\r\n\r\n" % BODY)],
    "connection: close": [FIRST.replace(LENGTH, b"connection: close\r\n" + LENGTH)],
    "shorter than its length": [FIRST[:-3]],
}


def scripted(*responses: list[bytes]) -> Callable[[Talk], None]:
    """Return a script that sends the next parts for each request of a connection, then closes it."""

    def script(talk: Talk):
        for pieces in responses:
            if not talk.request():
                return
            for piece in pieces:
                talk.send(piece)

    return script


async def received(pool: Pool) -> tuple[object, ...]:
    """Return the parts of a response, or the name of its error."""
    try:
        connection = await send_request(pool, timeout=5.0)
        body = await connection.read_all()
    except (UpstreamError, StaleConnection) as error:
        return (type(error).__name__,)
    headers = sorted(header for header in connection.headers if header[0] != b"content-length")
    return connection.status, headers, body, connection in pool.idle


@pytest.mark.parametrize("pieces", RESPONSES.values(), ids=RESPONSES)
@in_loop
async def test_a_second_response_is_received_like_a_first_one(pieces):
    responses = []
    for remembers in (True, False):
        with patch.object(response_head, "REMEMBER_SECONDS", 0.0 if remembers else 1e9):
            async with serving(scripted([FIRST], pieces)) as (pool, _):
                pool.repeated.remembered_at = -1.0 if remembers else pool.repeated.remembered_at
                await received(pool)
                assert (pool.repeated.template is not None) is remembers
                responses.append(await received(pool))
    assert responses[0] == responses[1]


@in_loop
async def test_a_repeated_response_skips_the_parser():
    async with serving(scripted([FIRST], [FIRST])) as (pool, _):
        await received(pool)
        with patch.object(ResponseParser, "on_message_begin", side_effect=AssertionError):
            status, *_, body, kept = await received(pool)
    assert (status, body, kept) == (200, b'{"first": 1}', True)


@pytest.mark.parametrize(
    "name", ["in two pieces", "chunks", "connection: close", "after 100 Continue", "an empty body"]
)
@in_loop
async def test_responses_that_are_not_remembered(name):
    async with serving(scripted(RESPONSES[name], [FIRST])) as (pool, _):
        await received(pool)
        assert pool.repeated.template is None or name == "in two pieces"


@in_loop
async def test_header_blocks_that_all_differ_are_not_all_remembered():
    others = [[FIRST.replace(b"X-Note: A", b"X-Note: %d" % number)] for number in range(20)]
    with patch.object(response_head, "REMEMBER_SECONDS", 60.0):
        async with serving(scripted([FIRST], *others)) as (pool, _):
            for _ in range(10):
                await received(pool)
            assert dict(pool.repeated.head.headers)[b"x-note"] == b"A"
