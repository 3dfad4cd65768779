"""The numbered scenarios of the dashboard: through HTTP, with real processes, for a clean stop and for SIGKILL."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests.router import PASSING, RouterDash

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]


@pytest.fixture(params=["SIGTERM", "SIGKILL"])
def restart(request: pytest.FixtureRequest) -> Any:
    """Restart an installation, by a clean stop or by killing all its processes."""

    def run(router: RouterDash, between: Any = None) -> None:
        if request.param == "SIGTERM":
            assert router.stop() == 0
        else:
            router.kill()
        if between is not None:
            between()
        router.start()

    return run


def identical(overview: dict[str, Any]) -> dict[str, Any]:
    """Return the overview without values that a restart or the clock may change."""
    kept = {name: value for name, value in overview.items() if name not in ("generated_at", "generation_time_ms")}
    kept["history"] = {slot["minute"]: slot for slot in kept["history"] if slot["success"] or slot["error"]}
    checked = ("latency_ms", "last_seen")  # the first health check after a start measures again
    kept["endpoints"] = [{k: v for k, v in row.items() if k not in checked} for row in kept["endpoints"]]
    kept["stats"] = {k: v for k, v in kept["stats"].items() if k not in PASSING}
    return kept


def test_s1_s4_s5_figures_are_live_and_survive_a_restart(router: RouterDash, sim: Simulator, restart: Any) -> None:
    simulated = sim.add()
    endpoint = router.add(simulated)
    for tokens in (3, 8, 5, 7, 2, 8, 8, 8):
        router.chat(max_tokens=tokens)
    simulated.set(fault="500")
    router.chat()
    simulated.set(fault="400")
    router.chat()
    assert router.counters(endpoint) == (10, 8, 2)
    router.chat()
    assert router.counters(endpoint) == (11, 8, 3)
    simulated.set(fault="")
    router.chat()
    assert router.counters(endpoint) == (12, 9, 3)
    for _ in range(38):
        router.chat()
    before, speeds, timeline = router.overview(), speeds_of(router, endpoint), timeline_of(router)
    assert speeds["tiny"] > 0
    assert (sum(slot["success"] for slot in timeline), sum(slot["error"] for slot in timeline)) == (47, 3)
    restart(router)
    assert router.counters(endpoint) == (50, 47, 3)
    assert identical(router.overview()) == identical(before)
    assert speeds_of(router, endpoint) == speeds
    after = {slot["minute"]: slot for slot in timeline_of(router)}
    assert all(after.get(slot["minute"], slot) == slot for slot in timeline)


def speeds_of(router: RouterDash, endpoint: str) -> dict[str, Any]:
    """Return tokens per second by model."""
    return {row["model_id"]: row["tps"] for row in router.get(f"/api/endpoints/{endpoint}/model-tps").json()}


def timeline_of(router: RouterDash) -> list[dict[str, Any]]:
    slots: list[dict[str, Any]] = router.get("/api/dashboard/request-history").json()
    assert len(slots) == 60
    assert [slot["minute"] for slot in slots] == sorted(slot["minute"] for slot in slots)
    return slots


def test_s2_an_offline_endpoint_keeps_its_latency(router: RouterDash, sim: Simulator) -> None:
    simulated, never = sim.add(), sim.add()
    endpoint = router.add(simulated)
    router.query("UPDATE endpoints SET latency_ms = 120 WHERE id = ?", endpoint)
    simulated.set(fault="refuse")
    for _ in range(2):
        assert router.post(f"/api/endpoints/{endpoint}/test").json()["success"] is False
    row = router.endpoint(endpoint)
    assert (row["status"], row["latency_ms"]) == ("offline", 120)
    assert router.query("SELECT latency_ms FROM endpoints WHERE id = ?", endpoint) == [(120,)]
    simulated.set(fault="")
    measured = router.post(f"/api/endpoints/{endpoint}/test").json()["latency_ms"]
    assert router.endpoint(endpoint)["latency_ms"] == measured
    # Never measured and offline: stays null.
    router.query("UPDATE endpoints SET latency_ms = NULL, status = 'pending' WHERE id = ?", endpoint)
    simulated.set(fault="refuse")
    router.post(f"/api/endpoints/{endpoint}/test")
    assert router.query("SELECT latency_ms FROM endpoints WHERE id = ?", endpoint) == [(None,)]
    del never


def test_s3_average_response_time_has_a_value_after_a_restart(router: RouterDash, sim: Simulator, restart: Any) -> None:
    assert router.stats()["average_response_time_ms"] is None  # while nothing is online
    one, other = sim.add(), sim.add()
    ids = [router.add(one), router.add(other)]

    def measured() -> None:
        # Hanging probes keep the latencies until these tests have read them.
        one.set(health_fault="hang")
        other.set(health_fault="hang")
        for endpoint, latency in zip(ids, (100, 200), strict=True):
            router.query("UPDATE endpoints SET latency_ms = ? WHERE id = ?", latency, endpoint)

    restart(router, measured)
    assert router.stats()["average_response_time_ms"] == 150
    router.chat()
    served = router.stats()["average_response_time_ms"]
    assert 0 < served < 150
    restart(router)
    assert router.stats()["average_response_time_ms"] == served


def test_s4_s5_speeds_are_of_today_and_the_timeline_of_an_hour(
    router: RouterDash, sim: Simulator, restart: Any
) -> None:
    endpoint, fresh = router.add(sim.add()), router.add(sim.add())
    today = datetime.now(UTC).date().isoformat()
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()

    def write() -> None:
        rows = [("a", today, 100, 2000), ("idle", today, 0, 500), ("timeless", today, 50, 0), ("old", yesterday, 9, 9)]
        for model, date, tokens, duration in rows:
            router.query(
                "INSERT INTO endpoint_daily_stats (endpoint_id, model_id, date, api_kind, total_requests, "
                "successful_requests, failed_requests, total_output_tokens, total_duration_ms) "
                "VALUES (?, ?, ?, 'chat_completions', 1, 1, 0, ?, ?)",
                endpoint, model, date, tokens, duration,
            )  # fmt: skip
        old = (datetime.now(UTC) - timedelta(minutes=61)).isoformat(timespec="microseconds")
        router.query(
            "INSERT INTO request_history (id, timestamp, request_type, model, endpoint_id, endpoint_name, endpoint_ip, "
            "request_body, duration_ms, status, completed_at) VALUES ('00000000-0000-4000-8000-000000000001', ?, "
            "'Chat', 'm', '00000000-0000-4000-8000-000000000002', 'e', '0.0.0.0', '{}', 5, 'success', ?)",
            old, old,
        )  # fmt: skip

    restart(router, write)
    assert speeds_of(router, endpoint) == {"a": 50, "idle": None, "timeless": None}
    assert speeds_of(router, fresh) == {}
    assert all(slot["success"] == slot["error"] == 0 for slot in timeline_of(router))
    aggregate = {row["endpoint_id"]: row["aggregate_tps"] for row in router.overview()["endpoint_tps"]}
    assert aggregate == {endpoint: 50}


def test_sigkill_under_load_counts_each_complete_response_once(router: RouterDash, sim: Simulator) -> None:
    """60 requests, one in ten failing, then SIGKILL for all processes: the figures equal the client's tally."""
    good, bad = sim.add(models=["good"]), sim.add(models=["bad"], fault="500")
    ids = {"good": router.add(good), "bad": router.add(bad)}
    tally = {"good": 0, "bad": 0}
    for number in range(60):
        model = "bad" if number % 10 == 0 else "good"
        response = router.chat(model, stream=number % 2 == 0)
        assert response.status == (200 if model == "good" else 502)
        tally[model] += 1
    router.kill()
    router.start()
    check_against(router, ids, tally)


@pytest.mark.parametrize("role", ["manage.py control", "gateway.main"])
def test_sigkill_of_one_process_loses_nothing(router: RouterDash, sim: Simulator, role: str) -> None:
    good, bad = sim.add(models=["good"]), sim.add(models=["bad"], fault="500")
    ids = {"good": router.add(good), "bad": router.add(bad)}
    tally = {"good": 0, "bad": 0}
    for number in range(60):
        if number == 30:
            router.kill_role(role)
        model = "bad" if number % 10 == 0 else "good"
        response = _retry(lambda model=model: router.chat(model))
        assert response.status == (200 if model == "good" else 502)
        tally[model] += 1
    check_against(router, ids, tally)


def _retry(send: Any) -> Any:
    """Send again if the connection broke before any byte of a response, as clients do."""
    for _ in range(100):
        try:
            return send()
        except (ConnectionError, OSError):
            time.sleep(0.05)
    raise AssertionError("no answer in 100 tries")


def check_against(router: RouterDash, ids: dict[str, str], tally: dict[str, int]) -> None:
    """Counters, daily rows, history and timeline equal the responses that the client received."""
    assert router.counters(ids["good"]) == (tally["good"], tally["good"], 0)
    assert router.counters(ids["bad"]) == (tally["bad"], 0, tally["bad"])
    stats = router.stats()
    assert (stats["successful_requests"], stats["failed_requests"]) == (tally["good"], tally["bad"])
    slots = router.get("/api/dashboard/request-history").json()
    assert (sum(slot["success"] for slot in slots), sum(slot["error"] for slot in slots)) == (
        tally["good"],
        tally["bad"],
    )
    for model, endpoint in ids.items():
        days = router.get(f"/api/endpoints/{endpoint}/daily-stats").json()
        assert sum(day["total_requests"] for day in days) == tally[model]
    rows = router.query("SELECT model, outcome, count(*), count(DISTINCT id) FROM request_history GROUP BY 1, 2")
    assert sorted(rows) == [
        ("bad", "failed", tally["bad"], tally["bad"]),
        ("good", "ok", tally["good"], tally["good"]),
    ]
    stored = router.query("SELECT id, total_requests FROM endpoints ORDER BY total_requests")
    assert [count for _, count in stored] == [tally["bad"], tally["good"]]
