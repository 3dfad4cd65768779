from typing import Any

import pytest

from benchmarks.simulator import Simulator
from endpoints import operations
from endpoints.checks.model_lists import SyncFailed
from endpoints.detection import Unsupported
from endpoints.models import Endpoint, EndpointModel, HealthCheck, Kind
from endpoints.probe import Unreachable
from tests.endpoints.conftest import Serve, make_endpoint, make_model

pytestmark = pytest.mark.django_db


def stored(base_url: str, **fields: Any) -> Endpoint:
    """Load an endpoint as the API and the admin do."""
    make_endpoint(base_url=base_url, **fields)
    return Endpoint.objects.select_related("options").get()


def test_detecting_returns_the_type(sim: Simulator) -> None:
    assert operations.detect(sim.add(kind="vllm").url, None) == Kind.VLLM


def test_detecting_uses_the_given_key(sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    assert operations.detect(url, "sk-upstream") == Kind.OPENAI_COMPATIBLE
    with pytest.raises(Unsupported):
        operations.detect(url, None)


def test_detecting_at_a_closed_port_is_unreachable(nowhere: str) -> None:
    with pytest.raises(Unreachable):
        operations.detect(nowhere, None)


def test_a_passed_test_returns_latency_and_models(sim: Simulator) -> None:
    result = operations.test(stored(sim.add(models=["a", "b"]).url))
    assert (result.success, result.error, result.models_found) == (True, None, ["a", "b"])
    assert result.latency_ms is not None
    assert result.latency_ms >= 1


def test_a_passed_test_is_stored_as_a_check(sim: Simulator) -> None:
    result = operations.test(stored(sim.add().url))
    endpoint = Endpoint.objects.get()
    assert (endpoint.status, endpoint.latency_ms) == ("online", result.latency_ms)
    assert HealthCheck.objects.get().latency_ms == result.latency_ms


def test_a_failed_test_returns_the_reason_and_keeps_the_latency(nowhere: str) -> None:
    result = operations.test(stored(nowhere, status="online", latency_ms=120))
    assert (result.success, result.latency_ms, result.error, result.models_found) == (
        False,
        None,
        "connection refused",
        None,
    )
    endpoint = Endpoint.objects.get()
    assert (endpoint.status, endpoint.latency_ms, endpoint.last_error) == ("error", 120, "connection refused")


@pytest.mark.parametrize("fault", ["401", "500"])
def test_an_error_of_the_server_fails_the_test(sim: Simulator, fault: str) -> None:
    result = operations.test(stored(sim.add(health_fault=fault).url))
    assert (result.success, result.error) == (False, f"HTTP {fault}")


def test_a_test_uses_the_stored_key(sim: Simulator) -> None:
    endpoint = stored(sim.add(api_key="sk-upstream").url, api_key_encrypted="sk-upstream")
    assert operations.test(endpoint).success


@pytest.mark.parametrize("body", [{"object": "list"}, {"data": [{}]}, []])
def test_a_passed_test_without_a_list_counts_no_models(serve: Serve, body: Any) -> None:
    result = operations.test(stored(serve({"/v1/models": body}).url))
    assert (result.success, result.models_found) == (True, None)


def test_an_xllm_without_a_list_counts_no_models(serve: Serve) -> None:
    server = serve({"/api/health": {"status": "ok"}})
    result = operations.test(stored(server.url, endpoint_type="xllm"))
    assert (result.success, result.models_found) == (True, None)


def test_a_sync_is_stored(sim: Simulator) -> None:
    result = operations.sync_models(stored(sim.add(models=["a"]).url))
    assert (result.models, result.added) == (["a"], 1)
    assert EndpointModel.objects.get().max_tokens == 4096


@pytest.mark.parametrize("response", [500, {"error": "x"}])
def test_a_failed_sync_keeps_the_models(serve: Serve, response: Any) -> None:
    endpoint = stored(serve({"/v1/models": response}).url)
    make_model(endpoint)
    with pytest.raises(SyncFailed):
        operations.sync_models(endpoint)
    assert EndpointModel.objects.count() == 1


def test_a_sync_with_a_closed_port_is_unreachable(nowhere: str) -> None:
    with pytest.raises(Unreachable):
        operations.sync_models(stored(nowhere))
