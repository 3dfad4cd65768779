"""Tools whose types a server refuses."""

import json

import pytest

from gateway.dialects.tool_types import MAX_BYTES, MAX_TYPES, refused_types, types_beside_functions, without_tools

FUNCTION = {"type": "function", "name": "run"}
SEARCH = {"type": "web_search", "external_web_access": False}
PATCH = {"type": "custom", "name": "apply_patch"}


def body(*tools, **fields):
    return json.dumps({"model": "m", "input": "Hi", "tools": list(tools), **fields}).encode()


@pytest.mark.parametrize(
    ("tools", "kind", "expected"),
    [
        ([FUNCTION, SEARCH, PATCH, SEARCH], "responses", ["web_search", "custom"]),
        ([FUNCTION], "responses", []),
        ([{"name": "x"}, {"type": None}], "chat_completions", []),
        ([{"type": 7}, {"type": "t" * 65}], "responses", []),
        ([{"name": "x"}, {"type": "custom"}, {"type": "web_search_20250305"}], "messages", ["web_search_20250305"]),
        ([SEARCH], "embeddings", []),
        ([3, SEARCH], "responses", []),
    ],
)
def test_types_beside_functions(tools, kind, expected):
    assert types_beside_functions(body(*tools), kind) == expected


@pytest.mark.parametrize("given", [b'{"tools":7}', b"{}", b'{"tools":null}', b"{", b"\xff", b"[" * 5000])
def test_an_unusual_body_has_none(given):
    assert types_beside_functions(given, "responses") == []


def test_a_body_that_is_too_large_is_not_parsed():
    assert types_beside_functions(body(SEARCH, more="x" * MAX_BYTES), "responses") == []


def test_of_many_types_none_is_left_out():
    types = [{"type": f"t{number}"} for number in range(MAX_TYPES + 1)]
    assert len(types_beside_functions(body(*types[:-1]), "responses")) == MAX_TYPES
    assert types_beside_functions(body(*types), "responses") == []


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("'type' of tool must be 'function'", ["web_search", "custom"]),
        ("Unsupported tool type: web_search", ["web_search"]),
        ("tools.1.type: Invalid literal value, expected function", ["web_search", "custom"]),
        (
            "[{'type': 'literal_error', 'loc': ('body', 'tools', 1, 'type'), 'msg': 'Input should be function', "
            "'input': 'custom'}]",
            ["custom"],
        ),
        ("Invalid value: 'custom'. Supported values are: 'function'. (tools[0].type)", ["custom"]),
        ("tools.0: Input tag 'web_search' found using 'type' does not match", ["web_search"]),
        ("Tool type 'web_search' is not supported", ["web_search"]),
        ("Only 'function' tools are supported", ["web_search", "custom"]),
        ("Unsupported tool type: web_search_preview", ["web_search", "custom"]),
        ("the prompt is too long: web_search", []),
        ("this model does not support tools", []),
    ],
)
def test_errors_that_refuse_types(message, refused):
    error = b'{"error":{"message":"%b"}}' % message.encode()
    assert refused_types(error, ["web_search", "custom"]) == refused
    assert refused_types(error, []) == []


def test_tools_are_left_out():
    request = json.loads(without_tools(body(FUNCTION, SEARCH, PATCH, tool_choice="auto"), ["web_search"]))
    assert request == {"model": "m", "input": "Hi", "tools": [FUNCTION, PATCH], "tool_choice": "auto"}


def test_without_any_tool_nothing_about_tools_is_left():
    given = body(SEARCH, tool_choice="required", parallel_tool_calls=True)
    assert json.loads(without_tools(given, ["web_search"])) == {"model": "m", "input": "Hi"}


@pytest.mark.parametrize(
    ("choice", "stays"),
    [
        ({"type": "web_search"}, False),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, False),
        ({"type": "function", "name": "run"}, True),
        ("required", True),
        (None, True),
        ([], True),
    ],
)
def test_a_choice_of_a_tool_that_is_left_out(choice, stays):
    request = json.loads(without_tools(body(FUNCTION, SEARCH, tool_choice=choice), ["web_search"]))
    assert ("tool_choice" in request) == stays
    assert request["tools"] == [FUNCTION]


def test_a_choice_by_name_of_anthropics_form():
    search = {"type": "web_search_20250305", "name": "web_search"}
    given = body({"name": "run"}, search, tool_choice={"type": "tool", "name": "web_search"})
    assert "tool_choice" not in json.loads(without_tools(given, ["web_search_20250305"]))
    given = body({"name": "run"}, search, tool_choice={"type": "tool", "name": "run"})
    assert "tool_choice" in json.loads(without_tools(given, ["web_search_20250305"]))
