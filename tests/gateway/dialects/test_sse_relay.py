import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT, COMPLETIONS, RESPONSES
from gateway.dialects import sse_relay as relays
from gateway.dialects.openai_events import dialect
from gateway.dialects.sse_relay import MAX_EARLY_BYTES, EventTooLong, StreamRelay
from gateway.dialects.usage import Usage
from gateway.fast.repeated_event import EventTemplate
from tests.cpu_time import growth
from tests.gateway import captures
from tests.gateway.captures import STREAMS, Capture
from tests.gateway.scripted import DONE, LAST, chunk
from tests.memory import with_peak

every_stream = pytest.mark.parametrize("capture", STREAMS, ids=str)


def play(kind, *pieces, requested="tiny", hide_usage=False, end=True):
    """Feed the pieces. Return the relay and the bytes that it passes on, at once or after the record."""
    relay = StreamRelay(dialect(kind), requested, hide_usage=hide_usage)
    sent = b""
    for piece in pieces:
        sent += relay.feed(piece)
        while relay.behind:
            sent += relay.feed(b"")
    if end:
        relay.end()
    return relay, sent + relay.held


def replay(capture: Capture, *cuts: int, **options):
    pieces = [capture.body[a:b] for a, b in zip((0, *cuts), (*cuts, len(capture.body)), strict=True)]
    return play(capture.kind, *pieces, **{"requested": capture.model, **options})


def reported_usage(capture: Capture) -> Usage | None:
    """Return the usage, read from the complete body."""
    reported = None
    for event in capture.events:
        data = event.split(b"data: ", 1)[1].strip()
        content = {} if data == b"[DONE]" else json.loads(data)
        usage = content.get("usage") or (content.get("response") or {}).get("usage")
        if usage:
            reported = captures.reported(usage)
    return reported


def is_usage_only(event: bytes) -> bool:
    return b'"choices":[],' in event and b'"usage":{' in event


def finishing(capture: Capture) -> int:
    """Index of the event that completes the response: the first with a finish reason or `response.completed`."""
    marks = (b'"finish_reason":"', b'"type":"response.completed"')
    return next(index for index, event in enumerate(capture.events) if any(mark in event for mark in marks))


# Captured streams


@every_stream
def test_a_captured_stream_cut_at_any_byte_is_unchanged(capture):
    usage = reported_usage(capture)
    for cut in range(1, len(capture.body)):
        relay, sent = replay(capture, cut)
        assert sent == capture.body
        assert (relay.whole, relay.usage, relay.error) == (True, usage, None)


@given(st.sampled_from(STREAMS), st.data())
def test_a_captured_stream_in_pieces_of_any_size_is_unchanged(capture, data):
    cuts = data.draw(st.lists(st.integers(0, len(capture.body)), max_size=30).map(sorted))
    relay, sent = replay(capture, *cuts)
    assert sent == capture.body
    assert relay.whole


@every_stream
def test_a_captured_stream_a_byte_at_a_time(capture):
    _, sent = replay(capture, *range(1, len(capture.body)))
    assert sent == capture.body


@every_stream
def test_hiding_usage_removes_only_its_event(capture):
    _, sent = replay(capture, hide_usage=True)
    assert sent == b"".join(event for event in capture.events if not is_usage_only(event))


def test_some_captures_have_a_usage_event():
    hidden = {str(capture) for capture in STREAMS if any(map(is_usage_only, capture.events))}
    assert {"llama.cpp-chat_stream_usage", "vllm-chat_stream_usage", "vllm-completions_stream_usage"} <= hidden


@every_stream
def test_hidden_usage_is_recorded(capture):
    relay, _ = replay(capture, hide_usage=True)
    assert relay.usage == reported_usage(capture)


@every_stream
def test_another_name_changes_only_the_value_of_model(capture):
    old, new = f'"model":"{capture.model}"'.encode(), b'"model":"asked/for:1"'
    for cut in range(1, len(capture.body), 17):
        _, sent = replay(capture, cut, requested="asked/for:1")
        assert sent == capture.body.replace(old, new)
    assert old in capture.body


@every_stream
def test_a_captured_stream_that_breaks_off_is_incomplete(capture):
    index = finishing(capture)
    beginning = sum(map(len, capture.events[:index]))
    for end in range(beginning + len(capture.events[index]) - 3):
        relay, sent = play(capture.kind, capture.body[:end], requested=capture.model)
        assert not relay.whole
        assert capture.body.startswith(sent)


@every_stream
def test_a_captured_stream_is_complete_from_its_finishing_event_on(capture):
    for length in range(finishing(capture) + 1, len(capture.events) + 1):
        relay, _ = play(capture.kind, *capture.events[:length], end=False)
        assert relay.whole


@every_stream
def test_the_end_of_a_captured_stream_is_held_back(capture):
    relay, _ = replay(capture, end=False)
    ends = capture.events[-1] if capture.server != "transformers" or capture.kind == RESPONSES else b""
    assert relay.held == ends


@pytest.mark.parametrize("capture", [capture for capture in STREAMS if capture.server == "transformers"], ids=str)
def test_a_captured_stream_without_done_is_complete(capture):
    assert b"[DONE]" not in capture.body
    relay, sent = replay(capture)
    assert (relay.whole, relay.finished, sent) == (True, True, capture.body)


@every_stream
def test_deltas_estimate_the_tokens_of_a_captured_stream(capture):
    relay, _ = replay(capture)
    usage = reported_usage(capture)
    assert relay.deltas <= (usage.output_tokens if usage and usage.output_tokens else 8) <= relay.deltas + 2


@every_stream
def test_lines_may_end_in_crlf(capture):
    body = capture.body.replace(b"\n", b"\r\n")
    for cut in range(1, len(body), 13):
        relay, sent = play(capture.kind, body[:cut], body[cut:], requested=capture.model)
        assert (sent, relay.whole) == (body, True)


def test_the_captures_have_the_expected_features():
    kinds = {(capture.server, capture.kind) for capture in STREAMS}
    assert kinds >= {(server, kind) for server in captures.SERVERS for kind in (CHAT, COMPLETIONS, RESPONSES)}


# Parts of streams


@pytest.mark.parametrize("noise", [b": keep-alive\n\n", b"\n", b"event: ping\n\n", b"data:\n\n", b"data: not json\n\n"])
def test_unknown_events_are_passed_on(noise):
    relay, sent = play(CHAT, noise + chunk("a") + noise, LAST + DONE)
    assert sent == noise + chunk("a") + noise + LAST + DONE
    assert relay.deltas == 1


def test_bytes_after_the_last_event_are_held_with_it():
    relay, _ = play(CHAT, LAST + DONE + b": bye\n\n", end=False)
    assert relay.held == DONE + b": bye\n\n"


@pytest.mark.parametrize(
    "event",
    [
        b'data:{"model":"tiny","choices":[{"text":"x"}]}\n\n',
        b'event: x\ndata: {"model":"tiny","choices":[{"text":"x"}]}\n\n',
        b'id: 5\nretry: 10\ndata: {"model":"tiny","choices":[{"text":"x"}]}\n\n',
        b'data: {"model":"tiny",\ndata: "choices":[{"text":"x"}]}\n\n',
        b'data: {"model":"tiny","choices":[{"text":"x"}]}\nid: 5\n\n',
    ],
)
def test_all_forms_of_an_event_are_read_and_renamed(event):
    relay, sent = play(CHAT, event, requested="asked")
    assert relay.deltas == 1
    assert sent == event.replace(b"tiny", b"asked")


def test_an_event_that_has_just_arrived_is_sent_on_at_once():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    assert relay.feed(chunk("a")) == chunk("a")
    assert relay.feed(chunk("b")[:-1]) == b""
    assert relay.feed(b"\n") == chunk("b")


def test_a_stream_without_its_last_empty_line_is_read_to_its_end():
    relay, _ = play(CHAT, chunk("a") + LAST.rstrip())
    assert (relay.whole, relay.held) == (True, LAST.rstrip())


def test_an_error_event_is_reported_and_the_stream_incomplete():
    error = b'data: {"error":{"message":"out of memory"}}\n\n'
    relay, sent = play(CHAT, chunk("a") + error)
    assert (relay.error.sentence, relay.whole, sent) == ("out of memory", False, chunk("a") + error)


def test_an_error_stays_an_error_after_later_events():
    relay, _ = play(CHAT, b'data: {"error":"first"}\n\ndata: {"error":"second"}\n\n' + LAST + DONE)
    assert (relay.error.sentence, relay.finished, relay.whole) == ("first", True, False)


def test_a_failed_response_is_held_back_and_incomplete():
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"no"}}}\n\n'
    relay, _ = play(RESPONSES, failed, end=False)
    assert (relay.held, relay.error.sentence, relay.whole) == (failed, "no", False)


def test_an_empty_stream_is_incomplete():
    relay, sent = play(CHAT)
    assert (relay.whole, relay.finished, relay.error, sent) == (False, False, None, b"")


def test_usage_that_the_client_requested_is_kept():
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    relay, sent = play(CHAT, LAST + usage + DONE)
    assert (relay.usage, sent) == (Usage(1, 2), LAST + usage + DONE)


def test_an_endless_event_aborts_the_stream(monkeypatch):
    monkeypatch.setattr(StreamRelay, "max_event_bytes", 20_000)
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(b"data: " + b"x" * 19_900)
    with pytest.raises(EventTooLong):
        relay.feed(b"x" * 200)


def test_a_long_event_with_an_end_is_passed_on():
    event = chunk("x" * 5_000_000)
    pieces = [event[start : start + 65536] for start in range(0, len(event), 65536)]
    assert play(CHAT, *pieces)[1] == event


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_bytes_pass_unchanged(pieces):
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=True)
    first = chunk("x")  # comments before it are held back
    sent = b"".join([relay.feed(piece) for piece in (first, *pieces)])
    relay.end()
    assert sent + relay.held == first + b"".join(pieces)


def relay_in_pieces(body):
    assert play(CHAT, *(body[start : start + 1024] for start in range(0, len(body), 1024)))[1] == body


def linear(make, size):
    """True if four times the input takes less than eight times the CPU time; in proportion to its square, it would take
    16 times.
    """
    return growth(relay_in_pieces, make(size), make(4 * size)) < 8


def big_event(size, line=b"\n"):
    return (b'data: {"x":"' + b"a" * size + b'"}\n\n').replace(b"\n", line)


def test_a_big_event_in_small_pieces_takes_time_in_proportion_to_its_size():
    assert linear(big_event, 2 << 20)


def test_a_big_event_with_crlf_takes_time_in_proportion_to_its_size():
    assert linear(lambda size: big_event(size, b"\r\n"), 1 << 20)


def test_many_lines_with_crlf_take_time_in_proportion_to_their_number():
    assert linear(lambda size: b"data: aaaaaaaaaa\r\n" * (size // 18) + b"\r\n", 40 << 10)


def test_a_big_event_is_not_compared_with_the_one_before(monkeypatch):
    """The comparison would copy it several times, in one iteration of the event loop."""
    compared: list[int] = []
    match = EventTemplate.match

    def noted(template, raw):
        compared.append(len(raw))
        return match(template, raw)

    monkeypatch.setattr(EventTemplate, "match", noted)
    event = chunk("\\n" * 100_000)
    pieces = [event[start : start + 16384] for start in range(0, len(event), 16384)]
    relay, sent = play(CHAT, chunk("a"), chunk("b"), *pieces)
    assert (sent, relay.deltas) == (chunk("a") + chunk("b") + event, 3)
    assert len(chunk("b")) in compared
    assert max(compared) <= 16384


@pytest.mark.parametrize("rest", [b"", chunk("b")[:20]])
def test_a_big_event_is_in_memory_once(rest):
    body = big_event(4 << 20) + rest
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(chunk("a"))
    sent, peak = with_peak(lambda: b"".join(map(relay.feed, pieces)) or relay.feed(b""))
    assert sent == big_event(4 << 20)
    assert peak < 1.5 * len(body)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_an_event_that_the_end_of_the_stream_ends_is_passed_on(size):
    event = big_event(size).removesuffix(b"\n\n")
    relay, sent = play(CHAT, *(event[start : start + 10_000] for start in range(0, len(event), 10_000)))
    assert (sent, relay.events) == (event, 1)


def test_events_after_a_big_one_are_passed_on_in_order():
    body = (
        chunk("a") + big_event(200_000) + chunk("b") + b'data: {"model":"tiny"' + b" " * 30_000 + b"}\n\n" + LAST + DONE
    )
    for step in (1000, 70_000, 250_000):
        relay, sent = play(CHAT, *(body[start : start + step] for start in range(0, len(body), step)))
        assert sent == body
        assert relay.whole


def test_many_events_at_once_are_passed_on_in_several_iterations():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    events = b"".join(chunk(f"\\n{number}") for number in range(relays.MAX_EVENTS + 10))
    first = relay.feed(events)
    assert relay.behind
    assert first.count(b"\n\n") == relays.MAX_EVENTS
    assert first + relay.feed(b"") == events
    assert not relay.behind


@pytest.mark.parametrize(("size", "whole"), [(relays.MAX_EVENTS_BYTES // 2, 2), (relays.MAX_EVENTS_BYTES + 1, 1)])
def test_no_event_follows_many_bytes_in_a_slice(size, whole):
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    large = big_event(size)
    first = relay.feed(large * 2 + LAST)
    assert (first, relay.behind) == (large * whole, True)
    assert first + relay.feed(b"") + relay.feed(b"") + relay.feed(b"") == large * 2 + LAST
    assert not relay.behind


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[' + b"{}," * 60_000 + b"{}]}\n\n",
        b'data: {"x":[' + b"[]," * 60_000 + b"[]]}\n\n",
        b"data: a\n" * 20_000 + b"\n",
        b"data: a\r\n" * 20_000 + b"\r\n",
    ],
)
def test_an_event_with_too_many_values_aborts_the_stream(event):
    for step in (1000, len(event)):
        with pytest.raises(EventTooLong):
            play(CHAT, *(event[start : start + step] for start in range(0, len(event), step)))


def test_a_big_event_of_much_text_is_read():
    event = chunk("a, {b} [c] " * 20_000)
    relay, sent = play(CHAT, chunk("x", model="up"), event.replace(b"tiny", b"up"), requested="tiny")
    assert sent == chunk("x") + event
    assert relay.deltas == 2


def test_endless_bytes_after_the_end_are_not_kept():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(DONE)
    for _ in range(1000):
        relay.feed(b": still here" + b" " * 1000 + b"\n\n")
    assert len(relay.held) < 2 * relays.MAX_HELD_BYTES


def test_comments_wait_for_the_first_event():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    assert (relay.feed(b": a\n\n"), relay.events) == (b"", 0)
    assert relay.feed(chunk("x")) == b": a\n\n" + chunk("x")
    assert relay.feed(b": b\n\n") == b": b\n\n"


def test_endless_comments_before_the_first_event_are_dropped():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    for _ in range(10_000):
        relay.feed(b": still here\n\n")
    assert len(relay.feed(chunk("x"))) < 2 * MAX_EARLY_BYTES


def test_a_choice_that_begins_after_another_has_finished_keeps_the_response_open():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(chunk("a") + LAST)
    assert relay.finished
    relay.feed(chunk("b").replace(b'"index":0', b'"index":1'))
    relay.end()
    assert (relay.finished, relay.whole) == (False, False)


@pytest.mark.parametrize("event", [b": %b\n\n", b"data: %b\n\n", b'data: {"error":"%b"}\n\n'])
def test_secrets_are_searched_in_a_mebibyte_of_an_event(event: bytes) -> None:
    for size in (relays.MAX_CLEANED_BYTES - 100, relays.MAX_CLEANED_BYTES + 100):
        relay = StreamRelay(dialect(CHAT), "m", hide_usage=False)
        relay.feed(chunk("a"))
        if size < relays.MAX_CLEANED_BYTES:
            relay.feed(event % (b"x" * size))
            continue
        with pytest.raises(EventTooLong):
            relay.feed(event % (b"x" * size))
