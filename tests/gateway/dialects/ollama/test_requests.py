"""Ollama's request bodies: what decides about routing, and what an Ollama receives."""

import json

import msgspec
import pytest

from gateway.base.errors import Refusal
from gateway.dialects.json_outline import outline_of
from gateway.dialects.ollama.requests import (
    decode_small,
    fields_of,
    lifted,
    native_fields,
    put_back,
    request_of,
    tagged,
)
from gateway.loop.time_slices import run_unsliced
from gateway.registry.patterns import names_of


def parsed(**fields):
    return request_of(decode_small(json.dumps({"model": "tiny", **fields}).encode()))


def large(**fields):
    body = json.dumps({"model": "tiny", **fields}).encode()
    top = run_unsliced(outline_of(body))
    return request_of(fields_of(body, top), top.values)


@pytest.mark.parametrize(("stream", "streams"), [({}, True), ({"stream": True}, True), ({"stream": False}, False)])
def test_responses_are_streams_unless_the_request_refuses_it(stream, streams):
    assert parsed(prompt="Hi", **stream).stream is streams
    assert large(prompt="x" * 200_000, **stream).stream is streams


@pytest.mark.parametrize(("number", "most"), [(7, 7), (-1, None), (-2, None), ("7", None), (None, None)])
def test_num_predict_is_the_most_output_tokens(number, most):
    assert parsed(options={"num_predict": number}).max_tokens == most
    assert large(prompt="x" * 200_000, options={"num_predict": number}).max_tokens == most


@pytest.mark.parametrize(
    ("fields", "empty"),
    [
        ({}, True),
        ({"prompt": ""}, True),
        ({"messages": []}, True),
        ({"prompt": None}, True),
        ({"prompt": "Hi"}, False),
        ({"messages": [{"role": "user", "content": ""}]}, False),
        ({"input": ["a"]}, False),
    ],
)
def test_a_request_without_a_prompt_only_loads_its_model(fields, empty):
    assert parsed(**fields).is_empty is empty


@pytest.mark.parametrize(
    ("keep_alive", "unloads"), [(0, True), ("0", True), ("0s", True), ("0m", True), ("5m", False), (-1, False)]
)
def test_a_keep_alive_of_zero_unloads(keep_alive, unloads):
    request = parsed(keep_alive=keep_alive)
    assert (request.unloads, request.has_keep_alive) == (unloads, True)


@pytest.mark.parametrize(("context", "has_context"), [([1, 2], True), ([], False), (None, False)])
def test_a_context_counts_if_it_has_tokens(context, has_context):
    assert parsed(context=context).has_context is has_context
    assert large(prompt="x" * 200_000, context=context).has_context is has_context


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The body is missing"),
        (b"[]", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b"{}", "`model` must name a model"),
        (b'{"model": 3}', "`model` must name a model"),
        (b'{"model": "tiny", "stream": "yes"}', "Invalid request"),
        (b'{"model": "%b"}' % (b"x" * 300), "more than 256 characters"),
    ],
)
def test_a_bad_body_is_refused_with_the_reason(body, text):
    with pytest.raises(Refusal, match=text) as refused:
        request_of(decode_small(body))
    assert refused.value.status == 400


def test_a_long_value_of_a_short_field_is_refused():
    with pytest.raises(Refusal, match="`options` has more than"):
        large(prompt="x" * 200_000, options={"stop": "x" * 20_000})


@pytest.mark.parametrize(
    ("name", "names", "shown"),
    [
        ("tiny", ("tiny", "tiny:latest"), "tiny:latest"),
        ("tiny:latest", ("tiny:latest", "tiny"), "tiny:latest"),
        ("tiny:8b", ("tiny:8b",), "tiny:8b"),
        ("host:80/tiny", ("host:80/tiny", "host:80/tiny:latest"), "host:80/tiny:latest"),
    ],
)
def test_a_name_without_a_tag_means_latest(name, names, shown):
    assert (names_of(name), tagged(name)) == (names, shown)


def changed(change, **fields):
    raw = msgspec.json.decode(json.dumps(fields), type=dict[str, msgspec.Raw])
    change(raw)
    return json.loads(msgspec.json.encode(raw))


def test_an_ollama_receives_its_own_name_and_no_keep_alive():
    fields = {"model": "a", "keep_alive": "1h", "options": {"top_k": 3}}
    assert changed(lambda raw: native_fields(raw, "b", keep_alive=False), **fields) == {
        "model": "b",
        "options": {"top_k": 3},
    }
    assert changed(lambda raw: native_fields(raw, "b", keep_alive=True), **fields)["keep_alive"] == "1h"


def test_options_are_put_back_after_the_parameters_of_a_model_name_changed_them():
    body = {"model": "a", "options": {"num_predict": 5, "num_ctx": 99, "temperature": 1}, "think": True}
    fields = json.loads(lifted(json.dumps(body).encode()))
    assert fields == {"model": "a", "options": {"num_ctx": 99}, "max_tokens": 5, "temperature": 1, "think": True}
    given = fields | {"max_tokens": 2, "top_p": 0.5, "reasoning_effort": "low"}
    restored = {"num_ctx": 99, "num_predict": 2, "temperature": 1, "top_p": 0.5}
    assert changed(put_back, **given) == {"model": "a", "options": restored, "think": True}
