"""An adopted database of llmlb, served by RouterDash: all data is available by HTTP."""

import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests.reference.llmlb_again import COUNTERS, DAILY, change_endpoints, serve_again
from tests.reference.make_reference_db import make
from tests.router import RouterDash, until
from tests.routerdash.commands import manage

pytestmark = pytest.mark.timeout(180)

Adopted = tuple[RouterDash, dict[str, Any], Path]


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopted]:
    directory = tmp_path_factory.mktemp("adopted")
    path = directory / "load balancer.db"  # the file name of llmlb, with its space
    expected = make(path, requests=600)
    # Checks run every hour: latencies stay as llmlb measured them during these tests.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE endpoints SET health_check_interval_secs = 3600")
        connection.commit()
    router = RouterDash(directory, DATABASE_URL=f"sqlite:///{path}")
    environment = clean_environment(router.environment)
    command = [sys.executable, str(ROOT / "manage.py"), "adopt"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    router.start()
    yield router, expected, path
    router.kill()


def key(expected: dict[str, Any], name: str) -> str:
    secret: str = expected["api_keys"][name]["key"]
    return secret


def test_counters_and_latencies(adopted: Adopted) -> None:
    router, expected, _ = adopted
    rows = {row["name"]: row for row in router.get("/api/dashboard/endpoints").json()}
    for name, figures in expected["endpoints"].items():
        for column in ("id", "total_requests", "successful_requests", "failed_requests"):
            assert rows[name][column] == figures[column]
    # No server listens there: the first check marked these endpoints as offline and kept their latencies.
    assert {name: row["latency_ms"] for name, row in rows.items()} == {
        name: figures["latency_ms"] for name, figures in expected["endpoints"].items()
    }


def test_the_timeline(adopted: Adopted) -> None:
    router, expected, _ = adopted
    slots = {slot["minute"]: slot for slot in router.get("/api/dashboard/request-history").json()}
    common = slots.keys() & expected["minutes"].keys()
    assert len(common) >= 57  # a minute or two may have passed since the database was made
    for minute in common:
        assert slots[minute] == {"minute": minute, **expected["minutes"][minute]}


def test_todays_speeds(adopted: Adopted) -> None:
    router, expected, _ = adopted
    for row in expected["tps_today"]:
        speeds = router.get(f"/api/endpoints/{row['endpoint_id']}/model-tps").json()
        one = next(
            speed for speed in speeds if (speed["model_id"], speed["api_kind"]) == (row["model_id"], row["api_kind"])
        )
        assert one["tps"] == pytest.approx(row["tps"], rel=1e-9)


def test_totals_include_endpoints_deleted_long_ago(adopted: Adopted) -> None:
    router, expected, _ = adopted
    total = sum(figures["total_requests"] for figures in expected["endpoints"].values())
    assert router.stats()["total_requests"] == total + expected["deleted_endpoint"]["total_requests"]


def test_all_figures_agree(adopted: Adopted) -> None:
    """The daily rows in the database equal those of the API."""
    done = manage("reconcile", **adopted[0].environment)
    assert (done.code, done.out) == (0, "all figures agree\n"), done.out


def test_daily_rows(adopted: Adopted) -> None:
    router, expected, _ = adopted
    for figures in expected["endpoints"].values():
        days = router.get(f"/api/endpoints/{figures['id']}/daily-stats?days=30").json()
        assert sum(day["total_requests"] for day in days) == figures["total_requests"]


def test_models_with_their_canonical_names(adopted: Adopted) -> None:
    router, expected, _ = adopted
    endpoint = expected["endpoints"]["mac-studio"]["id"]
    (model,) = router.get(f"/api/endpoints/{endpoint}/models").json()["models"]
    assert (model["model_id"], model["canonical_name"]) == ("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct")


@pytest.mark.parametrize(("name", "status"), [("ops", 200), ("notebook", 403), ("old laptop", 401)])
def test_the_same_keys_work(adopted: Adopted, name: str, status: int) -> None:
    router, expected, _ = adopted
    assert router.get("/api/endpoints", key=key(expected, name)).status == status


def test_the_same_keys_work_for_clients(adopted: Adopted) -> None:
    router, expected, _ = adopted
    assert router.get("/v1/models", key=key(expected, "notebook")).status == 200
    assert router.get("/v1/models", key=key(expected, "old laptop")).status == 401


def test_the_same_passwords_log_in(adopted: Adopted) -> None:
    router, expected, _ = adopted
    for name, password in expected["users"].items():
        assert router.log_in(name, password)[0] == 200
    assert router.log_in("admin", "wrong")[0] == 401


def test_an_administrator_is_staff(adopted: Adopted) -> None:
    router, expected, _ = adopted
    _, browser = router.log_in("admin", expected["users"]["admin"])
    assert "gpu-box 1" in browser.open(f"{router.url}/admin/endpoints/endpoint/").read().decode()


def test_the_history_is_readable(adopted: Adopted) -> None:
    router, expected, path = adopted
    _, browser = router.log_in("admin", expected["users"]["admin"])
    page = browser.open(f"{router.url}/admin/metrics/requesthistory/").read().decode()
    assert page.count('<tr><th class="field-completed') == 50
    response = router.get("/api/requests?limit=200")
    assert len(response.json()["requests"]) == 200
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM request_history").fetchone() == (600,)


# A return to llmlb


def figures(router: RouterDash) -> dict[str, Any]:
    """Return all figures of totals, usage and clients, by name."""
    stats = router.stats()
    by_name: dict[str, Any] = {
        name: stats[name]
        for name in (
            "total_requests", "successful_requests", "failed_requests", "total_input_tokens", "total_output_tokens",
        )
    }  # fmt: skip
    by_name["endpoints"] = {row["id"]: row["total_requests"] for row in router.get("/api/dashboard/endpoints").json()}
    for name, path in {
        "daily": "/api/dashboard/stats/tokens/daily?days=365",
        "monthly": "/api/dashboard/stats/tokens/monthly?months=36",
    }.items():
        rows = router.get(path).json()
        by_name[name] = {key: sum(row[key] for row in rows) for key in ("request_count", "total_tokens")}
    clients = router.get("/api/dashboard/clients?per_page=100&range=30d").json()
    by_name["clients"] = {row["ip"]: row["request_count"] for row in clients["rankings"]}
    usage = router.get("/api/usage?by=key").json()
    by_name["usage"] = usage["total"]["requests"]
    by_name["timeline"] = {
        slot["minute"]: slot["success"] + slot["error"]
        for slot in router.get("/api/dashboard/request-history").json()
        if slot["success"] or slot["error"]
    }
    return by_name


@pytest.fixture
def taken_over(tmp_path: Path) -> Iterator[tuple[RouterDash, Path]]:
    """Return an adopted installation that has not been started yet."""
    path = tmp_path / "load balancer.db"
    make(path, requests=300)
    router = RouterDash(tmp_path, DATABASE_URL=f"sqlite:///{path}")
    assert router.manage("adopt").returncode == 0
    yield router, path
    router.kill()


def agrees(router: RouterDash) -> bool:
    return router.manage("reconcile", "--thorough").stdout.endswith("all figures agree\n")


def priced_requests(router: RouterDash) -> int:
    return sum(cost["requests"] for cost in router.get("/api/usage?since=2025-01-01").json()["costs"])


def test_adopt_serve_llmlb_again_serve(taken_over: tuple[RouterDash, Path], sim: Simulator) -> None:
    """All figures include the requests that llmlb served between two starts, exactly once."""
    router, path = taken_over
    router.start()
    router.add(sim.add(models=["ours"]))
    price = {"pattern": "*", "currency": "EUR", "request": "0.5", "valid_from": "2020-01-01T00:00:00Z"}
    assert router.post("/api/prices", price).status == 201
    assert [router.chat("ours").status for _ in range(5)] == [200] * 5
    until(lambda: router.stats()["records_waiting"] == 0)
    first = figures(router)
    assert first["daily"]["request_count"] == 305  # the days of llmlb are included from the beginning
    router.stop()

    served = serve_again(path, 100)
    assert served.counted.total() > served.rows - 10 > 60
    before_start = router.manage("reconcile")
    assert before_start.returncode == 1
    assert f"adoption: requests of llmlb that no total counts in request_history: expected 0, found {served.rows}" in (
        before_start.stdout
    )

    router.start()
    second = figures(router)
    assert second["total_requests"] - first["total_requests"] == served.counted.total()
    assert second["successful_requests"] - first["successful_requests"] == served.counted["ok"]
    assert second["total_input_tokens"] - first["total_input_tokens"] == served.input_tokens
    assert second["total_output_tokens"] - first["total_output_tokens"] == served.output_tokens
    for name in ("daily", "monthly"):
        assert second[name]["request_count"] - first[name]["request_count"] == served.rows
    assert second["usage"] - first["usage"] == served.rows
    for ip, count in served.clients.items():
        assert second["clients"][ip] == count
    for minute, count in served.minutes.items():
        assert second["timeline"][minute] >= count
    grown = Counter({key: count - first["endpoints"][key] for key, count in second["endpoints"].items()})
    assert +grown == served.endpoints
    assert agrees(router)
    assert priced_requests(router) == 5  # those of llmlb have no price

    assert [router.chat("ours").status for _ in range(3)] == [200] * 3
    until(lambda: router.stats()["records_waiting"] == 0)
    assert agrees(router)
    assert priced_requests(router) == 8
    router.kill()
    router.start()
    third = figures(router)
    assert third["total_requests"] == second["total_requests"] + 3
    assert third["clients"].keys() == second["clients"].keys() | {"127.0.0.1"}
    assert third["daily"]["request_count"] == second["daily"]["request_count"] + 3


def test_endpoints_deleted_and_added_by_llmlb_between_starts(taken_over: tuple[RouterDash, Path]) -> None:
    router, path = taken_over
    router.start()
    first = figures(router)
    router.stop()
    one = serve_again(path, 40)
    gone = max(one.endpoints, key=lambda endpoint_id: one.endpoints[endpoint_id])
    change_endpoints(path, deleted=gone, added={"11111111-2222-4333-8444-555555555555": "came"})
    other = serve_again(path, 40, seed=8)
    assert other.endpoints["11111111-2222-4333-8444-555555555555"]
    router.start()
    second = figures(router)
    assert second["total_requests"] - first["total_requests"] == one.counted.total() + other.counted.total()
    assert second["usage"] - first["usage"] == one.rows + other.rows
    assert gone not in second["endpoints"]
    assert agrees(router)


def test_llmlb_runs_twice_between_starts(taken_over: tuple[RouterDash, Path]) -> None:
    router, path = taken_over
    counted = 0
    router.start()
    first = figures(router)
    for seed in (11, 12):
        router.stop()
        counted += serve_again(path, 30, seed=seed).counted.total()
        router.start()
        assert agrees(router)
    assert figures(router)["total_requests"] - first["total_requests"] == counted


def test_totals_include_only_responses_of_llmlb_between_starts(taken_over: tuple[RouterDash, Path]) -> None:
    """llmlb keeps no history of these; its counters and daily rows have them."""
    router, path = taken_over
    with closing(sqlite3.connect(path)) as db:
        ((endpoint_id,),) = db.execute("SELECT id FROM endpoints ORDER BY 1 LIMIT 1").fetchall()
    router.start()
    first = router.stats()["total_requests"]
    router.stop()
    with closing(sqlite3.connect(path)) as db:
        for _ in range(4):
            db.execute(COUNTERS, (1, 0, endpoint_id))
            db.execute(DAILY, (endpoint_id, "m", datetime.now(UTC).date().isoformat(), 1, 0, 5, 5, "responses"))
        db.commit()
    assert router.manage("reconcile").returncode == 1
    router.start()
    assert router.stats()["total_requests"] == first + 4
    assert agrees(router)
