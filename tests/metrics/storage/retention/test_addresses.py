"""Client addresses are removed after their retention, and no other data with them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from gateway.base.addresses import client_of
from gateway.base.config import load as config_of
from gateway.ipc import record
from metrics import tasks
from metrics.models import ClientDayRollUp, ClientHourRollUp, RequestHistory
from metrics.queries.client_hours import client_hours, client_models
from metrics.storage.retention import addresses as address_retention
from metrics.storage.settings_rows import OWN_KEYS, REMOVED_ADDRESS, REMOVED_BEFORE, REMOVING_BEFORE, stored_day
from tests.access.people import Api
from tests.metrics.reconcile.test_reconcile import Reported
from tests.metrics.records import AT, NOW, load, request
from tests.metrics.world import World, reported, restored, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

DAY = 86_400.0
CLEAN = ["note: not running: live figures were not compared", "all figures agree"]


@pytest.fixture(autouse=True)
def _kept_for_two_days(settings: Any, tmp_path: Path) -> Iterator[None]:
    given = {"DATA_DIR": str(tmp_path), "TIME_ZONE": "UTC", "CLIENT_RETENTION_DAYS": "2"}
    settings.ROUTERDASH = config_of({f"ROUTERDASH_{name}": value for name, value in given.items()})
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def week(world: World, endpoints: object) -> World:
    world.gateway(*load(2, 300, seconds=6 * DAY))
    world.write()
    return world


def addresses() -> set[tuple[str, str]]:
    """Each with the day of the request."""
    requests = RequestHistory.objects.exclude(client_ip=None).values_list("completed_at", "client_ip")
    return {(moment.date().isoformat(), str(address)) for moment, address in requests}


SUMS = "SUM(requests_ok), SUM(requests_failed), SUM(requests_cancelled), SUM(input_tokens), SUM(output_tokens)"


def clients_of_hours() -> list[Any]:
    sent = [(hour, client_of(str(ip))) for hour, ip in rows("SELECT hour, client_ip FROM rollup_client_hours") if ip]
    different = {hour: len({ip for sent_hour, ip in sent if sent_hour == hour}) for hour, _ in sent}
    return sorted(different.items())


def test_an_hour_has_only_the_clients_with_remaining_addresses(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = "SELECT hour, clients FROM rollup_all_clients WHERE clients > 0 ORDER BY hour"
    sums_of_all = f"SELECT {SUMS} FROM rollup_all_clients"
    before, sums_before = rows(stored), rows(sums_of_all)
    assert before == clients_of_hours()
    monkeypatch.setattr(address_retention, "CHUNK", 3)
    address_retention.remove_due()
    assert rows(stored) == clients_of_hours() == [row for row in before if row[0] >= 24 * (int(AT // DAY) - 2)]
    assert rows(sums_of_all) == sums_before


def sums() -> list[Any]:
    hours = rows(f"SELECT hour, {SUMS}, MAX(last_us) FROM rollup_client_hours GROUP BY hour ORDER BY hour")
    days = rows(
        f"SELECT day, api_key_id, model, {SUMS} FROM rollup_client_days "
        "GROUP BY day, api_key_id, model ORDER BY day, api_key_id, model"
    )
    return [*hours, *days]


def test_addresses_are_removed_at_the_end_of_their_days(week: World) -> None:
    before = addresses()
    forgotten = address_retention.remove_due()
    assert addresses() == {dated_address for dated_address in before if dated_address[0] >= "2026-03-08"} < before
    assert forgotten > 0


@pytest.mark.parametrize("table", [ClientHourRollUp, ClientDayRollUp])
def test_addresses_in_roll_ups_are_removed(week: World, table: Any) -> None:
    span = "hour" if table is ClientHourRollUp else "day"
    end = (int(AT // DAY) - 2) * (24 if span == "hour" else 1)
    address_retention.remove_due()
    old, young = table.objects.filter(**{f"{span}__lt": end}), table.objects.filter(**{f"{span}__gte": end})
    assert {row.client_ip for row in old} == {REMOVED_ADDRESS}
    assert REMOVED_ADDRESS not in {row.client_ip for row in young}
    assert young


def test_all_sums_stay(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_retention, "CHUNK", 3)
    before = (sums(), reported(restored()), client_hours(7 * 24).rows, client_models(7 * 24))
    address_retention.remove_due()
    hours = [{**row, "unique_ips": 0} for row in client_hours(7 * 24).rows]
    assert hours == [{**row, "unique_ips": 0} for row in before[2]]
    assert (sums(), reported(restored()), client_models(7 * 24)) == (before[0], before[1], before[3])


def test_reconcile_finds_no_difference(week: World) -> None:
    address_retention.remove_due()
    assert Reported().lines == CLEAN


def test_an_interrupted_run_continues(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(table: str, end: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(address_retention, "_remove_from_rollups", stop)
        with pytest.raises(KeyboardInterrupt):
            address_retention.remove_due()
    assert Reported().lines == CLEAN
    address_retention.remove_due()
    assert stored_day(REMOVED_BEFORE) == stored_day(REMOVING_BEFORE)
    assert ClientHourRollUp.objects.filter(client_ip=REMOVED_ADDRESS).exists()


def test_a_second_run_of_the_day_does_nothing(week: World, django_assert_num_queries: Any) -> None:
    assert address_retention.remove_due() > 0
    with django_assert_num_queries(1):
        assert address_retention.remove_due() == 0


def test_late_rows_are_found_on_the_next_day(world: World, endpoints: object) -> None:
    address_retention.remove_due()
    world.gateway(request(ago=3 * DAY, client_ip="192.0.2.1"))
    world.write()
    with time_machine.travel(NOW + timedelta(days=1), tick=False):
        assert address_retention.remove_due() == 1
    assert {row.client_ip for row in ClientHourRollUp.objects.all()} == {REMOVED_ADDRESS}


def test_a_longer_retention_restores_no_address_and_reconcile_accepts_it(week: World, settings: Any) -> None:
    address_retention.remove_due()
    settings.ROUTERDASH = replace(settings.ROUTERDASH, client_retention_days=5)
    assert address_retention.remove_due() == 0
    assert Reported().lines == CLEAN


def test_without_a_retention_no_address_is_removed(week: World, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, client_retention_days=0)
    before = (addresses(), list(ClientHourRollUp.objects.values_list()))
    tasks.prune_history()
    assert (addresses(), list(ClientHourRollUp.objects.values_list())) == before


def test_the_task_removes_addresses(week: World) -> None:
    tasks.prune_history()
    assert min(addresses())[0] == "2026-03-08"


# Displayed figures after the removal


def test_removed_addresses_are_not_a_client(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(request(ago=3 * DAY, client_ip="192.0.2.1"), request(record.FAILED, client_ip="192.0.2.2"))
    shown_world.write()
    address_retention.remove_due()
    reported = as_viewer.call("GET", "/api/dashboard/clients?range=7d").json()
    assert [client["ip"] for client in reported["rankings"]] == ["192.0.2.2"]
    assert reported["addresses_since"] == "2026-03-08T00:00:00.000Z"
    hours = as_viewer.call("GET", "/api/dashboard/clients/timeline?range=7d").json()
    assert [(hour["request_count"], hour["unique_ips"]) for hour in hours if hour["request_count"]] == [(1, 0), (1, 1)]


def test_the_page_shows_since_when_there_are_addresses(as_viewer: Api, week: World) -> None:
    assert "were deleted" not in as_viewer.get("/clients").content.decode()
    address_retention.remove_due()
    assert "Addresses from before 2026-03-08 (UTC) were deleted" in as_viewer.get("/clients").content.decode()


@pytest.mark.parametrize("key", OWN_KEYS)
def test_the_progress_of_the_removal_is_not_a_setting_of_the_api(as_admin: Api, key: str) -> None:
    response = as_admin.call("PUT", f"/api/dashboard/settings/{key}", {"value": "2030-01-01"})
    assert response.status_code == 400
    assert "reserved for RouterDash" in json.dumps(response.json())
