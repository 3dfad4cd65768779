"""A database of the reference, taken over and served: everything that was there is there, by HTTP."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT, clean_environment
from tests.reference.make_reference_db import make
from tests.router import RouterDash
from tests.routerdash.processes import manage

pytestmark = pytest.mark.timeout(180)

Adopted = tuple[RouterDash, dict[str, Any], Path]


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopted]:
    directory = tmp_path_factory.mktemp("adopted")
    path = directory / "load balancer.db"  # the reference's own file name, with its blank
    expected = make(path, requests=600)
    # Checks every hour: latencies stay as the reference measured them while these tests look.
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
    found: str = expected["api_keys"][name]["key"]
    return found


def test_counters_and_latencies(adopted: Adopted) -> None:
    router, expected, _ = adopted
    rows = {row["name"]: row for row in router.get("/api/dashboard/endpoints").json()}
    for name, figures in expected["endpoints"].items():
        for column in ("id", "total_requests", "successful_requests", "failed_requests"):
            assert rows[name][column] == figures[column]
    # Nothing listens there: the first check at the start found them gone, and left each latency as it was.
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
        found = router.get(f"/api/endpoints/{row['endpoint_id']}/model-tps").json()
        one = next(it for it in found if (it["model_id"], it["api_kind"]) == (row["model_id"], row["api_kind"]))
        assert one["tps"] == pytest.approx(row["tps"], rel=1e-9)


def test_totals_include_endpoints_deleted_long_ago(adopted: Adopted) -> None:
    router, expected, _ = adopted
    total = sum(figures["total_requests"] for figures in expected["endpoints"].values())
    assert router.stats()["total_requests"] == total + expected["deleted_endpoint"]["total_requests"]


def test_all_figures_agree(adopted: Adopted) -> None:
    """In the database, and as they are told of it."""
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


def test_history_reads(adopted: Adopted) -> None:
    router, expected, path = adopted
    _, browser = router.log_in("admin", expected["users"]["admin"])
    page = browser.open(f"{router.url}/admin/metrics/requesthistory/").read().decode()
    assert page.count('<tr><th class="field-completed') == 50
    answer = router.get("/api/requests?limit=200")
    assert len(answer.json()["requests"]) == 200
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM request_history").fetchone() == (600,)
