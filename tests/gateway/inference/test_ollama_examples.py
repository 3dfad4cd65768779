"""The examples of Ollama's documentation of its API, at an Ollama, whose lines pass, and at llama.cpp, by translation.

Examples of what belongs to one server (create, copy, delete, pull, push) are in test_ollama.py.
"""

import json
from typing import Any

import pytest

from tests.router import until

SKY = "Why is the sky blue?"
ASKED = [{"role": "user", "content": SKY}]
WORLD = "Ollama is 22 years old and is busy saving the world. Respond using JSON"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "available": {"type": "boolean"}},
    "required": ["age", "available"],
}
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PLACE = {"type": "string", "description": "The location to get the weather for, e.g. San Francisco, CA"}
UNIT = {"type": "string", "description": "The unit", "enum": ["celsius", "fahrenheit"]}
PARAMETERS = {"type": "object", "properties": {"location": PLACE, "format": UNIT}, "required": ["location", "format"]}
WEATHER = {"name": "get_current_weather", "description": "Get the current weather", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
OPTIONS = {
    "num_keep": 5, "seed": 42, "num_predict": 100, "top_k": 20, "top_p": 0.9, "min_p": 0.0, "typical_p": 0.7,
    "repeat_last_n": 33, "temperature": 0.8, "repeat_penalty": 1.2, "presence_penalty": 1.5, "frequency_penalty": 1.0,
    "mirostat": 1, "mirostat_tau": 0.8, "mirostat_eta": 0.6, "penalize_newline": True, "stop": ["\n", "user:"],
    "numa": False, "num_ctx": 1024, "num_batch": 2, "num_gpu": 1, "main_gpu": 0, "low_vram": False,
    "vocab_only": False, "use_mmap": True, "use_mlock": False, "num_thread": 8,
}  # fmt: skip
HISTORY = [
    *ASKED,
    {"role": "assistant", "content": "due to rayleigh scattering."},
    {"role": "user", "content": "how is that different than mie scattering?"},
]
CALLED = {"function": {"name": "get_temperature", "arguments": {"city": "Toronto"}}}
TOOL_HISTORY = [
    {"role": "user", "content": "what is the weather in Toronto?"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED]},
    {"role": "tool", "content": "11 degrees celsius", "tool_name": "get_temperature"},
]
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "a stream": ("generate", {"prompt": SKY}),
    "no stream": ("generate", {"prompt": SKY, "stream": False}),
    "suffix": ("generate", {"prompt": "def gcd(a, b):", "suffix": "    return result", "stream": False}),
    "structured": ("generate", {"prompt": WORLD, "stream": False, "format": SCHEMA}),
    "JSON mode": ("generate", {"prompt": "What color is the sky? Use JSON", "format": "json", "stream": False}),
    "images": ("generate", {"prompt": "What is in this picture?", "stream": False, "images": [IMAGE]}),
    "raw": ("generate", {"prompt": "[INST] why is the sky blue? [/INST]", "raw": True, "stream": False}),
    "reproducible": ("generate", {"prompt": SKY, "options": {"seed": 123}}),
    "all options": ("generate", {"prompt": SKY, "stream": False, "options": OPTIONS}),
    "a chat's stream": ("chat", {"messages": ASKED}),
    "a chat's stream with tools": ("chat", {"messages": ASKED, "tools": TOOLS, "stream": True}),
    "a chat without a stream": ("chat", {"messages": ASKED, "stream": False}),
    "a structured chat": (
        "chat",
        {"messages": ASKED, "stream": False, "format": SCHEMA, "options": {"temperature": 0}},
    ),
    "history": ("chat", {"messages": HISTORY}),
    "history with tools": ("chat", {"messages": TOOL_HISTORY, "stream": False, "tools": TOOLS}),
    "a chat with images": ("chat", {"messages": [{"role": "user", "content": "what is it?", "images": [IMAGE]}]}),
    "a reproducible chat": ("chat", {"messages": ASKED, "options": {"seed": 101, "temperature": 0}}),
    "a chat with tools": ("chat", {"messages": ASKED, "stream": False, "tools": TOOLS}),
    "thinking": ("chat", {"messages": ASKED, "stream": False, "think": True}),
}


@pytest.fixture(params=["ollama", "llamacpp"])
def model(request, gateway, sim):
    return gateway.add(sim.add(kind=request.param, prompt_tokens=11), kind=request.param)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_response(gateway, model, name):
    """It has the lines that the documentation shows, and the counts of the record."""
    path, fields = EXAMPLES[name]
    given = gateway.post(f"/ollama/api/{path}", {"model": model, **fields})
    assert given.status == 200, given.body
    streamed = fields.get("stream") is not False
    assert given.headers["content-type"].startswith("application/x-ndjson" if streamed else "application/json")
    *pieces, last = [json.loads(line) for line in given.body.splitlines()]
    assert [line["done"] for line in (*pieces, last)] == [False] * len(pieces) + [True]
    assert bool(pieces) is streamed
    assert {line["model"] for line in (*pieces, last)} == {model}
    outputs = [line["message"] if path == "chat" else line for line in (*pieces, last)]
    if "tools" in fields and fields["messages"] is ASKED:
        (call,) = [call for output in outputs for call in output.get("tool_calls", ())]
        assert call["function"]["name"] == WEATHER["name"]
        assert isinstance(call["function"]["arguments"], dict)
    else:
        assert "".join(output["content" if path == "chat" else "response"] for output in outputs)
    assert {"created_at", "done_reason", "total_duration", "load_duration", "eval_duration"} <= last.keys()
    record = gateway.record()
    counts = record.input_tokens, record.output_tokens
    assert (record.kind, record.outcome, counts) == (f"ollama_{path}", "ok", (11, last["eval_count"]))
    assert last["prompt_eval_count"] == 11


@pytest.mark.parametrize(("path", "fields"), [("generate", {}), ("chat", {"messages": []})])
def test_loading_and_unloading_by_an_empty_prompt(gateway, model, path, fields):
    given = gateway.post(f"/ollama/api/{path}", {"model": model, **fields})
    assert (given.status, given.json()["done"], given.json()["done_reason"]) == (200, True, "load")
    given = gateway.post(f"/ollama/api/{path}", {"model": model, **fields, "keep_alive": 0})
    assert (given.status, "unload" in given.json()["error"]) == (403, True)


@pytest.mark.parametrize(
    ("path", "fields", "vectors"),
    [
        ("embed", {"input": SKY}, 1),
        ("embed", {"input": [SKY, "Why is the grass green?"]}, 2),
        ("embeddings", {"prompt": SKY}, 1),
    ],
)
def test_embeddings(gateway, model, path, fields, vectors):
    body = gateway.post(f"/ollama/api/{path}", {"model": model, **fields}).json()
    given = [body["embedding"]] if path == "embeddings" else body["embeddings"]
    assert (len(given), {type(vector) for vector in given}) == (vectors, {list})
    assert path == "embeddings" or body["prompt_eval_count"] == gateway.record().input_tokens


def test_lists(gateway, model):
    tagged = f"{model}:latest"
    until(lambda: tagged in [each["model"] for each in gateway.get("/ollama/api/tags").json()["models"]])
    assert isinstance(gateway.get("/ollama/api/ps").json()["models"], list)  # those in memory
    shown = gateway.post("/ollama/api/show", {"model": model}).json()
    assert {"details", "model_info", "capabilities"} <= shown.keys()
    assert gateway.get("/ollama/api/version").json().keys() == {"version"}
