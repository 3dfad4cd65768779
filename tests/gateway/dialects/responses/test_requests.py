"""Translation of Responses requests to chat completion requests."""

import json
from typing import Any

import pytest

from gateway.base.errors import Refusal
from gateway.dialects.chat.bodies import SLICE_BYTES
from gateway.dialects.responses import items, requests
from gateway.dialects.responses.objects import new_id
from gateway.dialects.responses.requests import MAX_ECHOED_BYTES, translating_response
from gateway.dialects.responses.tools import MAX_NAME, MAX_TOOLS, flat_name
from gateway.dialects.responses.translation import SEAL, CalledTool
from gateway.loop.time_slices import run_unsliced
from tests.memory import with_peak

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "The weather.", "parameters": SCHEMA, "strict": None}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"},
}
PIXEL = "data:image/png;base64,AA=="


def to_chat_request(body: bytes, model: str, *, keeps_reasoning: bool = True):
    return run_unsliced(translating_response(body, model, keeps_reasoning=keeps_reasoning))


def translate(keeps_reasoning: bool = True, **fields: Any):
    body = json.dumps({"model": "m", "input": "Hi", **fields}).encode()
    encoded, translation = to_chat_request(body, "served", keeps_reasoning=keeps_reasoning)
    return json.loads(encoded), translation


def chat(**fields: Any):
    return translate(**fields)[0]


def messages(*items: Any, **fields: Any):
    return chat(input=list(items), **fields)["messages"]


def dropped(**fields: Any) -> str:
    line: bytes = translate(**fields)[1].dropped
    return line.decode().removeprefix("x-routerdash-dropped: ").strip()


def refused(**fields: Any) -> Refusal:
    with pytest.raises(Refusal) as raised:
        translate(**fields)
    assert raised.value.status == 400
    return raised.value


def call(call_id="c1", name="weather", arguments="{}", **more):
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def result(call_id="c1", output: Any = "Sunny."):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def test_a_text_with_instructions():
    assert chat(instructions="Be short.") == {
        "model": "served",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
    }


def test_parameters():
    given = chat(max_output_tokens=9, temperature=0.5, top_p=0.9, stream=True, seed=3, user="u", top_k=5)
    assert given["stream_options"] == {"include_usage": True}
    assert {name: given[name] for name in ("max_tokens", "temperature", "top_p", "seed", "user", "top_k")} == {
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3, "user": "u", "top_k": 5,
    }  # fmt: skip


def test_all_messages_of_the_system_are_one():
    """Many templates refuse a second one, and one behind others."""
    text = [{"type": "input_text", "text": "B"}]
    given = messages(
        {"type": "message", "role": "developer", "content": text},
        {"role": "system", "content": "C"},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "D"},
        instructions="A",
    )
    assert given == [
        {"role": "system", "content": "A\n\nB\n\nC\n\nD"},
        {"role": "user", "content": "Hi"},
    ]


def test_a_loop_of_tools():
    given = messages(
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        call("c1", arguments='{"city":"Paris"}'),
        call("c2"),
        result("c1"),
        result("c2", [{"type": "input_text", "text": "Rain."}]),
    )
    assert [message["role"] for message in given] == ["user", "assistant", "tool", "tool"]
    assert given[1]["content"] == "Let me see."
    assert [tool_call["id"] for tool_call in given[1]["tool_calls"]] == ["c1", "c2"]
    assert given[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Paris"}'}
    assert [message["content"] for message in given[2:]] == ["Sunny.", "Rain."]
    assert [message["tool_call_id"] for message in given[2:]] == ["c1", "c2"]


def test_calls_after_results_are_another_turn():
    given = messages(call("c1"), result("c1"), call("c2"), result("c2"))
    assert [message["role"] for message in given] == ["assistant", "tool", "assistant", "tool"]
    assert given[0]["content"] is None


def test_images_of_results_come_after_all_results_of_the_turn():
    shown = [{"type": "input_image", "image_url": PIXEL, "detail": "original"}]
    given = messages(call("c1"), call("c2"), result("c1", shown), result("c2"), {"role": "user", "content": "See?"})
    assert [message["role"] for message in given] == ["assistant", "tool", "tool", "user", "user"]
    assert given[1]["content"] == "(in the next message)"
    assert given[3]["content"] == [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}]


def test_images_and_files():
    parts = [
        {"type": "input_text", "text": "See"},
        {"type": "input_image", "image_url": PIXEL},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
    ]
    (message,) = messages({"role": "user", "content": parts})
    assert message["content"] == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
    ]


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "input_image", "file_id": "file_1"}, "`input[0].content[0].file_id`"),
        ({"type": "input_file", "file_url": "https://example.org/a"}, "`input[0].content[0].file_url`"),
        ({"type": "input_image"}, "`input[0].content[0].image_url`"),
        ({"type": "input_audio"}, "'input_audio' is not supported"),
        ({"type": "input_text", "text": 3}, "`input[0].content[0].text`"),
    ],
)
def test_parts_that_cannot_be_translated_are_refused_with_their_place(part, place):
    error = refused(input=[{"role": "user", "content": [part]}])
    assert place in error.message
    assert error.param == "input"


# Reasoning


@pytest.mark.parametrize(
    "item",
    [
        {"encrypted_content": f"{SEAL}I think."},
        {"content": [{"type": "reasoning_text", "text": "I think."}]},
        {"id": new_id("rs"), "summary": [{"type": "summary_text", "text": "I think."}]},
    ],
)
def test_reasoning_of_earlier_turns_is_part_of_the_turn(item):
    reasoning = {"type": "reasoning", "summary": [], **item}
    given = messages(reasoning, {"role": "assistant", "content": "Let me see."}, call(), result())
    assert (given[0]["reasoning_content"], given[0]["content"]) == ("I think.", "Let me see.")
    assert [tool_call["id"] for tool_call in given[0]["tool_calls"]] == ["c1"]
    given = messages(reasoning, call(), result())
    assert (given[0]["reasoning_content"], given[0]["content"]) == ("I think.", None)


def test_reasoning_that_cannot_be_read_or_sent_is_named():
    foreign = [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}, call(), result()]
    assert dropped(input=foreign) == "input.reasoning"
    own = [{"type": "reasoning", "encrypted_content": f"{SEAL}x"}, call(), result()]
    given, translation = translate(input=own, keeps_reasoning=False)
    assert "reasoning_content" not in given["messages"][0]
    assert b"input.reasoning" in translation.dropped


@pytest.mark.parametrize(
    ("effort", "sent", "named"),
    [("high", "high", ""), ("xhigh", "high", "reasoning.effort;sent=high"), ("none", None, "reasoning.effort")],
)
def test_effort(effort, sent, named):
    assert chat(reasoning={"effort": effort}).get("reasoning_effort") == sent
    assert dropped(reasoning={"effort": effort}) == named


def test_what_the_response_has_to_know():
    include = ["reasoning.encrypted_content", "file_search_call.results"]
    _, translation = translate(reasoning={"summary": "auto"}, include=include)
    assert (translation.summarises, translation.seals) == (True, True)
    assert b"include.file_search_call.results" in translation.dropped
    assert json.loads(bytes(translation.echoed["reasoning"])) == {"effort": None, "summary": "auto"}


# Tools


def test_functions_and_custom_tools():
    given, translation = translate(tools=[WEATHER, PATCH], tool_choice="auto", parallel_tool_calls=False)
    function, custom = given["tools"]
    assert function == {
        "type": "function",
        "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA},
    }
    assert custom["function"]["description"] == "Edit files.\n\nThe input must match this grammar (lark):\nstart: /x/"
    assert custom["function"]["parameters"]["required"] == ["input"]
    assert (given["tool_choice"], given["parallel_tool_calls"]) == ("auto", False)
    assert translation.tools == {
        "weather": CalledTool("weather"), "apply_patch": CalledTool("apply_patch", "", is_custom=True),
    }  # fmt: skip


def test_a_call_of_a_custom_tool_in_the_input():
    item = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}
    given = messages(item, output)
    assert json.loads(given[0]["tool_calls"][0]["function"]["arguments"]) == {"input": 'a "b"'}
    assert given[1] == {"role": "tool", "tool_call_id": "c", "content": "done"}


def test_tools_of_a_namespace():
    spaced = {"type": "namespace", "name": "functions", "tools": [WEATHER, PATCH]}
    given, translation = translate(tools=[spaced], input=[call(namespace="functions"), result()])
    assert [tool["function"]["name"] for tool in given["tools"]] == ["functions__weather", "functions__apply_patch"]
    assert given["messages"][0]["tool_calls"][0]["function"]["name"] == "functions__weather"
    assert translation.tools["functions__weather"] == CalledTool("weather", "functions")
    assert translation.tools["weather"] == CalledTool("weather", "functions")  # as a model may shorten it


def test_tools_of_two_namespaces_with_one_name_are_known_by_their_whole_names():
    spaces = [{"type": "namespace", "name": name, "tools": [WEATHER]} for name in ("a", "b")]
    assert translate(tools=spaces)[1].tools.keys() == {"a__weather", "b__weather"}


def test_names_that_servers_refuse():
    long = flat_name("n" * 40, "m" * 40)
    assert len(long) == 64
    assert long != flat_name("n" * 40, "m" * 39 + "k")
    assert flat_name("a.b", "c").startswith("a_b__c_")
    assert flat_name(None, "a.b") == "a.b"


def test_tools_in_the_input():
    """Codex sends no `tools` for some model names, but an item with them."""
    spaced = {"type": "namespace", "name": "functions", "tools": [WEATHER]}
    item = {"type": "additional_tools", "role": "developer", "tools": [spaced, {"type": "web_search"}]}
    given, translation = translate(input=[item, {"role": "user", "content": "Hi"}], tools=None, tool_choice="auto")
    assert [tool["function"]["name"] for tool in given["tools"]] == ["functions__weather"]
    assert given["messages"] == [{"role": "user", "content": "Hi"}]
    assert translation.dropped == b"x-routerdash-dropped: tools.web_search\r\n"


def test_tools_that_only_openai_runs_are_named():
    tools = [WEATHER, {"type": "web_search", "external_web_access": False}, {"type": "tool_search"}]
    assert dropped(tools=tools) == "tools.web_search, tools.tool_search"
    assert "tools" not in chat(tools=tools[1:], tool_choice="auto")
    assert refused(tools=tools[1:], tool_choice="required").param == "tool_choice"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
        ({"type": "custom", "name": "apply_patch"}, {"type": "function", "function": {"name": "apply_patch"}}),
    ],
)
def test_a_choice_of_a_tool(choice, sent):
    assert chat(tools=[WEATHER, PATCH], tool_choice=choice)["tool_choice"] == sent


def test_allowed_tools():
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    given = chat(tools=[WEATHER, PATCH], tool_choice=choice)
    assert [tool["function"]["name"] for tool in given["tools"]] == ["weather"]
    assert given["tool_choice"] == "required"


@pytest.mark.parametrize("choice", ["sometimes", {"type": "web_search"}, {"type": "function", "name": "other"}])
def test_a_choice_that_cannot_be_made(choice):
    assert refused(tools=[WEATHER], tool_choice=choice).param == "tool_choice"


# Structured output


def test_structured_output():
    form = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    given = chat(text={"format": form, "verbosity": "low"})
    assert given["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
    }  # fmt: skip
    assert dropped(text={"format": {"type": "text"}, "verbosity": "low"}) == "text.verbosity"
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert refused(text={"format": {"type": "json_schema", "name": "x"}}).param == "text"


# Left out, or refused


def test_fields_without_a_place_are_named():
    fields = {"store": True, "truncation": "auto", "max_tool_calls": 3, "service_tier": "priority", "odd": 1}
    assert dropped(**fields) == "store;sent=false, truncation, max_tool_calls, service_tier, odd"


def test_fields_without_an_effect_are_not_named():
    fields = {"store": False, "truncation": "disabled", "metadata": {"a": "b"}, "client_metadata": {}, "include": []}
    assert dropped(**fields, prompt_cache_key="k", service_tier="flex", background=False, conversation=None) == ""


@pytest.mark.parametrize("kind", ["web_search_call", "compaction", "mcp_call", "local_shell_call", "unheard_of"])
def test_items_without_a_place_are_named_and_refused_at_the_end(kind):
    item = {"type": kind, "id": "x_1", "action": {"type": "search"}, "output": {"a": 1}, "arguments": {"b": 2}}
    assert dropped(input=[item, {"role": "user", "content": "Hi"}]) == f"input.{kind}"
    assert kind in refused(input=[item]).message


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_not_found", "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "previous_response_not_found", "input"),
        ({"conversation": "conv_1"}, "invalid_request", "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "invalid_request", "prompt"),
        ({"background": True}, "invalid_request", "background"),
        ({"input": [{"type": "compaction_trigger"}, {"role": "user", "content": ""}]}, "invalid_request", "input"),
        ({"input": None}, "invalid_request", "input"),
        ({"input": 3}, "invalid_request", "input"),
        ({"input": [3]}, "invalid_request", "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "invalid_request", "input"),
        ({"input": [{"role": "user"}]}, "invalid_request", "input"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "invalid_request", "input"),
        ({"input": [{"type": "function_call", "call_id": "x", "name": "x"}]}, "invalid_request", "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "invalid_request", "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": {}}]}, "invalid_request", "input"),
        ({"tools": [{"type": "function"}]}, "invalid_request", "tools"),
        ({"tools": [{"type": "function", "name": "x", "parameters": []}]}, "invalid_request", "tools"),
        ({"tools": {}}, "invalid_request", "tools"),
        ({"temperature": "hot"}, "invalid_request", "temperature"),
        ({"max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields, code, param):
    error = refused(**fields)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"model":"m","input":"\xff"}', b'{"input":[{"content":"\xff"}]}'])
def test_bodies_that_are_no_request(body):
    with pytest.raises(Refusal) as raised:
        to_chat_request(body, "m")
    assert raised.value.status == 400


def test_unpaired_surrogates_are_replaced():
    encoded, _ = to_chat_request(b'{"model":"m","input":[{"role":"user","content":"a\\ud800"}]}', "m")
    assert json.loads(encoded)["messages"][0]["content"] == "a\N{REPLACEMENT CHARACTER}"


def test_a_large_body_is_translated_in_slices():
    items = [{"role": "user", "content": "word " * 40}] * 9_000
    body = json.dumps({"model": "m", "input": items}).encode()
    slices = translating_response(body, "m", keeps_reasoning=True)
    steps = 0
    while True:
        try:
            next(slices)
            steps += 1
        except StopIteration as stop:
            encoded, _ = stop.value
            break
    assert steps >= 6
    assert len(json.loads(encoded)["messages"]) == 9_000


TEXT = b"a" * (9 << 20)


@pytest.mark.parametrize(
    "fields",
    [
        b'"input":"a","unknown":[1' + b" " * len(TEXT) + b"]",
        b'"input":[' + b" " * len(TEXT) + b'{"role":"user","content":"a"}]',
        b'"input":"' + TEXT + b'"',
        b'"input":"a","user":"' + TEXT + b'"',
        b'"input":"a","instructions":"' + TEXT + b'"',
        b'"input":[{"role":"user","content":[{"type":"input_text","text":"' + TEXT + b'"}]}]',
    ],
    ids=["space", "space in the input", "input", "passed field", "translated field", "part of an item"],
)
def test_no_slice_decodes_a_large_body_twice(monkeypatch, fields):
    """Of 31 MiB, each time takes 20 ms, and as much for a copy."""
    decoded = 0

    def counted(decode):
        def decode_counted(data):
            nonlocal decoded
            decoded += len(data)
            return decode(data)

        return decode_counted

    for module, name in ((requests, "_decode_object"), (items, "_decode_items"), (items, "_decode_content"),
                         (items, "_decode_string")):  # fmt: skip
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    decoders = {name: counted(decode) for name, decode in requests._DECODERS.items()}
    monkeypatch.setattr(requests, "_DECODERS", decoders)
    body = b'{"model":"m",%b}' % fields
    byte_counts = []
    for _ in translating_response(body, "m", keeps_reasoning=True):
        byte_counts.append(decoded)
        decoded = 0
    assert len(byte_counts) >= 2 + len(body) // SLICE_BYTES
    assert len(body) <= max(byte_counts) < 1.1 * len(body)


def test_the_items_of_a_large_body_are_decoded_in_several_slices():
    def slices(parts):
        item = b'{"role":"user","content":"%b"}' % TEXT[: len(TEXT) // parts]
        body = b'{"model":"m","input":[%b]}' % b",".join([item] * parts)
        return len(list(translating_response(body, "m", keeps_reasoning=True)))

    assert slices(18) > slices(1)


def test_a_large_field_that_is_left_out_is_not_copied():
    body = b'{"model":"m","input":"a","unknown":"%b"}' % TEXT
    (_, translation), peak = with_peak(lambda: to_chat_request(body, "m"))
    assert b": unknown\r\n" in translation.dropped
    assert peak < len(body) // 4


def test_a_body_that_would_take_too_long_is_refused():
    items = [{"role": "user", "content": ""}] * 60_000
    with pytest.raises(Refusal) as raised:
        to_chat_request(json.dumps({"model": "m", "input": items}).encode(), "m")
    assert raised.value.status == 413


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "name": f"n{number}"} for number in range(MAX_TOOLS + 1)],
        [{"type": "namespace", "name": "n" * (MAX_NAME + 1), "tools": [WEATHER]}],
        [{"type": "function", "name": "n" * (MAX_NAME + 1)}],
    ],
    ids=["many", "long namespace", "long name"],
)
def test_tools_that_would_take_too_long_are_refused(tools):
    assert refused(tools=tools).param == "tools"


def test_repeated_fields_have_all_that_a_response_must_have():
    _, translation = translate(tools=[{"type": "function", "name": "x"}, {"type": "web_search"}], text={"format": None})
    assert json.loads(bytes(translation.echoed["tools"])) == [
        {"type": "function", "name": "x", "description": None, "parameters": None, "strict": None},
        {"type": "web_search"},
    ]
    assert json.loads(bytes(translation.echoed["text"])) == {"format": {"type": "text"}}


def test_large_fields_are_not_repeated():
    _, translation = translate(instructions="x" * MAX_ECHOED_BYTES, temperature=0.5)
    assert translation.echoed.keys() == {"temperature"}
