"""What control publishes in the registry store: its contents, its versions, and data that it never contains."""

import os
import select
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import INFERENCE, ApiKey, User
from endpoints import sealer
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.base.config import Config
from gateway.ipc import cancellations
from gateway.ipc.live_page import IN_FLIGHT, LivePage
from gateway.ipc.wake import WakePipe
from gateway.registry import schema
from metrics.storage.database import database_id
from routerdash.publication import stored_entries
from routerdash.publication.publisher import Publisher
from tests.access.people import key_for
from tests.metrics.records import NOW, A, B
from tests.metrics.world import add_endpoint
from tests.routerdash.publication import store
from tests.routerdash.publication.conftest import Start
from tests.routerdash.publication.store import Stored

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

SECRET = "sk-upstream-secret"
Publish = Callable[[], Stored]


def bytes_of(config: Config) -> bytes:
    """Return all that is in the files of the store."""
    return b"".join(path.read_bytes() for path in store.file_of(config).parent.iterdir())


# Content


def test_an_endpoint_is_published_with_all_fields_of_routing(publish: Publish) -> None:
    made = add_endpoint(A, "a", status="online", endpoint_type="vllm", inference_timeout_secs=7)
    EndpointModel(
        endpoint=made, model_id="llama3.3:70b", canonical_name="meta/Llama", capabilities=["chat"], max_tokens=8192
    ).save(force_insert=True)
    stored = publish()
    facts = stored.endpoints[A]
    assert (facts.id, facts.name, facts.base_url, facts.kind) == (A, "a", "http://a.invalid:8000", "vllm")
    assert (facts.status, facts.operator_state, facts.timeout_secs) == ("online", "enabled", 7.0)
    (model,) = stored.models[A]
    assert (model.id, model.canonical, model.capabilities) == ("llama3.3:70b", "meta/Llama", ("chat",))
    assert model.max_tokens == 8192


def test_the_operator_state_is_published(publish: Publish) -> None:
    add_endpoint().set_operator_state("draining")
    assert publish().endpoints[A].operator_state == "draining"


def test_limits_are_published(publish: Publish) -> None:
    until = datetime(2026, 4, 15, 12, tzinfo=UTC)
    limits = {"connect_timeout_secs": 1, "idle_timeout_secs": 2, "total_timeout_secs": 3, "max_concurrency": 4}
    add_endpoint().set_options(**limits, drain_until=until)
    facts = publish().endpoints[A]
    assert {name: getattr(facts, name) for name in limits} == limits
    assert facts.drain_until == until.timestamp()


def test_limits_that_are_not_set_are_the_defaults_of_gateways(publish: Publish) -> None:
    add_endpoint()
    facts = publish().endpoints[A]
    usual = schema.EndpointFacts(id="", slot=0, name="", base_url="", kind="", status="")
    names = ("connect_timeout_secs", "idle_timeout_secs", "total_timeout_secs", "max_concurrency", "drain_until")
    assert [getattr(facts, name) for name in names] == [getattr(usual, name) for name in names]


def test_slots_reported_by_the_server_are_published(publish: Publish) -> None:
    add_endpoint().set_options(learned_slots=4)
    facts = publish().endpoints[A]
    assert (facts.max_concurrency, facts.learned_slots, facts.slots) == (None, 4, 4)


@pytest.mark.parametrize(
    ("configured", "known", "can"),
    [
        (["chat_completion"], ["embeddings"], ("embeddings",)),
        (["embeddings", "chat_completion"], ["chat"], ("chat", "embeddings")),
        (["audio_speech"], ["chat_completion"], ("chat", "audio_speech")),
        (["embeddings"], [], ()),
        (None, ["chat", "unheard of"], ("chat",)),
    ],
)
def test_capabilities_set_by_administrators_are_added_to_every_model(
    publish: Publish, configured: list[str] | None, known: list[str], can: tuple[str, ...]
) -> None:
    made = add_endpoint(capabilities=configured)
    EndpointModel(endpoint=made, model_id="a", capabilities=known).save(force_insert=True)
    assert publish().models[A][0].capabilities == can


def test_capabilities_set_later_are_added_to_the_published_models(publish: Publish) -> None:
    made = add_endpoint()
    EndpointModel(endpoint=made, model_id="a", capabilities=["chat"]).save(force_insert=True)
    publish()
    Endpoint.objects.update(capabilities=["embeddings"])
    assert publish().models[A][0].capabilities == ("chat", "embeddings")


def test_keys_are_published_by_their_hash(publish: Publish, config: Config, admin: User) -> None:
    key = key_for(admin, INFERENCE)
    row = ApiKey.objects.get()
    key_facts = publish().keys[row.key_hash]
    assert (key_facts.id, key_facts.permissions, key_facts.owner_id) == (str(row.pk), (INFERENCE,), str(admin.pk))
    assert key.encode() not in bytes_of(config)


def test_the_keys_of_a_demoted_administrator_are_published_again(publish: Publish, admin: User) -> None:
    key_for(admin, INFERENCE, "endpoints.manage")
    hashed = ApiKey.objects.get().key_hash
    assert set(publish().keys[hashed].permissions) == {INFERENCE, "endpoints.manage"}
    User.objects.update(role="viewer")
    assert publish().keys[hashed].permissions == (INFERENCE,)


def test_the_store_has_the_database_id(publish: Publish, publisher: Publisher) -> None:
    assert publish().state.database_id == publisher.database_id() == database_id()


def test_a_sealed_secret_stays_sealed(publish: Publish, config: Config) -> None:
    add_endpoint().set_api_key(SECRET)
    facts = publish().endpoints[A]
    assert SECRET.encode() not in bytes_of(config)
    assert facts.sealed_key is not None
    assert sealer.sealer().open(facts.sealed_key) == SECRET


def test_a_plain_secret_is_sealed_in_the_store(publish: Publish, config: Config) -> None:
    add_endpoint(api_key_encrypted=SECRET)
    facts = publish().endpoints[A]
    assert SECRET.encode() not in bytes_of(config)
    assert facts.sealed_key is not None
    assert sealer.sealer().open(facts.sealed_key) == SECRET


def test_our_secret_takes_precedence_over_that_of_llmlb(publish: Publish) -> None:
    made = add_endpoint()
    made.set_api_key(SECRET)
    Endpoint.objects.filter(pk=A).update(api_key_encrypted="old")
    facts = publish().endpoints[A]
    assert facts.sealed_key is not None
    assert sealer.sealer().open(facts.sealed_key) == SECRET


def test_only_the_owner_can_read_the_files(publish: Publish, config: Config) -> None:
    add_endpoint()
    publish()
    paths = [config.registry_dir, *config.registry_dir.rglob("*")]
    assert {path.name for path in paths} >= {"current", "data.sqlite3", "data.sqlite3-wal"}
    assert [path for path in paths if path.stat().st_mode & 0o077] == []


def test_only_the_store_and_the_live_page_are_in_the_directory(publish: Publish, config: Config) -> None:
    publish()
    names = {path.name for path in config.data_dir.iterdir() if not path.name.startswith(config.live_page_path.name)}
    assert names == {"registry"}


# Versions


def test_the_first_store_is_version_1(page: LivePage, start: Start, config: Config) -> None:
    assert page.version == 0
    publisher = start()
    assert store.read(config).state.version == page.version == 1
    assert publisher.is_serving


def test_without_a_difference_nothing_is_written(publish: Publish, publisher: Publisher, page: LivePage) -> None:
    add_endpoint(api_key_encrypted=SECRET)
    before, revision = publish().state.version, publisher.revision
    publisher.publish_endpoints()
    registry.reload()
    assert publish().state.version == page.version == before
    assert publisher.revision == revision


@pytest.mark.parametrize("change", ["name", "key", "model", "deleted"])
def test_a_difference_is_a_new_version(
    publish: Publish, publisher: Publisher, page: LivePage, admin: User, change: str
) -> None:
    made = add_endpoint()
    before, revision = publish().state.version, publisher.revision
    if change == "name":
        Endpoint.objects.update(name="renamed")
    elif change == "key":
        key_for(admin, INFERENCE)
    elif change == "model":
        EndpointModel(endpoint=made, model_id="tiny").save(force_insert=True)
    else:
        Endpoint.objects.all().delete()
    assert publish().state.version == page.version > before
    assert publisher.revision == revision + 1


def test_a_health_check_without_a_difference_publishes_nothing(
    publish: Publish, publisher: Publisher, page: LivePage
) -> None:
    add_endpoint(status="online", latency_ms=80)
    before, revision = publish().state.version, publisher.revision
    Endpoint.record_check(A, success=True, latency_ms=95, error=None, checked_at=NOW)
    registry.refresh(A)
    endpoint = registry.get(A)
    assert endpoint is not None
    assert endpoint.last_seen == NOW
    assert publish().state.version == page.version == before
    assert publisher.revision == revision


def test_a_health_check_with_another_result_is_published_without_the_change_log(
    publish: Publish, publisher: Publisher, page: LivePage, config: Config
) -> None:
    add_endpoint(status="online")
    before = publish().state.version
    Endpoint.record_check(A, success=False, latency_ms=None, error="HTTP 500", checked_at=NOW)
    registry.refresh(A)
    stored = store.read(config)
    assert (stored.endpoints[A].status, stored.state.version) == ("error", before + 1)
    assert publish().state.version == page.version == before + 1


def test_a_health_check_that_the_database_does_not_store_is_published(publish: Publish, config: Config) -> None:
    add_endpoint(status="online")
    publish()
    registry.note_check(A, success=False, latency_ms=None, error="HTTP 500")
    assert store.read(config).endpoints[A].status == "error"


def test_fields_that_routing_does_not_use_are_no_difference(publish: Publish, publisher: Publisher) -> None:
    add_endpoint()
    publish()
    revision = publisher.revision
    Endpoint.objects.update(notes="rack 3", latency_ms=5, error_count=1)
    publish()
    assert publisher.revision == revision


def test_a_change_of_a_key_reads_no_endpoint(publish: Publish, admin: User) -> None:
    for number in range(5):
        add_endpoint(f"aaaaaaaa-0000-4000-8000-00000000000{number}", f"a{number}")
    publish()
    key_for(admin, INFERENCE)
    with CaptureQueriesContext(connection) as queries:
        assert len(publish().keys) == 1
    read = [query["sql"] for query in queries.captured_queries]
    assert len([sql for sql in read if "api_keys" in sql]) == 1
    assert [sql for sql in read if '"endpoint' in sql or '"users"' in sql] == []


def test_a_change_of_an_endpoint_reads_no_key_and_no_other_endpoint(publish: Publish) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    publish()
    Endpoint.objects.filter(pk=A).update(name="renamed")
    with CaptureQueriesContext(connection) as queries:
        assert publish().names == ["b", "renamed"]
    read = [query["sql"] for query in queries.captured_queries]
    assert [sql for sql in read if "api_keys" in sql or '"users"' in sql] == []
    endpoints = [sql for sql in read if 'FROM "endpoint' in sql]
    assert len(endpoints) == 2  # endpoints with options, and models
    assert all("WHERE" in sql for sql in endpoints)


def test_versions_continue_after_a_restart(publish: Publish, start: Start, page: LivePage, config: Config) -> None:
    """The page is lost with the machine's memory; the store is not."""
    version = publish().state.version
    page.version = 0
    start()
    assert page.version == version
    add_endpoint()
    assert store.read(config).state.version == page.version == version + 1


def test_a_restart_without_changes_publishes_nothing(publish: Publish, start: Start, config: Config) -> None:
    add_endpoint()
    before = publish()
    start()
    assert store.read(config) == before


def test_versions_continue_after_the_store_was_lost(config: Config, page: LivePage, start: Start) -> None:
    """Otherwise a running gateway would ignore the new version 7 as the one that it has applied."""
    page.claim_row().set_applied(7)
    made = start()
    assert store.read(config).state.version == page.version == 8
    assert made.is_pending()


def test_a_deleted_endpoint_is_removed_with_its_models(publish: Publish) -> None:
    EndpointModel(endpoint=add_endpoint(), model_id="tiny").save(force_insert=True)
    assert [model.id for model in publish().models[A]] == ["tiny"]
    Endpoint.objects.all().delete()
    stored = publish()
    assert (stored.endpoints, stored.models) == ({}, {})


# Lookups


def test_a_published_key_is_found_without_the_database(
    publish: Publish, publisher: Publisher, admin: User, django_assert_num_queries: Any
) -> None:
    key_for(admin, INFERENCE)
    hashed = ApiKey.objects.get().key_hash
    assert publisher.key(hashed) is None
    publish()
    with django_assert_num_queries(0):
        key = publisher.key(hashed)
        assert key is not None
        assert key.owner_id == str(admin.pk)
        assert publisher.key("0" * 64) is None
        assert publisher.key("no hash") is None
    ApiKey.objects.all().delete()
    publish()
    assert publisher.key(hashed) is None


def test_routes_are_the_endpoints_with_a_model_in_the_order_of_slots(publish: Publish, publisher: Publisher) -> None:
    for endpoint_id, name in ((B, "b"), (A, "a")):
        EndpointModel(endpoint=add_endpoint(endpoint_id, name), model_id="tiny").save(force_insert=True)
    publish()
    assert [(facts.name, model.id) for facts, model in publisher.routes("tiny")] == [("b", "tiny"), ("a", "tiny")]
    assert publisher.routes("unknown") == []
    Endpoint.objects.filter(pk=B).delete()
    publish()
    assert [facts.name for facts, _ in publisher.routes("tiny")] == ["a"]


def test_published_endpoints_are_entries_for_a_start_without_the_database(
    publish: Publish, publisher: Publisher
) -> None:
    EndpointModel(endpoint=add_endpoint(A, "a", status="online"), model_id="tiny").save(force_insert=True)
    publish()
    (entry,) = stored_entries.endpoints(publisher.writer).values()
    assert (entry.id, entry.name, entry.status, [model.id for model in entry.models]) == (A, "a", "online", ["tiny"])


# The live page


def test_requests_in_flight_are_read_by_endpoint(publisher: Publisher, page: LivePage) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    page.claim_row().cells(publisher.slots.by_id[A])[IN_FLIGHT] = 2
    page.claim_row().cells(publisher.slots.by_id[A])[IN_FLIGHT] = 1
    assert publisher.live.in_flight() == {A: 3, B: 0}
    assert [publisher.live.in_flight_at(each) for each in (A, B, "unknown")] == [3, 0, 0]


def test_breakers_that_are_not_closed_are_read_by_endpoint(publisher: Publisher, page: LivePage) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    page.claim_row().set_trial_due(publisher.slots.by_id[B], 1_800_000_000)
    ended = page.claim_row()
    ended.set_trial_due(publisher.slots.by_id[A], 1_800_000_000)
    ended.release()
    assert publisher.live.trials() == {B: 1_800_000_000}


def test_workers_are_notified_of_a_reader(publisher: Publisher, page: LivePage) -> None:
    assert publisher.live.watch(50) == 0
    assert publisher.live.watch(60) == 50
    assert page.watched_until == 60


def test_waiting_requests_are_those_of_all_workers(publisher: Publisher, page: LivePage) -> None:
    page.claim_row().set_waiting(2)
    page.claim_row().set_waiting(3)
    assert publisher.live.waiting() == 5


def test_the_last_byte_is_read_by_endpoint(publisher: Publisher, page: LivePage) -> None:
    add_endpoint()
    page.claim_row().set_last_byte(publisher.slots.by_id[A], 1_700_000_000)
    assert publisher.live.last_byte(A) == 1_700_000_000
    assert publisher.live.last_byte(B) == 0


def test_slots_are_swapped_and_never_changed_in_place(publisher: Publisher) -> None:
    before = publisher.slots.by_id
    add_endpoint()
    assert (before, len(publisher.slots.by_id)) == ({}, 1)


# Requests that administrators cancel


def test_workers_are_notified_of_a_cancelled_request(publisher: Publisher, config: Config, page: LivePage) -> None:
    publisher.live.cancel("one")
    publisher.live.cancel("two")
    assert [cancellation.id for cancellation in cancellations.load(config.data_dir)] == ["one", "two"]
    assert page.cancels == 2


def test_cancelling_again_sends_no_new_notification(publisher: Publisher, page: LivePage) -> None:
    publisher.live.cancel("one")
    publisher.live.cancel("one")
    assert page.cancels == 1
    assert publisher.live.cancelled() == {"one"}


def test_a_cancellation_is_dropped_after_a_minute(publisher: Publisher, config: Config) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        publisher.live.cancel("one")
        clock.shift(cancellations.KEPT_SECONDS)
        assert publisher.live.cancelled() == set()
        publisher.live.cancel("two")
    assert [cancellation.id for cancellation in cancellations.load(config.data_dir)] == ["two"]


def test_a_new_control_process_keeps_a_cancellation(publisher: Publisher, config: Config, page: LivePage) -> None:
    publisher.live.cancel("one")
    again = Publisher(config, page)
    assert again.live.cancelled() == {"one"}
    again.close()


# Circuit breakers that administrators reset


def test_workers_are_notified_of_a_breaker_reset(publisher: Publisher, page: LivePage) -> None:
    add_endpoint()
    page.claim_row().set_trial_due(publisher.slots.by_id[A], 1_800_000_000)
    publisher.live.reset_breaker(A)
    assert publisher.live.trials() == {}
    assert page.breakers.last_reset(publisher.slots.by_id[A]) == page.breakers.resets == 1


def test_a_breaker_of_an_unknown_endpoint_is_not_reset(publisher: Publisher, page: LivePage) -> None:
    publisher.live.reset_breaker(A)
    assert page.breakers.resets == 0


# Acknowledgement


def test_a_change_is_pending_until_every_gateway_has_applied_it(publisher: Publisher, page: LivePage) -> None:
    one, other = page.claim_row(), page.claim_row()
    before = publisher.revision
    add_endpoint()
    assert publisher.revision > before
    assert publisher.is_pending()
    assert publisher.pending_reason() == (
        f"the gateways with the process ids {os.getpid()}, {os.getpid()} have not confirmed it"
    )
    one.set_applied(page.version)
    assert publisher.pending_reason() == f"the gateway with the process id {os.getpid()} has not confirmed it"
    other.set_applied(page.version)
    assert not publisher.is_pending()
    assert publisher.pending_reason() is None


def test_gateways_are_woken_when_a_change_is_published(publisher: Publisher, page: LivePage) -> None:
    pipe = WakePipe(page.claim_row().wake_path)
    add_endpoint()
    assert select.select([pipe.descriptor], [], [], 5)[0]
    pipe.drain()
    publisher.publish_endpoints()  # nothing differs
    assert not select.select([pipe.descriptor], [], [], 0)[0]
    pipe.close()
