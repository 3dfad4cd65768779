"""What servers tell by APIs of their own, and what becomes of one that does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from endpoints import engines
from endpoints.engines import NOTHING, SILENCE, Server, Told
from endpoints.models import Kind
from endpoints.probe import Probe
from tests.endpoints.conftest import Serve, asking, break_off

PROPS = {"total_slots": 4, "model_alias": "a"}


def told(url: str, kind: str, *models: str) -> Server:
    async def question(ask: Probe) -> Server:
        return await engines.ask(ask, kind, list(models or ("a",)))

    found = asking(question, url)
    assert isinstance(found, Server)
    return found


def of(url: str, kind: str) -> Told:
    return told(url, kind).models.get("a", NOTHING)


@pytest.mark.parametrize("kind", [Kind.OPENAI_COMPATIBLE, Kind.VLLM, "of-the-future"])
def test_other_servers_are_not_asked(serve: Serve, kind: str) -> None:
    server = serve({})
    assert told(server.url, kind) == Server()
    assert server.asked == []


@pytest.mark.parametrize("kind", [Kind.OLLAMA, Kind.LM_STUDIO, Kind.XLLM])
def test_nobody_there_is_silence(nowhere: str, kind: str) -> None:
    assert told(nowhere, kind) == Server({"a": SILENCE})


@pytest.mark.parametrize("kind", [Kind.OLLAMA, Kind.LM_STUDIO, Kind.XLLM])
def test_an_api_that_is_not_there_tells_nothing(serve: Serve, kind: str) -> None:
    assert told(serve({}).url, kind) == Server({"a": NOTHING})


# Ollama


@pytest.mark.parametrize(
    ("words", "can"),
    [
        (["completion", "tools"], ("chat",)),
        (["embedding"], ("embeddings",)),
        (["completion", "vision"], ("chat",)),
        (["image"], ("image_generation",)),
        ([], ()),
        (None, ()),
    ],
)
def test_ollama_tells_capabilities_by_show(serve: Serve, words: Any, can: tuple[str, ...]) -> None:
    assert of(serve({"/api/show": {"capabilities": words}}).url, Kind.OLLAMA) == Told(None, can)


@pytest.mark.parametrize("answer", [500, 503, 401, break_off])
def test_a_failure_is_silence(serve: Serve, answer: Any) -> None:
    assert of(serve({"/api/show": answer}).url, Kind.OLLAMA) is SILENCE


# LM Studio


@pytest.mark.parametrize(
    ("kind", "can"), [("llm", "chat"), ("vlm", "chat"), ("embedding", "embeddings"), ("embeddings", "embeddings")]
)
@pytest.mark.parametrize("name", [{"key": "a"}, {"id": "a"}, {"key": "b", "loaded_instances": [{"id": "a"}]}])
def test_lm_studio_tells_the_type_in_a_list_of_its_own(serve: Serve, name: Any, kind: str, can: str) -> None:
    server = serve({"/api/v1/models": {"models": [{"type": kind, "max_context_length": 8192, **name}]}})
    assert of(server.url, Kind.LM_STUDIO) == Told(8192, (can,))
    assert server.paths() == ["/api/v1/models"]


def test_older_lm_studios_have_the_list_elsewhere(serve: Serve) -> None:
    body = {"data": [{"id": "a", "type": "embeddings", "max_context_length": 2048}]}
    assert of(serve({"/api/v0/models": body}).url, Kind.LM_STUDIO) == Told(2048, ("embeddings",))


def test_a_length_that_the_list_lacks_is_asked_for(serve: Serve) -> None:
    answers = {"/api/v1/models": {"models": [{"key": "a", "type": "llm"}]}, "/api/v1/models/a": {"context_length": 9}}
    assert of(serve(answers).url, Kind.LM_STUDIO) == Told(9, ("chat",))


@pytest.mark.parametrize(
    "body", [[], {}, {"models": {}}, {"models": [7, {"key": 7}, {"loaded_instances": [7], "type": ["llm"]}]}]
)
def test_an_odd_list_of_lm_studio_tells_nothing(serve: Serve, body: Any) -> None:
    assert of(serve({"/api/v1/models": body}).url, Kind.LM_STUDIO) == NOTHING


# xLLM


def test_xllm_tells_of_each_model(serve: Serve) -> None:
    answers = {"/api/models/a/info": {"context_length": 4096, "capabilities": ["chat"]}}
    assert of(serve(answers).url, Kind.XLLM) == Told(4096, ("chat",))


# llama.cpp


def llamacpp(props: Any = None, **started_for: int) -> dict[str, Any]:
    """What such a server answers to empty questions: 400 for what it was started for, else 501."""
    paths = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings", "/v1/rerank": "rerank"}
    return {"/props": PROPS if props is None else props} | {
        path: started_for.get(name, 501) for path, name in paths.items()
    }


@pytest.mark.parametrize(
    ("started_for", "can"),
    [
        ({"chat": 400}, ("chat",)),
        ({"embeddings": 400}, ("embeddings",)),
        ({"chat": 400, "embeddings": 400, "rerank": 400}, ("rerank",)),
        ({"chat": 400, "embeddings": 400}, ("chat", "embeddings")),
        ({"chat": 400, "rerank": 404}, ("chat",)),
        ({}, ()),
    ],
)
def test_llamacpp_is_asked_what_it_was_started_for(
    serve: Serve, started_for: dict[str, int], can: tuple[str, ...]
) -> None:
    found = told(serve(llamacpp(**started_for)).url, Kind.LLAMACPP, "a", "b")
    assert found == Server({"a": Told(None, can), "b": Told(None, can)}, 4)


@pytest.mark.parametrize(
    ("started_for", "can"),
    [({"chat": 400, "embeddings": 400}, ("embeddings",)), ({"chat": 400}, ("chat",))],
)
def test_an_embedding_model_does_not_chat_where_it_embeds(
    serve: Serve, started_for: dict[str, int], can: tuple[str, ...]
) -> None:
    found = told(serve(llamacpp(**started_for)).url, Kind.LLAMACPP, "bge-m3")
    assert found.models["bge-m3"].capabilities == can


def test_the_question_is_an_empty_one(serve: Serve) -> None:
    bodies: list[Any] = []

    async def refuse(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({}, status=400)

    told(serve(llamacpp() | {"/v1/chat/completions": refuse}).url, Kind.LLAMACPP)
    assert bodies == [{}]


@pytest.mark.parametrize("answer", [500, 503, 401, break_off])
def test_a_llamacpp_that_does_not_say_is_silent(serve: Serve, answer: Any) -> None:
    found = told(serve(llamacpp(chat=answer)).url, Kind.LLAMACPP)
    assert found == Server({"a": SILENCE}, 4)


@pytest.mark.parametrize(("answer", "slots"), [(404, 0), (503, None), (401, None), (break_off, None), ([], 0)])
def test_slots_that_are_not_told_differ_from_no_answer(serve: Serve, answer: Any, slots: int | None) -> None:
    assert told(serve(llamacpp(answer)).url, Kind.LLAMACPP).slots == slots


@pytest.mark.parametrize("value", [None, "4", 0, -1, True, 4.5, 10_001])
def test_what_is_no_number_of_slots_is_not_learned(serve: Serve, value: Any) -> None:
    assert told(serve(llamacpp({"total_slots": value})).url, Kind.LLAMACPP).slots == 0


def test_a_router_of_llamacpps_is_not_asked_to_load_a_model(serve: Serve) -> None:
    server = serve(llamacpp({"role": "router"}, chat=400))
    assert told(server.url, Kind.LLAMACPP) == Server({}, 0)
    assert server.paths() == ["/props"]


def test_a_captured_answer_is_read(serve: Serve) -> None:
    path = Path(__file__).parents[1] / "fixtures" / "captures" / "llama.cpp" / "own" / "props.json"
    captured = json.loads(json.loads(path.read_text())["body"])
    assert told(serve(llamacpp(captured, chat=400)).url, Kind.LLAMACPP).slots == 4
