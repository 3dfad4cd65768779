"""Additional figures of the overview, by the API."""

from typing import Any

import pytest

from gateway.ipc import record
from metrics.memory import last_hour
from metrics.memory.gauges import gauges
from tests.access.people import Api
from tests.metrics.records import AT, KEY, A, B, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]


@pytest.fixture
def served(shown_world: World, endpoints: object) -> World:
    shown_world.gateway(
        request(output_tokens=60, input_tokens=3, first_token_us=250_000, api_key_id=KEY),
        request(record.FAILED, model="large"),
        request(ago=60, output_tokens=30, endpoint=B),
        request(ago=24 * 3600, output_tokens=5),
    )
    return shown_world


def get(client: Api, name: str) -> Any:
    return client.call("GET", f"/api/dashboard/{name}").json()


def test_the_busiest(as_viewer: Api, served: World) -> None:
    fake_installation().key_names = lambda ids: {KEY: "notebook"}
    busiest = get(as_viewer, "busiest")
    assert busiest["models"] == [{"model_id": "tiny", "requests": 2}, {"model_id": "large", "requests": 1}]
    assert busiest["api_keys"] == [
        {"api_key_id": None, "api_key_name": None, "requests": 2},
        {"api_key_id": KEY, "api_key_name": "notebook", "requests": 1},
    ]


def test_the_busiest_clients(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(
        request(client_ip="192.0.2.1"),
        request(record.CANCELLED, client_ip="2001:db8::1"),
        request(ago=3600, client_ip="2001:db8::2"),
        request(record.REJECTED, client_ip="192.0.2.1"),
        request(ago=2 * 3600, client_ip="192.0.2.1"),
    )
    assert get(as_viewer, "busiest")["clients"] == [
        {"ip": "2001:db8::/64", "requests": 2},
        {"ip": "192.0.2.1", "requests": 1},
    ]


def test_only_the_busiest_are_returned(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*(request(model=f"m{number}") for number in range(9)))
    assert len(get(as_viewer, "busiest")["models"]) == last_hour.BUSIEST


def test_figures_by_minute(as_viewer: Api, served: World) -> None:
    gauges.note(AT, 4, 1, 2)
    minutes = get(as_viewer, "minutes")
    assert (len(minutes), minutes[-1]["minute"]) == (60, "2026-03-10T12:00:00Z")
    assert minutes[-1] == {
        "minute": "2026-03-10T12:00:00Z", "input_tokens": 3, "output_tokens": 60, "average_ms": 2000.0,
        "p95_ms": pytest.approx(2000, rel=1 / 16), "first_token_ms": pytest.approx(250, rel=1 / 16), "in_flight": 4,
        "queued": 1, "online": 2,
    }  # fmt: skip
    assert (minutes[0]["average_ms"], minutes[0]["in_flight"]) == (None, None)


def test_today_and_now_in_the_stats(as_viewer: Api, served: World) -> None:
    stats = get(as_viewer, "stats")
    assert (stats["today_requests"], stats["today_failed_requests"], stats["total_requests"]) == (3, 1, 4)
    assert (stats["today_input_tokens"], stats["today_output_tokens"]) == (3, 90)
    assert stats["tokens_per_second"] == 90 / 90  # since the minute before this one began


def test_recent_attempts_of_an_endpoint(as_viewer: Api, served: World) -> None:
    rows = {row["id"]: row for row in get(as_viewer, "endpoints")}
    assert [(rows[endpoint_id]["recent_attempts"], rows[endpoint_id]["recent_failures"]) for endpoint_id in (A, B)] == [
        (2, 1),
        (1, 0),
    ]
    assert (rows[B]["tokens_per_second"], rows[B]["slots"]) == (15.0, None)


def test_tokens_of_all_time(as_viewer: Api, served: World) -> None:
    assert get(as_viewer, "stats/tokens") == {"total_input_tokens": 3, "total_output_tokens": 95, "total_tokens": 98}


def test_models_over_all_endpoints(as_viewer: Api, served: World) -> None:
    served.write()
    models = [(row["model_id"], row["total_requests"]) for row in get(as_viewer, "model-stats")]
    assert models == [("tiny", 3), ("large", 1)]


def test_no_engine_reports_its_load(as_viewer: Api, endpoints: object) -> None:
    assert get(as_viewer, f"metrics/{A}") == []
    assert as_viewer.call("GET", f"/api/dashboard/metrics/{KEY}").status_code == 404


@pytest.mark.parametrize("name", ["attention", "busiest", "marks", "minutes"])
def test_the_overview_api_needs_no_database(
    as_viewer: Api, served: World, name: str, django_assert_num_queries: Any
) -> None:
    get(as_viewer, name)
    with django_assert_num_queries(0):
        get(as_viewer, name)


@pytest.mark.parametrize("name", ["attention", "busiest", "marks", "minutes", "stats/tokens", "model-stats"])
def test_the_overview_api_needs_a_permission(anybody: Api, name: str) -> None:
    assert anybody.call("GET", f"/api/dashboard/{name}").status_code == 401


@pytest.mark.parametrize("count", [2, 60])
def test_a_page_of_many_endpoints_needs_no_database(as_viewer: Api, count: int, django_assert_num_queries: Any) -> None:
    for number in range(count):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number}", status="offline")
    as_viewer.get("/")
    with django_assert_num_queries(0):
        assert as_viewer.get("/").status_code == 200
