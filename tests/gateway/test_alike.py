"""Events that are told by their bytes say what they would have said, read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import relay as relays
from gateway.alike import Alike
from gateway.anthropic import read_messages_event
from gateway.kinds import CHAT, COMPLETIONS
from gateway.openai import dialect, read_chunk
from gateway.relay import StreamRelay
from tests.gateway.captures import STREAMS
from tests.gateway.scripted import DONE, LAST, chunk

EVENT = chunk(" one")
MESSAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"a"}}\n\n'


def learned(raw, read=read_chunk, out=None):
    return Alike.of(raw, read(raw.split(b"data: ", 1)[1].strip()), out or raw)


@pytest.mark.parametrize("text", [" two", "2", "日本語", "\x7f", "a" * 9000, "{}[]:,'"])
def test_another_text_is_alike(text):
    event = EVENT.replace(b" one", text.encode())
    assert learned(EVENT).match(event) == event


@pytest.mark.parametrize("text", [b"", rb"\"", rb"\n", rb"a\u0041", b'","x":"', b"a\n", b"\x00", b"\xff", b"\xe3\x81"])
def test_what_has_to_be_read_is_not(text):
    assert learned(EVENT).match(EVENT.replace(b" one", text)) is None


@pytest.mark.parametrize(
    "event",
    [
        LAST,
        DONE,
        b": ping\n\n",
        EVENT[:-1],
        EVENT + b"\n",
        EVENT + EVENT,
        b"x" + EVENT,
        EVENT.replace(b"data", b"dats"),
    ],
)
def test_another_event_is_not(event):
    assert learned(EVENT).match(event) is None


def test_a_head_and_a_tail_that_overlap_are_not():
    assert learned(b'data: {"choices":[{"text":"a"}]}\n\n').match(b'data: {"choices":[{"text":"}]}\n\n') is None


def test_spaces_may_stand_around_the_colon():
    event = b'data: {"choices": [{"delta": {"content" : "a"}}]}\n\n'
    assert learned(event).match(event.replace(b'"a"', b'"b"'))


def test_a_piece_of_a_message_is_alike():
    assert learned(MESSAGE, read_messages_event).match(MESSAGE.replace(b'"a"', b'"bc"'))


def test_clients_get_the_name_that_they_asked_for():
    renamed = EVENT.replace(b'"tiny"', b'"alias"')
    assert learned(EVENT, out=renamed).match(EVENT.replace(b" one", b"2")) == renamed.replace(b" one", b"2")


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}',
        b'{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"choices":[{"delta":{"content":"a"}}],"error":{"message":"no"}}',
        b'{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}',
        b'{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}',
        b'{"choices":[{"delta":{"content":""}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"a"}}]}}]}',
        rb'{"choices":[{"delta":{"content":"\u0041"}}]}',
        b'{"choices":[]}',
    ],
)
def test_events_that_may_say_more_are_no_example(data):
    assert learned(b"data: " + data + b"\n\n") is None


# Whole streams, with comparison and without


def facts(relay: StreamRelay) -> tuple[object, ...]:
    told = (relay.usage, relay.events, relay.deltas, relay.finished, relay.error, relay.held, relay.response_id)
    return *told, relay.whole, relay._open


def both(kind: str, asked: str, pieces: list[bytes], dialect_of=dialect) -> int:
    """Feed two relays, one of which reads each event, and compare them; how many events were told by their bytes."""
    compares, reads = (StreamRelay(dialect_of(kind), asked, hide_usage=True) for _ in range(2))
    reads._unlike = relays.MOST_UNLIKE
    told = 0
    for piece in pieces:
        known = compares._alike
        assert compares.feed(piece) == reads.feed(piece)
        assert facts(compares) == facts(reads)
        told += known is not None and compares._alike is known
    assert reads._alike is None
    return told


@pytest.mark.parametrize("capture", STREAMS, ids=str)
@pytest.mark.parametrize("asked", ["", "an alias"])
def test_a_real_stream(capture, asked):
    both(capture.kind, asked or capture.model, capture.events)
    body = capture.body
    both(capture.kind, asked or capture.model, [body[at : at + 50] for at in range(0, len(body), 50)])


def test_most_events_of_a_chat_are_told_by_their_bytes():
    assert both(CHAT, "tiny", [chunk(f"word {number}") for number in range(50)] + [LAST, DONE]) == 48


TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["a", " b", "日本", '"', "\\", "\n", ""]))
DELTAS = st.fixed_dictionaries({}, optional={"role": st.just("assistant"), "content": TEXTS, "reasoning": TEXTS})
CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "finish_reason": st.sampled_from([None, None, None, "stop"])},
    optional={"delta": DELTAS, "text": TEXTS},
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=2)},
    optional={
        "model": st.sampled_from(["tiny", "other"]),
        "usage": st.sampled_from([None, {"prompt_tokens": 3, "completion_tokens": 4}]),
        "error": st.sampled_from([None, None, {"message": "no"}]),
    },
)


@st.composite
def streams(draw):
    """Events of which many repeat, with other texts."""
    shapes = draw(st.lists(CHUNKS, min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(1, 20))):
        made = json.loads(json.dumps(draw(st.sampled_from(shapes))))
        for choice in made["choices"]:
            for of in (choice, choice.get("delta", {})):
                found_in = [name for name in ("content", "reasoning", "text") if of.get(name)]
                of.update({name: draw(TEXTS) for name in found_in})
        literal = json.dumps(
            made, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([(",", ":"), None]))
        )
        found.append(draw(st.sampled_from(["data: %s\n\n"] * 9 + [": ping\n\ndata: %s\n\n"])) % literal)
    return [event.encode("utf-8", "surrogatepass") for event in found] + draw(st.sampled_from([[], [DONE]]))


@given(streams(), st.sampled_from([CHAT, COMPLETIONS]), st.booleans())
def test_any_stream(events, kind, at_once):
    both(kind, "tiny", [b"".join(events)] if at_once else events)
