"""Endpoints whose engines load models: where requests go, how long they wait, and what clients get meanwhile."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.registry.kinds import ENGINES, SPEEDS
from gateway.registry.schema import EngineState, Speeds
from gateway.registry.writer import Changes
from gateway.routing.adaptive import FASTEST, LOADED
from tests.gateway.inference.helpers import add_equals, events, outcomes
from tests.gateway.process import GatewayProcess, read_until
from tests.gateway.scripted import DONE, Talk, upstream
from tests.router import until

FAST = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=256)
SLOW = Speeds(setup=0.01, read=0.001, write=0.1, share=0.005, completions=256)
CHAT = "chat_completions"


@pytest.fixture(scope="module")
def loading_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"ROUTERDASH_KEEPALIVE_SECS": "0.2", "ROUTERDASH_LOAD_TIMEOUT_SECS": "2"}
    process = GatewayProcess(tmp_path_factory.mktemp("loads"), ROUTERDASH_BALANCER="adaptive", **settings)
    process.start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(loading_gateway: GatewayProcess) -> GatewayProcess:
    loading_gateway.records()
    return loading_gateway


def publish(gateway: GatewayProcess, model: str, *endpoints: tuple[Speeds, str]) -> list[str]:
    """Publish speeds and the model in memory of each endpoint of a model, and return the ids of the endpoints."""
    ids = [endpoint.id for endpoint in gateway.endpoints_of(model)]
    changes = Changes()
    for endpoint_id, (speeds, loaded) in zip(ids, endpoints, strict=True):
        changes.put(SPEEDS, {(endpoint_id, model, CHAT): speeds})
        changes.put(ENGINES, {endpoint_id: EngineState(time.time(), (loaded,) if loaded else ())})
    gateway.apply(changes)
    return ids


def chosen(record: Any) -> str:
    return str(record.attempts[-1].endpoint_id)


# Where requests go


def test_a_request_goes_where_its_model_is_in_memory(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    first, second = publish(gateway, model, (FAST, "other"), (SLOW, model))
    assert gateway.chat(model).status == 200
    publish(gateway, model, (FAST, model), (SLOW, model))
    assert gateway.chat(model).status == 200
    records = gateway.records()
    assert [chosen(record) for record in records] == [second, first]
    assert [record.attempts[0].reason for record in records] == [LOADED, FASTEST]


def test_later_requests_wait_for_a_load(gateway, sim):
    slow = sim.add(fault="hang")
    model = add_equals(gateway, slow, sim.add(fault="hang"))
    publish(gateway, model, (FAST, ""), (SLOW, ""))
    with contextlib.ExitStack() as clients:
        for number in range(3):
            clients.enter_context(gateway.connect()).sendall(gateway.chat_bytes(model))
            until(lambda number=number: slow.seen.running == number + 1)
    until(lambda: gateway.in_flight(model) == 0)
    assert [record.attempts[0].work.is_cold for record in gateway.records()] == [True] * 3


def test_after_a_load_requests_are_not_cold(gateway, sim):
    model = add_equals(gateway, sim.add())
    publish(gateway, model, (FAST, ""))
    for stream in (False, True, False):
        assert gateway.chat(model, stream=stream).status == 200
    assert [record.attempts[0].work.is_cold for record in gateway.records()] == [True, False, False]


@pytest.mark.parametrize("stream", [True, False])
def test_the_request_that_causes_a_load_measures_it(gateway, sim, stream):
    slow = sim.add(ttft=0.5)
    model = add_equals(gateway, slow)
    publish(gateway, model, (FAST, ""))
    with contextlib.ExitStack() as clients:
        for number in range(2):
            client = clients.enter_context(gateway.connect())
            client.sendall(gateway.chat_bytes(model, stream=stream))
            slow.wait_for(lambda seen, number=number: seen.started == number + 1)
        until(lambda: slow.seen.finished == 2 and gateway.in_flight(model) == 0)
    records = gateway.records()
    assert [record.attempts[0].work.is_cold for record in records] == [True, True]
    assert sorted(record.attempts[0].work.load_us > 0 for record in records) == [False, True]


def test_a_load_that_fails_measures_nothing(gateway, sim):
    model = add_equals(gateway, sim.add(fault="500"))
    publish(gateway, model, (FAST, ""))
    assert gateway.chat(model).status == 502
    assert gateway.record().attempts[0].work.load_us == 0


# How long they wait


@pytest.mark.parametrize("stream", [True, False])
def test_a_load_may_take_longer_than_a_response(gateway, sim, stream):
    model = add_equals(gateway, sim.add(ttft=1.5), timeout_secs=1)
    publish(gateway, model, (FAST, ""))
    given = gateway.chat(model, stream=stream)
    assert given.status == 200
    assert (b": loading %b\n\n" % model.encode() in given.body) is stream
    assert gateway.record().outcome == "ok"


def test_a_response_without_a_load_may_not(gateway, sim):
    model = add_equals(gateway, sim.add(ttft=1.5), timeout_secs=1)
    publish(gateway, model, (FAST, model))
    given = gateway.chat(model)
    assert (given.status, given.json()["error"]["message"]) == (504, "The endpoint did not respond in time.")
    gateway.records()


@pytest.mark.parametrize("stream", [True, False])
def test_a_load_that_takes_too_long_gives_one_error(gateway, sim, stream):
    model = add_equals(gateway, sim.add(fault="hang"), timeout_secs=1)
    publish(gateway, model, (FAST, ""))
    given = gateway.chat(model, stream=stream)
    body = events(given)[-1].removeprefix(b"data: ") if stream else given.body
    error = json.loads(body)["error"]
    assert error["code"] == "upstream_timeout"
    assert error["message"] == "The endpoint did not load the model within 2 s."
    assert given.body.count(b'"error"') == 1
    record = gateway.record()
    assert (record.outcome, record.error) == ("failed", error["message"])


def test_an_endpoint_that_dies_while_it_loads_is_left(gateway, sim):
    """The comments that its client got are no response yet."""
    dies = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        assert dies.wait(10)

    with upstream(script) as dying, gateway.connect() as connection:
        model = add_equals(gateway, dying, sim.add())
        first, second = publish(gateway, model, (FAST, ""), (SLOW, "other"))
        connection.sendall(gateway.chat_bytes(model, "Connection: close", stream=True))
        read_until(connection, b": loading %b\n\n\r\n" % model.encode())
        dies.set()
        assert DONE in read_until(connection, b"\r\n0\r\n\r\n")
    record = gateway.record()
    assert outcomes(record) == [("failed", 0), ("ok", 200)]
    assert [attempt.endpoint_id for attempt in record.attempts] == [first, second]
