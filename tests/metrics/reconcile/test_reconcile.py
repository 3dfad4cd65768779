"""`reconcile` finds no difference in a correct database, and each single wrong figure."""

import ast
import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import time_machine
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from endpoints.changes import counters as change_counters
from gateway.base.config import load as config_of
from gateway.base.request_kinds import OLLAMA_GENERATE
from gateway.ipc import journal
from metrics.costs.price_cache import price_cache
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.reconcile import journals, live, tables
from metrics.storage import seeding
from metrics.tasks import prune_history
from metrics.times import sql_time
from tests.access.people import Api
from tests.metrics.reconcile import live_pages
from tests.metrics.records import AT, KEY, NOW, A, load, request
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import World, change_costs, count_adopted, rows, without
from tests.router import ROOT

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
migration = import_module("metrics.migrations.0010_months_and_all_clients")


class Reported:
    """The output of one run of the command."""

    def __init__(self, *options: str, moment: float = AT) -> None:
        out, err = io.StringIO(), io.StringIO()
        with pytest.raises(SystemExit) as ended, time_machine.travel(moment, tick=False):
            call_command("reconcile", *options, stdout=out, stderr=err)
        self.code = ended.value.code
        self.lines = out.getvalue().splitlines()
        self.err = err.getvalue()

    def differences(self, *words: str) -> list[str]:
        """Return lines with all these words."""
        return [line for line in self.lines if all(word in line for word in words)]


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_TIME_ZONE": "UTC"})
    monkeypatch.setattr(settings, "ROUTERDASH", made)


@pytest.fixture
def busy(world: World, endpoints: object, prices: object) -> World:
    """Two days of traffic with prices in two currencies; the journals have been written completely and deleted."""
    world.gateway(*load(1, 150, seconds=2 * 86_400), *load(2, 150))
    world.write()
    world.close()
    world.gateways.clear()
    world.writer.step()
    return world


def test_a_correct_database_has_no_differences(busy: World) -> None:
    reported = Reported("--thorough")
    assert reported.lines == ["note: not running: live figures were not compared", "all figures agree"]
    assert reported.code == 0


def test_an_empty_database_has_no_differences(world: World) -> None:
    world.write()
    assert Reported().code == 0


def test_a_request_that_no_endpoint_served_causes_no_differences(world: World, endpoints: object) -> None:
    world.gateway(request(), request(attempts=(), kind=OLLAMA_GENERATE, client_ip="192.0.2.1", api_key_id=KEY))
    world.write()
    assert Reported("--thorough").code == 0


def test_journals_of_a_live_writer_cause_no_differences(world: World, endpoints: object) -> None:
    gateway = world.gateway(*load(3, 100), segment_bytes=4096)
    world.write()
    for entry in load(4, 20):
        gateway.append(entry)
    world.gateway(*load(5, 20))
    assert Reported().code == 0


# Every figure, wrong once: columns whose wrong values can be repaired, with the law that names them.

DERIVED: list[tuple[str, str, tuple[str, ...]]] = [
    ("L2", "endpoints", tables.COUNTERS),
    ("L3", "endpoint_daily_stats", (*tables.COUNTERS, *tables.SPEED)),
    *[("L3", table, (*tables.CELL, *tables.NEWER[1:], *tables.DETAILS)) for table in ("rollup_minutes", "rollup_days")],
    ("L3", "rollup_served_days", (*tables.SERVED_SUMS, *tables.DETAILS)),
    ("L3", "rollup_cost_days", tables.COSTS),
    *[("L3", table, tables.CLIENT) for table in ("rollup_client_hours", "rollup_client_days")],
    ("L3", "rollup_months", (*tables.CELL, *tables.NEWER, *tables.DETAILS)),
    ("L3", "rollup_all_clients", (*tables.CLIENT, "clients")),
    ("L6", "metric_totals", tuple(tables.TOTALS)),  # rows of one column, each
]
KEYS = {
    "endpoints": "id",
    "endpoint_daily_stats": "endpoint_id, model_id, date, api_kind",
    "rollup_minutes": "minute, endpoint_id, model, kind, api_key_id",
    "rollup_days": "date, endpoint_id, model, kind, api_key_id",
    "rollup_months": "month, endpoint_id, model, kind, api_key_id",
    "rollup_served_days": "date, endpoint_id, model, kind, api_key_id, served, canonical, step",
    "rollup_cost_days": "date, endpoint_id, model, kind, api_key_id, served, canonical, step, price_id, currency",
    "rollup_all_clients": "hour",
    "rollup_client_hours": "hour, client_ip",
    "rollup_client_days": "day, client_ip, api_key_id, model",
    "metric_totals": "name",
}


def spoil(table: str, figure: str, by: int) -> tuple[str, int, int]:
    """Change one figure of a row; return its column, old value and new value."""
    column, where = (figure, f"{figure} > 0") if table != "metric_totals" else ("value", f"name = '{figure}'")
    if table.startswith("rollup_client"):  # the first hour and day may be from before clients were counted
        span = KEYS[table].partition(",")[0]
        where += f" AND {span} > (SELECT min({span}) FROM {table})"
    keys = KEYS[table]
    *key, old = rows(f"SELECT {keys}, {column} FROM {table} WHERE {where} ORDER BY {keys} DESC LIMIT 1")[0]
    condition = " AND ".join(f"{name} = %s" for name in keys.split(", "))
    if table == "rollup_cost_days":
        change_costs(f"{column} = {column} + %s", by, *key, where=condition)
    else:
        rows(f"UPDATE {table} SET {column} = {column} + %s WHERE {condition}", by, *key)
    return column, old, old + by


def stored() -> dict[str, list[Any]]:
    names = (*tables.TABLES, "moving_averages")
    return {table: sorted(map(str, rows(f"SELECT * FROM {table}"))) for table in names}


@pytest.mark.parametrize(("law", "table", "figures"), DERIVED)
def test_figures_that_are_too_small_are_reported_and_repaired(
    busy: World, law: str, table: str, figures: tuple[str, ...]
) -> None:
    right = stored()
    wrong = [spoil(table, figure, -1) for figure in figures]
    reported = Reported()
    for column, old, new in wrong:
        assert reported.differences(f"{law}: {column} in {table}", f"expected {old}, found {new}")
    assert reported.code == 1
    mended = Reported("--repair")
    for column, old, new in wrong:
        assert mended.differences(f"repaired {law}: {column} in {table}", f"{new} → {old}")
    assert (mended.code, stored() == right) == (0, True)
    assert Reported().code == 0


@pytest.mark.one_database
@pytest.mark.parametrize(("law", "table", "figures"), DERIVED)
def test_figures_that_are_too_large_are_decreased_only_if_allowed(
    busy: World, law: str, table: str, figures: tuple[str, ...]
) -> None:
    right = stored()
    wrong = [spoil(table, figure, 3) for figure in figures]
    reported = Reported()
    for column, old, new in wrong:
        assert reported.differences(f"{law}: {column} in {table}", f"expected {old}, found {new}")
    left = stored()
    assert (Reported("--repair").code, stored() == left) == (1, True)  # and no other figure is computed from it
    reported = Reported("--repair", "--allow-decrease")
    for column, *_ in wrong:
        assert reported.differences(f"repaired {law}: {column} in {table}", "(smaller)")
    assert (reported.code, stored() == right, Reported().code) == (0, True, 0)


@pytest.mark.parametrize("table", ["rollup_minutes", "rollup_served_days"])
def test_lost_details_are_restored(busy: World, table: str) -> None:
    right = stored()
    rows(f"UPDATE {table} SET {', '.join(f'{name} = NULL' for name in tables.DETAILS)}")
    assert Reported().differences(f"L3: cache_reports in {table}", "found 0")
    assert (Reported("--repair").code, stored() == right) == (0, True)


def test_a_missing_row_of_a_served_model_is_restored(busy: World) -> None:
    right = stored()
    rows("DELETE FROM rollup_served_days WHERE date = '2026-03-10'")
    assert Reported().differences("L3: requests_ok in rollup_served_days date=2026-03-10", "found 0")
    assert (Reported("--repair").code, stored() == right) == (0, True)


@pytest.mark.parametrize("figure", [*tables.SERVED_SUMS, *tables.DETAILS])
def test_a_served_model_with_more_than_its_asked_name_is_reported_on_days_of_any_age(busy: World, figure: str) -> None:
    for table in ("rollup_served_days", "rollup_days", "rollup_months"):
        span = tables.TABLES[table][0][0]
        rows(f"UPDATE {table} SET {span} = '2025' || substr({span}, 5)")
    rows(f"UPDATE rollup_served_days SET {figure} = COALESCE({figure}, 0) + 1000000000")
    assert Reported().differences(f"L1: {figure} in rollup_served_days date=2025-03-", "expected at most")


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_missing_row_of_costs_is_restored(busy: World, with_keys: bool) -> None:
    right = stored()
    numbers = "SELECT number FROM rollup_cost_keys WHERE date = '2026-03-10'"
    rows(f"DELETE FROM rollup_cost_sums WHERE number IN ({numbers})")
    if with_keys:
        rows("DELETE FROM rollup_cost_keys WHERE date = '2026-03-10'")
    assert Reported().differences("L3: cost in rollup_cost_days date=2026-03-10", "currency=EUR", "found 0")
    assert (Reported("--repair").code, stored() == right) == (0, True)


def test_repriced_costs_have_no_differences(busy: World) -> None:
    rows("UPDATE prices SET input = input * 2, request = 5")
    price_cache.forget()
    call_command("reprice", "--since", "2026-03-09", "--apply", stdout=(out := io.StringIO()))
    assert out.getvalue().count("→") > 2
    assert Reported().code == 0


def test_costs_of_more_requests_than_were_counted_are_reported_on_days_of_any_age(busy: World) -> None:
    change_costs("date = '2025' || substr(date, 5)")
    for table in ("rollup_days", "rollup_months", "rollup_served_days"):
        span = tables.TABLES[table][0][0]
        rows(f"UPDATE {table} SET {span} = '2025' || substr({span}, 5)")
    change_costs("requests = requests + 1000000")
    assert Reported().differences("L1: requests in rollup_cost_days date=2025-03-", "expected at most")


@pytest.mark.parametrize(("part", "whole"), [("estimated_requests", "requests"), ("estimated_cost", "cost")])
def test_estimated_costs_that_exceed_all_costs_are_reported(busy: World, part: str, whole: str) -> None:
    change_costs(f"{part} = {whole} + 1")
    assert Reported().differences(f"L1: {part} in rollup_cost_days", "expected at most")


def test_a_cost_in_another_currency_than_its_price_is_reported(busy: World) -> None:
    change_costs("currency = 'CHF'", where="currency = 'EUR'")
    assert Reported().differences("L3: currency in rollup_cost_days", "expected EUR, found CHF")


def counted_without_details() -> None:
    """Set the sums as a release wrote them that did not count details."""
    for table in ("rollup_minutes", "rollup_days", "rollup_months"):
        rows(f"UPDATE {table} SET {', '.join(f'{name} = NULL' for name in tables.DETAILS)}")
    rows("DELETE FROM rollup_served_days")
    rows(f"DELETE FROM metric_totals WHERE name IN ({', '.join(['%s'] * len(tables.DETAILS))})", *tables.DETAILS)


def test_details_from_before_the_upgrade_are_not_compared(busy: World) -> None:
    counted_without_details()
    assert Reported().code == 1
    rows("UPDATE installation SET details_since = %s", int(AT) // 60 + 1)
    reported = Reported()
    assert (reported.code, bool(reported.differences("note: cached", "were not compared"))) == (0, True)


@pytest.mark.parametrize("table", ["rollup_client_hours", "rollup_client_days"])
def test_a_missing_row_of_a_client_is_restored(busy: World, table: str) -> None:
    span = tables.TABLES[table][0][0]
    sums = f"SELECT {', '.join((*tables.TABLES[table][0], *tables.CLIENT))} FROM {table}"
    right = sorted(map(str, rows(sums)))
    rows(f"DELETE FROM {table} WHERE {span} = (SELECT max({span}) FROM {table})")
    assert Reported().differences("L3: ", f" in {table} {span}=2026-03-10", "found 0")
    assert (Reported("--repair").code, sorted(map(str, rows(sums))) == right) == (0, True)


@pytest.mark.parametrize("table", ["rollup_months", "rollup_all_clients"])
def test_missing_sums_of_roll_ups_are_restored(busy: World, table: str) -> None:
    right = stored()
    rows(f"DELETE FROM {table}")
    assert Reported().differences(f"L3: requests_ok in {table}", "found 0")
    assert (Reported("--repair").code, stored() == right) == (0, True)


def test_requests_from_before_clients_were_counted_are_no_difference(busy: World) -> None:
    rows("DELETE FROM rollup_client_hours WHERE hour < (SELECT max(hour) FROM rollup_client_hours)")
    rows("DELETE FROM rollup_client_days WHERE day < (SELECT max(day) FROM rollup_client_days)")
    rows("DELETE FROM rollup_all_clients WHERE hour < (SELECT max(hour) FROM rollup_all_clients)")
    assert Reported().code == 0


@pytest.mark.parametrize("table", ["rollup_minutes", "rollup_days", "endpoint_daily_stats"])
def test_a_missing_row_is_restored(busy: World, table: str) -> None:
    right = stored()
    column = "successful_requests" if table == "endpoint_daily_stats" else "requests_ok"
    key = "date" if table != "rollup_minutes" else "minute"
    condition = f"{key} = (SELECT max({key}) FROM {table} WHERE {column} > 0)"
    # of rejections, the history has no rows
    rows(f"DELETE FROM {table} WHERE {condition} AND endpoint_id <> %s", NO_ENDPOINT)
    reported = Reported()
    assert reported.differences(f"{column} in {table}", "found 0")
    assert (reported.code, Reported("--repair").code, stored() == right) == (1, 0, True)


@pytest.mark.parametrize("table", ["rollup_minutes", "rollup_days"])
def test_a_wrong_count_of_rejections_is_reported(busy: World, table: str) -> None:
    spoil(table, "requests_rejected", 1)
    reported = Reported()
    assert reported.differences("L3: requests_rejected in rollup_days")
    assert bool(reported.differences("L6: value in metric_totals name=rejected:*")) == (table == "rollup_days")


@pytest.mark.parametrize("table", ["rollup_minutes", "rollup_days"])
@pytest.mark.parametrize("column", ["durations", "first_tokens"])
@pytest.mark.parametrize("packed", [None, "{}", '{"0":1}', "no histogram"])
def test_a_wrong_histogram_is_reported_and_repaired(busy: World, table: str, column: str, packed: str | None) -> None:
    right = stored()
    span = "minute" if table == "rollup_minutes" else "date"
    condition = f"{span} = (SELECT max({span}) FROM {table} WHERE {column} IS NOT NULL) AND {column} IS NOT NULL"
    rows(f"UPDATE {table} SET {column} = %s WHERE {condition}", packed)
    reported = Reported()
    assert reported.differences(f"L3: {column} in {table}", "bucket=", "found 0")
    assert reported.code == 1
    assert Reported("--repair", "--allow-decrease").code == 0
    assert stored() == right


def refilled() -> None:
    """Months and hours of all clients, as the release that added them fills them from the others."""
    rows("DELETE FROM rollup_months")
    rows("DELETE FROM rollup_all_clients")
    migration.fill(None, SimpleNamespace(connection=connection))


def test_sums_of_roll_ups_are_computed_from_rows_of_older_releases(busy: World) -> None:
    counted_without_details()
    right = stored()
    refilled()
    assert stored() == right


def test_rows_from_before_histograms_are_skipped(busy: World) -> None:
    counted_without_details()
    rows("UPDATE installation SET details_since = %s, key_use_since = %s", *[int(AT) // 60 + 1] * 2)
    narrow = "requests_rejected = NULL, first_token_us = NULL, durations = NULL, first_tokens = NULL"
    rows(f"UPDATE rollup_days SET {narrow} WHERE date < '2026-03-10'")
    rows(f"UPDATE rollup_minutes SET {narrow} WHERE minute < %s", int(AT) // 60 - 12 * 60)
    refilled()
    reported = Reported()
    assert reported.differences("note: rows up to 2026-03-09 have no distributions")
    assert reported.code == 0


def test_a_missing_total_is_restored(busy: World) -> None:
    right = stored()
    rows("DELETE FROM metric_totals WHERE name = 'requests_ok'")
    assert (Reported().code, Reported("--repair").code, stored() == right) == (1, 0, True)


def test_a_negative_figure_is_reported(busy: World) -> None:
    rows("UPDATE metric_totals SET value = -7 WHERE name LIKE 'rejected:%%'")
    reported = Reported("--repair")
    assert reported.differences("L1: value in metric_totals name=rejected:too_large", "expected 0 or more, found -7")
    assert reported.code == 1


def test_the_rows_of_a_deleted_endpoint_must_stay(busy: World) -> None:
    rows("DELETE FROM endpoints WHERE id = %s", A)
    assert Reported().code == 0
    rows("DELETE FROM endpoint_daily_stats WHERE endpoint_id = %s", A)
    reported = Reported()
    assert reported.differences("L3: total_requests in endpoint_daily_stats", A, "found 0")
    rows("DELETE FROM rollup_minutes")
    rows("DELETE FROM rollup_days WHERE endpoint_id = %s", A)
    assert Reported().differences("L6: value in metric_totals name=requests_ok")


# The history


def latest(outcome: str) -> str:
    sql = "SELECT id FROM request_history WHERE outcome = %s ORDER BY completed_at DESC LIMIT 1"
    return str(rows(sql, outcome)[0][0])


def test_a_missing_row_of_the_history_is_reported(busy: World) -> None:
    total = rows("SELECT value FROM metric_totals WHERE name = 'requests_ok'")[0][0]
    rows("DELETE FROM request_history WHERE id = %s", latest("ok"))
    reported = Reported()
    assert reported.differences("L3: requests_ok in rollup_minutes", "expected 0, found 1")
    assert reported.differences("L4: requests_ok in rollup_minutes")
    assert reported.code == Reported("--repair").code == 1
    assert Reported("--repair", "--allow-decrease").code == Reported().code == 0
    assert rows("SELECT value FROM metric_totals WHERE name = 'requests_ok'") == [(total - 1,)]


def test_a_duplicate_row_of_the_history_is_reported(busy: World) -> None:
    columns = ", ".join(name for name in history_columns() if name != "id")
    rows(
        f"INSERT INTO request_history (id, {columns}) SELECT '00000000-0000-7000-8000-0000000fffff', {columns} "
        "FROM request_history WHERE id = %s",
        latest("ok"),
    )
    reported = Reported()
    assert reported.differences("L3: requests_ok in rollup_minutes")
    assert reported.differences("L4: requests_ok in rollup_minutes")
    assert (reported.code, Reported("--repair").code, Reported().code) == (1, 0, 0)


@pytest.mark.parametrize(("old", "new"), [("ok", "failed"), ("failed", "cancelled"), ("cancelled", "ok")])
def test_a_changed_outcome_is_reported(busy: World, old: str, new: str) -> None:
    rows("UPDATE request_history SET outcome = %s WHERE id = %s", new, latest(old))
    reported = Reported()
    for name in (old, new):
        assert reported.differences(f"L3: requests_{name} in rollup_minutes")
    assert reported.code == 1


def test_a_changed_status_is_reported(busy: World) -> None:
    rows("UPDATE request_history SET status = 'error' WHERE id = %s", latest("ok"))
    assert Reported().differences("L4: requests_ok in rollup_minutes")


def test_a_damaged_list_of_attempts_is_reported(busy: World) -> None:
    rows("UPDATE request_history SET attempts = '[]' WHERE id = %s", latest("failed"))
    reported = Reported()
    assert reported.differences("L3: attempts_failed in rollup_minutes", "expected 0, found")
    assert reported.code == 1


def history_columns() -> list[str]:
    with connection.cursor() as cursor:
        return [column.name for column in connection.introspection.get_table_description(cursor, "request_history")]


def test_a_history_of_errors_only_is_checked_as_far_as_possible(
    world: World, endpoints: object, monkeypatch: Any, tmp_path: Path
) -> None:
    world.writer._history = "errors"
    world.gateway(*load(6, 100))
    world.write()
    made = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_HISTORY": "errors"})
    monkeypatch.setattr(settings, "ROUTERDASH", made)
    reported = Reported()
    assert reported.code == 0
    assert reported.differences("note: ROUTERDASH_HISTORY=errors")
    spoil("rollup_minutes", "requests_failed", 1)
    assert Reported().differences("L3: requests_failed in rollup_minutes")


def test_the_comparison_can_start_at_a_given_time(busy: World) -> None:
    rows("DELETE FROM request_history WHERE completed_at < %s", NOW - timedelta(hours=20))
    assert Reported().code == 1
    assert Reported("--since", "2026-03-10").code == 0


# Moving averages


def test_a_wrong_average_is_reported_and_repaired(busy: World) -> None:
    right = stored()
    rows("UPDATE moving_averages SET value = value / 2 WHERE endpoint_id = %s", A)
    reported = Reported()
    assert reported.differences("averages: value in moving_averages", A)
    assert (reported.code, Reported("--repair").code, stored() == right) == (1, 0, True)


@pytest.mark.parametrize("packed", [b"\x90", b"not packed"])
def test_samples_that_differ_from_the_history_are_reported_and_repaired(busy: World, packed: bytes) -> None:
    right = stored()
    rows("UPDATE moving_averages SET samples = %s WHERE endpoint_id = %s", packed, A)
    reported = Reported()
    assert reported.differences("averages: samples in moving_averages", A, "found 0 samples")
    assert (reported.code, Reported("--repair").code, stored() == right) == (1, 0, True)


def test_a_sample_of_another_speed_is_reported(busy: World) -> None:
    key = rows("SELECT endpoint_id, model, kind, samples FROM moving_averages LIMIT 1")[0]
    samples = msgspec.msgpack.decode(bytes(key[3]))
    samples[-1][2] += 1
    condition = "endpoint_id = %s AND model = %s AND kind = %s"
    rows(f"UPDATE moving_averages SET samples = %s WHERE {condition}", msgspec.msgpack.encode(samples), *key[:3])
    assert Reported().differences("averages: samples in moving_averages", str(samples[-1]))


def test_a_missing_average_is_restored(busy: World) -> None:
    right = stored()
    rows("DELETE FROM moving_averages WHERE endpoint_id = %s", A)
    assert (Reported().code, Reported("--repair").code, stored() == right) == (1, 0, True)


def test_samples_are_compared_up_to_a_full_window(world: World, endpoints: object) -> None:
    world.gateway(*[request(ago=index * 3, output_tokens=index + 1) for index in range(300)])
    world.write()
    assert Reported().code == 0


def test_samples_older_than_the_history_are_unchanged(world: World, endpoints: object) -> None:
    world.gateway(*[request(ago=days * 86_400, output_tokens=9) for days in range(20)])
    world.write()
    with time_machine.travel(AT, tick=False):
        prune_history()
    assert Reported().code == 0


@pytest.mark.parametrize("count", [1, 130])
def test_samples_from_the_future_are_no_difference(world: World, endpoints: object, count: int) -> None:
    ahead = [request(ago=-3600 - seconds, output_tokens=seconds + 1) for seconds in range(3)]
    with time_machine.travel(AT, tick=False):
        world.gateway(*ahead, *[request(ago=seconds, output_tokens=9) for seconds in range(count)])
        world.write()
    assert [Reported(moment=moment).code for moment in (AT, AT + 3603, AT + 7200)] == [0, 0, 0]
    rows("UPDATE moving_averages SET value = value + 1")
    assert Reported().differences("averages: value in moving_averages")


# Journals


def move(world: World, gateway: journal.Writer, segment: int, position: int) -> None:
    rows("UPDATE journal_positions SET segment = %s, position = %s WHERE writer = %s", segment, position, gateway.name)


def test_a_position_that_moved_back_is_reported(world: World, endpoints: object) -> None:
    gateway = world.gateway(*load(7, 10))
    world.write()
    move(world, gateway, 1, 0)
    reported = Reported()
    assert reported.differences("journal: records behind the position with a row", "expected 0, found")
    assert reported.code == 1


def test_a_position_that_moved_ahead_is_reported(world: World, endpoints: object) -> None:
    gateway = world.gateway(*load(7, 10))
    world.write()
    gateway.append(request())
    size = (world.path(gateway) / "00000001.seg").stat().st_size
    move(world, gateway, 1, size)
    assert Reported().differences("journal: records before the position without a row", "expected 0, found 1")
    move(world, gateway, 1, size + 9)
    assert Reported().differences("journal: position", f"expected at most {size}, found {size + 9}")
    move(world, gateway, 2, 0)
    assert Reported().differences("journal: the position's segment", "segment 2 is missing")


def test_a_missing_row_is_found_by_the_journal(world: World, endpoints: object) -> None:
    world.gateway(*load(7, 10))
    world.write()
    gone = latest("ok")
    rows("DELETE FROM request_history WHERE id = %s", gone)
    assert Reported().differences("journal: records before the position without a row", gone)


def test_a_record_that_was_set_aside_is_no_difference(world: World, endpoints: object) -> None:
    world.gateway(request(id="x"), request())
    world.write()
    assert Reported().code == 0


def test_a_name_that_the_database_cannot_store_is_the_same_in_all_tables(world: World, endpoints: object) -> None:
    world.gateway(request(model="ti\0ny", output_tokens=5))
    world.write()
    assert Reported().code == 0


def test_journals_of_another_database_are_ignored(world: World, endpoints: object) -> None:
    world.gateway(*load(7, 10))
    world.gateway(*load(8, 10), database_id="another")
    world.write()
    assert Reported().code == 0


# Adopted databases


@pytest.fixture
def taken_over(world: World, endpoints: object) -> World:
    """llmlb counted 20 requests and 50 tokens before the adoption, two of them in its history; traffic since then."""
    world.write()
    rows("UPDATE installation SET adopted_at = %s", "2026-03-09T12:00:00.000000+00:00")
    rows("UPDATE endpoints SET total_requests = 20, successful_requests = 15, failed_requests = 5 WHERE id = %s", A)
    baseline = "endpoint_baselines (endpoint_id, total_requests, successful_requests, failed_requests, daily_total"
    rows(f"INSERT INTO {baseline}, daily_successful, daily_failed) VALUES (%s, 20, 15, 5, 4, 3, 1)", A)
    daily = "endpoint_daily_stats (endpoint_id, model_id, date, api_kind, total_requests, successful_requests"
    values = "(%s, 'tiny', '2026-03-09', 'chat_completions', 4, 3, 1, 0, 0)"
    rows(f"INSERT INTO {daily}, failed_requests, total_output_tokens, total_duration_ms) VALUES {values}", A)
    for name, value in (("requests_ok", 15), ("requests_failed", 5), ("input_tokens", 20), ("output_tokens", 30)):
        for total_name in (name, f"adopted:{name}"):
            rows("INSERT INTO metric_totals (name, value) VALUES (%s, %s)", total_name, value)
    adopted(ago=86_400 + 3600)
    adopted(ago=40 * 86_400, number=2)
    world.gateway(*load(9, 100))
    world.write()
    return world


def test_requests_of_llmlb_missing_in_totals_are_reported(taken_over: World) -> None:
    assert Reported().differences("adoption: requests of llmlb that no total counts", "expected 0, found 2")
    with time_machine.travel(AT, tick=False):
        assert count_adopted() == 2
    assert Reported().code == 0
    adopted(number=3)
    assert Reported(moment=AT + 1).differences(
        "adoption: requests of llmlb that no total counts", "expected 0, found 1"
    )


def test_an_adopted_database_has_no_differences(taken_over: World) -> None:
    with time_machine.travel(AT, tick=False):
        count_adopted()
    assert Reported("--thorough").code == 0


@pytest.mark.parametrize(
    ("damage", "law"),
    [
        ("UPDATE rollup_minutes SET requests_ok = requests_ok + 1 WHERE minute = {minute}", "L3: requests_ok"),
        ("UPDATE rollup_minutes SET durations = NULL WHERE minute = {minute}", "L3: durations"),
        ("DELETE FROM rollup_client_hours WHERE client_ip = '192.168.1.7'", "L3: requests_ok"),
        ("DELETE FROM rollup_client_days WHERE client_ip = '192.168.1.7'", "L3: requests_ok"),
        ("UPDATE adopted_days SET total_requests = total_requests + 1", "L3: total_requests"),
        ("UPDATE metric_totals SET value = value + 1 WHERE name = 'pruned_adopted:output_tokens'", "L6: value"),
    ],
)
def test_a_wrong_figure_of_llmlbs_requests_is_reported(taken_over: World, damage: str, law: str) -> None:
    row = adopted(ago=3600, number=5)
    rows("UPDATE request_history SET client_ip = '192.168.1.7' WHERE id = %s", str(row.pk))
    with time_machine.travel(AT, tick=False):
        count_adopted()
    assert Reported().code == 0
    minute = int(row.completed_at.timestamp()) // 60
    rows(damage.format(minute=minute))
    assert Reported().differences(law)


def test_a_repair_leaves_new_requests_of_llmlb_to_the_next_start(taken_over: World) -> None:
    with time_machine.travel(AT, tick=False):
        count_adopted()
    adopted(ago=-1, number=3)
    assert Reported("--repair", moment=AT + 2).differences("adoption: requests of llmlb that no total counts")
    with time_machine.travel(AT + 2, tick=False):
        assert count_adopted() == 1
    assert Reported(moment=AT + 2).code == 0


def test_pruned_adopted_rows_cause_no_differences(taken_over: World) -> None:
    with time_machine.travel(AT, tick=False):
        assert prune_history() == 1
    assert Reported().code == 0
    rows("UPDATE metric_totals SET value = value + 1 WHERE name = 'pruned_adopted:requests_ok'")
    assert Reported().differences("L6: value in metric_totals name=requests_ok")


def test_a_missing_baseline_is_reported(taken_over: World) -> None:
    rows("DELETE FROM metric_totals WHERE name LIKE 'adopted:%%'")
    reported = Reported()
    assert reported.differences("note: adopted by a release that did not store the totals of the adoption")
    with time_machine.travel(AT, tick=False):
        count_adopted()
    assert Reported().code == 0
    rows("UPDATE metric_totals SET value = value + 1 WHERE name = 'requests_ok'")
    assert Reported().differences("L6: value in metric_totals name=requests_ok")


# The command


def test_differences_as_json(busy: World) -> None:
    _, old, new = spoil("endpoints", "failed_requests", -1)
    (line,) = Reported("--json").lines
    reported = json.loads(line)
    expected = {"law": "L2", "what": "failed_requests", "expected": old, "found": new}
    assert [expected.items() <= difference.items() for difference in reported["differences"]].count(True) == 1
    assert reported["clean"] is False


def test_decreasing_figures_needs_a_repair(busy: World) -> None:
    assert Reported("--allow-decrease").code == 2


def test_a_foreign_database_is_refused(db: None) -> None:
    rows("DELETE FROM installation")
    reported = Reported()
    assert (reported.code, reported.lines) == (2, [])
    assert reported.err.startswith("reconcile: this database is not RouterDash's")


def test_a_missing_table_is_reported_in_one_line(world: World, transactional_db: None) -> None:
    world.write()
    with without("rollup_days"):
        reported = Reported()
    assert (reported.code, reported.err.count("\n")) == (2, 1)
    assert reported.err.startswith("reconcile: the figures cannot be checked: ")


def test_a_repair_makes_control_reload_the_figures(busy: World) -> None:
    assert Reported("--repair").lines[0].startswith("note: ")
    assert change_counters.FIGURES not in change_counters.read()
    spoil("endpoints", "failed_requests", -1)
    Reported("--repair")
    assert change_counters.read()[change_counters.FIGURES] == 1


def test_reconcile_imports_none_of_the_checked_modules() -> None:
    """Nor does any module that it imports directly or indirectly."""
    forbidden = ("metrics.counting", "metrics.memory", "metrics.queries", "metrics.storage", "endpoints.registry")
    seen: set[str] = set()
    left = {f"metrics.reconcile.{path.stem}" for path in (ROOT / "metrics" / "reconcile").glob("*.py")}
    left |= {"metrics.reconcile.management.commands.reconcile", "metrics.hardware.laws", "metrics.learning.laws"}
    while left:
        name = left.pop()
        seen.add(name)
        left |= imports(name) - seen
    assert {name for name in seen if name.startswith(forbidden)} == {"metrics.storage", "metrics.storage.database"}
    assert {"gateway.ipc.journal", "metrics.reconcile.request_laws"} <= seen


def imports(name: str) -> set[str]:
    """Return our modules that a module's text names anywhere."""
    path = ROOT / name.replace(".", "/")
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {
        module
        for module in names
        if (module_path := ROOT / module.replace(".", "/")).with_suffix(".py").exists() or module_path.is_dir()
    }


# Reported figures. tests/e2e/test_reconcile.py tests them with a running RouterDash.


@pytest.fixture
def with_backlog(shown_world: World, endpoints: object) -> World:
    """Traffic, most of which is in the database and the rest in journals."""
    gateway = shown_world.gateway(*load(10, 100))
    shown_world.write()
    with time_machine.travel(AT, tick=False):
        seeding.seed()
    for entry in load(11, 30):
        gateway.append(entry)
    return shown_world


EXPOSED = {**live.RESPONSES, **live_pages.PAGES}
HISTORY = f"history/{int(AT // 60)}/success"
SHOWN = ("total_requests", "failed_requests", "cancelled_requests", "rejected_requests", "total_tokens")
NAMES = {
    "/api/dashboard/overview": ["stats/total_input_tokens", "rejected/too_large", f"endpoints/{A}/cancelled_requests"],
    "/": [f"endpoints/{A}/failed_requests", HISTORY, *(f"stats/{name}" for name in SHOWN)],
    "/admin/endpoints/endpoint/": [f"endpoints/{A}/total_requests", f"endpoints/{A}/failed_requests"],
    "/metrics": ["stats/cancelled_requests", "rejected/too_large", f"endpoints/{A}/successful_requests"],
}


@time_machine.travel(AT, tick=False)
@pytest.mark.parametrize("path", EXPOSED)
def test_reported_figures_equal_the_counted_ones(as_admin: Api, with_backlog: World, path: str) -> None:
    reported = live.figures_in(as_admin.get(path).content.decode(), EXPOSED[path])
    counted = live.counted(settings.ROUTERDASH)
    assert [name for name in NAMES[path] if not reported.get(name)] == []
    assert {name: value for name, value in reported.items() if name in counted} == {
        name: counted[name] for name in reported if name in counted
    }


@time_machine.travel(AT, tick=False)
def test_a_journal_written_during_the_check_is_not_missed(
    transactional_db: None, with_backlog: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal is written and removed after its position was read: the next read finds all records in the database."""
    before = live.counted(settings.ROUTERDASH)
    positions = journals.positions

    def write() -> None:
        with_backlog.close()
        with_backlog.gateways.clear()
        with_backlog.write()
        with_backlog.writer.step()
        connection.close()

    def meanwhile() -> Any:
        known = positions()
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        return known

    monkeypatch.setattr(journals, "positions", meanwhile)
    assert live.counted(settings.ROUTERDASH) == before


@time_machine.travel(AT, tick=False)
def test_a_position_without_a_journal_is_accepted(with_backlog: World) -> None:
    before = live.counted(settings.ROUTERDASH)
    rows("INSERT INTO journal_positions (writer, segment, position) VALUES ('left by a kill', 1, 9)")
    assert live.counted(settings.ROUTERDASH) == before


def test_figures_of_pages_are_compared(as_admin: Api, with_backlog: World) -> None:
    """The timeline has 60 minutes."""
    with time_machine.travel(AT, tick=False):
        figures = live_pages.PAGES["/"](as_admin.get("/").content.decode())
    assert {f"endpoints/{A}/total_requests", HISTORY, *(f"stats/{name}" for name in SHOWN)} <= {*figures}
    assert sum(name.startswith("history/") for name in figures) == 60 * 2


@pytest.mark.parametrize("body", ["{}", '<span data-stat="total_requests">3</span>'])
def test_a_page_without_figures_is_not_compared(body: str) -> None:
    with pytest.raises(live.NotExposed, match="does not have the format"):
        live.figures_in(body, live_pages.PAGES["/"])


@pytest.fixture
def control(tmp_path: Path) -> Iterator[socket.socket]:
    """A server listens on the port of control."""
    path = settings.ROUTERDASH.control_socket
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening
    path.unlink()


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"", "failed"),
        (b"HTTP/1.0 404 x\r\n\r\n", "returned status 404"),
        (b"HTTP/1.0 200 x\r\n\r\n{}", "does not have the format"),
    ],
)
def test_failed_comparisons_are_reported(world: World, control: socket.socket, response: bytes, why: str) -> None:
    world.write()

    def serve() -> None:
        for _ in range(1 + len(live.RESPONSES)):
            connection, _ = control.accept()
            with connection:
                if connection.recv(4096):
                    connection.sendall(response)

    thread = threading.Thread(target=serve)
    thread.start()
    reported = Reported()
    thread.join()
    assert reported.differences(f"note: GET /api/dashboard/overview {why}")
    assert reported.code == 0


# A longer retention brings no deleted rows back


def spread(world: World) -> None:
    """Requests of the last eight days, every six hours."""
    world.gateway(*[request(ago=index * 21_600, output_tokens=9) for index in range(32)])
    world.write()


def test_a_release_that_keeps_the_history_for_longer_finds_no_difference(world: World, endpoints: object) -> None:
    """Former releases kept seven days, and minutes for eight."""
    spread(world)
    rows("DELETE FROM request_history WHERE completed_at < %s", sql_time(NOW - timedelta(days=7), connection.vendor))
    assert Reported().code == 0
    with time_machine.travel(AT, tick=False):
        assert prune_history() == 0
    assert Reported().code == 0


def test_a_longer_retention_finds_no_difference(
    world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = settings.ROUTERDASH
    spread(world)
    monkeypatch.setattr(settings, "ROUTERDASH", replace(usual, history_retention_days=2))
    with time_machine.travel(AT, tick=False):
        assert prune_history() > 0
    monkeypatch.setattr(settings, "ROUTERDASH", usual)
    with time_machine.travel(AT, tick=False):
        assert prune_history() == 0
    assert Reported().code == 0


def test_missing_rows_of_the_kept_days_are_a_difference(world: World, endpoints: object) -> None:
    spread(world)
    rows("DELETE FROM request_history WHERE completed_at < %s", sql_time(NOW - timedelta(days=6), connection.vendor))
    assert Reported().code == 1
