import json

import msgspec
import pytest
from hypothesis import given

from gateway.base.request_kinds import CHAT
from gateway.dialects.anthropic.responses import from_chat
from gateway.dialects.chat.completions import NoChatCompletion
from tests.gateway import captures
from tests.gateway.anything import DELTA, VALUES

RESPONSE_CAPTURES = [capture for capture in captures.RESPONSE_CAPTURES if capture.kind == CHAT]


def translate(message, finish="stop", usage=None, **choice):
    body = {"id": "chat-1", "choices": [{"message": message, "finish_reason": finish, **choice}], "usage": usage}
    return json.loads(from_chat(json.dumps(body).encode(), "asked")[0])


def call(arguments="{}", id="call_1", name="look"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def input_of(arguments):
    (block,) = translate({"tool_calls": [call(arguments)]}, "tool_calls")["content"]
    return block["input"]


def test_a_response_with_text():
    assert translate({"role": "assistant", "content": "hello"}) == {
        "id": "chat-1",
        "type": "message",
        "role": "assistant",
        "model": "asked",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
            "output_tokens": 0,
        },
    }


@pytest.mark.parametrize("capture", RESPONSE_CAPTURES, ids=str)
def test_a_captured_response(capture):
    body, usage = from_chat(capture.body, "asked")
    message, chat = json.loads(body), json.loads(capture.body)
    assert message["content"] == [{"type": "text", "text": chat["choices"][0]["message"]["content"]}]
    shown = message["usage"]
    assert usage == captures.reported(chat["usage"], chat["choices"][0]["finish_reason"])
    assert shown["input_tokens"] + (shown["cache_read_input_tokens"] or 0) == usage.input_tokens
    assert (shown["output_tokens"], shown["cache_read_input_tokens"]) == (usage.output_tokens, usage.cached_tokens)


@pytest.mark.parametrize(
    ("message", "blocks"),
    [
        ({"content": None}, []),
        ({"content": ""}, []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 5]}, [("text", "ab")]),
        ({"reasoning_content": "hm", "content": "so"}, [("thinking", "hm"), ("text", "so")]),
        ({"reasoning": "hm", "content": None}, [("thinking", "hm")]),
        ({"reasoning": "hm", "reasoning_content": "hm", "content": "so"}, [("thinking", "hm"), ("text", "so")]),
        ({"content": None, "refusal": "no"}, [("text", "no")]),
    ],
)
def test_blocks(message, blocks):
    translated = [(block["type"], block[block["type"]]) for block in translate(message)["content"]]
    assert translated == blocks


def test_tool_calls():
    message = translate({"content": "wait", "tool_calls": [call('{"at":1}'), call(id="call_2")]}, "tool_calls")
    assert message["content"] == [
        {"type": "text", "text": "wait"},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "call_2", "name": "look", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ('{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (" ", {}),
        (None, {}),
        (5, {}),
        ("{", {"arguments": "{"}),
        ('{"a":1}}', {"arguments": '{"a":1}}'}),
        ("[1]", {"arguments": "[1]"}),
        ("null", {"arguments": "null"}),
        ("{" * 100_000, {"arguments": "{" * 100_000}),
    ],
)
def test_the_arguments_of_a_tool_call(arguments, wanted):
    assert input_of(arguments) == wanted


def test_a_tool_call_without_an_id_gets_one():
    first, second = translate({"tool_calls": [call(id=None), {"function": None}]}, "tool_calls")["content"]
    assert first["id"].startswith("toolu_")
    assert first["id"] != second["id"]
    assert (second["name"], second["input"]) == ("", {})


@pytest.mark.parametrize(
    ("message", "finish", "choice", "reason", "sequence"),
    [
        ({}, "stop", {}, "end_turn", None),
        ({}, None, {}, "end_turn", None),
        ({}, "new", {}, "end_turn", None),
        ({}, "length", {}, "max_tokens", None),
        ({}, "content_filter", {}, "refusal", None),
        ({"refusal": "no"}, "stop", {}, "refusal", None),
        ({}, "stop", {"stop_reason": "END"}, "stop_sequence", "END"),
        ({}, "stop", {"matched_stop": "END"}, "stop_sequence", "END"),
        ({}, "stop", {"stop_reason": 2, "matched_stop": 2}, "end_turn", None),
        ({}, "stop", {"stop_reason": None}, "end_turn", None),
        ({}, "tool_calls", {}, "end_turn", None),
        ({"tool_calls": [call()]}, "tool_calls", {}, "tool_use", None),
        ({"tool_calls": [call()]}, "stop", {}, "tool_use", None),
        ({"tool_calls": [call("{")]}, "length", {}, "max_tokens", None),
        ({"tool_calls": []}, "stop", {}, "end_turn", None),
    ],
)
def test_stop_reasons(message, finish, choice, reason, sequence):
    response = translate(message, finish, **choice)
    assert (response["stop_reason"], response["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("details", "made", "cached"),
    [
        ({"cached_tokens": 30}, 6, 30),
        ({"cached_tokens": 99}, 0, 36),
        ({"cached_tokens": 0}, 36, 0),
        ({"cached_tokens": None}, 36, None),
        ({"cached_tokens": -1}, 36, None),
        ({}, 36, None),
        (None, 36, None),
    ],
)
def test_cached_tokens_are_reported_separately(details, made, cached):
    usage = {"prompt_tokens": 36, "completion_tokens": 8, "prompt_tokens_details": details}
    reported = translate({"content": "a"}, usage=usage)["usage"]
    assert (reported["input_tokens"], reported["cache_read_input_tokens"], reported["output_tokens"]) == (
        made,
        cached,
        8,
    )


def test_missing_usage_is_none():
    assert from_chat(b'{"choices":[{"message":{"content":"a"}}]}', "m")[1] is None


def test_half_of_an_emoji_is_replaced():
    body, _ = from_chat(b'{"choices":[{"message":{"content":"a\\ud83d"}}]}', "m")
    assert json.loads(body)["content"][0]["text"] == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a chat completion"),
        (b"<html>", "not a chat completion"),
        (b"\xff", "not a chat completion"),
        (b"[]", "not a chat completion"),
        (b"[" * 200_000, "not a chat completion"),
        (b"{}", "has no message"),
        (b'{"choices":[]}', "has no message"),
        (b'{"choices":[{"text":"a"}]}', "has no message"),
        (b'{"choices":[{"message":null}]}', "has no message"),
        (b'{"choices":[{"message":{"tool_calls":"odd"}}]}', "not a chat completion"),
        (
            b'{"error":{"message":"out of memory","type":"server_error"}}',
            r"^an error in its response \(server_error\)$",
        ),
    ],
)
def test_a_body_that_is_no_chat_completion_is_reported(body, words):
    with pytest.raises(NoChatCompletion, match=words):
        from_chat(body, "m")


@given(DELTA, VALUES, VALUES)
def test_any_response_is_translated_or_refused(delta, finish, usage):
    body = json.dumps({"choices": [{"message": delta, "finish_reason": finish}], "usage": usage}).encode()
    try:
        response, _ = from_chat(body, "m")
    except NoChatCompletion:
        return
    assert msgspec.json.decode(response)["type"] == "message"
