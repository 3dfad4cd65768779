"""What engines report about the present, read from responses as they send them."""

from typing import Any

import pytest
from aiohttp import web

from endpoints.engine_reports import NOTHING, POLLED_KINDS, EngineReport, read_engine, read_metrics
from endpoints.models import Kind
from endpoints.probe import Probe, Unreachable
from tests.endpoints.conftest import Serve, break_off, run_probe


def read(url: str, kind: str) -> EngineReport | None:
    async def run_read(server_probe: Probe) -> EngineReport | None:
        return await read_engine(server_probe, kind)

    report = run_probe(run_read, url)
    assert report is None or isinstance(report, EngineReport)
    return report


def text(body: str) -> Any:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(text=body)

    return respond


@pytest.mark.parametrize("kind", sorted(POLLED_KINDS))
def test_a_missing_api_is_no_failure(serve: Serve, kind: str) -> None:
    report = read(serve({}).url, kind)
    assert report == (None if kind == Kind.LLAMACPP else NOTHING)


@pytest.mark.parametrize("kind", sorted(POLLED_KINDS))
def test_a_closed_port_is_a_failure(nowhere: str, kind: str) -> None:
    with pytest.raises(Unreachable):
        read(nowhere, kind)


@pytest.mark.parametrize("kind", sorted(POLLED_KINDS))
@pytest.mark.parametrize("response", [500, break_off])
def test_an_error_is_a_failure(serve: Serve, kind: str, response: Any) -> None:
    paths = ("/api/ps", "/api/v1/models", "/slots", "/models", "/metrics")
    server = serve(dict.fromkeys(paths, response))
    try:
        assert read(server.url, kind) is None
    except Unreachable:
        assert response is break_off


# Ollama

OLLAMA = {
    "models": [
        {
            "name": "qwen3:8b",
            "model": "qwen3:8b",
            "size": 6591830464,
            "digest": "a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a",
            "details": {"format": "gguf", "family": "qwen3", "parameter_size": "8.2B", "quantization_level": "Q4_K_M"},
            "expires_at": "2026-11-28T08:12:07.93355Z",
            "size_vram": 5333539264,
            "context_length": 4096,
        },
        {"name": "gemma3:latest", "model": "gemma3:latest", "expires_at": "2026-11-28T08:10:00.1Z", "size_vram": 0},
    ]
}


def test_ollama_lists_models_in_memory_by_their_last_use(serve: Serve) -> None:
    assert read(serve({"/api/ps": OLLAMA}).url, Kind.OLLAMA) == EngineReport(("gemma3:latest", "qwen3:8b"))
    assert read(serve({"/api/ps": {"models": []}}).url, Kind.OLLAMA) == EngineReport(())


@pytest.mark.parametrize("body", [[], {"models": 1}, "text", {}, None])
def test_another_shape_is_a_failure(serve: Serve, body: Any) -> None:
    assert read(serve({"/api/ps": text("null") if body is None else body}).url, Kind.OLLAMA) is None


def test_items_of_another_shape_are_left_out(serve: Serve) -> None:
    body = {"models": [1, {"model": 2}, {"model": "a", "expires_at": 3}, {}]}
    assert read(serve({"/api/ps": body}).url, Kind.OLLAMA) == EngineReport(("a",))


# LM Studio


def test_lm_studio_lists_loaded_instances(serve: Serve) -> None:
    body = {
        "models": [
            {"type": "llm", "key": "qwen/qwen3-8b", "loaded_instances": [{"id": "qwen/qwen3-8b", "config": {}}]},
            {"type": "llm", "key": "google/gemma-3", "loaded_instances": [{"id": "mine"}, {"id": "mine:2"}]},
            {"type": "embedding", "key": "nomic", "loaded_instances": []},
        ]
    }
    loaded = ("qwen/qwen3-8b", "google/gemma-3", "mine", "mine:2")
    assert read(serve({"/api/v1/models": body}).url, Kind.LM_STUDIO) == EngineReport(loaded)


def test_earlier_lm_studio_lists_states(serve: Serve) -> None:
    body = {
        "object": "list",
        "data": [
            {"id": "qwen2-vl-7b-instruct", "object": "model", "type": "vlm", "state": "not-loaded"},
            {"id": "granite-3.0-2b-instruct", "object": "model", "type": "llm", "state": "loaded"},
            {"id": "slow", "state": "loading"},
        ],
    }
    server = serve({"/api/v0/models": body})
    assert read(server.url, Kind.LM_STUDIO) == EngineReport(("granite-3.0-2b-instruct",), ("slow",))
    assert server.paths() == ["/api/v1/models", "/api/v0/models"]


# llama.cpp


def test_llamacpp_shows_which_slots_are_busy(serve: Serve) -> None:
    slots = [
        {"id": 0, "n_ctx": 2048, "speculative": False, "is_processing": True, "id_task": 7},
        {"id": 1, "n_ctx": 2048, "speculative": False, "is_processing": False},
    ]
    assert read(serve({"/slots": slots}).url, Kind.LLAMACPP) == EngineReport(requests=1)


def test_a_llamacpp_router_lists_the_status_of_its_models(serve: Serve) -> None:
    models = {
        "data": [
            {"id": "a", "object": "model", "status": {"value": "loaded", "args": ["llama-server"]}},
            {"id": "b", "object": "model", "status": {"value": "loading"}},
            {"id": "c", "object": "model", "status": {"value": "unloaded"}},
            {"id": "d", "object": "model", "status": {"value": "unloaded", "failed": True, "exit_code": 1}},
        ]
    }
    server = serve({"/slots": 400, "/models": models})
    assert read(server.url, Kind.LLAMACPP) == EngineReport(("a",), ("b",))


def test_llamacpp_without_slots_reports_nothing(serve: Serve) -> None:
    server = serve({"/slots": 501, "/models": {"object": "list", "data": [{"id": "a", "object": "model"}]}})
    assert read(server.url, Kind.LLAMACPP) == NOTHING


# Metrics

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny {x}"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 100.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.5
"""
SGLANG = """# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 1e1
"""
TGI = "tgi_queue_size 2\ntgi_batch_current_size 5\ntgi_batch_current_max_tokens 900\n"
LLAMACPP = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\nllamacpp:n_busy_slots_per_decode 1.5\n"


@pytest.mark.parametrize(("body", "requests"), [(VLLM, 7), (SGLANG, 13), (TGI, 7), (LLAMACPP, 3)])
def test_metrics_show_the_requests_of_all_clients(serve: Serve, body: str, requests: int) -> None:
    server = serve({"/metrics": text(body)})
    assert read(server.url, Kind.VLLM) == read(server.url, Kind.OPENAI_COMPATIBLE) == EngineReport(requests=requests)


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"vllm:num_requests_running NaN\n", b"tgi_queue_size -1\n"])
def test_other_metrics_show_nothing(body: bytes) -> None:
    assert read_metrics(body) == NOTHING


def test_closed_metrics_are_no_failure(serve: Serve) -> None:
    assert read(serve({"/metrics": 401}).url, Kind.VLLM) == NOTHING
