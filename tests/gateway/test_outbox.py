"""What one turn of the event loop has to write."""

import asyncio

import pytest

from gateway.outbox import MAX_BYTES, Outbox
from tests.gateway.client import in_loop


class Transport:
    def __init__(self, name, told):
        self.name = name
        self.told = told
        self.closing = False

    def is_closing(self):
        return self.closing

    def write(self, data):
        self.told.append((self.name, data))


@pytest.fixture
def told():
    """All that was done, in its order."""
    return []


def outbox(told):
    made = Outbox(asyncio.get_running_loop())
    made.before = lambda: told.append("records")
    return made, Transport("a", told), Transport("b", told)


@in_loop
async def test_records_come_first_and_then_bytes_in_their_order(told):
    box, a, b = outbox(told)
    box.write(a, b"1")
    box.write(b, b"2")
    box.write(a, b"3")
    assert told == []
    await asyncio.sleep(0)
    assert told == ["records", ("a", b"1"), ("b", b"2"), ("a", b"3")]


@in_loop
async def test_each_turn_has_its_own(told):
    box, a, _ = outbox(told)
    for _ in range(2):
        box.write(a, b"x")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == ["records", ("a", b"x")] * 2


@in_loop
async def test_a_record_alone_is_written_too(told):
    box, _, _ = outbox(told)
    box.put(100)
    await asyncio.sleep(0)
    assert told == ["records"]


@in_loop
async def test_much_does_not_wait(told):
    box, a, _ = outbox(told)
    box.write(a, b"x" * MAX_BYTES)
    assert told == []
    box.write(a, b"y")
    assert [step if step == "records" else step[1][:1] for step in told] == ["records", b"x", b"y"]


@in_loop
async def test_who_is_gone_gets_nothing(told):
    box, a, b = outbox(told)
    box.write(a, b"1")
    box.write(b, b"2")
    a.closing = True
    box.flush()
    assert told == ["records", ("b", b"2")]


@in_loop
async def test_what_is_flushed_is_not_written_again(told):
    box, a, _ = outbox(told)
    box.write(a, b"1")
    box.flush()
    await asyncio.sleep(0)
    assert told.count(("a", b"1")) == 1


@in_loop
async def test_answers_leave_whatever_happens_to_records(told, caplog):
    box, a, _ = outbox(told)
    box.before = lambda: 1 / 0
    box.write(a, b"1")
    await asyncio.sleep(0)
    assert told == [("a", b"1")]
    assert "they go on" in caplog.text
