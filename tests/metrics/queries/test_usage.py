"""Usage by time and by user, key, model or endpoint: comparison with the previous period, export, page."""

import csv
import io
import json
import time
from collections import Counter
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import time_machine
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey, User
from endpoints.changes import triggers
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.config import load as config_of
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.memory.trackers import Trackers
from metrics.pages import usage as usage_page
from metrics.queries.usage import usage
from metrics.queries.usage_periods import Period, Pieces
from metrics.storage.writer import DatabaseWriter
from metrics.templatetags.usage import change, percent
from tests.access.people import Api, key_for, make_user, session_of
from tests.metrics.records import KEY, A, B, attempt, request
from tests.metrics.world import World, rows, where

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

USAGE = "/api/usage"
DAY = 86_400.0
TODAY = date(2026, 3, 10)


def get(api: Api, path: str) -> Any:
    response = api.call("GET", path)
    assert response.status_code == 200, response.content
    return response.json()


def _served(served: str | None, canonical: str | None, outcome: str = record.OK, step: int = 0) -> AttemptRecord:
    return msgspec.structs.replace(attempt(outcome), served=served, canonical=canonical, step=step)


@pytest.fixture
def used(shown_world: World, endpoints: object, admin: User) -> World:
    """Keys of two users, a deleted key, and requests without a key; this week and the week before."""
    for owner, names in ((admin, ("one", "two")), (make_user("yuki"), ("three",))):
        for name in names:
            key_for(owner, name=name)
    keys = {key.name: str(key.pk) for key in ApiKey.objects.all()}
    shown_world.gateway(
        request(api_key_id=keys["one"], input_tokens=30, output_tokens=10),
        request(api_key_id=keys["two"], input_tokens=5, ago=DAY),
        request(record.FAILED, api_key_id=keys["three"], endpoint=B, model="large"),
        request(api_key_id=KEY, attempts=(_served("tiny:q4", "maker/tiny", step=2),), input_tokens=8, cached_tokens=6),
        request(record.CANCELLED, attempts=(_served(None, "maker/tiny", record.CANCELLED),)),
        request(record.REJECTED, error="unknown_key"),
        request(api_key_id=keys["one"], input_tokens=10, ago=8 * DAY),
        request(api_key_id=keys["three"], model="large", ago=9 * DAY),
        request(api_key_id=keys["three"], model="large", ago=9 * DAY),
    )
    shown_world.write()
    return shown_world


WEEK = "since=2026-03-04&until=2026-03-10"


# Periods


@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        ("2026-03-10", "2026-03-10", ("2026-03-09", "2026-03-09")),
        ("2026-03-04", "2026-03-10", ("2026-02-25", "2026-03-03")),
        ("2024-03-01", "2024-03-31", ("2024-01-30", "2024-02-29")),
    ],
)
def test_the_period_before_is_as_long(since: str, until: str, before: tuple[str, str]) -> None:
    period = Period(date.fromisoformat(since), date.fromisoformat(until))
    previous = period.before
    assert (previous.since.isoformat(), previous.until.isoformat()) == before
    assert previous.days == period.days


def test_months_of_a_period() -> None:
    assert Period(date(2025, 11, 30), date(2026, 2, 1)).months() == ["2025-11", "2025-12", "2026-01", "2026-02"]


@pytest.mark.parametrize(
    ("since", "until", "months", "days"),
    [
        ("2026-03-01", "2026-03-31", ("2026-03", "2026-03"), []),
        ("2025-12-01", "2026-02-28", ("2025-12", "2026-02"), []),
        ("2026-03-04", "2026-03-10", None, [(1, "2026-03-04", "2026-03-10")]),
        ("2026-03-02", "2026-03-31", ("2026-03", "2026-03"), [(-1, "2026-03-01", "2026-03-01")]),
        ("2026-01-28", "2026-02-03", None, [(1, "2026-01-28", "2026-01-31"), (1, "2026-02-01", "2026-02-03")]),
        ("2025-12-30", "2026-02-28", ("2026-01", "2026-02"), [(1, "2025-12-30", "2025-12-31")]),
        ("2025-12-01", "2026-02-26", ("2025-12", "2026-02"), [(-1, "2026-02-27", "2026-02-28")]),
        ("2025-12-01", "2026-02-02", ("2025-12", "2026-01"), [(1, "2026-02-01", "2026-02-02")]),
    ],
)
def test_a_period_is_read_in_few_pieces(
    since: str, until: str, months: tuple[str, str] | None, days: list[tuple[int, str, str]]
) -> None:
    pieces = Pieces.of(Period(date.fromisoformat(since), date.fromisoformat(until)))
    assert pieces.months == months
    assert [(sign, piece.since.isoformat(), piece.until.isoformat()) for sign, piece in pieces.days] == days


def test_the_days_at_each_end_of_a_period_are_at_most_half_a_month() -> None:
    days = Period(date(2023, 11, 1), date(2024, 9, 1)).dates()
    for begin in range(62):
        for length in range(1, 130):
            since = date(2024, 1, 1) + timedelta(days=begin)
            period = Period(since, since + timedelta(days=length - 1))
            pieces = Pieces.of(period)
            assert sum(span.days for _, span in pieces.days) <= 31
            first, last = pieces.months or ("9", "0")
            counted = Counter(day for day in days if first <= day[:7] <= last)
            for sign, piece in pieces.days:
                for day in piece.dates():
                    counted[day] += sign
            assert {day: count for day, count in counted.items() if count} == dict.fromkeys(period.dates(), 1)


SPANS = (
    ("2025-09-20", "2026-03-10"), ("2025-12-01", "2026-02-28"), ("2025-12-11", "2026-03-10"),
    ("2026-01-20", "2026-02-20"), ("2026-02-02", "2026-02-27"), ("2026-03-10", "2026-03-10"),
)  # fmt: skip
ROLLED_UP = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")


@pytest.fixture
def year(shown_world: World, endpoints: object) -> World:
    """Requests on most days of the last months, some recorded late, in several batches."""
    entries = [
        request(
            (record.OK, record.FAILED, record.CANCELLED)[number % 3], ago=number * 0.7 * DAY, output_tokens=number,
            model=f"m{number % 5}", api_key_id=(KEY, None)[number % 7 == 0], input_tokens=2 * number + 1,
            endpoint=(A, B)[number % 2],
        )
        for number in range(250)
    ]  # fmt: skip
    for part in (entries[::3], entries[1::3], entries[2::3]):
        shown_world.gateway(*part, request(record.REJECTED, error="unknown_key", ago=len(part) * DAY))
        shown_world.write()
    return shown_world


@pytest.mark.parametrize("by", ["model", "endpoint", "key", "month", "day"])
@pytest.mark.parametrize("only", [{}, {"model": "m1"}, {"endpoint_id": A}, {"endpoint_id": B, "api_key_id": KEY}])
def test_any_period_is_the_sum_of_its_days(year: World, by: str, only: dict[str, str]) -> None:
    columns = {"model": "model", "endpoint": "endpoint_id", "key": "api_key_id", "month": "substr(date, 1, 7)"}
    column = columns.get(by, "date")
    names = ", ".join(f"SUM({name})" for name in (*ROLLED_UP, "requests_rejected"))
    where = "".join(f" AND {name} = '{value}'" for name, value in only.items())
    for since, until in SPANS:
        sql = f"SELECT {column}, {names} FROM rollup_days WHERE date >= %s AND date <= %s{where} GROUP BY {column}"
        expected = {str(value): list(map(int, sums)) for value, *sums in rows(sql, since, until) if any(sums)}
        reported = usage(by, Period(date.fromisoformat(since), date.fromisoformat(until)), only, compare=True)
        usage_sums = {
            str(next(iter(row.values())) or ("" if by == "key" else NO_ENDPOINT)): [
                row["successful_requests"], row["failed_requests"], row["cancelled_requests"], row["input_tokens"],
                row["output_tokens"], row["rejected_requests"],
            ]
            for row in reported["rows"]
        }  # fmt: skip
        if by in ("model", "endpoint"):  # refused requests have no model
            expected = {value: sums for value, sums in expected.items() if any(sums[:3])}
        assert usage_sums == expected
        before = reported["previous"]
        sql = f"SELECT {names} FROM rollup_days WHERE date >= %s AND date <= %s{where}"
        ((ok, failed, *_, rejected),) = rows(sql, before["since"], before["until"])
        assert before["total"]["requests"] == (ok or 0) + (failed or 0)
        assert before["total"]["rejected_requests"] == (rejected or 0)


@pytest.mark.parametrize(
    ("now", "before", "reported"),
    [
        (150, 100, "+50 (+50.0 %)"),
        (50, 100, "−50 (−50.0 %)"),
        (100, 100, "±0 (±0.0 %)"),
        (5, 0, "+5"),
        (0, 0, "±0"),
        (0, 7, "−7 (−100 %)"),
        (1_234_567, 1000, "+1,233,567 (+123,357 %)"),
        (1001, 1000, "+1 (+0.1 %)"),
    ],
)
def test_a_change(now: int, before: int, reported: str) -> None:
    assert change(now, before) == reported


def test_there_is_no_percentage_of_zero() -> None:
    assert percent(5, 0) == "—"


# The API


def test_usage_by_user(script: Api, used: World) -> None:
    rows = get(script, f"{USAGE}?by=user&{WEEK}")["rows"]
    counts = {(row["username"], row["user_id"] is None): (row["requests"], row["rejected_requests"]) for row in rows}
    assert counts == {("ada", False): (2, 0), ("yuki", False): (1, 0), (None, True): (1, 1)}


def test_usage_of_a_deleted_key_is_that_of_its_user(script: Api, used: World) -> None:
    triggers.ensure()
    before = get(script, f"{USAGE}?by=user&{WEEK}")["rows"]
    ApiKey.objects.filter(created_by__username="yuki").delete()
    assert get(script, f"{USAGE}?by=user&{WEEK}")["rows"] == before
    User.objects.filter(username="yuki").delete()
    assert [row["username"] for row in get(script, f"{USAGE}?by=user&{WEEK}")["rows"]] == [None, "ada"]


def test_rejected_requests_have_no_model(script: Api, used: World) -> None:
    reported = get(script, f"{USAGE}?by=model&{WEEK}")
    assert [row["model_id"] for row in reported["rows"]] == ["tiny", "large"]
    assert (reported["total"]["rejected_requests"], reported["total"]["requests"]) == (1, 4)


EVERY_GROUP = ["day", "month", "model", "served", "canonical", "step", "endpoint", "external", "key", "user"]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("model", {"tiny": (3, 1), "large": (1, 0)}),
        ("served", {"tiny": (2, 1), "tiny:q4": (1, 0), "large": (1, 0)}),
        ("canonical", {"tiny": (2, 0), "maker/tiny": (1, 1), "large": (1, 0)}),
        ("step", {0: (3, 1), 2: (1, 0)}),
    ],
)
def test_usage_by_what_served_the_requests(
    script: Api, used: World, by: str, expected: dict[str, tuple[int, int]]
) -> None:
    for since in ("2026-03-04", "2025-01-01"):  # days, and months
        rows = get(script, f"{USAGE}?by={by}&since={since}&until=2026-03-10&model=tiny")["rows"]
        rows += get(script, f"{USAGE}?by={by}&since=2026-03-04&until=2026-03-10&model=large")["rows"]
        names = {"model": "model_id", "served": "served_model", "canonical": "canonical_name", "step": "step"}
        sums: dict[Any, tuple[int, int]] = {}
        for row in rows:
            one, other = sums.get(row[names[by]], (0, 0))
            sums[row[names[by]]] = one + row["requests"], other + row["cancelled_requests"]
        older = 1 if since == "2025-01-01" else 0  # of the asked name, a week earlier
        first = next(iter(expected))
        counts = {**expected, first: (expected[first][0] + older, expected[first][1])}
        assert sums == counts


def test_usage_of_own_and_external_endpoints(script: Api, used: World) -> None:
    by_endpoint = {
        row["endpoint_id"]: row["total_tokens"] for row in get(script, f"{USAGE}?by=endpoint&{WEEK}")["rows"]
    }
    Endpoint.objects.get(pk=A).set_options(external=True)
    registry.reload()
    rows = {row["external"]: row["total_tokens"] for row in get(script, f"{USAGE}?by=external&{WEEK}")["rows"]}
    assert rows[True] == by_endpoint[A] > 0
    assert sum(rows.values()) == sum(by_endpoint.values())


def test_details_are_null_unless_they_were_reported(script: Api, used: World) -> None:
    rows = {row["served_model"]: row for row in get(script, f"{USAGE}?by=served&{WEEK}")["rows"]}
    names = ("cached_tokens", "cached_of_tokens", "cache_reports", "cache_hits", "cache_write_tokens")
    assert [rows["tiny:q4"][name] for name in names] == [6, 8, 1, 1, None]
    assert [rows["tiny"][name] for name in names] == [None, None, 0, None, None]
    total = get(script, f"{USAGE}?by=day&{WEEK}")["total"]
    assert [total[name] for name in names] == [6, 8, 1, 1, None]


@pytest.mark.parametrize("by", EVERY_GROUP)
def test_totals_do_not_depend_on_the_grouping(script: Api, used: World, by: str) -> None:
    reported = get(script, f"{USAGE}?by={by}&{WEEK}&compare=true")
    assert reported["total"] == get(script, f"{USAGE}?{WEEK}")["total"]
    assert reported["previous"]["total"] == get(script, f"{USAGE}?since=2026-02-25&until=2026-03-03")["total"]
    for name in ("requests", "cancelled_requests", "input_tokens", "output_tokens", "cache_reports"):
        assert sum(row[name] for row in reported["rows"]) == reported["total"][name]


def test_rows_have_the_figures_of_the_previous_period(script: Api, used: World) -> None:
    rows = get(script, f"{USAGE}?by=user&{WEEK}&compare=true")["rows"]
    previous_figures = {row["username"]: (row["previous_requests"], row["previous_total_tokens"]) for row in rows}
    assert previous_figures == {"ada": (1, 10), "yuki": (2, 0), None: (0, 0)}


def test_the_comparison_is_optional(script: Api, used: World) -> None:
    reported = get(script, f"{USAGE}?by=user")
    assert "previous" not in reported
    assert "previous_requests" not in reported["rows"][0]


@pytest.mark.parametrize("query", ["until=0001-01-05", "since=1000-01-01&until=1000-01-02", "compare=perhaps"])
def test_dates_out_of_range_are_errors(script: Api, query: str) -> None:
    assert script.call("GET", f"{USAGE}?{query}").status_code == 400


@pytest.mark.parametrize("by", ["day", "user", "key"])
def test_number_of_queries_of_a_comparison_does_not_grow_with_rows(
    script: Api, shown_world: World, admin: User, by: str
) -> None:
    path = f"{USAGE}?by={by}&compare=true"
    get(script, path)
    query_counts: list[int] = []
    for count in (3, 30):
        for number in range(count):
            key_for(admin, name=f"{count}-{number}")
        keys = [str(key.pk) for key in ApiKey.objects.all()]
        shown_world.gateway(*(request(api_key_id=key, ago=DAY * days) for days, key in enumerate(keys)))
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            get(script, path)
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 5


# As a file


def test_an_export_as_csv(script: Api, used: World) -> None:
    response = script.get(f"{USAGE}/export?by=key&{WEEK}")
    assert response.headers["Content-Disposition"] == 'attachment; filename="usage-by-key-2026-03-04-2026-03-10.csv"'
    head, *rows, total = csv.reader(io.StringIO(response.content.decode()))
    assert head[:4] == ["api_key_id", "api_key_name", "requests", "successful_requests"]
    assert sorted(row[1] for row in rows) == ["", "", "one", "three", "two"]
    assert (total[0], total[2]) == ("total", "4")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(script: Api, shown_world: World, admin: User, name: str) -> None:
    key_for(admin, name="plain")
    ApiKey.objects.filter(name="plain").update(name=name)
    shown_world.gateway(request(api_key_id=str(ApiKey.objects.get(name=name).pk), model=name))
    shown_world.write()
    for by, column in (("key", 1), ("model", 0)):
        rows = list(csv.reader(io.StringIO(script.get(f"{USAGE}/export?by={by}").content.decode(), newline="")))
        assert rows[1][column] == f"'{name}"


def test_an_export_as_json_is_the_response_of_the_api(script: Api, used: World) -> None:
    query = f"by=user&{WEEK}&compare=true"
    response = script.get(f"{USAGE}/export?{query}&format=json")
    assert json.loads(response.content) == get(script, f"{USAGE}?{query}")
    assert script.get(f"{USAGE}/export?format=xml").status_code == 400


# llmlb's tables of tokens


def test_tokens_by_day_latest_first(script: Api, used: World) -> None:
    rows = get(script, "/api/dashboard/stats/tokens/daily?days=3")
    assert [(row["date"], row["request_count"]) for row in rows] == [("2026-03-10", 4), ("2026-03-09", 1)]
    assert {name: rows[0][name] for name in ("total_input_tokens", "total_output_tokens", "total_tokens")} == {
        "total_input_tokens": 38, "total_output_tokens": 10, "total_tokens": 48,
    }  # fmt: skip


def test_tokens_by_month_latest_first(script: Api, used: World) -> None:
    rows = get(script, "/api/dashboard/stats/tokens/monthly?months=1")
    assert [(row["month"], row["total_tokens"], row["request_count"]) for row in rows] == [("2026-03", 63, 8)]


def test_tokens_of_all_time(script: Api, used: World) -> None:
    expected = {"total_input_tokens": 53, "total_output_tokens": 10, "total_tokens": 63}
    assert get(script, "/api/dashboard/stats/tokens") == expected


@pytest.mark.parametrize("query", ["daily?days=0", "daily?days=x", "monthly?months=99", "daily?page=1"])
def test_wrong_parameters_of_tokens_are_errors(script: Api, query: str) -> None:
    assert script.call("GET", f"/api/dashboard/stats/tokens/{query}").status_code == 400


# Days


@pytest.mark.parametrize(
    ("zone", "moment", "day"),
    [
        ("Asia/Tokyo", "2026-03-09T15:00:00+00:00", "2026-03-10"),
        ("Asia/Tokyo", "2026-03-09T14:59:59+00:00", "2026-03-09"),
        ("Europe/Berlin", "2026-03-28T23:00:00+00:00", "2026-03-29"),  # the day of 23 hours begins
        ("Europe/Berlin", "2026-03-29T21:59:59+00:00", "2026-03-29"),  # and ends
        ("Europe/Berlin", "2026-03-29T22:00:00+00:00", "2026-03-30"),
        ("Europe/Berlin", "2026-10-25T22:59:59+00:00", "2026-10-25"),  # that of 25
        ("Asia/Kolkata", "2026-03-09T18:30:00+00:00", "2026-03-10"),
    ],
)
def test_days_are_in_the_servers_zone(
    shown_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, zone: str, moment: str, day: str
) -> None:
    made = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_TIME_ZONE": zone})
    monkeypatch.setattr(settings, "ROUTERDASH", made)
    monkeypatch.setattr(shown_world.follower, "trackers", Trackers(ZoneInfo(zone)))
    shown_world.writer = DatabaseWriter(shown_world.follower, ZoneInfo(zone), where)
    with time_machine.travel(moment, tick=False):
        shown_world.gateway(request(completed_us=round(time.time() * 1e6)))
        shown_world.write()
        viewer = session_of(make_user("vera"))
        viewer.cookies["routerdash_zone"] = "Pacific/Kiritimati"  # the viewer's zone does not change the days
        reported = viewer.get("/usage?range=7d").context["usage"]
    assert [(row["day"], reported["until"]) for row in reported["rows"]] == [(day, day)]


# The page


@pytest.mark.parametrize("by", EVERY_GROUP)
def test_page_and_api_agree(as_viewer: Api, used: World, by: str) -> None:
    page = as_viewer.get(f"/usage?range=7d&by={by}").context
    reported = get(as_viewer, f"{USAGE}?{page['usage_query'].api_query}")
    assert page["usage"] == reported
    shown = list(page["shown"])
    assert (list(reversed(shown)) if by in ("day", "month") else shown) == reported["rows"]


def test_the_page_has_the_figures(as_viewer: Api, used: World) -> None:
    text = as_viewer.get("/usage?range=7d&by=user").content.decode()
    for part in ("yuki", "no key or deleted key", "Usage by user", "2026-03-04 to 2026-03-10", "+1 (+33.3 %)"):
        assert part in text


def test_the_chart_has_every_day(as_viewer: Api, used: World) -> None:
    series = as_viewer.get("/usage?range=7d&by=model").context["series"]
    assert [slot["at"] for slot in series["slots"]] == [f"2026-03-{day:02d}" for day in range(4, 11)]
    assert [slot["successful_requests"] for slot in series["slots"]] == [0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("query", "ignored", "since", "range_"),
    [
        ({}, (), "2026-02-09", "30d"),
        ({"range": "month"}, (), "2026-03-01", "month"),
        ({"range": "century"}, ("range",), "2026-02-09", "30d"),
        ({"since": "2026-03-01", "until": "2026-03-02"}, (), "2026-03-01", ""),
        ({"since": "yesterday"}, ("since",), "2026-02-09", "30d"),
        ({"since": "2026-04-01"}, ("since",), "2026-02-09", "30d"),
        ({"since": "1971-01-01"}, ("since",), "2026-02-09", "30d"),
        ({"by": "mood", "measure": "joy", "colour": "red"}, ("by", "colour", "measure"), "2026-02-09", "30d"),
        ({"endpoint_id": "x", "range": "7d"}, ("endpoint_id",), "2026-03-04", "7d"),
    ],
)
def test_invalid_parameters_are_ignored(
    query: dict[str, str], ignored: tuple[str, ...], since: str, range_: str
) -> None:
    requested = usage_page.parse_usage_query(query, TODAY)
    assert (requested.ignored, requested.period.since.isoformat(), requested.range) == (ignored, since, range_)


def test_ignored_parameters_are_reported(as_viewer: Api) -> None:
    assert "Invalid parameters were ignored: by" in as_viewer.get("/usage?by=mood").content.decode()


def test_names_are_escaped(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(request(model="</script><script>alert(1)</script>"))
    shown_world.write()
    for path in ("/usage?by=model", "/usage?model=%3C/script%3E%3Cscript%3Ealert(1)"):
        assert "<script>alert" not in as_viewer.get(path).content.decode()


def test_a_filter_by_a_deleted_object_stays_selected(as_viewer: Api, used: World) -> None:
    text = as_viewer.get(f"/usage?model=gone/for-good&endpoint_id={A}&api_key_id={KEY}").content.decode()
    for value in ("gone/for-good", A, KEY):
        assert f'<option value="{value}" selected>' in text


@pytest.mark.parametrize("query", ["", "?by=model", "?by=key", "?by=user"])
def test_number_of_queries_of_the_page_does_not_grow_with_rows(
    as_viewer: Api, shown_world: World, admin: User, query: str
) -> None:
    as_viewer.get(f"/usage{query}")
    query_counts: list[int] = []
    for count in (2, 40):
        for number in range(count):
            key_for(admin, name=f"{count}-{number}")
        keys = [str(key.pk) for key in ApiKey.objects.all()]
        shown_world.gateway(
            *(request(api_key_id=key, model=key, ago=DAY * (index % 29)) for index, key in enumerate(keys))
        )
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            assert as_viewer.get(f"/usage{query}").status_code == 200
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 7


def test_the_page_shows_the_rows_with_the_most_requests(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*(request(model=f"m{number}") for number in range(210)))
    shown_world.write()
    response = as_viewer.get("/usage?by=model")
    assert len(response.context["shown"]) == 200
    assert "The 200 entries with the most requests are shown; an export contains all." in response.content.decode()
