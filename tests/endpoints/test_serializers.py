from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from endpoints.models import Endpoint
from endpoints.registry import Entry, ModelEntry, Models
from endpoints.serializers import EndpointDetailSerializer, EndpointSerializer, EndpointWriteSerializer
from tests.endpoints.conftest import make_endpoint

pytestmark = pytest.mark.django_db
ID = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"
NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)
ENTRY = Entry(id=ID, name="gpu-box", base_url="http://gpu:8000", kind="vllm", registered_at=NOON)


def serialized(entry: Entry) -> Any:
    return EndpointDetailSerializer(entry).data


def errors(**data: Any) -> Any:
    given = EndpointWriteSerializer(data={"name": "a", "base_url": "http://a:1", **data})
    given.is_valid()
    return given.errors


# Reading


def test_an_entry_is_serialized_with_the_field_names_of_llmlb() -> None:
    assert serialized(ENTRY) == {
        "id": ID,
        "name": "gpu-box",
        "base_url": "http://gpu:8000",
        "status": "pending",
        "operator_state": "enabled",
        "endpoint_type": "vllm",
        "health_check_interval_secs": 30,
        "inference_timeout_secs": 120,
        "latency_ms": None,
        "last_seen": None,
        "last_error": None,
        "error_count": 0,
        "registered_at": "2026-04-15T12:00:00Z",
        "notes": None,
        "device_info": None,
        "capabilities": [],
        "connect_timeout_secs": None,
        "idle_timeout_secs": None,
        "total_timeout_secs": None,
        "max_concurrency": None,
        "learned_slots": None,
        "assumed_slots": None,
        "tags": [],
        "connection": None,
        "drain_until": None,
        "tier": None,
        "cost_weight": None,
        "external": None,
        "cloud_type": None,
        "api_version": None,
        "allowed_models": None,
        "is_external": False,
        "has_api_key": False,
        "model_count": 0,
        "models": [],
        "active_requests": 0,
    }


def test_a_list_has_the_number_of_models_only() -> None:
    entry = replace(ENTRY, models=Models([ModelEntry("a"), ModelEntry("b")]))
    assert EndpointSerializer(entry).data["model_count"] == 2
    assert "models" not in EndpointSerializer(entry).data


def test_a_model_is_serialized_with_the_field_names_of_llmlb() -> None:
    entry = replace(ENTRY, models=Models([ModelEntry("a", "org/a", ("chat",), 4096, NOON)]))
    assert serialized(entry)["models"] == [
        {
            "model_id": "a",
            "capabilities": ["chat"],
            "max_tokens": 4096,
            "last_checked": "2026-04-15T12:00:00Z",
            "canonical_name": "org/a",
            "max_output_tokens": None,
            "lacks": [],
            "features": [],
        }
    ]


@pytest.mark.parametrize("key", [{"sealed_api_key": "sealed"}, {"plain_api_key": "plain"}])
def test_only_the_presence_of_a_key_is_serialized(key: dict[str, str]) -> None:
    data = serialized(replace(ENTRY, **key))  # type: ignore[arg-type]
    assert data["has_api_key"] is True
    assert not set(key.values()) & {str(value) for value in data.values()}


@pytest.mark.parametrize("odd", ["hibernating", "", "ONLINE"])
def test_unknown_values_are_serialized_unchanged(odd: str) -> None:
    data = serialized(replace(ENTRY, kind=odd, operator_state=odd))
    assert (data["endpoint_type"], data["operator_state"]) == (odd, odd)


# Writing


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""),
        ("name", "   "),
        ("name", None),
        ("name", "x" * 201),
        ("name", ["a"]),
        ("name", "a\0b"),
        ("base_url", ""),
        ("base_url", "http://"),
        ("base_url", "ftp://a:1"),
        ("base_url", "http://a:1?x=1"),
        ("base_url", "http://" + "a" * 2000),
        ("health_check_interval_secs", 0),
        ("health_check_interval_secs", 3601),
        ("health_check_interval_secs", -1),
        ("health_check_interval_secs", 1.5),
        ("health_check_interval_secs", "often"),
        ("health_check_interval_secs", None),
        ("health_check_interval_secs", True),
        ("inference_timeout_secs", 0),
        ("inference_timeout_secs", 86401),
        ("notes", "x" * 20001),
        ("capabilities", "chat"),
        ("capabilities", None),
        ("capabilities", ["x" * 51]),
        ("capabilities", ["chat"] * 21),
        ("capabilities", ["telepathy"]),
        ("connect_timeout_secs", 0),
        ("connect_timeout_secs", 61),
        ("idle_timeout_secs", 86401),
        ("total_timeout_secs", 0),
        ("max_concurrency", 0),
        ("max_concurrency", 10001),
        ("max_concurrency", "many"),
        ("operator_state", "asleep"),
        ("operator_state", None),
    ],
)
def test_a_wrong_field_is_reported_by_name(field: str, wrong: Any) -> None:
    assert list(errors(**{field: wrong})) == [field]


@pytest.mark.parametrize(
    "right",
    [
        {"health_check_interval_secs": 1},
        {"health_check_interval_secs": 3600},
        {"inference_timeout_secs": 86400},
        {"name": "日本語の名前"},
        {"name": "a/b & <c> \"d\" 'e'"},
        {"api_key": None},
        {"api_key": ""},
        {"notes": None},
        {"notes": ""},
        {"capabilities": []},
        {"capabilities": ["chat", "rerank", "moderation", "audio_speech"]},
        {"connect_timeout_secs": 60, "idle_timeout_secs": 86400, "total_timeout_secs": 1, "max_concurrency": 10000},
        {"connect_timeout_secs": None, "idle_timeout_secs": None, "total_timeout_secs": None, "max_concurrency": None},
        {"operator_state": "draining"},
    ],
)
def test_a_valid_field_is_accepted(right: dict[str, Any]) -> None:
    assert not errors(**right)


def test_missing_fields_of_a_new_endpoint_get_defaults(settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, health_check_interval=7)
    given = EndpointWriteSerializer(data={"name": "a", "base_url": "http://a:1"})
    assert given.is_valid()
    assert given.validated_data == {
        "name": "a",
        "base_url": "http://a:1",
        "health_check_interval_secs": 7,
        "inference_timeout_secs": 120,
    }


def test_an_update_contains_only_the_sent_fields() -> None:
    given = EndpointWriteSerializer(make_endpoint(), data={"notes": "x"}, partial=True)
    assert given.is_valid()
    assert given.validated_data == {"notes": "x"}


def test_a_name_is_trimmed_and_a_url_normalised() -> None:
    given = EndpointWriteSerializer(data={"name": " a ", "base_url": "http://A:1/v1/"})
    assert given.is_valid()
    assert (given.validated_data["name"], given.validated_data["base_url"]) == ("a", "http://a:1")


def test_another_endpoints_name_is_refused_and_its_own_accepted() -> None:
    endpoint = make_endpoint("a")
    assert list(errors(name="a")) == ["name"]
    assert EndpointWriteSerializer(endpoint, data={"name": "a"}, partial=True).is_valid()


def written(endpoint: Endpoint, **data: Any) -> Endpoint:
    given = EndpointWriteSerializer(endpoint, data=data, partial=True)
    given.is_valid(raise_exception=True)
    given.write(endpoint)
    return Endpoint.objects.get(pk=endpoint.pk)


def test_writing_changes_only_the_sent_fields() -> None:
    endpoint = make_endpoint(notes="old")
    Endpoint.objects.update(name="renamed meanwhile", status="online")
    stored = written(endpoint, notes="new")
    assert (stored.name, stored.notes, stored.status) == ("renamed meanwhile", "new", "online")


def test_writing_a_key_and_a_state() -> None:
    stored = written(make_endpoint(), api_key="sk-upstream", operator_state="draining")
    assert (stored.api_key, stored.options.operator_state) == ("sk-upstream", "draining")


@pytest.mark.parametrize("nothing", [None, ""])
def test_writing_an_empty_key_deletes_it(nothing: str | None) -> None:
    assert written(make_endpoint(api_key_encrypted="sk-theirs"), api_key=nothing).api_key is None


def test_leaving_the_key_out_keeps_it() -> None:
    assert written(make_endpoint(api_key_encrypted="sk-theirs"), notes="x").api_key == "sk-theirs"
