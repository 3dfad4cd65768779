"""The audit finds and mends what the change log does not have."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import pytest

from access.models import INFERENCE, ApiKey, hash_key
from endpoints.changes import triggers
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.base.config import Config
from routerdash.publication import audit as audit_module
from routerdash.publication import limit_audit as limit_audit_module
from routerdash.publication.audit import Audit
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.publisher import Publisher
from tests.access.limits.made import budget, limit
from tests.access.people import key_for, make_admin
from tests.endpoints.model_names.made import make_name
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint, rows
from tests.routerdash.publication import store

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@pytest.fixture
def audit(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit that is always due, of a store with two endpoints and a key, and no triggers from now on."""
    monkeypatch.setattr(audit_module, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(audit_module, "PASS_SECONDS", 0.0)
    for endpoint_id, name in ((A, "a"), (B, "b")):
        EndpointModel(endpoint=add_endpoint(endpoint_id, name), model_id="tiny").save(force_insert=True)
    key_for(make_admin(), INFERENCE)
    make_name("fast", "tiny")
    limit(requests=60)
    limit(("key", "1"), requests=60)
    ChangeFollower(publisher).follow()
    triggers.remove()
    return Audit(publisher)


def run(audit: Audit, slices: int = 3) -> None:
    for _ in range(slices):
        audit.run_slice()


BEHIND_THE_TRIGGERS: dict[str, Callable[[], object]] = {
    "key deleted": lambda: rows("DELETE FROM api_keys"),
    "key changed": lambda: ApiKey.objects.update(permissions=[]),
    "key disabled": lambda: ApiKey.objects.update(enabled=False),
    "key restricted": lambda: ApiKey.objects.update(rules={"models": ["a"]}),
    "key added": lambda: key_for(ApiKey.objects.get().created_by, name="new"),
    "endpoint renamed": lambda: rows("UPDATE endpoints SET name = 'renamed' WHERE id = %s", A),
    "endpoint deleted": lambda: Endpoint.objects.filter(pk=A).delete(),
    "model name added": lambda: make_name("slow", "tiny"),
    "model name renamed": lambda: rows("UPDATE model_names SET name = 'faster'"),
    "model name deleted": lambda: rows("DELETE FROM model_name_targets"),
    "limits added": lambda: limit(("user", "1"), requests=60),
    "limits changed": lambda: rows("UPDATE limits SET concurrency = 4 WHERE level = 'key'"),
    "limits deleted": lambda: rows("DELETE FROM limits WHERE level = 'everyone'"),
    "budget added": lambda: budget(("user", "1")),
    "model deleted": lambda: rows("DELETE FROM endpoint_models WHERE endpoint_id = %s", A),
    "model added": lambda: EndpointModel(endpoint_id=A, model_id="new").save(force_insert=True),
}


@pytest.mark.parametrize("change", BEHIND_THE_TRIGGERS.values(), ids=BEHIND_THE_TRIGGERS)
def test_a_change_behind_the_triggers_is_found_and_mended(
    audit: Audit, config: Config, change: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    before = store.read(config)
    change()
    run(audit)
    assert not store.assert_is_as_the_database(config).same_rows(before)
    assert audit.differences == 1
    assert "differed between the database and what gateways use" in caplog.text
    run(audit)
    assert audit.differences == 1


def test_equal_states_are_no_difference(audit: Audit, config: Config) -> None:
    before = store.read(config)
    run(audit, 5)
    assert (audit.differences, store.read(config)) == (0, before)


def test_a_rotated_key_is_no_difference(publisher: Publisher, audit: Audit, config: Config) -> None:
    triggers.ensure()
    ApiKey.objects.get().rotate(timedelta(days=1))
    ChangeFollower(publisher).follow()
    before = store.assert_is_as_the_database(config)
    run(audit, 5)
    assert (audit.differences, store.read(config)) == (0, before)


def test_a_change_that_the_log_has_is_no_difference(audit: Audit, publisher: Publisher, config: Config) -> None:
    triggers.ensure()
    publisher.synchronise()
    rows("DELETE FROM api_keys")
    rows("UPDATE endpoints SET name = 'renamed' WHERE id = %s", A)
    run(audit, 1)
    ChangeFollower(publisher).follow()
    run(audit, 4)
    assert (audit.differences, store.assert_is_as_the_database(config).names) == (0, ["b", "renamed"])


def test_a_lost_row_of_the_store_is_mended(audit: Audit, config: Config) -> None:
    with closing(sqlite3.connect(store.file_of(config))) as database, database:
        for table in ("endpoints", "models", "keys", "model_names", "limits"):
            database.execute(f"DELETE FROM {table}")
    run(audit)
    stored = store.assert_is_as_the_database(config)
    assert (stored.names, len(stored.keys)) == (["a", "b"], 1)
    assert audit.differences > 0


def test_keys_are_compared_in_slices(
    audit: Audit, publisher: Publisher, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    triggers.ensure()
    owner = ApiKey.objects.get().created_by
    ApiKey.objects.bulk_create(
        ApiKey(name=f"{number}", key_hash=hash_key(f"sk_{number}"), created_by=owner, permissions=[INFERENCE])
        for number in range(34)
    )
    publisher.synchronise()
    triggers.remove()
    monkeypatch.setattr(audit_module, "KEYS_AT_ONCE", 10)
    hashes = sorted(ApiKey.objects.values_list("key_hash", flat=True))
    gone = [hashes[0], hashes[9], hashes[10], hashes[22], hashes[34]]  # first, last, and beside the ends of slices
    ApiKey.objects.filter(key_hash__in=gone).delete()
    ApiKey.objects.filter(key_hash=hashes[15]).update(permissions=[])
    run(audit, 6)
    assert len(store.assert_is_as_the_database(config).keys) == 30
    assert audit.differences == 6


def test_a_malformed_hash_is_no_difference(audit: Audit) -> None:
    ApiKey.objects.update(key_hash="no hash")
    run(audit)
    assert audit.differences == 1  # the hash before
    run(audit, 4)
    assert audit.differences == 1


def test_a_latency_that_the_registry_keeps_is_no_difference(audit: Audit) -> None:
    rows("UPDATE endpoints SET latency_ms = 120")
    registry.reload()
    rows("UPDATE endpoints SET latency_ms = NULL")
    run(audit, 5)
    assert audit.differences == 0


def test_an_audit_rests_between_slices_and_passes(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "PASS_SECONDS", 1000.0)
    run(audit)
    rows("DELETE FROM api_keys")
    run(audit)
    assert audit.differences == 0


def test_limits_are_compared_in_slices(audit: Audit, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_audit_module, "SUBJECTS_AT_ONCE", 3)
    for number in range(10, 20):
        limit(("key", str(number)), requests=60)
    budget(("user", "3"))
    rows("DELETE FROM limits WHERE subject_id = '1'")
    run(audit, 8)
    assert len(store.assert_is_as_the_database(config).limits) == 12
    assert audit.differences == 12
