import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bounds import JSON_DEPTH, JSON_FIELD, JSON_NAMES, JSON_VALUES
from gateway.errors import Refusal
from gateway.openai import BIG_BYTES, adapt_request, find_top, parse_big, parse_request, spliced
from gateway.skim import BYTES_A_STRING, FREE_STRINGS, skim, skim_slowly
from gateway.turns import at_once


def values(body, kind=bytes):
    top = skim(kind(body))
    return None if top is None else {name: json.loads(body[start:end]) for name, (start, end) in top.values.items()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PLAIN = st.text("abcdefgh_", min_size=1)


@given(st.dictionaries(PLAIN, JSON, min_size=1), st.booleans(), st.sampled_from([None, 1]))
def test_it_finds_every_value_at_the_top(found, ascii_only, indent):
    body = json.dumps(found, ensure_ascii=ascii_only, indent=indent).encode()
    assert values(body) in (None, {name.encode(): value for name, value in found.items()})


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_it_is_sure_of_what_is_usual(kind):
    body = b' {"model": "a", "messages": [{"content": "say \\"{\\" \\\\"}], "n": -1.5e3, "stream" :true} '
    assert values(body, kind) == {
        b"model": "a",
        b"messages": [{"content": 'say "{" \\'}],
        b"n": -1500.0,
        b"stream": True,
    }


def test_of_a_name_that_is_there_twice_the_last_counts():
    assert values(b'{"model":"a","model":"b"}') == {b"model": "b"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"a"', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1}x', b'{"a":1,}', b'{"a":[}', b'{"a":"b}',
        b'{"a":"b\\"}', b'{"a":tru}', b'{"\\u0061":1}', b'{a:1}', b'{"a":[1}', b'{"a":1 2}',
    ],
)  # fmt: skip
def test_what_it_is_not_sure_of(body):
    assert skim(body) is None


@pytest.mark.parametrize("length", [2, BYTES_A_STRING])
def test_many_short_strings_are_left_to_a_parser(length):
    body = json.dumps({"model": "a", "messages": ["x" * length] * (FREE_STRINGS + 20)}).encode()
    assert (skim(body) is None) is (length == 2)


@pytest.mark.parametrize("text", ['"' * 100, "\\" * 100])
def test_many_escapes_are_left_to_a_parser(text):
    assert skim(json.dumps({"model": "a", "prompt": text}).encode()) is None


def test_a_few_escapes_are_not():
    assert values(json.dumps({"model": "a", "prompt": '\\"\\\\'}).encode()) is not None


# As a request


def big(**fields):
    return {"messages": [{"role": "user", "content": "x" * BIG_BYTES}], **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "a"},
        {"model": "a", "stream": True},
        {"model": "a", "stream": None, "stream_options": {"include_usage": True}},
        {"model": "a", "stream": True, "stream_options": None},
        {"stream": False, "model": 'named "a" \\ ü'},
    ],
)
def test_a_big_request_is_read_like_a_small_one(fields):
    found = parse_request(json.dumps(big(**fields)).encode())
    small = parse_request(json.dumps(fields).encode())
    assert (found.model, found.stream, found.wants_usage, found.has_options) == (
        small.model,
        small.stream,
        small.wants_usage,
        small.has_options,
    )
    assert found.model_at is not None


@pytest.mark.parametrize("fields", [{}, {"model": 1}, {"model": "a", "stream": "yes"}, {"model": " "}])
def test_a_big_request_is_refused_like_a_small_one(fields):
    with pytest.raises(Refusal) as big_one:
        parse_request(json.dumps(big(**fields)).encode())
    with pytest.raises(Refusal) as small_one:
        parse_request(json.dumps(fields).encode())
    assert (big_one.value.message, big_one.value.param) == (small_one.value.message, small_one.value.param)


def test_a_big_body_that_is_cut_is_refused():
    with pytest.raises(Refusal, match="not valid JSON"):
        parse_request(json.dumps(big(model="a")).encode()[:-2])


# Slowly, where a parser would take too long


def slow_values(body):
    return {name: json.loads(body[start:end]) for name, (start, end) in at_once(skim_slowly(body)).values.items()}


@given(st.dictionaries(st.text(max_size=20), JSON), st.booleans(), st.sampled_from([None, 1]))
def test_slowly_it_finds_every_value_of_any_object(found, ascii_only, indent):
    body = json.dumps(found, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    try:
        expected = {name.encode(): value for name, value in found.items()}
    except UnicodeEncodeError:  # half a surrogate pair in a name
        return
    assert slow_values(body) == expected


def test_slowly_the_last_of_two_values_counts_however_its_name_is_written():
    assert slow_values(b'{"model":"a","mod\\u0065l":"b"}') == {b"model": "b"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"a"', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1}x', b'{"a":1,}', b'{"a":"b}', b'{"a":"b\\"}',
        b'{"a":tru}', b"{a:1}", b'{"a":[1}', b'{"a":1 2}', b'{"a":"\\', b'{"a":["\\', b'{"\\x":1}', b'{"a":[[]',
        b'{"a":' + b"1" * 2000 + b"}", b'{"a":' + b" " * 2000 + b"1}",
    ],
)  # fmt: skip
def test_slowly_it_refuses_what_is_no_object(body):
    with pytest.raises(Refusal, match="not a JSON object") as refused:
        at_once(skim_slowly(body))
    assert refused.value.status == 400


def filled(unit, size, opening=b"[", closing=b"0]"):
    return b'{"model":"m","x":' + opening + unit * (size // len(unit)) + closing + b"}"


BIG = 4 << 20
HOSTILE = {
    "empty arrays": filled(b"[],", BIG),
    "empty objects": filled(b"{},", BIG),
    "an open bracket": b'{"model":"m","x":' + b"[" * BIG,
    "deep arrays": filled(b"[" * 500 + b"]" * 500 + b",", BIG),
    "short strings": filled(b'"",', BIG),
    "names at the top": b'{"model":"m",' + b",".join(b'"k%d":1' % number for number in range(BIG // 12)) + b"}",
    "names below": filled(b'{"a":1},', BIG),
    "numbers": filled(b"1,", BIG),
    "blanks": filled(b" ", BIG),
    "quotation marks": filled(b'\\"', BIG, b'"', b'"'),
    "backslashes": filled(b"\\\\", BIG, b'"', b'"'),
    "halves of pairs": filled(b"\\ud800", BIG, b'"', b'"'),
    "a long name": b'{"model":"m","' + b"n" * BIG + b'":1}',
    "a long number": b'{"model":"m","n":' + b"1" * BIG + b"}",
    "a long model": b'{"model":"' + b"m" * BIG + b'"}',
    "options": b'{"model":"m","stream":true,"stream_options":{"x":[' + b"[]," * (BIG // 3) + b"0]}}",
    "a string without end": b'{"model":"m","x":"' + b"x" * BIG,
}


@pytest.mark.parametrize("size", [1 << 20, BIG])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_slice_of_reading_and_changing_a_big_body_takes_50_ms_of_cpu(body, size):
    body = body[:size] if size < len(body) else body

    def work():
        top = yield from find_top(body)
        yield
        request = parse_big(body, top)
        yield
        if top is None:
            adapt_request(body, model="other", include_usage=True)
        else:
            spliced(body, request, model="other", include_usage=True)

    assert longest(work()) < 0.05


def longest(work):
    """Seconds of CPU of the longest slice."""
    most = 0.0
    while True:
        started = time.thread_time()
        try:
            next(work)
        except (StopIteration, Refusal):
            return max(most, time.thread_time() - started)
        most = max(most, time.thread_time() - started)


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        (filled(b"[],", 4 << 20), JSON_VALUES),
        (b'{"model":"m","x":' + b"[" * (4 << 20), JSON_DEPTH),
        (b'{"model":"m","x":' + b"[" * 2000, JSON_DEPTH),
        (HOSTILE["names at the top"], JSON_NAMES),
        (HOSTILE["options"], JSON_VALUES),
        (b'{"model":"m","stream_options":{"x":"' + b"x" * BIG_BYTES + b'"}}', JSON_FIELD),
    ],
)
def test_what_is_too_much_is_refused_by_its_bound(body, bound):
    with pytest.raises(Refusal) as refused:
        parse_request(body)
    assert refused.value.bound is bound


@pytest.mark.parametrize(
    "fields", [{}, {"stream_options": None}, {"stream_options": {"x": [1], "include_usage": False}}]
)
@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_fields_of_a_big_body_are_changed_where_they_stand(fields, model_first, dense):
    messages = ["x"] * BIG_BYTES if dense else ["x" * BIG_BYTES]
    rest = {"stream": True, **fields, "messages": messages}
    body = json.dumps({"model": "a", **rest} if model_first else {**rest, "model": "a"}).encode()
    top = at_once(skim_slowly(body))
    changed = json.loads(b"".join(spliced(body, parse_big(body, top), model="ö", include_usage=True)))
    options = {**(fields.get("stream_options") or {}), "include_usage": True}
    assert changed == {**rest, "model": "ö", "stream_options": options}
    assert json.loads(b"".join(spliced(body, parse_big(body, top), model=None, include_usage=False))) == json.loads(
        body
    )
