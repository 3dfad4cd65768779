"""The simulated server alone, with an ordinary HTTP client."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import closing
from typing import Any

import aiohttp
import pytest

from benchmarks.simulator import FAULTS, Behaviour, Endpoint, Simulator
from gateway.base.request_kinds import KINDS
from tests.http import Response, Served

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CHAT_TOOL = {"type": "function", "function": TOOL}
MESSAGES_TOOL = {"name": "weather", "input_schema": TOOL["parameters"]}
BODY = {"model": "tiny", "messages": [], "input": "x", "prompt": "x y", "max_tokens": 100, "documents": ["a", "b"]}


class Client(Served):
    key = ""

    def __init__(self, endpoint: Endpoint) -> None:
        self.port = endpoint.port


def post(endpoint: Endpoint, path: str, **fields) -> Response:
    return Client(endpoint).post(path, {**BODY, **fields})


def events(response: Response) -> list[dict[str, Any]]:
    """Return the JSON of a stream's events without [DONE]."""
    texts = [event.rpartition(b"data: ")[2] for event in response.body.split(b"\n\n") if event]
    return [json.loads(data) for data in texts if data != b"[DONE]"]


def send_form(endpoint: Endpoint, path: str, **fields: str) -> Response:
    async def send() -> Response:
        form = aiohttp.FormData(fields)
        form.add_field("file", b"x" * 100_000, filename="a.wav", content_type="audio/wav")
        async with aiohttp.ClientSession() as session, session.post(endpoint.url + path, data=form) as response:
            return Response(response.status, {}, await response.read())

    return asyncio.run(send())


# Every kind of request


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_served(sim: Simulator, kind) -> None:
    endpoint = sim.add()
    send = send_form if kind.multipart else post
    assert send(endpoint, kind.endpoint_path, model="tiny").status == 200
    assert (endpoint.seen.paths, endpoint.seen.finished) == ([kind.endpoint_path], 1)


def test_other_paths_are_not_found(sim: Simulator) -> None:
    assert post(sim.add(), "/v1/nothing").status == 404


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_server_may_lack_messages(sim: Simulator, path: str) -> None:
    response = post(sim.add(messages=False), path)
    assert (response.status, response.json()["type"]) == (404, "error")


def test_a_form_is_recorded_by_its_fields_and_sizes(sim: Simulator) -> None:
    endpoint = sim.add()
    response = send_form(endpoint, "/v1/audio/transcriptions", model="tiny", response_format="text")
    assert response.body.startswith(b"the quick")
    file = {"name": "a.wav", "type": "audio/wav", "size": 100_000}
    assert endpoint.seen.bodies == [{"model": "tiny", "response_format": "text", "file": file}]


def test_speech_comes_in_chunks(sim: Simulator) -> None:
    response = post(sim.add(tokens=3), "/v1/audio/speech")
    assert (response.headers["content-type"], len(response.body)) == ("audio/mpeg", 3072)
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("body", [b"", b"{bad", b"[]", b"{}"])
def test_a_bad_request_gets_an_error(sim: Simulator, body: bytes) -> None:
    assert Client(sim.add()).post("/v1/chat/completions", body).status == 400


def test_messages_need_max_tokens(sim: Simulator) -> None:
    response = Client(sim.add()).post("/v1/messages", {"model": "tiny", "messages": []})
    assert (response.status, response.json()["error"]["message"]) == (400, "max_tokens is missing")


# Streams


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/responses", "response.completed"),
        ("/v1/messages", "message_stop"),
        ("/v1/audio/transcriptions", "transcript.text.done"),
    ],
)
def test_a_stream_is_complete(sim: Simulator, path: str, last: str) -> None:
    response = post(sim.add(), path, stream=True)
    assert events(response)[-1]["type"] == last
    assert response.body.count(b'"delta": ') >= 8


def test_the_events_of_a_response_are_in_order(sim: Simulator) -> None:
    streamed = events(post(sim.add(tokens=1), "/v1/responses", stream=True))
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert [event["type"].removeprefix("response.") for event in streamed] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_every_kind_of_token_is_reported_on_request(sim: Simulator, stream: bool) -> None:
    endpoint = sim.add(tokens=2, prompt_tokens=100, cached_tokens=64, cache_write_tokens=16, reasoning_tokens=7)

    def usage(path: str) -> dict[str, Any]:
        response = post(endpoint, path, stream=stream, stream_options={"include_usage": True})
        last_usage: dict[str, Any] = {}
        for event in events(response) if stream else [response.json()]:
            reported = (event.get("response") or event.get("message") or event).get("usage") or {}
            last_usage |= {name: value for name, value in reported.items() if value is not None}
        return last_usage

    chat, responses, message = map(usage, ("/v1/chat/completions", "/v1/responses", "/v1/messages"))
    details = {"cached_tokens": 64, "cache_write_tokens": 16}
    assert (chat["prompt_tokens"], chat["completion_tokens"]) == (100, 9)
    assert chat["prompt_tokens_details"] == responses["input_tokens_details"] == details
    assert chat["completion_tokens_details"] == responses["output_tokens_details"] == {"reasoning_tokens": 7}
    assert (responses["input_tokens"], responses["output_tokens"]) == (100, 9)
    assert (message["input_tokens"], message["output_tokens"]) == (20, 9)
    assert (message["cache_read_input_tokens"], message["cache_creation_input_tokens"]) == (64, 16)
    assert message["output_tokens_details"] == {"thinking_tokens": 7}


def test_the_events_of_a_message_are_in_order(sim: Simulator) -> None:
    response = post(sim.add(tokens=1), "/v1/messages", stream=True)
    names = [line.removeprefix(b"event: ").decode() for line in response.body.split(b"\n") if line.startswith(b"event")]
    start, stop = ["message_start", "content_block_start", "ping"], ["content_block_stop", "message_delta"]
    assert names == [*start, "content_block_delta", *stop, "message_stop"]
    assert events(response)[-2]["usage"] == {"output_tokens": 1}


@pytest.mark.parametrize(
    ("path", "field", "reason"),
    [
        ("/v1/chat/completions", "max_tokens", '"length"'),
        ("/v1/messages", "max_tokens", '"max_tokens"'),
        ("/v1/responses", "max_output_tokens", '"incomplete"'),
    ],
)
def test_a_truncated_response_reports_its_reason(sim: Simulator, path: str, field: str, reason: str) -> None:
    assert reason in post(sim.add(), path, **{field: 3}).body.decode()


# Tool calls


def arguments(path: str, streamed: list[dict[str, Any]]) -> str:
    """Join the fragments of a stream."""
    if path == "/v1/messages":
        return "".join(
            event["delta"].get("partial_json", "") for event in streamed if "index" in event and "delta" in event
        )
    if path == "/v1/responses":
        return "".join(event["delta"] for event in streamed if event["type"].endswith("arguments.delta"))
    calls = [choice["delta"].get("tool_calls") for event in streamed for choice in event["choices"]]
    return "".join(call[0]["function"]["arguments"] for call in calls if call)


TOOLS = {
    "/v1/chat/completions": CHAT_TOOL,
    "/v1/responses": {"type": "function", **TOOL},
    "/v1/messages": MESSAGES_TOOL,
}
every_path = pytest.mark.parametrize("path", TOOLS)


@every_path
def test_a_tool_is_called(sim: Simulator, path: str) -> None:
    response = post(sim.add(), path, tools=[TOOLS[path]])
    assert '"weather"' in response.body.decode()
    assert "quick" in response.body.decode()
    assert "quick brown" not in response.body.decode()


@every_path
def test_a_tool_is_called_in_fragments(sim: Simulator, path: str) -> None:
    streamed = events(post(sim.add(), path, tools=[TOOLS[path]], stream=True))
    assert json.loads(arguments(path, streamed)) == {"city": "quick"}


@every_path
@pytest.mark.parametrize("options", [{"tool_choice": "none"}, {"tools": []}])
def test_text_when_no_tool_is_requested(sim: Simulator, path: str, options) -> None:
    response = post(sim.add(), path, **{"tools": [TOOLS[path]], **options})
    assert "quick brown" in response.body.decode()


@every_path
def test_text_from_a_server_that_calls_no_tools(sim: Simulator, path: str) -> None:
    assert "quick brown" in post(sim.add(tools=False), path, tools=[TOOLS[path]]).body.decode()


@pytest.mark.parametrize(
    ("path", "field", "last"),
    [
        ("/v1/chat/completions", "messages", {"role": "tool", "content": "fine"}),
        ("/v1/messages", "messages", {"role": "user", "content": [{"type": "tool_result"}]}),
        ("/v1/responses", "input", {"type": "function_call_output", "output": "fine"}),
    ],
)
def test_text_after_the_tool_was_called(sim: Simulator, path: str, field: str, last) -> None:
    response = post(sim.add(), path, tools=[TOOLS[path]], **{field: [last]})
    assert "quick brown" in response.body.decode()


def test_the_named_tool_is_called(sim: Simulator) -> None:
    other = {"type": "function", "function": {"name": "clock"}}
    response = post(sim.add(), "/v1/chat/completions", tools=[CHAT_TOOL, other], tool_choice=other)
    assert response.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "clock"


# Stored responses


def test_a_stored_response_can_be_retrieved(sim: Simulator) -> None:
    endpoint = sim.add()
    made = post(endpoint, "/v1/responses").json()
    path = f"/v1/responses/{made['id']}"
    client = Client(endpoint)
    assert client.get(path).json()["output"] == made["output"]
    assert client.get(f"{path}/input_items").json()["data"][0]["content"][0]["text"] == "x"
    assert client.post(f"{path}/cancel").json()["status"] == "cancelled"
    assert client.request("DELETE", path).json() == {"id": made["id"], "object": "response", "deleted": True}
    assert client.get(path).status == 404


def test_a_response_with_store_false_is_not_stored(sim: Simulator) -> None:
    endpoint = sim.add()
    made = post(endpoint, "/v1/responses", store=False).json()
    assert Client(endpoint).get(f"/v1/responses/{made['id']}").status == 404


# Faults


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.isdigit()])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_status_as_a_fault(sim: Simulator, fault: str, path: str) -> None:
    response = post(sim.add(fault=fault), path)
    assert (response.status, response.json()["error"]["message"]) == (int(fault), f"simulated {fault}")


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_response(sim: Simulator, stream: bool) -> None:
    response = post(sim.add(fault="empty"), "/v1/chat/completions", stream=stream)
    assert (response.status, response.body) == (200, b"")


def test_every_other_request_fails(sim: Simulator) -> None:
    endpoint = sim.add(fault="flap")
    assert [post(endpoint, "/v1/chat/completions").status for _ in range(4)] == [500, 200, 500, 200]


def test_a_connection_is_reset(sim: Simulator) -> None:
    endpoint = sim.add(fault="reset")
    with pytest.raises(ConnectionResetError):
        post(endpoint, "/v1/chat/completions")
    assert (endpoint.seen.started, endpoint.seen.finished) == (1, 0)


def send_request_on(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/chat/completions", json.dumps(BODY))
    connection.getresponse()


def test_a_kept_connection_is_reset_too(sim: Simulator) -> None:
    endpoint = sim.add()
    with closing(http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)) as connection:
        connection.request("GET", "/health")
        connection.getresponse().read()
        endpoint.set(fault="reset")
        with pytest.raises(ConnectionResetError):
            send_request_on(connection)


def test_a_bad_request_gets_an_error_before_its_body_is_read(sim: Simulator) -> None:
    with socket.create_connection(("127.0.0.1", sim.add(fault="early_400").port), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def beginning(endpoint: Endpoint, enough: bytes, **fields) -> bytes:
    """Return the received bytes up to the given ones, then disconnect."""
    body = json.dumps({**BODY, **fields})
    received = b""
    with closing(http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)) as connection:
        connection.request("POST", "/v1/chat/completions", body)
        with connection.getresponse() as response:
            while enough not in received:
                received += response.read1()
    return received


@pytest.mark.parametrize("fault", ["headers_then_hang", "comments"])
def test_comments_come_before_the_first_token(sim: Simulator, fault: str) -> None:
    received = beginning(sim.add(fault=fault, ttft=3600), b": still here\n\n" * 3, stream=True)
    assert set(received.split(b"\n\n")) == {b": still here", b""}


def test_comments_end_with_the_first_token(sim: Simulator) -> None:
    response = post(sim.add(fault="comments", ttft=0.2), "/v1/chat/completions", stream=True)
    assert response.body.count(b": still here\n\n") >= 2
    assert response.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_a_response_hangs_in_its_middle(sim: Simulator, stream: bool) -> None:
    endpoint = sim.add(fault="mid_hang")
    assert b"kings" not in beginning(endpoint, b'"model"', stream=stream)
    assert endpoint.wait_for(lambda seen: seen.cancelled == 1).finished == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(("fault", "words"), [("cut", b""), ("error_event", b"simulated error")])
def test_a_stream_breaks_when_half_of_it_is_sent(sim: Simulator, path: str, fault: str, words: bytes) -> None:
    response = post(sim.add(fault=fault), path, stream=True)
    assert (b"fox" in response.body, b"jumps" in response.body, words in response.body) == (True, False, True)


# Recorded requests


def test_the_moment_of_a_cancel_is_known(sim: Simulator) -> None:
    endpoint = sim.add(fault="hang")
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        endpoint.wait_for(lambda seen: seen.running == 1)
        left = time.monotonic()
    seen = endpoint.wait_for(lambda seen: seen.cancelled == 1)
    assert left <= seen.cancelled_at <= time.monotonic()
    assert seen.running == 0


def test_waiting_ends_when_the_condition_is_true(sim: Simulator) -> None:
    endpoint = sim.add()
    sender = threading.Thread(target=post, args=(endpoint, "/v1/chat/completions"))
    sender.start()
    assert endpoint.wait_for(lambda seen: seen.finished == 1).started == 1
    sender.join()


def test_waiting_in_vain_raises_an_error(sim: Simulator) -> None:
    with pytest.raises(TimeoutError, match="started=0"):
        sim.add().wait_for(lambda seen: seen.started == 1, 0.01)


def test_a_server_closes_with_a_connection_that_was_just_accepted(sim: Simulator) -> None:
    async def test() -> list[Any]:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        endpoint = Endpoint(sim, Behaviour(), 0)
        await endpoint.open()
        with socket.create_connection(("127.0.0.1", endpoint.port)):
            for _ in range(2):  # asyncio has accepted it, and makes its transport in the next turn
                await asyncio.sleep(0)
            await endpoint.close()
            await asyncio.sleep(0)
        asyncio.get_running_loop().set_exception_handler(None)
        return errors

    assert sim.run(test()) == []


def test_a_client_that_leaves_before_the_header_block_is_no_error(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_arguments: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    server = sim.add()
    monkeypatch.setattr(server, "_serve", refused)
    post(server, "/v1/chat/completions")
    assert (server.seen.started, server.seen.cancelled, server.seen.running) == (1, 1, 0)
    assert caplog.records == []
