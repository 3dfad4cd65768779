import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.openai import BIG_BYTES, parse_request
from gateway.skim import BYTES_A_STRING, FREE_STRINGS, skim


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
