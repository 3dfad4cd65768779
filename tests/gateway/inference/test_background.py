"""Responses in the background count once: for the first request that receives one whole."""

import json

import pytest

from gateway.registry.limits import DAY, EVERYONE_LEVEL, TOKENS, Budget
from tests.gateway.inference.helpers import error_of
from tests.gateway.inference.test_budgets import Published, used
from tests.gateway.scripted import Talk, each_time, http_response, stream, upstream

ID = "resp_in_background"
USAGE = {"input_tokens": 400, "output_tokens": 150_000, "total_tokens": 150_400}


def response(status, usage=None, size=0):
    padding = {"instructions": "x" * size}
    body = {"id": ID, "object": "response", "model": "own-name", "status": status, "output": [], "usage": usage}
    return json.dumps(body | padding).encode()


def events(*, first=0, usage=USAGE):
    """The events of the response from a number on."""
    made = [{"type": "response.created", "response": json.loads(response("in_progress"))}]
    made += [{"type": "response.output_text.delta", "delta": "a"}] * 5
    made.append({"type": "response.completed", "response": json.loads(response("completed", usage))})
    return [b"data: %b\n\n" % json.dumps(event).encode() for event in made[first:]]


class Server:
    """A server that works on one response in the background."""

    def __init__(self):
        self.found = response("queued")

    def __call__(self, talk: Talk) -> None:
        while request := talk.request():
            method, path, _ = request.split(b" ", 2)
            if method == b"POST" and path == b"/v1/responses":
                talk.send(http_response(response("queued")))
            elif b"stream=true" in path:
                talk.send(stream(*events(first=3)))
            elif method == b"DELETE":
                talk.send(http_response(json.dumps({"id": ID, "object": "response", "deleted": True}).encode()))
            else:
                talk.send(http_response(self.found))


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def model(gateway, server):
    with upstream(server) as endpoint:
        yield gateway.add(endpoint, known_as="own-name")


def create(gateway, model, **fields):
    return gateway.post("/v1/responses", {"model": model, "input": "a", "background": True, **fields})


def counts(gateway):
    return [
        (record.kind, record.model, record.input_tokens, record.output_tokens, record.estimated)
        for record in gateway.records()
    ]


CREATED = ("responses", None, None, False)


@pytest.mark.parametrize("size", [0, 3 << 20])
def test_it_counts_where_it_is_first_read_complete(gateway, server, model, size):
    assert create(gateway, model).json()["status"] == "queued"
    server.found = response("in_progress", {"input_tokens": 400, "output_tokens": 9, "total_tokens": 409})
    assert gateway.get(f"/v1/responses/{ID}").status == 200
    server.found = response("completed", USAGE, size)
    for _ in range(3):
        assert gateway.get(f"/v1/responses/{ID}").json()["usage"] == USAGE
    assert counts(gateway) == [
        ("responses", model, None, None, False),
        ("stored_responses", "own-name", None, None, False),
        ("stored_responses", model, 400, 150_000, False),
        ("stored_responses", "own-name", None, None, False),
        ("stored_responses", "own-name", None, None, False),
    ]


def test_a_restart_neither_loses_nor_repeats_it(gateway, server, model):
    create(gateway, model)
    gateway.kill()
    gateway.start()
    server.found = response("completed", USAGE)
    gateway.get(f"/v1/responses/{ID}")
    gateway.kill()
    gateway.start()
    gateway.get(f"/v1/responses/{ID}")
    assert used(*gateway.records()) == 150_400


def test_its_record_has_the_model_that_is_priced(gateway, server, model):
    create(gateway, model)
    server.found = response("completed", USAGE)
    gateway.get(f"/v1/responses/{ID}")
    creation, read = (record.attempts[-1] for record in gateway.records())
    assert (read.endpoint_id, read.served, read.canonical) == (creation.endpoint_id, "own-name", creation.canonical)


def test_a_cancelled_one_counts_what_it_reports(gateway, server, model):
    create(gateway, model)
    server.found = response("cancelled", USAGE)
    for _ in range(2):
        assert gateway.post(f"/v1/responses/{ID}/cancel", {}).status == 200
    assert used(*gateway.records()) == 150_400


def test_one_that_is_read_as_a_stream_counts_once(gateway, server, model):
    create(gateway, model)
    for _ in range(2):
        given = gateway.get(f"/v1/responses/{ID}?stream=true&starting_after=2")
        assert b"response.completed" in given.body
    server.found = response("completed", USAGE)
    gateway.get(f"/v1/responses/{ID}")
    records = gateway.records()
    assert [record.outcome for record in records] == ["ok"] * 4
    assert [used(record) for record in records] == [0, 150_400, 0, 0]


def test_one_that_is_deleted_unread_counts_nothing(gateway, server, model):
    create(gateway, model)
    assert gateway.request("DELETE", f"/v1/responses/{ID}").status == 200
    assert used(*gateway.records()) == 0


def test_a_response_that_is_created_whole_counts_then(gateway):
    whole = http_response(response("completed", USAGE))
    with upstream(each_time(whole, whole)) as server:
        create(gateway, gateway.add(server))
        gateway.get(f"/v1/responses/{ID}")
    assert [used(record) for record in gateway.records()] == [150_400, 0]


def test_a_stream_that_its_client_follows_to_the_end_counts_there(gateway):
    def script(talk):
        while request := talk.request():
            is_stream = request.startswith(b"POST")
            talk.send(stream(*events()) if is_stream else http_response(response("completed", USAGE)))

    with upstream(script) as server:
        model = gateway.add(server)
        create(gateway, model, stream=True)
        gateway.get(f"/v1/responses/{ID}")
    assert [used(record) for record in gateway.records()] == [150_400, 0]


def test_a_stream_that_its_client_leaves_counts_when_it_is_read(gateway):
    def script(talk):
        while request := talk.request():
            if request.startswith(b"POST"):
                talk.send(stream(*events()[:4], end=False))
                talk.client_disconnected()
                return
            talk.send(http_response(response("completed", USAGE)))

    with upstream(script) as server:
        model = gateway.add(server)
        body = json.dumps({"model": model, "input": "a", "background": True, "stream": True}).encode()
        with gateway.connect() as connection:
            connection.sendall(gateway.head("POST /v1/responses", f"Content-Length: {len(body)}") + body)
            received = b""
            while b"delta" not in received:
                received += connection.recv(1 << 16)
        left = gateway.record_soon()
        gateway.get(f"/v1/responses/{ID}")
    assert (left.outcome, left.input_tokens, left.output_tokens, left.estimated) == ("cancelled", None, None, False)
    assert used(*gateway.records()) == 150_400


@pytest.mark.parametrize(
    "limits",
    [{"budgets": (Budget("b", TOKENS, DAY, 10**9),)}, {"tokens": 10**6}, {"concurrency": 5}],
    ids=["budget", "tokens", "concurrency"],
)
@pytest.mark.parametrize("value", [True, "true", 1])
@pytest.mark.parametrize("size", [0, 200_000])
def test_keys_whose_use_must_be_known_at_the_end_have_none(gateway, model, limits, value, size):
    Published(gateway).publish(0)
    gateway.limit(**limits)
    refused = create(gateway, model, background=value, input="x" * size)
    assert error_of(refused) == (400, "invalid_request" if value is True else "ambiguous_request")
    assert refused.json()["error"]["param"] == "background"
    assert create(gateway, model, background=False).status == 200


def test_limits_of_everyone_count_too(gateway, model):
    gateway.limit(EVERYONE_LEVEL, "", concurrency=100)
    assert create(gateway, model).status == 400
    gateway.limit(EVERYONE_LEVEL, "", requests=100)
    assert create(gateway, model).status == 200
