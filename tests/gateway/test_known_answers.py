"""Answers that repeat the head of one before: told by their bytes, and never taken otherwise for it."""

from collections.abc import Callable
from unittest.mock import patch

import pytest

from gateway import upstream as upstreams
from gateway.upstream import StaleConnection, UpstreamError
from tests.gateway.client import ask, in_loop, serving
from tests.gateway.scripted import Talk, answer

FIRST = answer(b'{"first": 1}', 200, "application/json", "X-Note: A")
HEAD, _, BODY = FIRST.partition(b"\r\n\r\n")
LENGTH = b"content-length: 12"

# What the second answer is, in pieces.
ANSWERS: dict[str, list[bytes]] = {
    "the same": [FIRST],
    "another length": [answer(b"[" + b" " * 20_000 + b"]", 200, "application/json", "X-Note: A")],
    "in two pieces": [FIRST[:-5], FIRST[-5:]],
    "another status": [FIRST.replace(b"200", b"503")],
    "another header": [FIRST.replace(b"X-Note: A", b"X-Note: B")],
    "one more header": [FIRST.replace(LENGTH, b"x-more: 1\r\n" + LENGTH)],
    "behind a word to go on": [b"HTTP/1.1 100 Continue\r\n\r\n" + FIRST],
    "something behind it": [FIRST + b"more"],
    "another answer behind it": [FIRST + FIRST],
    "nothing in it": [FIRST.replace(LENGTH, b"content-length: 0")[: -len(BODY)]],
    "leading zeros": [FIRST.replace(LENGTH, b"content-length: 0012")],
    "letters": [FIRST.replace(LENGTH, b"content-length: 1x2")],
    "a sign": [FIRST.replace(LENGTH, b"content-length: +12")],
    "two lengths": [FIRST.replace(LENGTH, LENGTH + b"\r\ncontent-length: 11")],
    "chunks": [FIRST.replace(LENGTH, b"transfer-encoding: chunked").replace(BODY, b"c\r\n%b\r\n0\r\n\r\n" % BODY)],
    "it closes": [FIRST.replace(LENGTH, b"connection: close\r\n" + LENGTH)],
    "less than it tells": [FIRST[:-3]],
}


def scripted(*answers: list[bytes]) -> Callable[[Talk], None]:
    """Answers each request of a connection with the next pieces, then closes."""

    def script(talk: Talk):
        for pieces in answers:
            if not talk.request():
                return
            for piece in pieces:
                talk.send(piece)

    return script


async def taken(pool: upstreams.Pool) -> tuple[object, ...]:
    """What becomes of an answer."""
    try:
        connection = await ask(pool, timeout=5.0)
        body = await connection.read_all()
    except (UpstreamError, StaleConnection) as error:
        return (type(error).__name__,)
    headers = sorted(header for header in connection.headers if header[0] != b"content-length")
    return connection.status, headers, body, connection in pool.idle


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
@in_loop
async def test_a_second_answer_is_taken_as_a_first_one(pieces):
    found = []
    for learns in (True, False):
        with patch.object(upstreams, "LEARN_SECONDS", 0.0 if learns else 1e9):
            async with serving(scripted([FIRST], pieces)) as (pool, _):
                pool.learned_at = -1.0 if learns else pool.learned_at
                await taken(pool)
                assert (pool.known is not None) is learns
                found.append(await taken(pool))
    assert found[0] == found[1]


@in_loop
async def test_a_known_answer_is_not_parsed():
    async with serving(scripted([FIRST], [FIRST])) as (pool, _):
        await taken(pool)
        with patch.object(upstreams.Connection, "on_message_begin", side_effect=AssertionError):
            status, *_, body, kept = await taken(pool)
    assert (status, body, kept) == (200, b'{"first": 1}', True)


@pytest.mark.parametrize("name", ["in two pieces", "chunks", "it closes", "behind a word to go on", "nothing in it"])
@in_loop
async def test_what_is_not_learned(name):
    async with serving(scripted(ANSWERS[name], [FIRST])) as (pool, _):
        await taken(pool)
        assert pool.known is None or name == "in two pieces"


@in_loop
async def test_heads_that_all_differ_are_not_all_learned():
    others = [[FIRST.replace(b"X-Note: A", b"X-Note: %d" % number)] for number in range(20)]
    with patch.object(upstreams, "LEARN_SECONDS", 60.0):
        async with serving(scripted([FIRST], *others)) as (pool, _):
            for _ in range(10):
                await taken(pool)
            assert dict(pool.known[1].headers)[b"x-note"] == b"A"
