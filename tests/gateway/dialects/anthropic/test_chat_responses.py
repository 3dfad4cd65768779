"""Whole messages as chat completions, and errors of Messages in the format of chat completions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.anthropic.chat_responses import MAX_BLOCKS, chat_error, error_from_message, from_message
from gateway.dialects.chat.completions import MAX_VALUES, NoChatCompletion
from gateway.dialects.chat.translation import TRANSLATED, Translation
from gateway.dialects.usage import Usage
from tests.gateway.anything import OBJECTS, VALUES, shape

CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
CALLED = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
THINKING = {"type": "thinking", "thinking": "Let me", "signature": "EqQB"}
URL = {"type": "web_search_result_location", "url": "https://x.test", "title": "X", "cited_text": "a"}


def text(value, **fields):
    return {"type": "text", "text": value, **fields}


def message(*blocks, reason="end_turn", usage=None, **fields):
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": list(blocks),
        "stop_reason": reason,
        "usage": usage,
        **fields,
    }
    return json.dumps(body).encode()


def translate(*blocks, translation=TRANSLATED, **fields):
    body, usage = from_message(message(*blocks, **fields), "asked", translation)
    return json.loads(body), usage


def choice(*blocks, **fields):
    completion, _ = translate(*blocks, **fields)
    (only,) = completion["choices"]
    return only


def test_a_message():
    completion, usage = translate(text("Hello"), usage={"input_tokens": 3, "output_tokens": 2})
    assert completion.pop("created") > 1_700_000_000
    assert completion == {
        "id": "msg_1",
        "object": "chat.completion",
        "model": "asked",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    assert usage == Usage(3, 2, finish_reason="stop")


@pytest.mark.parametrize(
    ("blocks", "output"),
    [
        ([text("a"), text("b")], {"content": "ab"}),
        ([], {"content": ""}),
        ([CALL], {"content": None, "tool_calls": [CALLED]}),
        ([text("a"), CALL], {"content": "a", "tool_calls": [CALLED]}),
        ([{**CALL, "input": {}}], {"tool_calls": [{**CALLED, "function": {"name": "look", "arguments": "{}"}}]}),
        (
            [THINKING, text("a")],
            {
                "content": "a",
                "reasoning_content": "Let me",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Let me", "index": 0, "signature": "EqQB"},
                ],
            },
        ),
        (
            [{"type": "redacted_thinking", "data": "xyz"}, text("a")],
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz", "index": 0}]},
        ),
        ([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, text("a")], {"content": "a"}),
        ([{"type": "something_new", "text": 3}, text("a")], {"content": "a"}),
        (
            [text("ab"), text("cd", citations=[URL, {"type": "char_location"}])],
            {
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"url": "https://x.test", "title": "X", "start_index": 2, "end_index": 4},
                    }
                ]
            },
        ),
    ],
)
def test_blocks(blocks, output):
    given = choice(*blocks)["message"]
    assert {name: given.get(name) for name in output} == output
    assert not given.keys() - output.keys() - {"role", "content", "refusal", "reasoning_content"}


@pytest.mark.parametrize(
    ("reason", "blocks", "finish"),
    [
        ("end_turn", [text("a")], "stop"),
        ("stop_sequence", [text("a")], "stop"),
        ("max_tokens", [text("a")], "length"),
        ("model_context_window_exceeded", [text("a")], "length"),
        ("tool_use", [CALL], "tool_calls"),
        ("refusal", [], "content_filter"),
        ("pause_turn", [text("a")], "length"),
        ("something_new", [text("a")], "stop"),
        (None, [CALL], "tool_calls"),
    ],
)
def test_finish_reasons(reason, blocks, finish):
    assert choice(*blocks, reason=reason)["finish_reason"] == finish
    assert translate(*blocks, reason=reason)[1].finish_reason == finish


def test_a_refusal_is_explained():
    details = {"type": "refusal", "category": "bio", "explanation": "No."}
    given = choice(reason="refusal", stop_details=details)
    assert (given["message"]["refusal"], given["finish_reason"]) == ("No.", "content_filter")


def test_custom_tools_get_their_text():
    translation = Translation(custom_tools=frozenset(["look"]))
    given = choice({**CALL, "input": {"input": "ls"}}, reason="tool_use", translation=translation)["message"]
    assert given["tool_calls"] == [{"id": "toolu_1", "type": "custom", "custom": {"name": "look", "input": "ls"}}]
    given = choice(CALL, translation=translation)["message"]["tool_calls"]
    assert given[0]["custom"]["input"] == '{"at": 1}'


def test_the_older_form_of_calls():
    given = choice(CALL, {**CALL, "id": "toolu_2"}, reason="tool_use", translation=Translation(one_call=True))
    assert given["finish_reason"] == "function_call"
    assert given["message"]["function_call"] == CALLED["function"]
    assert "tool_calls" not in given["message"]


def test_usage_in_the_normal_form():
    usage = {
        "input_tokens": 12,
        "cache_read_input_tokens": 2048,
        "cache_creation_input_tokens": 5,
        "output_tokens": 89,
        "output_tokens_details": {"thinking_tokens": 31},
    }
    completion, counted = translate(text("a"), usage=usage)
    assert completion["usage"] == {
        "prompt_tokens": 2065,
        "completion_tokens": 89,
        "total_tokens": 2154,
        "prompt_tokens_details": {"cached_tokens": 2048, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 31},
    }
    assert counted == Usage(2065, 89, 2048, 5, 31, "stop")


def test_a_message_without_usage_has_none():
    completion, counted = translate(text("a"))
    assert "usage" not in completion
    assert counted == Usage(None, None, finish_reason="stop")


def test_unpaired_surrogates_are_replaced():
    body, _ = from_message(b'{"content":[{"type":"text","text":"a\\ud83d"}]}', "asked", TRANSLATED)
    assert json.loads(body)["choices"][0]["message"]["content"] == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a message"),
        (b"[]", "not a message"),
        (b'{"choices":[]}', "no content"),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}', "overloaded_error"),
        (message(*[text("a")] * (MAX_BLOCKS + 1)), "blocks"),
        (b'{"content":[' + b"{}," * MAX_VALUES, "values"),
    ],
)
def test_other_bodies_are_no_message(body, words):
    with pytest.raises(NoChatCompletion, match=words):
        from_message(body, "asked", TRANSLATED)


BLOCK = shape(type=st.sampled_from(["text", "thinking", "tool_use"]), text=st.text(), name=st.text(), input=OBJECTS)


@given(st.lists(BLOCK, max_size=3), VALUES, VALUES)
def test_any_message_is_translated_or_refused(blocks, reason, usage):
    body = json.dumps({"content": blocks, "stop_reason": reason, "usage": usage, "stop_details": usage}).encode()
    completion, _ = from_message(body, "asked", Translation(custom_tools=frozenset([""])))
    assert json.loads(completion)["choices"][0]["message"]["role"] == "assistant"


# Errors


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("invalid_request_error", "max_tokens: Field required", None),
        ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", "context_length_exceeded"),
        ("authentication_error", "invalid x-api-key", "upstream_auth"),
        ("permission_error", "not you", "upstream_auth"),
        ("billing_error", "pay", "insufficient_quota"),
        ("not_found_error", "model: x", "model_not_found"),
        ("request_too_large", "too large", "context_length_exceeded"),
        ("rate_limit_error", "slow down", "rate_limit_exceeded"),
        ("api_error", "oops", "server_error"),
        ("timeout_error", "late", "timeout"),
        ("overloaded_error", "Overloaded", "overloaded"),
        ("something_new", "new", None),
    ],
)
def test_errors(kind, message, code):
    error = {"type": kind, "message": message}
    body = json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
    assert json.loads(error_from_message(body) or b"") == {
        "error": {"message": message, "type": kind, "param": None, "code": code}
    }


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"x"}', b'{"error":{"message":"of OpenAI"}}', b"[]"])
def test_other_errors_are_not_translated(body):
    assert error_from_message(body) is None


def test_an_error_without_fields_has_a_message():
    assert chat_error(None)["error"]["message"]
    assert chat_error({"type": 3})["error"]["type"] == "api_error"
