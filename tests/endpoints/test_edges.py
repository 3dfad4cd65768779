"""Edge cases: lost encryption keys, concurrent edits, unusual rows and inputs."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks.simulator import Simulator
from endpoints import health, model_aliases, operations, sealer, sync, tasks
from endpoints.base_url import normalise
from endpoints.changes import counters as change_counters
from endpoints.checks import model_lists
from endpoints.checks.model_lists import ListedModel
from endpoints.checks.result import Check
from endpoints.health import HealthChecker
from endpoints.models import Endpoint, EndpointModel, HealthCheck, Kind
from endpoints.probe import Probe, ProbeResponse
from endpoints.registry import registry
from gateway.upstream.connection_settings import ConnectionSettings
from gateway.upstream.errors import connect_error
from tests.access.people import Api, key_for, make_admin, with_key
from tests.endpoints.admin.test_endpoint import change
from tests.endpoints.conftest import (
    Running,
    Serve,
    break_off,
    listing,
    make_endpoint,
    meanwhile,
    run_probe,
    sql,
    wait_for,
)
from tests.router import until

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
committed = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")


# Two concurrent writers


def overtaken(first: Any, second: Any) -> None:
    """Commit `first` while `second` waits for it in another transaction."""
    with ThreadPoolExecutor(1) as thread:
        with transaction.atomic():
            first()
            waiting = thread.submit(meanwhile, second)
            until(is_blocked)
        waiting.result()


def is_blocked() -> bool:
    sql("SELECT pg_stat_clear_snapshot()")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(sql(waiting))


@committed
@on_postgresql
def test_concurrent_first_bumps_are_both_counted() -> None:
    overtaken(lambda: change_counters.bump("new"), lambda: change_counters.bump("new"))
    assert change_counters.read() == {"new": 2}


@committed
@on_postgresql
def test_two_concurrent_syncs_both_succeed() -> None:
    endpoint, offered = make_endpoint(), [ListedModel("tiny")]
    overtaken(lambda: sync.store(endpoint, offered), lambda: sync.store(endpoint, offered))
    assert EndpointModel.objects.count() == 1


# Options


def test_setting_a_key_does_not_restore_an_old_state() -> None:
    make_endpoint().set_operator_state("enabled")
    loaded = Endpoint.objects.select_related("options").get()
    Endpoint.objects.get().set_operator_state("disabled")
    loaded.set_api_key("sk-upstream")
    assert Endpoint.objects.get().options.operator_state == "disabled"


def test_setting_a_state_does_not_restore_an_old_key() -> None:
    make_endpoint().set_api_key("sk-old")
    loaded = Endpoint.objects.select_related("options").get()
    Endpoint.objects.get().set_api_key(None)
    loaded.set_operator_state("draining")
    assert Endpoint.objects.get().api_key is None


# A key that was sealed with an encryption key that is lost


@pytest.fixture
def lost(sim: Simulator, settings: Any) -> Iterator[Endpoint]:
    endpoint = make_endpoint(base_url=sim.add().url)
    endpoint.set_api_key("sk-upstream")
    settings.ROUTERDASH = replace(settings.ROUTERDASH, encryption_keys=(Fernet.generate_key().decode(),))
    sealer.sealer.cache_clear()
    yield endpoint
    sealer.sealer.cache_clear()


def test_a_test_with_a_lost_key_is_200(lost: Endpoint, manager: Api) -> None:
    assert manager.call("POST", f"/api/endpoints/{lost.pk}/test").status_code == 200


def test_a_sync_with_a_lost_key_gets_an_error_response(lost: Endpoint, manager: Api) -> None:
    assert manager.call("POST", f"/api/endpoints/{lost.pk}/sync").status_code == 503


@pytest.mark.parametrize("action", ["run_test", "run_sync"])
def test_an_action_with_a_lost_key_shows_an_error(lost: Endpoint, as_admin: Api, action: str) -> None:
    sent = {"action": action, "_selected_action": [str(lost.pk)]}
    assert as_admin.post("/admin/endpoints/endpoint/", sent).status_code == 302


def test_a_task_with_a_lost_key_returns_the_reason(lost: Endpoint) -> None:
    assert tasks.sync_models(str(lost.pk))


# Operations on an endpoint that was loaded without its options


def test_a_test_accepts_an_endpoint_without_loaded_options(sim: Simulator) -> None:
    assert operations.test(make_endpoint(base_url=sim.add().url)).success


def test_a_sync_accepts_an_endpoint_without_loaded_options(sim: Simulator) -> None:
    assert operations.sync_models(make_endpoint(base_url=sim.add().url)).added == 1


# Rows of llmlb


def test_a_check_of_an_unknown_status_counts_as_pending() -> None:
    endpoint = make_endpoint(status="hibernating")
    stored = Endpoint.record_check(endpoint.pk, success=False, latency_ms=None, error="x", checked_at=timezone.now())
    assert stored is not None
    assert stored.status == "offline"


def test_a_model_of_an_unknown_type_has_no_canonical_name() -> None:
    assert model_aliases.canonical_name("llama3.3:70b", "triton") is None


# Base URLs


@pytest.mark.parametrize("pasted", ["http://gpu:0", "http://gpu box:8000"])
def test_malformed_addresses_are_refused(pasted: str) -> None:
    with pytest.raises(ValueError, match=r"Enter a URL|port"):
        normalise(pasted)


@pytest.mark.parametrize("pasted", ["http://gpu/v1/v1", "http://gpu/v1//v1/"])
def test_a_stored_url_is_its_own_stored_form(pasted: str) -> None:
    stored = normalise(pasted)
    assert normalise(stored) == stored


# Probes


def test_reasons_do_not_contain_the_address() -> None:
    # The text of asyncio for an unreachable host.
    assert str(connect_error(OSError(113, "Connect call failed ('10.9.8.7', 8000)"), 5)) == "no route to host"


async def check_xllm(server_probe: Probe) -> Check:
    return await health.check(server_probe, Kind.XLLM)


def test_an_xllm_with_a_broken_health_response_is_checked_by_its_models(serve: Serve) -> None:
    server = serve({"/api/health": break_off, "/v1/models": listing("a")})
    assert run_probe(check_xllm, server.url).success


def test_the_latency_is_measured_by_the_passed_probe(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    async def slow(request: web.Request) -> web.Response:
        clock.now += 4.0
        return web.json_response({}, status=404)

    monkeypatch.setattr(health, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    check = run_probe(check_xllm, serve({"/api/health": slow, "/v1/models": listing("a")}).url)
    assert check.latency_ms == 1


# Syncs


@pytest.mark.parametrize("value", ["99999999999", "0", "²"])
def test_a_malformed_length_is_ignored(serve: Serve, value: str) -> None:
    async def fetch_list(server_probe: Probe) -> sync.ModelList:
        return await sync.fetch(server_probe, Kind.OLLAMA)

    server = serve({"/v1/models": listing("a"), "/api/show": {"parameters": f"num_ctx {value}"}})
    assert run_probe(fetch_list, server.url).models == [ListedModel("a", None)]


@committed
def test_a_sync_of_a_deleted_endpoint_is_no_error(serve: Serve) -> None:
    async def deleted(request: web.Request) -> web.Response:
        await asyncio.to_thread(meanwhile, lambda: Endpoint.objects.all().delete())
        return web.json_response(listing("a"))

    endpoint = make_endpoint(base_url=serve({"/v1/models": deleted}).url)
    assert tasks.sync_models(str(endpoint.pk)) == "it was deleted meanwhile"


@committed
def test_a_change_of_an_endpoint_deleted_during_the_request_is_404(serve: Serve, manager: Api) -> None:
    async def deleted(request: web.Request) -> web.Response:
        await asyncio.to_thread(meanwhile, lambda: Endpoint.objects.all().delete())
        return web.json_response(listing("a"))

    path = f"/api/endpoints/{make_endpoint().pk}"
    assert manager.call("PATCH", path, {"base_url": serve({"/v1/models": deleted}).url}).status_code == 404


@committed
def test_a_long_list_of_models_is_stored_and_read_again_in_a_few_queries() -> None:
    registry.all()
    counts = []
    for number, size in enumerate((2, 40)):
        endpoint = make_endpoint(f"box{number}")
        with CaptureQueriesContext(connection) as captured:
            sync.store(endpoint, [ListedModel(f"m{index}") for index in range(size)])
        counts.append(len(captured))
    assert counts[0] == counts[1]


# Health checks follow edits


@committed
def test_a_shorter_interval_takes_effect_at_once(running: Running, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = make_endpoint(base_url=simulated.url, health_check_interval_secs=3600)
    running.start()
    wait_for(endpoint, "online")
    endpoint.health_check_interval_secs = 1
    endpoint.save()
    until(lambda: simulated.seen.probes > 1, seconds=5)


@committed
def test_a_new_address_is_checked_at_once(running: Running, sim: Simulator, nowhere: str) -> None:
    endpoint = make_endpoint(base_url=sim.add().url, health_check_interval_secs=3600)
    running.start()
    wait_for(endpoint, "online")
    endpoint.base_url = nowhere
    endpoint.save()
    until(lambda: Endpoint.objects.get().status == "error", seconds=5)


def test_a_checker_waits_for_a_registry_that_is_not_loaded_yet() -> None:
    async def started() -> bool:
        task = asyncio.create_task(checker.run())
        for _ in range(3):
            await asyncio.sleep(0)
        runs = not task.done()
        task.cancel()
        await asyncio.wait([task])
        return runs

    checker = HealthChecker(registry, lambda entry: None, lambda endpoint_id: 0.0, lambda endpoint_id, recovered: None)
    assert asyncio.run(started())


# The admin


def test_the_same_address_in_another_form_keeps_the_key(as_admin: Api) -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-upstream")
    change(as_admin, endpoint, base_url=endpoint.base_url + "/v1")
    assert Endpoint.objects.get().api_key == "sk-upstream"


@committed
def test_no_transaction_is_open_during_a_probe(as_admin: Api, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    detect = operations.detect

    def look(base_url: str, api_key: str | None, settings: ConnectionSettings) -> Kind:
        held.append(connection.in_atomic_block)
        return detect(base_url, api_key, settings)

    monkeypatch.setattr(operations, "detect", look)
    change(as_admin, make_endpoint(), base_url=sim.add().url)
    assert held == [False]


def test_the_add_form_offers_the_configured_interval(as_admin: Api, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, health_check_interval=7)
    form = as_admin.get("/admin/endpoints/endpoint/add/").context["adminform"].form
    assert form["health_check_interval_secs"].value() == 7


# Found in reviews


@pytest.mark.parametrize(("stored", "used"), [(0, 1), (-5, 1), (30, 30), (10**6, 3600)])
def test_an_interval_without_bounds_does_not_hammer_the_endpoint(db: None, stored: int, used: int) -> None:
    made = Endpoint.objects.create(name="x", base_url="http://x.invalid", health_check_interval_secs=stored)
    registry.reload()
    entry = registry.get(str(made.pk))
    assert entry is not None
    assert entry.health_check_interval_secs == used


def test_models_that_the_database_cannot_store_are_left_out() -> None:
    names = ["good", "nul\0", "x" * 6000, "line\nbreak"]
    response = ProbeResponse(200, {"data": [{"id": name} for name in names]})
    assert [model.id for model in model_lists.parse(response)] == ["good"]


def test_a_type_does_not_change_without_its_address(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Endpoint.objects.create(name="x", base_url="http://x.invalid", endpoint_type=Kind.VLLM)
    script = with_key(key_for(make_admin(), "endpoints.read", "endpoints.manage"))
    registry.reload()

    def while_another_user_takes_it(url: str, key: str | None, settings: ConnectionSettings) -> str:
        Endpoint.objects.create(name="y", base_url=url)
        return Kind.OLLAMA

    monkeypatch.setattr(operations, "detect", while_another_user_takes_it)
    assert script.call("PATCH", f"/api/endpoints/{made.pk}", {"base_url": "http://new.invalid"}).status_code == 409
    made.refresh_from_db()
    assert (made.base_url, made.endpoint_type) == ("http://x.invalid", Kind.VLLM)


def test_checks_continue_in_memory_without_the_database(db: None) -> None:
    made = Endpoint.objects.create(name="x", base_url="http://x.invalid", status="online")
    registry.reload()
    entry = registry.get(str(made.pk))
    assert entry is not None
    checker = HealthChecker(
        registry, lambda endpoint: None, lambda endpoint_id: 0.0, lambda endpoint_id, recovered: None, lambda: True
    )
    checker._store([(entry, Check(False, None, "connection refused", timezone.now()))])
    after = registry.get(str(made.pk))
    assert after is not None
    assert (after.error_count, HealthCheck.objects.count()) == (1, 0)
