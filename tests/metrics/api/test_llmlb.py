"""Requests and models in the format of llmlb's API: field names, pages, totals."""

import asyncio
import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient

from access.models import READ_ENDPOINTS
from endpoints.models import EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from metrics.counting.request_types import KINDS
from metrics.models import RequestHistory
from metrics.queries.requests import history
from metrics.queries.requests.llmlb import FIELDS, TYPES
from tests.access.people import Api, key_for, make_admin, make_user, with_key
from tests.metrics.records import KEY, NOW, A, B, load, request, uuid_of
from tests.metrics.world import World, add_endpoint, where

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

RECORDS = "/api/dashboard/request-responses"


def get(api: Api, query: str = "", status: int = 200) -> Any:
    response = api.call("GET", f"{RECORDS}{query}")
    assert response.status_code == status, response.content
    return response.json()


def served(world: World, *entries: record.RequestRecord) -> World:
    world.gateway(*entries)
    world.write()
    return world


def test_a_record_has_the_fields_of_llmlb(script: Api, shown_world: World) -> None:
    made = request(input_tokens=3, output_tokens=60, client_ip="192.0.2.1", api_key_id=KEY)
    served(shown_world, made)
    reported = {
        "id": made.id, "timestamp": "2026-03-10T12:00:30.000Z", "request_type": "chat", "model": "tiny",
        "endpoint_id": A, "endpoint_name": where(A).name, "endpoint_ip": where(A).ip, "client_ip": "192.0.2.1",
        "request_body": {"model": "tiny"}, "response_body": None, "duration_ms": 2000, "status": {"type": "success"},
        "completed_at": "2026-03-10T12:00:30.000Z", "input_tokens": 3, "output_tokens": 60, "total_tokens": 63,
        "api_key_id": KEY,
    }  # fmt: skip
    assert get(script) == {"records": [reported], "total_count": 1, "total_is_capped": False, "page": 1, "per_page": 10}
    assert get(script, f"/{made.id}") == reported


def test_unknown_values_are_left_out(script: Api, shown_world: World) -> None:
    served(shown_world, request(record.NO_ENDPOINT, error="nobody has it"))
    (reported,) = get(script)["records"]
    assert not reported.keys() & {"client_ip", "input_tokens", "output_tokens", "total_tokens", "api_key_id"}
    assert (reported["endpoint_name"], reported["endpoint_ip"]) == ("N/A", "0.0.0.0")
    assert reported["status"] == {"type": "error", "message": "nobody has it"}


def test_bodies_are_not_returned(script: Api, shown_world: World) -> None:
    made = request(request_body='{"messages": "secret"}', response_body='{"choices": "secret"}')
    served(shown_world, made)
    for reported in (get(script), get(script, f"/{made.id}")):
        assert "secret" not in json.dumps(reported)


def test_every_type_has_the_name_of_llmlb() -> None:
    stored = {"anthropic_messages" if kind == "AnthropicMessages" else kind.lower() for kind in KINDS}
    assert stored == set(TYPES)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("model=IN", 2),
        ("model=%25", 0),
        ("status=success", 2),
        ("status=error", 2),
        (f"endpoint_id={B}", 1),
        (f"node_id={B}", 1),
        (f"agent_id={B}&status=error", 0),
        ("client_ip=192.0.2.9", 1),
        ("start_time=2026-03-10T12:00:29Z", 3),
        ("end_time=2026-03-10T12:00:20%2B00:00", 1),
        ("start_time=2026-03-10T12:00:20Z&end_time=2026-03-10T12:00:20Z", 1),
    ],
)
def test_filters(script: Api, shown_world: World, query: str, count: int) -> None:
    served(
        shown_world,
        request(client_ip="192.0.2.9"),
        request(record.FAILED),
        request(record.CANCELLED, model="other"),
        request(ago=10, endpoint=B, model="large"),
    )
    reported = get(script, f"?{query}")
    assert (len(reported["records"]), reported["total_count"], reported["total_is_capped"]) == (count, count, False)


@pytest.mark.parametrize(
    ("query", "page", "size", "count"),
    [
        ("page=0", 1, 10, 10),
        ("page=2", 2, 10, 2),
        ("page=3", 3, 10, 0),
        ("per_page=25", 1, 25, 12),
        ("per_page=7", 1, 10, 10),
        ("limit=25&offset=30", 2, 25, 0),
        ("offset=10", 2, 10, 2),
    ],
)
def test_pages_are_numbered(script: Api, shown_world: World, query: str, page: int, size: int, count: int) -> None:
    served(shown_world, *(request(ago=second) for second in range(12)))
    reported = get(script, f"?{query}")
    assert (reported["page"], reported["per_page"], len(reported["records"]), reported["total_count"]) == (
        page,
        size,
        count,
        12,
    )


def test_pages_have_every_record_once_newest_first(script: Api, shown_world: World) -> None:
    records = [request(ago=second) for second in range(12)]
    served(shown_world, *records)
    ids = [row["id"] for number in (1, 2) for row in get(script, f"?page={number}")["records"]]
    assert ids == [entry.id for entry in records]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("start_time=2026-03-10T12:00:00Z&end_time=2026-03-10T11:00:00Z", "start_time must be <= end_time"),
        ("status=perhaps", "perhaps"),
        ("endpoint_id=7", "UUID"),
        ("page=1001", "/api/requests lists older ones"),
        ("offset=-1", "greater than or equal to 0"),
        ("colour=red", "This parameter does not exist"),
    ],
)
def test_wrong_input_is_reported(script: Api, query: str, message: str) -> None:
    assert message in json.dumps(get(script, f"?{query}", 400))


def test_an_unknown_record_is_not_found(script: Api) -> None:
    assert get(script, f"/{KEY}", 404) == {"error": f"Record {KEY} not found"}


# Totals


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small limit of requests that are read."""
    monkeypatch.setattr(history, "SCANNED_ROWS", 10)
    monkeypatch.setattr(history, "SCATTERED_ROWS", 10)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "query", ["", "status=success", "status=error", f"endpoint_id={A}", f"node_id={B}&status=error"]
)
def test_the_total_of_many_records_comes_from_roll_ups(script: Api, shown_world: World, query: str) -> None:
    served(shown_world, *load(4, 400, seconds=3 * 86_400))
    rows = RequestHistory.objects.all()
    for column, value in (part.split("=") for part in query.split("&") if part):
        rows = rows.filter(**{{"node_id": "endpoint_id"}.get(column, column): value})
    reported = get(script, f"?{query}")
    assert (reported["total_count"], reported["total_is_capped"]) == (rows.count(), False)
    assert reported["total_count"] > 10


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("query", ["model=tiny", "client_ip=192.0.2.1", "start_time=2026-03-01T00:00:00Z"])
def test_filters_without_roll_ups_are_counted_up_to_the_limit(script: Api, shown_world: World, query: str) -> None:
    served(shown_world, *(request(ago=second, client_ip="192.0.2.1") for second in range(15)))
    reported = get(script, f"?{query}")
    assert (reported["total_count"], reported["total_is_capped"]) == (10, True)


@pytest.mark.usefixtures("few")
def test_rows_of_llmlb_are_counted_up_to_the_limit(script: Api, shown_world: World) -> None:
    served(shown_world, *(request(ago=second) for second in range(15)))
    RequestHistory.objects.create(
        id=uuid_of(10**9), timestamp=NOW, completed_at=NOW - timedelta(days=1), request_type="Chat", model="tiny",
        endpoint_id=A, endpoint_name="a", endpoint_ip="0.0.0.0", request_body={}, duration_ms=1, status="success",
    )  # fmt: skip
    assert get(script)["total_is_capped"] is True


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("query", "capped"), [("", True), ("?status=error", False)])
def test_a_history_of_errors_is_not_all(
    script: Api, shown_world: World, settings: Any, query: str, capped: bool
) -> None:
    served(shown_world, *(request(record.FAILED, ago=second) for second in range(15)))
    settings.ROUTERDASH = replace(settings.ROUTERDASH, history="errors")
    assert get(script, query)["total_is_capped"] is capped


# Access


@pytest.mark.parametrize("path", [RECORDS, f"{RECORDS}/{KEY}", f"{RECORDS}/export", "/api/models"])
def test_anonymous_requests_are_refused(anybody: Api, path: str) -> None:
    assert anybody.call("GET", path).status_code == 401


# Exports


def download(query: str) -> tuple[Any, bytes]:
    client = AsyncClient()
    client.force_login(make_user())

    async def run() -> tuple[Any, bytes]:
        response: Any = await client.get(f"{RECORDS}/export{query}")
        assert response.status_code == 200, response.content
        try:
            return response, b"".join([part async for part in response.streaming_content])
        finally:
            await sync_to_async(lambda: connection.close())()

    return asyncio.run(run())


@pytest.mark.django_db(transaction=True)
def test_an_export_as_csv(shown_world: World) -> None:
    served(shown_world, request(model="=1+1"), request(record.FAILED, ago=1, error="timed out", client_ip="192.0.2.1"))
    response, text = download("")
    head, *rows = csv.reader(io.StringIO(text.decode()))
    assert response["Content-Disposition"] == 'attachment; filename="request_history.csv"'
    assert tuple(head) == FIELDS
    assert rows[0][2:4] == ["Chat", "'=1+1"]
    assert rows[1][7:10] == ["192.0.2.1", "2000", "error: timed out"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_export_as_json_is_one_array(shown_world: World, count: int) -> None:
    records = [request(ago=second) for second in range(count)]
    served(shown_world, *records)
    response, text = download("?format=json&model=tiny")
    assert response["Content-Type"] == "application/json"
    assert [row["id"] for row in json.loads(text)] == [entry.id for entry in records]


def test_an_export_in_another_format_is_refused(script: Api) -> None:
    assert "xml" in json.dumps(get(script, "/export?format=xml", 400))


# Models


def test_models_are_listed_as_in_llmlb(anybody: Api) -> None:
    EndpointModel(endpoint=add_endpoint(A, "a", status="online"), model_id="tiny").save(force_insert=True)
    EndpointModel(endpoint=add_endpoint(B, "b", status="offline"), model_id="large").save(force_insert=True)
    registry.reload()
    reported = with_key(key_for(make_admin(), "registry.read")).call("GET", "/api/models").json()
    assert [(model["name"], model["status"], model["size"]) for model in reported] == [
        ("large", "unavailable", None),
        ("tiny", "available", None),
    ]


def test_models_need_a_key_with_the_permission() -> None:
    assert with_key(key_for(make_user(), READ_ENDPOINTS)).call("GET", "/api/models").status_code == 403
