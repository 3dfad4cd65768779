"""Requests and published models that tests of inference share."""

import contextlib
import json
import threading
from typing import Any

import msgspec

from gateway.registry import schema
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, always, http_response, upstream
from tests.http import Response
from tests.router import until

PATHS = {"chat_completions": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses"}
CHAT = "/v1/chat/completions"


def events(given: Response) -> list[bytes]:
    return [event for event in given.body.split(b"\n\n") if event]


def event_data(given: Response) -> list[Any]:
    """Return the JSON of a stream's events without comments and [DONE]."""
    contents = [event.rpartition(b"data: ")[2] for event in events(given) if not event.startswith(b":")]
    return [json.loads(data) for data in contents if data != b"[DONE]"]


def send_request(gateway: GatewayProcess, kind: str, model: str, **fields) -> Response:
    body = {"model": model, "messages": [], "prompt": "", "input": "", **fields}
    return gateway.post(PATHS[kind], body)


def outcomes(record):
    return [(attempt.outcome, attempt.status) for attempt in record.attempts]


def error_of(given: Response) -> tuple[int, str]:
    error = given.json()["error"]
    assert "127.0.0.1" not in error["message"]
    return given.status, error["code"]


def refuses(status: int):
    return always(http_response(b'{"error":{"message":"scripted %d"}}' % status, status))


def closes(talk: Talk) -> None:
    talk.request()


class HeldServer:
    """An inference server that responds when a test lets it, and keeps user and service tier of each request."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.tiers: list[str | None] = []
        self._free = threading.Semaphore(0)

    def __call__(self, talk: Talk) -> None:
        while request := talk.request():
            body = msgspec.json.decode(request.partition(b"\r\n\r\n")[2])
            self.users.append(body["user"])
            self.tiers.append(body.get("service_tier"))
            self._free.acquire(timeout=60)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    def respond(self, times: int = 1) -> None:
        self._free.release(times)


@contextlib.contextmanager
def held_server(gateway, slots=None):
    """Publish a model at a HeldServer with these slots."""
    server = HeldServer()
    with upstream(server) as address:
        yield server, gateway.add(address, max_concurrency=slots)
        server.respond(100)


def change(gateway, model, **facts):
    """Publish all endpoints of a model with other facts."""
    for endpoint in gateway.endpoints_of(model):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, **facts)
    gateway.publish()


def add_equals(gateway, *upstreams, **facts):
    """Publish a model at these endpoints, which all have the same rank."""
    model = gateway.add(*upstreams, **facts)
    change(gateway, model, status=schema.ONLINE)
    return model


def slot_of(gateway, model):
    (endpoint,) = gateway.endpoints_of(model)
    return endpoint.slot


@contextlib.contextmanager
def busy(gateway, simulated):
    """Publish a model whose only endpoint has one slot, and occupy it by a request that hangs or is slow."""
    model = gateway.add(simulated, max_concurrency=1)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        yield model


@contextlib.contextmanager
def waiting(gateway, model, *headers, place=1):
    """Return the connection of a client that waits in the queue."""
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, *headers))
        until(lambda: gateway.page.waiting == place)
        yield connection
