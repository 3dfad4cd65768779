"""The body of a response that is read as a whole."""

import pytest

from gateway.upstream.response_parser import GROWING_BYTES, ResponseParser
from tests.memory import with_peak

READ = 64 << 10


def collected(body: bytes, chunked: bool) -> bytes:
    """Return the body as a parser collects it."""
    parser = ResponseParser()
    parser.collecting = True
    if chunked:
        parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", READ)
    else:
        parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), READ)
    for start in range(0, len(body), READ):
        piece = body[start : start + READ]
        parser.feed(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece, READ)
        assert parser.size == min(start + READ, len(body))
    if chunked:
        parser.feed(b"0\r\n\r\n", 5)
    assert parser.complete
    collected_body = parser.take_body()
    assert (parser.size, parser.take_body()) == (0, b"")
    return collected_body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [READ, GROWING_BYTES, GROWING_BYTES + 1, 2 * GROWING_BYTES, 5 * GROWING_BYTES + 7])
def test_a_body_is_collected_in_its_order(size, chunked):
    body = bytes(range(256)) * (size // 256) + b"end"
    assert collected(body, chunked) == body


def test_a_long_body_is_in_memory_once():
    body = b"a" * (16 << 20)
    collected_body, peak = with_peak(lambda: collected(body, chunked=False))
    assert collected_body == body
    assert peak < 1.3 * len(body)
