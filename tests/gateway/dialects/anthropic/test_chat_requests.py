"""Chat completion requests as Messages requests: each row of the table of fields, and each refusal."""

import base64
import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.bounds import TRANSLATED_REQUEST
from gateway.base.errors import Refusal
from gateway.dialects.anthropic.chat_requests import (
    DEFAULT_MAX_TOKENS,
    NEW_VERSION,
    OLD_VERSION,
    to_messages,
    translating_chat,
)
from gateway.dialects.chat.bodies import MAX_COSTLY_BYTES, PIECE_BYTES, checked
from gateway.dialects.chat.requests import CUSTOM_INPUT
from gateway.loop.time_slices import run_unsliced
from tests.gateway.anything import OBJECTS, VALUES
from tests.memory import with_peak

HELLO = {"role": "user", "content": "hello"}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}
LOOKS = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
RUN = {"type": "custom", "custom": {"name": "run", "description": "Runs."}}
RUNS = {"name": "run", "description": "Runs.", "input_schema": json.loads(bytes(CUSTOM_INPUT))}
PNG = "data:image/png;base64,AAAA"
PDF = "data:application/pdf;base64,JVBE"
EPHEMERAL = {"type": "ephemeral"}
ADAPTIVE, MANUAL, THOUGHTLESS = "claude-opus-5", "claude-sonnet-4-5-20250929", "claude-3-5-haiku-20241022"
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
CALLED = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}


def translation(*messages, model=ADAPTIVE, version=None, **fields):
    body = {"model": "asked", "messages": list(messages or (HELLO,)), **fields}
    return to_messages(json.dumps(body).encode(), model, version)


def version_of(translated):
    (header,) = translated.headers
    assert header[0] == b"anthropic-version"
    return header[1].decode()


def translate(*messages, **fields):
    return json.loads(translation(*messages, **fields)[0])


def dropped(*messages, **fields):
    """The names in the header, with the values that were sent instead."""
    line = translation(*messages, **fields)[1].dropped.decode()
    return line.removeprefix("x-routerdash-dropped: ").removesuffix("\r\n").split(", ") if line else []


def turns(*messages, **fields):
    return translate(*messages, **fields)["messages"]


def content(*parts):
    """Translate the parts of a user message, and return its blocks."""
    return turns({"role": "user", "content": list(parts)})[0]["content"]


def refused(**fields):
    body = {"model": "asked", "messages": [HELLO], **fields}
    with pytest.raises(Refusal) as caught:
        to_messages(json.dumps(body).encode(), ADAPTIVE)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    return caught.value


def text(value, **fields):
    return {"type": "text", "text": value, **fields}


def image(url, **fields):
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def file(data, **fields):
    return {"type": "file", "file": {"file_data": data, **fields}}


def assistant(*calls, **fields):
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def result(value="3", id="c1", **fields):
    return {"role": "tool", "tool_call_id": id, "content": value, **fields}


def test_the_smallest_request():
    assert translate() == {"model": ADAPTIVE, "max_tokens": DEFAULT_MAX_TOKENS, "messages": [HELLO]}


# Messages


@pytest.mark.parametrize(
    ("messages", "system"),
    [
        ([{"role": "system", "content": "a"}], "a"),
        ([{"role": "developer", "content": [text("a")]}], "a"),
        ([{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}], [text("a"), text("b")]),
        (
            [{"role": "system", "content": [text("a", cache_control=EPHEMERAL)]}],
            [text("a", cache_control=EPHEMERAL)],
        ),
        ([{"role": "system", "content": ""}], None),
    ],
)
def test_leading_system_messages_become_the_system_prompt(messages, system):
    assert translate(*messages, HELLO).get("system") == system


def test_a_later_system_message_is_a_turn_of_its_own():
    assert turns(HELLO, {"role": "system", "content": "b"}, HELLO) == [HELLO, {"role": "system", "content": "b"}, HELLO]


def test_older_models_receive_a_later_system_message_in_the_next_user_turn():
    later = {"role": "system", "content": "b"}
    assert turns(HELLO, later, HELLO, model=MANUAL)[1] == {"role": "user", "content": [text("b"), text("hello")]}
    assert turns(HELLO, later, model=MANUAL)[1] == {"role": "user", "content": "b"}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (image(PNG), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}),
        (
            image("data:image/jpg;base64,AA"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA"}},
        ),
        (image("https://x.test/a.png"), {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}),
        (
            file(PDF, filename="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                "title": "a.pdf",
            },
        ),
        (
            file("data:text/plain;charset=utf-8;base64," + base64.b64encode("über".encode()).decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "über"}},
        ),
        (
            file("JVBE", filename="A.PDF"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                "title": "A.PDF",
            },
        ),
    ],
)
def test_parts_of_a_user_message(part, block):
    assert content(text("see"), part) == [text("see"), block]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (image("data:image/tiff;base64,AAAA"), "image/webp"),
        (image("data:image/png,AAAA"), "data URL in base64"),
        (image("file:///etc/passwd"), "http"),
        (file("data:application/zip;base64,AAAA"), "PDF document or text"),
        (file("data:text/plain;base64,%%"), "UTF-8"),
        (file("data:text/plain;base64,/w=="), "UTF-8"),
        ({"type": "file", "file": {"file_id": "f1"}}, "no stored files"),
        ({"type": "file", "file": {}}, "missing"),
        ({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}, "audio"),
        ({"type": "video_url"}, "'video_url' is not supported by this endpoint, which supports only Messages"),
    ],
)
def test_parts_that_cannot_be_sent_are_refused_with_their_place(part, words):
    error = refused(messages=[{"role": "user", "content": [text("a"), part]}])
    assert words in error.message
    assert "messages[0].content[1]" in error.message
    assert error.param == "messages"


def test_texts_without_a_visible_character_are_left_out():
    assert content(text(""), text(" \n"), text("a")) == "a"
    assert turns(HELLO, {"role": "assistant", "content": ""}, HELLO) == [HELLO, HELLO]
    assert refused(messages=[{"role": "user", "content": ""}]).param == "messages"


def test_calls_and_their_results():
    both = assistant(CALL, {**CALL, "id": "c2", "function": {"name": "look", "arguments": ""}})
    given = turns(HELLO, both, result(), result([text("4")], "c2"), {"role": "user", "content": "And?"}, tools=[LOOK])
    assert given[1] == {"role": "assistant", "content": [CALLED, {**CALLED, "id": "c2", "input": {}}]}
    results = [{"type": "tool_result", "tool_use_id": f"c{n}", "content": f"{n + 2}"} for n in (1, 2)]
    assert given[2:] == [{"role": "user", "content": [*results, text("And?")]}]


def test_results_of_each_assistant_turn_are_in_a_turn_of_their_own():
    given = turns(HELLO, assistant(CALL), result(), assistant({**CALL, "id": "c2"}), result("", "c2"), tools=[LOOK])
    assert [turn["role"] for turn in given] == ["user", "assistant", "user", "assistant", "user"]
    assert given[4]["content"] == [{"type": "tool_result", "tool_use_id": "c2"}]


def test_a_result_may_have_images():
    given = turns(HELLO, assistant(CALL), result([text("a"), image(PNG)]), tools=[LOOK])
    assert [block["type"] for block in given[2]["content"][0]["content"]] == ["text", "image"]


def test_a_system_message_between_calls_and_results_waits_for_the_results():
    given = turns(HELLO, assistant(CALL), {"role": "system", "content": "b"}, result(), tools=[LOOK])
    assert [block["type"] for block in given[2]["content"]] == ["tool_result", "text"]
    given = turns(HELLO, assistant(CALL), result(), {"role": "system", "content": "b"}, HELLO, tools=[LOOK])
    assert [turn["role"] for turn in given] == ["user", "assistant", "user", "system", "user"]


@pytest.mark.parametrize("arguments", ["[1]", "{", "1", '"a"'])
def test_arguments_that_are_no_object_are_refused(arguments):
    call = {**CALL, "function": {"name": "look", "arguments": arguments}}
    error = refused(messages=[HELLO, assistant(call)], tools=[LOOK])
    assert error.message == "`messages[1].tool_calls[0].function.arguments`: Expected `object`."


def test_ids_that_messages_refuse_are_replaced_in_calls_and_results():
    given = turns(HELLO, assistant({**CALL, "id": "call.1/ä"}), result(id="call.1/ä"), tools=[LOOK])
    replaced = given[1]["content"][0]["id"]
    assert replaced == given[2]["content"][0]["tool_use_id"]
    assert replaced.startswith("call_1__")
    assert replaced.isascii()
    others = turns(HELLO, assistant({**CALL, "id": "call.1:ä"}), tools=[LOOK])
    assert others[1]["content"][0]["id"] != replaced


def test_a_call_of_a_custom_tool():
    call = {"id": "c1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    given = turns(HELLO, assistant(call), result(), tools=[RUN])
    assert given[1]["content"] == [{"type": "tool_use", "id": "c1", "name": "run", "input": {"input": "ls"}}]


def test_calls_in_the_older_form_are_joined_to_their_results():
    call = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
    returned = {"role": "function", "name": "look", "content": "3"}
    given = turns(HELLO, call, returned, call, {**returned, "content": None}, functions=[LOOK["function"]])
    ids = [turn["content"][0].get("id") or turn["content"][0]["tool_use_id"] for turn in given[1:]]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_an_assistant_message():
    message = {"role": "assistant", "content": [text("a"), {"type": "refusal", "refusal": "no"}], "refusal": "never"}
    assert turns(HELLO, message, HELLO)[1]["content"] == [text("a"), text("no"), text("never")]
    assert turns(HELLO, {"role": "assistant", "content": "The answer is "})[1]["content"] == "The answer is"


def test_signed_thinking_comes_first_unchanged():
    details = [
        {"type": "reasoning.text", "text": "Let", "index": 0},
        {"type": "reasoning.text", "text": " me", "index": 0},
        {"type": "reasoning.text", "signature": "EqQB", "index": 0},
        {"type": "reasoning.encrypted", "data": "xyz", "index": 1},
        {"type": "reasoning.text", "text": "unsigned", "index": 2},
        {"type": "reasoning.summary", "summary": "s"},
        {"type": "reasoning.text", "text": "b", "signature": "c", "index": None},
    ]
    message = {**assistant(CALL), "reasoning_details": details, "reasoning_content": "Let me"}
    assert turns(HELLO, message, result(), tools=[LOOK])[1]["content"] == [
        {"type": "thinking", "thinking": "Let me", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "thinking", "thinking": "b", "signature": "c"},
        CALLED,
    ]


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"role": "assistant", "content": "a", "reasoning_content": "Hm"}, "messages.reasoning_content"),
        ({"role": "assistant", "content": "a", "reasoning": "Hm"}, "messages.reasoning_content"),
        ({"role": "user", "content": "a", "name": "Bob"}, "messages.name"),
        ({"role": "user", "content": [image(PNG, detail="low")]}, "messages.detail"),
    ],
)
def test_parts_of_messages_without_a_place_are_named(message, name):
    assert dropped(HELLO, message, HELLO) == [name]


def test_audio_of_an_earlier_response_is_refused():
    assert refused(messages=[HELLO, {"role": "assistant", "audio": {"id": "a1"}}, HELLO]).param == "messages"


def test_an_unknown_role_is_refused():
    assert "must be system, developer" in refused(messages=[{"role": "robot", "content": "a"}]).message


# Cache


@pytest.mark.parametrize(
    ("mark", "options", "sent"),
    [
        ({"cache_control": EPHEMERAL}, None, EPHEMERAL),
        ({"cache_control": {**EPHEMERAL, "ttl": "1h"}}, None, {**EPHEMERAL, "ttl": "1h"}),
        ({"cache_control": {**EPHEMERAL, "ttl": "9h"}}, None, EPHEMERAL),
        ({"prompt_cache_breakpoint": {"mode": "explicit"}}, None, {**EPHEMERAL, "ttl": "5m"}),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}, None, {**EPHEMERAL, "ttl": "1h"}),
        ({"prompt_cache_breakpoint": {"mode": "explicit"}}, {"ttl": "12h"}, {**EPHEMERAL, "ttl": "1h"}),
    ],
)
def test_marks_of_prefixes_to_be_cached(mark, options, sent):
    fields = {} if options is None else {"prompt_cache_options": options}
    marked = [text("a", cache_control=sent)]
    assert turns({"role": "user", "content": [text("a", **mark)]}, **fields)[0]["content"] == marked
    assert turns({"role": "user", "content": "a", **mark}, **fields)[0]["content"] == marked
    assert dropped({"role": "user", "content": "a", **mark}, **fields) == []


def test_marks_of_tools_results_and_the_whole_request():
    given = translate(
        HELLO,
        assistant(CALL),
        result([text("a", cache_control=EPHEMERAL)]),
        tools=[{**LOOK, "cache_control": EPHEMERAL}],
        cache_control=EPHEMERAL,
    )
    assert given["tools"] == [{**LOOKS, "cache_control": EPHEMERAL}]
    assert given["messages"][2]["content"][0] == {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": "a",
        "cache_control": EPHEMERAL,
    }
    assert given["cache_control"] == EPHEMERAL


def test_the_last_four_marks_are_kept():
    messages = [{"role": "user", "content": f"{n}", "cache_control": EPHEMERAL} for n in range(6)]
    kept = [turn["content"][0].get("cache_control") for turn in turns(*messages)]
    assert kept == [None, None, *[EPHEMERAL] * 4]
    assert dropped(*messages) == ["cache_control"]


# Tools


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tools": [LOOK]}, {"tools": [LOOKS]}),
        ({"tools": []}, {}),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "strict": True}]},
        ),
        ({"tools": [RUN]}, {"tools": [RUNS]}),
        ({"functions": [LOOK["function"]]}, {"tools": [LOOKS], "tool_choice": "auto one"}),
        ({"functions": [LOOK["function"]], "function_call": {"name": "look"}}, {"tool_choice": "look one"}),
        ({"tools": [LOOK], "tool_choice": "none"}, {"tool_choice": "none"}),
        ({"tools": [LOOK], "tool_choice": "auto"}, {"tool_choice": "auto"}),
        ({"tools": [LOOK], "tool_choice": "required"}, {"tool_choice": "any"}),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}}}, {"tool_choice": "look"}),
        ({"tools": [RUN], "tool_choice": {"type": "custom", "custom": {"name": "run"}}}, {"tool_choice": "run"}),
        ({"tools": [LOOK], "parallel_tool_calls": False}, {"tool_choice": "auto one"}),
        ({"tools": [LOOK], "parallel_tool_calls": True}, {"tool_choice": None}),
        ({"tools": [LOOK], "tool_choice": "required", "parallel_tool_calls": False}, {"tool_choice": "any one"}),
        ({"tools": [LOOK], "tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": "none"}),
        (
            {
                "tools": [LOOK, RUN],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "run"}}]},
                },
            },
            {"tools": [RUNS], "tool_choice": "any"},
        ),
        ({"tool_choice": "auto"}, {"tool_choice": None}),
    ],
)
def test_tools(fields, sent):
    given = translate(**fields)
    if "tools" in sent:
        assert given["tools"] == sent["tools"]
    choice = given.get("tool_choice") or {}
    words = [choice.get("name", choice.get("type"))] if choice else []
    words += ["one"] if choice.get("disable_parallel_tool_use") else []
    assert (" ".join(map(str, words)) or None) == sent.get("tool_choice")
    assert dropped(**fields) == []


def test_a_grammar_is_a_part_of_the_description():
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}
    tool = {"type": "custom", "custom": {"name": "run", "description": "Runs.", "format": form}}
    assert translate(tools=[tool])["tools"][0]["description"] == (
        "Runs.\n\nThe input must match this grammar (regex):\n[a-z]+"
    )


def test_the_response_needs_the_names_of_custom_tools_and_the_older_form():
    assert translation(tools=[RUN, LOOK])[1].custom_tools == {"run"}
    assert [translation(functions=[LOOK["function"]])[1].one_call, translation()[1].one_call] == [True, False]


def test_tools_of_earlier_calls_stand_for_those_that_are_left_out():
    given = translate(HELLO, assistant(CALL), result())
    assert given["tools"] == [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    assert given["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
        (
            {
                "tools": [LOOK],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            },
            "tool_choice",
        ),
    ],
)
def test_tools_that_cannot_be_sent_are_refused(fields, param):
    assert refused(**fields).param == param


# Other fields


@pytest.mark.parametrize(
    ("fields", "most", "sent"),
    [
        ({}, 64_000, 64_000),
        ({}, None, DEFAULT_MAX_TOKENS),
        ({"max_tokens": 7}, 64_000, 7),
        ({"reasoning_effort": "high", "model": MANUAL}, 64_000, 64_000),
        ({"reasoning_effort": "high", "model": MANUAL}, 1000, DEFAULT_MAX_TOKENS + 4096),  # less than the budget
    ],
)
def test_without_a_limit_the_most_output_of_the_model_is_sent(fields, most, sent):
    body = {"messages": [{"role": "user", "content": "a"}], **fields}
    messages, _ = to_messages(json.dumps(body).encode(), fields.get("model", ADAPTIVE), max_output=most)
    assert json.loads(messages)["max_tokens"] == sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"max_tokens": None}, {"max_tokens": DEFAULT_MAX_TOKENS}),
        ({"stop": "a"}, {"stop_sequences": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True, "stream_options": None}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"response_format": {"type": "text"}}, {"output_config": None}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
        ),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "low"}, {"thinking": {"type": "adaptive"}}),
        ({"modalities": ["text"], "n": 1, "logprobs": False, "top_logprobs": 0}, {"n": None, "modalities": None}),
        ({"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "seed": None}, {"seed": None}),
        ({"temperature": 1, "top_p": 1.0}, {"temperature": None, "top_p": None}),
    ],
)
def test_other_fields(fields, sent):
    given = translate(**fields)
    assert {name: given.get(name) for name in sent} == sent
    assert dropped(**fields) == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": "much"}, "top_p"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_name(fields, param):
    error = refused(**fields)
    assert error.param == param
    assert f"`{param}" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 3),
        ("logit_bias", {"1": 5}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("prediction", {"type": "content", "content": "a"}),
        ("user", "u"),
        ("safety_identifier", "u"),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("verbosity", "low"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_options", {"ttl": "30m"}),
        ("service_tier", "flex"),
        ("service_tier", "priority"),
        ("stop", [" ", "a"]),
        ("min_p", 0.1),
    ],
)
def test_fields_without_a_place_are_left_out_and_named(name, value):
    assert dropped(**{name: value}) == [name]
    assert set(translate(**{name: value})) <= {"model", "max_tokens", "messages", "stop_sequences"}


def test_names_that_cannot_be_in_a_header_are_not_written_there():
    assert dropped(**{"a b\r\nx-evil: 1": 1, "ä": 2, "seed": 3}) == ["other", "seed"]
    assert len(dropped(**{f"field_{n}": 1 for n in range(100)})) == 32


@pytest.mark.parametrize(
    ("fields", "version", "sent", "names"),
    [
        ({}, NEW_VERSION, {}, []),
        (
            {"temperature": 0.2, "top_p": 0.9, "top_k": 5},
            OLD_VERSION,
            {"temperature": 0.2, "top_p": 0.9, "top_k": 5},
            [],
        ),
        ({"temperature": 0}, OLD_VERSION, {"temperature": 0.0}, []),
        ({"temperature": 1.7}, NEW_VERSION, {}, ["temperature;sent=1"]),
        ({"temperature": 1, "top_p": 1}, NEW_VERSION, {}, []),
        ({"temperature": 0.2, "reasoning_effort": "low"}, NEW_VERSION, {}, ["temperature"]),
        ({"top_p": 0.5, "top_k": 1, "reasoning_effort": "low"}, NEW_VERSION, {}, ["top_p", "top_k"]),
        ({"top_p": 0.96, "reasoning_effort": "low"}, OLD_VERSION, {"top_p": 0.96}, []),
        ({"temperature": 0.2, "reasoning_effort": "none"}, OLD_VERSION, {"temperature": 0.2}, []),
    ],
)
def test_sampling_parameters_decide_about_the_version_of_the_api(fields, version, sent, names):
    body, translated = translation(**fields)
    sampling = json.loads(body)
    assert version_of(translated) == version
    assert {name: sampling[name] for name in ("temperature", "top_p", "top_k") if name in sampling} == sent
    assert dropped(**fields) == names


def test_a_version_that_the_client_chose_is_kept():
    assert dropped(temperature=0.2, version=NEW_VERSION) == ["temperature"]
    assert version_of(translation(version=OLD_VERSION)[1]) == OLD_VERSION


@pytest.mark.parametrize(
    ("effort", "sent", "budget"),
    [
        ("minimal", "low", 1024),
        ("low", "low", 1024),
        ("medium", "medium", 2048),
        ("high", "high", 4096),
        ("xhigh", "xhigh", 8192),
        ("max", "max", 16384),
    ],
)
def test_reasoning_effort(effort, sent, budget):
    given = translate(reasoning_effort=effort)
    assert given["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert given["output_config"] == {"effort": sent}
    assert given["max_tokens"] == DEFAULT_MAX_TOKENS + budget
    assert translate(reasoning_effort=effort, max_tokens=9)["max_tokens"] == 9
    given = translate(reasoning_effort=effort, model=MANUAL)
    assert given["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert (given["max_tokens"], "output_config" in given) == (DEFAULT_MAX_TOKENS + budget, False)
    assert translate(reasoning_effort=effort, model=MANUAL, max_tokens=20000)["max_tokens"] == 20000


def test_a_limit_below_the_budget_for_thinking_is_raised_and_named():
    fields = {"reasoning_effort": "low", "model": MANUAL, "max_completion_tokens": 100}
    assert translate(**fields)["max_tokens"] == 1124
    assert dropped(**fields) == ["max_completion_tokens;sent=1124"]


@pytest.mark.parametrize(
    ("thinking", "name"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": 50_000}}, "thinking"),
    ],
)
def test_under_a_hard_budget_the_thinking_is_left_out_instead(thinking, name):
    fields = {"model": MANUAL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 100, **thinking}
    body = json.dumps(fields).encode()
    made, translation = run_unsliced(translating_chat(body, MANUAL, keeps_most=True))
    request = json.loads(made)
    assert (request["max_tokens"], "thinking" in request) == (100, False)
    assert translation.dropped == b"x-routerdash-dropped: %b\r\n" % name.encode()


@pytest.mark.parametrize(
    ("model", "is_manual"),
    [
        ("claude-3-7-sonnet-20250219", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-0", True),
        ("claude-opus-4-1-20250805", True),
        ("anthropic/claude-haiku-4-5", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6-20260101", False),
        ("claude-haiku-5-5", False),
        ("claude-opus-4-10", False),
        ("some-other-model", False),
    ],
)
def test_which_models_think_within_a_budget(model, is_manual):
    assert (translate(model=model, reasoning_effort="low")["thinking"]["type"] == "enabled") is is_manual


def test_models_that_cannot_think_are_not_requested_to():
    assert dropped(model=THOUGHTLESS, reasoning_effort="low") == ["reasoning_effort"]
    assert "thinking" not in translate(model=THOUGHTLESS, reasoning_effort="none")
    forced = {"tools": [LOOK], "tool_choice": "required", "reasoning_effort": "low"}
    assert dropped(model=MANUAL, **forced) == ["reasoning_effort"]
    assert dropped(**forced) == []


def test_json_without_a_schema_is_requested_in_the_system_prompt():
    given = translate({"role": "system", "content": "a"}, HELLO, response_format={"type": "json_object"})
    assert given["system"][0] == text("a")
    assert "JSON" in given["system"][1]["text"]


# Bodies


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model":"a"}', b'{"messages":[\xff]}'])
def test_a_body_that_is_no_request_is_refused(body):
    with pytest.raises(Refusal) as caught:
        to_messages(body, ADAPTIVE)
    assert caught.value.status == 400


def test_unpaired_surrogates_are_replaced():
    body = b'{"model":"a","messages":[{"role":"user","content":"a\\ud83d"}]}'
    assert json.loads(to_messages(body, ADAPTIVE)[0])["messages"][0]["content"] == "a\ufffd"


def test_a_large_body_is_translated_in_time_slices():
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": [image(PNG + "A" * 2_000_000)]}]})
    slices = translating_chat(body.encode(), ADAPTIVE)
    assert len(list(slices)) >= 2


def test_a_large_field_that_is_left_out_is_not_copied():
    body = b'{"messages":[{"role":"user","content":"a"}],"unknown":"%b"}' % (b"a" * (8 << 20))
    (_, translation), peak = with_peak(lambda: to_messages(body, ADAPTIVE))
    assert b": unknown" in translation.dropped
    assert peak < len(body) // 4


@pytest.mark.parametrize("size", [10, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES])
def test_a_raw_field_of_any_size_must_be_utf_8(size):
    good = msgspec.Raw(b'"' + b"a" * (size - 2) + "あ".encode() * 100_000 + b'"')
    assert checked(good) is good
    for bad in (b"\xff", b"\xe3\x81"):
        with pytest.raises(UnicodeDecodeError):
            checked(msgspec.Raw(b'"' + b"a" * size + bad + b'"'))


def test_a_large_raw_field_is_checked_in_pieces():
    raw = msgspec.Raw(b'"' + b"a" * (8 << 20) + b'"')
    assert with_peak(lambda: checked(raw))[1] < 4 * PIECE_BYTES


def test_text_that_takes_too_long_is_refused():
    body = json.dumps({"messages": [{"role": "user", "content": "," * (MAX_COSTLY_BYTES + 1)}]}).encode()
    with pytest.raises(Refusal) as caught:
        to_messages(body, ADAPTIVE)
    assert (caught.value.status, caught.value.bound) == (413, TRANSLATED_REQUEST)


FIELDS = ("messages", "tools", "tool_choice", "stop", "response_format", "max_tokens", "thinking", "cache_control")


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES) | OBJECTS)
def test_any_fields_are_translated_or_refused(fields):
    body = json.dumps({"messages": [HELLO], **fields}).encode()
    with contextlib.suppress(Refusal):
        assert json.loads(to_messages(body, ADAPTIVE)[0])["max_tokens"] >= 1
