"""Requests that an administrator cancels: error to the client, closed upstream connection, and record."""

import json
import time
from contextlib import contextmanager

import pytest

from gateway.ipc import cancellations, running_requests
from gateway.ipc.cancellations import Cancel
from tests.gateway.process import read_to_end, read_until
from tests.gateway.scripted import upstream
from tests.router import until

CLOSE = "Connection: close"


def cancel(gateway, *ids):
    """Cancel requests as control does."""
    cancellations.save(gateway.config.data_dir, tuple(Cancel(request_id, time.time()) for request_id in ids))
    gateway.page.cancels += 1


def open_request_ids(gateway, model):
    """Return the ids of running and waiting requests for a model."""
    gateway.page.watched_until = int(time.time()) + 10
    published = running_requests.load(gateway.config.data_dir, 0)
    if published is None:
        return []
    requests = [(request.id, request.model) for request in published.running] + [
        (request.id, request.model) for request in published.waiting
    ]
    return [request_id for request_id, name in requests if name == model]


@contextmanager
def open_request(gateway, model, path="/v1/chat/completions", **fields):
    """The connection of a client that waits for its response."""
    body = json.dumps({"model": model, "messages": [], "input": "", "max_tokens": 100_000, **fields}).encode()
    with gateway.connect() as connection:
        connection.sendall(gateway.head(f"POST {path}", CLOSE, f"Content-Length: {len(body)}") + body)
        yield connection


def test_the_file_survives_a_round_trip(tmp_path):
    wanted = (Cancel("a", 1.5), Cancel("b", 2.5))
    cancellations.save(tmp_path, wanted)
    assert cancellations.load(tmp_path) == wanted


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_a_file_that_cannot_be_read_cancels_nothing(tmp_path, content):
    if content is not None:
        cancellations.path(tmp_path).write_bytes(content)
    assert cancellations.load(tmp_path) == ()


def test_before_the_first_byte_the_client_gets_an_error(gateway, sim):
    simulated = sim.add(ttft=60)
    model = gateway.add(simulated)
    with open_request(gateway, model) as connection:
        (request,) = until(lambda: open_request_ids(gateway, model))
        cancel(gateway, request)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 499 ")
    assert json.loads(body)["error"] == {
        "message": "An administrator cancelled this request.",
        "type": "invalid_request_error", "param": None, "code": "request_cancelled",
    }  # fmt: skip
    record = gateway.record()
    assert (record.outcome, record.status, record.error) == ("cancelled", 499, "an operator cancelled it")
    assert [attempt.outcome for attempt in record.attempts] == ["cancelled"]
    assert gateway.in_flight(model) == 0
    until(lambda: simulated.seen.cancelled == 1)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/chat/completions", b"data: "),
        ("/v1/messages", b"event: error\ndata: "),
        ("/v1/responses", b"event: response.failed\ndata: "),
    ],
)
def test_a_stream_ends_with_an_error_in_its_dialect(gateway, sim, path, event):
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    model = gateway.add(simulated)
    with open_request(gateway, model, path, stream=True) as connection:
        read_until(connection, b"\n\n\r\n")
        (request,) = until(lambda: open_request_ids(gateway, model))
        cancel(gateway, request)
        received = read_to_end(connection)
    last = received.removesuffix(b"\r\n0\r\n\r\n").split(b"\r\n")[-1]
    assert last.startswith(event)
    assert b"An administrator cancelled this request." in last
    record = gateway.record()
    assert (record.outcome, record.status, record.streamed) == ("cancelled", 200, True)
    assert record.output_tokens > 0
    until(lambda: simulated.seen.cancelled == 1)
    assert gateway.in_flight(model) == 0


def test_a_waiting_request_frees_its_place(gateway, sim):
    simulated = sim.add(ttft=60)
    model = gateway.add(simulated, max_concurrency=1)
    with open_request(gateway, model), open_request(gateway, model) as second:
        running, waiting = until(lambda: len(ids := open_request_ids(gateway, model)) == 2 and ids)
        cancel(gateway, waiting)
        assert read_to_end(second).startswith(b"HTTP/1.1 499 ")
        record = gateway.record()
        assert (record.outcome, record.attempts, record.endpoint_id) == ("cancelled", (), None)
        assert record.queue_us > 0
        assert gateway.page.waiting == 0
        until(lambda: open_request_ids(gateway, model) == [running])
        cancel(gateway, running)
        until(lambda: gateway.in_flight(model) == 0)
    gateway.record_soon()


def test_audio_in_transfer_is_broken_off(gateway):
    def script(talk):
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        talk.client_disconnected()

    with upstream(script) as server:
        model = gateway.add(server)
        with open_request(gateway, model, "/v1/audio/speech") as connection:
            read_until(connection, b"abc\r\n")
            (request,) = until(lambda: open_request_ids(gateway, model))
            cancel(gateway, request)
            assert read_to_end(connection) == b""  # without the last chunk of a complete body
    assert gateway.record().outcome == "cancelled"


def test_other_requests_continue_and_unknown_ids_are_ignored(gateway, sim):
    simulated = sim.add(tokens=20, tokens_per_second=40)
    model = gateway.add(simulated)
    with open_request(gateway, model, stream=True) as connection:
        read_until(connection, b"\n\n\r\n")
        cancel(gateway, "another")
        assert b"[DONE]" in read_to_end(connection)
    assert gateway.record().outcome == "ok"


def test_a_connection_is_used_again_after_a_cancelled_request(gateway, sim):
    simulated = sim.add(ttft=60)
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model))
        (request,) = until(lambda: open_request_ids(gateway, model))
        cancel(gateway, request)
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 499 ")
        simulated.set(ttft=0.0)
        connection.sendall(gateway.chat_bytes(model))
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 200 ")
    assert [record.outcome for record in gateway.records()] == ["cancelled", "ok"]
