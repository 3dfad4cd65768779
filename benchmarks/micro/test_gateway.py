"""The steps of a request through a gateway, one at a time."""

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.bodies import SHAPES
from benchmarks.bench.tools import MODEL, chat_body
from gateway.base.request_kinds import CHAT
from gateway.dialects.json_outline import quick_outline
from gateway.dialects.openai_events import dialect
from gateway.dialects.openai_requests import adapt_request, parse_fields, parse_large, parse_request, split_large
from gateway.dialects.openai_responses import read_response
from gateway.dialects.sse_relay import StreamRelay
from gateway.ipc import journal, record
from gateway.loop.time_slices import run_unsliced
from tests.gateway.samples import make_record
from tests.gateway.scripted import chunk

Benchmark = Callable[..., Any]  # pytest-benchmark's fixture

SIZES = {"1.5 KB": 1500, "200 KB": 200_000}
RESPONSE = b'{"id":"x","model":"%b","choices":[],"usage":{"prompt_tokens":312,"completion_tokens":58}}' % MODEL.encode()


@pytest.fixture(params=list(SIZES.values()), ids=list(SIZES))
def body(request: pytest.FixtureRequest) -> bytes:
    return chat_body(request.param, stream=True)


def test_parse_request(benchmark: Benchmark, body: bytes) -> None:
    assert benchmark(parse_request, body).model == MODEL


def test_request_usage(benchmark: Benchmark, body: bytes) -> None:
    found = benchmark(adapt_request, body, model=None, include_usage=True)
    assert b'"include_usage":true' in found


def test_rename_the_model(benchmark: Benchmark, body: bytes) -> None:
    found = benchmark(adapt_request, body, model="canonical", include_usage=False)
    assert b'"canonical"' in found


# How a body is read: the parser alone, the outline before it, or one of them by the beginning of the body
READERS: dict[str, Callable[[bytes], Any]] = {
    "parser": lambda body: parse_large(body, parse_fields(body)),
    "outline": lambda body: parse_large(body, quick_outline(body) or parse_fields(body)),
    "choice": lambda body: parse_large(body, run_unsliced(split_large(body))),
}
KIB = 1 << 10


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", [40 * KIB, 64 * KIB, 144 * KIB, 200_000, 512 * KIB, 1900 * KIB])
@pytest.mark.parametrize("shape", SHAPES)
def test_read_a_big_body(benchmark: Benchmark, shape: str, size: int, reader: str) -> None:
    assert benchmark(READERS[reader], SHAPES[shape](size)).model == MODEL


@pytest.mark.parametrize("requested", [MODEL, "alias"])
def test_read_a_response(benchmark: Benchmark, requested: str) -> None:
    _, usage = benchmark(read_response, RESPONSE, requested)
    assert usage is not None


@pytest.mark.parametrize("requested", [MODEL, "alias"])
def test_relay_an_event(benchmark: Benchmark, requested: str) -> None:
    relay = StreamRelay(dialect(CHAT), requested, hide_usage=True)
    event = chunk(" token", model=MODEL)
    sent = benchmark(relay.feed, event)
    assert bytes(sent).endswith(b"\n\n")


def test_relay_512_events_in_one_read(benchmark: Benchmark) -> None:
    relay = StreamRelay(dialect(CHAT), MODEL, hide_usage=True)
    events = chunk(" token", model=MODEL) * 512
    assert bytes(benchmark(relay.feed, events)) == events


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[journal.Writer]:
    made = journal.Writer(tmp_path, "database-1")
    made.open()
    yield made
    made.close()


def usual_record() -> record.RequestRecord:
    attempt = record.AttemptRecord("0192f3a4-0000-7000-8000-000000000000", record.OK, 200, 12_345)
    return make_record(
        id=record.uuid7(),
        completed_us=1_790_000_000_000_000,
        duration_us=12_345,
        attempts=(attempt,),
        input_tokens=312,
        output_tokens=58,
        api_key_id="0192f3a4-0000-7000-8000-000000000001",
        client_ip="127.0.0.1",
    )


def test_append_to_the_journal(benchmark: Benchmark, writer: journal.Writer) -> None:
    made = usual_record()
    assert benchmark(writer.append, made)


def test_read_the_journal(benchmark: Benchmark, writer: journal.Writer, tmp_path: Path) -> None:
    for _ in range(1000):
        writer.append(usual_record())
    (name,) = journal.writers(tmp_path)
    batch = benchmark(journal.read, tmp_path / name, journal.START, 1 << 30)
    assert len(batch.entries) == 1001


def test_uuid7(benchmark: Benchmark) -> None:
    assert len(benchmark(record.uuid7)) == 36


def test_uuid7_with_advancing_time(benchmark: Benchmark) -> None:
    moments = cycle(range(1_790_000_000_000_000_000, 1_790_000_001_000_000_000, 100_000))
    assert len(benchmark(lambda: record.uuid7(next(moments)))) == 36
