import json

import msgspec
import pytest
from hypothesis import given

from gateway.anthropic_answer import NoChatCompletion, from_chat
from gateway.kinds import CHAT
from gateway.openai import Usage
from tests.gateway import captures
from tests.gateway.anything import SAID, VALUES

ANSWERS = [capture for capture in captures.ANSWERS if capture.kind == CHAT]


def translate(message, finish="stop", usage=None, **choice):
    body = {"id": "chat-1", "choices": [{"message": message, "finish_reason": finish, **choice}], "usage": usage}
    return json.loads(from_chat(json.dumps(body).encode(), "asked")[0])


def call(arguments="{}", id="call_1", name="look"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def input_of(arguments):
    (block,) = translate({"tool_calls": [call(arguments)]}, "tool_calls")["content"]
    return block["input"]


def test_an_answer_of_text():
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
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }


@pytest.mark.parametrize("capture", ANSWERS, ids=str)
def test_a_real_answer(capture):
    body, usage = from_chat(capture.body, "asked")
    message, chat = json.loads(body), json.loads(capture.body)
    assert message["content"] == [{"type": "text", "text": chat["choices"][0]["message"]["content"]}]
    told = message["usage"]
    assert usage == Usage(told["input_tokens"] + told["cache_read_input_tokens"], told["output_tokens"])
    assert usage == Usage(chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"])


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
    found = [(block["type"], block[block["type"]]) for block in translate(message)["content"]]
    assert found == blocks


def test_calls_of_tools():
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
def test_the_arguments_of_a_call(arguments, wanted):
    assert input_of(arguments) == wanted


def test_a_call_without_an_id_gets_one():
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
def test_why_it_stopped(message, finish, choice, reason, sequence):
    found = translate(message, finish, **choice)
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("details", "made", "cached"),
    [
        ({"cached_tokens": 30}, 6, 30),
        ({"cached_tokens": 99}, 0, 36),
        ({"cached_tokens": None}, 36, 0),
        ({"cached_tokens": -1}, 36, 0),
        ({}, 36, 0),
        (None, 36, 0),
    ],
)
def test_cached_tokens_are_told_beside_the_others(details, made, cached):
    usage = {"prompt_tokens": 36, "completion_tokens": 8, "prompt_tokens_details": details}
    told = translate({"content": "a"}, usage=usage)["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == (made, cached, 8)


def test_usage_that_is_not_told_is_none():
    assert from_chat(b'{"choices":[{"message":{"content":"a"}}]}', "m")[1] is None


def test_half_of_an_emoji_is_replaced():
    body, _ = from_chat(b'{"choices":[{"message":{"content":"a\\ud83d"}}]}', "m")
    assert json.loads(body)["content"][0]["text"] == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no chat completion"),
        (b"<html>", "no chat completion"),
        (b"\xff", "no chat completion"),
        (b"[]", "no chat completion"),
        (b"[" * 200_000, "no chat completion"),
        (b"{}", "has no message"),
        (b'{"choices":[]}', "has no message"),
        (b'{"choices":[{"text":"a"}]}', "has no message"),
        (b'{"choices":[{"message":null}]}', "has no message"),
        (b'{"choices":[{"message":{"tool_calls":"odd"}}]}', "no chat completion"),
        (b'{"error":{"message":"out of memory","type":"server_error"}}', r"^an error in its answer \(server_error\)$"),
    ],
)
def test_what_is_no_chat_completion_is_told(body, words):
    with pytest.raises(NoChatCompletion, match=words):
        from_chat(body, "m")


@given(SAID, VALUES, VALUES)
def test_any_answer_is_a_message_or_none(said, finish, usage):
    body = json.dumps({"choices": [{"message": said, "finish_reason": finish}], "usage": usage}).encode()
    try:
        found, _ = from_chat(body, "m")
    except NoChatCompletion:
        return
    assert msgspec.json.decode(found)["type"] == "message"
