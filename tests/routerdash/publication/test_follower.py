"""The follower of the change log: changes of other processes arrive in caches and store, and none is lost."""

import time
from collections.abc import Callable

import pytest
from django.db import Error, OperationalError, transaction

from access.directory import access
from access.models import ApiKey, User, hash_key
from endpoints.changes import log as change_log
from endpoints.changes.models import RegistryChange
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from routerdash.publication import publisher as publisher_module
from routerdash.publication import sources, stored_entries
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.publisher import Publisher
from tests.access.people import key_for, make_admin, without_database
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint, rows
from tests.routerdash.publication import store
from tests.routerdash.publication.conftest import Start

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@pytest.fixture
def follower(publisher: Publisher) -> ChangeFollower:
    return ChangeFollower(publisher)


def fill_disk(publisher: Publisher) -> Callable[[], None]:
    """Let SQLite find no room for another page of the store. Return how to give it room again."""
    assert publisher.writer._store is not None
    execute = publisher.writer._store._execute
    (before,) = execute("PRAGMA max_page_count").fetchone()
    execute("PRAGMA max_page_count=1")  # the pages that there are stay

    def make_room() -> None:
        execute(f"PRAGMA max_page_count={before}")

    return make_room


def change_much() -> None:
    """Change more than fits into the pages of the store."""
    EndpointModel.objects.bulk_create(
        EndpointModel(endpoint_id=A, model_id=f"{number:04}" + "long name " * 20) for number in range(200)
    )


def test_what_others_change_is_in_caches_and_store(follower: ChangeFollower, config: Config) -> None:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    key = hash_key(key_for(make_admin()))
    follower.follow()
    assert store.assert_is_as_the_database(config).keys.keys() == {key}
    rows("DELETE FROM api_keys")
    rows("UPDATE endpoints SET name = 'renamed' WHERE id = %s", A)
    rows("DELETE FROM endpoints WHERE id = %s", B)
    rows("UPDATE users SET role = 'viewer'")
    follower.follow()
    stored = store.assert_is_as_the_database(config)
    assert (stored.names, stored.keys, stored.state.source) == (["renamed"], {}, change_log.token())
    assert [entry.name for entry in registry.all()] == ["renamed"]
    assert [user.is_admin for user in access.users().values()] == [False]
    assert not RegistryChange.objects.exists()


def test_without_changes_nothing_is_written(follower: ChangeFollower, config: Config) -> None:
    add_endpoint()
    follower.follow()
    before = store.read(config)
    follower.follow()
    assert store.read(config) == before


def test_many_changes_are_followed_in_parts(
    follower: ChangeFollower, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log.read, "__defaults__", (10,))
    owner = make_admin()
    ApiKey.objects.bulk_create(
        ApiKey(name=f"{number}", key_hash=hash_key(f"sk_{number}"), created_by=owner, permissions=[])
        for number in range(35)
    )
    follower.follow()
    assert len(store.assert_is_as_the_database(config).keys) == 35
    assert not RegistryChange.objects.exists()


def test_changes_stay_in_the_log_until_the_database_can_be_read(follower: ChangeFollower, config: Config) -> None:
    add_endpoint()
    follower.follow()
    rows("UPDATE endpoints SET name = 'renamed'")
    before = store.read(config)
    with pytest.raises(Error):
        without_database(follower.follow)
    assert store.read(config) == before
    follower.follow()
    assert store.read(config).names == ["renamed"]


def test_a_restart_after_a_kill_loses_nothing(
    follower: ChangeFollower, start: Start, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control is killed when the store has the new token and the database has not."""
    add_endpoint()
    follower.follow()
    rows("UPDATE endpoints SET name = 'renamed'")

    def kill(*args: object, **options: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(change_log, "forget", kill)
        with pytest.raises(KeyboardInterrupt):
            follower.follow()
    key_for(make_admin())
    start()
    stored = store.assert_is_as_the_database(config)
    assert (stored.names, len(stored.keys), folders.current(config.registry_dir)) == (["renamed"], 1, 1)


def test_a_database_that_fails_after_the_store_was_written_is_followed_further(
    follower: ChangeFollower, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_endpoint()
    follower.follow()
    rows("UPDATE endpoints SET name = 'renamed'")

    def fail(*args: object, **options: object) -> bool:
        raise OperationalError("server closed the connection")

    with monkeypatch.context() as patched:
        patched.setattr(change_log, "forget", fail)
        with pytest.raises(OperationalError):
            follower.follow()
    follower.follow()
    assert store.assert_is_as_the_database(config).state.source == change_log.token()
    assert folders.current(config.registry_dir) == 1


def test_a_database_that_is_restored_meanwhile_is_read_anew(follower: ChangeFollower, config: Config) -> None:
    add_endpoint(A, "a")
    admin = make_admin()
    follower.follow()
    backup = transaction.savepoint()
    add_endpoint(B, "b")
    User.objects.filter(pk=admin.pk).update(role="viewer")
    follower.follow()
    transaction.savepoint_rollback(backup)
    key_for(admin)
    follower.follow()
    stored = store.assert_is_as_the_database(config)
    assert (stored.names, len(stored.keys)) == (["a"], 1)
    assert [entry.name for entry in registry.all()] == ["a"]
    assert [user.is_admin for user in access.users().values()] == [True]


@pytest.mark.django_db(transaction=True)
def test_a_health_check_that_could_not_be_read_again_is_read_later(follower: ChangeFollower, config: Config) -> None:
    add_endpoint(status="online")
    follower.follow()
    rows("UPDATE endpoints SET status = 'offline'")
    without_database(lambda: registry.refresh(A))
    assert registry.outdated
    access.outdated = True
    follower.follow()
    assert (registry.outdated, access.outdated, store.read(config).endpoints[A].status) == (False, False, "offline")


# A store that cannot be written


def test_on_a_full_disk_the_failure_is_shown_and_nothing_is_lost(
    follower: ChangeFollower, publisher: Publisher, config: Config, page: LivePage, caplog: pytest.LogCaptureFixture
) -> None:
    page.claim_row()
    add_endpoint()
    follower.follow()
    before, revision = store.read(config), publisher.revision
    make_room = fill_disk(publisher)
    change_much()
    key = hash_key(key_for(make_admin()))
    for _ in range(2):
        follower.follow()
        publisher.publish_again()
    stored = store.read(config)
    assert (stored.endpoints, stored.models) == (before.endpoints, before.models)
    assert [*stored.keys] == [key]  # there is room for it
    assert publisher.failure == "database or disk is full"
    expected = "the registry store of the gateways cannot be written (database or disk is full)"
    assert publisher.pending_reason() == expected
    assert (publisher.is_pending(), publisher.revision > revision) == (False, True)
    assert caplog.text.count("a change cannot be published: database or disk is full") == 1
    assert RegistryChange.objects.exists()
    make_room()
    publisher.publish_again()
    assert publisher.failure is None
    stored = store.assert_is_as_the_database(config)
    assert (len(stored.models[A]), [*stored.keys]) == (200, [key])
    follower.follow()
    assert not RegistryChange.objects.exists()
    assert "registry store" not in str(publisher.pending_reason())


def test_the_last_state_of_what_could_not_be_written_is_published(
    follower: ChangeFollower, publisher: Publisher, config: Config
) -> None:
    add_endpoint()
    follower.follow()
    make_room = fill_disk(publisher)
    change_much()
    follower.follow()
    Endpoint.objects.all().delete()
    add_endpoint(B, "b")
    make_room()
    follower.follow()
    assert store.assert_is_as_the_database(config).names == ["b"]


def test_what_could_not_be_written_is_published_by_the_next_start(
    follower: ChangeFollower, publisher: Publisher, start: Start, config: Config
) -> None:
    add_endpoint()
    follower.follow()
    fill_disk(publisher)
    change_much()
    follower.follow()
    assert publisher.failure is not None
    start()
    assert len(store.assert_is_as_the_database(config).models[A]) == 200


# A damaged store


def test_a_store_that_a_gateway_found_damaged_is_built_anew(
    follower: ChangeFollower, publisher: Publisher, config: Config, page: LivePage, caplog: pytest.LogCaptureFixture
) -> None:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    Endpoint.objects.filter(pk=A).delete()
    registry.note_check(B, success=False, latency_ms=None, error="not in the database")
    follower.follow()
    before = store.read(config)
    page.damaged_generation = page.registry_generation
    follower.follow()
    stored = store.read(config)
    assert "damaged or missing" in caplog.text
    assert (folders.current(config.registry_dir), page.registry_generation) == (2, 2)
    assert page.version == stored.state.version > before.state.version
    assert stored.slots == publisher.slots.by_id == {B: 1}
    assert stored.same_rows(before)
    assert [path.name for path in config.registry_dir.iterdir() if path.is_dir()] == ["2"]
    rows("UPDATE endpoints SET name = 'renamed'")
    follower.follow()
    assert store.read(config).names == ["renamed"]


def test_damage_that_the_writer_finds_is_mended(follower: ChangeFollower, publisher: Publisher, config: Config) -> None:
    key_for(make_admin())
    follower.follow()
    store.damage_rows(config, "keys")
    ApiKey.objects.update(permissions=["endpoints.read"])
    follower.follow()
    assert "checksum" in str(publisher.failure)
    publisher.publish_again()
    follower.follow()
    assert publisher.failure is None
    store.assert_is_as_the_database(config)
    assert not RegistryChange.objects.exists()


def test_a_start_on_a_damaged_store_builds_it_anew(follower: ChangeFollower, start: Start, config: Config) -> None:
    add_endpoint()
    follower.follow()
    store.damage_rows(config, "endpoints")
    start()
    assert store.assert_is_as_the_database(config).names == ["a"]


def test_without_the_database_a_damaged_store_has_no_entries(
    follower: ChangeFollower, publisher: Publisher, config: Config, page: LivePage
) -> None:
    add_endpoint()
    follower.follow()
    store.damage_rows(config, "endpoints")
    publisher.close()
    again = Publisher(config, page)
    assert not stored_entries.endpoints(again.writer)
    assert not stored_entries.model_names(again.writer)
    assert page.damaged_generation == page.registry_generation
    again.close()


def test_a_store_that_cannot_be_built_anew_is_tried_again(
    follower: ChangeFollower,
    publisher: Publisher,
    config: Config,
    page: LivePage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_endpoint(status="online")
    follower.follow()
    registry.note_check(A, success=False, latency_ms=None, error="not in the database")
    page.damaged_generation = page.registry_generation
    tried: list[float] = []

    def full_disk() -> list[object]:
        tried.append(time.monotonic())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sources, "read_users", full_disk)
        patched.setattr(publisher_module, "REBUILD_SECONDS", 3600.0)  # longer than the slowest machine takes
        for _ in range(5):
            publisher.publish_again()
            follower.follow()
    assert len(tried) == 1
    assert publisher.failure == "No space left on device"
    publisher._rebuild_at = 0.0
    publisher.publish_again()
    assert publisher.failure is None
    assert store.read(config).endpoints[A].status == "error"
