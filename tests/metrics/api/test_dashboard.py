"""The JSON API of figures: fields with names and types, access, and the schema."""

from collections.abc import Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from django.core.management import call_command

from access.models import INFERENCE
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from metrics.models import DailyStat
from tests.access.people import Api, key_for, make_user, session_of, with_key
from tests.metrics.records import NOW, A, request
from tests.metrics.world import World, without

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"
DASHBOARD = [f"/api/dashboard/{name}" for name in ("overview", "stats", "endpoints", "request-history")]
BELOW_ENDPOINT = ("today-stats", "daily-stats", "model-stats", "model-tps")
PATHS = [*DASHBOARD, *[f"/api/endpoints/{A}/{name}" for name in BELOW_ENDPOINT]]

TEXT, WHOLE, NUMBER, FLAG = (str,), (int,), (int, float), (bool,)
NOTHING = (type(None),)

ENDPOINT = {
    "id": TEXT, "name": TEXT, "base_url": TEXT, "status": TEXT, "endpoint_type": TEXT,
    "health_check_interval_secs": WHOLE, "inference_timeout_secs": WHOLE, "latency_ms": WHOLE + NOTHING,
    "last_seen": TEXT + NOTHING, "last_error": TEXT + NOTHING, "error_count": WHOLE, "registered_at": TEXT,
    "notes": TEXT + NOTHING, "model_count": WHOLE, "total_requests": WHOLE, "successful_requests": WHOLE,
    "failed_requests": WHOLE,
}  # fmt: skip
STATS = {
    "total_runtimes": WHOLE, "online_runtimes": WHOLE, "pending_runtimes": WHOLE, "registering_runtimes": WHOLE,
    "offline_runtimes": WHOLE, "total_requests": WHOLE, "successful_requests": WHOLE, "failed_requests": WHOLE,
    "total_active_requests": WHOLE, "queued_requests": WHOLE, "average_response_time_ms": NUMBER + NOTHING,
    "average_gpu_usage": NUMBER + NOTHING, "average_gpu_memory_usage": NUMBER + NOTHING,
    "last_metrics_updated_at": TEXT + NOTHING, "last_registered_at": TEXT + NOTHING, "last_seen_at": TEXT + NOTHING,
    "openai_key_present": FLAG, "google_key_present": FLAG, "anthropic_key_present": FLAG,
    "total_input_tokens": WHOLE, "total_output_tokens": WHOLE, "total_tokens": WHOLE,
}  # fmt: skip
SLOT = {"minute": TEXT, "success": WHOLE, "error": WHOLE}
TPS = {
    "endpoint_id": TEXT, "model_count": WHOLE, "aggregate_tps": NUMBER + NOTHING, "total_output_tokens": WHOLE,
    "total_requests": WHOLE,
}  # fmt: skip
DAY = {"date": TEXT, "total_requests": WHOLE, "successful_requests": WHOLE, "failed_requests": WHOLE}
MODEL_STATS = {
    "model_id": TEXT, "total_requests": WHOLE, "successful_requests": WHOLE, "failed_requests": WHOLE,
    "total_output_tokens": WHOLE, "total_duration_ms": WHOLE,
}  # fmt: skip
MODEL_TPS = {
    "model_id": TEXT, "api_kind": TEXT, "source": TEXT, "tps": NUMBER + NOTHING, "request_count": WHOLE,
    "total_output_tokens": WHOLE, "average_duration_ms": NUMBER + NOTHING,
}  # fmt: skip


def has(payload: dict[str, Any], fields: Mapping[str, tuple[type, ...]]) -> bool:
    """All fields of llmlb with their types; there may be additional ones."""
    assert not set(fields) - set(payload)
    assert {name for name, types in fields.items() if type(payload[name]) not in types} == set()
    return True


@pytest.fixture
def served(shown_world: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    """Two endpoints, one of which has every kind of figure."""
    EndpointModel(endpoint=endpoints[0], model_id="tiny").save(force_insert=True)
    Endpoint.objects.filter(pk=A).update(latency_ms=120, last_seen=NOW, last_error="HTTP 503", notes="rack 3")
    registry.reload()
    shown_world.gateway(request(output_tokens=100, input_tokens=3), request(record.FAILED), request(record.CANCELLED))
    shown_world.write()
    return shown_world


def get(client: Api, path: str) -> Any:
    response = client.call("GET", path)
    assert response.status_code == 200, response.content
    return response.json()


# Names and types


def test_endpoints(script: Api, served: World) -> None:
    rows = get(script, "/api/dashboard/endpoints")
    assert len(rows) == 2
    assert all(has(row, ENDPOINT) for row in rows)
    assert [row["total_requests"] for row in rows] == [2, 0]


def test_stats(script: Api, served: World) -> None:
    stats = get(script, "/api/dashboard/stats")
    assert has(stats, STATS)
    assert (stats["total_requests"], stats["total_tokens"], stats["average_response_time_ms"]) == (2, 103, 2000)


def test_request_history(script: Api, served: World) -> None:
    slots = get(script, "/api/dashboard/request-history")
    assert len(slots) == 60
    assert all(has(slot, SLOT) for slot in slots)
    assert [slot["minute"] for slot in slots] == sorted(slot["minute"] for slot in slots)
    assert slots[-1] == {"minute": "2026-03-10T12:00:00Z", "success": 1, "error": 1}


def test_overview(script: Api, served: World) -> None:
    overview = get(script, "/api/dashboard/overview")
    assert all(has(row, ENDPOINT) for row in overview["endpoints"])
    assert all(has(row, TPS) for row in overview["endpoint_tps"])
    assert has(overview["stats"], STATS)
    assert all(has(slot, SLOT) for slot in overview["history"])
    assert has(overview, {"generated_at": TEXT, "generation_time_ms": WHOLE})


def test_the_overview_agrees_with_its_parts(script: Api, served: World) -> None:
    overview = get(script, "/api/dashboard/overview")
    assert overview["endpoints"] == get(script, "/api/dashboard/endpoints")
    assert overview["stats"] == get(script, "/api/dashboard/stats")
    assert overview["history"] == get(script, "/api/dashboard/request-history")


def test_today_stats(script: Api, served: World) -> None:
    day = get(script, f"/api/endpoints/{A}/today-stats")
    assert has(day, DAY)
    assert day["date"] == "2026-03-10"


def test_daily_stats(script: Api, served: World) -> None:
    days = get(script, f"/api/endpoints/{A}/daily-stats")
    assert days == [get(script, f"/api/endpoints/{A}/today-stats")]
    assert has(days[0], DAY)


def test_model_stats(script: Api, served: World) -> None:
    (row,) = get(script, f"/api/endpoints/{A}/model-stats")
    assert has(row, MODEL_STATS)
    assert (row["model_id"], row["total_output_tokens"], row["total_duration_ms"]) == ("tiny", 100, 2000)


def test_model_tps(script: Api, served: World) -> None:
    (row,) = get(script, f"/api/endpoints/{A}/model-tps")
    assert has(row, MODEL_TPS)
    assert (row["tps"], row["source"]) == (50, "production")


def test_an_empty_installation_responds_on_all_paths(script: Api) -> None:
    assert has(get(script, "/api/dashboard/stats"), STATS)
    assert get(script, "/api/dashboard/endpoints") == []
    assert get(script, "/api/dashboard/overview")["endpoint_tps"] == []


def test_the_next_response_counts_the_last_request(script: Api, served: World) -> None:
    served.gateway(request(record.FAILED))
    (row, _) = get(script, "/api/dashboard/endpoints")
    assert (row["total_requests"], row["failed_requests"]) == (3, 2)


# Access


@pytest.mark.parametrize("path", PATHS)
def test_reading_needs_credentials(anybody: Api, endpoints: object, path: str) -> None:
    assert anybody.call("GET", path).status_code == 401


@pytest.mark.parametrize("path", PATHS)
def test_a_key_needs_the_permission(admin: Any, endpoints: object, path: str) -> None:
    assert with_key(key_for(admin, INFERENCE)).call("GET", path).status_code == 403


@pytest.mark.parametrize("path", PATHS)
def test_a_viewer_can_read_all_figures(as_viewer: Api, endpoints: object, path: str) -> None:
    assert as_viewer.call("GET", path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_generated_password_gives_no_access(endpoints: object, path: str) -> None:
    client = session_of(make_user(must_change_password=True))
    assert client.call("GET", path).json() == {"error": "password_change_required"}


@pytest.mark.parametrize("path", PATHS)
def test_figures_are_read_only(as_admin: Api, endpoints: object, path: str) -> None:
    assert as_admin.call("POST", path).status_code == 405


@pytest.mark.parametrize("name", BELOW_ENDPOINT)
def test_an_unknown_endpoint_has_no_figures(script: Api, name: str) -> None:
    response = script.call("GET", f"/api/endpoints/{NOWHERE}/{name}")
    assert (response.status_code, response.json()) == (404, {"error": "Endpoint not found"})


@pytest.mark.parametrize("name", BELOW_ENDPOINT)
def test_a_name_is_not_an_id(script: Api, name: str) -> None:
    assert script.call("GET", f"/api/endpoints/a/{name}").status_code == 404


# Days


def store_day(date: str) -> None:
    DailyStat(endpoint_id=A, model_id="tiny", date=date, api_kind="completions", total_requests=1).save(
        force_insert=True
    )


@pytest.mark.parametrize(("days", "count"), [("", 2), ("?days=1", 1), ("?days=30", 3), ("?days=365", 3)])
def test_the_number_of_days_is_a_parameter(script: Api, endpoints: object, days: str, count: int) -> None:
    for date in ("2026-03-10", "2026-03-09", "2026-02-20", "2024-01-01"):
        store_day(date)
    assert len(get(script, f"/api/endpoints/{A}/daily-stats{days}")) == count


@pytest.mark.parametrize(("days", "count"), [("0", 1), ("366", 3), ("999999999999999999999", 3)])
def test_days_out_of_range_are_clamped(script: Api, endpoints: object, days: str, count: int) -> None:
    for date in ("2026-03-10", "2026-03-09", "2025-03-11", "2025-03-10"):
        store_day(date)
    assert len(get(script, f"/api/endpoints/{A}/daily-stats?days={days}")) == count


@pytest.mark.parametrize("days", ["-1", "a", "1.5", "", "٣", "²", " 7"])
def test_malformed_days_are_refused(script: Api, endpoints: object, days: str) -> None:
    response = script.call("GET", f"/api/endpoints/{A}/daily-stats?days={days}")
    assert (response.status_code, response.json()) == (400, {"error": "days must be a whole number from 1 to 365"})


# Without a database


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["daily-stats", "model-stats"])
def test_paths_that_need_the_database_report_its_absence(as_admin: Api, endpoints: object, name: str) -> None:
    get(as_admin, "/api/dashboard/overview")
    with without("endpoint_daily_stats"):
        response = as_admin.call("GET", f"/api/endpoints/{A}/{name}")
    assert response.status_code == 503
    assert "database is currently unavailable" in response.json()["error"]


@pytest.mark.parametrize("path", [*DASHBOARD, f"/api/endpoints/{A}/today-stats", f"/api/endpoints/{A}/model-tps"])
def test_all_other_paths_need_no_database(
    script: Api, served: World, path: str, django_assert_num_queries: Any
) -> None:
    get(script, path)
    with django_assert_num_queries(0):
        get(script, path)


# The schema


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the schema as the command writes it; every warning is an error."""
    path = tmp_path_factory.mktemp("schema") / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    return yaml.safe_load(path.read_text())


def resolved(node: Any, schema: Any) -> Any:
    """Convert a schema of OpenAPI 3.0 to JSON Schema: replace references, convert `nullable` to a type."""
    if isinstance(node, list):
        return [resolved(item, schema) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = schema
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(target, schema)
    plain = {name: resolved(value, schema) for name, value in node.items() if name not in ("nullable", "readOnly")}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") else plain


@pytest.mark.parametrize("path", PATHS)
def test_responses_match_the_schema(script: Api, served: World, schema: Any, path: str) -> None:
    described = schema["paths"][path.replace(A, "{endpoint_id}")]["get"]["responses"]["200"]
    expected = resolved(described["content"]["application/json"]["schema"], schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(get(script, path), expected, format_checker=checker)


@pytest.mark.parametrize("path", PATHS)
def test_every_returned_field_is_in_the_schema(script: Api, served: World, schema: Any, path: str) -> None:
    described = schema["paths"][path.replace(A, "{endpoint_id}")]["get"]["responses"]["200"]
    expected = resolved(described["content"]["application/json"]["schema"], schema)
    assert undescribed(get(script, path), expected) == set()


def undescribed(payload: Any, expected: Any) -> set[str]:
    if isinstance(payload, list):
        return {name for item in payload for name in undescribed(item, expected["items"])}
    properties = expected.get("properties") if isinstance(expected, dict) else None
    if not isinstance(payload, dict) or properties is None:
        return set()
    inside = {
        name for key, value in payload.items() if key in properties for name in undescribed(value, properties[key])
    }
    return (set(payload) - set(properties)) | inside


def test_the_schema_is_served(script: Api) -> None:
    response = script.get("/api/schema/")
    assert response.status_code == 200
    assert set(DASHBOARD) < set(yaml.safe_load(response.content)["paths"])


def test_the_schema_describes_the_authentication(schema: Any) -> None:
    assert {"apiKey", "bearer", "session"} <= set(schema["components"]["securitySchemes"])
