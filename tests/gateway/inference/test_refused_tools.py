"""Endpoints that refuse the type of a tool: the request goes to them again without it."""

import json

import pytest

from tests.gateway.scripted import Talk, http_response, upstream

REFUSED = http_response(b'{"error":{"code":400,"message":"\'type\' of tool must be \'function\'"}}', 400)
RESPONSE = (
    b'{"id":"r","object":"response","model":"m","status":"completed","output":[],'
    b'"usage":{"input_tokens":3,"output_tokens":2}}'
)
FUNCTION = {"type": "function", "name": "run", "parameters": {}}
SEARCH, PATCH = {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}
DROPPED = "x-routerdash-dropped"


def types_of(request):
    return [tool["type"] for tool in json.loads(request.partition(b"\r\n\r\n")[2]).get("tools", ())]


def functions_only(talk: Talk) -> None:
    while request := talk.request():
        is_refused = any(kind != "function" for kind in types_of(request))
        talk.send(REFUSED if is_refused else http_response(RESPONSE))


def respond(gateway, model, *tools, **fields):
    return gateway.post("/v1/responses", {"model": model, "input": "Hi", "tools": list(tools), **fields})


def test_refused_tools_are_left_out_and_learned(gateway):
    with upstream(functions_only) as server:
        model = gateway.add(server)
        given = [respond(gateway, model, FUNCTION, SEARCH, PATCH) for _ in range(3)]
        plain = respond(gateway, model, FUNCTION)
    assert [one.status for one in (*given, plain)] == [200] * 4
    assert [one.headers[DROPPED] for one in given] == ["tools.web_search, tools.custom"] * 3
    assert DROPPED not in plain.headers
    assert [types_of(request) for request in server.requests] == [
        ["function", "web_search", "custom"],
        *[["function"]] * 4,
    ]
    assert [(record.outcome, len(record.attempts)) for record in gateway.records()] == [("ok", 1)] * 4


def test_a_named_type_alone_is_left_out(gateway):
    def script(talk: Talk) -> None:
        while request := talk.request():
            refused = http_response(b'{"error":{"message":"Unsupported tool type: web_search"}}', 400)
            talk.send(refused if "web_search" in types_of(request) else http_response(RESPONSE))

    with upstream(script) as server:
        given = respond(gateway, gateway.add(server), SEARCH, PATCH, tool_choice={"type": "web_search"})
    assert (given.status, given.headers[DROPPED]) == (200, "tools.web_search")
    assert types_of(server.requests[-1]) == ["custom"]
    assert b"tool_choice" not in server.requests[-1]


def test_an_endpoint_is_asked_three_times_at_most(gateway):
    def script(talk: Talk) -> None:
        while request := talk.request():
            first = next(iter(types_of(request)), "none")
            talk.send(http_response(b'{"error":{"message":"Unknown tool type: %b"}}' % first.encode(), 400))

    with upstream(script) as server:
        model = gateway.add(server)
        given = respond(gateway, model, {"type": "a"}, {"type": "b"}, {"type": "c"}, {"type": "d"})
        asked = [types_of(request) for request in server.requests]
        again = respond(gateway, model, {"type": "a"}, FUNCTION)
    assert asked == [["a", "b", "c", "d"], ["b", "c", "d"], []]
    assert given.json()["error"]["message"] == "Unknown tool type: none"
    assert again.status == 400
    assert types_of(server.requests[3]) == ["a", "function"]  # nothing was learned: no request succeeded
    assert [record.outcome for record in gateway.records()] == ["refused"] * 2


def test_other_errors_are_passed_on(gateway):
    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(http_response(b'{"error":{"message":"bad temperature"}}', 400))

    with upstream(script) as server:
        given = respond(gateway, gateway.add(server), SEARCH)
    assert (given.status, len(server.requests), DROPPED in given.headers) == (400, 1, False)


def test_a_setting_passes_the_refusal_on(make_gateway):
    gateway = make_gateway(ROUTERDASH_DROP_REFUSED_TOOLS="false").start()
    with upstream(functions_only) as server:
        given = respond(gateway, gateway.add(server), SEARCH)
    assert (given.status, given.json()["error"]["message"]) == (400, "'type' of tool must be 'function'")
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [0, 200_000])
def test_the_endpoints_name_of_the_model_stays_in_place(gateway, size):
    with upstream(functions_only) as server:
        model = gateway.add(server, known_as="own-name")
        given = respond(gateway, model, SEARCH, stream=False, instructions="x" * size)
    assert given.status == 200, given
    assert [json.loads(request.partition(b"\r\n\r\n")[2])["model"] for request in server.requests] == ["own-name"] * 2
