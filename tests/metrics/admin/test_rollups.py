"""Roll-ups in the admin: their columns, and queries that need no full table scan."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from access.models import ApiKey, User
from gateway.ipc import record
from metrics.admin.date_filters import MAX_SPANS, span
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    DailyStat,
    DayRollUp,
    MinuteRollUp,
    MonthRollUp,
)
from metrics.reconcile import tables
from tests.access.people import Api
from tests.metrics.admin.test_requests import cells, page
from tests.metrics.records import KEY, A, B, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

ROLLUPS = (MinuteRollUp, DayRollUp, ClientHourRollUp, ClientDayRollUp, AllClientsRollUp)
CLIENT = "192.0.2.1"
SUMS = tables.CELL + tables.NEWER


def url(model: Any) -> str:
    return reverse(f"admin:metrics_{model._meta.model_name}_changelist")


def offered(api: Api, model: Any, **sent: str) -> list[tuple[str, bool]]:
    """Return the dates of the hierarchy, and the selected one."""
    changes = api.get(url(model), sent).context["cl"]
    return [(choice["display"], choice["selected"]) for choice in changes.filter_specs[0].choices(changes)]


def count_rows(api: Api, model: Any, **sent: str) -> int:
    return len(api.get(url(model), sent).context["cl"].result_list)


@pytest.fixture
def served(shown_world: World) -> World:
    shown_world.gateway(
        request(input_tokens=1, output_tokens=2000, duration_us=500_000, client_ip=CLIENT, api_key_id=KEY),
        request(record.FAILED, endpoint=B, ago=2 * 3600, kind="embeddings", client_ip=CLIENT),
        request(ago=2 * 86400, client_ip=CLIENT),
    )
    shown_world.write()
    return shown_world


# Columns


def test_minutes_are_shown_as_they_were_counted(as_admin: Api, served: World) -> None:
    html = page(as_admin, url(MinuteRollUp))
    assert cells(html, "at") == ["2026-03-10 12:00", "2026-03-10 10:00"]
    assert cells(html, "api") == ["Chat completions", "Embeddings"]
    assert [cells(html, name)[0] for name in ("ok", "failures", "tokens", "mean")] == ["1", "0", "1 / 2,000", "500 ms"]
    assert cells(html, "tries") == ["1 / 0", "0 / 1"]


def test_days_are_those_of_the_month(as_admin: Api, served: World) -> None:
    assert cells(page(as_admin, url(DayRollUp)), "day") == ["2026-03-10", "2026-03-10", "2026-03-08"]


def test_months_are_offered_without_their_days(as_admin: Api, served: World) -> None:
    MonthRollUp.objects.bulk_create([MonthRollUp(month="2026-02", endpoint_id=A, model="m", **dict.fromkeys(SUMS, 1))])
    assert cells(page(as_admin, url(MonthRollUp)), "shown_month") == ["2026-03"] * 3
    assert offered(as_admin, MonthRollUp, date="2026-02") == [("2026-03", False), ("2026-02", True)]
    assert count_rows(as_admin, MonthRollUp, date="2026-02") == 1
    assert (
        count_rows(as_admin, MonthRollUp, date="2026-02-03") == count_rows(as_admin, MonthRollUp, date="nonsense") == 0
    )


def test_hours_of_all_clients_are_shown(as_admin: Api, served: World) -> None:
    html = page(as_admin, url(AllClientsRollUp))
    assert cells(html, "at") == ["2026-03-10 12:00", "2026-03-10 10:00", "2026-03-08 12:00"]
    assert [cells(html, name)[1] for name in ("number", "ok", "failures")] == ["1", "0", "1"]


def test_requests_without_endpoint_show_none(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(record.NO_ENDPOINT))
    shown_world.write()
    assert cells(page(as_admin, url(MinuteRollUp)), "shown_endpoint") == ["—"]


def test_a_client_is_found_by_its_address(as_admin: Api, served: World) -> None:
    assert count_rows(as_admin, ClientHourRollUp, q=CLIENT) == count_rows(as_admin, ClientDayRollUp, q=CLIENT) == 3
    assert count_rows(as_admin, ClientHourRollUp, q=CLIENT[:-1]) == 0


def test_a_key_is_shown_by_its_name(as_admin: Api, served: World, admin: User) -> None:
    assert cells(page(as_admin, url(ClientDayRollUp)), "key")[0] == f"deleted: {KEY}"
    ApiKey.issue(admin, "notebook", [], id=KEY)
    assert cells(page(as_admin, url(ClientDayRollUp)), "key") == ["notebook", "—", "—"]


# The hierarchy of dates


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-02", "2026-02-01 00:00:00", "2026-03-01 00:00:00"),
        ("2026-12", "2026-12-01 00:00:00", "2027-01-01 00:00:00"),
        ("2026-12-31", "2026-12-31 00:00:00", "2027-01-01 00:00:00"),
        ("2026-12-31 23", "2026-12-31 23:00:00", "2027-01-01 00:00:00"),
    ],
)
def test_a_span_has_begin_and_end(text: str, since: str, until: str) -> None:
    assert tuple(map(str, span(text) or ())) == (since, until)


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-02-30", "2026-02-03 24", "9999-12", "0001-01", "x" * 10])
def test_a_malformed_span_is_ignored(text: str) -> None:
    assert span(text) is None


def test_months_and_the_days_of_the_selected_month_are_offered(as_admin: Api, served: World) -> None:
    DailyStat.objects.create(endpoint_id=A, model_id="m", date="2026-01-31")
    assert offered(as_admin, DailyStat) == [
        ("All", True), ("2026-03", False), ("2026-02", False), ("2026-01", False),
    ]  # fmt: skip
    assert offered(as_admin, DailyStat, date="2026-03")[1:5] == [
        ("2026-03", True), ("2026-03-10", False), ("2026-03-09", False), ("2026-03-08", False),
    ]  # fmt: skip


def test_only_the_selected_day_is_listed(as_admin: Api, served: World) -> None:
    assert [count_rows(as_admin, model, date="2026-03-08") for model in (*ROLLUPS, DailyStat)] == [1] * 6
    assert ("2026-03-08", True) in offered(as_admin, ClientHourRollUp, date="2026-03-08")


def test_minutes_start_with_the_last_day_and_link_to_its_hours(as_admin: Api, served: World) -> None:
    assert offered(as_admin, MinuteRollUp)[:4] == [
        ("2026-03-10", True), ("2026-03-10 12:00", False), ("2026-03-10 11:00", False), ("2026-03-10 10:00", False),
    ]  # fmt: skip
    assert count_rows(as_admin, MinuteRollUp, date="2026-03-10 10") == 1


def test_hours_are_in_the_viewers_zone(as_admin: Api, served: World) -> None:
    as_admin.cookies["routerdash_zone"] = "Asia/Tokyo"
    assert cells(page(as_admin, url(MinuteRollUp)), "at")[0] == "2026-03-10 21:00"
    assert count_rows(as_admin, MinuteRollUp, date="2026-03-10 21") == 1


def test_a_day_has_the_hours_that_are_shown_to_begin_in_it(as_admin: Api, shown_world: World) -> None:
    as_admin.cookies["routerdash_zone"] = "Asia/Kathmandu"  # where hours of UTC begin at a quarter to
    shown_world.gateway(request(ago=17.5 * 3600, client_ip=CLIENT))
    shown_world.write()
    assert cells(page(as_admin, url(ClientHourRollUp)), "at") == ["2026-03-09 23:45"]
    assert [count_rows(as_admin, ClientHourRollUp, date=day) for day in ("2026-03-09", "2026-03-10")] == [1, 0]


def test_the_number_of_offered_dates_is_bounded(as_admin: Api, served: World) -> None:
    DailyStat.objects.create(endpoint_id=A, model_id="m", date="1999-01-31")
    assert len(offered(as_admin, DailyStat)) == 1 + MAX_SPANS
    assert count_rows(as_admin, DailyStat, date="1999-01") == 1


@pytest.mark.parametrize("model", [*ROLLUPS, DailyStat])
@pytest.mark.parametrize("odd", ["yesterday", "2026-02-31", "9999-12-31", "\0"])
def test_a_malformed_date_matches_no_row(as_admin: Api, served: World, model: Any, odd: str) -> None:
    assert count_rows(as_admin, model, date=odd) == 0


def test_a_malformed_adopted_date_is_not_offered(as_admin: Api) -> None:
    DailyStat.objects.create(endpoint_id=A, model_id="m", date="long ago")
    assert count_rows(as_admin, DailyStat) == 1


@pytest.mark.parametrize("model", [MinuteRollUp, DayRollUp, MonthRollUp])
def test_cells_are_filtered_by_endpoint_and_kind(as_admin: Api, served: World, model: Any) -> None:
    assert count_rows(as_admin, model, endpoint=B) == count_rows(as_admin, model, kind="embeddings") == 1
    assert count_rows(as_admin, model, endpoint=A, kind="embeddings") == count_rows(as_admin, model, kind="'") == 0


# Query plans


@pytest.mark.parametrize("model", [*ROLLUPS, MonthRollUp])
@pytest.mark.parametrize("sent", [{}, {"date": "2026-03-10"}, {"endpoint": A}, {"q": CLIENT}])
def test_pages_need_no_table_scan_and_no_sort(as_admin: Api, served: World, model: Any, sent: dict[str, str]) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only the query plan of SQLite is short enough to check")
    with CaptureQueriesContext(connection) as queries:
        as_admin.get(url(model), sent)
    with connection.cursor() as cursor:
        for sql in (query["sql"] for query in queries if model._meta.db_table in query["sql"]):
            steps = [row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()]
            assert "USE TEMP B-TREE FOR ORDER BY" not in steps, sql  # except the rows of one minute or day
            first = (
                "ORDER BY" in sql and "WHERE" not in sql.rpartition(" FROM ")[2]
            )  # rows of a page, stored in this order
            assert all("USING" in step or first for step in steps if model._meta.db_table in step), sql
