import json
from itertools import pairwise
from random import Random

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from gateway.dialects.prompt_fields import decode_prompt
from gateway.routing.affinity import prompts
from gateway.routing.affinity.prompts import (
    LENGTHS,
    MAX_BYTES,
    count_marks,
    read_beginning,
    read_opening,
    session_in,
    session_of,
    size_of,
)
from tests.gateway.routing.affinity.conftest import chat


def beginning(body):
    return read_beginning(decode_prompt(body))


def marks(body):
    return beginning(body)[0]


def opening(body):
    return beginning(body)[2]


def test_lengths_grow_by_a_quarter_up_to_128_kib():
    assert LENGTHS[0] == 512
    assert len(LENGTHS) == 25
    assert LENGTHS[-1] <= MAX_BYTES
    assert all(longer <= 1.25 * length for length, longer in pairwise(LENGTHS))


@pytest.mark.parametrize("seed", range(30))
def test_a_body_that_extends_another_one_shares_its_marks(seed):
    random = Random(seed)
    texts = ["x" * random.randrange(3000) for _ in range(random.randrange(2, 6))]
    more = [*texts, "answer " * random.randrange(400), "and?" * random.randrange(400)]
    first, second = marks(chat(*texts)), marks(chat(*more))
    assert second[: len(first)] == first


@pytest.mark.parametrize("seed", range(30))
def test_bodies_share_the_marks_before_the_first_difference_and_no_others(seed):
    random = Random(seed)
    text = bytearray(random.randbytes(20_000).hex().encode())
    position = random.randrange(len(text))
    first = chat(text.decode(), "q")
    text[position] ^= 1
    second = chat(text.decode(), "q")
    differs = next(n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    differs -= first.index(b"[{")
    same = [a == b for a, b in zip(marks(first), marks(second), strict=True)]
    assert same == [length <= differs for length in LENGTHS[: len(same)]]


def test_a_mark_covers_at_least_four_fifths_of_a_prompt():
    for size in range(700, 9000, 331):
        body = chat("s", "x" * size)
        length = len(decode_prompt(body).messages)
        assert LENGTHS[len(marks(body)) - 1] >= 0.79 * length


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_a_prompt_that_is_a_text_has_marks(name):
    body = msgspec.json.encode({"model": "m", name: "x" * 600})
    assert len(marks(body)) == 1


def test_short_prompts_have_no_marks():
    assert marks(chat("s", "x" * 400)) == []
    assert marks(b'{"model":"m"}') == []


def test_tools_and_system_prompt_come_first_wherever_they_stand():
    tools, system = [{"name": "t" * 600}], "s" * 600
    messages = [{"role": "user", "content": "x" * 600}]
    first = {"model": "m", "messages": messages, "system": system, "tools": tools}
    second = {"tools": tools, "system": system, "messages": messages, "model": "m"}
    assert marks(msgspec.json.encode(first)) == marks(msgspec.json.encode(second))
    other = {**first, "tools": [{"name": "u" * 600}]}
    assert not set(marks(msgspec.json.encode(first))) & set(marks(msgspec.json.encode(other)))


def test_conversations_with_equal_tools_and_system_prompt_share_a_mark_for_them():
    def ask(text):
        messages = [{"role": "user", "content": text}]
        return msgspec.json.encode({"model": "m", "messages": messages, "system": "s" * 600, "tools": ["t" * 600]})

    first, second = marks(ask("a" * 600)), marks(ask("b" * 600))
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])


def test_a_name_in_a_text_is_no_field():
    text = '"messages":[{"role":"user"}], "tools":[' + "x" * 600
    body = chat(text, "q")
    assert len(marks(body)) == len(marks(chat("y" * len(json.dumps(text)[1:-1]), "q")))
    assert beginning(body)[1] == 0


def test_of_a_body_of_10_mb_128_kib_are_hashed(monkeypatch):
    hashed = []

    def counting(data, value=0):
        hashed.append(len(data))
        return xxh3_64_intdigest(data, value)

    monkeypatch.setattr(prompts, "xxh3_64_intdigest", counting)
    beginning(chat("s" * 10_000_000, "q", tools=["t" * 50_000], system="y" * 100_000))
    assert sum(hashed) <= MAX_BYTES + LENGTHS[0]
    hashed.clear()
    monkeypatch.setattr(prompts, "xxh3_64_digest", counting)
    read_opening(decode_prompt(chat("s" * 10_000_000, "q" * 10_000_000, tools=["t" * 50_000], system="y" * 100_000)))
    assert sum(hashed) <= MAX_BYTES


@pytest.mark.parametrize("tools", [0, 100, 700, 200_000])
def test_the_number_and_sizes_of_marks_are_known_without_reading(tools):
    for size in (10, 700, 5000, 300_000):
        fields = decode_prompt(chat("s" * size, "q", tools=["t" * tools] if tools else []))
        marks, head, _ = read_beginning(fields)
        assert count_marks(fields) == (len(marks), head)
        sizes = [size_of(head, number) for number in range(len(marks))]
        assert sizes == sorted(set(sizes))
        assert all(covered <= head + len(fields.messages) for covered in sizes)


# The opening of a conversation


@pytest.mark.parametrize("dumps", [json.dumps, lambda value: json.dumps(value, separators=(",", ":"))])
@pytest.mark.parametrize("content", ["hello", [{"type": "text", "text": "a }] b"}], 'say "role" \\ "user" ]}'])
@pytest.mark.parametrize("system", ["s", "s" * 900])
@pytest.mark.parametrize("names", [("role", "content"), ("content", "role")])
def test_all_turns_of_a_conversation_have_one_opening(dumps, content, system, names):
    def message(role, text):
        values = {"role": role, "content": text}
        return {name: values[name] for name in names}

    messages = [message("system", system), message("user", content)]
    first = opening(dumps({"messages": messages}).encode())
    messages += [message("assistant", "ok"), message("user", "and then?")]
    second = opening(dumps({"messages": messages, "stream": True}).encode())
    messages += [message("assistant", "done"), message("user", "thanks")]
    assert first == second == opening(dumps({"messages": messages}).encode())


def test_another_first_message_or_system_prompt_is_another_conversation():
    assert len({opening(chat("s" * 600, text)) for text in ("a", "b", "ab")}) == 3
    assert len({opening(chat(text * 600, "q")) for text in ("a", "b")}) == 2


def test_the_opening_of_a_text_is_its_beginning():
    def complete(text):
        return msgspec.json.encode({"prompt": text})

    assert opening(complete("x" * 600)) == opening(complete("x" * 600 + "more"))
    assert opening(complete("x" * 600)) != opening(complete("y" * 600))


@pytest.mark.parametrize("tools", [0, 100, 700, 200_000])
def test_the_opening_is_the_same_without_the_marks(tools):
    """Of a first message around each length of a mark, at the end of the body and with more behind it."""
    for size in (10, *(length + more for length in LENGTHS for more in (-61, -60, -59, 0))):
        for texts in ((), ("answer", "and?")):
            fields = decode_prompt(chat("s" * size, "q", *texts, tools=["t" * tools] if tools else []))
            assert read_opening(fields) == read_beginning(fields)[2]


# Sessions


def test_the_first_header_that_is_there_names_the_session():
    assert session_in({b"x-session-id": b"a", b"x-session-affinity": b" b ", b"host": b"c"}) == b"b"
    assert session_in({b"session_id": b"a", b"x-session-id": b"  "}) == b"a"
    assert session_in({b"host": b"c"}) is None


@pytest.mark.parametrize("key", ['"a"', '"\\u0061b"'])
def test_a_body_can_name_the_session(key):
    fields = decode_prompt(b'{"prompt_cache_key":%b}' % key.encode())
    assert session_of(fields) == key[1:-1].encode()


@pytest.mark.parametrize("key", ['""', "null", "7", "{}"])
def test_other_values_name_no_session(key):
    assert session_of(decode_prompt(b'{"prompt_cache_key":%b}' % key.encode())) is None
