"""Responses through a real gateway, for models of which no endpoint has this API."""

import json

import msgspec
import pytest

from benchmarks.providers import add
from gateway.base.sealing import Sealer
from gateway.routing.set_aside import kinds_of
from tests.gateway.inference.helpers import event_data, outcomes
from tests.gateway.scripted import DONE, LAST, Talk, always, chunk, http_response, stream, upstream
from tests.router import until

MISSING = http_response(b'{"detail":"Not Found"}', 404)
USAGE = (
    b'data: {"model":"tiny","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}\n\n'
)
CHAT = http_response(
    b'{"id":"c1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
STREAM = stream(chunk("Hel"), chunk("lo."), LAST, USAGE, DONE)
RESPONSE = http_response(b'{"id":"resp_1","object":"response","status":"completed","model":"tiny","output":[]}')
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def having(**paths):
    """Return a script of a server that has these paths with these responses, and no other."""
    responses = {f"/v1/{name.replace('_', '/')}": given for name, given in paths.items()}

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(responses.get(request.split(b" ")[1].decode(), MISSING))

    return script


def send(gateway, model, path="/v1/responses", **fields):
    return gateway.post(path, {"model": model, "input": "Hi", **fields})


def requested_paths(server):
    return [request.split(b" ")[1].decode().removeprefix("/v1/") for request in server.requests]


def sent(server):
    return json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])


def test_a_response_is_translated_and_the_missing_path_requested_once(gateway):
    with upstream(having(chat_completions=CHAT)) as server:
        model = gateway.add(server, known_as="tiny")
        for _ in range(3):
            given = send(gateway, model, instructions="Be short.")
    response = given.json()
    assert (given.status, response["object"], response["model"]) == (200, "response", model)
    assert response["output"][0]["content"][0]["text"] == "Hello."
    assert requested_paths(server) == ["responses", *["chat/completions"] * 3]
    assert sent(server)["model"] == "tiny"
    assert [message["role"] for message in sent(server)["messages"]] == ["system", "user"]
    record = gateway.records()[-1]
    assert (record.kind, record.outcome, outcomes(record)) == ("responses", "ok", [("ok", 200)])
    assert (record.input_tokens, record.output_tokens, record.finish_reason) == (3, 2, "stop")
    (endpoint,) = gateway.endpoints_of(model)
    assert kinds_of(gateway.page.notes.lacking(endpoint.slot, endpoint.id)[1]) == ["responses"]


def test_a_stream_is_translated(gateway):
    with upstream(having(chat_completions=STREAM)) as server:
        model = gateway.add(server)
        given = send(gateway, model, stream=True)
    events = event_data(given)
    assert given.headers["content-type"].startswith("text/event-stream")
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert (response["model"], response["output"][0]["content"][0]["text"]) == (model, "Hello.")
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4
    record = gateway.record()
    assert (record.outcome, record.streamed, record.input_tokens, record.output_tokens) == ("ok", True, 9, 2)
    assert (record.cached_tokens, record.reasoning_tokens, record.finish_reason) == (4, 1, "stop")
    assert record.first_token_us is not None


def test_an_endpoint_with_the_api_is_preferred_and_found_in_the_first_request(gateway):
    with upstream(having(chat_completions=CHAT)) as without, upstream(having(responses=RESPONSE)) as with_it:
        model = gateway.add(without, with_it)
        for _ in range(3):
            assert send(gateway, model).json()["id"] == "resp_1"
    assert "chat/completions" not in requested_paths(without)
    assert len(with_it.requests) == 3


def test_if_no_endpoint_has_the_api_the_first_request_is_translated_at_the_last_one(gateway):
    with upstream(having(chat_completions=CHAT)) as one, upstream(having(chat_completions=CHAT)) as two:
        model = gateway.add(one, two)
        assert [send(gateway, model).status for _ in range(3)] == [200] * 3
    first, *others = gateway.records()
    assert outcomes(first) == [("refused", 404), ("ok", 200)]
    assert [outcomes(record) for record in others] == [[("ok", 200)]] * 2
    asked = requested_paths(one) + requested_paths(two)
    assert (asked.count("responses"), asked.count("chat/completions")) == (2, 3)


def test_an_endpoint_with_the_api_that_is_offline_does_not_prevent_a_translation(gateway):
    with upstream(having(chat_completions=CHAT)) as without, upstream(having(responses=RESPONSE)) as with_it:
        model = gateway.add(without, with_it)
        endpoint = next(candidate for candidate in gateway.endpoints_of(model) if candidate.base_url == with_it.url)
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, status="offline")
        gateway.publish()
        given = send(gateway, model)
    assert given.json()["output"][0]["content"][0]["text"] == "Hello."
    assert with_it.requests == []


def test_an_endpoint_may_lack_chat_completions_too(gateway):
    with upstream(having()) as server:
        model = gateway.add(server)
        assert [send(gateway, model).status for _ in range(2)] == [404] * 2
    assert requested_paths(server) == ["responses", "chat/completions", "messages", "chat/completions"]


def test_a_missing_model_is_not_taken_for_a_missing_path(gateway):
    missing = http_response(b'{"error":{"message":"The model `x` does not exist.","param":"model"}}', 404)
    with upstream(having(responses=missing, chat_completions=CHAT)) as server:
        assert send(gateway, gateway.add(server, known_as="x")).status == 404
    assert requested_paths(server) == ["responses"]


def test_a_cloud_without_the_api_gets_a_chat_completion(gateway):
    with upstream(having(chat_completions=CHAT)) as cloud:
        model = gateway.add(cloud, kind="together")
        given = send(gateway, model, max_output_tokens=9)
    assert given.json()["output"][0]["content"][0]["text"] == "Hello."
    assert requested_paths(cloud) == ["chat/completions"]
    assert sent(cloud)["max_tokens"] == 9


def test_compaction_is_not_translated(gateway):
    with upstream(having(chat_completions=CHAT)) as server:
        given = send(gateway, gateway.add(server), "/v1/responses/compact")
    assert given.status == 404
    assert requested_paths(server) == ["responses/compact"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_translated_response_is_not_stored(gateway, streams):
    with upstream(having(chat_completions=STREAM if streams else CHAT)) as server:
        model = gateway.add(server)
        given = send(gateway, model, stream=streams)
        response = event_data(given)[-1]["response"] if streams else given.json()
        assert response["store"] is False
        later = send(gateway, model, previous_response_id=response["id"])
        item = send(gateway, model, input=[{"type": "item_reference", "id": response["output"][0]["id"]}])
        read = gateway.get(f"/v1/responses/{response['id']}")
    for refused, param in ((later, "previous_response_id"), (item, "input")):
        error = refused.json()["error"]
        assert (refused.status, error["code"], error["param"]) == (400, "previous_response_not_found", param)
        assert "send the earlier items in `input`" in error["message"]
    assert read.status == 404


def test_tools_without_a_place_are_named_in_a_header(gateway):
    tools = [WEATHER, {"type": "web_search"}]
    with upstream(having(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = send(gateway, model, tools=tools, store=True)
    assert given.headers["x-routerdash-dropped"] == "store;sent=false, tools.web_search"
    assert [tool["function"]["name"] for tool in sent(server)["tools"]] == ["weather"]


def test_a_request_that_cannot_be_translated_is_refused(gateway):
    with upstream(having(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = send(gateway, model, background=True)
    assert (given.status, given.json()["error"]["param"]) == (400, "background")
    assert requested_paths(server) == ["responses"]
    assert gateway.in_flight(model) == 0


def test_a_stream_that_breaks_off_is_response_failed(gateway):
    with upstream(having(chat_completions=stream(chunk("Hi")))) as server:
        events = event_data(send(gateway, gateway.add(server), stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]
    assert events[-1]["response"]["error"]["code"] == "upstream_error"
    assert gateway.record().outcome == "truncated"


def test_an_error_in_mid_stream_is_response_failed(gateway):
    error = b'data: {"error":{"message":"out of memory"}}\n\n'
    with upstream(having(chat_completions=stream(chunk("Hi"), error))) as server:
        events = event_data(send(gateway, gateway.add(server), stream=True))
    assert (events[-1]["type"], events[-1]["response"]["error"]["message"]) == ("response.failed", "out of memory")
    assert gateway.record().outcome == "failed"


def test_a_stream_that_begins_with_an_error_fails_over(gateway):
    error = stream(b'data: {"error":{"message":"overloaded"}}\n\n')
    with upstream(having(chat_completions=error)) as one, upstream(having(chat_completions=STREAM)) as two:
        model = gateway.add(one, two)
        for _ in range(2):
            events = event_data(send(gateway, model, stream=True))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello."


def test_a_server_that_refuses_stream_options_is_sent_a_request_without_them(gateway):
    refused = http_response(b'{"error":{"message":"unknown field: stream_options"}}', 400)

    def script(talk: Talk) -> None:
        while request := talk.request():
            if b"/v1/responses" in request:
                talk.send(MISSING)
            else:
                talk.send(refused if b"stream_options" in request else stream(chunk("Hi"), LAST, DONE))

    with upstream(script) as server:
        events = event_data(send(gateway, gateway.add(server), stream=True))
    assert (events[-1]["type"], events[-1]["response"]["usage"]) == ("response.completed", None)
    assert gateway.record().estimated


def test_an_endpoints_refusal_is_passed_on(gateway):
    refused = http_response(b'{"error":{"message":"too long","type":"x","code":400}}', 400)
    with upstream(having(chat_completions=refused)) as server:
        given = send(gateway, gateway.add(server))
    assert (given.status, given.json()["error"]["message"]) == (400, "too long")


@pytest.mark.parametrize("body", [b'{"id":"x"}', b'{"error":{"message":"oops"}}'])
def test_a_response_that_is_no_completion_is_a_failure(gateway, body):
    with upstream(having(chat_completions=http_response(body))) as server:
        given = send(gateway, gateway.add(server))
    assert (given.status, given.json()["error"]["code"]) == (502, "upstream_error")


def test_a_large_body_is_translated(gateway):
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 3_000_000}
    items = [{"role": "user", "content": [image]}]
    with upstream(having(chat_completions=CHAT)) as server:
        given = send(gateway, gateway.add(server), input=items)
    assert given.status == 200
    assert len(sent(server)["messages"][0]["content"][0]["image_url"]["url"]) > 3_000_000


def test_a_large_whole_response_is_translated(gateway):
    body = json.dumps({"choices": [{"message": {"content": "x" * 2_500_000}, "finish_reason": "stop"}]}).encode()
    with upstream(having(chat_completions=http_response(body))) as server:
        given = send(gateway, gateway.add(server))
    assert len(given.json()["output"][0]["content"][0]["text"]) == 2_500_000


def test_the_endpoints_key_is_in_no_error_of_a_translated_stream(gateway):
    error = b'data: {"error":{"message":"bad key sk-endpoint-secret"}}\n\n'
    with upstream(always(stream(chunk("Hi"), error))) as server:
        until(gateway.config.key_file.exists)  # the gateway creates it
        sealed = Sealer([gateway.config.key_file.read_bytes()]).seal("sk-endpoint-secret")
        model = gateway.add(server, kind="together", sealed_key=sealed)
        given = send(gateway, model, stream=True)
    assert b"bad key" in given.body
    assert b"sk-endpoint-secret" not in given.body


# Endpoints that have only Messages


def add_anthropic(gateway, cloud):
    until(gateway.config.key_file.exists)  # the gateway creates it
    sealed = Sealer([gateway.config.key_file.read_bytes()]).seal(cloud.key)
    return gateway.add(cloud, kind="anthropic", sealed_key=sealed, known_as="claude-sonnet-5")


@pytest.mark.parametrize("streams", [False, True])
def test_a_loop_of_tools_at_anthropic(gateway, sim, streams):
    cloud = add(sim, "anthropic")
    model = add_anthropic(gateway, cloud)
    asked = {"tools": [WEATHER], "stream": streams, "reasoning": {"effort": "low"}}

    def ask(items):
        given = send(gateway, model, input=items, **asked)
        assert given.status == 200, given.body
        return event_data(given)[-1]["response"] if streams else given.json()

    question = {"role": "user", "content": "Say hello to us all"}
    first = ask([question])
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    assert len(calls) == len(cloud.tally[-1].calls) == 2
    assert first["output"][0]["content"][0]["text"] == cloud.tally[-1].thoughts
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny."} for call in calls]
    second = ask([question, *first["output"], *results])
    assert (second["status"], second["output"][-1]["content"][0]["text"]) == ("completed", cloud.tally[-1].content)
    tokens, record = cloud.tally[-1].tokens, gateway.records()[-1]
    assert (second["usage"]["input_tokens"], second["usage"]["output_tokens"]) == (tokens.input, tokens.output)
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == tokens.cached == record.cached_tokens
    assert (record.kind, record.outcome, record.finish_reason) == ("responses", "ok", "stop")


def test_an_error_of_anthropic_in_mid_stream_is_response_failed(gateway, sim):
    cloud = add(sim, "anthropic")
    model = add_anthropic(gateway, cloud)
    cloud.set(fault="error_event")
    events = event_data(send(gateway, model, stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "Overloaded"
    assert gateway.record().outcome == "failed"


def test_fields_that_neither_translation_has_a_place_for_are_named(gateway, sim):
    given = send(gateway, add_anthropic(gateway, add(sim, "anthropic")), user="u", store=True)
    assert given.headers["x-routerdash-dropped"] == "store;sent=false, user"


def test_a_self_hosted_server_of_messages_alone(gateway):
    message = http_response(
        b'{"id":"m1","type":"message","content":[{"type":"text","text":"Hi."}],"stop_reason":"end_turn",'
        b'"usage":{"input_tokens":3,"output_tokens":2}}'
    )
    with upstream(having(messages=message)) as server:
        model = gateway.add(server)
        given = [send(gateway, model).json() for _ in range(2)]
    assert [response["output"][0]["content"][0]["text"] for response in given] == ["Hi."] * 2
    assert requested_paths(server) == ["responses", "chat/completions", "messages", "messages"]
    assert gateway.records()[-1].input_tokens == 3
