"""Simulated batching servers over HTTP, with their clients."""

import asyncio
import json
from collections.abc import Iterator
from math import inf

import pytest

from benchmarks.routing import http_clients, http_servers, over_http
from benchmarks.routing.fleets import BY_NAME, SHAPES
from benchmarks.routing.http_clients import Answer, Clients
from benchmarks.routing.http_servers import BatchingEndpoint
from benchmarks.routing.workloads import KINDS, Session, Turn, sessions
from benchmarks.simulator import Simulator
from tests.http import Response, Served

KEYS = dict.fromkeys(KINDS, "sk_any")


class Client(Served):
    key = ""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture
def server() -> Iterator[BatchingEndpoint]:
    with Simulator() as simulator:
        yield http_servers.add(simulator, SHAPES["rtx4090"], ["m0"], {}, 0.01, 1)


def session(kind: str, *turns: Turn) -> Session:
    return Session(1, kind, "m0", 0.0, "system", 100, "conversation", turns)


def ask(server: BatchingEndpoint, one: Session) -> Clients:
    clients = Clients(server.url, KEYS, 0.01)
    asyncio.run(clients.run([one]))
    assert clients.errors == []
    return clients


def test_a_conversation_is_answered_and_its_prefix_found() -> None:
    with Simulator() as simulator:
        one = http_servers.add(simulator, SHAPES["a100"], ["m0"], {}, 0.01, 1)
        clients = Clients(one.url, KEYS, 0.01)
        asyncio.run(clients.run([session("chat", Turn(300, 40, 0.0), Turn(50, 7, 0.0))], until=inf))
    first, second = clients.answers
    assert clients.errors == []
    assert (first.output, first.prompt, first.cached) == (40, 400, 0)
    assert (second.output, second.prompt, second.cached) == (7, 490, 432)
    assert first.arrived < first.first < first.ended <= second.arrived


def test_an_embedding_is_answered(server) -> None:
    (answer,) = ask(server, session("embeddings", Turn(200, 0, 0.0))).answers
    assert (answer.output, answer.prompt) == (0, 300)


def test_every_kind_of_client_is_answered(server) -> None:
    for kind in KINDS:
        one = next(candidate for candidate in sessions(BY_NAME["F10"], 1.0, 400, 1) if candidate.kind == kind)
        (body, *_) = http_clients.bodies(one)
        path = "/v1/embeddings" if kind == "embeddings" else "/v1/chat/completions"
        job = http_servers.job_of(path, body)
        assert job is not None
        document = one.document if kind == "rag" else 0
        assert (job.output, job.prompt, job.history) == (
            one.turns[0].output, one.system_tokens + document + one.turns[0].new, document,
        )  # fmt: skip


def test_a_stream_ends_with_its_usage(server) -> None:
    (body,) = http_clients.bodies(session("short", Turn(20, 5, 0.0)))
    response = Client(server.port).post("/v1/chat/completions", body)
    events = [event.removeprefix(b"data: ") for event in response.body.split(b"\n\n") if event]
    assert events[-1] == b"[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 5
    assert response.body.count(b"word") == 5


@pytest.mark.parametrize("body", [{"model": "m0", "messages": []}, {"model": "m0", "stream": True}])
def test_what_is_not_simulated_is_an_error(server, body) -> None:
    response: Response = Client(server.port).post("/v1/chat/completions", body)
    assert response.status == 404


@pytest.mark.parametrize(("path", "status"), [("chat/completions", 400), ("embeddings", 400), ("rerank", 501)])
def test_the_probe_of_model_sync_finds_chats_and_embeddings(server, path, status) -> None:
    assert server.behaviour.kind == "llamacpp"
    assert Client(server.port).post(f"/v1/{path}", {}).status == status


def test_it_tells_its_slots_and_models(server) -> None:
    assert Client(server.port).get("/props").json() == {"total_slots": 4}
    assert [model["id"] for model in Client(server.port).get("/v1/models").json()["data"]] == ["m0"]


def test_only_the_middle_of_a_run_is_measured() -> None:
    answers = [Answer("chat", arrived, arrived + 1.0, arrived + 4.0, 10, 100, 50) for arrived in (10.0, 50.0, 101.0)]
    outcome = over_http._outcome(answers, 100.0, 0.1, [])
    assert outcome == over_http.Outcome(0.4, 1.0, 0.5, 1, 0.1, [])
