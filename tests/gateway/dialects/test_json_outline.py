import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.bodies import SHAPES
from gateway.base.bounds import JSON_DEPTH, JSON_FIELD, JSON_NAMES, JSON_VALUES
from gateway.base.errors import Refusal
from gateway.dialects import json_outline
from gateway.dialects.json_outline import (
    BYTES_A_STRING,
    FREE_STRINGS,
    MAX_WHOLE_NAMES,
    NAME_BYTES,
    WHOLE_BYTES,
    outline_in_slices,
    outline_of,
    quick_outline,
)
from gateway.dialects.openai_requests import SMALL_BYTES, parse_request, reading_request, splice
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import longest_slice_ms


def values(body, kind=bytes):
    top = quick_outline(kind(body))
    return None if top is None else {name: json.loads(body[start:end]) for name, (start, end) in top.values.items()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PLAIN = st.text("abcdefgh_", min_size=1)


@given(st.dictionaries(PLAIN, JSON, min_size=1), st.booleans(), st.sampled_from([None, 1]))
def test_all_top_level_values_are_found(fields, ascii_only, indent):
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode()
    assert values(body) in (None, {name.encode(): value for name, value in fields.items()})


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_usual_bodies_have_an_outline(kind):
    body = b' {"model": "a", "messages": [{"content": "say \\"{\\" \\\\"}], "n": -1.5e3, "stream" :true} '
    assert values(body, kind) == {
        b"model": "a",
        b"messages": [{"content": 'say "{" \\'}],
        b"n": -1500.0,
        b"stream": True,
    }


def test_the_last_of_repeated_names_counts():
    assert values(b'{"model":"a","model":"b"}') == {b"model": "b"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"a"', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1}x', b'{"a":1,}', b'{"a":[}', b'{"a":"b}',
        b'{"a":"b\\"}', b'{"a":tru}', b'{"\\u0061":1}', b'{a:1}', b'{"a":[1}', b'{"a":1 2}',
    ],
)  # fmt: skip
def test_unusual_bodies_have_no_outline(body):
    assert quick_outline(body) is None


@pytest.mark.parametrize("length", [2, BYTES_A_STRING])
def test_many_short_strings_are_left_to_a_parser(length):
    body = json.dumps({"model": "a", "messages": ["x" * length] * (FREE_STRINGS + 20)}).encode()
    assert (quick_outline(body) is None) is (length == 2)


@pytest.mark.parametrize("text", ['"' * 100, "\\" * 100])
def test_many_escapes_are_left_to_a_parser(text):
    assert quick_outline(json.dumps({"model": "a", "prompt": text}).encode()) is None


def test_a_few_escapes_do_not_need_a_parser():
    assert values(json.dumps({"model": "a", "prompt": '\\"\\\\'}).encode()) is not None


# The choice of a way


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [SMALL_BYTES, WHOLE_BYTES - (WHOLE_BYTES >> 4), WHOLE_BYTES + (WHOLE_BYTES >> 3)])
def test_a_body_of_any_shape_has_an_outline(shape, size):
    body = SHAPES[shape](size)
    if body.count(b'"') < 400_000:  # more strings than are read of a body of this size
        top = run_unsliced(outline_of(body))
        assert [json.loads(body[slice(*place)]) for place in top.values.values()] == list(json.loads(body).values())


@pytest.mark.parametrize("field", ["messages", "input", "prompt", "tools"])
@pytest.mark.parametrize("names", [MAX_WHOLE_NAMES - 1, 200_000])
def test_names_in_a_prompt_do_not_count(field, names, monkeypatch):
    monkeypatch.setattr(json_outline, "outline_in_slices", None)
    body = b'{"model":"m","%b":[%b{}]}' % (field.encode(), b'{"a":1},' * names)
    assert set(run_unsliced(outline_of(body)).values) == {b"model", field.encode()}


@pytest.mark.parametrize(("names", "by_parser"), [(MAX_WHOLE_NAMES - 2, True), (MAX_WHOLE_NAMES + 1, False)])
def test_names_in_other_fields_count(names, by_parser):
    body = b'{"model":"m","x":[%b{}]}' % (b'{"a":1},' * names)
    assert len(list(outline_of(body))) > 0 or by_parser
    assert json_outline._has_many_names_outside_prompt(body) is not by_parser


@pytest.mark.parametrize(("more", "by_parser"), [(0, True), (1, False)])
def test_names_are_counted_only_where_there_is_room_for_too_many(more, by_parser):
    size = MAX_WHOLE_NAMES * NAME_BYTES + more
    body = b'{"model":"m","x":["a","' + b":" * (MAX_WHOLE_NAMES + 1)
    body += b'","' + b'a","' * ((size - len(body) - 6) // 4)
    body += b"a" * (size - len(body) - 3) + b'"]}'
    assert len(body) == size
    assert json_outline._has_many_names_outside_prompt(body) is not by_parser


def test_too_many_names_at_the_top_are_refused_in_a_body_that_a_parser_could_read():
    body = b'{"model":"m",' + b",".join(b'"k%d":1' % number for number in range(MAX_WHOLE_NAMES + 1)) + b"}"
    with pytest.raises(Refusal) as refused:
        parse_request(body)
    assert refused.value.bound is JSON_NAMES


# Requests


def big(**fields):
    return {"messages": [{"role": "user", "content": "x" * SMALL_BYTES}], **fields}


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
    large = parse_request(json.dumps(big(**fields)).encode())
    small = parse_request(json.dumps(fields).encode())
    assert (large.model, large.stream, large.wants_usage, large.has_options) == (
        small.model,
        small.stream,
        small.wants_usage,
        small.has_options,
    )
    assert large.model_at is not None


@pytest.mark.parametrize("fields", [{}, {"model": 1}, {"model": "a", "stream": "yes"}, {"model": " "}])
def test_a_big_request_is_refused_like_a_small_one(fields):
    with pytest.raises(Refusal) as big_one:
        parse_request(json.dumps(big(**fields)).encode())
    with pytest.raises(Refusal) as small_one:
        parse_request(json.dumps(fields).encode())
    assert (big_one.value.message, big_one.value.param) == (small_one.value.message, small_one.value.param)


def test_a_big_body_that_is_cut_is_refused():
    with pytest.raises(Refusal, match="not a JSON object"):
        parse_request(json.dumps(big(model="a")).encode()[:-2])


# In slices, where a parser would take too long


def slow_values(body):
    return {
        name: json.loads(body[start:end]) for name, (start, end) in run_unsliced(outline_in_slices(body)).values.items()
    }


@given(st.dictionaries(st.text(max_size=20), JSON), st.booleans(), st.sampled_from([None, 1]))
def test_in_slices_every_value_of_any_object_is_found(fields, ascii_only, indent):
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    try:
        expected = {name.encode(): value for name, value in fields.items()}
    except UnicodeEncodeError:  # an unpaired surrogate in a name
        return
    assert slow_values(body) == expected


def test_in_slices_the_last_of_two_values_counts_even_with_an_escaped_name():
    assert slow_values(b'{"model":"a","mod\\u0065l":"b"}') == {b"model": "b"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"a"', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1}x', b'{"a":1,}', b'{"a":"b}', b'{"a":"b\\"}',
        b'{"a":tru}', b"{a:1}", b'{"a":[1}', b'{"a":1 2}', b'{"a":"\\', b'{"a":["\\', b'{"\\x":1}', b'{"a":[[]',
        b'{"a":' + b"1" * 2000 + b"}", b'{"a":' + b" " * 2000 + b"1}",
    ],
)  # fmt: skip
def test_in_slices_a_body_that_is_not_an_object_is_refused(body):
    with pytest.raises(Refusal, match="not a JSON object") as refused:
        run_unsliced(outline_in_slices(body))
    assert refused.value.status == 400


def filled(unit, size, opening=b"[", closing=b"0]"):
    return b'{"model":"m","x":' + opening + unit * (size // len(unit)) + closing + b"}"


BIG = 4 << 20
LONG = 8 << 10
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
    "an endless string": b'{"model":"m","x":"' + b"x" * BIG,
    "short strings after a long one": filled(b'"",', BIG, b'["' + b"x" * LONG + b'",'),
    "names after a long string": filled(b'{"a":1},', BIG, b'["' + b"x" * LONG + b'",'),
    "brackets after a long string": filled(b"[],", BIG, b'["' + b"x" * LONG + b'",'),
    "quotation marks after text": filled(b'\\"', BIG, b'"' + b"x" * LONG, b'"'),
    "a long string after short ones": b'{"model":"m","x":[' + b'"",' * LONG + b'"' + b"x" * BIG + b'"]}',
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("size", [1 << 20, pytest.param(BIG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_slice_of_reading_and_changing_a_big_body_takes_50_ms_of_cpu(body, size):
    assert longest_slice_ms(read_and_change(body[:size])) < 50


def read_and_change(body):
    request, _, _ = yield from reading_request(body)
    yield
    splice(body, request, model="other", include_usage=True)


AT_MOST = WHOLE_BYTES - 200
READ_WHOLE = {
    "short strings": filled(b'"",', AT_MOST),
    "names below": b'{"model":"m","messages":[' + b'{"a":1},' * (AT_MOST // 8) + b"{}]}",
    "empty arrays": b'{"model":"m","messages":[' + b"[]," * (AT_MOST // 3) + b"[]]}",
    "deep arrays": b'{"model":"m","messages":[' + (b"[" * 500 + b"]" * 500 + b",") * (AT_MOST // 1001) + b"[]]}",
    "numbers": filled(b"1,", AT_MOST),
    "quotation marks": filled(b'\\"', AT_MOST, b'"', b'"'),
    "line breaks": filled(b"\\n", AT_MOST, b'"', b'"'),
    "names at the top": b'{"model":"m",' + b",".join(b'"%x":1' % number for number in range(MAX_WHOLE_NAMES - 2))
    + b',"messages":[' + b'"a",' * 350_000 + b"0]}",
    "one name again and again": b'{"model":"m",' + b'"":1,' * (AT_MOST // 5) + b'"a":1}',
}  # fmt: skip


@pytest.mark.unmeasured
@pytest.mark.parametrize("body", READ_WHOLE.values(), ids=READ_WHOLE)
def test_no_slice_of_a_body_that_a_parser_may_read_takes_50_ms_of_cpu(body):
    assert SMALL_BYTES < len(body) <= WHOLE_BYTES
    json.loads(body)
    assert longest_slice_ms(read_and_change(body)) < 50


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        (filled(b"[],", 4 << 20), JSON_VALUES),
        (b'{"model":"m","x":' + b"[" * (4 << 20), JSON_DEPTH),
        (b'{"model":"m","x":' + b"[" * 20_000, JSON_DEPTH),
        (HOSTILE["names at the top"], JSON_NAMES),
        (HOSTILE["options"], JSON_VALUES),
        (b'{"model":"m","stream_options":{"x":"' + b"x" * SMALL_BYTES + b'"}}', JSON_FIELD),
    ],
)
def test_a_body_with_too_many_values_is_refused_by_its_limit(body, bound):
    with pytest.raises(Refusal) as refused:
        parse_request(body)
    assert refused.value.bound is bound


@pytest.mark.parametrize(
    "fields", [{}, {"stream_options": None}, {"stream_options": {"x": [1], "include_usage": False}}]
)
@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_fields_of_a_big_body_are_replaced_in_place(fields, model_first, dense):
    messages = ["x"] * SMALL_BYTES if dense else ["x" * SMALL_BYTES]
    rest = {"stream": True, **fields, "messages": messages}
    body = json.dumps({"model": "a", **rest} if model_first else {**rest, "model": "a"}).encode()
    request = parse_request(body)
    changed = json.loads(b"".join(splice(body, request, model="ö", include_usage=True)))
    options = {**(fields.get("stream_options") or {}), "include_usage": True}
    assert changed == {**rest, "model": "ö", "stream_options": options}
    assert json.loads(b"".join(splice(body, request, model=None, include_usage=False))) == json.loads(body)
