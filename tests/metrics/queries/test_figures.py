"""Names and formulas of the dashboard's figures."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import OperationalError, connection
from django.db.models import F

from endpoints.models import Endpoint, EndpointModel, HealthCheck
from endpoints.registry import registry
from gateway.base.request_kinds import CHAT, COMPLETIONS
from gateway.ipc import journal, record
from gateway.ipc.record import Unrecorded
from metrics.memory.backlog import Backlog
from metrics.memory.journal_reader import JournalReader
from metrics.memory.runtime import runtime
from metrics.models import DailyStat
from metrics.queries import figures as queries_figures
from metrics.queries import overview
from metrics.queries.figures import Moment
from metrics.queries.live import speeds
from metrics.queries.stored import counted_endpoints, daily_stats, flushed, model_stats
from metrics.times import json_time
from tests.metrics.records import AT, NOW, A, B, attempt, load, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]


def stats() -> dict[str, Any]:
    return dict(queries_figures.stats(Moment.now()))


def of(endpoint_id: str, figures: Sequence[Any]) -> dict[str, Any]:
    return next(row for row in figures if row.get("id", row.get("endpoint_id")) == endpoint_id)


def endpoint(endpoint_id: str = A) -> dict[str, Any]:
    return of(endpoint_id, queries_figures.endpoints(Moment.now()))


def change(**fields: Any) -> None:
    Endpoint.objects.filter(pk=A).update(**fields)
    registry.reload()


# Times


def test_json_times_are_utc_with_z() -> None:
    assert json_time(None) is None
    moment = datetime(2026, 3, 10, 13, 0, 0, 123456, tzinfo=ZoneInfo("Europe/Berlin"))
    assert json_time(moment) == "2026-03-10T12:00:00.123Z"


def test_figures_of_a_moment_do_not_change(shown_world: World, endpoints: object) -> None:
    gateway = shown_world.gateway(request())
    moment = Moment.now()
    gateway.append(request())
    assert of(A, queries_figures.endpoints(moment))["total_requests"] == 1
    assert queries_figures.stats(moment)["total_requests"] == 1
    assert endpoint()["total_requests"] == 2


def test_the_next_read_includes_the_request_that_just_ended(shown_world: World, endpoints: object) -> None:
    gateway = shown_world.gateway()
    for count in range(1, 4):
        gateway.append(request(record.OK if count < 3 else record.FAILED))
        assert endpoint()["total_requests"] == count
    assert (endpoint()["successful_requests"], endpoint()["failed_requests"]) == (2, 1)


# Endpoints


def test_an_endpoint_without_requests_counts_zeros(endpoints: object) -> None:
    row = endpoint()
    names = ("total_requests", "successful_requests", "failed_requests", "cancelled_requests", "active_requests")
    assert [row[name] for name in names] == [0] * 5


def test_an_endpoint_has_all_fields() -> None:
    made = add_endpoint(A, "a", latency_ms=120, last_seen=NOW, last_error="HTTP 503", error_count=1, notes="rack 3")
    EndpointModel(endpoint=made, model_id="tiny").save(force_insert=True)
    registry.reload()
    row = endpoint()
    assert (row["latency_ms"], row["last_error"], row["error_count"], row["notes"]) == (120, "HTTP 503", 1, "rack 3")
    assert (row["last_seen"], row["model_count"]) == ("2026-03-10T12:00:30.000Z", 1)


def test_figures_contain_no_secrets() -> None:
    add_endpoint(A, "a", api_key_encrypted="sk-upstream-secret")
    assert "sk-upstream-secret" not in str(overview.live())


def test_cancelled_requests_are_counted_separately(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(record.CANCELLED))
    assert (endpoint()["total_requests"], endpoint()["cancelled_requests"]) == (0, 1)


def test_requests_in_flight_come_from_the_live_page(endpoints: object) -> None:
    fake_installation().in_flight = lambda: {A: 3, B: 1, "gone": 2}
    assert endpoint()["active_requests"] == 3
    assert stats()["total_active_requests"] == 6


def test_an_offline_endpoint_keeps_its_latency() -> None:
    add_endpoint(A, "a", latency_ms=120, status="offline")
    assert (endpoint()["status"], endpoint()["latency_ms"]) == ("offline", 120)


# Stats


def test_requests_are_counted_once_and_attempts_each(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(attempts=(attempt(record.FAILED, B), attempt())))
    assert (stats()["total_requests"], stats()["successful_requests"], stats()["failed_requests"]) == (1, 1, 0)
    assert (endpoint(A)["total_requests"], endpoint(B)["failed_requests"]) == (1, 1)


def test_every_outcome_has_its_total(shown_world: World) -> None:
    outcomes = (record.OK, record.FAILED, record.REFUSED, record.NO_ENDPOINT, record.CANCELLED)
    shown_world.gateway(*map(request, outcomes), request(record.REJECTED, error="unknown_key"), Unrecorded(4))
    reported = stats()
    names = ("total_requests", "failed_requests", "cancelled_requests", "rejected_requests", "records_unrecorded")
    assert [reported[name] for name in names] == [4, 3, 1, 1, 4]


def test_the_oldest_waiting_record_has_an_age(shown_world: World, endpoints: object, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    gateway = shown_world.gateway(request(ago=50), request(ago=40))
    assert stats()["oldest_waiting_secs"] == 50
    shown_world.write()
    assert stats()["oldest_waiting_secs"] is None
    gateway.append(request(ago=30))
    assert stats()["oldest_waiting_secs"] == 30


def test_the_oldest_waiting_record_is_read_once(shown_world: World, endpoints: object, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    shown_world.gateway(request(ago=50))
    gateway = shown_world.gateway(request(ago=60))
    assert stats()["oldest_waiting_secs"] == 60
    with monkeypatch.context() as patch:
        patch.setattr(JournalReader, "next_end", None)
        assert stats()["oldest_waiting_secs"] == 60
    shown_world.write()
    gateway.append(request(ago=20))
    assert stats()["oldest_waiting_secs"] == 20


def test_the_age_of_waiting_records_comes_from_the_fold(
    shown_world: World, endpoints: object, monkeypatch: Any
) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    shown_world.gateway(request(ago=50))
    shown_world.follower.catch_up()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "read", None)
        assert shown_world.writer.oldest_waiting() == AT - 50


def test_the_last_batch_of_the_writer_is_reported(shown_world: World, endpoints: object, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    shown_world.gateway(request(), request())
    shown_world.write()
    reported = stats()
    assert (reported["last_batch_records"], reported["last_commit_at"]) == (2, json_time(NOW))
    assert reported["last_batch_ms"] > 0


def test_errors_of_the_writer_are_reported(shown_world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    for _ in range(2):
        shown_world.writer._record_failure(OperationalError("disk I/O error\nline 2"))
    assert (stats()["writer_errors"], stats()["writer_error"]) == (2, "disk I/O error")


def test_records_wait_only_once_the_database_is_behind(shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    assert stats()["records_waiting_secs"] is None
    shown_world.writer.backlog.behind_since = time.time() - 5
    assert stats()["records_waiting_secs"] >= 5


def test_a_batch_that_waits_for_the_database_is_reported(shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    shown_world.writer.backlog.busy_since = time.time() - 0.5
    assert stats()["records_waiting_secs"] is None
    shown_world.writer.backlog.busy_since = time.time() - 7
    assert stats()["records_waiting_secs"] == pytest.approx(7)


def test_unrecorded_requests_are_reported_while_the_journal_fails(shown_world: World) -> None:
    shown_world.gateway(Unrecorded(4))
    fake_installation().unrecorded = lambda: 2
    assert stats()["records_unrecorded"] == 6


def test_rejections_are_counted_by_reason(shown_world: World) -> None:
    shown_world.gateway(*[request(record.REJECTED, error=code) for code in ("b", "a", "b")])
    assert stats()["rejected_by_reason"] == {"a": 1, "b": 2}


def test_tokens_are_counted(shown_world: World) -> None:
    shown_world.gateway(request(input_tokens=3, output_tokens=5))
    assert [stats()[f"total_{name}tokens"] for name in ("input_", "output_", "")] == [3, 5, 8]


def test_endpoints_are_counted_by_status() -> None:
    for number, status in enumerate(("online", "online", "pending", "offline", "error")):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number}", status=status)
    names = ("total", "online", "pending", "registering", "offline")
    assert [stats()[f"{name}_runtimes"] for name in names] == [5, 2, 1, 0, 2]


def test_the_last_times_are_those_of_all_endpoints() -> None:
    add_endpoint(A, "a", last_seen=NOW - timedelta(seconds=5), registered_at=NOW - timedelta(days=1))
    add_endpoint(B, "b", last_seen=None, registered_at=NOW)
    assert (stats()["last_seen_at"], stats()["last_registered_at"]) == (
        "2026-03-10T12:00:25.000Z",
        "2026-03-10T12:00:30.000Z",
    )


def test_without_endpoints_there_is_no_last_time() -> None:
    assert (stats()["last_seen_at"], stats()["last_registered_at"]) == (None, None)


def test_figures_that_are_not_measured_are_null() -> None:
    names = ("average_gpu_usage", "average_gpu_memory_usage", "last_metrics_updated_at")
    assert [stats()[name] for name in names] == [None] * 3


def test_waiting_records_are_counted(shown_world: World) -> None:
    shown_world.gateway(request(), request())
    assert stats()["records_waiting"] == 2


def test_damaged_bytes_are_counted(shown_world: World) -> None:
    path = shown_world.path(shown_world.gateway(request()))
    (segment,) = path.iterdir()
    segment.write_bytes(b"nonsense" + segment.read_bytes())
    assert stats()["journal_damaged_bytes"] == 8


def test_the_version_changes_only_with_the_counts(shown_world: World) -> None:
    gateway = shown_world.gateway(request())
    before = stats()
    assert stats() == before
    gateway.append(request())
    assert stats()["figures_version"] > before["figures_version"]


def test_figures_report_whether_they_are_restored(shown_world: World) -> None:
    assert stats()["figures_restored"] is False
    shown_world.follower.seed(shown_world.trackers.state, "db")
    assert stats()["figures_restored"] is True


# The average response time (S3)


def test_the_average_is_over_served_requests(shown_world: World) -> None:
    add_endpoint(A, "a", latency_ms=9999, status="online")
    shown_world.gateway(request(duration_us=100_000), request(duration_us=300_000), request(record.FAILED))
    assert stats()["average_response_time_ms"] == 200


def test_without_served_requests_the_average_is_the_mean_latency() -> None:
    for number, latency in enumerate((100, 200)):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number}", latency_ms=latency, status="online")
    assert stats()["average_response_time_ms"] == 150


@pytest.mark.parametrize("fields", [{"status": "offline", "latency_ms": 9}, {"status": "online", "latency_ms": None}])
def test_the_mean_latency_excludes_endpoints_offline_or_not_measured(fields: dict[str, Any]) -> None:
    add_endpoint(A, "a", latency_ms=100, status="online")
    add_endpoint(B, "b", **fields)
    assert stats()["average_response_time_ms"] == 100


def test_the_mean_latency_excludes_disabled_endpoints() -> None:
    add_endpoint(A, "a", latency_ms=100, status="online").set_operator_state("disabled")
    registry.reload()
    assert stats()["average_response_time_ms"] is None


def test_without_any_value_the_average_is_null(endpoints: object) -> None:
    assert stats()["average_response_time_ms"] is None


# History, speeds


def test_the_history_is_60_minutes_with_z(shown_world: World) -> None:
    shown_world.gateway(request(), request(record.FAILED, ago=120))
    minutes = queries_figures.history(Moment.now().figures)
    assert len(minutes) == 60
    assert minutes[-1] == {"minute": "2026-03-10T12:00:00Z", "success": 1, "error": 0}
    assert minutes[-3] == {"minute": "2026-03-10T11:58:00Z", "success": 0, "error": 1}


def test_only_endpoints_with_a_speed_have_an_aggregate(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100), request(endpoint=B))
    assert queries_figures.endpoint_tps(Moment.now()) == [
        {
            "endpoint_id": A,
            "model_count": 1,
            "aggregate_tps": 50,
            "total_output_tokens": 100,
            "total_requests": 1,
        }
    ]


def test_the_aggregate_is_tokens_per_time_of_all_models(shown_world: World, endpoints: object) -> None:
    fast = request(model="fast", output_tokens=300, attempts=(attempt(duration_us=1_000_000),))
    shown_world.gateway(request(output_tokens=100), fast, request(kind=COMPLETIONS, output_tokens=200))
    (row,) = queries_figures.endpoint_tps(Moment.now())
    assert (row["model_count"], row["aggregate_tps"]) == (2, 120)


def test_on_the_next_day_the_aggregate_is_not_measured(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100))
    with time_machine.travel(NOW + timedelta(days=1), tick=False):
        (row,) = queries_figures.endpoint_tps(Moment.now())
    assert (row["aggregate_tps"], row["total_output_tokens"], row["total_requests"]) == (None, 0, 0)


def test_each_model_has_its_speed(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100))
    assert queries_figures.model_tps(A, Moment.now()) == [
        {
            "model_id": "tiny", "api_kind": CHAT, "source": "production", "tps": 50, "request_count": 1,
            "total_output_tokens": 100, "average_duration_ms": 2000,
        },
    ]  # fmt: skip


def test_a_model_with_failures_only_has_no_speed(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(record.FAILED))
    (row,) = queries_figures.model_tps(A, Moment.now())
    assert (row["tps"], row["request_count"], row["average_duration_ms"]) == (None, 0, None)


def test_an_endpoint_without_responses_has_no_speeds(endpoints: object) -> None:
    assert queries_figures.model_tps(A, Moment.now()) == []


def test_an_offline_endpoint_keeps_its_speed(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100))
    change(status="offline")
    assert queries_figures.model_tps(A, Moment.now())[0]["tps"] == 50


# From the database


def test_todays_attempts(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(), request(record.FAILED, model="large"), request(ago=86_400), request(endpoint=B))
    assert queries_figures.today_stats(A, Moment.now()) == {
        "date": "2026-03-10", "total_requests": 2, "successful_requests": 1, "failed_requests": 1,
    }  # fmt: skip


def day(date: str, total: int, failed: int = 0, *, model: str = "tiny", endpoint_id: str = A, tokens: int = 0) -> None:
    DailyStat(
        endpoint_id=endpoint_id, model_id=model, date=date, api_kind=CHAT, total_requests=total,
        successful_requests=total - failed, failed_requests=failed, total_output_tokens=tokens,
    ).save(force_insert=True)  # fmt: skip


def test_days_with_rows_oldest_first() -> None:
    day("2026-03-10", 2, 1)
    day("2026-03-08", 5, model="a")
    day("2026-03-08", 6, model="b")
    day("2026-03-09", 7, endpoint_id=B)
    days = daily_stats(A, 7, "2026-03-10")
    assert [(row["date"], row["total_requests"], row["failed_requests"]) for row in days] == [
        ("2026-03-08", 11, 0),
        ("2026-03-10", 2, 1),
    ]


@pytest.mark.parametrize(("days", "dates"), [(1, 1), (2, 2), (7, 2), (8, 3)])
def test_days_cover_the_requested_number_and_include_today(days: int, dates: int) -> None:
    for date in ("2026-03-10", "2026-03-09", "2026-03-03"):
        day(date, 1)
    assert len(daily_stats(A, days, "2026-03-10")) == dates


def test_models_of_all_time_busiest_first() -> None:
    day("2026-03-10", 2, model="rare", tokens=9)
    day("2025-01-01", 5, 1, model="busy")
    day("2026-03-10", 5, model="busy")
    models = model_stats(A)
    assert [(row["model_id"], row["total_requests"], row["failed_requests"]) for row in models] == [
        ("busy", 10, 1),
        ("rare", 2, 0),
    ]
    assert models[1]["total_output_tokens"] == 9


def test_models_of_all_endpoints_belong_to_existing_endpoints(endpoints: object) -> None:
    registry.reload()
    gone = "eeeeeeee-0000-4000-8000-000000000009"
    day("2026-03-10", 2, model="large")
    assert [row["total_requests"] for row in model_stats()] == [2]
    DailyStat.objects.create(endpoint_id=gone, model_id="large", date="2026-03-10", total_requests=7)
    assert counted_endpoints() == {A, gone}
    assert [row["total_requests"] for row in model_stats()] == [2]


def test_without_a_writer_there_is_no_wait() -> None:
    assert flushed() is True


@pytest.mark.parametrize("done", [True, False])
def test_figures_of_the_database_wait_for_the_writer(done: bool) -> None:
    writer: Any = SimpleNamespace(flush=lambda: done, backlog=Backlog())
    fake_installation().writer = writer
    assert flushed() is done


def test_there_is_no_wait_for_a_writer_that_is_far_behind() -> None:
    writer: Any = SimpleNamespace(flush=lambda: pytest.fail("waited"), backlog=Backlog(behind_since=AT - 5))
    fake_installation().writer = writer
    assert flushed() is False


# All figures together


def test_the_overview_is_of_one_moment(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100))
    payload = queries_figures.overview()
    assert set(payload) == {"endpoints", "stats", "history", "endpoint_tps", "generated_at", "generation_time_ms"}
    assert payload["generated_at"] == json_time(datetime.fromtimestamp(AT, UTC))
    assert payload["history"][-1]["success"] == payload["stats"]["total_requests"] == 1


def test_pages_receive_the_speed_of_each_model(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=100))
    payload = overview.live()
    assert [(row["endpoint_name"], row["tps"]) for row in payload["speeds"]] == [("a", 50)]
    assert payload["speeds_known"] == 1


def test_pages_receive_the_speeds_of_the_busiest_models(
    shown_world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "SHOWN", 2)
    busy = [request(model=model, endpoint=B) for model in ("z", "z", "z", "b", "b")]
    shown_world.gateway(request(model="once"), *busy)
    payload = overview.live()
    assert [row["model_id"] for row in payload["speeds"]] == ["b", "z"]
    assert payload["speeds_known"] == 3


def test_all_speeds_are_those_of_each_endpoint(shown_world: World, endpoints: object) -> None:
    shown_world.gateway(*load(6, 60))
    moment = Moment.now()
    each = [(entry, row) for entry in moment.entries for row in queries_figures.model_tps(entry.id, moment)]
    assert list(queries_figures.all_model_tps(moment)) == each != []


def test_changes_of_status_are_found_by_their_own_index(endpoints: object) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("plans of PostgreSQL depend on its statistics")
    checks = HealthCheck.objects.filter(endpoint_id=A).exclude(status_before=F("status_after")).order_by("-id")
    assert "USING INDEX checks_changes (endpoint_id=?)" in checks.explain()
