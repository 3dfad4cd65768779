import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from benchmarks.simulator import Simulator
from endpoints import health
from endpoints.checks.result import Check
from endpoints.models import Endpoint, HealthCheck, Kind
from endpoints.probe import Probe
from endpoints.registry import Entry
from tests.endpoints.conftest import Running, Serve, break_off, make_endpoint, run_probe, sql, wait_for
from tests.router import until

HOUR = 3600


def checked(url: str, kind: str = Kind.OPENAI_COMPATIBLE, *, delivered: bool = False, **options: Any) -> Check:
    async def run_check(server_probe: Probe) -> Check:
        return await health.check(server_probe, kind, lambda: delivered)

    check = run_probe(run_check, url, **options)
    assert isinstance(check, Check)
    return check


# One check


@pytest.mark.parametrize("kind", Kind)
def test_a_check_passes_with_a_latency(sim: Simulator, kind: Kind) -> None:
    check = checked(sim.add(kind=kind.value).url, kind)
    assert (check.success, check.error) == (True, None)
    assert check.latency_ms is not None
    assert check.latency_ms >= 1


def test_a_check_is_dated(sim: Simulator) -> None:
    before = datetime.now(UTC)
    assert before <= checked(sim.add().url).checked_at <= datetime.now(UTC)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_an_http_error_is_a_failure(serve: Serve, status: int) -> None:
    check = checked(serve({"/v1/models": status}).url)
    assert (check.success, check.latency_ms, check.error) == (False, None, f"HTTP {status}")


def test_the_body_is_ignored(serve: Serve) -> None:
    assert checked(serve({"/v1/models": {"odd": True}}).url).success


def test_a_refused_connection_is_a_failure(nowhere: str) -> None:
    check = checked(nowhere)
    assert (check.success, check.latency_ms, check.error) == (False, None, "connection refused")


def test_a_timeout_is_a_failure(sim: Simulator) -> None:
    check = checked(sim.add(health_fault="hang").url, timeout=0.05)
    assert (check.success, check.error) == (False, "no answer within 0.05 s")


def test_a_timeout_during_traffic_passes_without_a_latency(sim: Simulator) -> None:
    check = checked(sim.add(health_fault="hang").url, timeout=0.05, delivered=True)
    assert (check.success, check.latency_ms, check.error) == (True, None, None)


def test_traffic_excuses_only_timeouts(serve: Serve, nowhere: str) -> None:
    for url in (nowhere, serve({"/v1/models": 500}).url, serve({"/v1/models": break_off}).url):
        assert not checked(url, delivered=True).success


def test_the_key_is_sent(sim: Simulator) -> None:
    assert checked(sim.add(api_key="sk-upstream").url, key="sk-upstream").success


def test_an_xllm_is_checked_by_its_health_path(serve: Serve) -> None:
    server = serve({"/api/health": {"status": "ok"}})
    assert checked(server.url, Kind.XLLM).success
    assert server.paths() == ["/api/health"]


def test_an_xllm_without_a_health_path_is_checked_by_its_models(serve: Serve) -> None:
    server = serve({"/api/health": 500, "/v1/models": {"data": []}})
    assert checked(server.url, Kind.XLLM).success
    assert server.paths() == ["/api/health", "/v1/models"]


def test_an_xllm_fails_if_neither_path_responds(serve: Serve) -> None:
    assert checked(serve({"/api/health": 500, "/v1/models": 503}).url, Kind.XLLM).error == "HTTP 503"


@pytest.mark.django_db
def test_a_check_is_stored() -> None:
    endpoint = make_endpoint()
    moment = datetime(2026, 4, 15, 12, tzinfo=UTC)
    stored = health.record(str(endpoint.pk), Check(True, 80, None, moment))
    assert stored is not None
    assert (stored.status, stored.latency_ms, stored.last_seen) == ("online", 80, moment)


# The checker


def test_every_endpoint_is_checked_at_the_start(running: Running, sim: Simulator, nowhere: str) -> None:
    good, bad = make_endpoint("good", sim.add().url), make_endpoint("bad", nowhere)
    running.start()
    assert wait_for(good, "online").latency_ms
    assert wait_for(bad, "offline").last_error == "connection refused"


def test_a_hanging_endpoint_delays_no_other_check(running: Running, sim: Simulator) -> None:
    hanging, good = sim.add(health_fault="hang"), make_endpoint("good", sim.add().url)
    make_endpoint("hanging", hanging.url)
    running.start()
    wait_for(good, "online")
    until(lambda: hanging.seen.probes == 1)


def test_first_checks_are_spread(running: Running, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_CHECKS_PER_SECOND", 1 / HOUR)
    servers = [sim.add(), sim.add()]
    endpoints = [make_endpoint(server.url, server.url) for server in servers]
    running.start()
    wait_for(endpoints[0], "online")
    assert [server.seen.probes for server in servers] == [1, 0]
    running.nudge(endpoints[1])  # its wait ends early, too
    wait_for(endpoints[1], "online")


@pytest.fixture
def two_checks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_CHECKS", 2)


def test_few_checks_run_at_a_time(two_checks_at_a_time: None, running: Running, serve: Serve) -> None:
    go, running_now, most = threading.Event(), [0], [0]

    async def counted(request: web.Request) -> web.Response:
        running_now[0] += 1
        most[0] = max(most[0], running_now[0])
        await asyncio.to_thread(go.wait, 10)
        running_now[0] -= 1
        return web.json_response({})

    endpoints = [make_endpoint(f"server {number}", serve({"/v1/models": counted}).url) for number in range(4)]
    running.start()
    until(lambda: running_now[0] == 2)
    go.set()
    for endpoint in endpoints:
        wait_for(endpoint, "online")
    assert most[0] == 2


def test_a_check_is_in_the_database_before_the_registry(running: Running, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add().url)
    running.start()
    wait_for(endpoint, "online")
    assert Endpoint.objects.get().status == "online"
    assert HealthCheck.objects.values_list("status_before", "status_after").get() == ("pending", "online")


def test_a_new_endpoint_is_picked_up(running: Running, sim: Simulator) -> None:
    running.start()
    wait_for(make_endpoint(base_url=sim.add().url), "online")


def test_a_deleted_endpoint_is_no_longer_checked(running: Running, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add().url)
    endpoint_id = str(endpoint.pk)
    running.start()
    wait_for(endpoint, "online")
    assert running.watches(endpoint_id)
    endpoint.delete()
    until(lambda: not running.watches(endpoint_id))
    running.call(running.checker.nudge, endpoint_id)  # a late result for it is ignored


def test_a_nudge_checks_at_once(running: Running, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = make_endpoint(base_url=simulated.url, health_check_interval_secs=HOUR)
    running.start()
    wait_for(endpoint, "online")
    simulated.set(health_fault="500")
    running.nudge(endpoint)
    wait_for(endpoint, "error")
    running.nudge(endpoint)
    wait_for(endpoint, "offline")
    assert simulated.seen.probes == 3


def test_a_nudge_during_a_check_is_not_lost(running: Running, serve: Serve) -> None:
    go = threading.Event()

    async def first_waits(request: web.Request) -> web.Response:
        if len(server.requests) > 1:
            return web.json_response({})
        await asyncio.to_thread(go.wait, 10)
        return web.json_response({}, status=500)

    server = serve({"/v1/models": first_waits})
    endpoint = make_endpoint(base_url=server.url, health_check_interval_secs=HOUR)
    running.start()
    until(lambda: server.requests)
    running.nudge(endpoint)
    go.set()
    wait_for(endpoint, "online")


def test_every_endpoint_has_its_own_interval(running: Running, sim: Simulator) -> None:
    often, seldom = sim.add(), sim.add()
    make_endpoint("often", often.url, health_check_interval_secs=1)
    make_endpoint("seldom", seldom.url, health_check_interval_secs=HOUR)
    running.start()
    until(lambda: often.seen.probes >= 3)
    assert seldom.seen.probes == 1


def test_a_return_is_reported_as_a_recovery(running: Running, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = make_endpoint(base_url=simulated.url, health_check_interval_secs=HOUR)
    endpoint_id = str(endpoint.pk)
    running.start()
    until(lambda: running.came_up == [(endpoint_id, True)])
    running.nudge(endpoint)
    until(lambda: running.came_up == [(endpoint_id, True), (endpoint_id, False)])
    simulated.set(health_fault="500")
    running.nudge(endpoint)
    wait_for(endpoint, "error")
    simulated.set(health_fault="")
    running.nudge(endpoint)
    until(lambda: running.came_up[2:] == [(endpoint_id, True)])


def test_a_failure_is_not_reported_as_a_recovery(running: Running, nowhere: str) -> None:
    endpoint = make_endpoint(base_url=nowhere)
    running.start()
    wait_for(endpoint, "offline")
    assert running.came_up == []


def test_the_key_of_the_entry_is_sent(running: Running, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(api_key="sk-upstream").url, api_key_encrypted="sk-upstream")
    running.start()
    wait_for(endpoint, "online")


def test_an_endpoint_that_is_busy_stays_online(
    running: Running, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.05)
    endpoint = make_endpoint(base_url=sim.add(health_fault="hang").url, latency_ms=120)
    running.last_byte = lambda endpoint_id: time.time() if endpoint_id == str(endpoint.pk) else 0.0
    running.start()
    assert wait_for(endpoint, "online").latency_ms == 120
    assert HealthCheck.objects.values_list("success", "latency_ms").get() == (True, None)


def test_old_traffic_does_not_excuse_a_timeout(
    running: Running, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.05)
    endpoint = make_endpoint(base_url=sim.add(health_fault="hang").url, health_check_interval_secs=30)
    running.last_byte = lambda endpoint_id: time.time() - 60
    running.start()
    assert wait_for(endpoint, "offline").last_error == "no answer within 0.05 s"


def test_a_transition_is_logged_with_its_cause(
    running: Running, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = make_endpoint(base_url=nowhere, status="error", error_count=1)
    with caplog.at_level(logging.INFO, "endpoints.health"):
        running.start()
        wait_for(endpoint, "offline")
        running.stop()
    assert "gpu-box: error → offline (connection refused)" in caplog.text


def test_checks_continue_after_an_exception_in_a_check(running: Running, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add().url, health_check_interval_secs=HOUR)
    broken = threading.Event()

    def secret(entry: Entry) -> str | None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        return None

    running.secret = secret
    running.start()
    assert broken.wait(10)
    running.nudge(endpoint)
    wait_for(endpoint, "online")


@pytest.fixture
def no_place_for_checks(transactional_db: None) -> Iterator[None]:
    sql("ALTER TABLE endpoint_health_checks RENAME TO elsewhere")
    yield
    sql("ALTER TABLE elsewhere RENAME TO endpoint_health_checks")


def test_a_check_that_cannot_be_stored_still_affects_routing(
    no_place_for_checks: None, running: Running, sim: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = make_endpoint(base_url=sim.add().url, status="offline", latency_ms=120)
    running.start()
    wait_for(endpoint, "online")
    running.stop()
    assert Endpoint.objects.get().status == "offline"
    assert "could not be stored" in caplog.text


def test_a_stopped_checker_leaves_no_task(running: Running, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add().url)
    running.start()
    wait_for(endpoint, "online")
    running.call(running.task.cancel)
    running.thread.join()
    assert running.loop.is_closed()
