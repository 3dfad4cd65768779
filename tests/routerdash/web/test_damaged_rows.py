"""A damaged cell in a database of llmlb affects only itself: pages and API respond, and other rows are counted."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from access.directory import access
from access.models import User
from endpoints.registry import registry
from gateway.ipc import journal
from metrics.counting.cells import Counters
from metrics.memory.runtime import runtime
from metrics.storage import seeding
from tests import payload_types
from tests.access.people import Api, make_admin, session_of
from tests.metrics.records import request as request_of
from tests.metrics.world import World, count_adopted, forget_figures, rows
from tests.slices import module_of_slice

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores any value in any column"),
]


@pytest.fixture(autouse=True)
def _damaged_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept responses that have a damaged value where their payload declares another type."""
    monkeypatch.setattr(payload_types, "_compare", lambda response, declared: None)


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
    "/", "/endpoints", f"/endpoints/{GOOD}", f"/endpoints/{BAD}", "/models", "/requests", "/usage", "/clients",
    "/live", "/keys",
    "/search?q=a", "/admin/endpoints/endpoint/", "/admin/metrics/requesthistory/", "/metrics", "/health",
    "/api/dashboard/overview", "/api/dashboard/endpoints", "/api/dashboard/stats", "/api/dashboard/request-history",
    "/api/dashboard/request-responses", "/api/dashboard/model-stats", "/api/dashboard/stats/tokens/daily",
    "/api/dashboard/clients", "/api/endpoints", f"/api/endpoints/{GOOD}", f"/api/endpoints/{BAD}",
    f"/api/endpoints/{BAD}/daily-stats", f"/api/endpoints/{BAD}/model-tps", f"/api/endpoints/{BAD}/model-stats",
    "/api/requests", "/api/usage", "/api/models", "/clients/192.168.1.7",
)  # fmt: skip
FEW_PATHS = ("/", "/api/dashboard/overview", "/api/endpoints", f"/endpoints/{BAD}", "/api/requests", "/metrics")


def columns(table: str) -> list[str]:
    llmlb_schema = module_of_slice("routerdash.adoption.llmlb_schema")
    return [column["name"] for column in llmlb_schema.schema()[table]["columns"]]


def insert(table: str, **row: Any) -> None:
    rows(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())


@pytest.fixture
def written(damaged_world: World, admin: User) -> None:
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
        for index, status in enumerate(("success", "error")):
            insert("request_history", id=REQUEST.format(number * 2 + index + 1), timestamp=stamp, completed_at=stamp,
                   request_type="Chat", model="tiny", endpoint_id=endpoint_id, endpoint_name=name,
                   endpoint_ip="0.0.0.0",
                   client_ip="192.168.1.7", request_body=json.dumps({"model": "tiny"}),
                   response_body=json.dumps({}), duration_ms=1000, status=status, error_message="why",
                   input_tokens=10, output_tokens=20, total_tokens=30, api_key_id=KEY)  # fmt: skip


@pytest.fixture
def damaged_world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, empty_caches: None) -> World:
    forget_figures(monkeypatch, tmp_path / "journal")
    return World(tmp_path / "journal", process_wide=True)


@pytest.fixture
def admin(db: None) -> User:
    return make_admin()


def start() -> None:
    """Start control's services as at a start."""
    count_adopted()
    seeding.seed()
    registry.reload()
    access.reload()


def look(client: Api, paths: Sequence[str]) -> list[str]:
    """Return failed requests. The page of an endpoint with a damaged ID is not found."""
    failures = []
    for path in paths:
        try:
            code = client.get(path).status_code
        except Exception as error:  # noqa: BLE001  # any error is reported with the others
            failures.append(f"{path} {type(error).__name__}: {error}")
            continue
        if code != 200 and not (code == 404 and BAD in path):
            failures.append(f"{path} {code}")
    return failures


def figures() -> list[str]:
    """Return missing figures of the undamaged rows."""
    reported, missing = runtime.follower.figures(), []
    if reported.endpoints[GOOD] != Counters(2, 1, 1):
        missing.append(f"counters {reported.endpoints[GOOD]}")
    if (timeline := sum(slot.success + slot.error for slot in reported.timeline)) < 3:
        missing.append(f"timeline {timeline}")
    ((usage,),) = rows("SELECT SUM(requests_ok + requests_failed) FROM rollup_days")
    if usage < 3:
        missing.append(f"usage {usage}")
    if reported.totals["requests_ok"] < 1 or reported.totals["output_tokens"] < 60:
        missing.append(f"totals {reported.totals}")
    return missing


def with_damage(client: Api, table: str, column: str, damage: Any, paths: Sequence[str]) -> list[str]:
    """Return the failures with this value in this cell."""
    key, value = KEYS[table]
    failures: list[str] = []
    with transaction.atomic():
        rows("PRAGMA ignore_check_constraints = 1")
        try:
            with transaction.atomic():
                rows(f"UPDATE {table} SET {column} = %s WHERE {key} = %s", damage, value)
        except IntegrityError:
            transaction.set_rollback(True)
            return []  # SQLite does not accept it either
        start()
        failures = [*figures(), *look(client, paths)]
        transaction.set_rollback(True)
    return [f"{table}.{column} = {damage!r}: {failure}" for failure in failures]


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_cell_affects_only_itself(
    written: None, admin: User, table: str, request: pytest.FixtureRequest
) -> None:
    """All columns with each damage on each page take minutes: `make hostile` tests them."""
    full = request.config.getoption("--hostile-full")
    client = session_of(admin)
    failures: list[str] = []
    for number, column in enumerate(columns(table)):
        for damage in DAMAGE if full else DAMAGE[:1] if number % 2 else DAMAGE[1:2]:
            failures += with_damage(client, table, column, damage, PATHS if full else FEW_PATHS)
    assert not failures, "\n".join(failures)


def test_a_missing_time_does_not_empty_the_timeline(written: None) -> None:
    rows("UPDATE request_history SET completed_at = 'no time' WHERE id = %s", REQUEST.format(2))
    start()
    assert sum(slot.success + slot.error for slot in runtime.follower.figures().timeline) == 3
    assert runtime.follower.figures().seeded


def test_durations_whose_sum_overflows_do_not_stop_the_writer(written: None, damaged_world: World) -> None:
    rows("UPDATE request_history SET duration_ms = 9223372036854775807 WHERE status = 'success'")
    start()
    damaged_world.follower.database_id = None
    seeding.seed()
    gateway = journal.Writer(damaged_world.root, str(damaged_world.follower.database_id))
    gateway.append(request_of(model="ours"))
    while damaged_world.writer.step().moves:
        pass
    gateway.close()
    assert rows("SELECT COUNT(*) FROM request_history WHERE model = 'ours'") == [(1,)]


def test_a_blob_in_an_endpoints_notes_is_shown_as_text(written: None, admin: User) -> None:
    rows("UPDATE endpoints SET notes = %s WHERE id = %s", b"caf\xe9", BAD)
    start()
    client = session_of(admin)
    for path in ("/api/dashboard/overview", "/api/dashboard/endpoints", "/api/endpoints", "/", "/endpoints"):
        assert client.get(path).status_code == 200
    assert client.get(f"/api/endpoints/{BAD}").json()["notes"] == "caf\ufffd"


def test_text_that_is_not_utf_8_is_counted(written: None) -> None:
    rows("UPDATE request_history SET error_message = CAST(%s AS text), model = CAST(%s AS text)", b"\xff", b"t\xff")
    start()
    assert rows("SELECT DISTINCT model FROM rollup_days") == [("t\ufffd",)]
