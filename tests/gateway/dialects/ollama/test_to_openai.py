"""Requests of Ollama's documentation as OpenAI's."""

import json

import pytest

from gateway.base.errors import Refusal
from gateway.base.request_kinds import OLLAMA_CHAT, OLLAMA_EMBED, OLLAMA_GENERATE
from gateway.dialects.ollama.to_openai import translating
from gateway.loop.time_slices import run_unsliced

PNG = "iVBORw0KGgo="
CALL = {"function": {"name": "get_weather", "arguments": {"city": "Tokyo"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}


def translated(kind, endpoint="openai_compatible", *, has_own=False, **fields):
    body = json.dumps({"model": "llama3.2", "stream": False, **fields}).encode()
    return run_unsliced(translating(body, kind, "served", endpoint, has_own=has_own))


def chat(endpoint="openai_compatible", **fields):
    fields = {"messages": [{"role": "user", "content": "why is the sky blue?"}], **fields}
    return json.loads(translated(OLLAMA_CHAT, endpoint, **fields).body)


def test_a_chat_becomes_a_chat_completion_with_the_endpoints_name():
    assert chat() == {"model": "served", "messages": [{"role": "user", "content": "why is the sky blue?"}]}


def test_a_stream_asks_for_usage():
    body = json.loads(translated(OLLAMA_CHAT, stream=True, messages=[]).body)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert "stream_options" not in json.loads(translated(OLLAMA_CHAT, messages=[]).body)


def test_options_have_the_names_of_the_server():
    options = {"num_predict": 9, "temperature": 0, "seed": 101, "stop": ["\n"], "top_k": 20, "repeat_penalty": 1.2}
    options["mirostat"] = 1
    usual = {"max_tokens": 9, "temperature": 0, "seed": 101, "stop": ["\n"]}
    bodies = {kind: chat(kind, options=options) for kind in ("openai_compatible", "vllm", "llamacpp", "lm_studio")}
    for fields in bodies.values():
        del fields["model"], fields["messages"]
    assert bodies == {
        "openai_compatible": usual,
        "vllm": usual | {"top_k": 20, "repetition_penalty": 1.2},
        "llamacpp": usual | {"top_k": 20, "repeat_penalty": 1.2, "mirostat": 1},
        "lm_studio": usual | {"top_k": 20, "repeat_penalty": 1.2},
    }


def test_options_without_a_place_are_named():
    given = translated(OLLAMA_CHAT, messages=[], options={"num_ctx": 1024, "num_predict": -1, "num_gpu": 1})
    assert given.dropped == b"x-routerdash-dropped: options.num_ctx, options.num_gpu\r\n"
    assert "max_tokens" not in json.loads(given.body)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("json", {"type": "json_object"}),
        (SCHEMA, {"type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA}}),
    ],
)
def test_a_format_becomes_a_response_format(form, expected):
    assert chat(format=form)["response_format"] == expected


@pytest.mark.parametrize(("think", "effort"), [(False, "none"), (True, None), ("low", "low"), ("max", "max")])
def test_think_becomes_a_reasoning_effort(think, effort):
    assert chat(think=think).get("reasoning_effort") == effort


def test_images_become_data_urls_by_their_first_characters():
    (message,) = chat(messages=[{"role": "user", "content": "what?", "images": [PNG, "/9j/4AA"]}])["messages"]
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AA"}},
    ]


def test_tools_and_their_results_get_ids():
    turns = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [CALL, CALL | {"id": "own"}]},
        {"role": "tool", "tool_name": "get_weather", "content": "11 degrees"},
        {"role": "tool", "tool_call_id": "own", "content": "12 degrees"},
    ]
    body = chat(messages=turns, tools=[TOOL])
    assert body["tools"] == [TOOL]
    _, assistant, *results = body["messages"]
    assert assistant["reasoning_content"] == "Hm."
    assert [(call["id"], call["type"]) for call in assistant["tool_calls"]] == [
        ("call_0", "function"),
        ("own", "function"),
    ]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Tokyo"}
    assert [result["tool_call_id"] for result in results] == ["call_0", "own"]


def test_a_generation_becomes_a_chat_with_its_system_prompt():
    body = json.loads(translated(OLLAMA_GENERATE, prompt="Why?", system="Be short.", images=[PNG]).body)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"][0] == {"type": "text", "text": "Why?"}


def test_a_raw_prompt_or_a_suffix_becomes_a_completion():
    raw = translated(OLLAMA_GENERATE, prompt="[INST] why [/INST]", raw=True)
    assert (raw.kind, json.loads(raw.body)) == ("completions", {"model": "served", "prompt": "[INST] why [/INST]"})
    filled = json.loads(translated(OLLAMA_GENERATE, prompt="def f(a", suffix="return a").body)
    assert filled == {"model": "served", "prompt": "def f(a", "suffix": "return a"}


@pytest.mark.parametrize(
    ("path", "expected"), [({"input": ["a", "b"]}, ["a", "b"]), ({"input": "a"}, "a"), ({"prompt": "a"}, "a")]
)
def test_embeddings_have_an_input(path, expected):
    given = translated(OLLAMA_EMBED, **path, dimensions=3, truncate=True, options={"num_ctx": 1})
    assert json.loads(given.body) == {"model": "served", "input": expected, "dimensions": 3}
    assert (given.kind, given.dropped) == ("embeddings", b"x-routerdash-dropped: options.num_ctx, truncate\r\n")


def test_parameters_of_a_model_name_are_passed_on():
    given = translated(OLLAMA_CHAT, has_own=True, messages=[], max_tokens=4, reasoning_effort="low")
    assert json.loads(given.body) == {"model": "served", "messages": [], "max_tokens": 4, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        (OLLAMA_CHAT, {"messages": "Hi"}, "`messages`: Expected `array"),
        (OLLAMA_CHAT, {"messages": [{"content": "x"}]}, "missing required field `role`"),
        (OLLAMA_CHAT, {"messages": [], "think": "deep"}, "`think` must be"),
        (OLLAMA_CHAT, {"messages": [], "format": "yaml"}, "`format` must be"),
        (OLLAMA_CHAT, {"messages": [{"role": "user", "images": ["http://x/y.png"]}]}, "base64, not addresses"),
        (OLLAMA_GENERATE, {"prompt": "a", "raw": True, "images": [PNG]}, "`images` cannot be used"),
        (OLLAMA_GENERATE, {"prompt": "a", "suffix": "b", "format": "json"}, "`format` cannot be used"),
        (OLLAMA_EMBED, {}, "`input` is missing"),
    ],
)
def test_what_cannot_be_translated_is_refused(kind, fields, text):
    with pytest.raises(Refusal, match=text) as refused:
        translated(kind, **fields)
    assert refused.value.status == 400


@pytest.mark.parametrize("field", ["tools", "format", "options", "top_k"])
def test_a_value_that_is_not_utf_8_is_refused(field):
    values = {"tools": b'[{"a":"\xff"}]', "format": b'{"a":"\xff"}', "options": b'{"stop":"\xff"}', "top_k": b'"\xff"'}
    body = b'{"model":"m","messages":[],"%b":%b}' % (field.encode(), values[field])
    with pytest.raises(Refusal, match="not valid JSON") as refused:
        run_unsliced(translating(body, OLLAMA_CHAT, "served", "vllm", has_own=True))
    assert refused.value.status == 400
