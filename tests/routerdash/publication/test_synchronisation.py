"""Synchronisation of the store with the database: by the change log, or anew if that does not reach back."""

import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from django.db import transaction

from access.models import INFERENCE, ApiKey, User, hash_key
from endpoints.changes import log as change_log
from endpoints.changes import triggers
from endpoints.changes.models import RegistryChange
from endpoints.model_names.tables import NamedModel
from endpoints.models import Endpoint, EndpointModel
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.registry import folders, old_snapshot
from gateway.registry.schema import PublishedEndpoint, PublishedKey
from gateway.registry.writer import RegistryWriter
from metrics.models import Installation
from metrics.storage.database import database_id
from routerdash.publication import sources, synchronisation
from tests.access.limits.made import budget, limit
from tests.access.people import key_for, make_admin
from tests.endpoints.model_names.made import make_name
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint, rows, without
from tests.routerdash.publication import store
from tests.routerdash.publication.store import Stored

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


class Killed(BaseException):
    """The process ends here."""


class Run:
    """Synchronisations of one data directory, each by another process."""

    def __init__(self, config: Config, page: LivePage) -> None:
        self.config = config
        self._page = page

    def __call__(self) -> Stored:
        """Synchronise, and check that the store is as the database and both have the same token."""
        with closing(RegistryWriter(self.config.registry_dir, self._page)) as writer:
            synchronisation.synchronise(writer, self.config.data_dir)
        stored = store.assert_is_as_the_database(self.config)
        assert stored.state.source == change_log.token()
        assert not RegistryChange.objects.exists()
        assert self._page.version == stored.state.version
        return stored

    @property
    def generation(self) -> int:
        return folders.current(self.config.registry_dir)


@pytest.fixture
def synchronise(config: Config, page: LivePage) -> Run:
    return Run(config, page)


@pytest.fixture
def served(synchronise: Run) -> Stored:
    """The store of two endpoints with a model each, and of two users with a key each."""
    for endpoint_id, name in ((A, "a"), (B, "b")):
        EndpointModel(endpoint=add_endpoint(endpoint_id, name), model_id="tiny").save(force_insert=True)
    for name in ("ada", "grace"):
        key_for(make_admin(name), INFERENCE, "endpoints.manage", name=name)
    make_name("fast", "tiny")
    for name in ("ada", "grace"):
        subject = ("key", str(ApiKey.objects.get(name=name).pk))
        limit(subject, concurrency=4)
        budget(subject)
    limit(requests=60)
    return synchronise()


CHANGES: dict[str, Callable[[], object]] = {
    "name of an endpoint": lambda: rows("UPDATE endpoints SET name = 'renamed' WHERE id = %s", A),
    "option of an endpoint": lambda: Endpoint.objects.get(pk=A).set_operator_state("draining"),
    "new endpoint": lambda: add_endpoint("cccccccc-0000-4000-8000-000000000009", "c"),
    "deleted endpoint": lambda: Endpoint.objects.filter(pk=A).delete(),
    "new model": lambda: EndpointModel(endpoint_id=A, model_id="new").save(force_insert=True),
    "changed model": lambda: rows("UPDATE endpoint_models SET max_tokens = 7 WHERE endpoint_id = %s", A),
    "deleted models": lambda: rows("DELETE FROM endpoint_models"),
    "new key": lambda: key_for(User.objects.get(username="ada"), INFERENCE, name="new"),
    "deleted key": lambda: rows("DELETE FROM api_keys WHERE name = 'ada'"),
    "all keys deleted": lambda: rows("DELETE FROM api_keys"),
    "expiry of a key": lambda: ApiKey.objects.filter(name="ada").update(expires_at=datetime(2027, 1, 1, tzinfo=UTC)),
    "permissions of a key": lambda: ApiKey.objects.filter(name="ada").update(permissions=[]),
    "another key in a row": lambda: ApiKey.objects.filter(name="ada").update(key_hash=hash_key("sk_another")),
    "owner of a key": lambda: ApiKey.objects.filter(name="ada").update(
        created_by=User.objects.get(username="grace").pk
    ),
    "role of a user": lambda: rows("UPDATE users SET role = 'viewer' WHERE username = 'ada'"),
    "tags of an endpoint": lambda: Endpoint.objects.get(pk=A).set_options(tags=["lab"]),
    "new model name": lambda: make_name("slow", "tiny"),
    "renamed model name": lambda: rows("UPDATE model_names SET name = 'faster*'"),
    "disabled model name": lambda: NamedModel.objects.update(enabled=False),
    "parameters of a model name": lambda: NamedModel.objects.update(defaults={"stop": ["a"]}),
    "conditions of a step": lambda: rows("UPDATE model_name_steps SET if_full_secs = 2.5"),
    "weight of a target": lambda: rows("UPDATE model_name_targets SET weight = 7"),
    "deleted targets": lambda: rows("DELETE FROM model_name_targets"),
    "deleted model name": lambda: NamedModel.objects.all().delete(),
    "limits of everyone": lambda: rows("UPDATE limits SET requests = 61 WHERE level = 'everyone'"),
    "limits of a user": lambda: limit(("user", str(User.objects.get(username="ada").pk)), requests=60),
    "no limits": lambda: rows("DELETE FROM limits"),
    "a budget": lambda: budget(period="month"),
    "amounts of budgets": lambda: rows("UPDATE budgets SET amount = amount + 1"),
    "no budgets": lambda: rows("DELETE FROM budgets"),
    "deleted user": lambda: User.objects.filter(username="ada").delete(),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def test_the_first_store_is_built_from_the_database(synchronise: Run, served: Stored) -> None:
    assert (served.names, len(served.keys), synchronise.generation) == (["a", "b"], 2, 1)
    assert served.state.database_id == database_id()


def test_without_a_change_nothing_is_written(synchronise: Run, served: Stored) -> None:
    assert synchronise() == served


@each_change
def test_what_changed_while_stopped_is_applied_alone(
    synchronise: Run, served: Stored, change: Callable[[], object]
) -> None:
    change()
    stored = synchronise()
    assert not stored.same_rows(served)
    assert (stored.state.version, synchronise.generation) == (served.state.version + 1, 1)


def test_a_health_check_while_stopped_is_not_in_the_log(synchronise: Run, served: Stored, config: Config) -> None:
    """Control compares all endpoints when it has read them."""
    rows("UPDATE endpoints SET status = 'online'")
    assert not RegistryChange.objects.exists()


def test_a_change_that_is_rolled_back_is_not_applied(synchronise: Run, served: Stored) -> None:
    with transaction.atomic():
        CHANGES["deleted key"]()
        transaction.set_rollback(True)
    assert synchronise() == served


def test_bulk_changes_are_applied_in_parts(synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log.read, "__defaults__", (100,))
    owner = User.objects.get(username="ada")
    ApiKey.objects.bulk_create(
        ApiKey(name=f"bulk {number}", key_hash=hash_key(f"sk_{number}"), created_by=owner, permissions=[INFERENCE])
        for number in range(1010)
    )
    assert len(synchronise().keys) == 1012
    ApiKey.objects.filter(name__startswith="bulk").update(permissions=[])
    synchronise()
    ApiKey.objects.filter(name__startswith="bulk").delete()
    assert synchronise().same_rows(served)
    assert synchronise.generation == 1


def test_a_log_that_takes_longer_than_the_tables_is_not_applied(
    synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synchronisation, "LONG_LOG", 10)
    for number in range(11):
        rows("UPDATE endpoints SET name = %s WHERE id = %s", f"a{number}", A)
    assert synchronise().names == ["a10", "b"]
    assert synchronise.generation == 2


@pytest.mark.parametrize(("log_rows", "keys"), [(10, 0), (11, 30)])
def test_a_log_that_is_shorter_is_applied(
    synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch, log_rows: int, keys: int
) -> None:
    owner = User.objects.get(username="ada")
    ApiKey.objects.bulk_create(
        ApiKey(name=f"{number}", key_hash=hash_key(f"sk_{number}"), created_by=owner, permissions=[])
        for number in range(keys)
    )
    synchronise()
    monkeypatch.setattr(synchronisation, "LONG_LOG", 10)
    for number in range(log_rows):
        rows("UPDATE endpoints SET name = %s WHERE id = %s", f"a{number}", A)
    assert synchronise().names == [f"a{log_rows - 1}", "b"]
    assert synchronise.generation == 1


def test_a_build_needs_no_memory_for_the_log(synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a million keys took 1 GiB. Only its ids are read, in parts."""
    triggers.remove()
    RegistryChange.objects.bulk_create(RegistryChange(kind="key", object_id="0" * 1000) for _ in range(3000))
    tracemalloc.start()
    try:
        synchronisation_before = tracemalloc.get_traced_memory()[0]
        synchronise()
        peak = tracemalloc.get_traced_memory()[1] - synchronisation_before
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


# A process that is killed, and a database that is another one


@pytest.fixture
def killed_before_the_database(synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the next synchronisation end when the store has the changes and its new token, and the database has not."""

    def run() -> None:
        def kill(*args: object, **options: object) -> bool:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(change_log, "forget", kill)
            with pytest.raises(Killed):
                synchronise()

    return run


@each_change
def test_rows_of_a_killed_process_are_applied_again(
    synchronise: Run, served: Stored, killed_before_the_database: Callable[[], None], change: Callable[[], object]
) -> None:
    change()
    killed_before_the_database()
    half = store.read(synchronise.config)
    assert half.state.previous_source == served.state.source == change_log.token()
    assert synchronise().same_rows(half)
    assert synchronise.generation == 1


def test_changes_after_a_kill_are_applied_too(
    synchronise: Run, served: Stored, killed_before_the_database: Callable[[], None]
) -> None:
    CHANGES["new key"]()
    killed_before_the_database()
    CHANGES["deleted key"]()
    CHANGES["deleted endpoint"]()
    assert synchronise().names == ["b"]


def test_a_store_that_was_built_by_a_killed_process_is_built_again(
    synchronise: Run, served: Stored, killed_before_the_database: Callable[[], None]
) -> None:
    triggers.remove()
    killed_before_the_database()
    CHANGES["deleted key"]()
    assert len(synchronise().keys) == 1


@pytest.mark.parametrize("changes_since", [1, 2, 3])
def test_a_restored_backup_is_noticed(synchronise: Run, served: Stored, changes_since: int) -> None:
    """The log of the backup is as empty as when it was made: it does not name what has changed since."""
    backup = transaction.savepoint()
    for change in ("new key", "name of an endpoint", "deleted models")[:changes_since]:
        CHANGES[change]()
        synchronise()
    transaction.savepoint_rollback(backup)
    stored = synchronise()
    assert stored.same_rows(served)
    assert stored.state.version > served.state.version


def test_a_backup_that_was_restored_and_changed_is_noticed(synchronise: Run, served: Stored) -> None:
    backup = transaction.savepoint()
    CHANGES["new key"]()
    synchronise()
    transaction.savepoint_rollback(backup)
    CHANGES["deleted endpoint"]()
    assert len(synchronise().keys) == 2


def test_the_store_of_another_database_is_built_anew(synchronise: Run, served: Stored) -> None:
    Installation.objects.update(database_id="another")
    assert synchronise().state.database_id == "another"
    assert synchronise.generation == 2


def test_a_missing_trigger_lets_the_store_be_built_anew(synchronise: Run, served: Stored) -> None:
    triggers.remove()
    CHANGES["deleted key"]()
    CHANGES["name of an endpoint"]()
    assert synchronise().names == ["b", "renamed"]
    assert (synchronise.generation, triggers.present()) == (2, True)


def test_a_lost_store_is_built_anew(synchronise: Run, served: Stored, page: LivePage) -> None:
    for path in store.file_of(synchronise.config).parent.iterdir():
        path.unlink()
    stored = synchronise()
    assert stored.same_rows(served)
    assert stored.state.version > served.state.version


def test_a_long_build_logs_its_progress(
    synchronise: Run, served: Stored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(synchronisation, "REPORTED", 2)
    triggers.remove()
    with caplog.at_level("INFO"):
        synchronise()
    assert "building the registry store: 2 API keys so far" in caplog.messages
    assert "building the registry store: 2 limits so far" in caplog.messages


@pytest.mark.parametrize("table", ["meta", "endpoints"])
def test_a_store_with_damaged_rows_is_built_anew(synchronise: Run, served: Stored, table: str) -> None:
    CHANGES["name of an endpoint"]()
    store.damage_rows(synchronise.config, table)
    assert synchronise().names == ["b", "renamed"]
    assert synchronise.generation == 2


def test_a_damaged_row_of_a_key_that_changes_lets_the_store_be_built_anew(synchronise: Run, served: Stored) -> None:
    store.damage_rows(synchronise.config, "keys")
    CHANGES["permissions of a key"]()
    assert len(synchronise().keys) == 2


def test_a_file_that_is_no_database_is_replaced(synchronise: Run, served: Stored) -> None:
    path = store.file_of(synchronise.config)
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
    path.write_bytes(b"this is no database " * 1000)
    assert synchronise().same_rows(served)


def test_a_failed_build_leaves_the_old_store(
    synchronise: Run, served: Stored, page: LivePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    triggers.remove()
    with closing(RegistryWriter(synchronise.config.registry_dir, page)) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(sources, "read_users", _full_disk)
            with pytest.raises(sqlite3.OperationalError):
                synchronisation.synchronise(writer, synchronise.config.data_dir)
        assert writer.is_usable
    assert store.read(synchronise.config) == served
    assert [path.name for path in synchronise.config.registry_dir.iterdir() if path.is_dir()] == ["1"]
    assert synchronise().same_rows(served)


def _full_disk() -> list[PublishedKey]:
    raise sqlite3.OperationalError("database or disk is full")


# The snapshot of an earlier release


def snapshot(config: Config) -> Path:
    """Write the snapshot of an earlier release."""
    path = config.data_dir / old_snapshot.FILE
    endpoint = PublishedEndpoint(id=A, slot=3, name="old", base_url="http://a.invalid", kind="vllm", status="online")
    keys = tuple(PublishedKey(str(number), hash_key(f"sk_{number}"), (INFERENCE,)) for number in range(3))
    path.write_bytes(
        msgspec.msgpack.encode(
            old_snapshot.Snapshot(version=9, database_id="old", endpoints=(endpoint,), api_keys=keys)
        )
    )
    return path


def test_an_old_snapshot_is_deleted_by_the_first_synchronisation(synchronise: Run, config: Config) -> None:
    path = snapshot(config)
    add_endpoint(A, "a")
    assert synchronise().names == ["a"]
    assert not path.exists()


def test_without_the_database_the_store_is_built_from_an_old_snapshot(
    synchronise: Run, config: Config, page: LivePage
) -> None:
    path = snapshot(config)
    with closing(RegistryWriter(config.registry_dir, page)) as writer:
        assert synchronisation.serve_without_database(writer, config.data_dir)
        stored = store.read(config)
        assert (stored.names, stored.slots, len(stored.keys)) == (["old"], {A: 3}, 3)
        assert (stored.state.database_id, stored.state.source) == ("old", None)
        assert path.exists()  # until the database is read
        assert synchronisation.serve_without_database(writer, config.data_dir)
    add_endpoint(A, "a")
    assert synchronise().names == ["a"]
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_without_database_store_and_snapshot_there_is_nothing_to_serve(
    config: Config, page: LivePage, content: bytes | None
) -> None:
    if content is not None:
        (config.data_dir / old_snapshot.FILE).write_bytes(content)
    with closing(RegistryWriter(config.registry_dir, page)) as writer:
        assert not synchronisation.serve_without_database(writer, config.data_dir)


@pytest.mark.django_db(transaction=True)
def test_without_the_database_the_store_stays(synchronise: Run, served: Stored, page: LivePage) -> None:
    with without("users"), closing(RegistryWriter(synchronise.config.registry_dir, page)) as writer:
        assert synchronisation.serve_without_database(writer, synchronise.config.data_dir)
    assert store.read(synchronise.config) == served
