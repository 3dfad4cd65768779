import logging
import threading
import uuid
from collections.abc import Collection
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import Error, connection, transaction

from endpoints import registry as registry_module
from endpoints.models import Endpoint
from endpoints.registry import Entry, ModelEntry, Registry, read_entries, registry
from tests.access.people import without_database
from tests.endpoints.conftest import make_endpoint, make_model, rolled_back, sql

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)


def entry_of(endpoint: Endpoint) -> Entry:
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    return entry


def some(name: str = "gpu-box", **fields: Any) -> Entry:
    return Entry(**{"id": name, "name": name, "base_url": "http://a:1", "kind": "vllm", **fields})


def filled(*entries: Entry) -> Registry:
    own_registry = Registry()
    own_registry.fill({entry.id: entry for entry in entries})
    return own_registry


# Loading


def test_the_registry_is_loaded_by_the_first_read() -> None:
    endpoint = make_endpoint()
    assert not registry.loaded
    assert registry.get(str(endpoint.pk)) is not None
    assert registry.loaded


def test_the_registry_is_loaded_once(django_assert_num_queries: Any) -> None:
    make_endpoint()
    registry.all()
    with django_assert_num_queries(0):
        registry.all()
        registry.get(str(uuid.uuid4()))


def test_an_empty_table_is_loaded_once_too(django_assert_num_queries: Any) -> None:
    assert registry.all() == ()
    with django_assert_num_queries(0):
        assert registry.all() == ()


@pytest.mark.parametrize("rows", [1, 12])
def test_loading_needs_two_queries_for_any_number_of_endpoints(rows: int, django_assert_num_queries: Any) -> None:
    for number in range(rows):
        make_model(make_endpoint(f"box{number}"))
    with django_assert_num_queries(2):
        assert len(registry.all()) == rows


def test_the_oldest_endpoint_comes_first() -> None:
    for name, hours in (("young", 2), ("old", 0), ("middle", 1)):
        make_endpoint(name, registered_at=NOON + timedelta(hours=hours))
    assert [entry.name for entry in registry.all()] == ["old", "middle", "young"]


def test_an_entry_has_the_values_of_the_row() -> None:
    fields = {
        "status": "error",
        "health_check_interval_secs": 7,
        "inference_timeout_secs": 8,
        "latency_ms": 95,
        "last_seen": NOON,
        "last_error": "HTTP 500",
        "error_count": 1,
        "registered_at": NOON,
        "notes": "basement",
        "device_info": {"device_type": "gpu"},
    }
    entry = entry_of(make_endpoint("gpu-box", "http://a:1", endpoint_type="vllm", **fields))
    assert {name: getattr(entry, name) for name in fields} == fields
    assert (entry.name, entry.base_url, entry.kind, entry.models) == ("gpu-box", "http://a:1", "vllm", ())


def test_an_entry_has_the_options() -> None:
    options = {
        "connect_timeout_secs": 1,
        "idle_timeout_secs": 2,
        "total_timeout_secs": 3,
        "max_concurrency": 4,
        "learned_slots": 5,
        "drain_until": NOON,
    }
    endpoint = make_endpoint(capabilities=["embeddings"])
    endpoint.set_options(**options)
    entry = entry_of(endpoint)
    assert {name: getattr(entry, name) for name in options} == options
    assert entry.capabilities == ("embeddings",)


@pytest.mark.parametrize(
    ("configured", "reported", "slots"), [(None, None, None), (None, 4, 4), (2, 4, 2), (8, 4, 8), (8, None, 8)]
)
def test_configured_slots_take_precedence_over_reported_ones(
    configured: int | None, reported: int | None, slots: int | None
) -> None:
    assert some(max_concurrency=configured, learned_slots=reported).slots == slots


@pytest.mark.parametrize(
    ("configured", "reported", "slots", "is_assumed"),
    [(None, None, 5, True), (None, 4, 4, False), (9, None, 9, False), (9, 4, 9, False)],
)
def test_assumed_slots_apply_only_if_there_are_no_others(
    configured: int | None, reported: int | None, slots: int, is_assumed: bool
) -> None:
    entry = some(max_concurrency=configured, learned_slots=reported, assumed_slots=5)
    assert (entry.slots, entry.has_assumed_slots) == (slots, is_assumed)


def test_an_entry_has_sorted_models() -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "b", capabilities=["chat"], max_tokens=4096, canonical_name="org/b", last_checked=NOON)
    make_model(endpoint, "a")
    assert entry_of(endpoint).models == (ModelEntry("a"), ModelEntry("b", "org/b", ("chat",), 4096, NOON))


@pytest.mark.parametrize("stored", [None, "chat", {"chat": True}, 7])
def test_capabilities_that_are_not_a_list_are_empty(stored: Any) -> None:
    endpoint = make_endpoint()
    make_model(endpoint, capabilities=stored)
    assert entry_of(endpoint).models[0].capabilities == ()


def test_an_unknown_status_reads_as_pending() -> None:
    assert entry_of(make_endpoint(status="hibernating")).status == "pending"


def test_an_entry_holds_keys_as_they_are_stored() -> None:
    theirs, ours = make_endpoint("theirs", api_key_encrypted="sk-theirs"), make_endpoint("ours")
    ours.set_api_key("sk-ours")
    assert (entry_of(theirs).plain_api_key, entry_of(theirs).sealed_api_key) == ("sk-theirs", None)
    assert entry_of(ours).plain_api_key is None
    assert entry_of(ours).sealed_api_key == ours.options.sealed_api_key


def test_the_repr_of_an_entry_has_no_key() -> None:
    assert "sk-" not in repr(some(sealed_api_key="sk-sealed", plain_api_key="sk-plain"))


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        some().status = "online"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("state", "shown"), [("enabled", "online"), ("draining", "draining"), ("disabled", "disabled")]
)
def test_the_operator_state_takes_precedence_over_the_status(state: str, shown: str) -> None:
    assert some(status="online", operator_state=state).shown_status == shown


# Updates after edits


@committed
def test_a_new_endpoint_is_in_the_registry_on_commit() -> None:
    registry.all()
    with transaction.atomic():
        endpoint = make_endpoint()
        assert registry.all() == ()
    assert entry_of(endpoint).name == "gpu-box"


@committed
def test_an_edit_is_in_the_registry_on_commit() -> None:
    endpoint = make_endpoint()
    before = entry_of(endpoint)
    endpoint.name = "renamed"
    endpoint.save()
    assert entry_of(endpoint).name == "renamed"
    assert before.name == "gpu-box"  # a reader keeps its list


@committed
def test_a_rollback_changes_nothing() -> None:
    endpoint = make_endpoint()
    registry.all()
    version = registry.version
    with rolled_back():
        endpoint.name = "renamed"
        endpoint.save()
    assert entry_of(endpoint).name == "gpu-box"
    assert registry.version == version


@committed
def test_a_deleted_endpoint_is_removed() -> None:
    endpoint, other = make_endpoint(), make_endpoint("other")
    make_model(endpoint)
    registry.all()
    endpoint_id = str(endpoint.pk)
    endpoint.delete()
    assert registry.get(endpoint_id) is None
    assert [entry.name for entry in registry.all()] == [other.name]


@committed
def test_edits_of_models_are_followed() -> None:
    endpoint = make_endpoint()
    registry.all()
    model = make_model(endpoint, "tiny")
    assert [model_entry.id for model_entry in entry_of(endpoint).models] == ["tiny"]
    model.delete()
    assert entry_of(endpoint).models == ()


@committed
def test_edits_of_options_are_followed() -> None:
    endpoint = make_endpoint()
    registry.all()
    endpoint.set_operator_state("draining")
    assert entry_of(endpoint).operator_state == "draining"
    endpoint.set_api_key("sk-upstream")
    assert entry_of(endpoint).sealed_api_key
    endpoint.options.delete()
    assert (entry_of(endpoint).operator_state, entry_of(endpoint).sealed_api_key) == ("enabled", None)


@committed
def test_checks_are_followed() -> None:
    endpoint = make_endpoint()
    registry.all()
    Endpoint.record_check(endpoint.pk, success=True, latency_ms=80, error=None, checked_at=NOON)
    entry = entry_of(endpoint)
    assert (entry.status, entry.latency_ms, entry.last_seen) == ("online", 80, NOON)


@committed
def test_a_refresh_never_removes_a_latency() -> None:
    endpoint = make_endpoint(latency_ms=120)
    registry.all()
    Endpoint.objects.update(latency_ms=None)
    registry.refresh(str(endpoint.pk))
    assert entry_of(endpoint).latency_ms == 120


def test_a_reload_reads_changes_made_without_the_orm() -> None:
    endpoint = make_endpoint()
    registry.all()
    sql("UPDATE endpoints SET name = 'theirs'")
    registry.reload()
    assert entry_of(endpoint).name == "theirs"


def test_a_reader_keeps_a_consistent_list_during_writes() -> None:
    own_registry = filled(some("a"), some("b"))
    taken = own_registry.all()
    own_registry.note_check("a", success=True, latency_ms=1, error=None)
    assert [entry.status for entry in taken] == ["pending", "pending"]


@committed
def test_edits_in_two_threads_are_both_kept() -> None:
    endpoints = [make_endpoint(f"box{number}") for number in range(2)]
    registry.all()
    sql("UPDATE endpoints SET notes = 'moved'")

    def refresh(endpoint: Endpoint) -> None:
        registry.refresh(str(endpoint.pk))
        connection.close()

    threads = [threading.Thread(target=refresh, args=(endpoint,)) for endpoint in endpoints]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.notes for entry in registry.all()] == ["moved", "moved"]


# Without the database


def test_the_first_read_raises_if_the_database_fails() -> None:
    with pytest.raises(Error):
        without_database(registry.all)
    assert not registry.loaded


def test_a_failed_reload_keeps_all_entries() -> None:
    endpoint = make_endpoint()
    registry.all()
    with pytest.raises(Error):
        without_database(registry.reload)
    assert entry_of(endpoint).name == "gpu-box"


def test_a_failed_refresh_keeps_the_entry_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = make_endpoint()
    registry.all()
    version = registry.version
    with caplog.at_level(logging.WARNING, "endpoints.registry"):
        without_database(lambda: registry.refresh(str(endpoint.pk)))
    assert entry_of(endpoint).name == "gpu-box"
    assert registry.version == version
    assert "could not be read again" in caplog.text


def test_it_can_be_filled_without_a_database(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        own_registry = filled(some("a"), some("b"))
        assert [entry.name for entry in own_registry.all()] == ["a", "b"]
        assert own_registry.loaded


def test_a_check_in_memory_goes_through_the_same_states() -> None:
    own_registry = filled(some("a", status="online", latency_ms=120))
    seen = []
    for success, latency in ((False, None), (False, None), (True, None), (True, 95)):
        own_registry.note_check("a", success=success, latency_ms=latency, error=None if success else "HTTP 500")
        entry = own_registry.get("a")
        assert entry is not None
        seen.append((entry.status, entry.error_count, entry.latency_ms, entry.last_error))
    assert seen == [
        ("error", 1, 120, "HTTP 500"),
        ("offline", 0, 120, "HTTP 500"),
        ("online", 0, 120, None),
        ("online", 0, 95, None),
    ]


def test_a_check_in_memory_of_an_unknown_endpoint_changes_nothing() -> None:
    own_registry = filled(some("a"))
    version = own_registry.version
    own_registry.note_check("b", success=True, latency_ms=1, error=None)
    assert [entry.id for entry in own_registry.all()] == ["a"]
    assert own_registry.version == version


def test_an_unchanged_result_calls_no_listener() -> None:
    own_registry = filled(*(some(name, status="online", latency_ms=80) for name in "ab"))
    calls: list[int] = []
    own_registry.subscribe(lambda ids: calls.append(own_registry.version))
    before = own_registry.version

    def check(name: str, **values: Any) -> None:
        row = Endpoint(id=name, status="online", latency_ms=80)
        for field, value in values.items():
            setattr(row, field, value)
        own_registry.take_checks([row])

    check("a", last_seen=NOON)
    entry = own_registry.get("a")
    assert entry is not None
    assert (entry.last_seen, own_registry.version, calls) == (NOON, before, [])
    check("a", latency_ms=81)  # pages show it, but gateways do not need it
    assert (own_registry.version, calls) == (before + 1, [])
    check("b", status="error", error_count=1, last_error="HTTP 500")
    assert calls == [before + 2]


def test_latencies_count_as_a_change_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "LATENCY_SECONDS", 3600.0)
    own_registry = filled(some("a", status="online", latency_ms=80))
    before = own_registry.version
    seen = []
    for status, latency in (("online", 80), ("online", 81), ("online", 82), ("error", 82), ("error", 83)):
        own_registry.take_checks([Endpoint(id="a", status=status, latency_ms=latency)])
        entry = own_registry.get("a")
        assert entry is not None
        assert entry.latency_ms == latency
        seen.append(own_registry.version - before)
    assert seen == [0, 1, 1, 2, 2]
    monkeypatch.setattr(registry_module, "LATENCY_SECONDS", 0.0)
    own_registry.take_checks([Endpoint(id="a", status="error", latency_ms=84)])
    assert own_registry.version == before + 3


def test_a_batch_of_results_calls_listeners_once() -> None:
    own_registry = filled(*(some(name, status="online") for name in "ab"))
    calls: list[int] = []
    own_registry.subscribe(lambda ids: calls.append(own_registry.version))
    own_registry.take_checks([Endpoint(id=name, status="offline", latency_ms=None) for name in "ab"])
    assert [entry.status for entry in own_registry.all()] == ["offline", "offline"]
    assert len(calls) == 1
    own_registry.take_checks([Endpoint(id=uuid.uuid4(), status="offline")])
    assert len(calls) == 1


def test_a_stored_check_never_removes_a_latency() -> None:
    own_registry = filled(some("a", status="online", latency_ms=120))
    own_registry.take_checks([Endpoint(id="a", status="online", latency_ms=None)])
    entry = own_registry.get("a")
    assert entry is not None
    assert entry.latency_ms == 120


def test_checks_before_the_first_load_read_nothing() -> None:
    own_registry = Registry()
    own_registry.take_checks([Endpoint(id="a", status="offline")])
    assert not own_registry.loaded


# Names, versions, listeners


@committed
def test_the_name_of_a_deleted_endpoint_is_remembered() -> None:
    endpoint = make_endpoint()
    endpoint_id = str(endpoint.pk)
    registry.all()
    endpoint.delete()
    assert registry.name(endpoint_id) == "gpu-box"


def test_an_unknown_endpoint_has_no_name() -> None:
    registry.all()
    assert registry.name(str(uuid.uuid4())) is None


def test_the_last_name_is_the_one_remembered() -> None:
    own_registry = filled(some("a"))
    own_registry.fill({"a": replace(some("a"), name="renamed")})
    own_registry.fill({})
    assert own_registry.name("a") == "renamed"


@committed
def test_listeners_are_called_after_every_change() -> None:
    endpoint = make_endpoint()
    registry.all()
    reported: list[str] = []
    registry.subscribe(lambda ids: reported.append(entry_of(endpoint).name))
    registry.subscribe(lambda ids: reported.append("second"))
    endpoint.name = "renamed"
    endpoint.save()
    assert reported == ["renamed", "second"]


def test_listeners_are_called_after_reloads_and_checks_in_memory() -> None:
    registry.fill({"a": some("a")})
    reported: list[tuple[int, Collection[str] | None]] = []
    registry.subscribe(lambda ids: reported.append((registry.version, ids)))
    registry.note_check("a", success=True, latency_ms=1, error=None)
    registry.reload()
    (after_check, checked), (after_reload, reloaded) = reported
    assert after_check < after_reload
    assert (checked, reloaded) == (["a"], None)


@committed
def test_listeners_get_the_ids_of_the_endpoints_that_changed() -> None:
    first, second, third = (make_endpoint(f"box{number}") for number in range(3))
    registry.all()
    reported: list[set[str] | None] = []
    registry.subscribe(lambda ids: reported.append(None if ids is None else set(ids)))
    sql("UPDATE endpoints SET notes = 'moved' WHERE name <> 'box2'")
    registry.refresh(*(str(endpoint.pk) for endpoint in (first, second, third)))
    assert reported == [{str(first.pk), str(second.pk)}]
    registry.refresh(str(third.pk), str(uuid.uuid4()))  # as they were
    assert len(reported) == 1
    gone = str(third.pk)
    third.delete()
    assert reported[1:] == [{gone}]


def test_endpoints_that_are_read_again_and_did_not_change_count_as_no_change() -> None:
    endpoint = make_endpoint()
    registry.all()
    version = registry.version
    registry.read_again([str(endpoint.pk)])
    assert registry.version == version


def test_nothing_is_read_again_before_the_first_read(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        registry.read_again([str(uuid.uuid4())])
        registry.refresh(str(uuid.uuid4()))
    assert not registry.loaded


@pytest.mark.parametrize("number", [1, 12])
def test_any_number_of_endpoints_is_read_again_in_two_queries(number: int, django_assert_num_queries: Any) -> None:
    ids = [str(make_endpoint(f"box{index}").pk) for index in range(number)]
    make_endpoint("other")
    registry.all()
    sql("UPDATE endpoints SET notes = 'moved'")
    with django_assert_num_queries(2):
        registry.read_again(ids)
    assert [entry.notes for entry in registry.all()] == ["moved"] * number + [None]


def test_more_endpoints_than_one_query_takes_are_read_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endpoints.registry.IDS_AT_ONCE", 2)
    ids = [str(make_endpoint(f"box{number}").pk) for number in range(5)]
    assert read_entries(ids).keys() == set(ids)


def test_an_edit_that_could_not_be_read_again_is_remembered_until_a_reload() -> None:
    endpoint = make_endpoint()
    registry.all()
    failed = registry.failed_reads
    without_database(lambda: registry.refresh(str(endpoint.pk)))
    assert (registry.outdated, registry.failed_reads) == (True, failed + 1)
    registry.reload()
    assert not registry.outdated


def test_listeners_are_not_called_after_failures() -> None:
    registry.all()
    reported: list[int] = []
    registry.subscribe(lambda ids: reported.append(1))
    without_database(lambda: registry.refresh(str(uuid.uuid4())))
    with pytest.raises(Error):
        without_database(registry.reload)
    assert reported == []


def test_every_change_is_counted() -> None:
    own_registry = filled(some("a"))
    before = own_registry.version
    own_registry.note_check("a", success=True, latency_ms=1, error=None)
    assert own_registry.version == before + 1
