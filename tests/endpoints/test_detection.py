import json
from typing import Any

import pytest
from aiohttp import web

from benchmarks.simulator import Simulator
from endpoints.detection import Unsupported, detect
from endpoints.models import Kind
from endpoints.probe import Unreachable
from tests.endpoints.conftest import Serve, break_off, hang, listing, run_probe
from tests.gateway import captures

LM_STUDIO_ITEM = {"id": "qwen", "publisher": "lmstudio-community", "arch": "qwen2", "state": "loaded"}
OLLAMA = {"models": [{"name": "llama3.3:70b"}]}
XLLM = {"xllm_version": "1.0.0"}


def kind(url: str, key: str | None = None, **options: Any) -> Kind:
    detected = run_probe(detect, url, key, **options)
    assert isinstance(detected, Kind)
    return detected


@pytest.mark.parametrize("expected", Kind)
def test_every_type_is_recognised(sim: Simulator, expected: Kind) -> None:
    assert kind(sim.add(kind=expected.value).url) == expected


# Order of precedence: each of these servers would also match all types that follow.

EVERYTHING = {
    "/v1/models": listing("a", owned_by="vllm"),
    "/api/system": XLLM,
    "/api/v1/models": {"data": [LM_STUDIO_ITEM]},
    "/api/tags": OLLAMA,
    "/v1/version": {"server": "llama.cpp"},
}


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([], Kind.XLLM),
        (["/api/system"], Kind.LM_STUDIO),
        (["/api/system", "/api/v1/models"], Kind.OLLAMA),
        (["/api/system", "/api/v1/models", "/api/tags"], Kind.VLLM),
    ],
)
def test_the_first_match_wins(serve: Serve, missing: list[str], expected: Kind) -> None:
    responses = {path: body for path, body in EVERYTHING.items() if path not in missing}
    assert kind(serve(responses, "llama.cpp").url) == expected


def test_llamacpp_takes_precedence_over_an_openai_list(serve: Serve) -> None:
    responses = {"/v1/models": listing("a"), "/v1/version": {"server": "llama.cpp b4242"}}
    assert kind(serve(responses).url) == Kind.LLAMACPP


# xLLM


@pytest.mark.parametrize("body", [{"version": "1"}, ["xllm_version"], 500, "xllm_version"])
def test_a_server_without_an_xllm_version_is_not_xllm(serve: Serve, body: Any) -> None:
    assert kind(serve({"/v1/models": listing("a"), "/api/system": body}).url) == Kind.OPENAI_COMPATIBLE


# LM Studio


@pytest.mark.parametrize("key", ["data", "models"])
@pytest.mark.parametrize("arch", ["arch", "architecture"])
@pytest.mark.parametrize("mark", ["state", "loaded_instances", "key", "display_name", "format", "compatibility_type"])
def test_lm_studio_is_detected_by_its_own_list(serve: Serve, key: str, arch: str, mark: str) -> None:
    item = {"publisher": "qwen", arch: "qwen2", mark: "x"}
    responses = {"/v1/models": listing("a"), "/api/v1/models": {key: [{"id": "other"}, item]}}
    assert kind(serve(responses).url) == Kind.LM_STUDIO


@pytest.mark.parametrize(
    "item",
    [
        {"arch": "qwen2", "state": "loaded"},
        {"publisher": "qwen", "state": "loaded"},
        {"publisher": "qwen", "arch": "qwen2"},
        {"id": "a"},
        "publisher arch state",
    ],
)
def test_an_incomplete_item_is_not_lm_studio(serve: Serve, item: Any) -> None:
    responses = {"/v1/models": listing("a"), "/api/v1/models": {"data": [item]}}
    assert kind(serve(responses).url) == Kind.OPENAI_COMPATIBLE


@pytest.mark.parametrize("owner", ["lmstudio", "LMStudio", "lm-studio", "LM Studio", "team_lm_studio", "the lm studio"])
def test_lm_studio_is_detected_by_the_owner_of_its_models(serve: Serve, owner: str) -> None:
    assert kind(serve({"/v1/models": listing("a", owned_by=owner)}).url) == Kind.LM_STUDIO


@pytest.mark.parametrize("name", ["LM Studio/0.3.5", "lmstudio"])
def test_lm_studio_is_detected_by_its_server_header(serve: Serve, name: str) -> None:
    assert kind(serve({"/v1/models": listing("a")}, name).url) == Kind.LM_STUDIO


@pytest.mark.parametrize(
    "owner", ["studio lm", "lm and studio", "lmstudios", "helm-studio", "organization_owner", None]
)
def test_other_owners_are_not_lm_studio(serve: Serve, owner: str | None) -> None:
    assert kind(serve({"/v1/models": listing("a", owned_by=owner)}).url) == Kind.OPENAI_COMPATIBLE


def test_lm_studio_with_an_error_on_the_path_of_ollama_is_lm_studio(serve: Serve) -> None:
    responses = {
        "/v1/models": listing("a", owned_by="organization_owner"),
        "/api/v1/models": {"models": [{"publisher": "qwen", "architecture": "qwen2", "key": "qwen"}]},
        "/api/tags": {"error": "Unexpected endpoint or method. (GET /api/tags)"},
    }
    assert kind(serve(responses).url) == Kind.LM_STUDIO


# Ollama


@pytest.mark.parametrize(
    "body",
    [{"error": "Unexpected endpoint"}, {"models": [], "error": "x"}, {"models": None}, {"models": {}}, [], 500],
)
def test_an_error_in_the_body_is_not_ollama(serve: Serve, body: Any) -> None:
    assert kind(serve({"/v1/models": listing("a"), "/api/tags": body}).url) == Kind.OPENAI_COMPATIBLE


def test_an_ollama_without_models_is_ollama(serve: Serve) -> None:
    assert kind(serve({"/v1/models": {"object": "list", "data": None}, "/api/tags": {"models": []}}).url) == Kind.OLLAMA


def test_an_ollama_without_an_openai_list_is_ollama(serve: Serve) -> None:
    assert kind(serve({"/api/tags": OLLAMA}).url) == Kind.OLLAMA


# vLLM, llama.cpp


@pytest.mark.parametrize(("name", "owner"), [("vLLM/0.8", "org"), ("uvicorn", "vllm"), ("uvicorn", "my-vLLM")])
def test_vllm_is_detected_by_header_or_owner(serve: Serve, name: str, owner: str) -> None:
    assert kind(serve({"/v1/models": listing("a", owned_by=owner)}, name).url) == Kind.VLLM


def test_a_vllm_behind_a_wrong_key_is_not_recognised(serve: Serve) -> None:
    with pytest.raises(Unsupported):
        kind(serve({"/v1/models": 401}, "vllm").url)


def test_llamacpp_is_detected_by_its_header(serve: Serve) -> None:
    assert kind(serve({"/v1/models": listing("a")}, "llama.cpp").url) == Kind.LLAMACPP


@pytest.mark.parametrize("body", [{"server": None}, {"server": "other"}, {}, ["llama.cpp"], 404])
def test_another_version_response_is_not_llamacpp(serve: Serve, body: Any) -> None:
    assert kind(serve({"/v1/models": listing("a"), "/v1/version": body}).url) == Kind.OPENAI_COMPATIBLE


# OpenAI-compatible, or not supported


@pytest.mark.parametrize("body", [{"data": []}, {"object": "list"}, {"data": "odd"}])
def test_any_openai_list_is_openai_compatible(serve: Serve, body: Any) -> None:
    assert kind(serve({"/v1/models": body}).url) == Kind.OPENAI_COMPATIBLE


@pytest.mark.parametrize("body", [{"models": []}, [], "models", 404, 500])
def test_anything_else_is_unsupported(serve: Serve, body: Any) -> None:
    with pytest.raises(Unsupported, match="GET /v1/models answers HTTP"):
        kind(serve({"/v1/models": body}).url)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_reported(serve: Serve, status: int) -> None:
    with pytest.raises(Unsupported, match=f"HTTP {status}: its API key is missing or wrong"):
        kind(serve({"/v1/models": status}).url)


def test_the_key_is_sent_with_every_probe(serve: Serve) -> None:
    server = serve({"/v1/models": listing("a")})
    kind(server.url, "sk-upstream")
    assert {authorization for _, _, authorization in server.requests} == {"Bearer sk-upstream"}


def test_with_the_right_key_the_type_is_detected(sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream", kind="vllm").url
    with pytest.raises(Unsupported):
        kind(url)
    assert kind(url, "sk-upstream") == Kind.VLLM


def test_a_closed_port_is_unreachable(nowhere: str) -> None:
    with pytest.raises(Unreachable):
        kind(nowhere)


def test_a_server_that_hangs_is_unreachable_after_one_probe(serve: Serve) -> None:
    server = serve({"/v1/models": hang})
    with pytest.raises(Unreachable):
        kind(server.url, timeout=0.2)
    assert server.paths() == ["/v1/models"]


@pytest.mark.parametrize("silence", [hang, break_off])
def test_a_timeout_on_other_paths_is_ignored(serve: Serve, silence: Any) -> None:
    responses = {"/v1/models": listing("a"), "/api/system": silence}
    assert kind(serve(responses).url, timeout=1.0) == Kind.OPENAI_COMPATIBLE


def test_a_page_is_unsupported(serve: Serve) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>", content_type="text/html")

    paths = ("/v1/models", "/api/system", "/api/v1/models", "/api/tags", "/v1/version")
    with pytest.raises(Unsupported):
        kind(serve(dict.fromkeys(paths, page)).url)


# Lists of real servers


@pytest.mark.parametrize(("server", "expected"), [("llama.cpp", Kind.LLAMACPP), ("vllm", Kind.VLLM)])
def test_real_lists_of_models_are_detected(serve: Serve, server: str, expected: Kind) -> None:
    capture = captures.load(server, "models")
    assert kind(serve({"/v1/models": json.loads(capture.body)}, capture.headers.get("server", "")).url) == expected


def test_a_real_server_that_cannot_list_its_models_is_unsupported(serve: Serve) -> None:
    assert captures.load("transformers", "models").status == 500
    with pytest.raises(Unsupported, match="HTTP 500"):
        kind(serve({"/v1/models": 500}).url)
