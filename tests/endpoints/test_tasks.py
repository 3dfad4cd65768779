from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from benchmarks.simulator import Simulator
from endpoints import tasks
from endpoints.models import Endpoint, EndpointModel, HealthCheck
from tests.endpoints.conftest import Serve, listing, make_endpoint, make_model

pytestmark = pytest.mark.django_db
MISSING = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"


def sync(endpoint: Endpoint, **options: Any) -> str:
    return tasks.sync_models(str(endpoint.pk), **options)


def models() -> list[str]:
    return list(EndpointModel.objects.order_by("model_id").values_list("model_id", flat=True))


def test_a_sync_stores_the_models(sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(models=["a", "b"]).url)
    assert sync(endpoint) == "2 models, 2 added, 0 removed"
    assert models() == ["a", "b"]


def test_a_sync_uses_the_stored_key(sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(api_key="sk-upstream").url)
    endpoint.set_api_key("sk-upstream")
    sync(endpoint)
    assert models() == ["tiny"]


def test_a_sync_of_a_deleted_endpoint_is_reported() -> None:
    assert tasks.sync_models(MISSING) == "the endpoint has been deleted"


def test_an_unreachable_endpoint_keeps_its_models(nowhere: str) -> None:
    endpoint = make_endpoint(base_url=nowhere)
    make_model(endpoint)
    assert sync(endpoint) == "connection refused"
    assert models() == ["tiny"]


@pytest.mark.parametrize("response", [{"error": "x"}, {"data": [{}]}, [], 500, 401])
def test_an_unknown_response_keeps_the_models(serve: Serve, response: Any) -> None:
    endpoint = make_endpoint(base_url=serve({"/v1/models": response}).url)
    make_model(endpoint)
    sync(endpoint)
    assert models() == ["tiny"]


def test_the_type_is_detected_only_on_request(sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(kind="ollama").url)
    sync(endpoint)
    assert Endpoint.objects.get().endpoint_type == "openai_compatible"
    sync(endpoint, detect=True)
    assert Endpoint.objects.get().endpoint_type == "ollama"


def test_canonical_names_follow_the_new_type(sim: Simulator) -> None:
    sync(make_endpoint(base_url=sim.add(kind="ollama", models=["llama3.3:70b"]).url), detect=True)
    assert EndpointModel.objects.get().canonical_name == "meta-llama/Llama-3.3-70B-Instruct"


def test_an_unknown_type_keeps_the_old_one(serve: Serve) -> None:
    endpoint = make_endpoint(base_url=serve({"/v1/models": {"models": [{"name": "a"}]}}).url, endpoint_type="vllm")
    sync(endpoint, detect=True)
    assert Endpoint.objects.get().endpoint_type == "vllm"
    assert models() == ["a"]


def test_a_sync_writes_no_figures(sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(kind="vllm").url, status="error", latency_ms=120, total_requests=7)
    sync(endpoint, detect=True)
    assert Endpoint.objects.values_list("status", "latency_ms", "total_requests").get() == ("error", 120, 7)


def test_old_checks_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CHUNK", 2)
    endpoint = make_endpoint()
    for days in (0, 29, 31, 32, 33, 400, 500):
        HealthCheck.objects.create(
            endpoint=endpoint,
            checked_at=timezone.now() - timedelta(days=days),
            success=True,
            status_before="online",
            status_after="online",
        )
    assert tasks.prune_health_checks() == 5
    assert HealthCheck.objects.count() == 2
    assert tasks.prune_health_checks() == 0


def test_a_sync_without_changes_reports_none(serve: Serve) -> None:
    endpoint = make_endpoint(base_url=serve({"/v1/models": listing("a")}).url)
    sync(endpoint)
    assert sync(endpoint) == "1 models, 0 added, 0 removed"
