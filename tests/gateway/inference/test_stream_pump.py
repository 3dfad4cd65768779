"""The pump of a stream, between a connection to an endpoint and a client's exchange: chunks that are not parsed."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from gateway.base.request_kinds import CHAT
from gateway.dialects.openai_events import dialect
from gateway.dialects.sse_relay import StreamRelay
from gateway.inference import relaying
from gateway.inference.relaying import StreamPump
from gateway.upstream.connection import NEVER, Connection
from gateway.upstream.pool import Pool, Sweeper
from tests.gateway.client import in_loop
from tests.gateway.scripted import DONE, LAST, chunk

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [chunk(f" {number}") for number in range(8)]


def framed(*events):
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


class Exchange:
    """A client's exchange, with its connection. The client is slow from the time when `write_paused` is set."""

    chunked = True
    write_paused = lost = False

    def __init__(self):
        self.sent = b""
        self.unparsed = 0
        self.started = True
        self.protocol = self.flow = self
        self.transport = SimpleNamespace(write=self.write_chunk)
        self.writes = SimpleNamespace(holding=False)

    def write(self, data):
        self.sent += framed(data)

    def write_chunk(self, data):
        self.unparsed += 1
        self.sent += data


class Stream:
    """A stream that a test receives read by read."""

    def __init__(self):
        self.connection = Connection(Pool("http://127.0.0.1:9", Sweeper(asyncio.get_running_loop())))
        self.connection.connection_made(Mock(is_closing=lambda: False))
        self.connection.send(b"GET / HTTP/1.1\r\n\r\n", [b""], None)
        self.exchange = Exchange()
        self.relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=True)
        facts = SimpleNamespace(total_timeout_secs=None)
        attempt: Any = SimpleNamespace(
            idle_seconds=30.0,
            first_token=None,
            sent=True,
            endpoint=SimpleNamespace(facts=facts),
            started=0.0,
            prompt_read=lambda: None,
        )
        request: Any = SimpleNamespace(exchange=self.exchange)
        self.pump = StreamPump(request, attempt, self.connection, self.relay)
        self.consuming = asyncio.ensure_future(self.connection.consume(self.pump))

    async def receive(self, *reads):
        for data in reads:
            await asyncio.sleep(0)
            self.connection.data_received(data)
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch):
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(relaying, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@in_loop
async def test_repeated_events_are_not_parsed_and_counted_as_others_are():
    stream = Stream()
    await stream.receive(HEAD, *map(framed, EVENTS), framed(LAST, DONE) + b"0\r\n\r\n")
    assert await stream.consuming
    assert stream.exchange.sent == framed(*EVENTS, LAST)
    assert stream.exchange.unparsed == len(EVENTS) - 1
    assert (stream.relay.events, stream.relay.deltas, stream.relay.whole) == (len(EVENTS) + 2, len(EVENTS), True)
    assert stream.relay.held == DONE


@in_loop
async def test_events_in_one_chunk_are_parsed_and_later_ones_are_not():
    stream = Stream()
    joined = b"".join(EVENTS[3:5])
    await stream.receive(HEAD, *map(framed, [*EVENTS[:3], joined, *EVENTS[5:]]))
    assert stream.exchange.sent == framed(*EVENTS[:3], joined, *EVENTS[5:])
    assert stream.exchange.unparsed == len(EVENTS) - 3


@in_loop
async def test_chunks_that_arrive_together_are_not_parsed():
    stream = Stream()
    await stream.receive(HEAD, framed(EVENTS[0]), framed(*EVENTS[1:4]), framed(*EVENTS[4:]))
    assert (stream.exchange.sent, stream.exchange.unparsed) == (framed(*EVENTS), 2)
    assert stream.relay.deltas == len(EVENTS)


@in_loop
async def test_a_client_that_gets_no_chunks_gets_parsed_events():
    stream = Stream()
    stream.exchange.chunked = False
    await stream.receive(HEAD, *map(framed, EVENTS))
    assert (stream.exchange.sent, stream.exchange.unparsed) == (framed(*EVENTS), 0)


@in_loop
async def test_a_slow_client_gets_nothing_until_it_has_read():
    stream = Stream()
    await stream.receive(HEAD, *map(framed, EVENTS[:4]))
    stream.exchange.write_paused = True
    await stream.receive(framed(EVENTS[4]), framed(EVENTS[5]), framed(EVENTS[6]))
    assert not await stream.consuming
    assert stream.exchange.sent == framed(*EVENTS[:5])
    stream.exchange.write_paused = False
    stream.consuming = asyncio.ensure_future(stream.connection.consume(stream.pump))
    await stream.receive(framed(EVENTS[7]))
    assert b"".join(stream.exchange.sent.split(b"\r\n")[1::2]) == b"".join(EVENTS)


@in_loop
async def test_unparsed_events_extend_the_deadline_when_the_sweeper_looks(clock):
    stream = Stream()
    await stream.receive(HEAD, *map(framed, EVENTS[:3]))
    assert stream.connection.deadline == 1030
    clock.now = 1010.0
    stream.pump.extend()
    assert stream.connection.deadline == 1040  # by the third event
    stream.pump.extend()
    await stream.receive(framed(b": a comment\n\n"))
    clock.now = 1020.0
    stream.pump.extend()
    assert stream.connection.deadline == 1040


@in_loop
async def test_events_after_the_end_of_a_stream_do_not_extend_its_deadline(clock):
    stream = Stream()
    await stream.receive(HEAD, *map(framed, EVENTS), framed(LAST, DONE))
    assert stream.connection.deadline == 1000 + relaying.GRACE_SECONDS
    clock.now = 1000.4
    await stream.receive(framed(EVENTS[0]))
    stream.pump.extend()
    assert stream.connection.deadline == 1000 + relaying.GRACE_SECONDS


@in_loop
async def test_a_failed_stream_takes_no_more_chunks():
    stream = Stream()
    await stream.receive(HEAD, *map(framed, EVENTS[:3]))
    stream.connection.abort()
    await stream.receive(framed(EVENTS[3]))
    assert (stream.exchange.sent, stream.connection.deadline) == (framed(*EVENTS[:3]), NEVER)
    stream.consuming.cancel()
