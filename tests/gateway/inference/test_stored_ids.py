"""Finding the stored items to which an input refers: in any list, without copying a huge one."""

import json
import tracemalloc

import pytest

from gateway.base.errors import Refusal
from gateway.inference.stored_ids import MAX_OBJECTS, may_have_ids, reading_ids
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import doublings, longest_slice_ms

MESSAGE = {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
REFERENCE = {"type": "item_reference", "id": "msg_2"}


def ids_in(items: str | bytes) -> list[str]:
    """Return the ids of an input that stands inside a body."""
    data = items.encode() if isinstance(items, str) else items
    body = b'{"input": %b}' % data
    return run_unsliced(reading_ids(body, len(b'{"input": '), len(body) - 1))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t:\n")])
@pytest.mark.parametrize("padding", ["", "x" * 300_000])
def test_references_are_found_however_they_are_written(separators, padding):
    items = [MESSAGE, {**MESSAGE, "content": padding}, REFERENCE, {"id": "msg_3"}, {"id": "msg_4", "type": None}]
    assert ids_in(json.dumps(items, separators=separators)) == ["msg_2", "msg_3", "msg_4"]


@pytest.mark.parametrize("padding", ["", "x" * 300_000])
@pytest.mark.parametrize(
    "item",
    [
        '{"id": "a", "id": "b"}',
        '{"id":"a","ID":"b"}',
        '{"id": "a", "type": "message", "\\u0074ype": "item_reference"}',
        '{"id":"a","role":"user","role":null}',
        '{"id": "a", "Content": []}',
        '"id"',
        "7",
        "null",
        "[]",
        '{"id":"a","\\ud800":1}',
    ],
)
def test_an_item_that_servers_may_read_in_two_ways_is_refused(item, padding):
    for items in (f"[{item}]", json.dumps([{**MESSAGE, "content": padding}])[:-1] + f", {item}]"):
        with pytest.raises(Refusal) as caught:
            ids_in(items)
        assert caught.value.status == 400
        assert caught.value.param is not None
        assert caught.value.param.startswith("input")


def test_other_names_of_an_item_may_be_there_again():
    assert ids_in('[{"id":"a","x":1,"x":2,"X":3,"content":[{"id":1,"id":2}]}]') == []


@pytest.mark.parametrize("name", ['"id"', '"ID"', '"\\u0069d"', '"i\\u0044"', '"\\u0049\\u0064"'])
def test_ids_are_seen_in_all_spellings(name):
    assert may_have_ids(memoryview(f'[{{{name}:"a"}}]'.encode()))
    assert may_have_ids(memoryview(f'{{{name}:"a"}}'.encode()))
    assert not may_have_ids(memoryview(f'"a text with {name}"'.encode()))


def test_an_input_in_which_nothing_has_an_id_is_not_read():
    assert not may_have_ids(memoryview(b'["a", {"role": "user", "content": "an id"}]'))


ITEM = b'{"id": "msg", "type":"message", "role":"user", "content":[]}'
MANY = {
    "items": b"[%b]" % b",".join([ITEM] * (MAX_OBJECTS - 1)),
    "names of one item": b'[{"id":"a",%b}]' % b",".join(b'"%x": 1' % number for number in range(300_000)),
    "a name again and again": b'[{"id":"a"%b}]' % (b', "x": 1' * 300_000),
    "colons": b'[{"id":"a","content":"%b"}]' % (b":" * (2 << 20)),
}  # fmt: skip


@pytest.mark.unmeasured
@pytest.mark.parametrize("items", MANY.values(), ids=MANY)
def test_no_slice_takes_50_ms_of_cpu(items):
    assert longest_slice_ms(reading_ids(items, 0, len(items))) < 50


@pytest.mark.unmeasured
@pytest.mark.parametrize("separator", [b":", b" : "])
def test_the_search_is_linear(separator):
    def items(size: int) -> bytes:
        return b"[%b]" % b",".join([b'{"id"%b"a","role"%b"user","content"%b"b"}' % ((separator,) * 3)] * size)

    assert max(doublings(ids_in, [items(500 << power) for power in range(4)], most=3)) <= 3  # 4 if it were quadratic


def test_a_huge_item_is_not_copied():
    body = b'[{"id": "a", "role": "user", "content": "%b"}, {"id": "b"}]' % (b"x" * (30 << 20))
    tracemalloc.start()
    try:
        assert run_unsliced(reading_ids(body, 0, len(body))) == ["b"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_input_of_millions_of_items_that_are_no_objects_takes_no_memory():
    body = b'[{"id": "a"}%b]' % (b",1" * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Refusal):
            run_unsliced(reading_ids(body, 0, len(body)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
