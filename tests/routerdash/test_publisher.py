"""The snapshot that gateways read: when it is written, and what is never in it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine

from access.directory import access
from access.models import INFERENCE, ApiKey, User
from endpoints import keys
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway import cancels, snapshot
from gateway.config import Config
from gateway.livepage import LivePage
from gateway.snapshot import Snapshot
from routerdash import publisher as publisher_module
from routerdash.publisher import Publisher
from tests.access.people import key_for
from tests.metrics.records import NOW, A, B
from tests.metrics.world import add_endpoint

pytestmark = pytest.mark.django_db

SECRET = "sk-upstream-secret"
C = "cccccccc-0000-4000-8000-000000000009"


@pytest.fixture
def page(config: Config) -> LivePage:
    config.data_dir.mkdir(parents=True)
    return LivePage(config.live_page_path)


@pytest.fixture
def publisher(config: Config, page: LivePage) -> Publisher:
    made = Publisher(config, page)
    made.database_id = "db"
    return made


def published(publisher: Publisher, config: Config) -> Snapshot:
    """As a gateway reads it."""
    registry.reload()
    access.reload()
    publisher.publish()
    return snapshot.load(config.snapshot_path)


def slots(found: Snapshot) -> dict[str, int]:
    return {endpoint.id: endpoint.slot for endpoint in found.endpoints}


# Content


def test_an_endpoint_is_published_with_all_that_routing_needs(publisher: Publisher, config: Config) -> None:
    made = add_endpoint(A, "a", status="online", endpoint_type="vllm", inference_timeout_secs=7)
    EndpointModel(
        endpoint=made, model_id="llama3.3:70b", canonical_name="meta/Llama", capabilities=["chat"], max_tokens=8192
    ).save(force_insert=True)
    (found,) = published(publisher, config).endpoints
    assert (found.id, found.name, found.base_url, found.kind) == (A, "a", "http://a.invalid:8000", "vllm")
    assert (found.status, found.operator_state, found.timeout_secs) == ("online", "enabled", 7.0)
    (model,) = found.models
    assert (model.id, model.canonical, model.capabilities) == ("llama3.3:70b", "meta/Llama", ("chat",))
    assert model.max_tokens == 8192


def test_the_operators_word_is_published(publisher: Publisher, config: Config) -> None:
    add_endpoint().set_operator_state("draining")
    assert published(publisher, config).endpoints[0].operator_state == "draining"


def test_limits_are_published(publisher: Publisher, config: Config) -> None:
    until = datetime(2026, 4, 15, 12, tzinfo=UTC)
    limits = {"connect_timeout_secs": 1, "idle_timeout_secs": 2, "total_timeout_secs": 3, "max_concurrency": 4}
    add_endpoint().set_options(**limits, drain_until=until)
    (found,) = published(publisher, config).endpoints
    assert {name: getattr(found, name) for name in limits} == limits
    assert found.drain_until == until.timestamp()


def test_limits_that_nobody_set_are_the_gateways_own(publisher: Publisher, config: Config) -> None:
    add_endpoint()
    (found,) = published(publisher, config).endpoints
    usual = snapshot.Endpoint(id="", slot=0, name="", base_url="", kind="", status="")
    names = ("connect_timeout_secs", "idle_timeout_secs", "total_timeout_secs", "max_concurrency", "drain_until")
    assert [getattr(found, name) for name in names] == [getattr(usual, name) for name in names]


def test_slots_that_the_server_told_are_published(publisher: Publisher, config: Config) -> None:
    add_endpoint().set_options(learned_slots=4)
    assert published(publisher, config).endpoints[0].max_concurrency == 4


@pytest.mark.parametrize(
    ("said", "known", "can"),
    [
        (["chat_completion"], ["embeddings"], ("embeddings",)),
        (["embeddings", "chat_completion"], ["chat"], ("chat", "embeddings")),
        (["audio_speech"], ["chat_completion"], ("chat", "audio_speech")),
        (["embeddings"], [], ()),
        (None, ["chat", "unheard of"], ("chat",)),
    ],
)
def test_what_staff_say_is_added_to_every_model(
    publisher: Publisher, config: Config, said: list[str] | None, known: list[str], can: tuple[str, ...]
) -> None:
    made = add_endpoint(capabilities=said)
    EndpointModel(endpoint=made, model_id="a", capabilities=known).save(force_insert=True)
    assert published(publisher, config).endpoints[0].models[0].capabilities == can


def test_keys_are_published_by_their_hash(publisher: Publisher, config: Config, admin: User) -> None:
    key = key_for(admin, INFERENCE)
    (found,) = published(publisher, config).api_keys
    row = ApiKey.objects.get()
    assert (found.id, found.hash, found.permissions) == (str(row.pk), row.key_hash, (INFERENCE,))
    assert key.encode() not in config.snapshot_path.read_bytes()


def test_the_databases_id_is_in_it(publisher: Publisher, config: Config) -> None:
    assert published(publisher, config).database_id == "db"


def test_nothing_is_published_before_the_database_is_known(publisher: Publisher, config: Config) -> None:
    publisher.database_id = None
    publisher.publish()
    assert not config.snapshot_path.exists()


def test_a_sealed_secret_stays_sealed(publisher: Publisher, config: Config) -> None:
    add_endpoint().set_api_key(SECRET)
    (found,) = published(publisher, config).endpoints
    assert SECRET.encode() not in config.snapshot_path.read_bytes()
    assert found.sealed_key is not None
    assert keys.sealer().open(found.sealed_key) == SECRET


def test_a_plain_secret_is_sealed_on_its_way(publisher: Publisher, config: Config) -> None:
    add_endpoint(api_key_encrypted=SECRET)
    (found,) = published(publisher, config).endpoints
    assert SECRET.encode() not in config.snapshot_path.read_bytes()
    assert found.sealed_key is not None
    assert keys.sealer().open(found.sealed_key) == SECRET


def test_our_secret_goes_before_the_references(publisher: Publisher, config: Config) -> None:
    made = add_endpoint()
    made.set_api_key(SECRET)
    Endpoint.objects.filter(pk=A).update(api_key_encrypted="old")
    (found,) = published(publisher, config).endpoints
    assert found.sealed_key is not None
    assert keys.sealer().open(found.sealed_key) == SECRET


def test_the_file_is_for_its_owner_alone(publisher: Publisher, config: Config) -> None:
    published(publisher, config)
    assert config.snapshot_path.stat().st_mode & 0o077 == 0


# Versions


def test_the_first_snapshot_is_version_1(publisher: Publisher, config: Config, page: LivePage) -> None:
    assert page.version == 0
    assert published(publisher, config).version == page.version == 1


def test_without_a_difference_nothing_is_written(publisher: Publisher, config: Config, page: LivePage) -> None:
    add_endpoint(api_key_encrypted=SECRET)
    published(publisher, config)
    before = config.snapshot_path.stat().st_ino
    assert published(publisher, config).version == page.version == 1
    assert config.snapshot_path.stat().st_ino == before


@pytest.mark.parametrize("change", ["name", "key", "model", "database"])
def test_a_difference_is_a_new_version(
    publisher: Publisher, config: Config, page: LivePage, admin: User, change: str
) -> None:
    made = add_endpoint()
    published(publisher, config)
    if change == "name":
        Endpoint.objects.update(name="renamed")
    elif change == "key":
        key_for(admin, INFERENCE)
    elif change == "model":
        EndpointModel(endpoint=made, model_id="tiny").save(force_insert=True)
    else:
        publisher.database_id = "another"
    assert published(publisher, config).version == page.version == 2


def test_what_routing_does_not_use_is_no_difference(publisher: Publisher, config: Config) -> None:
    add_endpoint()
    published(publisher, config)
    Endpoint.objects.update(notes="rack 3", latency_ms=5, error_count=1)
    assert published(publisher, config).version == 1


def test_versions_go_on_after_a_restart(publisher: Publisher, config: Config, page: LivePage) -> None:
    published(publisher, config)
    page.version = 0
    again = Publisher(config, page)
    again.database_id = "db"
    assert page.version == 1
    add_endpoint()
    assert published(again, config).version == 2


def test_a_restart_without_changes_publishes_nothing(publisher: Publisher, config: Config, page: LivePage) -> None:
    add_endpoint()
    published(publisher, config)
    again = Publisher(config, page)
    again.database_id = "db"
    assert published(again, config).version == 1


def test_an_unreadable_snapshot_is_replaced(config: Config, page: LivePage) -> None:
    config.snapshot_path.write_bytes(b"nonsense")
    made = Publisher(config, page)
    made.database_id = "db"
    assert made.last is None
    assert published(made, config).version == 1


def test_a_disk_that_takes_nothing_is_said(
    publisher: Publisher, config: Config, page: LivePage, caplog: pytest.LogCaptureFixture
) -> None:
    config.live_page_path.unlink()
    config.data_dir.rmdir()
    publisher.publish()
    assert "the snapshot could not be published" in caplog.text
    assert (page.version, publisher.last) == (0, None)


# Slots of the live page


def test_each_endpoint_has_a_slot_of_its_own(publisher: Publisher, config: Config) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    assert slots(published(publisher, config)) == {A: 0, B: 1}


def test_slots_stay_when_others_come_and_go(publisher: Publisher, config: Config) -> None:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    published(publisher, config)
    Endpoint.objects.filter(pk=A).delete()
    add_endpoint(C, "c")
    assert slots(published(publisher, config)) == {B: 1, C: 2}


def test_slots_stay_over_a_restart(publisher: Publisher, config: Config, page: LivePage) -> None:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    published(publisher, config)
    Endpoint.objects.filter(pk=A).delete()
    registry.reload()
    again = Publisher(config, page)
    again.database_id = "db"
    assert slots(published(again, config)) == {B: 1}


def test_a_deleted_endpoints_slot_is_given_away_last(
    publisher: Publisher, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "MAX_ENDPOINTS", 2)
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    published(publisher, config)
    Endpoint.objects.filter(pk=A).delete()
    add_endpoint(C, "c")
    assert slots(published(publisher, config)) == {B: 1, C: 0}


def test_more_endpoints_than_slots_is_said(
    publisher: Publisher, config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher_module, "MAX_ENDPOINTS", 1)
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    assert slots(published(publisher, config)) == {A: 0}
    assert "more than 1 endpoints: b is not served" in caplog.text


def test_a_deleted_endpoint_is_gone(publisher: Publisher, config: Config) -> None:
    add_endpoint()
    published(publisher, config)
    Endpoint.objects.all().delete()
    assert published(publisher, config).endpoints == ()


def test_requests_in_flight_are_read_by_endpoint(publisher: Publisher, config: Config, page: LivePage) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    published(publisher, config)
    page.row(0).in_flight(publisher.slots[A])[0] = 2
    page.row(3).in_flight(publisher.slots[A])[0] = 1
    assert publisher.in_flight() == {A: 3, B: 0}


def test_breakers_that_are_not_closed_are_read_by_endpoint(
    publisher: Publisher, config: Config, page: LivePage
) -> None:
    add_endpoint(A, "a")
    add_endpoint(B, "b")
    published(publisher, config)
    page.row(0).set_trial_due(publisher.slots[B], 1_800_000_000)
    page.row(config.workers).set_trial_due(publisher.slots[A], 1_800_000_000)  # of a worker that is no more
    assert publisher.trials() == {B: 1_800_000_000}


def test_workers_are_told_that_somebody_looks(publisher: Publisher, page: LivePage) -> None:
    assert publisher.watch(50) == 0
    assert publisher.watch(60) == 50
    assert page.watched_until == 60


def test_waiting_requests_are_those_of_all_workers(publisher: Publisher, page: LivePage) -> None:
    page.set_waiting(0, 2)
    page.set_waiting(1, 3)
    assert publisher.waiting() == 5


def test_the_last_byte_is_read_by_endpoint(publisher: Publisher, config: Config, page: LivePage) -> None:
    add_endpoint()
    published(publisher, config)
    page.row(1).set_last_byte(publisher.slots[A], 1_700_000_000)
    assert publisher.last_byte(A) == 1_700_000_000
    assert publisher.last_byte(B) == 0


def test_nothing_but_the_snapshot_is_left_in_the_directory(
    publisher: Publisher, config: Config, page: LivePage
) -> None:
    published(publisher, config)
    names: set[str] = {Path(path).name for path in config.data_dir.iterdir()}
    assert names == {"live", "snapshot"}


def test_slots_are_swapped_and_never_changed_in_place(publisher: Publisher) -> None:
    before = publisher.slots
    add_endpoint()
    publisher.publish()
    assert (before, len(publisher.slots)) == ({}, 1)


# Requests that operators end


def test_workers_are_told_which_request_to_end(publisher: Publisher, config: Config, page: LivePage) -> None:
    publisher.cancel("one")
    publisher.cancel("two")
    assert [it.id for it in cancels.load(config.data_dir)] == ["one", "two"]
    assert page.cancels == 2


def test_once_more_tells_nothing_new(publisher: Publisher, page: LivePage) -> None:
    publisher.cancel("one")
    publisher.cancel("one")
    assert page.cancels == 1
    assert publisher.cancelled() == {"one"}


def test_after_a_minute_it_is_forgotten(publisher: Publisher, config: Config) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        publisher.cancel("one")
        clock.shift(cancels.KEPT_SECONDS)
        assert publisher.cancelled() == set()
        publisher.cancel("two")
    assert [it.id for it in cancels.load(config.data_dir)] == ["two"]


def test_a_new_control_remembers_it(publisher: Publisher, config: Config, page: LivePage) -> None:
    publisher.cancel("one")
    assert Publisher(config, page).cancelled() == {"one"}


# Circuit breakers that operators reset


def test_workers_are_told_whose_breaker_to_reset(publisher: Publisher, config: Config, page: LivePage) -> None:
    add_endpoint()
    published(publisher, config)
    page.row(0).set_trial_due(publisher.slots[A], 1_800_000_000)
    publisher.reset_breaker(A)
    assert publisher.trials() == {}
    assert page.last_reset(publisher.slots[A]) == page.resets == 1


def test_of_an_endpoint_that_no_worker_knows_nothing_is_reset(publisher: Publisher, page: LivePage) -> None:
    publisher.reset_breaker(A)
    assert page.resets == 0
