"""Model details that engines report by their own APIs, and servers that report none."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from endpoints import engines
from endpoints.engines import NO_DETAILS, NO_RESPONSE, ModelDetails, ServerDetails
from endpoints.models import Kind
from endpoints.probe import Probe
from tests.endpoints.conftest import Serve, break_off, run_probe

PROPS = {"total_slots": 4, "model_alias": "a"}


def query(url: str, kind: str, *models: str) -> ServerDetails:
    async def run_query(server_probe: Probe) -> ServerDetails:
        return await engines.query(server_probe, kind, list(models or ("a",)))

    details = run_probe(run_query, url)
    assert isinstance(details, ServerDetails)
    return details


def of(url: str, kind: str) -> ModelDetails:
    return query(url, kind).models.get("a", NO_DETAILS)


@pytest.mark.parametrize("kind", [Kind.OPENAI_COMPATIBLE, Kind.VLLM, "of-the-future"])
def test_other_servers_are_not_queried(serve: Serve, kind: str) -> None:
    server = serve({})
    assert query(server.url, kind) == ServerDetails()
    assert server.requests == []


@pytest.mark.parametrize("kind", [Kind.OLLAMA, Kind.LM_STUDIO, Kind.XLLM])
def test_a_closed_port_is_no_response(nowhere: str, kind: str) -> None:
    assert query(nowhere, kind) == ServerDetails({"a": NO_RESPONSE})


@pytest.mark.parametrize("kind", [Kind.OLLAMA, Kind.LM_STUDIO, Kind.XLLM])
def test_a_missing_api_gives_no_details(serve: Serve, kind: str) -> None:
    assert query(serve({}).url, kind) == ServerDetails({"a": NO_DETAILS})


# Ollama


@pytest.mark.parametrize(
    ("names", "can", "lacks", "features"),
    [
        (["completion", "tools"], ("chat",), (), ("tools",)),
        (["embedding"], ("embeddings",), (), ()),
        (["completion", "vision"], ("chat",), ("tools",), ("vision",)),
        (["completion", "tools", "thinking"], ("chat",), (), ("tools", "thinking")),
        (["image"], ("image_generation",), (), ()),
        ([], (), (), ()),
        (None, (), (), ()),
    ],
)
def test_ollama_reports_capabilities_by_show(
    serve: Serve, names: Any, can: tuple[str, ...], lacks: tuple[str, ...], features: tuple[str, ...]
) -> None:
    details = of(serve({"/api/show": {"capabilities": names}}).url, Kind.OLLAMA)
    assert details == ModelDetails(None, can, lacks=lacks, features=features)


@pytest.mark.parametrize("response", [500, 503, 401, break_off])
def test_a_failed_query_is_no_response(serve: Serve, response: Any) -> None:
    assert of(serve({"/api/show": response}).url, Kind.OLLAMA) is NO_RESPONSE


# LM Studio


@pytest.mark.parametrize(
    ("kind", "can"), [("llm", "chat"), ("vlm", "chat"), ("embedding", "embeddings"), ("embeddings", "embeddings")]
)
@pytest.mark.parametrize("name", [{"key": "a"}, {"id": "a"}, {"key": "b", "loaded_instances": [{"id": "a"}]}])
def test_lm_studio_reports_the_type_in_its_own_list(serve: Serve, name: Any, kind: str, can: str) -> None:
    server = serve({"/api/v1/models": {"models": [{"type": kind, "max_context_length": 8192, **name}]}})
    features = ("vision",) if kind == "vlm" else ()
    assert of(server.url, Kind.LM_STUDIO) == ModelDetails(8192, (can,), features=features)
    assert server.paths() == ["/api/v1/models"]


@pytest.mark.parametrize(
    ("able", "features"),
    [
        ({"vision": True, "trained_for_tool_use": True}, ("tools", "vision")),
        ({"vision": False, "reasoning": {"default": "low"}}, ("thinking",)),
        ({"vision": False, "trained_for_tool_use": False}, ()),
        (["tool_use"], ("tools",)),
        ("tool_use", ()),
    ],
)
def test_lm_studio_reports_features(serve: Serve, able: Any, features: tuple[str, ...]) -> None:
    """A model that was not trained for tools may have them all the same."""
    server = serve({"/api/v1/models": {"models": [{"key": "a", "type": "llm", "capabilities": able}]}})
    details = of(server.url, Kind.LM_STUDIO)
    assert (details.features, details.lacks) == (features, ())


def test_older_lm_studios_have_the_list_at_another_path(serve: Serve) -> None:
    body = {"data": [{"id": "a", "type": "embeddings", "max_context_length": 2048}]}
    assert of(serve({"/api/v0/models": body}).url, Kind.LM_STUDIO) == ModelDetails(2048, ("embeddings",))


def test_a_length_missing_in_the_list_is_queried(serve: Serve) -> None:
    responses = {"/api/v1/models": {"models": [{"key": "a", "type": "llm"}]}, "/api/v1/models/a": {"context_length": 9}}
    assert of(serve(responses).url, Kind.LM_STUDIO) == ModelDetails(9, ("chat",))


def loaded(*lengths: Any, **item: Any) -> dict[str, Any]:
    """An item of LM Studio's list with loaded instances, of these contexts."""
    instances = [
        {"id": f"a:{index}", "config": {"context_length": length}} for index, length in enumerate(lengths, start=1)
    ]
    return {"type": "llm", "key": "a", "max_context_length": 32768, "loaded_instances": instances} | item


@pytest.mark.parametrize(
    ("item", "length"),
    [
        (loaded(8192), 8192),
        (loaded(8192, 4096), 4096),
        (loaded(), 32768),
        (loaded(0, "8192"), 32768),
        (loaded(4096, 8192, key="b", id="a:2"), 8192),
        (loaded(loaded_context_length=2048), 2048),
    ],
)
def test_a_loaded_model_of_lm_studio_has_the_context_that_it_was_loaded_with(
    serve: Serve, item: Any, length: int
) -> None:
    models = query(serve({"/api/v1/models": {"models": [item]}}).url, Kind.LM_STUDIO, item.get("id", "a")).models
    assert [details.max_tokens for details in models.values()] == [length]


@pytest.mark.parametrize(
    "body", [[], {}, {"models": {}}, {"models": [7, {"key": 7}, {"loaded_instances": [7], "type": ["llm"]}]}]
)
def test_a_malformed_list_of_lm_studio_gives_no_details(serve: Serve, body: Any) -> None:
    assert of(serve({"/api/v1/models": body}).url, Kind.LM_STUDIO) == NO_DETAILS


# xLLM


def test_xllm_reports_details_of_each_model(serve: Serve) -> None:
    responses = {"/api/models/a/info": {"context_length": 4096, "capabilities": ["chat"]}}
    assert of(serve(responses).url, Kind.XLLM) == ModelDetails(4096, ("chat",))


# llama.cpp


def llamacpp(props: Any = None, **started_for: int) -> dict[str, Any]:
    """Responses of llama.cpp to empty requests: 400 for the supported task, else 501."""
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
def test_the_task_of_llamacpp_is_probed(serve: Serve, started_for: dict[str, int], can: tuple[str, ...]) -> None:
    details = query(serve(llamacpp(**started_for)).url, Kind.LLAMACPP, "a", "b")
    assert details == ServerDetails({"a": ModelDetails(None, can), "b": ModelDetails(None, can)}, 4)


@pytest.mark.parametrize(
    ("started_for", "can"),
    [({"chat": 400, "embeddings": 400}, ("embeddings",)), ({"chat": 400}, ("chat",))],
)
def test_an_embedding_model_of_llamacpp_does_not_chat(
    serve: Serve, started_for: dict[str, int], can: tuple[str, ...]
) -> None:
    details = query(serve(llamacpp(**started_for)).url, Kind.LLAMACPP, "bge-m3")
    assert details.models["bge-m3"].capabilities == can


def test_the_probe_of_llamacpp_has_an_empty_body(serve: Serve) -> None:
    bodies: list[Any] = []

    async def refuse(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({}, status=400)

    query(serve(llamacpp() | {"/v1/chat/completions": refuse}).url, Kind.LLAMACPP)
    assert bodies == [{}]


@pytest.mark.parametrize("response", [500, 503, 401, break_off])
def test_a_failed_probe_of_llamacpp_is_no_response(serve: Serve, response: Any) -> None:
    details = query(serve(llamacpp(chat=response)).url, Kind.LLAMACPP)
    assert details == ServerDetails({"a": NO_RESPONSE}, 4)


@pytest.mark.parametrize(("response", "slots"), [(404, 0), (503, None), (401, None), (break_off, None), ([], 0)])
def test_missing_slots_differ_from_no_response(serve: Serve, response: Any, slots: int | None) -> None:
    assert query(serve(llamacpp(response)).url, Kind.LLAMACPP).slots == slots


@pytest.mark.parametrize("value", [None, "4", 0, -1, True, 4.5, 10_001])
def test_malformed_slots_are_not_learned(serve: Serve, value: Any) -> None:
    assert query(serve(llamacpp({"total_slots": value})).url, Kind.LLAMACPP).slots == 0


@pytest.mark.parametrize(
    ("modalities", "features"), [({"vision": True, "audio": False}, ("vision",)), ({"vision": False}, ()), (None, ())]
)
def test_llamacpp_reports_whether_its_model_reads_images(
    serve: Serve, modalities: Any, features: tuple[str, ...]
) -> None:
    server = serve(llamacpp({"total_slots": 1, "modalities": modalities}, chat=400))
    assert of(server.url, Kind.LLAMACPP).features == features


def test_a_llamacpp_router_is_not_made_to_load_a_model(serve: Serve) -> None:
    server = serve(llamacpp({"role": "router"}, chat=400))
    assert query(server.url, Kind.LLAMACPP) == ServerDetails({}, 0)
    assert server.paths() == ["/props"]


@pytest.mark.parametrize(
    ("settings", "length"), [({"n_ctx": 4096}, 4096), ({"n_ctx": 0}, None), ({}, None), ([], None)]
)
def test_llamacpp_reports_the_context_of_a_slot(serve: Serve, settings: Any, length: int | None) -> None:
    server = serve(llamacpp({"total_slots": 1, "default_generation_settings": settings}, chat=400))
    assert of(server.url, Kind.LLAMACPP).max_tokens == length


def test_a_captured_response_is_read(serve: Serve) -> None:
    path = Path(__file__).parents[1] / "fixtures" / "captures" / "llama.cpp" / "own" / "props.json"
    captured = json.loads(json.loads(path.read_text())["body"])
    details = query(serve(llamacpp(captured, chat=400)).url, Kind.LLAMACPP, "a")
    assert (details.slots, details.models["a"].max_tokens) == (4, 1024)
