"""Requests and models as the reference's scripts ask for them: its names, its pages, its totals."""

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient

from access.models import READ_ENDPOINTS
from endpoints.models import EndpointModel
from endpoints.registry import registry
from gateway import record
from metrics import history
from metrics.models import RequestHistory
from metrics.reference import FIELDS, TYPES
from metrics.rows import KINDS
from tests.access.people import Api, key_for, make_admin, make_user, with_key
from tests.metrics.records import KEY, NOW, A, B, load, request, uuid_of
from tests.metrics.world import World, add_endpoint, where

pytestmark = pytest.mark.django_db

RECORDS = "/api/dashboard/request-responses"


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


def get(api: Api, query: str = "", status: int = 200) -> Any:
    answer = api.call("GET", f"{RECORDS}{query}")
    assert answer.status_code == status, answer.content
    return answer.json()


def served(world: World, *entries: record.RequestRecord) -> World:
    world.gateway(*entries)
    world.write()
    return world


def test_a_record_has_the_references_fields(script: Api, teller: World) -> None:
    made = request(input_tokens=3, output_tokens=60, client_ip="192.0.2.1", api_key_id=KEY)
    served(teller, made)
    told = {
        "id": made.id, "timestamp": "2026-03-10T12:00:30.000Z", "request_type": "chat", "model": "tiny",
        "endpoint_id": A, "endpoint_name": where(A).name, "endpoint_ip": where(A).ip, "client_ip": "192.0.2.1",
        "request_body": {"model": "tiny"}, "response_body": None, "duration_ms": 2000, "status": {"type": "success"},
        "completed_at": "2026-03-10T12:00:30.000Z", "input_tokens": 3, "output_tokens": 60, "total_tokens": 63,
        "api_key_id": KEY,
    }  # fmt: skip
    assert get(script) == {"records": [told], "total_count": 1, "total_is_capped": False, "page": 1, "per_page": 10}
    assert get(script, f"/{made.id}") == told


def test_what_is_not_known_is_left_out(script: Api, teller: World) -> None:
    served(teller, request(record.NO_ENDPOINT, error="nobody has it"))
    (told,) = get(script)["records"]
    assert not told.keys() & {"client_ip", "input_tokens", "output_tokens", "total_tokens", "api_key_id"}
    assert (told["endpoint_name"], told["endpoint_ip"]) == ("N/A", "0.0.0.0")
    assert told["status"] == {"type": "error", "message": "nobody has it"}


def test_bodies_are_not_told(script: Api, teller: World) -> None:
    made = request(request_body='{"messages": "secret"}', response_body='{"choices": "secret"}')
    served(teller, made)
    for told in (get(script), get(script, f"/{made.id}")):
        assert "secret" not in json.dumps(told)


def test_every_type_has_the_references_word() -> None:
    stored = {"anthropic_messages" if it == "AnthropicMessages" else it.lower() for it in KINDS}
    assert stored == set(TYPES)


@pytest.mark.parametrize(
    ("query", "found"),
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
def test_filters(script: Api, teller: World, query: str, found: int) -> None:
    served(
        teller,
        request(client_ip="192.0.2.9"),
        request(record.FAILED),
        request(record.CANCELLED, model="other"),
        request(ago=10, endpoint=B, model="large"),
    )
    told = get(script, f"?{query}")
    assert (len(told["records"]), told["total_count"], told["total_is_capped"]) == (found, found, False)


@pytest.mark.parametrize(
    ("query", "page", "size", "found"),
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
def test_pages_by_number(script: Api, teller: World, query: str, page: int, size: int, found: int) -> None:
    served(teller, *(request(ago=second) for second in range(12)))
    told = get(script, f"?{query}")
    assert (told["page"], told["per_page"], len(told["records"]), told["total_count"]) == (page, size, found, 12)


def test_pages_have_every_record_once_newest_first(script: Api, teller: World) -> None:
    records = [request(ago=second) for second in range(12)]
    served(teller, *records)
    found = [it["id"] for number in (1, 2) for it in get(script, f"?page={number}")["records"]]
    assert found == [it.id for it in records]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("start_time=2026-03-10T12:00:00Z&end_time=2026-03-10T11:00:00Z", "start_time must be <= end_time"),
        ("status=perhaps", "perhaps"),
        ("endpoint_id=7", "UUID"),
        ("page=1001", "/api/requests goes on"),
        ("offset=-1", "greater than or equal to 0"),
        ("colour=red", "There is no such parameter"),
    ],
)
def test_wrong_input_is_said(script: Api, query: str, said: str) -> None:
    assert said in json.dumps(get(script, f"?{query}", 400))


def test_a_record_that_is_not_there(script: Api) -> None:
    assert get(script, f"/{KEY}", 404) == {"error": f"Record {KEY} not found"}


# In all


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few requests are looked through."""
    monkeypatch.setattr(history, "LOOK", 10)
    monkeypatch.setattr(history, "LOOK_SCATTERED", 10)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "query", ["", "status=success", "status=error", f"endpoint_id={A}", f"node_id={B}&status=error"]
)
def test_of_many_the_roll_ups_tell_how_many(script: Api, teller: World, query: str) -> None:
    served(teller, *load(4, 400, seconds=3 * 86_400))
    rows = RequestHistory.objects.all()
    for column, value in (part.split("=") for part in query.split("&") if part):
        rows = rows.filter(**{{"node_id": "endpoint_id"}.get(column, column): value})
    told = get(script, f"?{query}")
    assert (told["total_count"], told["total_is_capped"]) == (rows.count(), False)
    assert told["total_count"] > 10


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("query", ["model=tiny", "client_ip=192.0.2.1", "start_time=2026-03-01T00:00:00Z"])
def test_what_roll_ups_do_not_know_is_counted_so_far(script: Api, teller: World, query: str) -> None:
    served(teller, *(request(ago=second, client_ip="192.0.2.1") for second in range(15)))
    told = get(script, f"?{query}")
    assert (told["total_count"], told["total_is_capped"]) == (10, True)


@pytest.mark.usefixtures("few")
def test_nor_do_they_know_what_the_reference_wrote(script: Api, teller: World) -> None:
    served(teller, *(request(ago=second) for second in range(15)))
    RequestHistory.objects.create(
        id=uuid_of(10**9), timestamp=NOW, completed_at=NOW - timedelta(days=1), request_type="Chat", model="tiny",
        endpoint_id=A, endpoint_name="a", endpoint_ip="0.0.0.0", request_body={}, duration_ms=1, status="success",
    )  # fmt: skip
    assert get(script)["total_is_capped"] is True


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("query", "capped"), [("", True), ("?status=error", False)])
def test_a_history_of_errors_is_not_all(script: Api, teller: World, settings: Any, query: str, capped: bool) -> None:
    served(teller, *(request(record.FAILED, ago=second) for second in range(15)))
    settings.ROUTERDASH = replace(settings.ROUTERDASH, history="errors")
    assert get(script, query)["total_is_capped"] is capped


# Whom it is told


@pytest.mark.parametrize("path", [RECORDS, f"{RECORDS}/{KEY}", f"{RECORDS}/export", "/api/models"])
def test_nobody_is_told_anything(anybody: Api, path: str) -> None:
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
def test_an_export_as_csv(teller: World) -> None:
    served(teller, request(model="=1+1"), request(record.FAILED, ago=1, error="timed out", client_ip="192.0.2.1"))
    response, text = download("")
    head, *rows = csv.reader(io.StringIO(text.decode()))
    assert response["Content-Disposition"] == 'attachment; filename="request_history.csv"'
    assert tuple(head) == FIELDS
    assert rows[0][2:4] == ["Chat", "'=1+1"]
    assert rows[1][7:10] == ["192.0.2.1", "2000", "error: timed out"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_export_as_json_is_one_array(teller: World, count: int) -> None:
    records = [request(ago=second) for second in range(count)]
    served(teller, *records)
    response, text = download("?format=json&model=tiny")
    assert response["Content-Type"] == "application/json"
    assert [it["id"] for it in json.loads(text)] == [it.id for it in records]


def test_an_export_in_another_format_is_refused(script: Api) -> None:
    assert "xml" in json.dumps(get(script, "/export?format=xml", 400))


# Models


def test_models_as_the_reference_lists_them(anybody: Api) -> None:
    EndpointModel(endpoint=add_endpoint(A, "a", status="online"), model_id="tiny").save(force_insert=True)
    EndpointModel(endpoint=add_endpoint(B, "b", status="offline"), model_id="large").save(force_insert=True)
    registry.reload()
    told = with_key(key_for(make_admin(), "registry.read")).call("GET", "/api/models").json()
    assert [(it["name"], it["status"], it["size"]) for it in told] == [
        ("large", "unavailable", None),
        ("tiny", "available", None),
    ]


def test_models_want_a_key_that_may_read_them() -> None:
    assert with_key(key_for(make_user(), READ_ENDPOINTS)).call("GET", "/api/models").status_code == 403
