"""Write batching of one iteration of the event loop."""

import asyncio

import pytest

from gateway.fast import write_batch
from gateway.fast.write_batch import MAX_BYTES, WriteBatch
from tests.gateway.client import in_loop


class Transport:
    def __init__(self, name, steps):
        self.name = name
        self.steps = steps
        self.closing = False

    def is_closing(self):
        return self.closing

    def write(self, data):
        self.steps.append((self.name, data))


@pytest.fixture
def steps():
    """Return the list of all steps, in their order."""
    return []


def batch_of(steps):
    made = WriteBatch(asyncio.get_running_loop())
    made.before_flush = lambda: steps.append("records")
    return made, Transport("a", steps), Transport("b", steps)


@in_loop
async def test_bytes_are_written_at_once_while_no_record_waits(steps):
    batch, a, b = batch_of(steps)
    batch.write(a, b"1")
    batch.write(b, b"2")
    assert steps == [("a", b"1"), ("b", b"2")]
    await asyncio.sleep(0)
    assert (len(steps), batch.iteration) == (2, 0)


@in_loop
async def test_a_record_comes_first_and_then_bytes_in_their_order(steps):
    batch, a, b = batch_of(steps)
    batch.add_record(100)
    batch.write(a, b"1")
    batch.write(b, b"2")
    batch.add_record(100)
    batch.write(a, b"3")
    assert steps == []
    await asyncio.sleep(0)
    assert steps == ["records", ("a", b"1"), ("b", b"2"), ("a", b"3")]
    batch.write(a, b"4")
    assert steps[-1] == ("a", b"4")


@in_loop
async def test_each_iteration_has_its_own_batch(steps):
    batch, a, _ = batch_of(steps)
    for _ in range(2):
        batch.add_record(1)
        batch.write(a, b"x")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert steps == ["records", ("a", b"x")] * 2
    assert batch.iteration == 2


@in_loop
async def test_a_record_alone_is_written_too(steps):
    batch, _, _ = batch_of(steps)
    batch.add_record(100)
    await asyncio.sleep(0)
    assert steps == ["records"]


@in_loop
async def test_an_iteration_is_counted_once(steps):
    batch, a, _ = batch_of(steps)
    batch.count_iteration()
    batch.count_iteration()
    batch.write(a, b"1")
    assert steps == [("a", b"1")]  # only records hold bytes back
    await asyncio.sleep(0)
    assert batch.iteration == 1


@in_loop
async def test_a_large_batch_is_written_at_once(steps):
    batch, a, _ = batch_of(steps)
    batch.add_record(1)
    batch.write(a, b"x" * (MAX_BYTES - 1))
    assert steps == []
    batch.write(a, b"y")
    assert [step if step == "records" else step[1][:1] for step in steps] == ["records", b"x", b"y"]


@in_loop
async def test_large_records_are_written_at_once(steps):
    batch, _, _ = batch_of(steps)
    batch.add_record(MAX_BYTES)
    assert steps == []
    batch.add_record(1)
    assert steps == ["records"]


@in_loop
async def test_nothing_is_written_to_a_client_that_disconnected(steps):
    batch, a, b = batch_of(steps)
    batch.add_record(1)
    batch.write(a, b"1")
    batch.write(b, b"2")
    a.closing = True
    batch.flush()
    batch.write(a, b"3")
    assert steps == ["records", ("b", b"2")]


@in_loop
async def test_flushed_bytes_are_not_written_again(steps):
    batch, a, _ = batch_of(steps)
    batch.add_record(1)
    batch.write(a, b"1")
    batch.flush()
    await asyncio.sleep(0)
    assert steps.count(("a", b"1")) == 1


@in_loop
async def test_responses_are_sent_even_if_the_journal_fails(steps, caplog):
    batch, a, _ = batch_of(steps)
    batch.before_flush = lambda: 1 / 0
    batch.add_record(1)
    batch.write(a, b"1")
    await asyncio.sleep(0)
    assert steps == [("a", b"1")]
    assert "the pending responses are sent anyway" in caplog.text


@pytest.mark.parametrize("enabled", [True, False])
@in_loop
async def test_with_or_without_batches_each_record_is_written_before_the_bytes_after_it(steps, monkeypatch, enabled):
    monkeypatch.setattr(write_batch, "ENABLED", enabled)
    batch, a, b = batch_of(steps)
    for number in (b"1", b"2"):
        batch.add_record(100)
        batch.write(a, number)
        batch.write(b, number)
    await asyncio.sleep(0)
    written = [("a", b"1"), ("b", b"1"), ("a", b"2"), ("b", b"2")]
    once = ["records", *written]
    each = ["records", *written[:2], "records", *written[2:]]
    assert steps == (once if enabled else each)
