"""States of an endpoint over days, with a fixed clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings

from endpoints.edit_log import Edit
from endpoints.models import Endpoint, HealthCheck
from endpoints.registry import registry
from metrics.queries import uptime
from metrics.queries.uptime import CELLS, HealthTimeline
from tests.access.people import Api
from tests.metrics.records import NOW, A, B
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

LONG_AGO = NOW - timedelta(days=100)
HOUR = timedelta(hours=1)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    in_zone(monkeypatch, "UTC")


def in_zone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, time_zone=name))


def check(
    moment: datetime, before: str = "online", after: str = "online", error: str | None = None, of: str = A
) -> None:
    HealthCheck.objects.create(
        endpoint_id=of, checked_at=moment, success=after == "online", status_before=before, status_after=after,
        error_message=error,
    )  # fmt: skip


def beat(since: datetime = MIDNIGHT - timedelta(days=30), until: datetime = NOW, of: str = A) -> None:
    """Store one check per hour that changes no state."""
    checks = []
    while since < until:
        checks.append(
            HealthCheck(endpoint_id=of, checked_at=since, success=True, status_before="online", status_after="online")
        )
        since += HOUR
    HealthCheck.objects.bulk_create(checks)


def look(days: int = 1, details: tuple[Edit, ...] = ()) -> HealthTimeline:
    registry.reload()
    entry = registry.get(A)
    assert entry is not None
    return uptime.timeline(entry, days, details)


def states(timeline: HealthTimeline) -> list[tuple[str, float]]:
    """Return states with their lengths in hours, oldest first."""
    return [(span.state, span.seconds / 3600) for span in timeline.spans]


def change_of_state(ago: timedelta, before: str, after: str) -> Edit:
    return Edit(NOW - ago, "ada", 2, "", {"operator_state": (before, after)}, "")


@pytest.fixture
def online(db: None) -> None:
    add_endpoint(A, "a", status="online", registered_at=LONG_AGO)


def test_without_changes_the_state_is_the_current_one(online: None) -> None:
    beat()
    timeline = look()
    assert states(timeline) == [("online", 12 + 30 / 3600)]
    assert (timeline.uptime, timeline.spans[0].began) == (1.0, False)


def test_an_outage_is_the_time_between_two_changes(online: None) -> None:
    beat()
    check(MIDNIGHT + 2 * HOUR, "online", "error", "HTTP 500")
    check(MIDNIGHT + 3 * HOUR, "error", "offline", "no route")
    check(MIDNIGHT + 6 * HOUR, "offline", "online")
    timeline = look()
    assert states(timeline)[:3] == [("online", 2), ("error", 1), ("offline", 3)]
    assert [span.cause for span in timeline.spans] == [None, "HTTP 500", "no route", None]
    assert timeline.uptime == pytest.approx((2 + 6 + 30 / 3600) / (12 + 30 / 3600))


def test_before_the_first_change_the_state_is_the_one_before_it(online: None) -> None:
    beat()
    check(MIDNIGHT + HOUR, "offline", "online")
    assert states(look())[0] == ("offline", 1)


def test_changes_of_other_endpoints_are_ignored(online: None) -> None:
    add_endpoint(B, "b", registered_at=LONG_AGO)
    beat(of=B)
    check(MIDNIGHT + HOUR, "online", "offline", of=B)
    assert [state for state, _ in states(look())] == ["online"]


def test_a_time_without_checks_is_unknown(online: None) -> None:
    beat(until=MIDNIGHT + 2.5 * HOUR)
    beat(since=MIDNIGHT + 6 * HOUR)
    timeline = look()
    assert states(timeline)[:2] == [("online", 2), ("unknown", 4)]
    assert timeline.uptime == 1.0


def test_a_time_without_checks_can_last_until_now(online: None) -> None:
    beat(until=NOW - 3 * HOUR)
    assert states(look())[-1][0] == "unknown"


def test_an_hour_between_checks_is_not_unknown(online: None) -> None:
    beat()
    assert uptime.gaps_without_checks(MIDNIGHT, NOW) == []


def test_the_time_before_the_registration_is_unknown(online: None) -> None:
    beat()
    add_endpoint(B, "b", status="online", registered_at=MIDNIGHT + 5 * HOUR)
    entry = registry.get(B)
    assert entry is not None
    timeline = uptime.timeline(entry, 1, ())
    assert states(timeline)[0] == ("unknown", 5)
    assert timeline.uptime == 1.0


def test_time_in_an_operator_state_is_not_counted(online: None) -> None:
    beat()
    check(MIDNIGHT + 3 * HOUR, "online", "offline")
    check(MIDNIGHT + 9 * HOUR, "offline", "online")
    since_midnight = NOW - MIDNIGHT
    timeline = look(
        details=(
            change_of_state(since_midnight - 8 * HOUR, "disabled", "enabled"),
            change_of_state(since_midnight - 4 * HOUR, "enabled", "disabled"),
        )
    )
    assert states(timeline)[:4] == [("online", 3), ("offline", 1), ("disabled", 4), ("offline", 1)]
    assert timeline.spans[2].cause == "ada"
    assert timeline.seconds["disabled"] == 4 * 3600
    assert timeline.uptime == pytest.approx((3 + 3 + 30 / 3600) / (3 + 1 + 1 + 3 + 30 / 3600))


def test_an_earlier_operator_state_is_known_from_the_next_change(online: None) -> None:
    beat()
    timeline = look(details=(change_of_state(NOW - MIDNIGHT - 8 * HOUR, "draining", "enabled"),))
    assert states(timeline)[0] == ("draining", 8)


def test_without_changes_the_operator_state_is_the_current_one(online: None) -> None:
    beat()
    row = HealthCheck.objects.first()
    assert row is not None
    row.endpoint.set_operator_state("disabled")
    timeline = look()
    assert [state for state, _ in states(timeline)] == ["disabled"]
    assert timeline.uptime is None


def test_a_new_endpoint_has_no_uptime(db: None) -> None:
    add_endpoint(A, "a", registered_at=NOW)
    assert look(30).uptime is None


def test_each_day_has_its_own_uptime(online: None) -> None:
    beat()
    check(MIDNIGHT - 12 * HOUR, "online", "offline")
    check(MIDNIGHT - 6 * HOUR, "offline", "online")
    timeline = look(3)
    assert [day.uptime for day in timeline.days] == [1.0, 0.75, 1.0]
    assert sum(day.seconds["offline"] for day in timeline.days) == timeline.seconds["offline"] == 6 * 3600


def test_seconds_add_up_to_the_time_that_passed(online: None) -> None:
    beat(since=MIDNIGHT - 40 * HOUR, until=MIDNIGHT - 20 * HOUR)
    check(MIDNIGHT - 30 * HOUR, "online", "error")
    timeline = look(5)
    assert sum(timeline.seconds.values()) == (timeline.until - timeline.since).total_seconds()
    assert sum(sum(day.seconds.values()) for day in timeline.days) == pytest.approx(sum(timeline.seconds.values()))


def test_the_grid_shows_the_worst_of_each_quarter_of_an_hour(online: None) -> None:
    beat()
    check(MIDNIGHT + HOUR + timedelta(minutes=1), "online", "error")
    check(MIDNIGHT + HOUR + timedelta(minutes=2), "error", "offline")
    check(MIDNIGHT + HOUR + timedelta(minutes=3), "offline", "online")
    assert look().days[0].runs == (("online", 0, 4), ("offline", 4, 1), ("online", 5, 44), ("later", 49, 47))


@pytest.mark.parametrize(("date", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)])
def test_days_are_those_of_the_servers_zone(
    monkeypatch: pytest.MonkeyPatch, online: None, date: str, hours: int
) -> None:
    in_zone(monkeypatch, "Europe/Berlin")
    with time_machine.travel(datetime.fromisoformat(f"{date}T12:00:00+00:00") + 24 * HOUR, tick=False):
        day = look(2).days[0]
    assert (day.date.isoformat(), day.until - day.since) == (date, hours * HOUR)
    assert sum(cells for *_, cells in day.runs) == CELLS


def test_only_the_newest_changes_are_read(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uptime, "MAX_CHANGES", 2)
    beat()
    for hour, (before, after) in enumerate([("online", "offline"), ("offline", "online")] * 2, 1):
        check(MIDNIGHT + hour * HOUR, before, after)
    assert states(look())[:2] == [("unknown", 3), ("offline", 1)]


def test_number_of_queries_is_constant(online: None, django_assert_num_queries: Any) -> None:
    beat()
    entry = registry.all()[0]
    for _ in range(3):
        with django_assert_num_queries(2):
            uptime.timeline(entry, 30, ())
        for hour in range(10):
            check(MIDNIGHT + hour * HOUR, "online", "offline")
            check(MIDNIGHT + (hour + 0.5) * HOUR, "offline", "online")


# The API


def test_the_api_returns_the_uptime(as_viewer: Api, online: None) -> None:
    beat()
    check(MIDNIGHT + 2 * HOUR, "online", "offline", "no route")
    check(MIDNIGHT + 3 * HOUR, "offline", "online")
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/health?days=2").json()
    assert [span["state"] for span in reported["spans"]] == ["online", "offline", "online"]
    assert reported["spans"][1] == {
        "state": "offline",
        "since": "2026-03-10T02:00:00.000Z",
        "until": "2026-03-10T03:00:00.000Z",
        "duration_secs": 3600.0,
        "cause": "no route",
    }
    assert [day["date"] for day in reported["by_day"]] == ["2026-03-09", "2026-03-10"]
    assert reported["uptime"] == pytest.approx(1 - 3600 / (36 * 3600 + 30))


def test_the_api_returns_the_latencies_of_the_page(as_viewer: Api, endpoints: object) -> None:
    for latency in (12, None, 7):
        Endpoint.record_check(A, success=latency is not None, latency_ms=latency, error=None, checked_at=NOW)
    assert as_viewer.call("GET", f"/api/endpoints/{A}/health").json()["latencies_ms"] == [12, None, 7]


@pytest.mark.parametrize("days", ["0", "31", "x", "-1", "1.5", "9" * 500, "١"])
def test_wrong_days_are_an_error(as_viewer: Api, online: None, days: str) -> None:
    assert as_viewer.call("GET", f"/api/endpoints/{A}/health?days={days}").status_code == 400


def test_a_moment_has_one_time_zone(online: None) -> None:
    assert look().since == MIDNIGHT.astimezone(UTC)
