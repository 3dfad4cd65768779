import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from endpoints import sealer
from endpoints.checks.result import Check
from endpoints.models import (
    EDITED_FIELDS,
    HEALTH_FIELDS,
    Endpoint,
    EndpointModel,
    EndpointOptions,
    HealthCheck,
    OperatorState,
    Status,
    deadline,
    merge_latency,
    next_status,
)
from endpoints.registry import registry
from tests.endpoints.conftest import make_endpoint, make_model, sql

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)
LATER = datetime(2026, 4, 15, 13, tzinfo=UTC)


def passed(endpoint: Endpoint, latency_ms: int | None = 80, moment: datetime = NOON) -> Endpoint:
    stored = Endpoint.record_check(endpoint.pk, success=True, latency_ms=latency_ms, error=None, checked_at=moment)
    assert stored is not None
    return stored


def failed(endpoint: Endpoint, error: str = "connection refused", moment: datetime = NOON) -> Endpoint:
    stored = Endpoint.record_check(endpoint.pk, success=False, latency_ms=None, error=error, checked_at=moment)
    assert stored is not None
    return stored


# The state machine


@pytest.mark.parametrize("before", Status.values)
@pytest.mark.parametrize("error_count", [0, 1, 5])
def test_one_success_restores_any_status(before: str, error_count: int) -> None:
    assert next_status(before, error_count, success=True) == ("online", 0)


@pytest.mark.parametrize(
    ("before", "error_count", "after"),
    [
        ("pending", 0, ("offline", 0)),
        ("online", 0, ("error", 1)),
        ("online", 1, ("offline", 0)),
        ("error", 0, ("error", 1)),
        ("error", 1, ("offline", 0)),
        ("error", 5, ("offline", 0)),
        ("offline", 0, ("offline", 0)),
        ("offline", 7, ("offline", 0)),
    ],
)
def test_a_failure_leads_to_offline_in_two_steps(before: str, error_count: int, after: tuple[str, int]) -> None:
    assert next_status(before, error_count, success=False) == after


@pytest.mark.parametrize(("new", "old", "merged"), [(95, 120, 95), (None, 120, 120), (None, None, None), (7, None, 7)])
def test_none_never_overwrites_a_latency(new: int | None, old: int | None, merged: int | None) -> None:
    assert merge_latency(new, old) == merged


# Checks


def test_a_passed_check_brings_an_endpoint_online() -> None:
    endpoint = passed(make_endpoint(last_error="connection refused", status="offline"))
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.latency_ms, endpoint.last_seen) == ("online", 80, NOON)
    assert (endpoint.last_error, endpoint.error_count) == (None, 0)


def test_two_failed_checks_take_it_offline() -> None:
    endpoint = make_endpoint(status="online")
    assert [failed(endpoint).status, failed(endpoint).status] == ["error", "offline"]


def test_a_failure_is_counted_until_the_endpoint_is_offline() -> None:
    endpoint = make_endpoint(status="online")
    assert [failed(endpoint).error_count, failed(endpoint).error_count] == [1, 0]


def test_a_failed_check_keeps_the_latency() -> None:
    endpoint = make_endpoint(status="online", latency_ms=120)
    failed(endpoint)
    failed(endpoint)
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.latency_ms) == ("offline", 120)


def test_a_recovery_stores_the_new_latency() -> None:
    endpoint = make_endpoint(status="offline", latency_ms=120)
    passed(endpoint, 95)
    endpoint.refresh_from_db()
    assert endpoint.latency_ms == 95


def test_a_never_measured_endpoint_stays_without_latency() -> None:
    endpoint = failed(make_endpoint())
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.latency_ms) == ("offline", None)


def test_a_pass_without_a_latency_keeps_the_old_one() -> None:
    endpoint = passed(make_endpoint(status="error", latency_ms=120), None)
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.latency_ms) == ("online", 120)


def test_only_a_success_updates_last_seen() -> None:
    endpoint = passed(make_endpoint(), moment=NOON)
    failed(endpoint, moment=LATER)
    endpoint.refresh_from_db()
    assert endpoint.last_seen == NOON


def test_the_cause_of_a_failure_is_kept_until_the_next_success() -> None:
    endpoint = failed(make_endpoint(status="online"), "HTTP 500")
    assert Endpoint.objects.get().last_error == "HTTP 500"
    passed(endpoint)
    assert Endpoint.objects.get().last_error is None


def test_every_check_stores_a_row() -> None:
    endpoint = make_endpoint()
    passed(endpoint, 80)
    failed(endpoint, "HTTP 500", moment=LATER)
    assert list(
        HealthCheck.objects.order_by("id").values_list(
            "checked_at", "success", "latency_ms", "error_message", "status_before", "status_after"
        )
    ) == [
        (NOON, True, 80, None, "pending", "online"),
        (LATER, False, None, "HTTP 500", "online", "error"),
    ]


def test_a_check_of_a_deleted_endpoint_is_ignored() -> None:
    stored = Endpoint.record_check(uuid.uuid4(), success=True, latency_ms=1, error=None, checked_at=NOON)
    assert stored is None
    assert not HealthCheck.objects.exists()


def test_a_check_writes_only_health_fields() -> None:
    endpoint = make_endpoint(total_requests=3, name="old")
    Endpoint.objects.update(total_requests=9, name="new")
    passed(endpoint)
    assert Endpoint.objects.values_list("total_requests", "name").get() == (9, "new")


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_checks_count_as_two() -> None:
    endpoint = make_endpoint(status="online")
    together = threading.Barrier(2)

    def check() -> None:
        together.wait()
        failed(endpoint)
        connection.close()

    threads = [threading.Thread(target=check) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(HealthCheck.objects.values_list("status_before", "status_after")) == [
        ("error", "offline"),
        ("online", "error"),
    ]


@pytest.mark.django_db(transaction=True)
def test_the_cache_keeps_the_latency_as_the_database_does() -> None:
    endpoint = make_endpoint(status="online", latency_ms=120)
    assert registry.get(str(endpoint.pk)) is not None
    failed(endpoint)
    failed(endpoint)
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    assert (entry.status, entry.latency_ms) == ("offline", 120)


# Saving

MEASURED: dict[str, Any] = {
    "status": "online",
    "latency_ms": 95,
    "last_seen": NOON,
    "last_error": "HTTP 500",
    "error_count": 1,
    "total_requests": 11,
    "successful_requests": 8,
    "failed_requests": 3,
    "inference_latency_ms": 42.5,
    "endpoint_type": "vllm",
    "device_info": {"device_type": "gpu"},
    "api_key_encrypted": "sk-theirs",
    "registered_at": LATER,
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_save_does_not_overwrite_figures(name: str) -> None:
    loaded = make_endpoint()
    Endpoint.objects.update(**{name: MEASURED[name]})
    loaded.notes = "moved to the basement"
    loaded.save()
    assert Endpoint.objects.values_list("notes", name).get() == ("moved to the basement", MEASURED[name])


def test_a_save_writes_all_fields_that_administrators_may_edit() -> None:
    edited = {
        "name": "new",
        "base_url": "http://new:1",
        "health_check_interval_secs": 5,
        "inference_timeout_secs": 6,
        "notes": "ours",
        "capabilities": ["embeddings"],
    }
    endpoint = make_endpoint()
    for name, value in edited.items():
        setattr(endpoint, name, value)
    endpoint.save()
    assert Endpoint.objects.values(*edited).get() == edited
    assert set(edited) == set(EDITED_FIELDS)


def test_edits_and_checks_write_different_fields() -> None:
    assert not set(EDITED_FIELDS) & set(HEALTH_FIELDS)


def test_a_save_with_update_fields_writes_these() -> None:
    endpoint = make_endpoint()
    endpoint.endpoint_type = "ollama"
    endpoint.notes = "not written"
    endpoint.save(update_fields=["endpoint_type"])
    assert Endpoint.objects.values_list("endpoint_type", "notes").get() == ("ollama", None)


def test_a_new_row_is_written_whole() -> None:
    make_endpoint(status="online", latency_ms=5, total_requests=2, endpoint_type="vllm")
    assert Endpoint.objects.values_list("status", "latency_ms", "total_requests", "endpoint_type").get() == (
        "online",
        5,
        2,
        "vllm",
    )


def test_a_row_of_llmlb_gets_the_defaults_of_the_table() -> None:
    sql(
        "INSERT INTO endpoints (id, name, base_url, registered_at) VALUES (%s, 'theirs', 'http://theirs:1', %s)",
        str(uuid.uuid4()),
        "2026-04-15T01:02:03+00:00",
    )
    endpoint = Endpoint.objects.get()
    assert (endpoint.status, endpoint.endpoint_type, endpoint.capabilities) == (
        "pending",
        "openai_compatible",
        ["chat_completion"],
    )
    assert (endpoint.health_check_interval_secs, endpoint.inference_timeout_secs) == (30, 120)
    assert (endpoint.total_requests, endpoint.error_count, endpoint.latency_ms) == (0, 0, None)


@pytest.mark.parametrize("taken", [{"name": "a", "base_url": "http://c:1"}, {"name": "c", "base_url": "http://a:1"}])
def test_names_and_addresses_are_unique(taken: dict[str, str]) -> None:
    make_endpoint("a", "http://a:1")
    with pytest.raises(IntegrityError), transaction.atomic():
        make_endpoint(**taken)


def test_names_differ_by_case() -> None:
    make_endpoint("box", "http://a:1")
    make_endpoint("Box", "http://b:1")
    assert Endpoint.objects.count() == 2


# Cleaning


def test_cleaning_trims_the_name_and_normalises_the_url() -> None:
    endpoint = Endpoint(name="  gpu box ", base_url="http://GPU:8000/v1/")
    endpoint.clean()
    assert (endpoint.name, endpoint.base_url) == ("gpu box", "http://gpu:8000")


@pytest.mark.parametrize(("name", "url", "wrong"), [("  ", "http://a:1", "name"), ("a", "http://", "base_url")])
def test_cleaning_reports_the_wrong_field(name: str, url: str, wrong: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Endpoint(name=name, base_url=url).clean()
    assert list(refused.value.message_dict) == [wrong]


@pytest.mark.parametrize("seconds", [0, -1, 3601])
def test_an_interval_is_one_second_to_one_hour(seconds: int) -> None:
    with pytest.raises(ValidationError, match="health_check_interval_secs"):
        Endpoint(name="a", base_url="http://a:1", health_check_interval_secs=seconds).full_clean()


# The upstream's key


def test_a_key_is_sealed_in_the_database() -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-upstream")
    ((sealed,),) = sql("SELECT sealed_api_key FROM endpoint_options")
    assert "sk-upstream" not in sealed
    assert sealer.sealer().open(sealed) == "sk-upstream"
    assert Endpoint.objects.get().api_key == "sk-upstream"


def test_the_plain_key_of_llmlb_is_used_if_there_is_no_other() -> None:
    assert make_endpoint(api_key_encrypted="sk-theirs").api_key == "sk-theirs"
    assert make_endpoint("none").api_key is None


def test_a_new_key_removes_the_plain_one_from_the_database() -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    endpoint.set_api_key("sk-ours")
    stored = Endpoint.objects.get()
    assert (stored.api_key, stored.api_key_encrypted) == ("sk-ours", None)


@pytest.mark.parametrize("nothing", [None, ""])
def test_deleting_a_key_removes_all_copies(nothing: str | None) -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    endpoint.set_api_key("sk-ours")
    endpoint.set_api_key(nothing)
    stored = Endpoint.objects.get()
    assert (stored.api_key, stored.api_key_encrypted, stored.options.sealed_api_key) == (None, None, None)


def test_deleting_a_key_removes_a_plain_key() -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    endpoint.set_api_key(None)
    assert Endpoint.objects.get().api_key is None


def test_a_key_can_be_replaced() -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("first")
    endpoint.set_api_key("second")
    assert Endpoint.objects.get().api_key == "second"


def test_setting_a_key_keeps_the_state_and_the_other_way_round() -> None:
    endpoint = make_endpoint()
    endpoint.set_operator_state(OperatorState.DRAINING)
    endpoint.set_api_key("sk-upstream")
    endpoint.set_operator_state(OperatorState.DISABLED)
    stored = Endpoint.objects.get()
    assert (stored.options.operator_state, stored.api_key) == ("disabled", "sk-upstream")


def test_an_endpoint_without_options_is_enabled_and_reading_creates_none() -> None:
    endpoint = make_endpoint()
    assert endpoint.options_or_default.operator_state == OperatorState.ENABLED
    assert not EndpointOptions.objects.exists()


# Rows that belong to an endpoint


def test_deleting_an_endpoint_deletes_models_checks_and_options() -> None:
    endpoint = make_endpoint()
    make_model(endpoint)
    passed(endpoint)
    endpoint.set_api_key("sk-upstream")
    endpoint.delete()
    assert not EndpointModel.objects.exists()
    assert not HealthCheck.objects.exists()
    assert not EndpointOptions.objects.exists()


def test_llmlb_can_delete_an_endpoint_that_has_options() -> None:
    endpoint = make_endpoint()
    endpoint.set_operator_state(OperatorState.DISABLED)
    sql("DELETE FROM endpoints")
    connection.check_constraints()
    assert EndpointOptions.objects.count() == 1


def test_a_model_is_unique_per_endpoint() -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "tiny")
    with pytest.raises(IntegrityError), transaction.atomic():
        make_model(endpoint, "tiny")
    make_model(make_endpoint("other"), "tiny")


def test_a_model_is_identified_by_endpoint_and_name() -> None:
    model = make_model(make_endpoint(), "tiny")
    assert EndpointModel.objects.get(pk=(model.endpoint_id, "tiny")) == model


def test_rows_have_readable_names() -> None:
    endpoint = make_endpoint("gpu-box")
    endpoint.set_operator_state(OperatorState.DRAINING)
    passed(endpoint)
    assert str(endpoint) == "gpu-box"
    assert str(make_model(endpoint)) == "tiny"
    assert str(endpoint.options) == f"{endpoint.pk}: draining"
    assert str(HealthCheck.objects.get()).endswith("pending → online")


# Another server


@pytest.mark.parametrize(
    ("url", "moves"),
    [
        ("http://gpu:8000", False),
        ("http://gpu:8000/openai", False),
        ("https://gpu:8000", True),
        ("http://gpu:8001", True),
        ("http://gpu2:8000", True),
        ("http://gpu", True),
    ],
)
def test_another_scheme_host_or_port_is_a_move(url: str, moves: bool) -> None:
    assert Endpoint(base_url="http://gpu:8000/v2").moves_to(url) is moves


def test_a_move_deletes_all_data_of_the_old_server() -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    endpoint.set_options(learned_slots=4, max_concurrency=2)
    endpoint.forget_server(None)
    stored = Endpoint.objects.get()
    assert (stored.api_key, stored.options.learned_slots, stored.options.max_concurrency) == (None, None, 2)


# Administrative state


def test_a_drain_keeps_its_deadline_until_another_state() -> None:
    endpoint = make_endpoint()
    until = deadline(60)
    endpoint.set_operator_state("draining", until)
    assert EndpointOptions.objects.get().drain_until == until
    endpoint.set_operator_state("enabled")
    assert EndpointOptions.objects.get().drain_until is None


def test_a_drain_without_a_deadline_has_no_timestamp() -> None:
    assert deadline(None) is None


def test_options_are_written_independently() -> None:
    one, other = make_endpoint(), Endpoint.objects.get()
    assert other.options_or_default.max_concurrency is None
    one.set_options(max_concurrency=7)
    other.set_operator_state("disabled")
    assert (EndpointOptions.objects.get().max_concurrency, EndpointOptions.objects.get().operator_state) == (
        7,
        "disabled",
    )


# Batches of checks


def success(latency_ms: int | None = 80) -> Check:
    return Check(True, latency_ms, None, NOON)


def failure(error: str = "HTTP 503") -> Check:
    return Check(False, None, error, NOON)


def test_checks_of_several_endpoints_are_stored_together() -> None:
    one, other = make_endpoint("one", latency_ms=7), make_endpoint("other", status="online")
    stored = Endpoint.record_checks([(str(one.pk), success(None)), (str(other.pk), failure())])
    assert stored.keys() == {str(one.pk), str(other.pk)}
    rows = Endpoint.objects.values_list("name", *HEALTH_FIELDS).order_by("name")
    assert list(rows) == [("one", "online", 7, NOON, None, 0), ("other", "error", None, None, "HTTP 503", 1)]
    checks = HealthCheck.objects.values_list("endpoint__name", "status_before", "status_after", "error_message")
    assert set(checks) == {("one", "pending", "online", None), ("other", "online", "error", "HTTP 503")}


def test_two_failures_in_one_batch_count_as_two() -> None:
    endpoint = make_endpoint(status="online")
    Endpoint.record_checks([(str(endpoint.pk), failure("first")), (str(endpoint.pk), failure("second"))])
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.last_error) == ("offline", "second")
    rows = HealthCheck.objects.order_by("id").values_list("status_before", "status_after")
    assert list(rows) == [("online", "error"), ("error", "offline")]


def test_deleted_endpoints_are_left_out_of_a_batch() -> None:
    endpoint = make_endpoint()
    stored = Endpoint.record_checks([(str(uuid.uuid4()), success()), (str(endpoint.pk), success())])
    assert stored.keys() == {str(endpoint.pk)}
    assert HealthCheck.objects.count() == 1
    assert Endpoint.record_checks([]) == {}


def test_a_batch_takes_as_many_statements_as_one_check(django_assert_num_queries: Any) -> None:
    checks = [(str(make_endpoint(f"server {number}").pk), success()) for number in range(20)]
    with django_assert_num_queries(5):  # the endpoints, their update, the checks, and a savepoint around them
        Endpoint.record_checks(checks[:1])
    with django_assert_num_queries(5):
        Endpoint.record_checks(checks)
