"""`/api/requests` and `/api/usage`: contents, access, and errors of wrong input."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import INFERENCE, ApiKey, User
from gateway.ipc import record
from metrics.counting.token_details import DETAIL_COLUMNS
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import KEY, A, B, attempt, request
from tests.metrics.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

REQUESTS, USAGE = "/api/requests", "/api/usage"
DAY = 86_400.0


def get(api: Api, path: str) -> Any:
    response = api.call("GET", path)
    assert response.status_code == 200, response.content
    return response.json()


def test_requests_come_newest_first_in_pages(script: Api, shown_world: World) -> None:
    records = [request(ago=second) for second in range(5)]
    shown_world.gateway(*records)
    shown_world.write()
    first = get(script, f"{REQUESTS}?limit=3")
    assert [row["id"] for row in first["requests"]] == [entry.id for entry in records[:3]]
    assert first["looked_back_to"] == "2026-03-10T12:00:28.000Z"
    second = get(script, f"{REQUESTS}?limit=3&cursor={first['next']}")
    assert [row["id"] for row in second["requests"]] == [entry.id for entry in records[3:]]
    assert (second["next"], second["looked_back_to"]) == (None, None)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=failed", 1),
        ("model=other", 1),
        (f"endpoint_id={B}", 1),
        (f"api_key_id={KEY}", 1),
        ("client_ip=192.0.2.9", 1),
        ("streamed=true", 1),
        ("streamed=false", 3),
        ("queue_class=bulk", 1),
        ("queue_class=interactive", 3),
        ("min_duration_ms=3000", 1),
        ("min_tokens=7", 1),
        ("min_tokens=8", 0),
        ("status_code=502", 1),
        ("outcome=error", 1),
        ("retried=true", 1),
        ("retried=false", 3),
        ("request_id=mine", 1),
        ("since=-1m", 4),
        ("until=-1m", 0),
        ("since=-7d&until=-1h", 0),
        ("since=2026-03-10T12:00:29Z", 3),
        ("until=2026-03-10T12:00:29Z", 1),
        ("since=2026-03-10T21:00:29%2B09:00", 3),
    ],
)
def test_requests_are_filtered(script: Api, shown_world: World, query: str, count: int) -> None:
    shown_world.gateway(
        request(record.FAILED, endpoint=B),
        request(model="other", streamed=True, attempts=(attempt(record.FAILED, B), attempt()), request_id="mine"),
        request(api_key_id=KEY, client_ip="192.0.2.9", duration_us=3_000_000),
        request(ago=5, input_tokens=3, output_tokens=4, queue_class="bulk"),
    )
    shown_world.write()
    assert len(get(script, f"{REQUESTS}?{query}")["requests"]) == count


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=x", "outcome=fine", "since=now", "endpoint_id=7", "api_key_id=x", "client_ip=x",
        "streamed=perhaps", "retried=2x", "min_tokens=-1", "min_tokens=x", "status_code=1000", "since=-1", "since=-0h",
        "since=-99999999d", "min_duration_ms=nan", "min_duration_ms=long", "modle=x", "queue_class=x",
        "since=2026-03-10T12:00:00Z&until=2026-03-10T11:00:00Z",
    ],
)  # fmt: skip
def test_wrong_input_is_an_error_with_a_message(script: Api, query: str) -> None:
    response = script.call("GET", f"{REQUESTS}?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["fields"]


def test_newer_requests_are_on_the_previous_page(script: Api, shown_world: World) -> None:
    records = [request(ago=second) for second in range(5)]
    shown_world.gateway(*records)
    shown_world.write()
    first = get(script, f"{REQUESTS}?limit=2")
    assert first["previous"] is None
    second = get(script, f"{REQUESTS}?limit=2&cursor={first['next']}")
    assert get(script, f"{REQUESTS}?limit=2&cursor={second['previous']}")["requests"] == first["requests"]


def test_a_wrong_cursor_is_an_error_with_a_message(script: Api) -> None:
    response = script.call("GET", f"{REQUESTS}?cursor=abc")
    assert (response.status_code, response.json()["error"].partition(":")[0]) == (400, "cursor")


@pytest.mark.parametrize("path", [REQUESTS, USAGE])
def test_reading_needs_a_permission(anybody: Api, as_viewer: Api, admin: User, shown_world: World, path: str) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    statuses = [api.call("GET", path).status_code for api in (anybody, weak, as_viewer)]
    assert statuses == [401, 403, 200]


@pytest.mark.parametrize("path", [REQUESTS, f"{REQUESTS}?model=none", USAGE, f"{USAGE}?by=key", f"{USAGE}?by=endpoint"])
def test_number_of_queries_of_the_api_does_not_grow_with_clients(script: Api, shown_world: World, path: str) -> None:
    get(script, path)  # caches are filled
    query_counts: list[int] = []
    for count in (3, 30):
        shown_world.gateway(*(request(api_key_id=KEY, model=f"m{number}") for number in range(count)))
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            get(script, path)
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 4


# Usage


def used(
    ok: int, failed: int = 0, cancelled: int = 0, tokens: tuple[int, int] = (0, 0), rejected: int = 0
) -> dict[str, int | None]:
    """Return what usage reports without details of tokens."""
    return {
        **{name: 0 if name.endswith("_reports") else None for name in DETAIL_COLUMNS},
        "requests": ok + failed,
        "successful_requests": ok,
        "failed_requests": failed,
        "cancelled_requests": cancelled,
        "rejected_requests": rejected,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "total_tokens": sum(tokens),
    }


@pytest.fixture
def usage(shown_world: World, endpoints: object, admin: User) -> ApiKey:
    """Return usage after some requests, and the API key that was used."""
    key_for(admin, name="notebook")
    key = ApiKey.objects.get(name="notebook")
    shown_world.gateway(
        request(input_tokens=3, output_tokens=4, api_key_id=str(key.pk)),
        request(record.FAILED, endpoint=B, ago=DAY),
        request(record.CANCELLED, model="other", ago=DAY),
        request(record.NO_ENDPOINT, ago=20 * DAY),
        request(ago=40 * DAY),
        request(record.REJECTED, error="unknown_key"),
    )
    shown_world.write()
    return key


def unpriced(requests: int) -> dict[str, Any]:
    """Return the costs of a row of usage without prices and own hardware."""
    return {"costs": [], "requests_without_cost": requests, "hardware_costs": []}


def test_usage_by_day(script: Api, usage: ApiKey) -> None:
    reported = get(script, USAGE)
    assert (reported["by"], reported["since"], reported["until"]) == ("day", "2026-02-09", "2026-03-10")
    assert reported["rows"] == [
        {"day": "2026-02-18", **used(0, 1), **unpriced(1)},
        {"day": "2026-03-09", **used(0, 1, 1), **unpriced(2)},
        {"day": "2026-03-10", **used(1, tokens=(3, 4), rejected=1), **unpriced(1)},
    ]
    assert reported["total"] == used(1, 2, 1, (3, 4), 1)


def test_usage_by_month(script: Api, usage: ApiKey) -> None:
    reported = get(script, f"{USAGE}?by=month&since=2026-01-01")
    assert [(row["month"], row["requests"]) for row in reported["rows"]] == [
        ("2026-01", 1),
        ("2026-02", 1),
        ("2026-03", 2),
    ]


def test_usage_by_model(script: Api, usage: ApiKey) -> None:
    rows = get(script, f"{USAGE}?by=model")["rows"]
    assert [(row["model_id"], row["requests"], row["cancelled_requests"]) for row in rows] == [
        ("tiny", 3, 0),
        ("other", 0, 1),
    ]


def test_usage_by_endpoint(script: Api, usage: ApiKey) -> None:
    rows = get(script, f"{USAGE}?by=endpoint")["rows"]
    requests = {(row["endpoint_id"], row["endpoint_name"]): row["requests"] for row in rows}
    assert requests == {(A, "a"): 1, (B, "b"): 1, (None, None): 1}


def test_usage_by_key(script: Api, usage: ApiKey) -> None:
    rows = get(script, f"{USAGE}?by=key")["rows"]
    requests = {(row["api_key_id"], row["api_key_name"]): row["requests"] for row in rows}
    assert requests == {(str(usage.pk), "notebook"): 1, (None, None): 2}


@pytest.mark.parametrize("query", [f"endpoint_id={A}", "model=tiny&since=2026-03-10"])
def test_usage_with_filters(script: Api, usage: ApiKey, query: str) -> None:
    assert get(script, f"{USAGE}?{query}")["total"]["requests"] == 1


def test_usage_without_requests(script: Api, shown_world: World) -> None:
    assert get(script, USAGE)["rows"] == []


@pytest.mark.parametrize(
    "query", ["by=hour", "since=today", "since=2026-03-11", "since=1999-01-01", "until=x", "api_key_id=1", "page=2"]
)
def test_wrong_parameters_of_usage_are_errors(script: Api, query: str) -> None:
    response = script.call("GET", f"{USAGE}?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["fields"]
