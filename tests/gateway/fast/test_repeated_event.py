"""Events that match the previous one by their bytes give the same result as decoded events."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT, COMPLETIONS
from gateway.dialects import sse_relay as relays
from gateway.dialects.anthropic.messages_api import read_messages_event
from gateway.dialects.openai_events import dialect, read_chunk
from gateway.dialects.sse_relay import StreamRelay
from gateway.fast import repeated_event
from gateway.fast.chunk_taker import ChunkTaker
from gateway.fast.repeated_event import EventTemplate
from tests.gateway.captures import STREAMS
from tests.gateway.scripted import DONE, LAST, chunk

EVENT = chunk(" one")
MESSAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"a"}}\n\n'


def learned(raw, read=read_chunk, out=None):
    event = read(raw.split(b"data: ", 1)[1].strip())
    return EventTemplate.of(raw, out or raw) if relays._is_text(event) else None


TEXT = [" two", "2", "日本語", "\x7f", "a" * 9000, "{}[]:,'", r"\n", r"a\"b\\", r"\\\"\/\b\f\r\t", r"日\n本"]


@pytest.mark.parametrize("text", TEXT)
def test_an_event_with_another_text_matches(text):
    event = EVENT.replace(b" one", text.encode())
    assert learned(EVENT).match(event) == event


NO_TEXT = [b"\\", b"\\\\\\", rb"\x", rb"a\u0041"]


@pytest.mark.parametrize("text", [b"", *NO_TEXT, b'","x":"', b"a\n", b"\x00", b"\xff", b"\xe3\x81"])
def test_text_that_needs_decoding_does_not_match(text):
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
def test_another_event_does_not_match(event):
    assert learned(EVENT).match(event) is None


def test_an_overlapping_prefix_and_suffix_do_not_match():
    assert learned(b'data: {"choices":[{"text":"a"}]}\n\n').match(b'data: {"choices":[{"text":"}]}\n\n') is None


# Chunks


def framed(event, size=b"%x"):
    return size % len(event) + b"\r\n%b\r\n" % event


def relay_chunk(relay, data, *, lost=False):
    """Return what a client gets of chunks that are not parsed; None if they must be."""
    if relay.chunk_template is None:
        return None
    sent: list[bytes] = []
    flow = SimpleNamespace(write_paused=False, lost=lost)
    transport: Any = SimpleNamespace(write=sent.append)
    writes: Any = SimpleNamespace(holding=False)
    return b"".join(sent) if ChunkTaker(relay.chunk_template, relay, transport, writes, flow).take(data) else None


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("size", [b"%x", b"%X"])
def test_a_chunk_of_an_event_with_another_text_matches(text, size):
    chunk = framed(EVENT.replace(b" one", text.encode()), size)
    template = learned(EVENT)
    assert template.match_chunk(chunk) == template.match_chunk(chunk) == chunk


@pytest.mark.parametrize(("size", "other"), [(b"%x", b"%X"), (b"%X", b"%x")])
def test_the_case_of_sizes_is_learned_from_a_chunk_that_matches(size, other):
    template = learned(EVENT)
    with_letters = next(length for length in range(1, 99) if (len(EVENT) + length) % 16 > 9)
    with_digits = next(length for length in range(1, 99) if f"{len(EVENT) + length:x}".isdecimal())
    letters, digits = (EVENT.replace(b" one", b" one" + b"x" * length) for length in (with_letters, with_digits))
    for _ in range(2):
        assert template.match_chunk(framed(letters, size)) == framed(letters, size)
        assert template.match_chunk(framed(digits)) == framed(digits)
        assert template.match_chunk(framed(digits.replace(b"data", b"dats"))) is None
        assert template.match_chunk(framed(digits.replace(b"x", b"\\"))) is None
    mixed = framed(letters, b"0" + other)
    assert template.match_chunk(mixed) is None
    assert template.match_chunk(framed(letters, size)) == framed(letters, size)


def test_texts_that_need_no_decoding_are_stored_up_to_a_number(monkeypatch):
    known: set[bytes] = set()
    monkeypatch.setattr(repeated_event, "_known_texts", known)
    monkeypatch.setattr(repeated_event, "MAX_KNOWN_TEXTS", 3)
    template = learned(EVENT)

    def match(text):
        event = EVENT.replace(b" one", text)
        return template.match(event) == event and template.match_chunk(framed(event)) == framed(event)

    for text in (b"a", b"b", b"\n", "日".encode(), b"a"):
        assert match(text) is (text != b"\n")
    assert known == {b"a", b"b", "日".encode()}
    assert match(b"d")  # one more than fit
    assert known == {b"d"}
    assert match(b"a" * (repeated_event.KNOWN_TEXT_BYTES + 1))
    assert not match(b"")
    assert not match(b"\\")
    assert known == {b"d"}


@pytest.mark.parametrize(
    "data",
    [
        EVENT,
        framed(EVENT)[:-1],
        framed(EVENT) + b"\n",
        framed(EVENT) * 2,
        framed(EVENT + EVENT),
        b"0" + framed(EVENT),
        framed(EVENT, b"%x;name=value"),
        b"%x\r\n%b\r\n" % (len(EVENT) - 1, EVENT),
        b"%x\n%b\r\n" % (len(EVENT), EVENT),
        framed(LAST),
        framed(DONE),
        framed(EVENT.replace(b"data", b"dats")),
        framed(EVENT.replace(b" one", b"")),
        b"0\r\n\r\n",
        b"",
    ],
)
def test_another_read_is_no_chunk_that_matches(data):
    template = learned(EVENT)
    assert template.match_chunk(data) is None
    assert template.match_chunk(framed(EVENT)) == framed(EVENT)  # has stored this size
    assert template.match_chunk(data) is None


@pytest.mark.parametrize("text", [*NO_TEXT, b'","x":"', b"a\nbc", b"a\x00bc", b"a\xffbc", b"ab\xe3\x81"])
def test_a_chunk_with_a_text_that_needs_decoding_does_not_match(text):
    template = learned(EVENT)
    event = EVENT.replace(b" one", b"x" * len(text))
    assert template.match_chunk(framed(event))
    assert template.match_chunk(framed(event.replace(b"x" * len(text), text))) is None


@pytest.mark.parametrize("text", [b"2", b"a" * 200])
def test_a_chunk_for_a_client_with_another_name_gets_its_own_size(text):
    template = learned(EVENT, out=EVENT.replace(b'"tiny"', b'"another name"'))
    sent = EVENT.replace(b'"tiny"', b'"another name"').replace(b" one", text)
    for _ in range(2):
        assert template.match_chunk(framed(EVENT.replace(b" one", text))) == framed(sent)


@pytest.mark.parametrize("name", [b"tiny", b"another name"])
def test_several_chunks_in_a_read_match_together(name):
    sent = [EVENT.replace(b" one", text).replace(b"tiny", name) for text in (b"2", b" three", b"2")]
    template = learned(EVENT, out=EVENT.replace(b"tiny", name))
    read = b"".join(framed(event.replace(name, b"tiny")) for event in sent)
    assert template.match_chunk(read) is None
    assert template.match_chunks(read) == [framed(event) for event in sent]
    relay = StreamRelay(dialect(CHAT), name.decode(), hide_usage=True)
    relay.feed(EVENT)
    assert relay_chunk(relay, read) == b"".join(map(framed, sent))
    assert (relay.events, relay.deltas) == (4, 4)


@pytest.mark.parametrize(
    "read",
    [
        b"",
        framed(EVENT),
        framed(EVENT) * 2 + framed(EVENT)[:-1],
        framed(EVENT) * 2 + framed(LAST),
        framed(EVENT + EVENT),
        framed(EVENT) + b"0\r\n\r\n",
        framed(EVENT) + framed(EVENT)[:-2] + b"\n\n\r\n",
        framed(EVENT) * 1000,
    ],
)
def test_other_reads_are_not_several_chunks_that_match(read):
    template = learned(EVENT)
    assert template.match_chunks(read) is None
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=True)
    relay.feed(EVENT)
    if read != framed(EVENT):
        assert relay_chunk(relay, read) is None
        assert (relay.events, relay.deltas) == (1, 1)


def test_a_chunk_of_any_size_matches_and_a_wrong_size_never():
    template = learned(EVENT)
    for length in [*range(1, 500), *range(3000, 5000, 7)]:
        event = EVENT.replace(b" one", b"x" * length)
        assert template.match_chunk(framed(event)) == framed(event)
        for wrong in (b"%x" % (len(event) - 1), b"%x" % (len(event) + 1), b"0", b"", b".", b"0%x" % len(event)):
            assert template.match_chunk(b"%b\r\n%b\r\n" % (wrong, event)) is None


def test_a_chunk_after_a_part_of_an_event_is_not_relayed_unparsed():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=True)
    relay.feed(EVENT + EVENT)
    assert relay_chunk(relay, framed(EVENT)) == framed(EVENT)
    relay.feed(b": a comment without an end\n")
    assert relay_chunk(relay, framed(EVENT)) is None


def test_nothing_is_written_to_a_lost_connection():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=True)
    relay.feed(EVENT + EVENT)
    assert relay_chunk(relay, framed(EVENT), lost=True) == b""
    assert relay.deltas == 3


def test_spaces_around_the_colon_are_allowed():
    event = b'data: {"choices": [{"delta": {"content" : "a"}}]}\n\n'
    assert learned(event).match(event.replace(b'"a"', b'"b"'))


def test_a_delta_of_a_message_matches():
    assert learned(MESSAGE, read_messages_event).match(MESSAGE.replace(b'"a"', b'"bc"'))


def test_clients_receive_the_requested_name():
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
def test_events_with_other_content_are_no_template(data):
    assert learned(b"data: " + data + b"\n\n") is None


# Complete streams, with comparison and without


def facts(relay: StreamRelay) -> tuple[object, ...]:
    state = (relay.usage, relay.events, relay.deltas, relay.finished, relay.error, relay.held, relay.finish_reason)
    return *state, relay.whole, relay._open


def both(kind: str, requested: str, pieces: list[bytes], dialect_of=dialect) -> int:
    """Feed two relays, one of which decodes each event, and compare them. Return how many events matched."""
    compares, reads, chunks = (StreamRelay(dialect_of(kind), requested, hide_usage=True) for _ in range(3))
    reads.mismatches = relays.MAX_MISMATCHES
    state = 0
    for piece in pieces:
        known = compares._template
        sent = compares.feed(piece)
        assert sent == reads.feed(piece)
        assert facts(compares) == facts(reads)
        matched = known is not None and compares._template is known
        state += matched
        as_chunk = relay_chunk(chunks, framed(piece))
        if as_chunk is None:
            assert chunks.feed(piece) == sent
        else:
            assert (as_chunk, matched) == (framed(sent), True)
        assert facts(chunks) == facts(reads)
    assert reads._template is None
    return state


@pytest.mark.parametrize("capture", STREAMS, ids=str)
@pytest.mark.parametrize("requested", ["", "an alias"])
def test_a_captured_stream(capture, requested):
    both(capture.kind, requested or capture.model, capture.events)
    body = capture.body
    both(capture.kind, requested or capture.model, [body[start : start + 50] for start in range(0, len(body), 50)])


def test_switched_off_each_event_is_read(monkeypatch):
    monkeypatch.setattr(repeated_event, "ENABLED", False)
    assert both(CHAT, "tiny", [chunk(f"word {number}") for number in range(50)] + [LAST, DONE]) == 0


def test_most_events_of_a_chat_match_by_their_bytes():
    assert both(CHAT, "tiny", [chunk(f"word {number}") for number in range(50)] + [LAST, DONE]) == 49


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
    """Events that mostly repeat, with other texts."""
    shapes = draw(st.lists(CHUNKS, min_size=1, max_size=3))
    events = []
    for _ in range(draw(st.integers(1, 20))):
        made = json.loads(json.dumps(draw(st.sampled_from(shapes))))
        for choice in made["choices"]:
            for of in (choice, choice.get("delta", {})):
                found_in = [name for name in ("content", "reasoning", "text") if of.get(name)]
                of.update({name: draw(TEXTS) for name in found_in})
        literal = json.dumps(
            made, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([(",", ":"), None]))
        )
        events.append(draw(st.sampled_from(["data: %s\n\n"] * 9 + [": ping\n\ndata: %s\n\n"])) % literal)
    return [event.encode("utf-8", "surrogatepass") for event in events] + draw(st.sampled_from([[], [DONE]]))


@given(streams(), st.sampled_from([CHAT, COMPLETIONS]), st.booleans())
def test_any_stream(events, kind, at_once):
    both(kind, "tiny", [b"".join(events)] if at_once else events)
