"""Addresses go after a while, and nothing else with them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from gateway import record
from gateway.config import load as config_of
from gateway.peer import client_of
from metrics import clients, forgetting, tasks
from metrics.models import ClientDayRollUp, ClientHourRollUp, RequestHistory
from tests.access.people import Api
from tests.metrics.records import AT, NOW, load, request
from tests.metrics.test_reconcile import Told
from tests.metrics.world import World, restored, rows, told

pytestmark = pytest.mark.django_db

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
    found = RequestHistory.objects.exclude(client_ip=None).values_list("completed_at", "client_ip")
    return {(moment.date().isoformat(), str(address)) for moment, address in found}


SUMS = "SUM(requests_ok), SUM(requests_failed), SUM(requests_cancelled), SUM(input_tokens), SUM(output_tokens)"


def clients_of_hours() -> list[Any]:
    sent = [(hour, client_of(str(ip))) for hour, ip in rows("SELECT hour, client_ip FROM rollup_client_hours") if ip]
    different = {hour: len({ip for at, ip in sent if at == hour}) for hour, _ in sent}
    return sorted(different.items())


def test_an_hour_has_so_many_clients_as_it_has_addresses_of_yet(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = "SELECT hour, clients FROM rollup_all_clients WHERE clients > 0 ORDER BY hour"
    sums_of_all = f"SELECT {SUMS} FROM rollup_all_clients"
    before, sums_before = rows(stored), rows(sums_of_all)
    assert before == clients_of_hours()
    monkeypatch.setattr(forgetting, "CHUNK", 3)
    forgetting.forget()
    assert rows(stored) == clients_of_hours() == [it for it in before if it[0] >= 24 * (int(AT // DAY) - 2)]
    assert rows(sums_of_all) == sums_before


def sums() -> list[Any]:
    hours = rows(f"SELECT hour, {SUMS}, MAX(last_us) FROM rollup_client_hours GROUP BY hour ORDER BY hour")
    days = rows(
        f"SELECT day, api_key_id, model, {SUMS} FROM rollup_client_days "
        "GROUP BY day, api_key_id, model ORDER BY day, api_key_id, model"
    )
    return [*hours, *days]


def test_addresses_go_with_the_end_of_their_days(week: World) -> None:
    before = addresses()
    forgotten = forgetting.forget()
    assert addresses() == {it for it in before if it[0] >= "2026-03-08"} < before
    assert forgotten > 0


@pytest.mark.parametrize("table", [ClientHourRollUp, ClientDayRollUp])
def test_so_do_those_of_the_roll_ups(week: World, table: Any) -> None:
    span = "hour" if table is ClientHourRollUp else "day"
    end = (int(AT // DAY) - 2) * (24 if span == "hour" else 1)
    forgetting.forget()
    old, young = table.objects.filter(**{f"{span}__lt": end}), table.objects.filter(**{f"{span}__gte": end})
    assert {it.client_ip for it in old} == {clients.FORGOTTEN}
    assert clients.FORGOTTEN not in {it.client_ip for it in young}
    assert young


def test_every_sum_stays(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "CHUNK", 3)
    before = (sums(), told(restored()), clients.by_hour(7 * 24).rows, clients.models(7 * 24))
    forgetting.forget()
    hours = [{**row, "unique_ips": 0} for row in clients.by_hour(7 * 24).rows]
    assert hours == [{**row, "unique_ips": 0} for row in before[2]]
    assert (sums(), told(restored()), clients.models(7 * 24)) == (before[0], before[1], before[3])


def test_the_auditor_finds_nothing_wrong(week: World) -> None:
    forgetting.forget()
    assert Told().lines == CLEAN


def test_an_interrupted_run_goes_on(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(table: str, end: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(forgetting, "_forget_in_rollups", stop)
        with pytest.raises(KeyboardInterrupt):
            forgetting.forget()
    assert Told().lines == CLEAN
    forgetting.forget()
    assert clients.stored_day(clients.GONE_BEFORE) == clients.stored_day(clients.FORGOTTEN_BEFORE)
    assert ClientHourRollUp.objects.filter(client_ip=clients.FORGOTTEN).exists()


def test_once_a_day_is_enough(week: World, django_assert_num_queries: Any) -> None:
    assert forgetting.forget() > 0
    with django_assert_num_queries(1):
        assert forgetting.forget() == 0


def test_what_comes_late_is_found_the_day_after(world: World, endpoints: object) -> None:
    forgetting.forget()
    world.gateway(request(ago=3 * DAY, client_ip="192.0.2.1"))
    world.write()
    with time_machine.travel(NOW + timedelta(days=1), tick=False):
        assert forgetting.forget() == 1
    assert {it.client_ip for it in ClientHourRollUp.objects.all()} == {clients.FORGOTTEN}


def test_a_longer_retention_brings_none_back_and_the_auditor_knows(week: World, settings: Any) -> None:
    forgetting.forget()
    settings.ROUTERDASH = replace(settings.ROUTERDASH, client_retention_days=5)
    assert forgetting.forget() == 0
    assert Told().lines == CLEAN


def test_nothing_is_forgotten_unless_somebody_says_so(week: World, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, client_retention_days=0)
    before = (addresses(), list(ClientHourRollUp.objects.values_list()))
    tasks.prune_history()
    assert (addresses(), list(ClientHourRollUp.objects.values_list())) == before


def test_the_task_forgets(week: World) -> None:
    tasks.prune_history()
    assert min(addresses())[0] == "2026-03-08"


# What is told then


def test_nobody_is_no_client(as_viewer: Api, teller: World) -> None:
    teller.gateway(request(ago=3 * DAY, client_ip="192.0.2.1"), request(record.FAILED, client_ip="192.0.2.2"))
    teller.write()
    forgetting.forget()
    told = as_viewer.call("GET", "/api/dashboard/clients?range=7d").json()
    assert [it["ip"] for it in told["rankings"]] == ["192.0.2.2"]
    assert told["addresses_since"] == "2026-03-08T00:00:00.000Z"
    hours = as_viewer.call("GET", "/api/dashboard/clients/timeline?range=7d").json()
    assert [(it["request_count"], it["unique_ips"]) for it in hours if it["request_count"]] == [(1, 0), (1, 1)]


def test_the_page_says_so(as_viewer: Api, week: World) -> None:
    assert "are forgotten" not in as_viewer.get("/clients").content.decode()
    forgetting.forget()
    assert "Addresses of before 2026-03-08 (UTC) are forgotten" in as_viewer.get("/clients").content.decode()


@pytest.mark.parametrize("key", clients.OURS)
def test_how_far_it_got_is_not_for_anybody_to_say(as_admin: Api, key: str) -> None:
    answer = as_admin.call("PUT", f"/api/dashboard/settings/{key}", {"value": "2030-01-01"})
    assert answer.status_code == 400
    assert "written by RouterDash itself" in json.dumps(answer.json())
