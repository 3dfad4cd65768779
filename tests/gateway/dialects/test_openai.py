import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.errors import Refusal
from gateway.base.request_kinds import CHAT, COMPLETIONS, RESPONSES
from gateway.dialects.json_outline import WHOLE_BYTES
from gateway.dialects.json_text import RENAMED_BYTES, rename_model
from gateway.dialects.openai_events import dialect, read_chunk, read_large_chunk, read_responses_event
from gateway.dialects.openai_requests import (
    MAX_MODEL_NAME,
    SMALL_BYTES,
    Request,
    adapt_request,
    parse_request,
    with_usage,
)
from gateway.dialects.openai_responses import read_large_response, read_response
from gateway.dialects.requested_tokens import NO_BOUND
from gateway.dialects.usage import Usage
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import call_ms
from tests.gateway import captures
from tests.gateway.captures import STREAMS
from tests.memory import with_peak

DEEP = b"[" * 200_000


def sentence(error):
    return None if error is None else error.sentence


# Requests


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b'{"model":"m"}', Request("m", False, False, False)),
        (b'{"model":"m","stream":null}', Request("m", False, False, False)),
        (b'{"model":"m","stream":false}', Request("m", False, False, False)),
        (b' {"stream" : true , "model" : "m"} ', Request("m", True, False, False)),
        (b'{"model":"m","stream":true,"stream_options":null}', Request("m", True, False)),
        (b'{"model":"m","stream":true,"stream_options":{}}', Request("m", True, False)),
        (b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}', Request("m", True, False)),
        (b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}', Request("m", True, True)),
        (b'{"model":"m","stream_options":{"include_usage":"true"}}', Request("m", False, False)),
        (b'{"model":"m","n":3}', Request("m", False, False, False, choices=3)),
        *[(b'{"model":"m","n":%b}' % n, Request("m", False, False, False)) for n in (b"1", b"0", b"null")],
        (b'{"model":"m","n":1001}', Request("m", False, False, False, choices=1001)),
        *[
            (b'{"model":"m","n":%b}' % n, Request("m", False, False, False, choices=NO_BOUND))
            for n in (b"-2", b"2.0", b"true", b'"2"', b"[]")
        ],
        (
            b'{"n":2,"model":"m","max_tokens":7,"models":["o"],"input":"%b"}' % (b"x" * SMALL_BYTES),
            Request("m", False, False, False, (15, 18), None, 7, models=("o",), choices=2),
        ),
        (b'{"model":"first","model":"last"}', Request("last", False, False, False)),
        (b'{"model":"\\u65e5\\u672c"}', Request("日本", False, False, False)),
        (
            '{"model":"日本","messages":[{"content":"\\ud83d\\ude00 😀"}]}'.encode(),
            Request("日本", False, False, False),
        ),
    ],
)
def test_the_routing_fields_of_a_request(body, request_):
    assert parse_request(body) == request_


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "not valid JSON"),
        (b"{bad", None, "not valid JSON"),
        (b'{"model":"m"', None, "not valid JSON"),
        (b'{"model":"m"} trailing', None, "not valid JSON"),
        (b'\xef\xbb\xbf{"model":"m"}', None, "not valid JSON"),
        (b'{"model":"\xff"}', None, "not valid JSON"),
        (b'{"model":"m","x":' + DEEP, None, "levels deep"),
        (b"[]", None, "must be a JSON object"),
        (b"null", None, "Expected `object`"),
        (b'"text"', None, "Expected `object`"),
        (b"{}", "model", "`model` is missing"),
        (b'{"model":null}', "model", "Expected `str`"),
        (b'{"model":7}', "model", "Expected `str`"),
        (b'{"model":["m"]}', "model", "Expected `str`"),
        (b'{"model":""}', "model", "must name a model"),
        (b'{"model":"  "}', "model", "must name a model"),
        (b'{"model":"%b"}' % (b"x" * (MAX_MODEL_NAME + 1)), "model", "more than 256 characters"),
        (b'{"model":"m","stream":"yes"}', "stream", "Expected `bool | null`"),
        (b'{"model":"m","stream":1}', "stream", "Expected `bool | null`"),
        (b'{"model":"m","stream_options":true}', "stream_options", "Expected `object | null`"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(body, param, words):
    with pytest.raises(Refusal) as caught:
        parse_request(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_request", param)
    assert words in caught.value.message
    assert len(caught.value.message) < 200


@given(st.binary())
def test_any_bytes_are_a_request_or_refused(body):
    try:
        assert isinstance(parse_request(body), Request)
    except Refusal:
        pass


def test_a_request_that_needs_no_change_stays_the_same_object():
    body = b'{"model":"m","stream":true}'
    assert adapt_request(body, model=None, include_usage=False) is body


def test_the_model_is_replaced():
    body = b'{ "a": 1.50, "model" : "asked", "z": [ 1e3, "\\u00e9" ] }'
    assert adapt_request(body, model="known/äs", include_usage=False) == (
        '{"a":1.50,"model":"known/äs","z":[ 1e3, "\\u00e9" ]}'.encode()
    )


def test_the_last_of_repeated_fields_counts():
    body = b'{"model":"first","n":1,"model":"last","n":2}'
    assert adapt_request(body, model="m", include_usage=False) == b'{"model":"m","n":2}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"include_usage":true}'),
        (b"null", b'{"include_usage":true}'),
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (b'{ "x" : 1.0 }', b'{"x":1.0,"include_usage":true}'),
    ],
)
def test_usage_is_requested_beside_other_options(before, after):
    body = b'{"model":"m","stream_options":%b,"n":1}'
    assert adapt_request(body % before, model=None, include_usage=True) == body % after


def test_usage_is_requested_without_other_options():
    requested = adapt_request(b'{"model":"m"}', model=None, include_usage=True)
    assert requested == b'{"model":"m","stream_options":{"include_usage":true}}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
FIELDS = st.dictionaries(st.text().filter(lambda key: key != "stream_options"), JSON, max_size=6)


@given(FIELDS, st.text(), st.booleans(), st.sampled_from([None, 2]))
def test_every_other_field_keeps_its_bytes(fields, model, ascii_only, indent):
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode()
    before = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    after = msgspec.json.decode(adapt_request(body, model=model, include_usage=True), type=dict[str, msgspec.Raw])
    assert json.loads(bytes(after.pop("model"))) == model
    assert json.loads(bytes(after.pop("stream_options"))) == {"include_usage": True}
    before.pop("model", None)
    assert {key: bytes(raw) for key, raw in after.items()} == {key: bytes(raw) for key, raw in before.items()}


# The model's name in responses


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"old"}', b'{"model":"new"}'),
        (b'{ "model" :\r\n\t"old" }', b'{ "model" :\r\n\t"new" }'),
        (b'{"model":"old","response":{"model":"old"}}', b'{"model":"new","response":{"model":"new"}}'),
        (b'{"model":"other"}', b'{"model":"other"}'),
        (b'{"model":null,"x":"old"}', b'{"model":null,"x":"old"}'),
        (b'{"model":"\\u006fld"}', b'{"model":"new"}'),
        (b'{"text":"\\"model\\":\\"old\\""}', b'{"text":"\\"model\\":\\"old\\""}'),
        (b'{"\\"model":"old"}', b'{"\\"model":"old"}'),
        (b'["model","old"]', b'["model","old"]'),
        (b'{"x":"model","y":"old"}', b'{"x":"model","y":"old"}'),
        (b'{"the model":"old"}', b'{"the model":"old"}'),
        (b'{"model":{"model":"old"}}', b'{"model":{"model":"new"}}'),
        (b'{"model":"old', b'{"model":"old'),
        (b'{"model":', b'{"model":'),
        (b"", b""),
    ],
)
def test_renaming_changes_only_the_values_of_model(before, after):
    assert rename_model(before, "old", "new") == after


@given(JSON, st.text(), st.text(), st.booleans())
def test_renaming_equals_changing_the_decoded_values(value, served, requested, ascii_only):
    before = {"model": served, "x": [value, {"model": served, "y": {"model": "other"}}]}
    renamed = rename_model(json.dumps(before, ensure_ascii=ascii_only).encode(), served, requested)
    assert json.loads(renamed) == _changed(before, served, requested)


@given(JSON, st.text())
def test_renaming_to_the_same_name_changes_no_byte(value, name):
    body = json.dumps({"x": value, "model": name}, ensure_ascii=False).encode()
    assert rename_model(body, name, name) == body


@given(st.binary())
def test_renaming_passes_bytes_without_the_name(data):
    assert rename_model(data, "a name that is not there", "new") == data


@pytest.mark.parametrize("size", [0, 2 * RENAMED_BYTES - 50, 2 * RENAMED_BYTES, 8 * RENAMED_BYTES])
def test_a_long_body_is_renamed_at_both_ends(size):
    body = b'{"model":"old","x":"%b","y":{"model":"old"}}' % (b"a" * size)
    assert rename_model(body, "old", "new") == body.replace(b'"old"', b'"new"')


def test_a_large_response_is_read_without_a_copy():
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}],"model":"m"}' % (b"a" * (8 << 20))
    (response, usage), peak = with_peak(lambda: run_unsliced(read_large_response(body, "m")))
    assert response is body
    assert usage is not None
    assert usage.finish_reason == "stop"
    assert peak < len(body) // 4


def _changed(value, served, requested):
    if isinstance(value, list):
        return [_changed(item, served, requested) for item in value]
    if isinstance(value, dict):
        return {
            key: requested if key == "model" and item == served else _changed(item, served, requested)
            for key, item in value.items()
        }
    return value


# Complete responses


@pytest.mark.parametrize("capture", captures.RESPONSE_CAPTURES, ids=str)
def test_a_captured_response_is_passed_on_unchanged(capture):
    body, usage = read_response(capture.body, capture.model)
    response = json.loads(capture.body)
    reason = {"incomplete": "length", "completed": "stop"}.get(response.get("status"))
    if "choices" in response:
        reason = response["choices"][0]["finish_reason"]
    assert body is capture.body
    assert usage == captures.reported(response["usage"], reason)


@pytest.mark.parametrize("capture", captures.RESPONSE_CAPTURES, ids=str)
def test_a_captured_response_has_the_requested_name_and_no_other_change(capture):
    body, _ = read_response(capture.body, "asked/for:1")
    old, new = f'"model":"{capture.model}"'.encode(), b'"model":"asked/for:1"'
    assert capture.body.count(old) == 1
    assert body == capture.body.replace(old, new)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":2}', Usage(1, 2)),
        (b'{"prompt_tokens":1,"total_tokens":1}', Usage(1, None)),
        (b'{"input_tokens":1,"output_tokens":0}', Usage(1, 0)),
        (b'{"prompt_tokens":0,"input_tokens":9}', Usage(0, None)),
        (b'{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":8}}', Usage(9, None, 8)),
        (b'{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":0}}', Usage(9, 1, 0)),
        (b'{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}', Usage(9, 1)),
        (b'{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":[8]}', Usage(9, 1)),
        (b'{"input_tokens":9,"output_tokens":1,"input_tokens_details":{"cached_tokens":7}}', Usage(9, 1, 7)),
        (b"{}", None),
        (b"null", None),
    ],
)
def test_all_forms_of_usage(usage, expected):
    assert read_response(b'{"usage":%b}' % usage, "m")[1] == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"model"', b'{"model":5}', b"\xff", DEEP])
def test_an_unknown_body_is_passed_on_unchanged(body):
    assert read_response(body, "m") == (body, None)


# Events


@pytest.mark.parametrize(
    ("data", "deltas"),
    [
        ('{"choices":[{"delta":{"content":"x"}}]}', 1),
        ('{"choices":[{"delta":{"content":""}}]}', 0),
        ('{"choices":[{"delta":{"content":null,"role":"assistant"}}]}', 0),
        ('{"choices":[{"delta":{"reasoning_content":"x"}}]}', 1),
        ('{"choices":[{"delta":{"reasoning":"x"}}]}', 1),
        ('{"choices":[{"delta":{"refusal":"x"}}]}', 1),
        ('{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', 1),
        ('{"choices":[{"delta":{"function_call":{"name":"f"}}}]}', 1),
        ('{"choices":[{"delta":{"content":[{"type":"text"}]}}]}', 1),
        ('{"choices":[{"text":"x"}]}', 1),
        ('{"choices":[{"text":""}]}', 0),
        ('{"choices":[{"delta":{"content":"x"}},{"delta":{"content":"y"}}]}', 2),
        ('{"choices":[]}', 0),
        ('{"choices":null}', 0),
        ("{}", 0),
    ],
)
def test_pieces_of_output_are_counted(data, deltas):
    assert read_chunk(data.encode()).deltas == deltas


def test_done_ends_a_stream():
    event = read_chunk(b"[DONE]")
    assert (event.finished, event.last) == (True, True)


@pytest.mark.parametrize(("reason", "finished"), [('"stop"', True), ('"length"', True), ("null", False)])
def test_a_finish_reason_completes_a_response(reason, finished):
    event = read_chunk(b'{"choices":[{"delta":{"content":"x"},"finish_reason":%b}]}' % reason.encode())
    assert (event.choices, event.last) == ([(0, finished)], False)


@pytest.mark.parametrize(
    ("data", "usage_only"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":1}}', True),
        (b'{"usage":{"prompt_tokens":1}}', True),
        (b'{"choices":[],"usage":null}', False),
        (b'{"choices":[],"prompt_filter_results":[]}', False),
        (b'{"choices":[{"text":""}],"usage":{"prompt_tokens":1}}', False),
        (b'{"choices":[],"usage":{"prompt_tokens":1},"error":"x"}', False),
    ],
)
def test_an_event_with_only_usage(data, usage_only):
    assert read_chunk(data).usage_only is usage_only


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"error":{"message":"broken"}}', "broken"),
        (b'{"error":"broken"}', "broken"),
        (b'{"error":{}}', "the upstream reported an error"),
        (b'{"error":null}', None),
    ],
)
def test_an_error_in_a_stream(data, error):
    assert sentence(read_chunk(data).error) == error


@pytest.mark.parametrize(
    ("data", "last", "error"),
    [
        ('{"type":"response.completed","response":{}}', True, None),
        ('{"type":"response.incomplete","response":{}}', True, None),
        ('{"type":"response.cancelled"}', True, None),
        ('{"type":"response.failed","response":{"error":{"message":"broken"}}}', True, "broken"),
        ('{"type":"response.failed"}', True, "the upstream reported an error"),
        ('{"type":"error","message":"broken"}', True, "broken"),
        ('{"type":"error","error":{"message":"broken"}}', True, "broken"),
        ('{"type":"response.output_text.done"}', False, None),
        ("{}", False, None),
    ],
)
def test_the_events_that_end_a_response(data, last, error):
    event = read_responses_event(data.encode())
    assert (event.last, sentence(event.error)) == (last, error)


def test_a_response_reports_its_model_and_usage():
    event = read_responses_event(b'{"response":{"model":"m","usage":{"input_tokens":1,"output_tokens":2}}}')
    assert (event.model, event.usage) == ("m", Usage(1, 2))


def test_a_responses_deltas_are_counted():
    kinds = ("response.output_text.delta", "response.reasoning_text.delta", "response.output_text.done")
    assert [read_responses_event(b'{"type":"%b"}' % kind.encode()).deltas for kind in kinds] == [1, 1, 0]


# Dialects


def test_usage_must_be_requested_except_in_responses():
    assert [dialect(kind).usage_on_request for kind in (CHAT, COMPLETIONS, RESPONSES)] == [True, True, False]


def test_an_error_event_of_chunks():
    assert dialect(COMPLETIONS).error_event(b'{"error":{}}') == b'data: {"error":{}}\n\n'


@pytest.mark.parametrize("body", [b'{"model":"m","x\xff":1}', b'{"model":"m","x":1,"y\xff\xfe":{}}'])
def test_a_body_with_invalid_utf8_in_skipped_parts_is_refused(body):
    with pytest.raises(Refusal) as caught:
        adapt_request(body, model="other", include_usage=False)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("usage", ['"none"', "[]", '{"prompt_tokens":"12"}', '{"prompt_tokens":true}', "7"])
def test_usage_without_counts_hides_no_other_usage(usage):
    event = read_chunk(b'{"model":"m","choices":[{"delta":{"content":"x"}}],"usage":%b}' % usage.encode())
    assert (event.model, event.deltas) == ("m", 1)
    assert event.usage is None or event.usage == Usage(None, None)


@pytest.mark.parametrize("index", [b'"0"', b"null", b"0.5"])
def test_an_odd_index_hides_no_output(index):
    event = read_chunk(b'{"choices":[{"index":%b,"delta":{"content":"x"},"finish_reason":"stop"}]}' % index)
    assert (event.deltas, event.choices) == (1, [(0, True)])


@pytest.mark.parametrize("read", [read_chunk, read_responses_event])
def test_a_model_that_is_not_a_string_is_unchanged(read):
    assert read(b'{"type":"response.created","model":7,"response":{"model":7}}').model is None


# Requesting usage without changing the client's bytes

FIELDS_OF_A_STREAM = FIELDS.map(lambda fields: {**fields, "model": "m", "stream": True})
KEYS_LIKE_IT = st.sampled_from(
    ["streamXoptions", "stream_options ", " stream_options", "x\\stream_options", 'a"stream_options']
)


@given(FIELDS_OF_A_STREAM, KEYS_LIKE_IT, st.booleans(), st.sampled_from([None, 2]))
def test_the_request_for_usage_is_inserted_in_front(fields, key, ascii_only, indent):
    body = json.dumps({**fields, key: 1}, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    assert not parse_request(body).has_options
    splice = b"".join(with_usage(body))
    spliced = json.loads(splice)
    assert spliced.pop("stream_options") == {"include_usage": True}
    assert (spliced, splice.count(body[body.index(b"{") + 1 :])) == (json.loads(body), 1)


@pytest.mark.parametrize("key", [b'"stream_options"', b'"stream\\u005foptions"', b'"\\u0073tream_options"'])
@pytest.mark.parametrize("value", [b"null", b"{}", b'{"include_usage":false}'])
def test_existing_options_are_found_with_an_escaped_name(key, value):
    body = b'{"model":"m","stream":true,%b:%b}' % (key, value)
    request = parse_request(body)
    assert request.has_options
    requested = adapt_request(body, model=None, include_usage=True)
    assert json.loads(requested)["stream_options"] == {"include_usage": True}


def test_nested_options_are_ignored():
    assert not parse_request(b'{"model":"m","metadata":{"stream_options":{"include_usage":true}}}').has_options


# Slow bodies


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "make",
    [
        lambda size: b'{"model":"' + b'\\"' * (size // 2) + b'"}',
        lambda size: b'{"model":' + b" " * size + b'"up"}',
        lambda size: b"[" + b'{"model":"up"},' * (size // 15) + b"0]",
        lambda size: b"[" + b'"model",' * (size // 8) + b"0]",
    ],
)
def test_a_model_is_replaced_in_time_in_proportion_to_the_size(make):
    once, twice = (call_ms(rename_model, make(size), "up", "asked") for size in (400_000, 800_000))
    assert twice < 4 * once + 20
    assert twice < 50


def test_the_model_is_replaced_at_both_ends_of_a_long_body():
    data = b'{"model":"up","x":"' + b"x" * (4 * RENAMED_BYTES) + b'","model":"up"}'
    assert rename_model(data, "up", "asked") == data.replace(b'"up"', b'"asked"')


@pytest.mark.parametrize("size", [100, SMALL_BYTES, 5_000_000])
@pytest.mark.parametrize("first", [True, False])
def test_a_big_response_is_read_like_a_small_one(size, first):
    facts = {"model": "up", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    rest = {"data": [{"embedding": [0.5, -1.25] * (size // 12)}], "model_info": [{"model": "up"}]}
    body = json.dumps({**facts, **rest} if first else {**rest, **facts}).encode()
    response, usage = run_unsliced(read_large_response(body, "asked"))
    assert usage == Usage(3, None)
    assert json.loads(response)["model"] == "asked"
    assert (response, usage) == read_response(body, "asked")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"x" * 100, b'{"a":' + b"[" * 10_000, b'{"usage":[' + b"[]," * 600_000 + b"0]}"]
)
def test_a_big_response_of_another_kind_is_passed_on_unchanged(body):
    assert run_unsliced(read_large_response(body, "asked")) == (body, None)


@pytest.mark.parametrize("field", ["usage", "model"])
def test_a_huge_field_of_a_response_is_not_read(field):
    body = b'{"model":"asked","%b":[' % field.encode() + b"[]," * 300_000 + b"0]}"
    assert call_ms(read_response, body, "asked") < 50
    assert read_response(body, "asked") == (body, None)


def test_big_events_are_read_like_small_ones():
    for capture in STREAMS:
        if capture.kind == CHAT:
            for event in capture.events:
                data = event.split(b"data: ", 1)[1].strip()
                assert read_large_chunk(data) == read_chunk(data)


# Cached tokens of llama.cpp


@pytest.mark.parametrize(
    ("usage", "timings", "cached"),
    [
        ('{"prompt_tokens":9,"completion_tokens":1}', '{"cache_n":8,"prompt_n":1}', 8),
        ('{"prompt_tokens":9,"completion_tokens":1}', '{"cache_n":0}', 0),
        ('{"prompt_tokens":9,"completion_tokens":1}', '{"prompt_n":1}', None),
        ('{"prompt_tokens":9,"completion_tokens":1}', '{"cache_n":"8"}', None),
        ('{"prompt_tokens":9,"completion_tokens":1}', "[]", None),
        ('{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":7}}', '{"cache_n":8}', 7),
    ],
)
def test_timings_report_cached_tokens_where_the_usage_does_not(usage, timings, cached):
    body = f'{{"model":"m","choices":[],"usage":{usage},"timings":{timings}}}'.encode()
    whole = read_response(body, "m")[1]
    large = run_unsliced(read_large_response(body, "m"))[1]
    event = read_chunk(body).usage
    assert whole == large == event == Usage(9, 1, cached)


def test_timings_without_usage_are_no_usage():
    assert read_response(b'{"model":"m","timings":{"cache_n":8}}', "m")[1] is None
    assert read_chunk(b'{"choices":[],"timings":{"cache_n":8}}').usage is None


# The most output tokens


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": None}, 7),
        ({"max_output_tokens": 7}, 7),
        ({"max_tokens": 7, "stream_options": {"include_usage": True}}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 50}, 50),
        ({"max_tokens": 70, "max_completion_tokens": 5, "n_predict": 9}, 70),
        ({"max_tokens": 7, "n_predict": -1}, None),
        ({"max_tokens": 7, "max_completion_tokens": "50"}, None),
        ({"max_tokens": 7, "max_length": 0}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7.0}, None),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": [1] * 50}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("padding", [0, SMALL_BYTES])
@pytest.mark.parametrize("values", [str, lambda text: [0] * (len(text) // 3)])
def test_the_most_output_tokens_are_read_if_they_are_a_number(fields, most, padding, values):
    body = json.dumps({"model": "m", "messages": values("x" * padding), **fields}).encode()
    parsed = parse_request(body)
    assert (parsed.model, parsed.max_tokens) == ("m", most)
    assert parsed.wants_usage is ("stream_options" in fields)


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({}, 1),
        ({"n": 2, "best_of": 5}, 5),
        ({"n": 3, "best_of": 2, "n_cmpl": None}, 3),
        ({"n_cmpl": 4}, 4),
        ({"best_of": "5"}, NO_BOUND),
        ({"n": 10**30}, NO_BOUND),
        ({"prompt": "one"}, 1),
        ({"prompt": ["one", 'two, "three"', "[{"]}, 3),
        ({"prompt": [1, -2, 3]}, 1),
        ({"prompt": [[1, 2], [3], []]}, 3),
        ({"prompt": [{"prompt_string": "a,b"}, "b"]}, 2),
        ({"prompt": [1, "mixed"]}, 1),
        ({"prompt": [], "n": 2}, 2),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 6),
        ({"prompt": ["a", "b"], "prompt_embeds": ["AA==", "BB=="]}, 4),
        ({"prompt": {"id": "p"}}, 1),
    ],
)
@pytest.mark.parametrize("padding", [0, SMALL_BYTES, WHOLE_BYTES])
@pytest.mark.parametrize("values", [str, lambda text: [0] * (len(text) // 3)])
def test_the_responses_are_counted_that_a_body_asks_for(fields, choices, padding, values):
    body = json.dumps({"model": "m", "user": values("x" * padding), **fields}).encode()
    assert parse_request(body).choices == choices


def test_prompts_of_a_big_body_are_counted():
    prompts = ["x" * 1000, "\\" * 9, 'a "b" [c', "", [1] * 5] * 200
    body = json.dumps({"model": "m", "prompt": prompts}).encode()
    assert SMALL_BYTES < len(body) < 1 << 20
    assert parse_request(body).choices == 1000
    assert parse_request(body.replace(b"xxx", b"x" * 100)).choices == 1000


@pytest.mark.parametrize(
    "body",
    [
        b"{}{}",
        b'{"models":["a"],"stream":5}',
        b'{"models":["a"]}}',
        b'{"models":[]}',
        b'{"models":7}',
        b'{"models":["\xff"]}',
    ],
)
def test_a_body_without_a_model_and_with_bad_models_is_refused(body):
    with pytest.raises(Refusal) as refused:
        parse_request(body)
    assert refused.value.status == 400
