"""The triggers of the change log exist after each start, whatever dropped or changed them."""

import threading
from collections.abc import Callable

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from endpoints.changes import log, triggers
from endpoints.changes.models import RegistryPosition
from endpoints.models import Endpoint
from tests.endpoints.changes.conftest import changes, of
from tests.endpoints.conftest import make_endpoint, meanwhile, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

TRIGGER = "routerdash_endpoints_update"


def drop() -> None:
    sql(f"DROP TRIGGER {TRIGGER}" + (" ON endpoints" if connection.vendor == "postgresql" else ""))


def weaken() -> None:
    """Replace a trigger with one of the same name that logs less."""
    drop()
    if connection.vendor == "postgresql":
        sql(
            f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF notes ON endpoints FOR EACH ROW "
            "EXECUTE FUNCTION routerdash_endpoints()"
        )
    else:
        sql(f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF notes ON endpoints BEGIN SELECT 1; END")


def replace_function() -> None:
    sql(
        "CREATE OR REPLACE FUNCTION routerdash_endpoints() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )


def narrow_in_place() -> None:
    """Keep the trigger's comment: this is how a later statement of the same name replaces it."""
    sql(
        f"CREATE OR REPLACE TRIGGER {TRIGGER} AFTER UPDATE OF notes ON endpoints FOR EACH ROW "
        "EXECUTE FUNCTION routerdash_endpoints()"
    )


def disable() -> None:
    sql(f"ALTER TABLE endpoints DISABLE TRIGGER {TRIGGER}")


def copy_table() -> None:
    """Rebuild a table as migrations on SQLite do."""
    ((declaration,),) = sql("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'endpoints'")
    sql(declaration.replace('"endpoints"', "copied", 1))
    sql("DROP TABLE endpoints")
    sql("ALTER TABLE copied RENAME TO endpoints")


def test_triggers_are_created_once() -> None:
    assert not triggers.present()
    assert triggers.ensure() is False
    assert triggers.present()
    assert triggers.ensure() is True


@pytest.mark.parametrize(
    ("damage", "vendor"),
    [
        (drop, ""),
        (weaken, ""),
        (replace_function, "postgresql"),
        (narrow_in_place, "postgresql"),
        (disable, "postgresql"),
        (copy_table, "sqlite"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_damaged_trigger_is_created_again(damage: Callable[[], None], vendor: str) -> None:
    if vendor and connection.vendor != vendor:
        pytest.skip(f"only on {vendor}")
    triggers.ensure()
    damage()
    assert not triggers.present()
    assert triggers.ensure() is False
    endpoint = make_endpoint()
    changes()
    Endpoint.objects.update(base_url="http://other")
    assert changes() == of(endpoint)
    assert triggers.ensure() is True


def test_a_gap_in_the_log_forgets_the_position() -> None:
    """No state that was read before can be completed from this log."""
    triggers.ensure()
    assert log.forget(log.read().ranges, token_before=None, token="first")
    assert triggers.ensure() is True
    assert log.token() == "first"
    drop()
    assert triggers.ensure() is False
    assert log.token() is None


def test_a_trigger_of_another_release_is_dropped() -> None:
    triggers.ensure()
    if connection.vendor == "postgresql":
        sql(
            "CREATE TRIGGER routerdash_old AFTER INSERT ON api_keys REFERENCING NEW TABLE AS changed_rows "
            "FOR EACH STATEMENT EXECUTE FUNCTION routerdash_api_keys()"
        )
    else:
        sql("CREATE TRIGGER routerdash_old AFTER INSERT ON api_keys BEGIN SELECT 1; END")
    assert triggers.ensure() is False
    assert triggers.ensure() is True


def test_triggers_of_other_programs_stay() -> None:
    triggers.ensure()
    if connection.vendor == "postgresql":
        sql(
            "CREATE TRIGGER theirs AFTER DELETE ON api_keys REFERENCING OLD TABLE AS changed_rows "
            "FOR EACH STATEMENT EXECUTE FUNCTION routerdash_api_keys()"
        )
        stored = "SELECT 1 FROM pg_trigger WHERE tgname = 'theirs'"
    else:
        sql("CREATE TRIGGER theirs AFTER INSERT ON api_keys BEGIN SELECT 1; END")
        stored = "SELECT 1 FROM sqlite_master WHERE name = 'theirs'"
    assert triggers.ensure() is True
    triggers.remove()
    assert sql(stored) == [(1,)]


def test_no_trigger_is_created_without_a_log() -> None:
    """With one, every edit would fail."""
    with transaction.atomic():
        sql("DROP TABLE registry_changes")
        with pytest.raises(DatabaseError), transaction.atomic():
            triggers.ensure()
        transaction.set_rollback(True)
    assert triggers.ensure() is False


@pytest.mark.django_db(transaction=True)
def test_two_processes_may_start_at_once() -> None:
    together, outcomes = threading.Barrier(3), []

    def ensure() -> None:
        together.wait()
        outcomes.append(triggers.ensure())

    threads = [threading.Thread(target=meanwhile, args=(ensure,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert sorted(outcomes) == [False, True, True]
        assert triggers.present()
    finally:
        triggers.remove()


@pytest.mark.django_db(transaction=True)
def test_a_reversed_migration_takes_the_triggers_with_it() -> None:
    triggers.ensure()
    executor = MigrationExecutor(connection)
    latest = executor.loader.graph.leaf_nodes()  # other apps depend on it
    try:
        executor.migrate([("endpoints", "0005_tags")])
        make_endpoint()
        assert "registry_changes" not in connection.introspection.table_names()
    finally:
        MigrationExecutor(connection).migrate(latest)
    assert triggers.ensure() is False
    triggers.remove()
    assert not RegistryPosition.objects.exists()
