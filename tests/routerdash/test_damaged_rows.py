"""One damaged cell of a database that llmlb wrote costs only itself: pages and API answer, and other rows count."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from access.directory import access
from access.models import User
from endpoints.registry import registry
from metrics import adopted, seeding, teller
from routerdash import reference
from tests.access.people import Api, make_admin, session_of
from tests.metrics.world import UTC_ZONE, World, forget_figures, rows

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores anything in any column"),
]

GOOD, BAD = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
KEY = "cccccccc-0000-4000-8000-000000000003"
REQUEST = "dddddddd-0000-4000-8000-00000000000{}"
HUGE = (1 << 63) - 1
DAMAGE: tuple[Any, ...] = (b"\xff\x00\xfe", "no such thing", HUGE, -HUGE, 1.5, "")
TABLES = ("endpoints", "endpoint_models", "endpoint_health_checks", "endpoint_daily_stats", "request_history")
KEYS = {
    "endpoints": ("id", BAD), "endpoint_models": ("endpoint_id", BAD), "endpoint_health_checks": ("endpoint_id", BAD),
    "endpoint_daily_stats": ("endpoint_id", BAD), "request_history": ("id", REQUEST.format(2)),
}  # fmt: skip
PATHS = (
    "/", "/endpoints", f"/endpoints/{GOOD}", f"/endpoints/{BAD}", "/models", "/requests", "/usage", "/clients", "/live", "/keys",
    "/search?q=a", "/admin/endpoints/endpoint/", "/admin/metrics/requesthistory/", "/metrics", "/health",
    "/api/dashboard/overview", "/api/dashboard/endpoints", "/api/dashboard/stats", "/api/dashboard/request-history",
    "/api/dashboard/request-responses", "/api/dashboard/model-stats", "/api/dashboard/stats/tokens/daily",
    "/api/dashboard/clients", "/api/endpoints", f"/api/endpoints/{GOOD}", f"/api/endpoints/{BAD}",
    f"/api/endpoints/{BAD}/daily-stats", f"/api/endpoints/{BAD}/model-tps", f"/api/endpoints/{BAD}/model-stats",
    "/api/requests", "/api/usage", "/api/models",
)  # fmt: skip


def cells() -> Iterator[tuple[str, str]]:
    for table in TABLES:
        for column in reference.schema()[table]["columns"]:
            yield table, column["name"]


def insert(table: str, **row: Any) -> None:
    rows(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())


@pytest.fixture
def written(teller_world: World, admin: User) -> datetime:
    """Two endpoints with a model, checks, a daily row and two requests each, as llmlb writes them."""
    now = datetime.now(UTC)
    stamp = (now - timedelta(minutes=5)).isoformat()
    for number, (endpoint_id, name) in enumerate(((GOOD, "good"), (BAD, "bad"))):
        insert(
            "endpoints", id=endpoint_id, name=name, base_url=f"http://{name}.invalid", status="online", latency_ms=5,
            last_seen=stamp, registered_at=stamp, notes="a note", capabilities='["chat_completion"]',
            total_requests=2, successful_requests=1, failed_requests=1, health_check_interval_secs=30,
            inference_timeout_secs=120, error_count=0, endpoint_type="vllm", last_error="it was away",
            device_info='{"device_type": "cpu"}', inference_latency_ms=3.5, api_key_encrypted="sk-upstream",
        )  # fmt: skip
        insert("endpoint_models", endpoint_id=endpoint_id, model_id="tiny", capabilities='["chat"]', last_checked=stamp,
               max_tokens=4096, canonical_name="org/tiny", supported_apis='["chat_completions"]')  # fmt: skip
        for before in ("offline", "online"):
            insert("endpoint_health_checks", endpoint_id=endpoint_id, checked_at=stamp, success=1, latency_ms=5,
                   error_message="why", status_before=before, status_after="online")  # fmt: skip
        insert("endpoint_daily_stats", endpoint_id=endpoint_id, model_id="tiny", date=now.date().isoformat(),
               api_kind="chat_completions", total_requests=2, successful_requests=1, failed_requests=1,
               total_output_tokens=50, total_duration_ms=1000)  # fmt: skip
        for at, status in enumerate(("success", "error")):
            insert("request_history", id=REQUEST.format(number * 2 + at + 1), timestamp=stamp, completed_at=stamp,
                   request_type="Chat", model="tiny", endpoint_id=endpoint_id, endpoint_name=name, endpoint_ip="0.0.0.0",
                   client_ip="192.168.1.7", request_body=json.dumps({"model": "tiny"}),
                   response_body=json.dumps({}), duration_ms=1000, status=status, error_message="why",
                   input_tokens=10, output_tokens=20, total_tokens=30, api_key_id=KEY)  # fmt: skip
    return now


@pytest.fixture
def teller_world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, nothing_cached: None) -> World:
    forget_figures(monkeypatch, tmp_path / "journal")
    return World(tmp_path / "journal", process_wide=True)


@pytest.fixture
def admin(db: None) -> User:
    return make_admin()


def start() -> None:
    """As a start does."""
    adopted.catch_up(UTC_ZONE, lambda text: None)
    seeding.seed()
    registry.reload()
    access.reload()


def look(client: Api) -> list[str]:
    found = []
    for path in PATHS:
        try:
            code = client.get(path).status_code
        except Exception as error:
            found.append(f"{path} {type(error).__name__}: {error}")
            continue
        if code != 200 and not (code == 404 and BAD in path):
            found.append(f"{path} {code}")
    return found


@pytest.mark.parametrize(("table", "column"), list(cells()))
def test_a_damaged_cell_costs_only_itself(written: datetime, admin: User, table: str, column: str) -> None:
    key, value = KEYS[table]
    found = []
    for damage in DAMAGE:
        with transaction.atomic():
            rows("PRAGMA ignore_check_constraints = 1")
            rows(f"UPDATE {table} SET {column} = %s WHERE {key} = %s", damage, value)
            client = session_of(admin)
            client.raise_request_exception = True
            try:
                start()
                stats = teller.folder.figures()
                found += [f"{damage!r} {it}" for it in look(client)]
                if stats.totals.get("requests_ok", 0) < 1:
                    found.append(f"{damage!r} totals {stats.totals}")
            except Exception as error:
                found.append(f"{damage!r} start {type(error).__name__}: {error}")
            transaction.set_rollback(True)
    assert not found, "\n".join(found)
