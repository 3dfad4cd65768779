"""What requests need of a model."""

import json

import pytest
from hypothesis import given

from gateway.base.request_kinds import BY_NAME, CHAT, EMBEDDINGS, MESSAGES, OLLAMA_CHAT, RESPONSES, TRANSCRIPTIONS
from gateway.dialects.needs import WHOLE_BYTES, needs_in
from tests.gateway.anything import OBJECTS

DATA = "data:image/png;base64,aaaa"
TOOLS, VISION, NOTHING = frozenset(["tools"]), frozenset(["vision"]), frozenset[str]()


def needs(kind, fields, *, pad=""):
    return set(needs_in(BY_NAME[kind], json.dumps({"model": "m", **fields, "pad": pad}).encode()))


def message(*parts, **fields):
    return [{"role": "user", "content": list(parts), **fields}]


@pytest.mark.parametrize("pad", ["", "x" * WHOLE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize(
    ("kind", "fields", "needed"),
    [
        (CHAT, {"messages": message({"type": "text", "text": "a"})}, NOTHING),
        (CHAT, {"messages": message({"type": "image_url", "image_url": {"url": DATA}})}, VISION),
        (CHAT, {"messages": [], "tools": [{"type": "function"}]}, TOOLS),
        (CHAT, {"messages": [], "tools": []}, NOTHING),
        (CHAT, {"messages": [], "tools": None}, NOTHING),
        (CHAT, {"messages": message({"type": "image_url"}), "tools": [{}]}, TOOLS | VISION),
        # Text that quotes a request is text.
        (
            CHAT,
            {"messages": message({"type": "text", "text": json.dumps({"type": "image_url", "tools": [{}]})})},
            NOTHING,
        ),
        (MESSAGES, {"messages": message({"type": "image", "source": {}})}, VISION),
        (MESSAGES, {"messages": message({"type": "tool_result", "content": [{"type": "image"}]})}, VISION),
        (RESPONSES, {"input": message({"type": "input_image", "image_url": DATA})}, VISION),
        (RESPONSES, {"input": "a", "tools": [{"type": "function", "name": "f"}]}, TOOLS),
        (OLLAMA_CHAT, {"messages": [{"role": "user", "content": "a", "images": ["aaaa"]}]}, VISION),
        (EMBEDDINGS, {"input": "a", "tools": [{}]}, NOTHING),
        (TRANSCRIPTIONS, {"tools": [{}]}, NOTHING),
    ],
)
def test_what_a_request_needs(kind, fields, needed, pad):
    assert needs(kind, fields, pad=pad) == needed


def test_a_name_of_a_parameter_of_a_tool_is_no_image():
    tool = {"type": "function", "function": {"parameters": {"properties": {"x": {"type": "image"}}}}}
    assert needs(CHAT, {"messages": [], "tools": [tool]}) == TOOLS


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"tools":', b"[" * 5000])
def test_a_bad_body_needs_nothing(body):
    assert needs_in(BY_NAME[CHAT], body) == frozenset()


@given(OBJECTS)
def test_any_body_is_read(given):
    assert needs(CHAT, given) <= TOOLS | VISION
