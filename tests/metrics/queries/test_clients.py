"""Clients: counted exactly once in spite of crashes, by address and network, in the viewer's time zone."""

import ipaddress
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext

from access.models import READ_ENDPOINTS, ApiKey, User
from gateway.base.addresses import client_of
from gateway.ipc import record
from gateway.ipc.record import uuid7
from metrics.models import Setting
from metrics.pages.clients import heatmap
from metrics.queries import alert_threshold, clients
from metrics.queries.client_detail import BadClient, parse_client
from metrics.queries.client_hours import HEATMAP_HOURS, ClientHourPayload, ClientTimeline, HeatPayload, hour_now
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from metrics.storage.writer_step import TOTALS
from tests.access.people import Api, key_for, with_key
from tests.metrics import laws
from tests.metrics.records import AT, KEY, load, request
from tests.metrics.world import UTC_ZONE, World, own_database, rows, where

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

CLIENTS = "/api/dashboard/clients"
ONE, NETWORK = "192.0.2.1", "2001:db8:0:7::/64"
HOUR = 3600.0


def get(api: Api, path: str) -> Any:
    response = api.call("GET", path)
    assert response.status_code == 200, response.content
    return response.json()


def sent(
    count: int, client_ip: str | None = ONE, outcome: str = record.OK, **fields: Any
) -> list[record.RequestRecord]:
    return [request(outcome, client_ip=client_ip, **fields) for _ in range(count)]


def hours_of_clients() -> list[tuple[Any, ...]]:
    return rows(
        "SELECT client_ip, requests_ok, requests_failed, requests_cancelled FROM rollup_client_hours ORDER BY 1"
    )


# Counting


def test_each_outcome_is_counted(world: World) -> None:
    refused = request(record.REJECTED, client_ip=ONE, error="unknown_key")
    ended = [request(outcome, client_ip=ONE) for outcome in (record.OK, record.FAILED, record.QUEUE, record.CANCELLED)]
    world.gateway(*ended, refused, request(client_ip=None))
    world.write()
    assert hours_of_clients() == [(ONE, 1, 2, 1)]


def test_batches_add_up_and_the_latest_time_is_kept(world: World) -> None:
    gateway = world.gateway(*sent(1, input_tokens=3, output_tokens=4))
    world.write()
    gateway.append(request(client_ip=ONE, ago=10, input_tokens=1, output_tokens=1))
    world.write()
    assert rows("SELECT requests_ok, input_tokens, output_tokens, last_us FROM rollup_client_hours") == [
        (2, 4, 5, round(AT * 1e6))
    ]


def test_a_returning_network_is_the_same_client(world: World) -> None:
    first, second = "2001:db8:0:7::1", "2001:db8:0:7:ffff::2"
    gateway = world.gateway(*sent(1), *sent(2, first), *sent(1, "2001:db8::1"), *sent(1, first, ago=HOUR))
    world.write()
    for entry in (
        *sent(1),
        *sent(1, second),
        *sent(1, "2001:db8::2"),
        *sent(1, "192.0.2.2"),
        *sent(1, second, ago=HOUR),
    ):
        gateway.append(entry)
    world.write()
    assert rows("SELECT requests_ok, clients FROM rollup_all_clients ORDER BY hour DESC") == [(8, 4), (2, 1)]
    laws.check_clients()


ADDRESSES = (
    "2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", "2001:db8::1", "2001:db8:0:0:1::", "2001:db8:0:7::1", "2001:db8:0:7:1::",
    "2001::1", "2001:0:0:1::9", "2a02:8109:9d40:1234::", "2a02:8109:9d40:1234:1:0:0:1", "2a02:8109:9d40:123::1",
    "::1", "::2", "::ffff:192.0.2.1", "64:ff9b::c000:201", "64:ff9b::c000:202", "0:0:0:1::7", "0:0:0:1:1:1:1:1",
)  # fmt: skip


@pytest.mark.parametrize("first", ADDRESSES)
def test_each_network_is_found_by_any_of_its_addresses(world: World, first: str) -> None:
    gateway = world.gateway(*sent(1, str(ipaddress.ip_address(first))))
    for address in ADDRESSES:
        world.write()
        gateway.append(*sent(1, str(ipaddress.ip_address(address))))
    world.write()
    assert rows("SELECT clients FROM rollup_all_clients") == [
        (len({client_of(str(ipaddress.ip_address(known_address))) for known_address in ADDRESSES}),)
    ]


def test_days_are_by_key_and_model(world: World) -> None:
    world.gateway(*sent(2, api_key_id=KEY), *sent(1, model="large"))
    world.write()
    stored = rows("SELECT day, api_key_id, model, requests_ok FROM rollup_client_days ORDER BY model")
    assert stored == [(int(AT // 86_400), "", "large", 1), (int(AT // 86_400), KEY, "tiny", 2)]


def test_a_crash_between_batches_counts_once(world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.storage.writer_step.BATCH", 10)

    def crash(endpoint_id: str) -> EndpointName:
        raise KeyboardInterrupt

    own_database()
    world.gateway(*load(7, 40))
    world.writer.step()
    with pytest.raises(KeyboardInterrupt):
        DatabaseWriter(world.follower, UTC_ZONE, crash).step()
    monkeypatch.setattr(world.writer, "_clean", lambda step: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # committed; killed before it could report that
        world.writer.step()
    world.write(DatabaseWriter(world.follower, UTC_ZONE, where))  # a new process
    laws.check_all()
    assert sum(row[1] + row[2] + row[3] for row in hours_of_clients()) > 10


def test_a_failed_transaction_counts_no_client(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own_database()
    world.gateway(*sent(3))
    with monkeypatch.context() as broken:
        broken.setattr(TOTALS, "_upsert", lambda source="": "nonsense")  # the next batch
        with pytest.raises(DatabaseError):
            world.writer.step()
    assert hours_of_clients() == []
    world.write()
    assert hours_of_clients() == [(ONE, 3, 0, 0)]


# Identity of clients


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:7:aaaa::1", NETWORK),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
    ],
)
def test_an_address_belongs_to_a_client(address: str, client: str) -> None:
    assert client_of(address) == client


@pytest.mark.parametrize("text", ["", "somebody", "192.0.2.0/24", "2001:db8::/48", "1.2.3", "<script>"])
def test_a_malformed_client_has_no_name(text: str) -> None:
    with pytest.raises(BadClient):
        parse_client(text)


@pytest.mark.parametrize(("text", "name"), [("2001:DB8:0::7", "2001:db8::7"), ("2001:db8:0:7::9/64", NETWORK)])
def test_a_client_has_one_name(text: str, name: str) -> None:
    assert parse_client(text) == name


# The ranking


@pytest.fixture
def busy(shown_world: World, endpoints: object, admin: User) -> World:
    """Three clients, one of them a network; the first has an API key and failures."""
    key_for(admin, name="notebook")
    key = str(ApiKey.objects.get(name="notebook").pk)
    shown_world.gateway(
        *sent(5, api_key_id=key, input_tokens=10, output_tokens=2),
        *sent(2, outcome=record.FAILED, ago=30 * HOUR),
        *sent(2, "2001:db8:0:7::5", model="large"),
        *sent(1, "2001:db8:0:7:aaaa::1", ago=2 * HOUR),
        *sent(1, "198.51.100.9", ago=9 * 24 * HOUR),
    )
    shown_world.write()
    return shown_world


@pytest.mark.parametrize("hours", [1, 12, 13, 14, 24, 36, 37, 38, 48])
def test_the_ranking_covers_the_same_hours_in_each_time_zone(shown_world: World, hours: int) -> None:
    shown_world.gateway(*(request(client_ip=ONE, id=uuid7(), ago=number * HOUR) for number in range(60)))
    shown_world.write()
    (reported,) = clients.ranking(hours).payloads(0, 2)
    assert reported["request_count"] == hours
    assert reported["last_seen"] == "2026-03-10T12:00:30.000Z"


def test_the_ranking_is_by_requests(script: Api, busy: World) -> None:
    reported = get(script, CLIENTS)
    assert [(row["ip"], row["request_count"]) for row in reported["rankings"]] == [(ONE, 5), (NETWORK, 3)]
    assert reported["rankings"][0] == {
        "ip": ONE, "request_count": 5, "failed_count": 0, "cancelled_count": 0, "input_tokens": 50, "output_tokens": 10,
        "total_tokens": 60, "last_seen": "2026-03-10T12:00:30.000Z", "is_alert": False, "api_key_count": 1,
    }  # fmt: skip
    assert (reported["total_count"], reported["page"], reported["per_page"]) == (2, 1, 20)
    assert reported["counted_since"] == "2026-03-01T12:00:00.000Z"


@pytest.mark.parametrize(("query", "expected_ranking"), [
    ("range=7d", [(ONE, 7), (NETWORK, 3)]),
    ("range=30d", [(ONE, 7), (NETWORK, 3), ("198.51.100.9", 1)]),
    ("range=30d&sort=failed", [(ONE, 7), ("2001:db8:0:7::/64", 3), ("198.51.100.9", 1)]),
    ("range=30d&sort=last_seen&per_page=1&page=3", [("198.51.100.9", 1)]),
    ("range=30d&ip=2001:", [(NETWORK, 3)]),
    ("page=7", []),
])  # fmt: skip
def test_the_ranking_of_a_part(script: Api, busy: World, query: str, expected_ranking: list[Any]) -> None:
    reported = [(row["ip"], row["request_count"]) for row in get(script, f"{CLIENTS}?{query}")["rankings"]]
    assert sorted(reported) == sorted(expected_ranking)
    assert reported[0] == expected_ranking[0] if expected_ranking else reported == []


@pytest.mark.parametrize(("counts", "marked"), [((100, 0), True), ((0, 100), True), ((99, 99), False), ((0, 0), False)])
def test_a_client_is_marked_for_one_hour_above_the_threshold(
    script: Api, shown_world: World, counts: tuple[int, int], marked: bool
) -> None:
    here, before = counts
    shown_world.gateway(*sent(here), *sent(before, ago=HOUR), *sent(200, ago=2 * HOUR))
    shown_world.write()
    assert get(script, CLIENTS)["rankings"][0]["is_alert"] is marked


def test_a_network_is_marked_for_all_its_addresses(script: Api, shown_world: World) -> None:
    Setting(key=alert_threshold.THRESHOLD, value="6", updated_at="2026-01-01 00:00:00").save()
    shown_world.gateway(*sent(3, "2001:db8::1"), *sent(3, "2001:db8::2"))
    shown_world.write()
    assert [row["is_alert"] for row in get(script, CLIENTS)["rankings"]] == [True]


# Hours and weeks


def test_hours_end_with_the_current_one(script: Api, busy: World) -> None:
    reported = get(script, f"{CLIENTS}/timeline")
    assert (len(reported), reported[0]["hour"], reported[-1]["hour"]) == (
        24,
        "2026-03-09T13:00:00",
        "2026-03-10T12:00:00",
    )
    assert reported[-1] == {
        "hour": "2026-03-10T12:00:00", "unique_ips": 2, "request_count": 7, "failed_count": 0, "input_tokens": 50,
        "output_tokens": 10,
    }  # fmt: skip
    assert sum(row["request_count"] for row in get(script, f"{CLIENTS}/timeline?range=30d")) == 11


def test_hours_of_one_client(script: Api, busy: World) -> None:
    reported = get(script, f"{CLIENTS}/{NETWORK}/timeline")
    assert [(row["request_count"], row["unique_ips"]) for row in reported[-3:]] == [(1, 1), (0, 0), (2, 1)]


def test_two_addresses_of_a_network_are_one_client_of_an_hour(script: Api, shown_world: World) -> None:
    shown_world.gateway(*sent(1, "2001:db8::1"), *sent(1, "2001:db8::2"), *sent(1))
    shown_world.write()
    assert get(script, f"{CLIENTS}/timeline")[-1]["unique_ips"] == 2


def cell(reported: Sequence[Any], day: int, hour: int) -> int:
    count: int = next(
        heat_cell["count"] for heat_cell in reported if (heat_cell["day_of_week"], heat_cell["hour"]) == (day, hour)
    )
    return count


def test_the_heatmap_is_of_seven_days_in_utc(script: Api, busy: World) -> None:
    reported = get(script, f"{CLIENTS}/heatmap")
    assert (len(reported), sum(heat_cell["count"] for heat_cell in reported)) == (168, 10)
    assert (cell(reported, 2, 12), cell(reported, 2, 10), cell(reported, 1, 6)) == (7, 1, 2)  # a Tuesday; a Monday
    assert sum(heat_cell["count"] for heat_cell in get(script, f"{CLIENTS}/heatmap?ip=2001:db8:0:7::5")) == 2


def shades(*counts: int) -> tuple[list[int], list[tuple[int, int]]]:
    cells: list[HeatPayload] = [
        {"day_of_week": hour_of_week // 24, "hour": hour_of_week % 24, "count": 0} for hour_of_week in range(168)
    ]
    for hour, count in enumerate(counts):
        cells[24 + hour]["count"] = count  # on Monday
    drawn = heatmap(cells)
    return [heat_cell["level"] for heat_cell in drawn["days"][0]["hours"]][: len(counts)], drawn["steps"]


def test_hours_next_to_a_peak_have_different_shades() -> None:
    steps = [(1, 225), (2, 900), (3, 2025), (4, 3600)]
    assert shades(0, 1, 225, 226, 900, 2000, 3600) == ([0, 1, 1, 2, 2, 3, 4], steps)


def test_few_requests_have_fewer_shades() -> None:
    assert shades(0, 1, 3) == ([0, 2, 4], [(2, 1), (3, 2), (4, 3)])
    assert shades(1) == ([4], [(4, 1)])
    assert shades(0)[0] == [0]


@pytest.mark.parametrize(
    ("zone", "day", "hour"), [("Asia/Tokyo", 2, 21), ("Pacific/Kiritimati", 3, 2), ("Asia/Kolkata", 2, 17)]
)
def test_the_heatmap_is_that_of_a_zone(script: Api, busy: World, zone: str, day: int, hour: int) -> None:
    assert cell(get(script, f"{CLIENTS}/heatmap?time_zone={zone}"), day, hour) == 7


@pytest.mark.parametrize(
    ("zone", "local_time", "day", "counts"),
    [
        ("Europe/Berlin", "2026-10-25T12:00", 0, {1: 1, 2: 2, 3: 1}),  # 2 o'clock occurs twice
        ("Europe/Berlin", "2026-03-29T12:00", 0, {1: 1, 2: 0, 3: 1}),  # and does not occur
        ("Australia/Lord_Howe", "2026-04-05T12:00", 0, {0: 1, 1: 2, 2: 1}),  # half an hour
    ],
)
def test_days_with_shifted_hours_have_every_request(
    zone: str, local_time: str, day: int, counts: dict[int, int]
) -> None:
    with time_machine.travel(datetime.fromisoformat(local_time).replace(tzinfo=ZoneInfo(zone)), tick=False):
        first = hour_now() - HEATMAP_HOURS + 1
        hour: ClientHourPayload = {
            "hour": "", "request_count": 1, "failed_count": 0, "input_tokens": 0, "output_tokens": 0, "unique_ips": 1,
        }  # fmt: skip
        each = ClientTimeline(first, [hour] * HEATMAP_HOURS)
        reported = each.heatmap(ZoneInfo(zone))
    assert sum(heat_cell["count"] for heat_cell in reported) == 168
    assert {hour_of_day: cell(reported, day, hour_of_day) for hour_of_day in counts} == counts


# One client


def test_the_detail_is_of_all_time(script: Api, busy: World) -> None:
    reported = get(script, f"{CLIENTS}/{ONE}/detail")
    assert (reported["total_requests"], reported["failed_requests"], reported["total_tokens"]) == (7, 2, 60)
    assert (reported["first_seen"], reported["last_seen"]) == ("2026-03-09T06:00:00.000Z", "2026-03-10T12:00:30.000Z")
    assert reported["model_distribution"] == [{"model": "tiny", "request_count": 7, "percentage": 100.0}]
    assert [hour for hour in reported["hourly_pattern"] if hour["count"]] == [
        {"hour": 6, "count": 2},
        {"hour": 12, "count": 5},
    ]
    assert [row["status"] for row in reported["recent_requests"]] == ["success"] * 5 + ["error"] * 2


@pytest.mark.parametrize("path", [NETWORK, NETWORK.replace("/", "%2F"), "2001:db8:0:7:1::/64"])
def test_the_detail_of_a_network_has_all_its_addresses(script: Api, busy: World, path: str) -> None:
    reported = get(script, f"{CLIENTS}/{path}/detail")
    assert (reported["total_requests"], len(reported["recent_requests"])) == (3, 3)
    assert reported["addresses"] == ["2001:db8:0:7::5", "2001:db8:0:7:aaaa::1"]


@pytest.mark.parametrize("client", ["203.0.113.200", "2001:db8:9::/64", "::/64"])
def test_an_unknown_client_is_zeros(script: Api, busy: World, client: str) -> None:
    reported = get(script, f"{CLIENTS}/{client}/detail")
    assert (reported["total_requests"], reported["first_seen"], reported["recent_requests"]) == (0, None, [])
    assert [hour["count"] for hour in reported["hourly_pattern"]] == [0] * 24


def test_keys_are_shown_by_name(script: Api, busy: World) -> None:
    (reported,) = get(script, f"{CLIENTS}/{ONE}/api-keys")
    assert (reported["name"], reported["request_count"]) == ("notebook", 5)


def test_models_are_those_of_the_days(script: Api, busy: World) -> None:
    reported = get(script, f"{CLIENTS}/models?range=7d")
    assert reported == [
        {"model": "tiny", "request_count": 8, "percentage": 80.0},
        {"model": "large", "request_count": 2, "percentage": 20.0},
    ]


@pytest.mark.parametrize("path", [
    "?range=1h", "?page=0", "?per_page=x", "?sort=ip", "?colour=red", "/timeline?range=",
    "/heatmap?time_zone=Mars/Base", "/heatmap?time_zone=../etc", "/heatmap?ip=somebody",
])  # fmt: skip
def test_wrong_parameters_are_errors(script: Api, path: str) -> None:
    assert script.call("GET", CLIENTS + path).status_code == 400


def test_a_malformed_client_is_not_found(script: Api) -> None:
    assert script.call("GET", f"{CLIENTS}/somebody/detail").status_code == 404


@pytest.mark.parametrize("path", ["", "/timeline", "/models", "/heatmap", f"/{ONE}/detail", f"/{ONE}/api-keys"])
def test_number_of_queries_of_the_api_does_not_grow_with_clients(script: Api, shown_world: World, path: str) -> None:
    get(script, CLIENTS + path)  # caches are filled
    query_counts: list[int] = []
    for count in (3, 30):
        others = [request(client_ip=f"2001:db8:{n}::1", id=uuid7(), model=f"m{n}", ago=n * HOUR) for n in range(count)]
        shown_world.gateway(*others, *sent(count, api_key_id=KEY))
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            get(script, CLIENTS + path)
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 7


# The threshold


def test_without_a_row_the_threshold_is_100(as_viewer: Api) -> None:
    assert get(as_viewer, "/api/dashboard/settings/ip_alert_threshold")["value"] == "100"
    assert get(as_viewer, "/api/dashboard/settings/of-nobody")["value"] == ""


@pytest.mark.parametrize("stored", ["", "0", "-1", "many", "1.5", "٣"])
def test_a_malformed_threshold_means_100(as_viewer: Api, stored: str) -> None:
    Setting(key=alert_threshold.THRESHOLD, value=stored, updated_at="2026-01-01 00:00:00").save()
    assert get(as_viewer, "/api/dashboard/settings/ip_alert_threshold")["value"] == "100"


def test_an_administrator_sets_the_threshold(as_admin: Api) -> None:
    path = "/api/dashboard/settings/ip_alert_threshold"
    assert as_admin.call("PUT", path, {"value": " 007 "}).json() == {"key": "ip_alert_threshold", "value": "7"}
    assert (get(as_admin, path)["value"], alert_threshold.threshold()) == ("7", 7)
    assert rows("SELECT key, value, updated_at FROM settings") == [("ip_alert_threshold", "7", "2026-03-10 12:00:30")]


@pytest.mark.parametrize("value", ["0", "-3", "x", "", "9" * 19, None, {}])
def test_a_wrong_threshold_is_refused(as_admin: Api, value: Any) -> None:
    assert as_admin.call("PUT", "/api/dashboard/settings/ip_alert_threshold", {"value": value}).status_code == 400
    assert alert_threshold.threshold() == 100


def test_only_administrators_set_the_threshold(anybody: Api, as_viewer: Api, admin: User) -> None:
    key = with_key(key_for(admin, READ_ENDPOINTS, "endpoints.manage"))
    path, body = "/api/dashboard/settings/ip_alert_threshold", {"value": "7"}
    assert [api.call("PUT", path, body).status_code for api in (anybody, as_viewer, key)] == [401, 403, 403]
    assert [api.call("GET", path).status_code for api in (anybody, key)] == [401, 403]
    assert alert_threshold.threshold() == 100


# The pages


def test_page_and_api_agree(as_viewer: Api, busy: World) -> None:
    page = as_viewer.get("/clients?range=7d").context
    reported = get(as_viewer, f"{CLIENTS}?range=7d")
    assert [(row["ip"], row["request_count"], row["failed_count"]) for row in page["rows"]] == [
        (row["ip"], row["request_count"], row["failed_count"]) for row in reported["rankings"]
    ]
    assert page["slots"] == get(as_viewer, f"{CLIENTS}/timeline?range=7d")
    assert page["models"] == get(as_viewer, f"{CLIENTS}/models?range=7d")
    heat = {
        (heat_cell["day_of_week"], heat_cell["hour"]): heat_cell["count"]
        for heat_cell in get(as_viewer, f"{CLIENTS}/heatmap")
    }
    shown = {((n + 1) % 7, c["hour"]): c["count"] for n, day in enumerate(page["heat"]["days"]) for c in day["hours"]}
    assert shown == heat


def test_a_clients_page_and_api_agree(as_viewer: Api, busy: World) -> None:
    page = as_viewer.get(f"/clients/{NETWORK}").context
    reported = get(as_viewer, f"{CLIENTS}/{NETWORK}/detail")
    assert {name: page["summary"][name] for name in ("total_requests", "addresses", "total_tokens", "last_seen")} == {
        name: reported[name] for name in ("total_requests", "addresses", "total_tokens", "last_seen")
    }
    assert page["models"] == reported["model_distribution"]
    assert [row["id"] for row in page["recent"]] == [row["id"] for row in reported["recent_requests"]]
    assert page["slots"] == get(as_viewer, f"{CLIENTS}/{NETWORK}/timeline")


def test_hours_of_a_page_are_the_viewers(as_viewer: Api, busy: World) -> None:
    as_viewer.cookies["routerdash_zone"] = "Asia/Kolkata"
    response = as_viewer.get("/clients")
    text = response.content.decode()
    assert "2026-03-10 17:30" in text  # the hour from 12:00 on
    assert "each begins 30 minutes past the local hour" in text
    assert response.context["heat"]["busiest"] == {"day": "Tuesday", "hour": "17", "count": 7}


def test_invalid_parameters_are_ignored_and_reported(as_viewer: Api, busy: World) -> None:
    response = as_viewer.get("/clients?range=century&sort=beauty&page=99")
    assert "Invalid parameters were ignored: range, sort, page" in response.content.decode()
    assert (response.context["span"], response.context["number"]) == ("24h", 1)


def test_an_address_with_markup_is_escaped(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*sent(1, "<script>alert(1)</script>", model="<b>bold</b>"))
    shown_world.write()
    for path in ("/clients", "/clients?ip=%22%3E%3Cscript%3E", f"/clients/{ONE}"):
        text = as_viewer.get(path).content.decode()
        assert [part for part in ("<script>alert", "<b>bold", '"><script>') if part in text] == []


@pytest.mark.parametrize("path", ["/clients/somebody", "/clients/192.0.2.0/24", "/clients/2001:db8::/48"])
def test_a_malformed_client_has_no_page(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 404


def test_pages_need_a_login(anybody: Api) -> None:
    for path in ("/clients", f"/clients/{ONE}", "/usage"):
        assert anybody.get(path).headers["Location"].startswith("/login")


@pytest.mark.parametrize("path", ["/clients?range=30d", f"/clients/{ONE}"])
def test_number_of_queries_does_not_grow_with_rows(as_viewer: Api, shown_world: World, path: str) -> None:
    as_viewer.get(path)
    query_counts: list[int] = []
    for count in (3, 60):
        others = [request(client_ip=f"10.0.{n}.1", id=uuid7(), model=f"m{n}", ago=n * HOUR) for n in range(count)]
        shown_world.gateway(*others, *sent(count, api_key_id=KEY))
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            assert as_viewer.get(path).status_code == 200
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 13


def test_an_administrator_sets_the_threshold_on_the_page(as_admin: Api) -> None:
    assert "Save" in as_admin.get("/clients").content.decode()
    assert as_admin.post("/clients/threshold", {"value": "12"}).headers["Location"] == "/clients"
    assert alert_threshold.threshold() == 12
    as_admin.post("/clients/threshold", {"value": "none"})
    assert "must be a whole number of at least 1" in as_admin.get("/clients").content.decode()
    assert alert_threshold.threshold() == 12


def test_a_login_during_the_change_of_the_threshold_returns_to_the_list(as_admin: Api) -> None:
    assert as_admin.get("/clients/threshold").headers["Location"] == "/clients"


def test_a_viewer_reads_the_threshold(as_viewer: Api) -> None:
    text = as_viewer.get("/clients").content.decode()
    assert "A client with 100 requests or more in one hour is marked." in text
    assert 'action="/clients/threshold"' not in text
    assert as_viewer.post("/clients/threshold", {"value": "12"}).status_code == 403
    assert alert_threshold.threshold() == 100


def test_a_client_above_the_threshold_is_marked(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*sent(100))
    shown_world.write()
    assert "above the threshold" in as_viewer.get("/clients").content.decode()


def test_many_clients_are_paginated(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*(request(client_ip=f"10.0.{n}.1") for n in range(120)))
    shown_world.write()
    response = as_viewer.get("/clients?page=3")
    assert (response.context["pages"], len(response.context["rows"])) == (math.ceil(120 / 50), 20)
    assert "Page 3 of 3" in response.content.decode()
